-- What one release resumes is bounded by policy; the scan does the rest.
-- transaction: none
select plan(5);
select set_clock('2026-04-14T12:00:00Z');
select give_limit('acme', 50);
select (stepquota.hold_tenant('acme', 'x')).tenant, (stepquota.set_policy('at_once_runs', '2')).value;
select (stepquota.register_workflow_run('acme', 'r' || n)).status, (stepquota.start_workflow_step('acme', 'r' || n, 'root')).outcome from generate_series(1, 5) n;
select is((stepquota.release_tenant('acme', 'x')).tenant, 'acme', 'five runs are released');
select is((select count(*) from stepquota.workflow_runs where status = 'RUNNING'), 2::bigint, 'two at once');
select is((select due_at from stepquota.paused_tenants), '2026-04-14T12:00:00Z'::timestamptz, 'the others are due');
call stepquota.resume_scan();
select is((select count(*) from stepquota.workflow_runs where status = 'RUNNING'), 5::bigint, 'and go on with the scan');
select (stepquota.set_policy('at_once_runs', '1000')).value;
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
