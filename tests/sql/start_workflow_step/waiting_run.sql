-- On a WAITING run a free unit starts the step; on an ended run starting is an error; a finished attempt
-- answers even there.
begin;
select plan(13);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1);
select use_units('acme', 1);
select isnt(pause_run('acme', 'r'), null, 'a paused run');
update stepquota.tiers set step_limit = 2 where tier = 'tier of acme';
select set_clock('2026-04-15T12:01:00Z');
select is(run_state('acme', 'r'), 'WAITING at root.steps[0]', 'waits');
select is((stepquota.start_workflow_step('acme', 'r', 'root.steps[0]')).outcome, 'started', 'a free unit starts it');
select is(run_state('acme', 'r'), 'RUNNING at root.steps[0]', 'the run goes on');
select is((select array[status, (resolved_at is not null)::text] from stepquota.workflow_run_waits), array['RESOLVED', 'true'], 'the wait closes');
select is_empty('select * from stepquota.workflow_run_resumptions', 'without a resumption: its runtime is here');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');

select (stepquota.finish_workflow_step('acme', 'r', 'root.steps[0]', 1, 'SUCCEEDED')).status;
select is((stepquota.finish_workflow_run('acme', 'r', 'SUCCEEDED')).status, 'SUCCEEDED', 'the run ends');
select refuses($$select stepquota.start_workflow_step('acme', 'r', 'root.steps[1]')$$, 'WQ006', 'a step of an ended run');
select is((stepquota.start_workflow_step('acme', 'r', 'root.steps[0]')).outcome, 'already_finished', 'a finished attempt still answers');
select is(used('acme'), 2::bigint, 'nothing more is used');
select refuses($$select stepquota.start_workflow_step('acme', 'unknown', 'root')$$, 'WQ002', 'a run that is not there');
select refuses($$select stepquota.start_workflow_step('other', 'r', 'root')$$, 'WQ002', 'another tenant''s run');
select * from finish();
rollback;
