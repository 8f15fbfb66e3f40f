-- The only statements that touch the host tables: tenants, workflow_runs, workflow_run_steps,
-- workflow_run_waits, workflow_run_logs. An application that has such tables already gets a file like
-- this one made for its own; everything else goes through these functions. Each is one statement by
-- primary key (or by an index named here), and decides nothing.
--
-- Those that every step goes through are PL/pgSQL: up to PostgreSQL 17 a function in SQL that cannot be
-- inlined is planned again in every transaction.

-- Whose tables these functions reach: own, or adopted. An installer that has no file for an application's
-- tables must not put this one in its place.
create or replace function stepquota._host_origin()
returns text
language sql
immutable
as $_host_origin$
  select 'own'::text;
$_host_origin$;

-- tenants ------------------------------------------------------------------------------------------

create or replace function stepquota._host_find_tenant(p_tenant text)
returns stepquota.tenants
language plpgsql
stable
as $_host_find_tenant$
declare
  v_tenant stepquota.tenants;
begin
  select t.* into v_tenant from stepquota.tenants t where t.tenant = p_tenant;
  return v_tenant;
end;
$_host_find_tenant$;

-- All tenants' rows; written to be inlined, so that who wants a few of them reads no others.
create or replace function stepquota._host_list_tenants()
returns setof stepquota.tenants
language sql
stable
as $_host_list_tenants$
  select n.* from stepquota.tenants n;
$_host_list_tenants$;

create or replace function stepquota._host_set_tenant_plan(p_tenant text, p_plan text, p_now timestamptz)
returns void
language sql
volatile
as $_host_set_tenant_plan$
  insert into stepquota.tenants (tenant, plan, created_at) values (p_tenant, p_plan, p_now)
  on conflict (tenant) do update set plan = excluded.plan;
$_host_set_tenant_plan$;

-- The tenant's row, made if there is none, locked after waiting for it.
create or replace function stepquota._host_lock_tenant(p_tenant text, p_now timestamptz)
returns stepquota.tenants
language plpgsql
volatile
as $_host_lock_tenant$
declare
  v_tenant stepquota.tenants;
begin
  insert into stepquota.tenants (tenant, created_at) values (p_tenant, p_now) on conflict (tenant) do nothing;
  select t.* into v_tenant from stepquota.tenants t where t.tenant = p_tenant for no key update;
  return v_tenant;
end;
$_host_lock_tenant$;

create or replace function stepquota._host_set_tenant_hold(
  p_tenant text, p_held_at timestamptz, p_held_by text, p_held_because text)
returns stepquota.tenants
language sql
volatile
as $_host_set_tenant_hold$
  update stepquota.tenants
     set held_at = p_held_at, held_by = p_held_by, held_because = p_held_because
   where tenant = p_tenant
  returning tenants.*;
$_host_set_tenant_hold$;

create or replace function stepquota._host_set_tenant_suspended_at(p_tenant text, p_suspended_at timestamptz)
returns stepquota.tenants
language sql
volatile
as $_host_set_tenant_suspended_at$
  update stepquota.tenants set suspended_at = p_suspended_at where tenant = p_tenant returning tenants.*;
$_host_set_tenant_suspended_at$;

-- NULL is as policy says.
create or replace function stepquota._host_set_tenant_enforcement(p_tenant text, p_enforcement text)
returns void
language sql
volatile
as $_host_set_tenant_enforcement$
  update stepquota.tenants set enforcement = p_enforcement where tenant = p_tenant;
$_host_set_tenant_enforcement$;

-- Whether a hold or a suspension stops the tenant. Every step's start asks it.
create or replace function stepquota._host_is_tenant_held(p_tenant text)
returns boolean
language plpgsql
stable
as $_host_is_tenant_held$
begin
  return exists (
    select 1 from stepquota.tenants t
     where t.tenant = p_tenant and (t.suspended_at is not null or t.held_at is not null));
end;
$_host_is_tenant_held$;

-- workflow_runs ------------------------------------------------------------------------------------

create or replace function stepquota._host_find_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language sql
stable
as $_host_find_run$
  select r.* from stepquota.workflow_runs r where r.tenant = p_tenant and r.run_id = p_run_id;
$_host_find_run$;

-- Waits for the run's lock. All that changes a run, its steps, waits and resumptions holds it.
create or replace function stepquota._host_lock_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_host_lock_run$
declare
  v_run stepquota.workflow_runs;
begin
  select r.* into v_run from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id
     for no key update;
  return v_run;
end;
$_host_lock_run$;

-- Locks the run and sets it at the path that is about to start, if that is all there is to do: the run
-- is RUNNING and not held, has no open wait and was never resumed, and its tenant is neither suspended nor held. Answers the run
-- as it was before; NULL, having changed nothing, if there may be more to do. One statement, since
-- every step goes through it; without EvalPlanQual, a row that changed meanwhile is no longer at its place.
create or replace function stepquota._host_enter_run(p_tenant text, p_run_id text, p_node_path text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_host_enter_run$
declare
  v_run stepquota.workflow_runs;
begin
  update stepquota.workflow_runs n
     set node_path = p_node_path
    from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id and r.status = 'RUNNING' and r.held_at is null
     and n.tenant = p_tenant and n.ctid = r.ctid
     and not exists (
       select 1 from stepquota.tenants t
        where t.tenant = p_tenant and (t.suspended_at is not null or t.held_at is not null))
     and not exists (
       select 1 from stepquota.workflow_run_waits w
        where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING')
     and not exists (
       select 1 from stepquota.workflow_run_resumptions m where m.tenant = p_tenant and m.run_id = p_run_id)
  returning r.* into v_run;
  return v_run;
end;
$_host_enter_run$;

-- The same for who already holds the tenant's quota row and so must not wait for a run.
create or replace function stepquota._host_lock_run_if_free(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language sql
volatile
as $_host_lock_run_if_free$
  select r.* from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id
     for no key update skip locked;
$_host_lock_run_if_free$;

-- NULL if the run is there already.
create or replace function stepquota._host_insert_run(
  p_tenant text, p_run_id text, p_workflow text, p_runtime text, p_ledger_month date, p_now timestamptz)
returns stepquota.workflow_runs
language sql
volatile
as $_host_insert_run$
  insert into stepquota.workflow_runs (tenant, run_id, workflow, runtime, status, ledger_month, registered_at)
  values (p_tenant, p_run_id, p_workflow, p_runtime, 'RUNNING', p_ledger_month, p_now)
  on conflict (tenant, run_id) do nothing
  returning workflow_runs.*;
$_host_insert_run$;

create or replace function stepquota._host_set_run(
  p_tenant text, p_run_id text, p_status text, p_node_path text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_host_set_run$
declare
  v_run stepquota.workflow_runs;
begin
  update stepquota.workflow_runs
     set status = p_status, node_path = p_node_path
   where tenant = p_tenant and run_id = p_run_id
  returning workflow_runs.* into v_run;
  return v_run;
end;
$_host_set_run$;

-- Leaves them where they stand.
create or replace function stepquota._host_set_runs(p_tenant text, p_run_ids text[], p_status text)
returns void
language plpgsql
volatile
as $_host_set_runs$
begin
  update stepquota.workflow_runs set status = p_status
   where tenant = p_tenant and run_id = any (p_run_ids);
end;
$_host_set_runs$;

-- NULL for all three releases it.
create or replace function stepquota._host_set_run_hold(
  p_tenant text, p_run_id text, p_held_at timestamptz, p_held_by text, p_held_because text)
returns stepquota.workflow_runs
language sql
volatile
as $_host_set_run_hold$
  update stepquota.workflow_runs
     set held_at = p_held_at, held_by = p_held_by, held_because = p_held_because
   where tenant = p_tenant and run_id = p_run_id
  returning workflow_runs.*;
$_host_set_run_hold$;

create or replace function stepquota._host_end_run(
  p_tenant text, p_run_id text, p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_runs
language sql
volatile
as $_host_end_run$
  update stepquota.workflow_runs
     set status = p_status, error = p_error, ended_at = p_now
   where tenant = p_tenant and run_id = p_run_id
  returning workflow_runs.*;
$_host_end_run$;

-- workflow_run_steps -------------------------------------------------------------------------------

create or replace function stepquota._host_find_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date)
returns stepquota.workflow_run_steps
language plpgsql
stable
as $_host_find_step$
declare
  v_step stepquota.workflow_run_steps;
begin
  select s.* into v_step from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.run_id = p_run_id and s.node_path = p_node_path
     and s.attempt = p_attempt and s.ledger_month = p_ledger_month;
  return v_step;
end;
$_host_find_step$;

-- False if it is there already.
create or replace function stepquota._host_insert_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date,
  p_step_id uuid, p_step_type text, p_period_start timestamptz, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_host_insert_step$
begin
  insert into stepquota.workflow_run_steps
    (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, status, period_start, started_at)
  values (p_tenant, p_run_id, p_node_path, p_attempt, p_ledger_month, p_step_id, p_step_type, 'STARTED',
    p_period_start, p_now)
  on conflict (tenant, run_id, node_path, attempt, ledger_month) do nothing;
  return found;
end;
$_host_insert_step$;

create or replace function stepquota._host_finish_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date,
  p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_run_steps
language sql
volatile
as $_host_finish_step$
  update stepquota.workflow_run_steps
     set status = p_status, error = p_error, finished_at = p_now
   where tenant = p_tenant and run_id = p_run_id and node_path = p_node_path
     and attempt = p_attempt and ledger_month = p_ledger_month
  returning workflow_run_steps.*;
$_host_finish_step$;

create or replace function stepquota._host_cancel_started_steps(
  p_tenant text, p_run_id text, p_ledger_month date, p_now timestamptz)
returns void
language sql
volatile
as $_host_cancel_started_steps$
  update stepquota.workflow_run_steps
     set status = 'CANCELED', finished_at = p_now
   where tenant = p_tenant and run_id = p_run_id and ledger_month = p_ledger_month and status = 'STARTED';
$_host_cancel_started_steps$;

create or replace function stepquota._host_find_latest_attempt(
  p_tenant text, p_run_id text, p_node_path text, p_ledger_month date)
returns integer
language sql
stable
as $_host_find_latest_attempt$
  select max(s.attempt) from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.run_id = p_run_id and s.node_path = p_node_path
     and s.ledger_month = p_ledger_month;
$_host_find_latest_attempt$;

-- Whether any of the run's branches is at work: a started attempt of a step that does not wait, of none of
-- the given types.
create or replace function stepquota._host_has_working_step(
  p_tenant text, p_run_id text, p_ledger_month date, p_without_types text[])
returns boolean
language sql
stable
as $_host_has_working_step$
  select exists (
    select 1 from stepquota.workflow_run_steps s
     where s.tenant = p_tenant and s.run_id = p_run_id and s.ledger_month = p_ledger_month
       and s.status = 'STARTED'
       and s.step_type <> all (p_without_types)
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING'
            and s.node_path = any (w.node_paths)));
$_host_has_working_step$;

-- A month's count of every tenant and period, for its summary.
create or replace function stepquota._host_count_month_steps(p_month date)
returns table (tenant text, period_start timestamptz, step_count bigint)
language sql
stable
as $_host_count_month_steps$
  select s.tenant, s.period_start, count(*)
    from stepquota.workflow_run_steps s
   where s.ledger_month = p_month
   group by s.tenant, s.period_start;
$_host_count_month_steps$;

-- Whether a month has runs that have not ended, or not by that moment; by workflow_runs_month_ended_at_idx.
create or replace function stepquota._host_has_run_after(p_month date, p_moment timestamptz)
returns boolean
language sql
stable
as $_host_has_run_after$
  select exists (select 1 from stepquota.workflow_runs r where r.ledger_month = p_month and r.ended_at is null)
      or exists (select 1 from stepquota.workflow_runs r where r.ledger_month = p_month and r.ended_at > p_moment);
$_host_has_run_after$;

-- Runs of months up to the given one, without some, that have ended by that moment; by the same index. is_gone
-- where the run itself is no more, as an application's may be of which rows here are left.
create or replace function stepquota._host_list_ended_runs(
  p_last_month date, p_without date[], p_moment timestamptz, p_limit integer)
returns table (tenant text, run_id text, ledger_month date, is_gone boolean)
language sql
stable
as $_host_list_ended_runs$
  select r.tenant, r.run_id, r.ledger_month, false
    from stepquota.workflow_runs r
   where r.ledger_month <= p_last_month and r.ledger_month <> all (p_without) and r.ended_at <= p_moment
   order by r.ledger_month, r.ended_at
   limit p_limit;
$_host_list_ended_runs$;

-- Deletes at most so many of a run's steps; answers how many by period.
create or replace function stepquota._host_delete_steps(p_tenant text, p_run_id text, p_ledger_month date, p_limit bigint)
returns table (period_start timestamptz, step_count bigint)
language sql
volatile
as $_host_delete_steps$
  with gone as (
    delete from stepquota.workflow_run_steps s
     where s.tenant = p_tenant and s.run_id = p_run_id and s.ledger_month = p_ledger_month
       and (s.node_path, s.attempt) in (
         select i.node_path, i.attempt from stepquota.workflow_run_steps i
          where i.tenant = p_tenant and i.run_id = p_run_id and i.ledger_month = p_ledger_month
          limit p_limit)
    returning s.period_start)
  select g.period_start, count(*) from gone g group by g.period_start order by g.period_start;
$_host_delete_steps$;

-- Deletes a run, with its waits and logs.
create or replace function stepquota._host_delete_run(p_tenant text, p_run_id text)
returns void
language plpgsql
volatile
as $_host_delete_run$
begin
  delete from stepquota.workflow_run_waits w where w.tenant = p_tenant and w.run_id = p_run_id;
  delete from stepquota.workflow_run_logs l where l.tenant = p_tenant and l.run_id = p_run_id;
  delete from stepquota.workflow_runs r where r.tenant = p_tenant and r.run_id = p_run_id;
end;
$_host_delete_run$;

-- Deletes at most so many logs of before that moment; answers how many.
create or replace function stepquota._host_delete_logs(p_before timestamptz, p_limit integer)
returns bigint
language plpgsql
volatile
as $_host_delete_logs$
declare
  v_old record;
  v_count bigint := 0;
begin
  for v_old in
    select o.tenant, array_agg(o.run_id) as run_ids, array_agg(o.log_id) as log_ids
      from (select l.tenant, l.run_id, l.log_id from stepquota.workflow_run_logs l
             where l.logged_at < p_before order by l.logged_at limit p_limit) o
     group by o.tenant
     order by o.tenant
  loop
    delete from stepquota.workflow_run_logs l
     where l.tenant = v_old.tenant and l.run_id = any (v_old.run_ids) and l.log_id = any (v_old.log_ids);
    v_count := v_count + cardinality(v_old.log_ids);
  end loop;
  return v_count;
end;
$_host_delete_logs$;

-- Every tenant's count of every period, for verify_all().
create or replace function stepquota._host_count_all_steps()
returns table (tenant text, period_start timestamptz, step_count bigint)
language sql
stable
as $_host_count_all_steps$
  select s.tenant, s.period_start, count(*)
    from stepquota.workflow_run_steps s
   -- What an application had before it adopted stepquota has none.
   where s.period_start is not null
   group by s.tenant, s.period_start;
$_host_count_all_steps$;

-- What the ledger has of a tenant's periods (NULL: of all): its rows; those that started outside their period
-- as it is known; and duplicates: a run has one month, so an attempt counted twice is in another one too.
create or replace function stepquota._host_summarize_steps(p_tenant text, p_period_starts timestamptz[])
returns table (period_start timestamptz, step_count bigint, duplicate_count bigint, misplaced_count bigint)
language sql
stable
as $_host_summarize_steps$
  select s.period_start, count(*),
         count(*) filter (where case when s.ledger_month <> r.ledger_month then exists (
           select 1 from stepquota.workflow_run_steps o
            where o.tenant = s.tenant and o.run_id = s.run_id and o.node_path = s.node_path
              and o.attempt = s.attempt and o.ledger_month = r.ledger_month) else false end),
         count(*) filter (where s.started_at < p.period_start or s.started_at >= p.period_end)
    from stepquota.workflow_run_steps s
    left join stepquota.workflow_runs r on r.tenant = s.tenant and r.run_id = s.run_id
    left join stepquota.workflow_step_usage_periods p on p.tenant = s.tenant and p.period_start = s.period_start
   where s.tenant = p_tenant and s.period_start is not null
     and (p_period_starts is null or s.period_start = any (p_period_starts))
   group by s.period_start;
$_host_summarize_steps$;

-- Where what reconciliation found may come from, by hour and workflow. For wrong_period and duplicate: those
-- rows. For ledger_ahead: rows of a time when their run was not there or had ended; if there are none, all
-- since p_since. For counter_ahead: the places of steps that must have had a row: where a run stands, and
-- attempts before a later one.
create or replace function stepquota._host_list_suspect_steps(
  p_tenant text, p_period_start timestamptz, p_class text, p_since timestamptz)
returns table (hour timestamptz, workflow text, step_count bigint, run_ids text[])
language sql
stable
as $_host_list_suspect_steps$
  with step as (
    select s.run_id, s.started_at, r.workflow,
           p.tenant is null or s.started_at < p.period_start or s.started_at >= p.period_end as is_misplaced,
           case when p_class = 'duplicate' and s.ledger_month <> r.ledger_month then exists (
             select 1 from stepquota.workflow_run_steps o
              where o.tenant = s.tenant and o.run_id = s.run_id and o.node_path = s.node_path
                and o.attempt = s.attempt and o.ledger_month = r.ledger_month) end as is_duplicate,
           r.run_id is null or s.started_at < r.registered_at or s.started_at > r.ended_at as is_stray
      from stepquota.workflow_run_steps s
      left join stepquota.workflow_runs r on r.tenant = s.tenant and r.run_id = s.run_id
      left join stepquota.workflow_step_usage_periods p on p.tenant = s.tenant and p.period_start = s.period_start
     where p_class in ('wrong_period', 'duplicate', 'ledger_ahead')
       and s.tenant = p_tenant and s.period_start = p_period_start
  ), suspect as (
    select t.run_id, t.started_at, t.workflow
      from step t
     where case p_class
             when 'wrong_period' then t.is_misplaced
             when 'duplicate' then t.is_duplicate
             else t.is_stray or t.started_at >= p_since and not exists (select 1 from step y where y.is_stray) end
    union all
    select r.run_id, coalesce(r.ended_at, r.registered_at), r.workflow
      from stepquota.workflow_runs r
     where p_class = 'counter_ahead' and r.tenant = p_tenant and r.node_path is not null and r.status <> 'WAITING'
       and (r.ended_at is null or r.ended_at >= p_period_start)
       and not exists (
         select 1 from stepquota.workflow_run_steps s
          where s.tenant = r.tenant and s.run_id = r.run_id and s.node_path = r.node_path
            and s.ledger_month = r.ledger_month)
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = r.tenant and w.run_id = r.run_id and r.node_path = any (w.node_paths))
    union all
    select s.run_id, s.started_at, r.workflow
      from stepquota.workflow_run_steps s
      left join stepquota.workflow_runs r on r.tenant = s.tenant and r.run_id = s.run_id
     where p_class = 'counter_ahead' and s.tenant = p_tenant and s.period_start = p_period_start and s.attempt > 1
       and not exists (
         select 1 from stepquota.workflow_run_steps o
          where o.tenant = s.tenant and o.run_id = s.run_id and o.node_path = s.node_path
            and o.attempt = s.attempt - 1 and o.ledger_month = s.ledger_month)
  )
  select date_trunc('hour', u.started_at, 'UTC'), u.workflow, count(*),
         (array_agg(distinct u.run_id))[:20]
    from suspect u
   group by 1, 2
   order by 1, 2
   limit 100;
$_host_list_suspect_steps$;

-- workflow_run_waits -------------------------------------------------------------------------------

create or replace function stepquota._host_find_wait(p_tenant text, p_wait_id uuid)
returns stepquota.workflow_run_waits
language sql
stable
as $_host_find_wait$
  select w.* from stepquota.workflow_run_waits w where w.tenant = p_tenant and w.wait_id = p_wait_id;
$_host_find_wait$;

-- By workflow_run_waits_one_open_quota_wait_a_run.
create or replace function stepquota._host_find_quota_wait(p_tenant text, p_run_id text)
returns stepquota.workflow_run_waits
language plpgsql
stable
as $_host_find_quota_wait$
declare
  v_wait stepquota.workflow_run_waits;
begin
  select w.* into v_wait from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.run_id = p_run_id and w.wait_type = 'quota' and w.status = 'WAITING';
  return v_wait;
end;
$_host_find_quota_wait$;

-- By workflow_run_waits_paused_idx.
create or replace function stepquota._host_count_quota_waits(p_tenant text)
returns table (paused_count bigint, paused_since timestamptz)
language plpgsql
stable
as $_host_count_quota_waits$
begin
  return query
    select count(*), min(w.created_at) from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING';
end;
$_host_count_quota_waits$;

-- By workflow_run_waits_one_wait_a_visit.
create or replace function stepquota._host_find_visit_wait(
  p_tenant text, p_run_id text, p_node_path text, p_wait_type text, p_attempt integer)
returns stepquota.workflow_run_waits
language sql
stable
as $_host_find_visit_wait$
  select w.* from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.run_id = p_run_id and w.node_path = p_node_path
     and w.wait_type = p_wait_type and w.attempt = p_attempt and w.wait_type <> 'quota';
$_host_find_visit_wait$;

create or replace function stepquota._host_has_open_wait(p_tenant text, p_run_id text)
returns boolean
language sql
stable
as $_host_has_open_wait$
  select exists (
    select 1 from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING');
$_host_has_open_wait$;

create or replace function stepquota._host_insert_wait(
  p_tenant text, p_wait_id uuid, p_run_id text, p_node_path text, p_attempt integer, p_wait_type text,
  p_reason text, p_due_at timestamptz, p_queued_at timestamptz, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language sql
volatile
as $_host_insert_wait$
  insert into stepquota.workflow_run_waits
    (tenant, wait_id, run_id, node_path, node_paths, attempt, wait_type, status, reason, due_at, queued_at,
     created_at, payload)
  values (p_tenant, p_wait_id, p_run_id, p_node_path, array[p_node_path], p_attempt, p_wait_type, 'WAITING',
    p_reason, p_due_at, p_queued_at, p_now, p_payload)
  returning workflow_run_waits.*;
$_host_insert_wait$;

create or replace function stepquota._host_set_wait_paths(p_tenant text, p_wait_id uuid, p_node_paths text[])
returns void
language sql
volatile
as $_host_set_wait_paths$
  update stepquota.workflow_run_waits set node_paths = p_node_paths
   where tenant = p_tenant and wait_id = p_wait_id;
$_host_set_wait_paths$;

-- Takes a quota wait out of its tenant's queue, or puts it back at its place.
create or replace function stepquota._host_set_wait_held(p_tenant text, p_wait_id uuid, p_is_held boolean)
returns void
language sql
volatile
as $_host_set_wait_held$
  update stepquota.workflow_run_waits set is_held = p_is_held
   where tenant = p_tenant and wait_id = p_wait_id;
$_host_set_wait_held$;

-- A NULL payload leaves the one it was opened with.
create or replace function stepquota._host_close_wait(
  p_tenant text, p_wait_id uuid, p_status text, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language sql
volatile
as $_host_close_wait$
  update stepquota.workflow_run_waits
     set status = p_status, resolved_at = p_now, payload = coalesce(p_payload, payload)
   where tenant = p_tenant and wait_id = p_wait_id and status = 'WAITING'
  returning workflow_run_waits.*;
$_host_close_wait$;

create or replace function stepquota._host_close_waits(
  p_tenant text, p_wait_ids uuid[], p_status text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_host_close_waits$
begin
  update stepquota.workflow_run_waits
     set status = p_status, resolved_at = p_now
   where tenant = p_tenant and wait_id = any (p_wait_ids) and status = 'WAITING';
end;
$_host_close_waits$;

create or replace function stepquota._host_cancel_open_waits(p_tenant text, p_run_id text, p_now timestamptz)
returns void
language sql
volatile
as $_host_cancel_open_waits$
  update stepquota.workflow_run_waits set status = 'CANCELED', resolved_at = p_now
   where tenant = p_tenant and run_id = p_run_id and status = 'WAITING';
$_host_cancel_open_waits$;

-- Locks so many runs of a tenant's queue, oldest place first, passing over those that somebody else has.
-- The one place that says which paused runs may be brought back: those that are not held. By
-- workflow_run_waits_quota_queue_idx.
--
-- Each run is looked up by its key, one after the other, whatever the planner believes of the tenant: a
-- join of both tables was quadratic for one with far more runs than the others.
create or replace function stepquota._host_lock_queued_runs_if_free(p_tenant text, p_limit integer)
returns text[]
language plpgsql
volatile
as $_host_lock_queued_runs_if_free$
begin
  return array(
    select l.run_id
      from (select w.run_id from stepquota.workflow_run_waits w
             where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING' and not w.is_held
             order by w.queued_at, w.wait_id) q
     cross join lateral (
            select r.run_id from stepquota.workflow_runs r
             where r.tenant = p_tenant and r.run_id = q.run_id
               for no key update skip locked) l
     limit p_limit);
end;
$_host_lock_queued_runs_if_free$;

-- The open quota waits of these runs that are not held, and where the runs stand, oldest place first. By
-- workflow_run_waits_one_open_quota_wait_a_run; run by run, for the same reason.
create or replace function stepquota._host_list_quota_waits(p_tenant text, p_run_ids text[])
returns table (
  run_id text, wait_id uuid, node_paths text[], queued_at timestamptz, paused_since timestamptz,
  runtime text, run_status text)
language plpgsql
stable
as $_host_list_quota_waits$
begin
  return query
    select i.run_id, q.wait_id, q.node_paths, q.queued_at, q.created_at, l.runtime, l.status
      from unnest(p_run_ids) as i (run_id)
     cross join lateral (
            select w.* from stepquota.workflow_run_waits w
             where w.tenant = p_tenant and w.run_id = i.run_id and w.wait_type = 'quota' and w.status = 'WAITING'
               and not w.is_held
             limit 1) q
     cross join lateral (
            select r.* from stepquota.workflow_runs r
             where r.tenant = p_tenant and r.run_id = i.run_id
             limit 1) l
     order by q.queued_at, q.wait_id;
end;
$_host_list_quota_waits$;

-- Runs of a tenant that have open quota waits and are no more: somebody deleted them.
create or replace function stepquota._host_list_vanished_runs(p_tenant text, p_limit integer)
returns table (run_id text, wait_id uuid)
language sql
stable
as $_host_list_vanished_runs$
  select w.run_id, w.wait_id from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING' and not w.is_held
     and not exists (select 1 from stepquota.workflow_runs r where r.tenant = w.tenant and r.run_id = w.run_id)
   limit p_limit;
$_host_list_vanished_runs$;

create or replace function stepquota._host_has_quota_queue(p_tenant text)
returns boolean
language sql
stable
as $_host_has_quota_queue$
  select exists (
    select 1 from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING' and not w.is_held);
$_host_has_quota_queue$;

-- Tenants after the given one that have a queue, so many, in their order; found by hopping over
-- the queue index from tenant to tenant, so that the cost follows the tenants and not their waits.
create or replace function stepquota._host_list_queued_tenants(p_after text, p_limit integer)
returns setof text
language plpgsql
stable
as $_host_list_queued_tenants$
declare
  v_tenant text := p_after;
begin
  for v_hop in 1 .. p_limit loop
    select w.tenant into v_tenant from stepquota.workflow_run_waits w
     where w.wait_type = 'quota' and w.status = 'WAITING' and not w.is_held and w.tenant > v_tenant
     order by w.tenant
     limit 1;
    exit when not found;
    return next v_tenant;
  end loop;
end;
$_host_list_queued_tenants$;

-- Waits that resolve by themselves, by workflow_run_waits_due_idx.
create or replace function stepquota._host_list_due_waits(p_now timestamptz, p_limit integer)
returns setof stepquota.workflow_run_waits
language sql
stable
as $_host_list_due_waits$
  select w.* from stepquota.workflow_run_waits w
   where w.status = 'WAITING' and w.due_at <= p_now and w.wait_type <> 'quota'
   order by w.due_at, w.tenant, w.wait_id
   limit p_limit;
$_host_list_due_waits$;

-- When the next of them resolves; NULL is never.
create or replace function stepquota._host_find_next_due_at()
returns timestamptz
language sql
stable
as $_host_find_next_due_at$
  select w.due_at from stepquota.workflow_run_waits w
   where w.status = 'WAITING' and w.due_at is not null and w.wait_type <> 'quota'
   order by w.due_at
   limit 1;
$_host_find_next_due_at$;

-- What waits were opened with, or resolved with, in the order of the ids.
create or replace function stepquota._host_list_payloads(p_tenant text, p_wait_ids uuid[])
returns jsonb[]
language plpgsql
stable
as $_host_list_payloads$
begin
  return array(
    select w.payload
      from unnest(p_wait_ids) with ordinality as i (wait_id, place)
      left join stepquota.workflow_run_waits w on w.tenant = p_tenant and w.wait_id = i.wait_id
     order by i.place);
end;
$_host_list_payloads$;

-- Of the invariants, those of runs, steps and waits, for verify_all(). Reads them all, each a few times.
create or replace function stepquota._host_list_violations()
returns table (invariant text, tenant text, object text, detail text, violation text)
language plpgsql
stable
as $_host_list_violations$
#variable_conflict use_column
begin
  -- A row of another month than its run's is no part of the idempotency key.
  return query
    select 'I4 idempotent', s.tenant, s.run_id,
           format('path %L, attempt %s is in the ledger of %s, but the run %s', s.node_path, s.attempt, s.ledger_month,
             coalesce('is of ' || r.ledger_month::text, 'is unknown')), 'step_off_run'
      from stepquota.workflow_run_steps s
      left join stepquota.workflow_runs r on r.tenant = s.tenant and r.run_id = s.run_id
     where r.ledger_month is distinct from s.ledger_month;
  return query
    select 'I4 idempotent', r.tenant, r.run_id, format('its month %s has no table in the ledger', r.ledger_month),
           'run_without_ledger'
      from stepquota.workflow_runs r
     where r.status in ('RUNNING', 'WAITING')
       and not exists (
         select 1 from pg_catalog.pg_inherits i
           join pg_catalog.pg_class c on c.oid = i.inhrelid
          where i.inhparent = 'stepquota.workflow_run_steps'::pg_catalog.regclass
            and c.relname = 'workflow_run_steps_' || to_char(r.ledger_month, 'YYYY_MM'));
  -- Every run that waits has something it waits for, and will be brought back by.
  return query
    select 'I5 no lost run', r.tenant, r.run_id, 'the run is WAITING and has no open wait', 'waiting_for_nothing'
      from stepquota.workflow_runs r
     where r.status = 'WAITING'
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = r.tenant and w.run_id = r.run_id and w.status = 'WAITING');
  return query
    select 'I5 no lost run', w.tenant, w.run_id,
           format('wait %s is open, but the run is %s', w.wait_id, coalesce(r.status, 'unknown')), 'wait_of_no_open_run'
      from stepquota.workflow_run_waits w
      left join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
     where w.status = 'WAITING' and coalesce(r.status, '') not in ('RUNNING', 'WAITING');
  return query
    select 'I5 no lost run', w.tenant, w.run_id, format('it has %s open quota waits', count(*)), 'two_quota_waits'
      from stepquota.workflow_run_waits w
     where w.status = 'WAITING' and w.wait_type = 'quota'
     group by w.tenant, w.run_id
    having count(*) > 1;
  return query
    select distinct 'I5 no lost run', w.tenant, w.run_id,
           'the run is paused by quota, but its tenant is not among paused_tenants', 'tenant_not_paused'
      from stepquota.workflow_run_waits w
     where w.status = 'WAITING' and w.wait_type = 'quota' and not w.is_held
       and not exists (select 1 from stepquota.paused_tenants t where t.tenant = w.tenant);
  -- The scan comes when the quota has to be resolved anew at the latest; for tenants that are held, or that
  -- have promised units, a little later.
  return query
    select 'I5 no lost run', t.tenant, t.due_at::text,
           format('the scan is to look at the paused tenant then, but its quota is valid until %s', q.valid_until),
           'looked_at_too_late'
      from stepquota.paused_tenants t
      join stepquota.workflow_step_quotas q on q.tenant = t.tenant
     cross join stepquota.policy p
     where t.due_at > q.valid_until + greatest(p.staleness, p.resumption_counts_for)
       and exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = t.tenant and w.status = 'WAITING' and w.wait_type = 'quota' and not w.is_held);
  return query
    select 'I5 no lost run', w.tenant, w.run_id,
           case when w.is_held then 'its quota wait is outside the queue, but the run is not held'
                else 'the run is held, but its quota wait is in the queue' end, 'queue_off_hold'
      from stepquota.workflow_run_waits w
      join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
     where w.status = 'WAITING' and w.wait_type = 'quota' and w.is_held <> (r.held_at is not null);
  return query
    select 'I5 no lost run', w.tenant, w.run_id, format('wait %s has the paths %s', w.wait_id, w.node_paths), 'path_waits_twice'
      from stepquota.workflow_run_waits w
     where w.status = 'WAITING' and cardinality(w.node_paths) > 1
       and (select count(distinct n.path) from unnest(w.node_paths) as n (path)) < cardinality(w.node_paths);
  -- A run is WAITING only when every branch waits, and stands where one does.
  return query
    select distinct 'I5 no lost run', r.tenant, r.run_id, format('the run is WAITING, but works at %s', s.node_path),
           'waiting_and_working'
      from stepquota.workflow_runs r
      join stepquota.workflow_run_steps s
        on s.tenant = r.tenant and s.run_id = r.run_id and s.ledger_month = r.ledger_month
     where r.status = 'WAITING' and s.status = 'STARTED'
       and s.step_type <> all (stepquota._list_control_step_types())
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = r.tenant and w.run_id = r.run_id and w.status = 'WAITING' and s.node_path = any (w.node_paths));
  return query
    select 'I5 no lost run', r.tenant, r.run_id,
           format('the run is WAITING, but resumption %s is to be entered at %s', p.resumption_id, p.unentered_paths),
           'waiting_and_resumed'
      from stepquota.workflow_runs r
      join stepquota.workflow_run_resumptions p on p.tenant = r.tenant and p.run_id = r.run_id
     where r.status = 'WAITING' and p.status <> 'CANCELED' and p.unentered_paths <> '{}';
  return query
    select 'I5 no lost run', r.tenant, r.run_id,
           format('the run is WAITING at %L, but its quota wait is for %s', r.node_path, w.node_paths), 'waiting_elsewhere'
      from stepquota.workflow_runs r
      join stepquota.workflow_run_waits w
        on w.tenant = r.tenant and w.run_id = r.run_id and w.status = 'WAITING' and w.wait_type = 'quota'
     where r.status = 'WAITING'
       and not exists (
         select 1 from stepquota.workflow_run_waits o
          where o.tenant = r.tenant and o.run_id = r.run_id and o.status = 'WAITING' and r.node_path = any (o.node_paths));
  return query
    select 'I5 no lost run', p.tenant, p.resumption_id::text,
           format('the resumption is open, but its run %s is %s', p.run_id, coalesce(r.status, 'unknown')),
           'resumption_of_no_open_run'
      from stepquota.workflow_run_resumptions p
      left join stepquota.workflow_runs r on r.tenant = p.tenant and r.run_id = p.run_id
     where p.status = 'OPEN' and coalesce(r.status, '') not in ('RUNNING', 'WAITING');
  return query
    select 'I5 no lost run', p.tenant, p.resumption_id::text,
           format('the resumption is open, but there is no wait %s', p.wait_id), 'resumption_of_no_wait'
      from stepquota.workflow_run_resumptions p
     where p.status = 'OPEN'
       and not exists (
         select 1 from stepquota.workflow_run_waits w where w.tenant = p.tenant and w.wait_id = p.wait_id);
  -- A quota wait that was resolved left a resumption or a started step for each of its paths.
  return query
    select 'I5 no lost run', w.tenant, w.run_id,
           format('quota wait %s was resolved, but nothing goes on at %s', w.wait_id, w.node_path), 'resolved_for_nothing'
      from stepquota.workflow_run_waits w
      join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
     where w.wait_type = 'quota' and w.status = 'RESOLVED' and r.status in ('RUNNING', 'WAITING')
       and not exists (
         select 1 from stepquota.workflow_run_resumptions p where p.tenant = w.tenant and p.wait_id = w.wait_id)
       and not exists (
         select 1 from stepquota.workflow_run_steps s
          where s.tenant = w.tenant and s.run_id = w.run_id and s.node_path = any (w.node_paths)
            and s.ledger_month = r.ledger_month);
end;
$_host_list_violations$;

-- workflow_run_logs --------------------------------------------------------------------------------

create or replace function stepquota._host_add_log(
  p_tenant text, p_run_id text, p_level text, p_message text, p_details jsonb, p_now timestamptz)
returns void
language sql
volatile
as $_host_add_log$
  insert into stepquota.workflow_run_logs (tenant, run_id, level, message, details, logged_at)
  values (p_tenant, p_run_id, p_level, p_message, p_details, p_now);
$_host_add_log$;

-- One for each run, with details of its own.
create or replace function stepquota._host_add_logs(
  p_tenant text, p_run_ids text[], p_level text, p_message text, p_details jsonb[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_host_add_logs$
begin
  insert into stepquota.workflow_run_logs (tenant, run_id, level, message, details, logged_at)
  select p_tenant, l.run_id, p_level, p_message, l.details, p_now
    from unnest(p_run_ids, p_details) with ordinality as l (run_id, details, place)
   order by l.place;
end;
$_host_add_logs$;

comment on function stepquota._host_origin() is 'Host: whose tables it reaches: own or adopted.';
comment on function stepquota._host_find_tenant(text) is 'Host: the tenant''s row.';
comment on function stepquota._host_list_tenants() is 'Host: the rows of all tenants.';
comment on function stepquota._host_set_tenant_plan(text, text, timestamptz) is 'Host: sets the plan, making the tenant if needed.';
comment on function stepquota._host_lock_tenant(text, timestamptz) is 'Host: the tenant''s row, made if needed, locked.';
comment on function stepquota._host_set_tenant_hold(text, timestamptz, text, text) is 'Host: holds or releases a tenant.';
comment on function stepquota._host_set_tenant_suspended_at(text, timestamptz) is 'Host: suspends a tenant, or lifts that.';
comment on function stepquota._host_set_tenant_enforcement(text, text) is 'Host: sets the tenant''s enforcement.';
comment on function stepquota._host_is_tenant_held(text) is 'Host: whether a hold or a suspension stops the tenant.';
comment on function stepquota._host_set_run_hold(text, text, timestamptz, text, text) is 'Host: holds or releases a run.';
comment on function stepquota._host_set_wait_held(text, uuid, boolean) is 'Host: takes a quota wait out of the queue, or puts it back.';
comment on function stepquota._host_find_run(text, text) is 'Host: the run, not locked.';
comment on function stepquota._host_lock_run(text, text) is 'Host: the run, locked, after waiting for it.';
comment on function stepquota._host_enter_run(text, text, text) is 'Host: sets a run at a path, if nothing stands in the way; the run as it was.';
comment on function stepquota._host_lock_run_if_free(text, text) is 'Host: the run, locked, or NULL if somebody else has it.';
comment on function stepquota._host_insert_run(text, text, text, text, date, timestamptz) is 'Host: makes the run; NULL if it exists.';
comment on function stepquota._host_set_run(text, text, text, text) is 'Host: sets status and node path of a run that goes on.';
comment on function stepquota._host_end_run(text, text, text, jsonb, timestamptz) is 'Host: ends the run.';
comment on function stepquota._host_find_step(text, text, text, integer, date) is 'Host: the attempt''s ledger row.';
comment on function stepquota._host_insert_step(text, text, text, integer, date, uuid, text, timestamptz, timestamptz) is 'Host: the ledger row of an attempt that starts; false if it exists.';
comment on function stepquota._host_finish_step(text, text, text, integer, date, text, jsonb, timestamptz) is 'Host: finishes an attempt.';
comment on function stepquota._host_cancel_started_steps(text, text, date, timestamptz) is 'Host: cancels the attempts that are still started.';
comment on function stepquota._host_find_latest_attempt(text, text, text, date) is 'Host: the greatest attempt of a path; NULL if none.';
comment on function stepquota._host_has_working_step(text, text, date, text[]) is 'Host: whether a branch of the run is at work.';
comment on function stepquota._host_summarize_steps(text, timestamptz[]) is 'Host: what the ledger has of a tenant''s periods.';
comment on function stepquota._host_list_suspect_steps(text, timestamptz, text, timestamptz) is 'Host: where what reconciliation found may come from.';
comment on function stepquota._host_count_month_steps(date) is 'Host: a month''s count of every tenant and period.';
comment on function stepquota._host_has_run_after(date, timestamptz) is 'Host: whether a month has runs that have not ended by then.';
comment on function stepquota._host_list_ended_runs(date, date[], timestamptz, integer) is 'Host: runs that have ended by then.';
comment on function stepquota._host_delete_steps(text, text, date, bigint) is 'Host: deletes steps of a run; answers how many by period.';
comment on function stepquota._host_delete_run(text, text) is 'Host: deletes a run with its waits and logs.';
comment on function stepquota._host_delete_logs(timestamptz, integer) is 'Host: deletes logs of before then; answers how many.';
comment on function stepquota._host_list_violations() is 'Host: what is wrong with runs, steps and waits, and names of it.';
comment on function stepquota._host_count_all_steps() is 'Host: the ledger''s counts of all periods.';
comment on function stepquota._host_find_wait(text, uuid) is 'Host: the wait.';
comment on function stepquota._host_find_quota_wait(text, text) is 'Host: the run''s open quota wait.';
comment on function stepquota._host_count_quota_waits(text) is 'Host: how many open quota waits a tenant has, and since when.';
comment on function stepquota._host_find_visit_wait(text, text, text, text, integer) is 'Host: the wait of one attempt at one path, open or closed.';
comment on function stepquota._host_has_open_wait(text, text) is 'Host: whether the run has any open wait.';
comment on function stepquota._host_insert_wait(text, uuid, text, text, integer, text, text, timestamptz, timestamptz, jsonb, timestamptz) is 'Host: opens a wait.';
comment on function stepquota._host_set_wait_paths(text, uuid, text[]) is 'Host: sets which paths wait.';
comment on function stepquota._host_close_wait(text, uuid, text, jsonb, timestamptz) is 'Host: closes an open wait.';
comment on function stepquota._host_cancel_open_waits(text, text, timestamptz) is 'Host: cancels all open waits of a run.';
comment on function stepquota._host_lock_queued_runs_if_free(text, integer) is 'Host: locks runs of the tenant''s queue, oldest place first, without waiting.';
comment on function stepquota._host_list_quota_waits(text, text[]) is 'Host: the open quota waits of these runs, oldest place first.';
comment on function stepquota._host_list_vanished_runs(text, integer) is 'Host: runs with open quota waits that are no more.';
comment on function stepquota._host_has_quota_queue(text) is 'Host: whether the tenant has an open quota wait.';
comment on function stepquota._host_list_queued_tenants(text, integer) is 'Host: tenants with open quota waits, after the given one.';
comment on function stepquota._host_find_next_due_at() is 'Host: when the next wait resolves by itself.';
comment on function stepquota._host_list_payloads(text, uuid[]) is 'Host: the payloads of waits, in the order of the ids.';
comment on function stepquota._host_close_waits(text, uuid[], text, timestamptz) is 'Host: closes open waits.';
comment on function stepquota._host_set_runs(text, text[], text) is 'Host: sets the status of runs.';
comment on function stepquota._host_add_logs(text, text[], text, text, jsonb[], timestamptz) is 'Host: adds a log entry for each run.';
comment on function stepquota._host_list_due_waits(timestamptz, integer) is 'Host: waits whose time has come.';
comment on function stepquota._host_add_log(text, text, text, text, jsonb, timestamptz) is 'Host: adds a line to the run''s log.';
comment on function stepquota._host_list_violations() is 'Host: runs and waits that break an invariant.';
