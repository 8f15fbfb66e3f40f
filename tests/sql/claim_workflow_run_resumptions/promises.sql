-- A stuck or old resumption holds back no unit of its tenant; a young one does, until it is re-entered.
begin;
select plan(6);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1), use_units('acme', 1);
select pause_run('acme', 'r1');
select set_clock('2026-04-15T12:00:00.5Z');
select pause_run('acme', 'r2');
select give_limit('acme', 2);
select is((select array_agg(run_id) from stepquota.workflow_run_resumptions), array['r1'], 'one unit, one resumption');
select set_policy.changed from stepquota.set_policy('stuck_after_deliveries', '2');
select is((select count(*) from stepquota.claim_workflow_run_resumptions('w', 10, '1 second')), 1::bigint, 'delivered');
select (stepquota.refresh_workflow_step_quota('acme')).allowed;
select is((select count(*) from stepquota.workflow_run_resumptions), 1::bigint, 'it holds back the unit');
select set_clock('2026-04-15T12:00:02Z');
select is((select count(*) from stepquota.claim_workflow_run_resumptions('w', 10, '1 second')), 1::bigint, 'delivered a second time: stuck');
select (stepquota.refresh_workflow_step_quota('acme')).allowed;
select is((select array_agg(run_id order by run_id) from stepquota.workflow_run_resumptions), array['r1', 'r2'], 'it holds back nothing any more');
select is((stepquota.start_workflow_step('acme', 'r2', 'root.steps[0]')).outcome || ' ' || (stepquota.start_workflow_step('acme', 'r1', 'root.steps[0]')).outcome,
  'started quota_paused', 'the unit goes to who takes it');
select * from finish();
rollback;
