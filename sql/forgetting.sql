-- Forgetting a tenant: all of its rows, in all tables.

-- Deletes at most p_max_rows of what belongs to a tenant; to be called, each time in a transaction of its own,
-- until is_done. Tables are found in the catalogue, so none with a column tenant is left out; of the Stripe
-- mirror go the tenant's customers with their subscriptions and items. What the tenant used is gone too.
-- It is recorded without saying who it was. Bindings of roles stay, or a role would be free all at once. Programs that still work for the tenant are to be stopped first:
-- what they do makes rows again.
-- Locks: what it deletes, tables of runs before the quota row, that before lanes.
-- SQLSTATEs: WQ001.
create or replace function stepquota.forget_tenant(p_tenant text, p_max_rows integer default 10000)
returns table (deleted_count bigint, is_done boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $forget_tenant$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_nobody constant text := '';
  v_table regclass;
  v_customers text[];
  v_subscriptions text[];
  v_other record;
  v_count bigint;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_max_rows is null or p_max_rows < 1 then
    perform stepquota._refuse_argument('p_max_rows', p_max_rows::text, 'a number from 1', 'It bounds one transaction; 10000 is usual.');
  end if;
  deleted_count := 0;

  -- Before stripe_customer_tenants, by which they are found.
  v_customers := array(
    select c.id from stepquota.stripe_customers c where c.metadata_tenant = p_tenant
    union
    select m.customer_id from stepquota.stripe_customer_tenants m where m.tenant = p_tenant);
  v_subscriptions := array(
    select s.id from stepquota.stripe_subscriptions s
     where s.metadata_tenant = p_tenant or s.customer_id = any (v_customers));
  delete from stepquota.stripe_subscription_items i where i.subscription_id = any (v_subscriptions);
  get diagnostics v_count = row_count;
  deleted_count := deleted_count + v_count;
  delete from stepquota.stripe_subscriptions s where s.id = any (v_subscriptions);
  get diagnostics v_count = row_count;
  deleted_count := deleted_count + v_count;
  delete from stepquota.stripe_customers c where c.id = any (v_customers);
  get diagnostics v_count = row_count;
  deleted_count := deleted_count + v_count;

  for v_table in
    select c.oid
      from pg_class c
      join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant' and not a.attisdropped
     where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
       and c.relname <> 'tenant_role_bindings'
     order by case c.relname
                when 'workflow_runs' then 1 when 'workflow_run_waits' then 2 when 'workflow_run_resumptions' then 3
                when 'workflow_run_steps' then 4 when 'workflow_run_logs' then 5 when 'workflow_step_batches' then 6
                when 'workflow_step_quotas' then 7 when 'workflow_step_usage_lanes' then 8
                else 9 end, c.relname
  loop
    exit when deleted_count >= p_max_rows;
    -- All of the tenant's rows are to go, so it is no matter that partitions have rows in equal places.
    execute format(
      'delete from %s t where t.tenant = $1 and t.ctid = any (array(select i.ctid from %s i where i.tenant = $1 limit $2))',
      v_table, v_table) using p_tenant, p_max_rows - deleted_count;
    get diagnostics v_count = row_count;
    deleted_count := deleted_count + v_count;
  end loop;

  is_done := deleted_count < p_max_rows;
  if is_done then
    -- Where rows of others, or of nobody, name it.
    update stepquota.resume_scans s
       set errors = (select coalesce(jsonb_agg(e.value), '[]') from jsonb_array_elements(s.errors) e
                      where e.value ->> 'tenant' is distinct from p_tenant)
     where s.errors @> jsonb_build_array(jsonb_build_object('tenant', p_tenant));
    update stepquota.quota_events q
       set details = jsonb_set(q.details, '{errors}', (
             select coalesce(jsonb_agg(e.value), '[]') from jsonb_array_elements(q.details -> 'errors') e
              where e.value ->> 'tenant' is distinct from p_tenant))
     where q.tenant = v_nobody and q.event_type = 'scan_failed_for_tenants'
       and q.details -> 'errors' @> jsonb_build_array(jsonb_build_object('tenant', p_tenant));
    for v_other in
      select q.tenant, q.event_id from stepquota.quota_events q
       where q.event_type = 'customer_mapped' and q.details ->> 'from' = p_tenant
       order by q.tenant, q.event_id
    loop
      update stepquota.quota_events q set details = jsonb_set(q.details, '{from}', 'null')
       where q.tenant = v_other.tenant and q.event_id = v_other.event_id;
    end loop;
  end if;
  if deleted_count > 0 then
    perform stepquota._record_event(v_nobody, 'tenant_rows_deleted', 'warning', null,
      jsonb_build_object('deleted_count', deleted_count, 'is_done', is_done, 'by', session_user), v_now);
  end if;
  return next;
end;
$forget_tenant$;

comment on function stepquota.forget_tenant(text, integer) is
  'Deletes at most p_max_rows of all that belongs to a tenant, in all tables: call it, each time in a transaction of its own, until is_done. Answers deleted_count and is_done. Recorded without the tenant. Stop its programs first, and take it out of Stripe, or what comes from there makes rows again. WQ001 bad arguments.';
