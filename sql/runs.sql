-- Runs: registered, ended, cancelled.

-- SQLSTATEs: WQ002, always.
create or replace function stepquota._refuse_unknown_run(p_tenant text, p_run_id text)
returns void
language plpgsql
stable
as $_refuse_unknown_run$
begin
  raise exception using
    errcode = 'WQ002',
    message = 'the tenant has no such run',
    detail = format('Tenant %L, run %L.', p_tenant, p_run_id),
    hint = 'Register it with register_workflow_run first, and check whose run it is.';
end;
$_refuse_unknown_run$;

-- SQLSTATEs: WQ006.
create or replace function stepquota._check_run_goes_on(p_run stepquota.workflow_runs)
returns void
language plpgsql
stable
as $_check_run_goes_on$
begin
  if p_run.status not in ('RUNNING', 'WAITING') then
    raise exception using
      errcode = 'WQ006',
      message = 'the run has ended',
      detail = format('Tenant %L, run %L is %s since %s.', p_run.tenant, p_run.run_id, p_run.status,
        stepquota._format_moment(p_run.ended_at)),
      hint = 'Nothing of an ended run starts, finishes or resumes; register another run.';
  end if;
end;
$_check_run_goes_on$;

-- The run, locked, or the error that there is none.
-- Locks: the run. SQLSTATEs: WQ002.
create or replace function stepquota._lock_known_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_lock_known_run$
declare
  v_run stepquota.workflow_runs := stepquota._host_lock_run(p_tenant, p_run_id);
begin
  if v_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  return v_run;
end;
$_lock_known_run$;

-- The run, made RUNNING or as it is if it was registered before.
-- Locks: the new run; the ledger against DDL if the month has no partition yet. SQLSTATEs: WQ001, WQ012.
create or replace function stepquota.register_workflow_run(
  p_tenant text, p_run_id text, p_workflow text default null, p_runtime text default 'default')
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $register_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_ledger_month date := stepquota._ledger_month(v_now);
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_name('p_runtime', p_runtime);
  if p_workflow is not null then
    perform stepquota._check_name('p_workflow', p_workflow);
  end if;
  perform stepquota._make_ledger_partition(v_ledger_month);
  v_run := stepquota._host_insert_run(p_tenant, p_run_id, p_workflow, p_runtime, v_ledger_month, v_now);
  if v_run.run_id is null then
    v_run := stepquota._host_find_run(p_tenant, p_run_id);
    if v_run.runtime <> p_runtime or v_run.workflow is distinct from p_workflow then
      raise exception using
        errcode = 'WQ012',
        message = 'the run is registered with another workflow or runtime',
        detail = format('Tenant %L, run %L: workflow %L, runtime %L; asked for workflow %L, runtime %L.',
          p_tenant, p_run_id, v_run.workflow, v_run.runtime, p_workflow, p_runtime),
        hint = 'A run id names one execution of one workflow: use another id.';
    end if;
  end if;
  return v_run;
end;
$register_workflow_run$;

-- Ends the run and closes what is open of it: waits and resumptions.
-- Locks: the caller holds the run; then its waits and resumptions.
create or replace function stepquota._end_run(
  p_run stepquota.workflow_runs, p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_end_run$
begin
  perform stepquota._host_cancel_open_waits(p_run.tenant, p_run.run_id, p_now);
  perform stepquota._cancel_resumptions(p_run.tenant, p_run.run_id, p_now);
  return stepquota._host_end_run(p_run.tenant, p_run.run_id, p_status, p_error, p_now);
end;
$_end_run$;

-- Locks: the run; then its waits and resumptions. SQLSTATEs: WQ001, WQ002, WQ006, WQ007.
create or replace function stepquota.finish_workflow_run(
  p_tenant text, p_run_id text, p_status text, p_error jsonb default null, p_delivery bigint default null)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_one_of('p_status', p_status, array['SUCCEEDED', 'FAILED', 'CANCELED']);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  if v_run.status = p_status then
    return v_run;
  end if;
  perform stepquota._check_run_goes_on(v_run);
  return stepquota._end_run(v_run, p_status, p_error, v_now);
end;
$finish_workflow_run$;

-- Cancels the run from outside: its started attempts too.
-- Locks: the run; then its steps, waits and resumptions. SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.cancel_workflow_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $cancel_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  if v_run.status = 'CANCELED' then
    return v_run;
  end if;
  perform stepquota._check_run_goes_on(v_run);
  perform stepquota._host_cancel_started_steps(p_tenant, p_run_id, v_run.ledger_month, v_now);
  perform stepquota._host_add_log(p_tenant, p_run_id, 'info', 'canceled',
    jsonb_build_object('by', session_user, 'node_path', v_run.node_path, 'was', v_run.status), v_now);
  return stepquota._end_run(v_run, 'CANCELED', null, v_now);
end;
$cancel_workflow_run$;

comment on function stepquota._refuse_unknown_run(text, text) is 'Raises WQ002.';
comment on function stepquota._check_run_goes_on(stepquota.workflow_runs) is 'Raises WQ006 if the run has ended.';
comment on function stepquota._lock_known_run(text, text) is 'The run, locked; raises WQ002 if there is none.';
comment on function stepquota._end_run(stepquota.workflow_runs, text, jsonb, timestamptz) is 'Ends a run and closes what is open of it.';
comment on function stepquota.register_workflow_run(text, text, text, text) is
  'Makes a run, RUNNING; the same call again answers the run as it is. runtime is the program family that claims its resumptions. WQ001 bad arguments, WQ012 registered with another workflow or runtime.';
comment on function stepquota.finish_workflow_run(text, text, text, jsonb, bigint) is
  'Ends a run as SUCCEEDED, FAILED or CANCELED and closes its waits and resumptions. WQ001 bad arguments, WQ002 unknown run, WQ006 ended with another status, WQ007 a newer delivery was claimed.';
comment on function stepquota.cancel_workflow_run(text, text) is
  'Cancels a run: its started attempts, waits and resumptions too. WQ001 bad arguments, WQ002 unknown run, WQ006 ended otherwise.';
