-- transaction: none
-- A suspended tenant's steps are held: nothing is counted, and they go on after the suspension.
select plan(13);
select set_clock('2026-04-15T12:00:00Z');
insert into stepquota.tenants (tenant, plan, suspended_at) values ('acme', 'solo', '2026-04-14Z');
select (stepquota.register_workflow_run('acme', 'r')).status;
select is((select array[outcome, allowed::text, used_count::text, (wait_id is not null)::text, step_id::text] from stepquota.start_workflow_step('acme', 'r', 'root')),
  array['held', 'false', '0', 'true', null], 'held');
select is(run_state('acme', 'r'), 'WAITING at root', 'the run waits');
select is((select reason from stepquota.workflow_run_waits), 'tenant_suspended', 'because of the suspension');
select is(used('acme'), 0::bigint, 'nothing is counted');
select is((select array[reason, unblocked_by, unblocks_at::text] from stepquota.workflow_run_quota_pause('acme', 'r')),
  array['tenant_suspended', 'lifting the suspension', null], 'the pause says so');
select is((select array[resumed::text, reason] from stepquota.resume_workflow_run('acme', 'r', 'please')), array['false', 'held'], 'nor can it be resumed by hand');
call stepquota.resume_scan();
select is(run_state('acme', 'r'), 'WAITING at root', 'nor by the scan');
select is((select skipped from stepquota.resume_scans), '{"tenant_suspended": 1}'::jsonb, 'which says why');

update stepquota.tenants set suspended_at = null where tenant = 'acme';
select set_clock('2026-04-15T12:01:00Z');
call stepquota.resume_scan();
select is(run_state('acme', 'r'), 'RUNNING at root', 'after the suspension the next scan brings it back');
select is((select node_paths from stepquota.claim_workflow_run_resumptions('w')), array['root'], 'to its runtime');
select is((stepquota.start_workflow_step('acme', 'r', 'root')).outcome, 'started', 'and it starts');
select is((select count(*) from stepquota.paused_tenants), 0::bigint, 'the tenant is paused no more');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
