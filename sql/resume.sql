-- Bringing paused runs back: for one tenant, by hand, and at once when its capacity was raised.
-- Resuming consumes nothing: the runtime reserves again when it re-enters the step.

-- The units that can be handed out: those left, less those promised already. NULL is unlimited.
create or replace function stepquota._count_resumable_units(p_quota stepquota.workflow_step_quotas, p_now timestamptz)
returns bigint
language plpgsql
stable
as $_count_resumable_units$
begin
  if p_quota.effective_limit is null then
    return null;
  end if;
  return greatest(p_quota.effective_limit
    - stepquota._sum_usage(p_quota.tenant, p_quota.period_start)
    - stepquota._count_promised_units(p_quota.tenant, p_now), 0);
end;
$_count_resumable_units$;

-- Resumes one run at some of the paths of its quota wait; those that are not handed out go on waiting.
-- Locks: the caller holds the run and the quota row.
create or replace function stepquota._resume_quota_wait(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_max_paths bigint,
  p_by text, p_details jsonb, p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_resume_quota_wait$
declare
  v_paths text[] := p_wait.node_paths;
  v_resumption_id uuid;
begin
  if p_max_paths < cardinality(v_paths) then
    perform stepquota._host_set_wait_paths(p_run.tenant, p_wait.wait_id, v_paths[p_max_paths + 1:]);
    v_paths := v_paths[:p_max_paths];
  else
    perform stepquota._host_close_wait(p_run.tenant, p_wait.wait_id, 'RESOLVED', null, p_now);
  end if;
  perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'RUNNING', p_run.node_path);
  v_resumption_id := stepquota._add_resumption(p_run, p_wait, v_paths, p_now);
  p_details := p_details || jsonb_build_object('by', p_by, 'wait_id', p_wait.wait_id,
    'resumption_id', v_resumption_id, 'node_paths', to_jsonb(v_paths), 'paused_since', p_wait.created_at);
  perform stepquota._host_add_log(p_run.tenant, p_run.run_id, 'info', 'resumed', p_details, p_now);
  perform stepquota._record_event(p_run.tenant, 'run_resumed', 'info', p_run.run_id, p_details, p_now);
  return v_resumption_id;
end;
$_resume_quota_wait$;

-- Resumes what can go on of one tenant, oldest place first, and says when to look again.
-- skipped_because is quota_exhausted, no_capacity, tenant_suspended, operator_hold, or NULL.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE and has refreshed it. Runs without waiting:
-- here quota goes before run, against the usual order.
create or replace function stepquota._resume_tenant(
  p_quota stepquota.workflow_step_quotas, p_max_runs integer, p_by text, p_now timestamptz,
  out runs_resumed integer, out skipped_because text)
language plpgsql
volatile
as $_resume_tenant$
declare
  v_policy stepquota.policy;
  v_capacity bigint;
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
  v_due_at timestamptz;
begin
  runs_resumed := 0;
  select p.* into v_policy from stepquota.policy p;
  v_capacity := stepquota._count_resumable_units(p_quota, p_now);

  skipped_because := (stepquota._list_holds(stepquota._host_find_tenant(p_quota.tenant), false))[1];
  if skipped_because is not null then
    v_due_at := p_now + v_policy.staleness;
  else
    for v_wait in select w.* from stepquota._host_list_quota_queue(p_quota.tenant) w loop
      exit when v_capacity <= 0 or runs_resumed >= p_max_runs;
      v_run := stepquota._host_lock_run_if_free(p_quota.tenant, v_wait.run_id);
      continue when v_run.run_id is null;  -- somebody is at it: the tenant stays due
      -- Whoever had the run before us may have closed the wait or changed its paths.
      v_wait := stepquota._host_find_quota_wait(p_quota.tenant, v_run.run_id);
      continue when v_wait.wait_id is null or v_wait.is_held;
      if v_run.status not in ('RUNNING', 'WAITING') then
        perform stepquota._host_close_wait(v_run.tenant, v_wait.wait_id, 'CANCELED', null, p_now);
        perform stepquota._host_add_log(v_run.tenant, v_run.run_id, 'warning', 'quota wait closed: the run had ended',
          jsonb_build_object('wait_id', v_wait.wait_id, 'run_status', v_run.status), p_now);
        continue;
      end if;
      perform stepquota._resume_quota_wait(v_run, v_wait, coalesce(v_capacity, cardinality(v_wait.node_paths)), p_by,
        jsonb_build_object('period_start', p_quota.period_start), p_now);
      v_capacity := v_capacity - cardinality(v_wait.node_paths);
      runs_resumed := runs_resumed + 1;
    end loop;
    if v_capacity <= 0 then
      skipped_because := case
        when stepquota._sum_usage(p_quota.tenant, p_quota.period_start) >= p_quota.effective_limit
        then 'quota_exhausted' else 'no_capacity' end;
    end if;
    v_due_at := case skipped_because
      when 'quota_exhausted' then p_quota.valid_until
      when 'no_capacity' then least(p_quota.valid_until, p_now + v_policy.resumption_counts_for)
      else p_now end;
  end if;

  if runs_resumed > 0 then
    perform stepquota._notify_resumptions();
  end if;
  if v_due_at > p_now and not stepquota._share_policy() then
    v_due_at := least(v_due_at, p_now + interval '1 second');
  end if;
  if stepquota._host_has_quota_queue(p_quota.tenant) then
    update stepquota.paused_tenants set due_at = v_due_at where tenant = p_quota.tenant;
    if not found then
      insert into stepquota.paused_tenants (tenant, due_at, paused_at) values (p_quota.tenant, v_due_at, p_now)
      on conflict (tenant) do nothing;
    end if;
    if skipped_because is not null and runs_resumed = 0 then
      perform stepquota._record_event_once(p_quota.tenant, p_quota.period_start, 'resume_skipped_' || skipped_because,
        'info', null, jsonb_build_object('reason', skipped_because, 'due_at', v_due_at), p_now);
    end if;
  else
    skipped_because := null;
    delete from stepquota.paused_tenants where tenant = p_quota.tenant;
  end if;
end;
$_resume_tenant$;

-- After inputs of these tenants changed: refreshes their quotas and resumes what can go on, in this
-- transaction up to policy's bounds. Tenants beyond them are marked due, and the epoch makes their
-- stored quotas stale, for the scan.
-- Locks: the policy row if there are so many; quota rows in tenant order, each FOR NO KEY UPDATE, then as
-- _resume_tenant; then as _mark_due.
create or replace function stepquota._refresh_and_resume(p_tenants text[], p_by text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_refresh_and_resume$
declare
  v_policy stepquota.policy;
  v_tenants text[];
  v_tenant text;
  v_quota stepquota.workflow_step_quotas;
  v_runs_left integer;
begin
  select p.* into v_policy from stepquota.policy p;
  v_tenants := array(select distinct t.tenant from unnest(p_tenants) as t (tenant) where t.tenant is not null order by 1);
  if cardinality(v_tenants) > v_policy.at_once_tenants then
    perform stepquota._make_all_quotas_stale();
  end if;
  v_runs_left := v_policy.at_once_runs;
  foreach v_tenant in array v_tenants[:v_policy.at_once_tenants] loop
    v_quota := stepquota._lock_and_refresh_quota(v_tenant, p_now);
    if v_runs_left > 0 and exists (select 1 from stepquota.paused_tenants t where t.tenant = v_tenant) then
      v_runs_left := v_runs_left - (stepquota._resume_tenant(v_quota, v_runs_left, p_by, p_now)).runs_resumed;
    end if;
  end loop;
  perform stepquota._mark_due(v_tenants[v_policy.at_once_tenants + 1:], p_now);
end;
$_refresh_and_resume$;

-- For inputs of very many tenants: every stored quota is resolved again before it is next used.
-- Locks: the policy row, and so before any quota row, or two such changes could wait for each other.
create or replace function stepquota._make_all_quotas_stale()
returns void
language plpgsql
volatile
as $_make_all_quotas_stale$
begin
  update stepquota.policy set epoch = epoch + 1;
end;
$_make_all_quotas_stale$;

-- The next scan looks at these tenants, of whom it is enough that they are paused.
-- Locks: paused_tenants, without waiting: whoever has such a row has the tenant's quota row, and may wait
-- for one that is held here. What is passed over is found by the scan's look for edited inputs.
create or replace function stepquota._mark_due(p_tenants text[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_mark_due$
declare
  v_tenant text;
begin
  for v_tenant in
    select t.tenant from stepquota.paused_tenants t
     where t.tenant = any (p_tenants) and t.due_at > p_now
     order by t.tenant
  loop
    perform 1 from stepquota.paused_tenants t where t.tenant = v_tenant for no key update skip locked;
    if found then
      update stepquota.paused_tenants set due_at = p_now where tenant = v_tenant and due_at > p_now;
    end if;
  end loop;
end;
$_mark_due$;

-- Looks at the tenant's inputs again and resumes what can go on.
-- Locks: as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.refresh_workflow_step_quota(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $refresh_workflow_step_quota$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._refresh_and_resume(array[p_tenant], 'refresh', v_now);
  return stepquota._summarize_quota(
    (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
end;
$refresh_workflow_step_quota$;

-- Resumes one run by hand, without looking at its place in the queue and never past the quota.
-- Locks: the run, then the quota row FOR NO KEY UPDATE.
-- SQLSTATEs: WQ001, WQ002, WQ003, WQ004, WQ005, WQ006.
create or replace function stepquota.resume_workflow_run(p_tenant text, p_run_id text, p_reason text)
returns stepquota.workflow_run_resume
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resume_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_wait stepquota.workflow_run_waits;
  v_quota stepquota.workflow_step_quotas;
  v_capacity bigint;
  v_answer stepquota.workflow_run_resume;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._host_lock_run(p_tenant, p_run_id);
  perform stepquota._check_run_can_be_resumed(p_tenant, p_run_id, v_run);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);

  v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
  v_answer.resumed := false;
  v_answer.used_count := stepquota._sum_usage(p_tenant, v_quota.period_start);
  v_answer.effective_limit := v_quota.effective_limit;
  v_answer.period_start := v_quota.period_start;
  v_answer.period_end := v_quota.period_end;
  v_answer.period_source := v_quota.period_source;
  v_answer.limit_source := v_quota.limit_source;
  v_capacity := stepquota._count_resumable_units(v_quota, v_now);
  if stepquota._list_holds(stepquota._host_find_tenant(p_tenant), v_run.held_at is not null) <> '{}' then
    v_answer.reason := 'held';
  elsif v_answer.used_count >= v_quota.effective_limit then
    v_answer.reason := 'quota_exhausted';
  elsif v_capacity <= 0 then
    v_answer.reason := 'no_capacity';
  else
    v_answer.resumption_id := stepquota._resume_quota_wait(v_run, v_wait,
      coalesce(v_capacity, cardinality(v_wait.node_paths)), 'operator',
      jsonb_build_object('reason', p_reason, 'operator', session_user, 'period_start', v_quota.period_start), v_now);
    perform stepquota._notify_resumptions();
    if not stepquota._host_has_quota_queue(p_tenant) then
      delete from stepquota.paused_tenants where tenant = p_tenant;
    end if;
    v_answer.resumed := true;
    v_answer.reason := 'resumed';
  end if;
  if not v_answer.resumed then
    perform stepquota._record_event(p_tenant, 'resume_refused', 'info', p_run_id,
      jsonb_build_object('by', 'operator', 'operator', session_user, 'reason', v_answer.reason,
        'operator_reason', p_reason, 'used_count', v_answer.used_count, 'effective_limit', v_answer.effective_limit),
      v_now);
  end if;
  return v_answer;
end;
$resume_workflow_run$;

-- Each misuse has its own SQLSTATE: WQ002, WQ006, WQ003, WQ004, WQ005.
create or replace function stepquota._check_run_can_be_resumed(
  p_tenant text, p_run_id text, p_run stepquota.workflow_runs)
returns void
language plpgsql
stable
as $_check_run_can_be_resumed$
declare
  v_wait stepquota.workflow_run_waits;
begin
  if p_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  perform stepquota._check_run_goes_on(p_run);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if p_run.status <> 'WAITING' then
    raise exception using
      errcode = 'WQ003',
      message = 'the run is not waiting',
      detail = format('Tenant %L, run %L is %s.', p_tenant, p_run_id, p_run.status),
      hint = case when v_wait.wait_id is null
        then 'It has nothing to resume from.'
        else 'One of its branches is paused while another goes on: the scan resumes it when there is quota.' end;
  end if;
  if v_wait.wait_id is null then
    raise exception using
      errcode = 'WQ004',
      message = 'the run is not paused by quota',
      detail = format('Tenant %L, run %L waits at %L for something else.', p_tenant, p_run_id, p_run.node_path),
      hint = 'Resolve what it waits for with resolve_workflow_run_wait.';
  end if;
  if p_run.node_path <> all (v_wait.node_paths) then
    raise exception using
      errcode = 'WQ005',
      message = 'the pause is not of the node where the run stands',
      detail = format('Tenant %L, run %L stands at %L; wait %s is of %s.', p_tenant, p_run_id, p_run.node_path,
        v_wait.wait_id, v_wait.node_paths),
      hint = 'The run has moved on since it was paused; let its runtime start its step again.';
  end if;
end;
$_check_run_can_be_resumed$;

comment on function stepquota._count_resumable_units(stepquota.workflow_step_quotas, timestamptz) is 'Units that may be handed out to paused runs; NULL is unlimited.';
comment on function stepquota._resume_quota_wait(stepquota.workflow_runs, stepquota.workflow_run_waits, bigint, text, jsonb, timestamptz) is 'Resumes a run at up to so many paths of its quota wait.';
comment on function stepquota._resume_tenant(stepquota.workflow_step_quotas, integer, text, timestamptz) is 'Resumes what can go on of one tenant.';
comment on function stepquota._refresh_and_resume(text[], text, timestamptz) is 'Refreshes quotas whose inputs changed and resumes what can go on, within policy''s bounds.';
comment on function stepquota._make_all_quotas_stale() is 'Makes every stored quota stale.';
comment on function stepquota._mark_due(text[], timestamptz) is 'Marks paused tenants due.';
comment on function stepquota._check_run_can_be_resumed(text, text, stepquota.workflow_runs) is 'Raises unless the run is paused by quota where it stands.';
comment on function stepquota.refresh_workflow_step_quota(text) is
  'Looks at the tenant''s inputs again, stores the quota and resumes what can go on; answers the summary. WQ001 for a tenant that cannot be one.';
comment on function stepquota.resume_workflow_run(text, text, text) is
  'Resumes one paused run by hand, for the reason given. resumed = false with reason quota_exhausted, no_capacity (the units left are promised to runs already resumed) or held is an answer, with used, limit, period and sources. WQ001 bad key, WQ002 unknown run, WQ003 not waiting, WQ004 not paused by quota, WQ005 paused at another node than where it stands, WQ006 ended.';
