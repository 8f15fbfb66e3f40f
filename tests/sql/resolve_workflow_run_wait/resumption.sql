-- Resolving: run RUNNING, one resumption with the payload, re-entering answers already_started.
begin;
select plan(15);
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.register_workflow_run('acme', 'r', 'flow', 'node')).status, (stepquota.start_workflow_step('acme', 'r', 'e', 1, 'event')).outcome;
create temp table wait as select * from stepquota.open_workflow_run_wait('acme', 'r', 'e', 'event', null, '{"opened": true}');
select is((select array[w.status, w.payload::text, w.resolved_at::text] from stepquota.resolve_workflow_run_wait('acme', (select wait_id from wait), '{"got": 1}') w),
  array['RESOLVED', '{"got": 1}', '2026-04-15T12:00:00Z'::timestamptz::text], 'resolved with a payload');
select is(run_state('acme', 'r'), 'RUNNING at e', 'the run goes on');
select is((select w.payload from stepquota.resolve_workflow_run_wait('acme', (select wait_id from wait), '{"got": 2}') w), '{"got": 1}'::jsonb, 'resolving again answers the same');
select is((select count(*) from stepquota.workflow_run_resumptions), 1::bigint, 'one resumption');
select is_empty($$select * from stepquota.claim_workflow_run_resumptions('w')$$, 'not for the default runtime');
create temp table claimed as select * from stepquota.claim_workflow_run_resumptions('w', p_runtime => 'node');
select is((select array[run_id, node_paths::text, wait_type, payload::text] from claimed), array['r', '{e}', 'event', '{"got": 1}'], 'but for its own, with the payload');
select is((stepquota.start_workflow_step('acme', 'r', 'e', 1, 'event', (select delivery from claimed))).outcome, 'already_started', 're-entering the same attempt');
select is((select status from stepquota.workflow_run_resumptions), 'ACKNOWLEDGED', 'acknowledges');
select is(used('acme'), 1::bigint, 'used 1 before and after it woke');

select give_limit('acme', 1);
select isnt(pause_run('acme', 'paused'), null, 'a paused run');
select refuses(format($$select stepquota.resolve_workflow_run_wait('acme', %L)$$, wait_id), 'WQ011', 'a quota wait is not resolved by hand') from stepquota.workflow_run_waits where wait_type = 'quota';
select refuses($$select stepquota.resolve_workflow_run_wait('acme', '00000000-0000-0000-0000-000000000001')$$, 'WQ010', 'an unknown wait');
select refuses(format($$select stepquota.resolve_workflow_run_wait('other', %L)$$, (select wait_id from wait)), 'WQ010', 'another tenant''s wait');
select is((select w.payload from stepquota.open_workflow_run_wait('acme', 'r', 'e', 'event') w), '{"got": 1}'::jsonb, 'opening it after that answers the wait as it is');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
