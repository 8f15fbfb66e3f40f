-- A lane that is gone, by hand or after a restore, neither blocks the tenant nor ends in a loop.
begin;
select plan(2);
select set_clock('2026-04-15Z');
set local statement_timeout = '10s';
select give_limit('acme', 2);
delete from stepquota.workflow_step_usage_lanes;
select ok((stepquota.reserve_workflow_step('acme')).allowed, 'the lane is made again');
select is((select allowance from stepquota.workflow_step_usage_lanes), 2::bigint, 'with the limit');
select * from finish();
rollback;
