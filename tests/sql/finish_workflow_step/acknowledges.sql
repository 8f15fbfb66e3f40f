-- Finishing a step takes its path out of the run's resumptions: nobody need be sent there any more.
begin;
select plan(3);

select stepquota.register_workflow_run('acme', 'r1');
select stepquota.start_workflow_step('acme', 'r1', 'root.steps[0]', p_step_type => 'event');
select stepquota.resolve_workflow_run_wait('acme',
  (stepquota.open_workflow_run_wait('acme', 'r1', 'root.steps[0]', 'event')).wait_id);
select is(
  (select status from stepquota.workflow_run_resumptions where tenant = 'acme'),
  'OPEN', 'the event has come, and nobody has gone on with the run');
select stepquota.finish_workflow_step('acme', 'r1', 'root.steps[0]', 1, 'SUCCEEDED');
select is(
  (select status from stepquota.workflow_run_resumptions where tenant = 'acme'),
  'ACKNOWLEDGED', 'a worker that heard of the event by itself has finished the step');
select is_empty(
  $$select * from stepquota.claim_workflow_run_resumptions('worker')$$,
  'so nobody is sent there again');

select * from finish();
rollback;
