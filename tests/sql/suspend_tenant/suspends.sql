-- Suspending by function and by hand is the same state.
begin;
select plan(10);
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.register_workflow_run('acme', 'r')).status;
select is((select array[tenant, suspended_at::text, held_at::text] from stepquota.suspend_tenant('acme', 'unpaid')), array['acme', '2026-04-15 12:00:00+00', null], 'a tenant that was not known is suspended');
select set_clock('2026-04-15T12:01:00Z');
select is((select suspended_at from stepquota.suspend_tenant('acme', 'still')), '2026-04-15T12:00:00Z'::timestamptz, 'suspended again it stays as it is');
select is((stepquota.start_workflow_step('acme', 'r', 'root')).outcome, 'held', 'its steps are held');
select is((select reasons from stepquota.workflow_run_quota_pause('acme', 'r')), array['tenant_suspended'], 'for that reason');
select is((select suspended_at from stepquota.reinstate_tenant('acme', 'paid')), null, 'the suspension is lifted');
select is(run_state('acme', 'r'), 'RUNNING at root', 'the run goes on at once');
select is((select array_agg(event_type || ' ' || (details ->> 'reason') || ' ' || (details ->> 'by') order by event_id) from stepquota.quota_events where event_type in ('tenant_suspended', 'tenant_reinstated')),
  array[format('tenant_suspended unpaid %s', session_user), format('tenant_reinstated paid %s', session_user)], 'recorded once each');
update stepquota.tenants set suspended_at = '2026-01-01Z' where tenant = 'acme';
select is((select suspended_at from stepquota.suspend_tenant('acme', 'x')), '2026-01-01Z'::timestamptz, 'suspended by hand it is suspended');
select is((select suspended_at from stepquota.reinstate_tenant('acme', 'x')), null, 'and is reinstated the same way');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
