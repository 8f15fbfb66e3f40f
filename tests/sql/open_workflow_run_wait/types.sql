-- Event, human, time, timeout and retry waits: WAITING, one wait a visit, nothing counted.
begin;
select plan(20);
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.register_workflow_run('acme', t)).status from unnest(array['event', 'human', 'time', 'timeout', 'retry']) t;
select (stepquota.start_workflow_step('acme', t, 'root', 1, t)).outcome from unnest(array['event', 'human', 'time', 'timeout', 'retry']) t;
select is((select array[w.wait_type, w.status, w.node_paths::text, w.attempt::text, w.payload::text] from stepquota.open_workflow_run_wait('acme', t, 'root', t, '2026-04-15T13:00:00Z', '{"a": 1}') w),
  array[t, 'WAITING', '{root}', '1', '{"a": 1}'], t) from unnest(array['event', 'human', 'time', 'timeout', 'retry']) t;
select is(run_state('acme', t), 'WAITING at root', t || ' waits') from unnest(array['event', 'human', 'time', 'timeout', 'retry']) t;
select is((select count(distinct w.wait_id) from generate_series(1, 2), stepquota.open_workflow_run_wait('acme', 'event', 'root', 'event') w), 1::bigint, 'opening it again answers the same wait');
select is(used('acme'), 5::bigint, 'only the steps were counted');
select is_empty('select * from stepquota.paused_tenants', 'no tenant is paused by that');
select is_empty($$select * from stepquota.workflow_run_quota_pause('acme', 'event')$$, 'nor the run by quota');

-- Another attempt at the same path waits anew.
select (stepquota.resolve_workflow_run_wait('acme', wait_id)).status from stepquota.workflow_run_waits where run_id = 'retry';
select (stepquota.finish_workflow_step('acme', 'retry', 'root', 1, 'RETRY_SCHEDULED')).status, (stepquota.start_workflow_step('acme', 'retry', 'root', 2)).outcome;
select is((select array[w.attempt::text, w.status] from stepquota.open_workflow_run_wait('acme', 'retry', 'root', 'retry', '2026-04-16Z') w), array['2', 'WAITING'], 'the next attempt''s wait is another');

-- A branch that works keeps the run RUNNING, and so does a resumption on its way.
select (stepquota.register_workflow_run('acme', 'r')).status;
select (stepquota.start_workflow_step('acme', 'r', 'work')).outcome, (stepquota.start_workflow_step('acme', 'r', 'e', 1, 'event')).outcome, (stepquota.start_workflow_step('acme', 'r', 'h', 1, 'human')).outcome;
create temp table wait as select * from stepquota.open_workflow_run_wait('acme', 'r', 'e', 'event');
select is(split_part(run_state('acme', 'r'), ' ', 1), 'RUNNING', 'another branch works');
select (stepquota.finish_workflow_step('acme', 'r', 'work', 1, 'SUCCEEDED')).status;
select is(split_part(run_state('acme', 'r'), ' ', 1), 'WAITING', 'when it has finished the run waits');
select (stepquota.resolve_workflow_run_wait('acme', (select wait_id from wait))).status;
select (stepquota.open_workflow_run_wait('acme', 'r', 'h', 'human')).status;
select is(split_part(run_state('acme', 'r'), ' ', 1), 'RUNNING', 'a branch just resumed goes on');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select refuses($$select stepquota.open_workflow_run_wait('acme', 'none', 'e', 'event')$$, 'WQ002', 'an unknown run');
select * from finish();
rollback;
