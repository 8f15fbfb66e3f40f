-- Cancelling closes steps, waits and resumptions, and says so in the run's log; a second time is no error.
begin;
select plan(14);
select set_clock('2026-04-15Z');
select give_limit('acme', 3);
select (stepquota.register_workflow_run('acme', 'r')).status;
select (stepquota.start_workflow_step('acme', 'r', p)).outcome from unnest(array['a', 'b', 'c', 'd']) p;
select (stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED')).status;
create temp table wait as select * from stepquota.open_workflow_run_wait('acme', 'r', 'b', 'event');
select is((select array[status, (ended_at is not null)::text] from stepquota.cancel_workflow_run('acme', 'r')), array['CANCELED', 'true'], 'cancelled');
select is((select array_agg(node_path || ' ' || status order by node_path) from stepquota.workflow_run_steps), array['a SUCCEEDED', 'b CANCELED', 'c CANCELED'], 'started attempts too');
select is((select array_agg(wait_type || ' ' || status order by wait_type) from stepquota.workflow_run_waits), array['event CANCELED', 'quota CANCELED'], 'and waits');
select is((select array_agg(message) from stepquota.workflow_run_logs), array['canceled'], 'it is logged');
select is((stepquota.cancel_workflow_run('acme', 'r')).status, 'CANCELED', 'again');
select is((select count(*) from stepquota.workflow_run_logs), 1::bigint, 'is not logged again');
select refuses(format($$select stepquota.resolve_workflow_run_wait('acme', %L)$$, (select wait_id from wait)), 'WQ011', 'its wait is resolved no more');
select refuses($$select stepquota.start_workflow_step('acme', 'r', 'e')$$, 'WQ006', 'nothing of it starts');
select refuses($$select stepquota.open_workflow_run_wait('acme', 'r', 'e', 'event')$$, 'WQ006', 'or waits');
select refuses($$select stepquota.resume_workflow_run('acme', 'r', 'x')$$, 'WQ006', 'or resumes');
select is(used('acme'), 3::bigint, 'its units stay used');

select (stepquota.register_workflow_run('acme', 's')).status, (stepquota.finish_workflow_run('acme', 's', 'SUCCEEDED')).status;
select refuses($$select stepquota.cancel_workflow_run('acme', 's')$$, 'WQ006', 'a run that has ended otherwise');
select refuses($$select stepquota.cancel_workflow_run('other', 'r')$$, 'WQ002', 'another tenant''s run');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
