-- What looks odd and is right: a limit lowered while another period was the current one.
begin;
select plan(3);
select set_clock('2026-04-05Z');
select give_limit('acme', 5), use_units('acme', 4);
select subscribe('acme', '"100"', p_start => '2026-04-10Z', p_end => '2026-05-10Z');
select set_clock('2026-04-12Z');
select matches(quota_of('acme'), '^2026-04-10.* 100 ', 'a subscription begins');
select changed from stepquota.set_tier_limit('tier of acme', 3);
select quota_of('acme');
select subscribe('acme', '"100"', p_status => 'canceled', p_start => '2026-04-10Z', p_end => '2026-05-10Z');
select is((select array[q.period_source, q.used_count::text, q.effective_limit::text, q.remaining::text] from stepquota.resolve_workflow_step_quota('acme') q), array['fallback_calendar', '4', '3', '0'], 'and ends: April again, with the lower limit');
select is_empty('select * from stepquota.verify_all()', 'which is no violation');
select * from finish();
rollback;
