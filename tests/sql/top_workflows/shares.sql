-- Which workflows used a tenant's quota up in its present period.
begin;
select plan(7);
select set_clock('2026-03-20Z');
select give_limit('acme', 100);
select stepquota.register_workflow_run('acme', 'old', 'import'), stepquota.start_workflow_step('acme', 'old', 'p');
select set_clock('2026-04-15T12:00:00Z');
select stepquota.start_workflow_step('acme', 'old', 'q');
select stepquota.register_workflow_run('acme', 'a', 'import'), stepquota.register_workflow_run('acme', 'b', 'mail'), stepquota.register_workflow_run('acme', 'c');
select stepquota.start_workflow_step('acme', 'a', 'p' || n) from generate_series(1, 4) n;
select stepquota.finish_workflow_step('acme', 'a', 'p4', 1, 'RETRY_SCHEDULED');
select set_clock('2026-04-15T12:05:00Z');
select stepquota.start_workflow_step('acme', 'a', 'p4', 2);
select stepquota.start_workflow_step('acme', 'b', 'p'), stepquota.start_workflow_step('acme', 'c', 'p');
select results_eq($$select workflow, steps, percent, runs, retries, last_step_at from stepquota.top_workflows where tenant = 'acme'$$,
  $$values ('import', 6::bigint, 75.0, 2::bigint, 1::bigint, '2026-04-15T12:05:00Z'::timestamptz), ('mail', 1, 12.5, 1, 0, '2026-04-15T12:05:00Z'), (null, 1, 12.5, 1, 0, '2026-04-15T12:05:00Z')$$,
  'steps of this period, the most first');
select is((select sum(steps) from stepquota.top_workflows where tenant = 'acme'), (select used_count::numeric from stepquota.tenant_usage where tenant = 'acme'), 'together what was used');
select is((select count(distinct period_start) from stepquota.top_workflows), 1::bigint, 'of one period');
select stepquota.register_workflow_run('globex', 'a', 'mail'), stepquota.start_workflow_step('globex', 'a', 'p');
select is((select percent from stepquota.top_workflows where tenant = 'globex'), 100.0, 'shares are of the tenant''s own');
select is((select steps from stepquota.top_workflows where tenant = 'acme' and workflow = 'mail'), 1::bigint, 'and not of others');
set local role stepquota_observer;
select is((select count(*) from stepquota.top_workflows), 4::bigint, 'an observer may look');
set local role stepquota_sync;
select throws_ok('select 1 from stepquota.top_workflows', '42501', null, 'the sync may not');
reset role;
select * from finish();
rollback;
