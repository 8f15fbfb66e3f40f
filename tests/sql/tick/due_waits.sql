-- All that is due: waits whose time has come, the scan, the ledger's partitions ahead.
-- transaction: none
select plan(13);
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.register_workflow_run('acme', t)).status from unnest(array['time', 'timeout', 'retry', 'human', 'event']) t;
select (stepquota.open_workflow_run_wait('acme', t, 'root', t, '2026-04-15T13:00:00Z')).status from unnest(array['time', 'timeout', 'retry', 'human']) t;
select (stepquota.open_workflow_run_wait('acme', 'event', 'root', 'event')).status;
select give_limit('poor', 1), use_units('poor', 1);
select isnt(pause_run('poor', 'r'), null, 'and a paused run');
update stepquota.tiers set step_limit = 2 where tier = 'tier of poor';
select set_clock('2026-04-15T12:59:59Z');
call stepquota.tick();
select is((select count(*) from stepquota.workflow_runs where status = 'WAITING'), 5::bigint, 'a second too early nothing is due');
select is(run_state('poor', 'r'), 'RUNNING at root.steps[0]', 'but the scan does its work');
select set_clock('2026-04-15T13:00:00Z');
call stepquota.tick();
select is(run_state('acme', t), 'RUNNING at root', t || ' is due') from unnest(array['time', 'timeout', 'retry', 'human']) t;
select is(run_state('acme', 'event'), 'WAITING at root', 'an event without due_at waits on');
select is((select count(*) from stepquota.workflow_run_resumptions where tenant = 'acme'), 4::bigint, 'a resumption each');
call stepquota.tick();
select is((select count(*) from stepquota.workflow_run_resumptions), 5::bigint, 'once');
select set_clock('2030-01-15Z');
call stepquota.tick();
select is((select array_agg(to_regclass('stepquota.workflow_run_steps_2030_' || m) is not null) from unnest(array['01', '02', '03', '04', '05']) m), array[true, true, true, true, false], 'partitions for this month and three ahead');
select is(stepquota.make_ledger_partitions(), 0, 'are all there');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
