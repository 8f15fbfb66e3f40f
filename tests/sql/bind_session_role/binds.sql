-- A role that is bound to what its session names acts for that tenant, and for nobody while nothing is named.
begin;
select plan(28);
create role stepquota_test_session_page;
create role stepquota_test_session_acme;
grant stepquota_observer, stepquota_operator to stepquota_test_session_page;
grant stepquota_observer to stepquota_test_session_acme;
grant usage on schema tap to public;
select set_clock('2026-04-15Z');
select count(*) from unnest(array['acme', 'globex']) t cross join lateral stepquota.reserve_workflow_step(t);
select give_limit('acme', 1), pause_run('acme', 'r');
-- Rows of all tenants have an empty one.
select (stepquota.set_policy('past_due_qualifies', 'false')).changed;
select is((select count(*) > 0 from stepquota.quota_events where tenant = ''), true, 'there are rows of all tenants');
select is((select (b.role, b.changed)::text from stepquota.bind_session_role('stepquota_test_session_page') b), '(stepquota_test_session_page,t)', 'it is bound');
select is((select b.changed from stepquota.bind_session_role('stepquota_test_session_page') b), false, 'the same again changes nothing');
select is((select (b.role, b.tenant, b.problem)::text from stepquota.list_tenant_role_bindings() b), '(stepquota_test_session_page,"",)', 'it is listed without a tenant');
select is(count_events('', 'role_bound'), 1::bigint, 'and recorded once');
select refuses($$select * from stepquota.bind_tenant_role('stepquota_test_session_page', 'acme')$$, 'WQ051', 'not to a tenant besides');
select stepquota.bind_tenant_role('stepquota_test_session_acme', 'acme');
select is((select (detail, state)::text from stepquota.status() where item = 'bound roles'), '("1 to a tenant each, 1 to the tenant that its session names",ok)', 'the status tells them apart');
select refuses($$select * from stepquota.bind_session_role('stepquota_test_session_acme')$$, 'WQ051', 'nor one that is bound to a tenant');
select refuses($$select * from stepquota.bind_session_role('stepquota_observer')$$, 'WQ051', 'nor one of the four');

create function pg_temp.seen() returns text language sql as $$
  select coalesce(string_agg(distinct u.tenant, ',' order by u.tenant), 'nobody') from stepquota.tenant_usage u;
$$;
select is(stepquota.list_visible_tenants('stepquota_test_session_page'), '{}', 'it sees nobody while nothing is named');
set local role stepquota_test_session_page;
select is(pg_temp.seen(), 'nobody', 'no usage');
select is_empty('select 1 from stepquota.recent_events', 'no events, not those of all tenants either');
select throws_ok($$select stepquota.resolve_workflow_step_quota('acme')$$, 'WQ050', null, 'no tenant');
select throws_ok($$select stepquota.reserve_workflow_step('acme')$$, 'WQ050', null, 'no reservation');
select set_config('stepquota.tenant', '', true);
select throws_ok($$select stepquota.reserve_workflow_step('')$$, 'WQ001', null, 'an empty tenant is none');
select is(pg_temp.seen(), 'nobody', 'and is nobody');
select throws_ok('select * from stepquota.list_shadow_overruns()', 'WQ050', null, 'and not all of them');

select set_config('stepquota.tenant', 'acme', true);
select is(pg_temp.seen(), 'acme', 'the tenant that is named');
select is((select string_agg(distinct e.tenant, ',') from stepquota.recent_events e), 'acme', 'its events alone');
select is((stepquota.resolve_workflow_step_quota('acme')).used_count, 1::bigint, 'its quota');
select is((select count(*) from stepquota.paused_runs), 1::bigint, 'its paused runs');
select throws_ok($$select stepquota.resolve_workflow_step_quota('globex')$$, 'WQ050', null, 'not that of another');
select throws_ok($$select * from stepquota.list_tenants()$$, 'WQ050', null, 'nor what concerns all');
select throws_ok($$select * from stepquota.set_tenant_plan('acme', 'pro')$$, 'WQ050', null, 'nor what decides about it');
select set_config('stepquota.tenant', 'globex', true);
select is(pg_temp.seen() || (stepquota.resolve_workflow_step_quota('globex')).used_count, 'globex1', 'another one in the next transaction');
reset role;
-- Both: what they have in common.
grant stepquota_test_session_acme to stepquota_test_session_page;
select set_config('stepquota.tenant', 'acme', true);
select is(stepquota.list_visible_tenants('stepquota_test_session_acme'), array['acme'], 'a role of one tenant does not ask the setting');
select is((select b from stepquota.unbind_tenant_role('stepquota_test_session_page') b), true, 'it is unbound');
select is(count_events('', 'role_unbound'), 1::bigint, 'which is recorded');
select * from finish();
rollback;
