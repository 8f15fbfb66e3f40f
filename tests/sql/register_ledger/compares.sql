-- A ledger that the callers keep is compared with; without one the answer says so. What could run code or
-- read what its registrar may not read is refused, also when it is put in place later.
begin;
select plan(36);
select set_clock('2026-04-15Z');
create schema app;
create table app.charges (customer text, at timestamptz, units integer);
create table app.by_period (customer uuid, period timestamptz);
select stepquota.reserve_workflow_step('acme') from generate_series(1, 4);
create function compared(p_tenant text) returns text language sql as $$
  select format('%s without a row here, %s in %s', c.unledgered_count, coalesce(c.registered_step_count::text, 'none'), coalesce(c.registered_ledgers::text, 'none'))
    from stepquota.reconcile_workflow_step_usage(p_tenant, '2026-04-01Z') c $$;
create function found(p_tenant text) returns text language sql as $$
  select string_agg(format('%s %s of %s', f.class, f.units, f.ledger), ', ' order by f.class)
    from stepquota.reconciliation_findings f where f.tenant = p_tenant and f.closed_at is null $$;
select is(compared('acme'), '4 without a row here, none in none', 'there is none');
select is(found('acme'), null, 'which is no finding');
insert into app.charges values ('acme', '2026-04-15Z', 3), ('acme', '2026-04-15Z', 1), ('acme', '2026-03-31Z', 9), ('globex', '2026-04-15Z', 7);
select is((stepquota.register_ledger('charges', 'app.charges', 'customer', null, 'at', 'units')).ledger, 'charges', 'one with moments and counts');
select is(compared('acme'), '4 without a row here, 4 in {charges}', 'is right');
select is(found('acme'), null, 'so nothing is found');
delete from app.charges where units = 1;
select is(compared('acme'), '4 without a row here, 3 in {charges}', 'one is missing');
select is(found('acme'), 'reservation_without_ledger 1 of charges', 'which is a finding');
insert into app.charges values ('acme', '2026-04-15Z', 3);
select stepquota.reconcile_tenant('acme');
select is(found('acme'), 'ledger_ahead 2 of charges', 'two too many');
select is((select array[used_count_before, used_count_after, unledgered_count_after] from stepquota.repair_workflow_step_usage('acme', '2026-04-01Z', false)), array[4, 6, 6]::bigint[], 'repair brings the counter to it');
select is(found('acme'), null, 'and nothing is found any more');
-- A batch that is open: nobody knows yet which of its units have a row.
select (stepquota.open_workflow_step_batch('acme', '00000000-0000-0000-0000-000000000001', 3, 'me')).granted;
insert into app.charges values ('acme', '2026-04-15Z', 1);
select is(stepquota.reconcile_tenant('acme'), 0::bigint, 'units of an open batch are no finding');
-- Several are added up; a name that cannot be of the column's type has no rows.
insert into app.by_period select '00000000-0000-0000-0000-00000000000a', '2026-04-01Z' from generate_series(1, 2);
select isnt(stepquota.register_ledger('periods', 'app.by_period', 'customer', 'period'), null, 'a row a unit, by the period');
select stepquota.reserve_workflow_step('00000000-0000-0000-0000-00000000000a') from generate_series(1, 2);
select is(compared('00000000-0000-0000-0000-00000000000a'), '2 without a row here, 2 in {charges,periods}', 'a tenant that is a uuid');
select is(compared('acme'), '9 without a row here, 7 in {charges,periods}', 'and one that is none');
select is(stepquota.unregister_ledger('periods'), true, 'it can be taken out');
select is(stepquota.unregister_ledger('periods'), false, 'once');

-- Names are quoted.
create table app."odd ""name'; drop table x" ("ten""ant" text, "a;t" timestamptz);
insert into app."odd ""name'; drop table x" values ('odd', '2026-04-15Z');
select stepquota.reserve_workflow_step('odd');
select isnt(stepquota.register_ledger('charges', 'app."odd ""name''; drop table x"', 'ten"ant', null, 'a;t'), null, 'odd names');
select is(compared('odd'), '1 without a row here, 1 in {charges}', 'are names');
select refuses($$select stepquota.register_ledger('x', 'app.charges; drop table app.charges', 'customer', null, 'at')$$, 'WQ001', 'a statement is no name');
select refuses($$select stepquota.register_ledger('x', 'app.charges', 'customer = customer or true --', null, 'at')$$, 'WQ001', 'nor a column');
select refuses($$select stepquota.register_ledger('x', 'app.charges', 'customer', null, 'at', '(select 1)')$$, 'WQ001', 'nor an expression one');
select refuses($$select stepquota.register_ledger('x', 'charges', 'customer', null, 'at')$$, 'WQ001', 'the schema is missing');
select refuses($$select stepquota.register_ledger('x', 'app.charges', 'customer', 'at', 'at')$$, 'WQ001', 'period and moment both');
select refuses($$select stepquota.register_ledger('x', 'app.charges', 'at', null, 'at')$$, 'WQ001', 'a column of another type');
select refuses($$select stepquota.register_ledger('x', 'stepquota.quota_events', 'tenant', null, 'created_at')$$, 'WQ001', 'our own tables');
create temp table charges (customer text, at timestamptz);
select refuses(format($$select stepquota.register_ledger('x', %L, 'customer', null, 'at')$$, (select nspname from pg_namespace where oid = pg_my_temp_schema()) || '.charges'), 'WQ001', 'a temporary table');
-- A type, a view or a policy of somebody else could run code in the owner's name.
create domain app.own_text as text check (value <> '');
create table app.own_type (customer app.own_text, at timestamptz);
select refuses($$select stepquota.register_ledger('x', 'app.own_type', 'customer', null, 'at')$$, 'WQ001', 'a type of somebody''s own');
create role stepquota_test_stranger;
grant usage, create on schema app to stepquota_test_stranger;
create view app.own_view as select * from app.charges;
select isnt(stepquota.register_ledger('view', 'app.own_view', 'customer', null, 'at'), null, 'a view of the owner''s');
alter view app.own_view owner to stepquota_test_stranger;
select refuses($$select stepquota.register_ledger('x', 'app.own_view', 'customer', null, 'at')$$, 'WQ001', 'a view of somebody else');
select is(compared('odd'), '1 without a row here, none in none', 'is not read any more either, nor is a part of the whole');
select stepquota.unregister_ledger('view');
-- Who registers must be allowed to read it: the right of who is connected, not of the function's owner.
create table app.secrets (customer text, at timestamptz);
set local session authorization stepquota_test_stranger;
reset session authorization;
grant stepquota_operator to stepquota_test_stranger;
set local session authorization stepquota_test_stranger;
select throws_ok($$select stepquota.register_ledger('x', 'app.secrets', 'customer', null, 'at')$$, 'WQ001', null, 'what its registrar may not read');
reset session authorization;
grant select on app.secrets to stepquota_test_stranger;
set local session authorization stepquota_test_stranger;
select lives_ok($$select stepquota.register_ledger('x', 'app.secrets', 'customer', null, 'at')$$, 'and what he may');
reset session authorization;
revoke select on app.secrets from stepquota_test_stranger;
-- Its functions would run in the owner's name; the last assertion sees that, with the check taken out.
create table app.stolen (who text);
grant insert on app.stolen to public;
create function app.steal() returns text language sql volatile as $$ insert into app.stolen values (current_user) returning 'odd'::text $$;
create view app.trap as select app.steal() as customer, timestamptz '2026-04-15Z' as at;
alter view app.trap owner to stepquota_test_stranger;
select refuses($$select stepquota.register_ledger('trap', 'app.trap', 'customer', null, 'at')$$, 'WQ001', 'a trap');
select stepquota.reconcile_tenant('odd');
select is_empty('select * from app.stolen', 'nothing was run');
select is(found('odd'), null, 'and nothing is wrong');
do $$
begin
  execute replace(pg_get_functiondef('stepquota._find_ledger_problem(stepquota.registered_ledgers, name)'::regprocedure), 'v_class.relkind = ''v'' and not exists', 'false and not exists');
end;
$$;
select stepquota.register_ledger('trap', 'app.trap', 'customer', null, 'at');
select stepquota.reconcile_tenant('odd');
select isnt_empty('select * from app.stolen', 'without the check it would have been');
select * from finish();
rollback;
