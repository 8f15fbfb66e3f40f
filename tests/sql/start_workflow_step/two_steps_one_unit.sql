-- A run of two steps with one unit: paused at the second, one wait, one ledger row, no failure.
begin;
select plan(20);
select set_clock('2026-04-15Z');
select give_limit('acme', 1);
select (stepquota.register_workflow_run('acme', 'r')).status;
select is((select array[s.outcome, s.step_status, s.allowed::text, s.used_count::text, s.remaining::text] from stepquota.start_workflow_step('acme', 'r', 'root.steps[0]') s),
  array['started', 'STARTED', 'true', '1', '0'], 'the first step starts');
select is((stepquota.finish_workflow_step('acme', 'r', 'root.steps[0]', 1, 'SUCCEEDED')).status, 'SUCCEEDED', 'and finishes');
create temp table paused as select * from stepquota.start_workflow_step('acme', 'r', 'root.steps[1]');
select is((select array[outcome, step_status, allowed::text, used_count::text, effective_limit::text, remaining::text, period_source, limit_source, tier] from paused),
  array['quota_paused', null, 'false', '1', '1', '0', 'fallback_calendar', 'tier_default', 'tier of acme'], 'the second is paused');
select is((select step_id from paused), null, 'without a ledger row');
select is(run_state('acme', 'r'), 'WAITING at root.steps[1]', 'the run waits where it stands');
select results_eq(
  $$select wait_id, node_path, node_paths, wait_type, status, reason, due_at from stepquota.workflow_run_waits$$,
  $$select wait_id, 'root.steps[1]'::text, array['root.steps[1]'], 'quota'::text, 'WAITING'::text, 'quota'::text, null::timestamptz from paused$$, 'one open quota wait');
select is((select array_agg(node_path || ' ' || status) from stepquota.workflow_run_steps), array['root.steps[0] SUCCEEDED'], 'exactly one ledger row');
select is((select error from stepquota.workflow_runs), null, 'no failure');
select is((select due_at from stepquota.paused_tenants where tenant = 'acme'), '2026-05-01Z'::timestamptz, 'the tenant is paused until the period''s end');

select set_clock('2026-04-16Z');
select is((select array[s.outcome, s.wait_id::text] from stepquota.start_workflow_step('acme', 'r', 'root.steps[1]') s),
  (select array['quota_paused', wait_id::text] from paused), 'asking again answers the same wait');
select is((select count(*) from stepquota.workflow_run_waits), 1::bigint, 'and opens no other');
select is(used('acme'), 1::bigint, 'and counts nothing');
select is((select created_at from stepquota.workflow_run_waits), '2026-04-15Z'::timestamptz, 'since the first time');
select is(count_events('acme', 'run_paused'), 1::bigint, 'recorded once');
select is(count_events('acme', 'quota_exhausted'), 1::bigint, 'as is the exhaustion');

-- The same attempt again: the ledger answers, whatever the quota says.
create temp table again as select * from stepquota.start_workflow_step('acme', 'r', 'root.steps[0]');
select is((select array[outcome, step_status, allowed::text] from again), array['already_finished', 'SUCCEEDED', 'true'], 'a finished attempt is not to be executed again');
select is((select step_id from again), (select step_id from stepquota.workflow_run_steps), 'it has the same step_id');
select is((select array[used_count, effective_limit] from again), array[1, 1]::bigint[], 'and the figures of now');
select is(run_state('acme', 'r'), 'WAITING at root.steps[1]', 'asking moves nothing');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
