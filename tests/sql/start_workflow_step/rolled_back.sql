-- The caller rolls back: no unit, no ledger row, no pause.
begin;
select plan(5);
select set_clock('2026-04-15Z');
select give_limit('acme', 1);
select (stepquota.register_workflow_run('acme', 'r')).status;
create temp table before as select count_rows() as rows, used('acme') as used, run_state('acme', 'r') as state;
savepoint s;
select is((stepquota.start_workflow_step('acme', 'r', 'a')).outcome || ' ' || (stepquota.start_workflow_step('acme', 'r', 'b')).outcome, 'started quota_paused', 'a step and a pause');
rollback to s;
select is(count_rows(), (select rows from before), 'no row is left');
select is(used('acme'), (select used from before), 'no unit is used');
select is(run_state('acme', 'r'), (select state from before), 'the run is as it was');
select is((stepquota.start_workflow_step('acme', 'r', 'b')).outcome, 'started', 'and the unit is free');
select * from finish();
rollback;
