-- Pausing a run because it may not start a step now, and saying why it is paused.

-- Pauses the run at a path: an open quota wait (or the path joins the one there is), the tenant among
-- the paused ones, and the run WAITING unless another of its branches works. A run that comes back from
-- a resumption without having started keeps its place in the queue.
-- Locks: the caller holds the run, then the quota row FOR SHARE, so that no change of capacity can
-- slip between the denial and this pause. Then the policy row, as _share_policy, and the tenant's
-- paused_tenants row, for its key.
create or replace function stepquota._pause_run(
  p_run stepquota.workflow_runs, p_node_path text, p_reason text, p_due_at timestamptz, p_details jsonb,
  p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_pause_run$
declare
  v_wait stepquota.workflow_run_waits;
  v_queued_at timestamptz;
  v_wait_id uuid;
  v_status text;
begin
  v_wait := stepquota._host_find_quota_wait(p_run.tenant, p_run.run_id);
  v_queued_at := stepquota._enter_resumed_path(p_run.tenant, p_run.run_id, p_node_path, p_now);
  if v_wait.wait_id is not null then
    v_wait_id := v_wait.wait_id;
    if p_node_path <> all (v_wait.node_paths) then
      perform stepquota._host_set_wait_paths(p_run.tenant, v_wait_id, v_wait.node_paths || p_node_path);
    end if;
  else
    v_wait_id := gen_random_uuid();
    perform stepquota._host_insert_wait(p_run.tenant, v_wait_id, p_run.run_id, p_node_path, 0, 'quota', p_reason, null,
      coalesce(v_queued_at, p_now), p_details, p_now);
    perform stepquota._record_event(p_run.tenant, 'run_paused', 'info', p_run.run_id,
      p_details || jsonb_build_object('reason', p_reason, 'node_path', p_node_path, 'wait_id', v_wait_id), p_now);
    if p_run.held_at is not null then
      perform stepquota._host_set_wait_held(p_run.tenant, v_wait_id, true);
    end if;
  end if;
  v_status := case when stepquota._goes_on(p_run) then 'RUNNING' else 'WAITING' end;
  if p_run.status <> v_status or p_run.node_path is distinct from p_node_path then
    perform stepquota._host_set_run(p_run.tenant, p_run.run_id, v_status, p_node_path);
  end if;

  if p_run.held_at is not null then
    -- Outside the queue: only its release brings it back.
    return v_wait_id;
  end if;
  -- Time alone may change the quota before the period ends: a subscription is due to end, another one begins.
  p_due_at := least(p_due_at, (select q.valid_until from stepquota.workflow_step_quotas q where q.tenant = p_run.tenant));
  -- A change for all tenants that is under way has not looked at this one: the next scan does.
  if not stepquota._share_policy() then
    p_due_at := p_now;
    update stepquota.paused_tenants set due_at = p_now where tenant = p_run.tenant and due_at > p_now;
  end if;
  -- The key's lock makes a removal wait for us; under REPEATABLE READ it also finds out a removed row.
  perform 1 from stepquota.paused_tenants t where t.tenant = p_run.tenant for key share;
  if not found then
    insert into stepquota.paused_tenants (tenant, due_at, paused_at) values (p_run.tenant, p_due_at, p_now)
    on conflict (tenant) do nothing;
  end if;
  return v_wait_id;
end;
$_pause_run$;

-- Keeps a change for all tenants (a tier, a policy) out until the caller's transaction ends: it then
-- finds what was paused here. False if such a change is under way: it may have passed by already, so
-- the caller has the tenant looked at again soon. Never waits, since such a change waits for quota rows
-- that the caller may hold.
-- Locks: the policy row FOR SHARE, without waiting.
create or replace function stepquota._share_policy()
returns boolean
language plpgsql
volatile
as $_share_policy$
begin
  perform 1 from stepquota.policy p for share skip locked;
  return found;
end;
$_share_policy$;

-- The path starts, or never will: it leaves the open quota wait, which closes when no path is left.
-- Locks: the caller holds the run.
create or replace function stepquota._leave_quota_wait(p_tenant text, p_run_id text, p_node_path text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_leave_quota_wait$
declare
  v_wait stepquota.workflow_run_waits := stepquota._host_find_quota_wait(p_tenant, p_run_id);
begin
  if v_wait.wait_id is null or p_node_path <> all (v_wait.node_paths) then
    return;
  end if;
  if cardinality(v_wait.node_paths) > 1 then
    perform stepquota._host_set_wait_paths(p_tenant, v_wait.wait_id, array_remove(v_wait.node_paths, p_node_path));
  else
    perform stepquota._host_close_wait(p_tenant, v_wait.wait_id, 'RESOLVED', null, p_now);
  end if;
end;
$_leave_quota_wait$;

-- Steps that contain or await others are started for as long as those last: they do no work.
create or replace function stepquota._list_control_step_types()
returns text[]
language sql
immutable
as $_list_control_step_types$
  select array['forEach', 'loop', 'parallel', 'event', 'human', 'time', 'timeout', 'retry'];
$_list_control_step_types$;

-- Whether any branch of the run goes on: it works, or was resumed and its runtime is on the way.
create or replace function stepquota._goes_on(p_run stepquota.workflow_runs)
returns boolean
language plpgsql
stable
as $_goes_on$
begin
  return stepquota._host_has_working_step(p_run.tenant, p_run.run_id, p_run.ledger_month,
      stepquota._list_control_step_types())
    or stepquota._has_unentered_resumption(p_run.tenant, p_run.run_id);
end;
$_goes_on$;

-- After a branch has finished its step: a run none of whose branches goes on is WAITING, if anything
-- waits in it. One that is paused by quota stands where it is paused, or nobody could resume it by hand.
-- Locks: the caller holds the run.
create or replace function stepquota._settle_run_status(p_run stepquota.workflow_runs)
returns void
language plpgsql
volatile
as $_settle_run_status$
declare
  v_wait stepquota.workflow_run_waits;
begin
  if p_run.status = 'RUNNING'
     and stepquota._host_has_open_wait(p_run.tenant, p_run.run_id)
     and not stepquota._goes_on(p_run) then
    v_wait := stepquota._host_find_quota_wait(p_run.tenant, p_run.run_id);
    perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'WAITING',
      case when p_run.node_path <> all (v_wait.node_paths) then v_wait.node_paths[1] else p_run.node_path end);
  end if;
end;
$_settle_run_status$;

-- Why a run is paused; no row if it is not. Takes no locks. SQLSTATEs: WQ001, WQ002.
create or replace function stepquota.workflow_run_quota_pause(p_tenant text, p_run_id text)
returns table (
  reason text, period_start timestamptz, period_end timestamptz, used_count bigint, effective_limit bigint,
  period_source text, limit_source text, paused_since timestamptz, wait_id uuid, node_paths text[],
  unblocked_by text, unblocks_at timestamptz, reasons text[], unblocked_by_each text[])
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $workflow_run_quota_pause$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_tenant stepquota.tenants;
  v_wait stepquota.workflow_run_waits;
  v_quota stepquota.workflow_step_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._host_find_run(p_tenant, p_run_id);
  if v_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if v_wait.wait_id is null then
    return;
  end if;
  v_quota := stepquota._summarize_quota((stepquota._find_quota(p_tenant, v_now)).quota);
  v_tenant := stepquota._host_find_tenant(p_tenant);
  reasons := stepquota._list_holds(v_tenant, v_run.held_at is not null);
  unblocked_by_each := stepquota._explain_holds(reasons, v_tenant, v_run);
  period_start := v_quota.period_start;
  period_end := v_quota.period_end;
  used_count := v_quota.used_count;
  effective_limit := v_quota.effective_limit;
  period_source := v_quota.period_source;
  limit_source := v_quota.limit_source;
  paused_since := v_wait.created_at;
  wait_id := v_wait.wait_id;
  node_paths := v_wait.node_paths;
  if not v_quota.allowed then
    if reasons = '{}' then
      unblocks_at := v_quota.period_end;
    end if;
    reasons := reasons || 'quota'::text;
    unblocked_by_each := unblocked_by_each || 'a higher limit, or the next period'::text;
  elsif reasons = '{}' then
    reasons := array['quota'];
    unblocked_by_each := array[case
      when stepquota._count_resumable_units(
             (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant), v_now) = 0
      then 'a scan: the units left are promised to runs resumed before'
      else 'a scan: units are free' end];
    select greatest(t.due_at, v_now) into unblocks_at from stepquota.paused_tenants t where t.tenant = p_tenant;
  end if;
  reason := reasons[1];
  unblocked_by := unblocked_by_each[1];
  return next;
end;
$workflow_run_quota_pause$;

comment on function stepquota._pause_run(stepquota.workflow_runs, text, text, timestamptz, jsonb, timestamptz) is
  'Pauses a run at a path; answers the open wait.';
comment on function stepquota._share_policy() is 'Keeps changes for all tenants out, or says that one is under way.';
comment on function stepquota._leave_quota_wait(text, text, text, timestamptz) is 'Takes a path out of the run''s open quota wait.';
comment on function stepquota._list_control_step_types() is 'Types of steps that contain or await others.';
comment on function stepquota._goes_on(stepquota.workflow_runs) is 'Whether any branch of a run works or was resumed.';
comment on function stepquota._settle_run_status(stepquota.workflow_runs) is 'Sets a run WAITING when none of its branches goes on.';
comment on function stepquota.workflow_run_quota_pause(text, text) is
  'Why a run is paused: reason, the first of reasons (tenant_suspended, operator_hold, quota: those that are left), the period and its figures of now, paused_since, the wait and its paths, what lifts the first reason (unblocked_by; unblocked_by_each for all, in their order) and when (unblocks_at; NULL is unknown). No row if it is not paused by quota. WQ001 bad key, WQ002 unknown run.';
