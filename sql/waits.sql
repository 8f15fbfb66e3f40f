-- Event, time, human, timeout and retry waits. They count nothing: starting their step did.

-- One wait an attempt at a path: asking again answers the wait there is, open or not.
-- Locks: the run. SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.open_workflow_run_wait(
  p_tenant text, p_run_id text, p_node_path text, p_wait_type text,
  p_due_at timestamptz default null, p_payload jsonb default null)
returns stepquota.workflow_run_waits
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $open_workflow_run_wait$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_attempt integer;
  v_wait stepquota.workflow_run_waits;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_node_path(p_node_path);
  perform stepquota._check_one_of('p_wait_type', p_wait_type, array['event', 'retry', 'human', 'timeout', 'time']);
  if p_wait_type in ('time', 'timeout', 'retry') and p_due_at is null then
    perform stepquota._refuse_argument('p_due_at', null, format('a moment for a wait of type %s', p_wait_type),
      'Nothing else would ever resolve such a wait.');
  end if;
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_run_goes_on(v_run);
  v_attempt := coalesce(
    stepquota._host_find_latest_attempt(p_tenant, p_run_id, p_node_path, v_run.ledger_month), 0);
  v_wait := stepquota._host_find_visit_wait(p_tenant, p_run_id, p_node_path, p_wait_type, v_attempt);
  if v_wait.wait_id is not null then
    return v_wait;
  end if;
  v_wait := stepquota._host_insert_wait(p_tenant, gen_random_uuid(), p_run_id, p_node_path, v_attempt, p_wait_type,
    null, p_due_at, v_now, p_payload, v_now);
  if not stepquota._goes_on(v_run) then
    perform stepquota._host_set_run(p_tenant, p_run_id, 'WAITING', p_node_path);
  end if;
  return v_wait;
end;
$open_workflow_run_wait$;

-- Locks: the run; then the wait. SQLSTATEs: WQ001, WQ006, WQ010, WQ011.
create or replace function stepquota.resolve_workflow_run_wait(
  p_tenant text, p_wait_id uuid, p_payload jsonb default null)
returns stepquota.workflow_run_waits
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_workflow_run_wait$
declare
  v_now timestamptz := stepquota._now();
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_wait_id is null then
    perform stepquota._refuse_argument('p_wait_id', null, 'a uuid', 'Pass the wait_id that open_workflow_run_wait answered.');
  end if;
  -- Read for the run, lock the run, read again: runs come before waits in the order of locks.
  v_wait := stepquota._host_find_wait(p_tenant, p_wait_id);
  if v_wait.wait_id is null then
    raise exception using
      errcode = 'WQ010',
      message = 'the tenant has no such wait',
      detail = format('Tenant %L, wait %L.', p_tenant, p_wait_id),
      hint = 'Pass tenant and wait_id as open_workflow_run_wait answered them.';
  end if;
  v_run := stepquota._lock_known_run(p_tenant, v_wait.run_id);
  v_wait := stepquota._host_find_wait(p_tenant, p_wait_id);
  if v_wait.wait_type = 'quota' or v_wait.status = 'CANCELED' then
    raise exception using
      errcode = 'WQ011',
      message = 'the wait cannot be resolved',
      detail = format('Tenant %L, wait %L is of type %s and %s.', p_tenant, p_wait_id, v_wait.wait_type, v_wait.status),
      hint = case when v_wait.wait_type = 'quota'
        then 'A run paused by quota goes on with the scan, or by resume_workflow_run.'
        else 'Its run has ended.' end;
  end if;
  if v_wait.status = 'RESOLVED' then
    return v_wait;
  end if;
  return stepquota._resolve_wait(v_run, v_wait, p_payload, v_now);
end;
$resolve_workflow_run_wait$;

-- The wait RESOLVED, the run RUNNING, a resumption for its runtime.
-- Locks: the caller holds the run.
create or replace function stepquota._resolve_wait(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language plpgsql
volatile
as $_resolve_wait$
declare
  v_wait stepquota.workflow_run_waits;
begin
  v_wait := stepquota._host_close_wait(p_run.tenant, p_wait.wait_id, 'RESOLVED', p_payload, p_now);
  perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'RUNNING', p_run.node_path);
  perform stepquota._add_resumptions(p_run.tenant, array[gen_random_uuid()], array[p_run.run_id], array[p_run.runtime],
    array[v_wait.wait_id], v_wait.wait_type, array[v_wait.node_paths::text], p_now);
  perform stepquota._notify_resumptions();
  return v_wait;
end;
$_resolve_wait$;

-- For tick(): resolves waits whose time has come, a batch a call; answers how many. A wait whose run is
-- busy is left for the next call.
-- Locks: runs, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.resolve_due_waits(p_batch_size integer default 100)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_due_waits$
declare
  v_now timestamptz := stepquota._now();
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
  v_resolved integer := 0;
begin
  perform stepquota._check_unbound();
  perform stepquota.check_batch_size(p_batch_size);
  for v_wait in select w.* from stepquota._host_list_due_waits(v_now, p_batch_size) w loop
    v_run := stepquota._host_lock_run_if_free(v_wait.tenant, v_wait.run_id);
    continue when v_run.run_id is null or v_run.status not in ('RUNNING', 'WAITING');
    continue when (stepquota._host_find_wait(v_wait.tenant, v_wait.wait_id)).status <> 'WAITING';
    perform stepquota._resolve_wait(v_run, v_wait, null, v_now);
    v_resolved := v_resolved + 1;
  end loop;
  return v_resolved;
end;
$resolve_due_waits$;

comment on function stepquota._resolve_wait(stepquota.workflow_runs, stepquota.workflow_run_waits, jsonb, timestamptz) is 'Resolves a wait and hands its run to the runtime.';
comment on function stepquota.open_workflow_run_wait(text, text, text, text, timestamptz, jsonb) is
  'Opens a wait of type event, human, time, timeout or retry: the run is WAITING once no branch works. Counts nothing. due_at is when tick() resolves it by itself: required for time, timeout and retry, optional for the others. The same call again answers the same wait. WQ001 bad arguments, WQ002 unknown run, WQ006 ended.';
comment on function stepquota.resolve_workflow_run_wait(text, uuid, jsonb) is
  'Resolves a wait: its run is RUNNING and its runtime gets a resumption with the payload. Resolving again answers the same. WQ001 bad arguments, WQ010 unknown wait, WQ011 a quota wait or a cancelled one.';
comment on function stepquota.resolve_due_waits(integer) is
  'For tick(): resolves waits whose due_at has come, at most p_batch_size; answers how many. WQ001 for a batch size outside 1 to 100000.';
