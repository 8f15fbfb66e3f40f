-- A role that is bound acts for its tenant, whatever it sets; nobody is bound but by an operator.
begin;
select plan(22);
create role stepquota_test_binds_worker;
create role stepquota_test_binds_other;
grant stepquota_runtime to stepquota_test_binds_worker, stepquota_test_binds_other;
grant stepquota_operator to stepquota_test_binds_worker;
grant usage on schema tap to public;
select set_clock('2026-04-15Z');
select is((select bound_roles from stepquota.policy), null, 'nobody is bound, and the policy row says so');
select is((select (b.role, b.tenant, b.changed)::text from stepquota.bind_tenant_role('stepquota_test_binds_worker', 'acme') b), '(stepquota_test_binds_worker,acme,t)', 'it is bound');
select is((select b.changed from stepquota.bind_tenant_role('stepquota_test_binds_worker', 'acme') b), false, 'the same again changes nothing');
select is((select (b.role, b.tenant, b.bound_at, b.problem)::text from stepquota.list_tenant_role_bindings() b), '(stepquota_test_binds_worker,acme,"2026-04-15 00:00:00+00",)', 'it is listed');
select is((select bound_roles from stepquota.policy), array['stepquota_test_binds_worker'], 'the policy row names it');
select is((select (detail, state)::text from stepquota.status() where item = 'bound roles'), '("1 to a tenant each",ok)', 'so does the status');
select refuses($$select * from stepquota.bind_tenant_role('stepquota_test_binds_worker', 'globex')$$, 'WQ051', 'not to another tenant besides');
select refuses($$select * from stepquota.bind_tenant_role('nobody', 'globex')$$, 'WQ051', 'a role that does not exist cannot be');
select is(stepquota.list_visible_tenants('stepquota_test_binds_worker'), array['acme'], 'it may see the rows of its tenant');
select is(stepquota.list_visible_tenants('stepquota_test_binds_other'), null, 'another sees all');

create function pg_temp.do_as(p_login text, p_role text, p_statement text) returns void language plpgsql as $$
begin
  perform set_config('session_authorization', p_login, true);
  perform set_config('role', p_role, true);
  execute p_statement;
end;
$$;
-- As the role itself; what it may not do, it is told with an error that has all its parts.
create function pg_temp.as_role(p_login text, p_role text, p_statement text) returns text language plpgsql as $$
declare
  v_answer text;
  v_detail text;
  v_hint text;
begin
  perform set_config('session_authorization', p_login, true);
  perform set_config('role', p_role, true);
  begin
    execute p_statement into v_answer;
  exception when others then
    get stacked diagnostics v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    v_answer := sqlstate || case when v_detail = '' or v_hint = '' then ' without detail or hint' else '' end;
  end;
  perform set_config('role', 'none', true);
  reset session authorization;
  return v_answer;
end;
$$;
select is(pg_temp.as_role('stepquota_test_binds_worker', r, $$select allowed from stepquota.reserve_workflow_step('acme')$$), 'true', format('with role %s it reserves for its tenant', r)) from unnest(array['none', 'stepquota_runtime']) r;
select refuses(format('select pg_temp.do_as(''stepquota_test_binds_worker'', %L, %L)', r, $$select allowed from stepquota.reserve_workflow_step('globex')$$), 'WQ050', format('with role %s for nobody else', r)) from unnest(array['none', 'stepquota_runtime']) r;
select is(pg_temp.as_role('stepquota_test_binds_other', 'none', $$select allowed from stepquota.reserve_workflow_step('globex')$$), 'true', 'another reserves for any');
select refuses(format('select pg_temp.do_as(''stepquota_test_binds_worker'', ''none'', %L)', $$select state from stepquota.status()$$), 'WQ050', 'what concerns all is refused');
select refuses(format('select pg_temp.do_as(''stepquota_test_binds_worker'', ''none'', %L)', $$select allowed from stepquota.set_tenant_plan('acme', 'pro')$$), 'WQ050', 'it does not decide about its tenant');
select refuses(format('select pg_temp.do_as(''stepquota_test_binds_worker'', ''none'', %L)', $$select stepquota.unbind_tenant_role('stepquota_test_binds_worker')$$), 'WQ050', 'nor frees itself');
select is(used('acme') || ' ' || used('globex'), '2 1', 'what was refused was not counted');

select is(stepquota.unbind_tenant_role('stepquota_test_binds_worker'), true, 'it is freed');
select is((stepquota.unbind_tenant_role('stepquota_test_binds_worker'), (select bound_roles from stepquota.policy))::text, '(f,)', 'once');
select is(pg_temp.as_role('stepquota_test_binds_worker', 'none', $$select allowed from stepquota.reserve_workflow_step('globex')$$), 'true', 'and reserves for any');
select * from finish();
rollback;
