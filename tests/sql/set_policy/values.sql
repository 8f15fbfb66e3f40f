-- Each policy is set from text, audited, and refused where it does not fit; the clock and the epoch are
-- not an operator's.
begin;
create temp table policies (name text, value text, bad text);
insert into policies values
  ('default_tier', 'pro', 'gold'), ('staleness', '00:01:00', '0'), ('renewal_grace', '24:00:00', '-1 hour'),
  ('trial_renewal_grace', '01:00:00', 'soon'), ('zero_limit_blocks', 'true', 'perhaps'), ('tenant_metadata_key', 'org', ''),
  ('at_once_tenants', '5', '0'), ('at_once_runs', '5', '99999999999'), ('scan_seconds', '10', '3601'),
  ('resumption_counts_for', '00:10:00', '0 seconds'), ('stuck_after_deliveries', '3', '1.5'), ('usage_on_moved_period', 'reset', 'keep'), ('usage_on_other_period', 'carry', ''), ('notify_resumptions', 'false', ''),
  ('enforcement', 'shadow', 'off'), ('batch_open_for', '00:02:00', '0'), ('closed_batches_kept_for', '1 day', '-1 day'),
  ('alert_percents', '{75,100}', '{0,50}'),
  ('past_due_qualifies', 'false', 'never'), ('pause_collection_qualifies', 'false', ''), ('stripe_event_attempts', '3', '0'), ('stripe_events_kept_for', '40 days', '30 days'),
  ('reconcile_every', '12:00:00', '0'), ('maintenance_seconds', '5', '0'), ('ended_runs_kept_for', '30 days', '1 hour'),
  ('logs_kept_for', '30 days', '1 hour'), ('events_kept_for', '30 days', '1 hour'), ('unclaimed_events_kept_for', '60 days', '1 day'),
  ('scans_kept_for', '7 days', '1 hour'), ('cron_history_kept_for', '2 days', '1 hour'),
  ('metrics_tenants', '5', '1001');
select plan((select 3 * count(*)::integer + 13 from policies));
select set_clock('2026-04-15Z');
select set_eq($$select attname::text from pg_attribute where attrelid = 'stepquota.policy'::regclass and attnum > 0 and attname not in ('only_row', 'epoch', 'confirmed_from', 'confirmed_until', 'allow_test_clock', 'bound_roles')$$,
  'select name from policies', 'every policy is tested here');
select refuses(format($$select * from stepquota.set_policy(%L, %L)$$, p.name, p.bad), case when p.name = 'default_tier' then 'WQ001' else 'WQ015' end, format('%s is not %L', p.name, p.bad)) from policies p;
select refuses(format($$select * from stepquota.set_policy('alert_percents', %L)$$, v), 'WQ015', v || ' are no percents') from unnest(array['{NULL}', '{1001}', '50', '{{1,2},{3,x}}']) v;
select ok((select s.changed and s.value = p.value and s.name = p.name from stepquota.set_policy(p.name, p.value) s), format('%s is %s', p.name, p.value)) from policies p;
select ok((select not s.changed and s.previous_value = p.value from stepquota.set_policy(p.name, p.value) s), format('%s was %s', p.name, p.value)) from policies p;
select is((select count(*) from stepquota.quota_events where event_type = 'policy_changed'), (select count(*) from policies), 'one event a change');
select refuses(format($$select * from stepquota.set_policy(%L, 'true')$$, n), 'WQ014', coalesce(n, 'NULL') || ' is no policy') from unnest(array['allow_test_clock', 'epoch', 'confirmed_until', 'only_row', 'bound_roles', 'nonsense', null]) n;
select * from finish();
rollback;
