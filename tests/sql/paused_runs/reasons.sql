-- Why runs are paused and what brings them back, as workflow_run_quota_pause says of each.
begin;
select plan(15);
select set_clock('2026-04-15T12:00:00Z');
create function differences() returns setof text language sql as $$
  select format('%s %s: view %s, function %s', v.tenant, v.run_id, (v.reason, v.reasons, v.unblocks_at), (f.reason, f.reasons, f.unblocks_at))
    from stepquota.paused_runs v cross join lateral stepquota.workflow_run_quota_pause(v.tenant, v.run_id) f
   where (v.reason, v.reasons, v.paused_since, v.node_paths, v.wait_id, v.used_count, v.effective_limit, v.unblocks_at)
      is distinct from (f.reason, f.reasons, f.paused_since, f.node_paths, f.wait_id, f.used_count, f.effective_limit, f.unblocks_at)
$$;
create function why(p_run_id text) returns text language sql as $$
  select v.reason || ': ' || v.unblocked_by from stepquota.paused_runs v where v.run_id = p_run_id
$$;
select give_limit('acme', 1), use_units('acme', 1);
select count(pause_run('acme', 'r1')), count(pause_run('acme', 'r2')), count(pause_run('acme', 'r3'));
select is((select (v.reason, v.unblocked_by, v.unblocks_at, v.used_count, v.effective_limit, v.node_paths)::text from stepquota.paused_runs v where v.run_id = 'r1'),
  '(quota,"a higher limit, a grant, or the next period","2026-05-01 00:00:00+00",1,1,{root.steps[0]})', 'by quota, until the period ends');
select is_empty('select differences()', 'as the function says');
select stepquota.hold_workflow_run('acme', 'r2', 'a ticket');
select is(why('r2'), format('operator_hold: release_workflow_run (%s: a ticket), and a higher limit, a grant, or the next period', session_user), 'a hold and quota, both');
select is((select unblocks_at from stepquota.paused_runs where run_id = 'r2'), null, 'nothing brings a held run back by itself');
select is_empty('select differences()', 'as the function says of held runs');
select stepquota.suspend_tenant('acme', 'unpaid'), stepquota.hold_tenant('acme', 'fraud?');
select is(why('r1'), format('tenant_suspended: reinstate_tenant, and release_tenant (%s: fraud?), and a higher limit, a grant, or the next period', session_user), 'three reasons');
select is_empty('select differences()', 'as the function says of all three');
select stepquota.reinstate_tenant('acme', 'paid'), stepquota.release_tenant('acme', 'no');
-- Units are free, and the run was not looked at yet.
update stepquota.workflow_step_usage_lanes set used_count = 0 where tenant = 'acme';
update stepquota.workflow_step_quotas set exhausted_at_count = null where tenant = 'acme';
select is(why('r1'), 'quota: the next scan', 'units are free');
select is((select unblocks_at from stepquota.paused_runs where run_id = 'r1'), (select due_at from stepquota.paused_tenants where tenant = 'acme'), 'when the tenant is due');
select is_empty('select differences()', 'as the function says where units are free');
select is(why('r2'), format('operator_hold: release_workflow_run (%s: a ticket)', session_user), 'for a held one only the hold is left');
-- Shadow mode pauses nobody.
update stepquota.workflow_step_usage_lanes set used_count = 1 where tenant = 'acme';
select is(why('r1'), 'quota: a higher limit, a grant, or the next period', 'used up again');
select stepquota.set_tenant_enforcement('acme', 'shadow');
select is_empty($$select 1 from stepquota.paused_runs where run_id in ('r1', 'r3')$$, 'shadow mode has resumed what is not held');
select is_empty('select differences()', 'and the rest is as the function says');
select stepquota.cancel_workflow_run('acme', 'r2');
select is_empty('select 1 from stepquota.paused_runs', 'a run that has ended is not paused');
select * from finish();
rollback;
