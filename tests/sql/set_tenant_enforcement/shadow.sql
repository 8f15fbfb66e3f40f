-- In shadow mode a tenant is counted past its limit and never paused; enforcing again is decided by the count.
begin;
select plan(41);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 2);
select use_units('acme', 2);
select pause_run('acme', 'r');
select is((stepquota.reserve_workflow_step('acme')).allowed, false, 'enforced, the third step is refused');
select is((select array[allowed::text, used_count::text, effective_limit::text, remaining::text] from stepquota.set_tenant_enforcement('acme', 'shadow')),
  array['true', '2', '2', '0'], 'in shadow mode it would be allowed, and the limit is still shown');
select is(run_state('acme', 'r'), 'RUNNING at root.steps[0]', 'the paused run goes on at once');
select is((select details ->> 'by' from stepquota.quota_events where event_type = 'run_resumed'), 'enforcement', 'and its record says why');
select set_clock('2026-04-15T12:01:00Z');
select is((select array[outcome, allowed::text, used_count::text, remaining::text] from stepquota.start_workflow_step('acme', 'r', 'root.steps[0]')),
  array['started', 'true', '3', '0'], 'a step past the limit starts');
select is((select array[used_count, effective_limit] from stepquota.workflow_run_shadow_pauses where run_id = 'r'), array[3, 2]::bigint[], 'it is recorded that the run would have been paused');
select is((select would_pause_at from stepquota.workflow_run_shadow_pauses where run_id = 'r'), '2026-04-15T12:01:00Z'::timestamptz, 'and when');
select set_clock('2026-04-15T12:02:00Z');
select is((stepquota.start_workflow_step('acme', 'r', 'root.steps[1]')).used_count, 4::bigint, 'its next step');
select is((select array_agg(would_pause_at) from stepquota.workflow_run_shadow_pauses), array['2026-04-15T12:01:00Z'::timestamptz], 'changes nothing of that');
select is((stepquota.reserve_workflow_step('acme')).allowed, true, 'a single unit is granted');
select is((select array[granted, used_count, remaining] from stepquota.reserve_workflow_steps('acme', 10)), array[10, 15, 0]::bigint[], 'so are many');
select is((select granted from stepquota.open_workflow_step_batch('acme', '00000000-0000-0000-0000-00000000000a', 3, 'me')), 3::bigint, 'and a batch of a process');
select is((select returned_count from stepquota.close_workflow_step_batch('acme', '00000000-0000-0000-0000-00000000000a', 1)), 2::bigint, 'which gives back what it did not use');
select (stepquota.register_workflow_run('acme', 'many')).status;
select is((select array_agg(outcome) from stepquota.start_workflow_steps('acme', 'many', array['a', 'b'])), array['started', 'started'], 'a whole forEach starts');
select is((select array_agg(run_id order by run_id) from stepquota.workflow_run_shadow_pauses), array['many', 'r'], 'each run has its row');
select is(count_events('acme', 'quota_exceeded_in_shadow'), 1::bigint, 'one event a period');
select is((select details ->> 'used_count' from stepquota.quota_events where event_type = 'quota_exceeded_in_shadow'), '3', 'of the first');
select is((select array_agg(reason) from stepquota.explain_workflow_step_quota('acme') where object_type = 'tenant'),
  array['Shadow mode, by the tenant''s own setting: steps past the limit are counted and recorded, and none is refused.'], 'the explanation says so');
select is((select array[allowed::text, used_count::text, remaining::text] from stepquota.resolve_workflow_step_quota('acme')), array['true', '18', '0'], 'so does the summary');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds in shadow mode');
select is((select changed from stepquota.repair_workflow_step_usage('acme', '2026-04-01Z', false)), false, 'there is nothing to repair in it');
update stepquota.workflow_step_usage_lanes set used_count = used_count + 1;
select is((select used_count_after from stepquota.repair_workflow_step_usage('acme', '2026-04-01Z', false)), 18::bigint, 'a wrong counter is repaired');
select isnt((stepquota.import_workflow_step_usage('acme', '2026-04-01Z', 1, 'from before')).adjustment_id, null, 'usage of before is taken over');
select is((stepquota.import_workflow_step_usage('acme', '2026-04-01Z', 0, 'not so')).used_count_after, 18::bigint, 'and given back');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds after that');
select is((select array[limit_, used] from (select effective_limit, used_count from stepquota.set_tenant_plan('acme', 'tier of acme')) s (limit_, used)), array[2, 18]::bigint[], 'setting the plan again changes nothing');

-- Enforced again.
select is((select array[allowed::text, used_count::text, remaining::text] from stepquota.set_tenant_enforcement('acme', 'enforce')), array['false', '18', '0'], 'enforced again, nothing is free');
select is((stepquota.reserve_workflow_step('acme')).allowed, false, 'the first call after it is refused');
select is((stepquota.start_workflow_step('acme', 'many', 'c')).outcome, 'quota_paused', 'the next step pauses its run');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select is(give_limit('acme', 19), 19::bigint, 'with a limit above what is used');
select is((stepquota.start_workflow_step('acme', 'many', 'c')).used_count, 19::bigint, 'one unit is free');
select is((stepquota.reserve_workflow_step('acme')).allowed, false, 'and no more');
select is((select array_agg(array[details ->> 'from', details ->> 'to'] order by event_id) from stepquota.quota_events where event_type = 'enforcement_changed'),
  array[array[null, 'shadow'], array['shadow', 'enforce']], 'both changes are recorded');
select is((stepquota.set_tenant_enforcement('acme', null)).allowed, false, 'NULL is as policy says, which enforces');
select is((select value from stepquota.set_policy('enforcement', 'shadow')), 'shadow', 'policy says shadow');
select is((stepquota.reserve_workflow_step('acme')).allowed, true, 'then this tenant is in shadow mode');
select is((stepquota.set_tenant_enforcement('acme', 'enforce')).allowed, false, 'unless it says otherwise itself');
select is((select changed from stepquota.set_policy('enforcement', 'enforce')), true, 'back');
select is((select limit_source from stepquota.resolve_workflow_step_quota('acme')), 'tier_default', 'its limit was never touched');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
