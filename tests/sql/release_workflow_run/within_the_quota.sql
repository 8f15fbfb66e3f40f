-- A release resumes at once what can go on and no more; waits for an event are not touched by holds.
begin;
select plan(14);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1);
select use_units('acme', 1);
select pause_run('acme', 'r');
select isnt((stepquota.hold_workflow_run('acme', 'r', 'x')).held_at, null, 'a paused run is held');
select give_limit('acme', 2);
select is(run_state('acme', 'r'), 'WAITING at root.steps[0]', 'a higher limit does not bring it back');
select is((stepquota.release_workflow_run('acme', 'r', 'fine')).status, 'RUNNING', 'the release does, in its transaction');
select is((select array_agg(array[event_type, details ->> 'by', details ->> 'reason'] order by event_id) from stepquota.quota_events where run_id = 'r' and event_type ~ 'held|released|resumed'),
  array[array['run_held', session_user::text, 'x'], array['run_released', session_user::text, 'fine'], array['run_resumed', 'release', null]], 'all is recorded');
select is((select array_agg(message order by log_id) from stepquota.workflow_run_logs where run_id = 'r'), array['held', 'released', 'resumed'], 'in the run''s log too');
-- A resumed run is held before its runtime is there.
select isnt((stepquota.hold_workflow_run('acme', 'r', 'x')).held_at, null, 'held again, on its way');
select is((stepquota.start_workflow_step('acme', 'r', 'root.steps[0]')).outcome, 'held', 'it is held when it re-enters');
select is((select queued_at from stepquota.workflow_run_waits where status = 'WAITING'), '2026-04-15T12:00:00Z'::timestamptz, 'at the place that it had');
select is((stepquota.reserve_workflow_step('acme')).allowed, true, 'another takes the unit');
select is((stepquota.release_workflow_run('acme', 'r', 'fine')).status, 'WAITING', 'released without quota it waits for quota');
select is((select reasons from stepquota.workflow_run_quota_pause('acme', 'r')), array['quota'], 'for that alone');
select is((select due_at from stepquota.paused_tenants), '2026-05-01Z'::timestamptz, 'until the next period');
-- A held run that waits for an event.
select (stepquota.register_workflow_run('other', 'e')).status, (stepquota.start_workflow_step('other', 'e', 'wait', 1, 'event')).outcome,
  (stepquota.open_workflow_run_wait('other', 'e', 'wait', 'event')).status, (stepquota.hold_workflow_run('other', 'e', 'x')).held_at;
select is((stepquota.release_workflow_run('other', 'e', 'x')).status, 'WAITING', 'it waits on after its release');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
