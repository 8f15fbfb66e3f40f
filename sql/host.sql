-- The only statements that touch the host tables: tenants, workflow_runs, workflow_run_steps,
-- workflow_run_waits, workflow_run_logs. An application that has such tables already gets a file like
-- this one made for its own; everything else goes through these functions. Each is one statement by
-- primary key (or by an index named here), and decides nothing.
--
-- Those that every step goes through are PL/pgSQL: up to PostgreSQL 17 a function in SQL that cannot be
-- inlined is planned again in every transaction.

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

create or replace function stepquota._host_set_tenant_plan(p_tenant text, p_plan text, p_now timestamptz)
returns void
language sql
volatile
as $_host_set_tenant_plan$
  insert into stepquota.tenants (tenant, plan, created_at) values (p_tenant, p_plan, p_now)
  on conflict (tenant) do update set plan = excluded.plan;
$_host_set_tenant_plan$;

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
-- is RUNNING, has no open wait and was never resumed, and its tenant is not suspended. Answers the run
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
   where r.tenant = p_tenant and r.run_id = p_run_id and r.status = 'RUNNING'
     and n.tenant = p_tenant and n.ctid = r.ctid
     and not exists (
       select 1 from stepquota.tenants t where t.tenant = p_tenant and t.suspended_at is not null)
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

-- Whether any of the run's branches is at work: a started attempt of a step that does something itself
-- and does not wait. Steps that contain or await others are started for as long as those last.
create or replace function stepquota._host_has_working_step(p_tenant text, p_run_id text, p_ledger_month date)
returns boolean
language sql
stable
as $_host_has_working_step$
  select exists (
    select 1 from stepquota.workflow_run_steps s
     where s.tenant = p_tenant and s.run_id = p_run_id and s.ledger_month = p_ledger_month
       and s.status = 'STARTED'
       and s.step_type not in ('forEach', 'loop', 'parallel', 'event', 'human', 'time', 'timeout', 'retry')
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING'
            and s.node_path = any (w.node_paths)));
$_host_has_working_step$;

create or replace function stepquota._host_count_steps(p_tenant text, p_period_start timestamptz)
returns bigint
language sql
stable
as $_host_count_steps$
  select count(*) from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.period_start = p_period_start;
$_host_count_steps$;

-- Every tenant's count of every period, for verify_all().
create or replace function stepquota._host_count_all_steps()
returns table (tenant text, period_start timestamptz, step_count bigint)
language sql
stable
as $_host_count_all_steps$
  select s.tenant, s.period_start, count(*)
    from stepquota.workflow_run_steps s
   group by s.tenant, s.period_start;
$_host_count_all_steps$;

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

create or replace function stepquota._host_cancel_open_waits(p_tenant text, p_run_id text, p_now timestamptz)
returns void
language sql
volatile
as $_host_cancel_open_waits$
  update stepquota.workflow_run_waits set status = 'CANCELED', resolved_at = p_now
   where tenant = p_tenant and run_id = p_run_id and status = 'WAITING';
$_host_cancel_open_waits$;

-- A tenant's queue, oldest place first, by workflow_run_waits_quota_queue_idx.
create or replace function stepquota._host_list_quota_queue(p_tenant text)
returns setof stepquota.workflow_run_waits
language sql
stable
as $_host_list_quota_queue$
  select w.* from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING'
   order by w.queued_at, w.wait_id;
$_host_list_quota_queue$;

create or replace function stepquota._host_has_quota_queue(p_tenant text)
returns boolean
language sql
stable
as $_host_has_quota_queue$
  select exists (
    select 1 from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING');
$_host_has_quota_queue$;

-- Tenants that have open quota waits, found by hopping over the queue index from tenant to tenant, so
-- that the cost follows the tenants and not their waits.
create or replace function stepquota._host_list_queued_tenants()
returns setof text
language sql
stable
as $_host_list_queued_tenants$
  with recursive hop (tenant) as (
    (select w.tenant from stepquota.workflow_run_waits w
      where w.wait_type = 'quota' and w.status = 'WAITING'
      order by w.tenant limit 1)
    union all
    select (select w.tenant from stepquota.workflow_run_waits w
             where w.wait_type = 'quota' and w.status = 'WAITING' and w.tenant > h.tenant
             order by w.tenant limit 1)
      from hop h
     where h.tenant is not null
  )
  select h.tenant from hop h where h.tenant is not null;
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

comment on function stepquota._host_find_tenant(text) is 'Host: the tenant''s row.';
comment on function stepquota._host_set_tenant_plan(text, text, timestamptz) is 'Host: sets the plan, making the tenant if needed.';
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
comment on function stepquota._host_has_working_step(text, text, date) is 'Host: whether a branch of the run is at work.';
comment on function stepquota._host_count_steps(text, timestamptz) is 'Host: the ledger''s count of a period.';
comment on function stepquota._host_count_all_steps() is 'Host: the ledger''s counts of all periods.';
comment on function stepquota._host_find_wait(text, uuid) is 'Host: the wait.';
comment on function stepquota._host_find_quota_wait(text, text) is 'Host: the run''s open quota wait.';
comment on function stepquota._host_find_visit_wait(text, text, text, text, integer) is 'Host: the wait of one attempt at one path, open or closed.';
comment on function stepquota._host_has_open_wait(text, text) is 'Host: whether the run has any open wait.';
comment on function stepquota._host_insert_wait(text, uuid, text, text, integer, text, text, timestamptz, timestamptz, jsonb, timestamptz) is 'Host: opens a wait.';
comment on function stepquota._host_set_wait_paths(text, uuid, text[]) is 'Host: sets which paths wait.';
comment on function stepquota._host_close_wait(text, uuid, text, jsonb, timestamptz) is 'Host: closes an open wait.';
comment on function stepquota._host_cancel_open_waits(text, text, timestamptz) is 'Host: cancels all open waits of a run.';
comment on function stepquota._host_list_quota_queue(text) is 'Host: the tenant''s open quota waits, oldest place first.';
comment on function stepquota._host_has_quota_queue(text) is 'Host: whether the tenant has an open quota wait.';
comment on function stepquota._host_list_queued_tenants() is 'Host: tenants with open quota waits.';
comment on function stepquota._host_list_due_waits(timestamptz, integer) is 'Host: waits whose time has come.';
comment on function stepquota._host_add_log(text, text, text, text, jsonb, timestamptz) is 'Host: adds a line to the run''s log.';
