-- Bringing paused runs back: for one tenant, by hand, and at once when its capacity was raised.
-- Resuming consumes nothing: the runtime reserves again when it re-enters the step.

-- The units that can be handed out: those left, less those promised already. NULL is unlimited.
create or replace function stepquota._count_resumable_units(p_quota stepquota.workflow_step_quotas, p_now timestamptz)
returns bigint
language plpgsql
stable
as $_count_resumable_units$
begin
  if p_quota.effective_limit is null or p_quota.enforcement = 'shadow' then
    return null;
  end if;
  return greatest(p_quota.effective_limit
    - stepquota._sum_usage(p_quota.tenant, p_quota.period_start)
    - stepquota._count_promised_units(p_quota.tenant, p_now), 0);
end;
$_count_resumable_units$;

-- Resumes runs at the paths of their quota waits, oldest place first, as many paths as there may be (NULL:
-- all); the last one perhaps at some of its paths, and the others go on waiting. Waits whose run has ended
-- are closed and logged. Statements for all of them together, whatever their number.
-- Locks: the caller holds the runs and the quota row.
create or replace function stepquota._resume_runs(
  p_tenant text, p_run_ids text[], p_max_paths bigint, p_by text, p_details jsonb, p_now timestamptz,
  out resumption_ids uuid[], out paths_resumed bigint, out waits_closed integer)
language plpgsql
volatile
as $_resume_runs$
declare
  v_ended jsonb[];
  v_ended_run_ids text[];
  v_ended_wait_ids uuid[];
  v_run_ids text[];
  v_runtimes text[];
  v_wait_ids uuid[];
  v_resolved_ids uuid[];
  v_paths text[];
  v_paths_left text[];
  v_details jsonb[];
begin
  -- Read now, since whoever had a run before may have closed its wait or changed its paths. The order is
  -- that of the list throughout.
  select array_agg(r.run_id) filter (where r.has_ended), array_agg(r.wait_id) filter (where r.has_ended),
         array_agg(jsonb_build_object('wait_id', r.wait_id, 'run_status', r.run_status)) filter (where r.has_ended),
         array_agg(r.run_id) filter (where r.goes_on), array_agg(r.runtime) filter (where r.goes_on),
         array_agg(r.wait_id) filter (where r.goes_on), array_agg(r.resumption_id) filter (where r.goes_on),
         array_agg(r.wait_id) filter (where r.goes_on and r.paths_left = '{}'),
         -- Arrays of different lengths do not fit an array: they go as texts.
         array_agg(r.paths::text) filter (where r.goes_on),
         array_agg(r.paths_left::text) filter (where r.goes_on and r.paths_left <> '{}'),
         array_agg(p_details || jsonb_build_object('by', p_by, 'wait_id', r.wait_id,
           'resumption_id', r.resumption_id, 'node_paths', to_jsonb(r.paths), 'paused_since', r.paused_since))
           filter (where r.goes_on),
         sum(cardinality(r.paths)) filter (where r.goes_on)
    into v_ended_run_ids, v_ended_wait_ids, v_ended, v_run_ids, v_runtimes, v_wait_ids, resumption_ids,
         v_resolved_ids, v_paths, v_paths_left, v_details, paths_resumed
    from (select q.run_id, q.runtime, q.wait_id, q.run_status, q.paused_since, q.has_ended,
                 not q.has_ended and (p_max_paths is null or q.paths_before < p_max_paths) as goes_on,
                 gen_random_uuid() as resumption_id,
                 q.node_paths[:coalesce(p_max_paths - q.paths_before, cardinality(q.node_paths))] as paths,
                 coalesce(q.node_paths[p_max_paths - q.paths_before + 1:], '{}') as paths_left
            from (select w.*, w.run_status not in ('RUNNING', 'WAITING') as has_ended,
                         coalesce(sum(cardinality(w.node_paths)) filter (where w.run_status in ('RUNNING', 'WAITING'))
                           over (rows between unbounded preceding and 1 preceding), 0) as paths_before
                    from stepquota._host_list_quota_waits(p_tenant, p_run_ids) w) q) r;
  waits_closed := coalesce(cardinality(v_ended_wait_ids), 0);
  if waits_closed > 0 then
    perform stepquota._host_close_waits(p_tenant, v_ended_wait_ids, 'CANCELED', p_now);
    perform stepquota._host_add_logs(p_tenant, v_ended_run_ids, 'warning', 'quota wait closed: the run had ended',
      v_ended, p_now);
  end if;
  resumption_ids := coalesce(resumption_ids, '{}');
  paths_resumed := coalesce(paths_resumed, 0);
  if resumption_ids = '{}' then
    return;
  end if;
  perform stepquota._host_close_waits(p_tenant, v_resolved_ids, 'RESOLVED', p_now);
  if v_paths_left is not null then
    perform stepquota._host_set_wait_paths(p_tenant, v_wait_ids[cardinality(v_wait_ids)], v_paths_left[1]::text[]);
  end if;
  perform stepquota._host_set_runs(p_tenant, v_run_ids, 'RUNNING');
  perform stepquota._add_resumptions(p_tenant, resumption_ids, v_run_ids, v_runtimes, v_wait_ids, 'quota', v_paths, p_now);
  perform stepquota._host_add_logs(p_tenant, v_run_ids, 'info', 'resumed', v_details, p_now);
  perform stepquota._record_events(p_tenant, 'run_resumed', 'info', v_run_ids, v_details, p_now);
end;
$_resume_runs$;

-- Closes waits of runs that were deleted, so that they do not keep their tenant among the paused ones.
create or replace function stepquota._close_waits_of_vanished_runs(p_tenant text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_close_waits_of_vanished_runs$
declare
  v_run_ids text[];
  v_wait_ids uuid[];
begin
  select array_agg(v.run_id), array_agg(v.wait_id) into v_run_ids, v_wait_ids
    from stepquota._host_list_vanished_runs(p_tenant, 1000) v;
  if v_wait_ids is not null then
    perform stepquota._host_close_waits(p_tenant, v_wait_ids, 'CANCELED', p_now);
    perform stepquota._host_add_logs(p_tenant, v_run_ids, 'warning', 'quota wait closed: there is no such run',
      array(select jsonb_build_object('wait_id', w.wait_id) from unnest(v_wait_ids) as w (wait_id)), p_now);
  end if;
end;
$_close_waits_of_vanished_runs$;

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
  v_wanted integer;
  v_run_ids text[];
  v_resumed record;
  v_due_at timestamptz;
begin
  runs_resumed := 0;
  select p.* into v_policy from stepquota.policy p;
  v_capacity := stepquota._count_resumable_units(p_quota, p_now);

  skipped_because := (stepquota._list_holds(stepquota._host_find_tenant(p_quota.tenant), false))[1];
  if skipped_because is not null then
    v_due_at := p_now + v_policy.staleness;
  else
    loop
      v_wanted := least(p_max_runs - runs_resumed, v_capacity);
      exit when v_wanted <= 0;
      -- Those that somebody is at are passed over, and the tenant stays due.
      v_run_ids := stepquota._host_lock_queued_runs_if_free(p_quota.tenant, v_wanted);
      v_resumed := stepquota._resume_runs(p_quota.tenant, v_run_ids, v_capacity, p_by,
        jsonb_build_object('period_start', p_quota.period_start), p_now);
      v_capacity := v_capacity - v_resumed.paths_resumed;
      runs_resumed := runs_resumed + cardinality(v_resumed.resumption_ids);
      if v_run_ids = '{}' and runs_resumed = 0 then
        perform stepquota._close_waits_of_vanished_runs(p_quota.tenant, p_now);
      end if;
      exit when cardinality(v_run_ids) < v_wanted
        or v_resumed.resumption_ids = '{}' and v_resumed.waits_closed = 0;
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
  v_quota stepquota.workflow_step_quotas;
  v_capacity bigint;
  v_answer stepquota.workflow_run_resume;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._host_lock_run(p_tenant, p_run_id);
  perform stepquota._check_run_can_be_resumed(p_tenant, p_run_id, v_run);

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
  elsif v_quota.enforcement = 'enforce' and v_answer.used_count >= v_quota.effective_limit then
    v_answer.reason := 'quota_exhausted';
  elsif v_capacity <= 0 then
    v_answer.reason := 'no_capacity';
  else
    v_answer.resumption_id := (stepquota._resume_runs(p_tenant, array[p_run_id], v_capacity, 'operator',
      jsonb_build_object('reason', p_reason, 'operator', session_user, 'period_start', v_quota.period_start),
      v_now)).resumption_ids[1];
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
comment on function stepquota._resume_runs(text, text[], bigint, text, jsonb, timestamptz) is 'Resumes runs at up to so many paths of their quota waits.';
comment on function stepquota._close_waits_of_vanished_runs(text, timestamptz) is 'Closes quota waits of runs that were deleted.';
comment on function stepquota._resume_tenant(stepquota.workflow_step_quotas, integer, text, timestamptz) is 'Resumes what can go on of one tenant.';
comment on function stepquota._refresh_and_resume(text[], text, timestamptz) is 'Refreshes quotas whose inputs changed and resumes what can go on, within policy''s bounds.';
comment on function stepquota._make_all_quotas_stale() is 'Makes every stored quota stale.';
comment on function stepquota._mark_due(text[], timestamptz) is 'Marks paused tenants due.';
comment on function stepquota._check_run_can_be_resumed(text, text, stepquota.workflow_runs) is 'Raises unless the run is paused by quota where it stands.';
comment on function stepquota.refresh_workflow_step_quota(text) is
  'Looks at the tenant''s inputs again, stores the quota and resumes what can go on; answers the summary. WQ001 for a tenant that cannot be one.';
comment on function stepquota.resume_workflow_run(text, text, text) is
  'Resumes one paused run by hand, for the reason given. resumed = false with reason quota_exhausted, no_capacity (the units left are promised to runs already resumed) or held is an answer, with used, limit, period and sources. WQ001 bad key, WQ002 unknown run, WQ003 not waiting, WQ004 not paused by quota, WQ005 paused at another node than where it stands, WQ006 ended.';
