-- Granted units raise the limit at once, show where quotas are shown, and end with their period.
begin;
select plan(29);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 2);
select use_units('acme', 2);
select pause_run('acme', 'r'), pause_run('acme', 's');
select is((select array[tenant, units::text, spent_units::text, period_start::text, expires_at::text, reason, granted_by, granted_at::text, grant_key]
   from stepquota.grant_workflow_steps('acme', 3, 'sorry for the outage')),
  array['acme', '3', '0', '2026-04-01 00:00:00+00', null, 'sorry for the outage', session_user::text, '2026-04-15 12:00:00+00', null], 'a courtesy until the end of the period');
select is(run_state('acme', 'r') || ', ' || run_state('acme', 's'), 'RUNNING at root.steps[0], RUNNING at root.steps[0]', 'paused runs go on in the same transaction');
select is((select array_agg(distinct details ->> 'by') from stepquota.quota_events where event_type = 'run_resumed'), array['grant'], 'and their record says why');
select is((select array[used_count, effective_limit, remaining, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[2, 5, 3, 3]::bigint[], 'the summary shows it');
select is((select array[object_id is not null, verdict = 'used'] from stepquota.explain_workflow_step_quota('acme') where object_type = 'grant'), array[true, true], 'so does the explanation');
select is((select reason from stepquota.explain_workflow_step_quota('acme') where object_type = 'grant'),
  format('3 of 3 steps on top of the limit, given by %s until the end of the period: sorry for the outage', session_user), 'with who and why');
select is((select array[outcome, effective_limit::text, granted_units::text] from stepquota.start_workflow_step('acme', 'r', 'root.steps[0]')), array['started', '5', '3'], 'a start takes one');
select is((select granted from stepquota.reserve_workflow_steps('acme', 9, true)), 2::bigint, 'others the rest, and no more');
select is(count_events('acme', 'steps_granted'), 1::bigint, 'it is recorded');

-- A bought pack with a key and an end of its own.
create temp table pack as select * from stepquota.grant_workflow_steps('acme', 10, 'pack of 10', '2026-06-15Z', 'pay_1');
select is((select expires_at from pack), '2026-06-15Z'::timestamptz, 'a pack until the middle of June');
select is((select grant_id from stepquota.grant_workflow_steps('acme', 10, 'pack of 10', '2026-06-15Z', 'pay_1')), (select grant_id from pack), 'the same key answers the same grant');
select is((select array[effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[15, 13]::bigint[], 'and gives nothing more');
select is((select count(*) from stepquota.workflow_step_grants), 2::bigint, 'two grants');
select isnt((stepquota.grant_workflow_steps('other', 1, 'another tenant''s', null, 'pay_1')).grant_id, (select grant_id from pack), 'another tenant has keys of its own');
select is((select granted from stepquota.reserve_workflow_steps('acme', 4)), 4::bigint, 'four of it are used: nine in all, two of the limit, three of the courtesy');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

-- The next periods.
select set_clock('2026-05-01T00:00:00Z');
select is((select array[used_count, effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[0, 8, 6]::bigint[], 'what is left of the pack goes along');
select is((select array_agg(array[units, spent_units] order by units) from stepquota.workflow_step_grants where tenant = 'acme'), array[array[3, 3], array[10, 4]]::bigint[], 'each unit was charged once');
select is((select closed_because from stepquota.workflow_step_grants where units = 3), 'expired', 'the courtesy ended with its period');
select is((select granted from stepquota.reserve_workflow_steps('acme', 3)), 3::bigint, 'two of the limit and one of the pack');
select is((select valid_until from stepquota.workflow_step_quotas where tenant = 'acme'), '2026-06-01Z'::timestamptz, 'the stored quota is good until the period''s end');
select set_clock('2026-06-01T00:00:00Z');
select is((select array[used_count, effective_limit] from stepquota.resolve_workflow_step_quota('acme')), array[0, 7]::bigint[], 'five of the pack are left in June');
select is((select valid_until from stepquota.workflow_step_quotas where tenant = 'acme'), '2026-06-15Z'::timestamptz, 'and the quota is good until the pack expires');
select is((select granted from stepquota.reserve_workflow_steps('acme', 4)), 4::bigint, 'two of the limit and two of the pack');
select set_clock('2026-06-15T00:00:00Z');
select is((select array[allowed::text, used_count::text, effective_limit::text] from stepquota.reserve_workflow_step('acme')), array['false', '4', '4'], 'expired: what was used of it stays used, the rest is gone');
select is((select array[spent_units, units] from stepquota.workflow_step_grants where units = 10 and tenant = 'acme'), array[7, 10]::bigint[], 'seven were used in all');
select set_clock('2026-07-01T00:00:00Z');
select is((select array[effective_limit, granted_units] from stepquota.resolve_workflow_step_quota('acme')), array[2, 0]::bigint[], 'in July only the limit is left');
select is((select array_agg(details ->> 'spent_units' order by event_id) from stepquota.quota_events where event_type = 'grant_ended' and tenant = 'acme'), array['3', '7'], 'their ends are recorded');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
