-- What stepquota is measured against, each as well made as its idea allows: tables with room for new
-- versions on the page, statements by primary key, functions in PL/pgSQL whose plans are kept.

create schema peers;

-- P2, P3, P3f, and the counter in the peer of start_workflow_step.
create table peers.counters (
  tenant text primary key,
  used_count bigint not null default 0,
  step_limit bigint
) with (fillfactor = 50);

-- P3f: the guarded UPDATE in a function with the safety and the answer of ours.
create function peers.take_unit(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $take_unit$
declare
  v_used_count bigint;
  v_step_limit bigint;
begin
  update peers.counters c
     set used_count = c.used_count + 1
   where c.tenant = p_tenant and (c.step_limit is null or c.used_count < c.step_limit)
  returning c.used_count, c.step_limit into v_used_count, v_step_limit;
  return (found, v_used_count, v_step_limit, v_step_limit - v_used_count, null, null, 'fallback_calendar',
    'tier_default', 'solo', 0, null)::stepquota.workflow_step_quota;
end;
$take_unit$;

-- The peer of a denial: reads one row by its primary key, and answers the same columns.
create function peers.read_unit(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $read_unit$
declare
  v_used_count bigint;
  v_step_limit bigint;
begin
  select c.used_count, c.step_limit into v_used_count, v_step_limit
    from peers.counters c where c.tenant = p_tenant;
  return (false, v_used_count, v_step_limit, 0, null, null, 'fallback_calendar', 'tier_default', 'solo', 0,
    null)::stepquota.workflow_step_quota;
end;
$read_unit$;

-- The peer of start_workflow_step: the same ledger row in the same kind of table, the run's place, and
-- a counter row of its own for each tenant.
create table peers.workflow_runs (like stepquota.workflow_runs including all) with (fillfactor = 70);
create table peers.workflow_run_steps (like stepquota.workflow_run_steps including all)
  partition by range (ledger_month);
create table peers.workflow_run_steps_all partition of peers.workflow_run_steps
  for values from (minvalue) to (maxvalue) with (fillfactor = 90);

create function peers.start_step(p_tenant text, p_run_id text, p_node_path text)
returns stepquota.workflow_step_start
language plpgsql
volatile
security definer
set search_path = pg_catalog, pg_temp
as $start_step$
declare
  v_now timestamptz := clock_timestamp();
  v_step_id uuid := gen_random_uuid();
  v_ledger_month date;
  v_used_count bigint;
  v_step_limit bigint;
begin
  update peers.workflow_runs r
     set status = 'RUNNING', node_path = p_node_path
   where r.tenant = p_tenant and r.run_id = p_run_id
  returning r.ledger_month into v_ledger_month;
  update peers.counters c
     set used_count = c.used_count + 1
   where c.tenant = p_tenant and (c.step_limit is null or c.used_count < c.step_limit)
  returning c.used_count, c.step_limit into v_used_count, v_step_limit;
  insert into peers.workflow_run_steps
    (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, status, period_start, started_at)
  values (p_tenant, p_run_id, p_node_path, 1, v_ledger_month, v_step_id, 'action', 'STARTED', v_ledger_month, v_now);
  return ('started', v_step_id, null, true, v_used_count, v_step_limit, v_step_limit - v_used_count, null, null,
    'fallback_calendar', 'tier_default', 'solo', 0, null, 'STARTED')::stepquota.workflow_step_start;
end;
$start_step$;

-- P1: what the common algorithm looks up before it counts.
create table peers.tiers (tier text primary key, step_limit bigint);
create table peers.tenants (tenant text primary key, plan text);
create table peers.products (id text primary key, metadata jsonb not null);
create table peers.prices (id text primary key, product text not null, metadata jsonb not null);
create table peers.subscriptions (
  id text primary key, tenant text not null, status text not null, price text not null,
  current_period_start timestamptz not null, current_period_end timestamptz not null);
create index on peers.subscriptions (tenant);
create table peers.usage (
  tenant text not null, period_start timestamptz not null, used_count bigint not null default 0,
  primary key (tenant, period_start)
) with (fillfactor = 50);

insert into peers.tiers values ('solo', 1000000000);
insert into peers.tenants values ('hot', 'solo');
insert into peers.products values ('prod_1', '{}');
insert into peers.prices values ('price_1', 'prod_1', '{}');
insert into peers.subscriptions values
  ('sub_1', 'hot', 'active', 'price_1', date_trunc('month', now()), date_trunc('month', now()) + interval '1 month');

-- P4: rate-limiter-flexible's table, as it makes it, with room on the page.
create table peers.rate_limits (
  key varchar(255) primary key, points integer not null default 0, expire bigint) with (fillfactor = 50);

-- Ten million reservations without ten million round trips: each in a transaction of its own.
create procedure peers.reserve_many(p_count integer, p_tenants integer)
language plpgsql
as $reserve_many$
begin
  for v_i in 1 .. p_count loop
    perform stepquota.reserve_workflow_step('t' || 1 + floor(random() * p_tenants)::integer);
    commit;
  end loop;
end;
$reserve_many$;

grant usage on schema peers to bench;
grant select, insert, update on all tables in schema peers to bench;
