-- What all tenants add up to is not for a role that is bound to one, nor is their list.
begin;
select plan(4);
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.reserve_workflow_step('acme')).allowed, (stepquota.reserve_workflow_step('globex')).allowed;
select stepquota.summarize_tenants();
create role totals_reader;
grant stepquota_observer to totals_reader;
select stepquota.bind_tenant_role('totals_reader', 'acme');
set local role totals_reader;
select is_empty('select 1 from stepquota.tenant_totals', 'no totals');
select throws_ok('select 1 from stepquota.list_tenants()', 'WQ050', null, 'no list');
select is((select array_agg(s.tenant) from stepquota.tenant_summaries s), array['acme'], 'the row of its own');
select throws_ok($$select 1 from stepquota.list_daily_workflow_step_usage('globex')$$, 'WQ050', null, 'nor the days of another');
reset role;
select * from finish();
rollback;
