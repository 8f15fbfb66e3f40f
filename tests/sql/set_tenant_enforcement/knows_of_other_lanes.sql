-- The first step past the limit is seen, in whatever lane it is: lanes that were dealt know of each other.
begin;
select plan(4);
select set_clock('2026-04-15Z');
select give_limit('acme', 5000);
select granted from stepquota.reserve_workflow_steps('acme', 1);
select stepquota._fan_out_lane('acme', '2026-04-01Z', 0);
select is((select lane_count from stepquota.workflow_step_quotas where tenant = 'acme'), 64, 'many lanes');
select is((select granted from stepquota.reserve_workflow_steps('acme', 4999)), 4999::bigint, 'all is used');
select used_count from stepquota.set_tenant_enforcement('acme', 'shadow');
select (stepquota.register_workflow_run('acme', 'r')).status;
select is((select outcome from stepquota.start_workflow_step('acme', 'r', 'a')), 'started', 'one more starts');
select is((select run_id from stepquota.workflow_run_shadow_pauses), 'r', 'and would not have');
select * from finish();
rollback;
