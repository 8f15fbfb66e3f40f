-- All rows of a tenant go, from every table that has such; a table that is added without being covered
-- fails the test. Nobody else's go, and nothing that is left names the tenant.
begin;
select plan(12);
select set_clock('2026-04-15Z');
-- Something in as many tables as the functions fill.
select give_limit(t, 3), use_units(t, 2) from unnest(array['acme', 'globex']) t;
select (stepquota.open_workflow_step_batch(t, '00000000-0000-0000-0000-000000000001', 1, 'me')).granted from unnest(array['acme', 'globex']) t;
select isnt(pause_run(t, 'r'), null, t || ' has a paused run') from unnest(array['acme', 'globex']) t;
select subscribe(t, '5') from unnest(array['acme', 'globex']) t;
select stepquota.map_stripe_customer('cus_' || t, t) from unnest(array['acme', 'globex']) t;
select stepquota.map_stripe_customer('cus_moved', 'acme'), stepquota.map_stripe_customer('cus_moved', 'globex');
update stepquota.workflow_step_usage_lanes set used_count = used_count + 1;
select stepquota.reconcile_tenant(t) from unnest(array['acme', 'globex']) t;
select count(*) from unnest(array['acme', 'globex']) t, stepquota.repair_workflow_step_usage(t, '2026-04-01Z', false);
insert into stepquota.resume_scans (started_at, errors) values ('2026-04-15Z', '[{"tenant": "acme", "message": "x"}, {"tenant": "globex", "message": "x"}]');
insert into stepquota.quota_events (tenant, event_type, level, details, created_at) values ('', 'scan_failed_for_tenants', 'error', '{"scan_id": 1, "errors": [{"tenant": "acme"}]}', '2026-04-15Z');
-- And a row by hand in every other one that has a tenant.
create function fill(p_tenant text) returns void language plpgsql as $$
declare
  v_table regclass;
  v_found boolean;
begin
  for v_table in
    select c.oid from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
     where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
       and c.relname <> 'tenant_role_bindings'
  loop
    execute format('select exists (select 1 from %s where tenant = %L)', v_table, p_tenant) into v_found;
    continue when v_found;
    execute format('insert into %s (%s) %s select %s', v_table,
      (select string_agg(quote_ident(a.attname), ', ' order by a.attnum) from pg_attribute a where a.attrelid = v_table and a.attnum > 0 and not a.attisdropped and a.attnotnull and a.attidentity = ''),
      '',
      (select string_agg(case when a.attname = 'tenant' then quote_literal(p_tenant)
          when a.atttypid = 'boolean'::regtype then 'true' when a.atttypid in ('integer'::regtype, 'bigint'::regtype, 'numeric'::regtype, 'float8'::regtype) then '1'
          when a.atttypid = 'timestamptz'::regtype then '''2026-04-15Z''' when a.atttypid = 'date'::regtype then '''2026-04-15''' when a.atttypid = 'uuid'::regtype then 'gen_random_uuid()'
          when a.atttypid = 'jsonb'::regtype then '''{}''' when a.atttypid = 'text[]'::regtype then '''{}''' else '''x''' end, ', ' order by a.attnum)
         from pg_attribute a where a.attrelid = v_table and a.attnum > 0 and not a.attisdropped and a.attnotnull and a.attidentity = ''));
  end loop;
end;
$$;
select fill('acme'), fill('globex');
create function left_of(p_text text) returns text language plpgsql as $$
declare
  v_table regclass;
  v_count bigint;
  v_left text := '';
begin
  for v_table in select c.oid from pg_class c where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition order by c.relname loop
    execute format('select count(*) from %s t where to_jsonb(t)::text like %L', v_table, '%' || p_text || '%') into v_count;
    if v_count > 0 then
      v_left := v_left || format(' %s:%s', v_table, v_count);
    end if;
  end loop;
  return v_left;
end;
$$;
create temp table tenant_tables as
  select c.oid::regclass as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
   where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
     -- The binding of a role stays, or the role would be free.
     and c.relname <> 'tenant_role_bindings';
create function covered(p_tenant text) returns bigint language plpgsql as $$
declare
  v_table regclass;
  v_count bigint := 0;
  v_found boolean;
begin
  for v_table in select name from tenant_tables loop
    execute format('select exists (select 1 from %s where tenant = %L)', v_table, p_tenant) into v_found;
    v_count := v_count + v_found::integer;
  end loop;
  return v_count;
end;
$$;
select is(covered('acme'), (select count(*) from tenant_tables), 'there is a row of it in every table that has a tenant');
create temp table others as select left_of('globex') as rows;
select is((select is_done from stepquota.forget_tenant('acme', 3)), false, 'so many rows at a time');
create function forget(p_tenant text) returns integer language plpgsql as $$
declare
  v_calls integer := 0;
begin
  loop
    v_calls := v_calls + 1;
    exit when (select f.is_done from stepquota.forget_tenant(p_tenant, 7) f);
  end loop;
  return v_calls;
end;
$$;
select cmp_ok(forget('acme'), '>', 3, 'until it is done');
select is(covered('acme'), 0::bigint, 'no table has a row of it');
-- The tier is the operator's, not the tenant's; prices and products are the plan's.
select is(regexp_replace(left_of('acme'), ' stepquota.(tiers|stripe_prices|stripe_products|quota_events):\d+', '', 'g'), '', 'nothing names it any more');
select is_empty($$select * from stepquota.quota_events where tenant <> '' and details::text like '%acme%' or tenant = '' and event_type = 'scan_failed_for_tenants' and details::text like '%acme%' or event_type = 'tenant_rows_deleted' and details::text like '%acme%'$$, 'nor does an event, but that its tier was made');
select is(left_of('globex'), (select rows from others), 'others have all of theirs');
select is_empty('select * from stepquota.verify_all() where tenant = ''acme''', 'nothing is half there');
select is((select array[deleted_count, is_done::integer] from stepquota.forget_tenant('acme')), array[0, 1]::bigint[], 'the same again deletes nothing');
-- Broken on purpose: a table that is left out is seen.
do $$
begin
  execute replace(pg_get_functiondef('stepquota.forget_tenant(text, integer)'::regprocedure), 'and not c.relispartition', 'and not c.relispartition and c.relname <> ''workflow_run_logs''');
end;
$$;
select forget('globex');
select is(covered('globex'), 1::bigint, 'with a table left out, it is seen');
select * from finish();
rollback;
