-- A held run's branches may finish; its next start answers held, whatever quota says; the reasons stack.
begin;
select plan(32);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 3);
select (stepquota.register_workflow_run('acme', 'r')).status;
select (stepquota.start_workflow_step('acme', 'r', 'a')).outcome;
select is((select array[status, held_at::text, held_by, held_because] from stepquota.hold_workflow_run('acme', 'r', 'ticket 1')),
  array['RUNNING', '2026-04-15 12:00:00+00', session_user::text, 'ticket 1'], 'a run is held while a branch works');
select set_clock('2026-04-15T12:01:00Z');
select is((select array[held_at::text, held_because] from stepquota.hold_workflow_run('acme', 'r', 'ticket 2')),
  array['2026-04-15 12:00:00+00', 'ticket 1'], 'held again it stays as it is');
select is(count_events('acme', 'run_held'), 1::bigint, 'and nothing is recorded');
select is_empty($$select * from stepquota.workflow_run_quota_pause('acme', 'r')$$, 'it is not paused yet');
select is((select array[outcome, allowed::text, used_count::text, (step_id is null)::text] from stepquota.start_workflow_step('acme', 'r', 'b')),
  array['held', 'false', '1', 'true'], 'the next start answers held');
select is(run_state('acme', 'r'), 'RUNNING at b', 'the branch goes on');
select is((stepquota.start_workflow_step('acme', 'r', 'a')).outcome, 'already_started', 'what has started is answered as such');
select is((stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED')).status, 'SUCCEEDED', 'and may finish');
select is(run_state('acme', 'r'), 'WAITING at b', 'then the run waits');
select is((select array_agg(outcome) from stepquota.start_workflow_steps('acme', 'r', array['a', 'c', 'd'])), array['already_finished', 'held', 'held'], 'many steps at once are held too');
select is((select array[array_to_string(node_paths, ' '), reason, is_held::text] from stepquota.workflow_run_waits where status = 'WAITING'), array['b c', 'operator_hold', 'true'], 'all in one wait, outside the queue');
select is_empty($$select * from stepquota.paused_tenants$$, 'so that no scan looks at the tenant');
select is((select array[reason, array_to_string(reasons, ' '), unblocks_at::text] from stepquota.workflow_run_quota_pause('acme', 'r')), array['operator_hold', 'operator_hold', null], 'one reason, which no time lifts');
select is((select unblocked_by from stepquota.workflow_run_quota_pause('acme', 'r')),
  format('release_workflow_run, held by %s since 2026-04-15 12:00:00 UTC: ticket 1', session_user), 'and who can say why');
select is((select array[resumed::text, reason] from stepquota.resume_workflow_run('acme', 'r', 'please')), array['false', 'held'], 'it cannot be resumed by hand');
select is((stepquota.refresh_workflow_step_quota('acme')).allowed, true, 'nor by a refresh');
select is((stepquota.resume_due_tenant('acme', 10)).runs_resumed, 0, 'nor by the scan');
select is(run_state('acme', 'r'), 'WAITING at c', 'it waits on');

-- All three reasons.
select is((stepquota.reserve_workflow_steps('acme', 2)).granted, 2::bigint, 'others use up the quota');
select isnt((stepquota.hold_tenant('acme', 'audit')).held_at, null, 'the tenant is held');
select isnt((stepquota.suspend_tenant('acme', 'unpaid')).suspended_at, null, 'and suspended');
select is((select reasons from stepquota.workflow_run_quota_pause('acme', 'r')), array['tenant_suspended', 'operator_hold', 'quota'], 'three reasons');
select is((select unblocked_by_each from stepquota.workflow_run_quota_pause('acme', 'r')), array['lifting the suspension',
  format('release_tenant, held by %1$s since 2026-04-15 12:01:00 UTC: audit, and release_workflow_run, held by %1$s since 2026-04-15 12:00:00 UTC: ticket 1', session_user),
  'a higher limit, or the next period'], 'each with what lifts it');
select is(give_limit('acme', 9), 9::bigint, 'a higher limit lifts one');
select isnt((stepquota.release_workflow_run('acme', 'r', 'done')).run_id, null, 'a release another');
select is((select reasons from stepquota.workflow_run_quota_pause('acme', 'r')), array['tenant_suspended', 'operator_hold'], 'the tenant is still held');
select isnt((stepquota.reinstate_tenant('acme', 'paid')).tenant, null, 'the suspension is lifted');
select is(run_state('acme', 'r'), 'WAITING at c', 'which is not enough');
select isnt((stepquota.release_tenant('acme', 'done')).tenant, null, 'the last one');
select is(run_state('acme', 'r'), 'RUNNING at c', 'and it goes on at once');
select is((select array_agg(node_paths::text) from stepquota.claim_workflow_run_resumptions('w')), array['{b,c}'], 'handed to its runtime');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
