-- Shadow mode over a period's end, with many lanes, edited by hand, and for an unlimited tenant.
-- transaction: none
select plan(17);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 5000);
select is((stepquota.reserve_workflow_steps('acme', 10)).granted, 10::bigint, 'some units');
select stepquota._fan_out_lane('acme', '2026-04-01Z', 0);
select cmp_ok((select lane_count from stepquota.workflow_step_quotas), '>', 1, 'in many lanes');
select is((stepquota.set_tenant_enforcement('acme', 'shadow')).remaining, 4990::bigint, 'shadow mode');
select is((select count(*) from stepquota.workflow_step_usage_lanes where allowance is not null), 0::bigint, 'no lane has a limit');
select is((stepquota.reserve_workflow_steps('acme', 5000)).granted, 5000::bigint, 'past the limit');
select is((select array[allowed::text, used_count::text, remaining::text] from stepquota.reserve_workflow_step('acme')), array['true', '5011', '0'], 'figures past the limit are exact');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select is((stepquota.set_tenant_enforcement('acme', 'enforce')).allowed, false, 'enforced');
select is((select sum(allowance) from stepquota.workflow_step_usage_lanes), 5011::numeric, 'the lanes own what is used');
-- By hand: nobody is told, and the next look is at the end of staleness.
update stepquota.tenants set enforcement = 'shadow' where tenant = 'acme';
select (stepquota.register_workflow_run('acme', 'r')).status, (stepquota.start_workflow_step('acme', 'r', 'root')).outcome;
select is(run_state('acme', 'r'), 'WAITING at root', 'a run is paused while nobody has looked');
select set_clock('2026-04-15T12:01:00Z');
call stepquota.resume_scan();
select is(run_state('acme', 'r'), 'RUNNING at root', 'the scan sees shadow mode that was set by hand');
-- The next period, whose lane was made ahead.
select set_clock('2026-04-30T23:30:00Z');
select is((stepquota.reserve_workflow_step('acme')).allowed, true, 'near the end of the period');
select set_clock('2026-05-01T00:00:00Z');
select is((select array[allowed::text, used_count::text] from stepquota.reserve_workflow_steps('acme', 5001)), array['true', '5001'], 'the next one begins in shadow mode');
select is((stepquota.set_tenant_enforcement('acme', null)).allowed, false, 'and is enforced by its own count');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select is(give_limit('acme', null), null, 'an unlimited tenant');
select is((select array[(stepquota.set_tenant_enforcement('acme', 'shadow')).remaining, (stepquota.reserve_workflow_step('acme')).remaining]), array[null, null]::bigint[], 'is unlimited in shadow mode too');
select * from finish();
