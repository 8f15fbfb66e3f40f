-- Step attempts: the reservation, the ledger row and the run's place in one round trip, or the pause.

-- Starts an attempt, or says that it was started before, or pauses the run.
--
-- Asking twice for the same attempt counts once: its ledger row is the answer, whatever the quota says
-- now. On a WAITING run a free unit starts the step; that is how a resumed run goes on.
--
-- Nearly every call goes the short way: nothing stands in the way of the run, a unit is free at home, and
-- the attempt is new, which its key tells when it is written. What else was met is undone, and the long
-- way decides. The two statements of the unit are those of reserve_workflow_step, where the reasons are;
-- a test compares them.
--
-- Locks: the run; then perhaps the quota row without waiting, then the lane. When denied: the quota row
-- FOR SHARE, and the decision again, so that no raise of capacity slips between denial and pause.
-- SQLSTATEs: WQ001, WQ002, WQ006, WQ007.
create or replace function stepquota.start_workflow_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer default 1,
  p_step_type text default 'action', p_delivery bigint default null)
returns stepquota.workflow_step_start
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: every statement goes by a key, and planning a partitioned ledger each time costs more
-- than all the rest.
set plan_cache_mode = force_generic_plan
as $start_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_limit bigint;
  v_period_start timestamptz;
  v_period_end timestamptz;
  v_period_source text;
  v_limit_source text;
  v_tier text;
  v_granted_units bigint;
  v_subscription_id text;
  v_carried_count bigint;
  v_lane_count integer;
  v_exhausted_at_count bigint;
  v_alert_at_count bigint;
  v_own_count bigint;
  v_used_count bigint;
  v_step_id uuid;
  v_run stepquota.workflow_runs;
  v_step stepquota.workflow_run_steps;
  v_quota stepquota.workflow_step_quota;
  v_wait_id uuid;
  v_start stepquota.workflow_step_start;
begin
  -- One expression, since each costs more than what it says. Tenant and run are looked for by their keys:
  -- those that cannot be are not found.
  if (p_attempt > 0 and p_delivery is null and stepquota._is_node_path(p_node_path)
      and stepquota._is_name(p_step_type)) is true then
    v_run := stepquota._host_enter_run(p_tenant, p_run_id, p_node_path);
  end if;
  if v_run.ledger_month is not null then
    select q.effective_limit, q.period_start, q.period_end, q.period_source, q.limit_source, q.tier,
           q.granted_units, q.stripe_subscription_id, q.carried_count, q.lane_count, q.exhausted_at_count,
           q.alert_at_count
      into v_limit, v_period_start, v_period_end, v_period_source, v_limit_source, v_tier,
           v_granted_units, v_subscription_id, v_carried_count, v_lane_count, v_exhausted_at_count,
           v_alert_at_count
      from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and v_now >= q.trusted_from
       and q.epoch = (
         select p.epoch from stepquota.policy p
          where (p.bound_roles is null or stepquota._may_act_for(p_tenant, p.bound_roles))
            and (v_now < q.trusted_until
                 or v_now < q.valid_until and v_now >= p.confirmed_from and v_now < p.confirmed_until));
    if v_exhausted_at_count is null then
      update stepquota.workflow_step_usage_lanes l
         set used_count = l.used_count + 1, generation = (l.used_count + 1) >> 6
       where l.tenant = p_tenant
         and l.ctid = (
           select case when i.xmax = '0'::xid then i.ctid end from stepquota.workflow_step_usage_lanes i
            where i.tenant = p_tenant and i.period_start = v_period_start and i.lane = pg_backend_pid() % v_lane_count
              and i.generation between v_lane_count & 0 and v_lane_count | 2147483647
            order by i.tenant, i.period_start, i.lane, i.generation desc
            limit 1)
         and (l.allowance is null or l.used_count < l.allowance)
      returning l.used_count, v_carried_count + l.used_count + l.others_used_count into v_own_count, v_used_count;
      if v_used_count is null and v_lane_count = 1 then
        v_used_count := v_carried_count + stepquota._take_unit_after_wait(p_tenant, v_period_start, 0, v_now);
      end if;
      if v_used_count is not null then
        v_step_id := gen_random_uuid();
        if stepquota._host_insert_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month, v_step_id,
             p_step_type, v_period_start, v_now) then
          if v_used_count > v_limit or v_used_count >= v_alert_at_count
             or v_lane_count > 1 and (v_own_count & 31 = 0 or v_limit - v_used_count < v_lane_count * stepquota._get_lane_minimum())
             or stepquota._is_debugging() then
            if stepquota._is_count_due(v_own_count, v_used_count, v_limit, v_alert_at_count, v_lane_count)
               or v_used_count >= v_alert_at_count or stepquota._is_debugging() then
              v_used_count := stepquota._review_taken_unit(p_tenant, p_run_id, v_carried_count, v_lane_count,
                v_alert_at_count, v_limit, v_period_start, v_period_end, v_period_source, v_limit_source, v_tier, v_now);
            end if;
          end if;
          return ('started', v_step_id, null, true, v_used_count, v_limit,
            stepquota._count_units_left(v_limit, v_used_count), v_period_start, v_period_end, v_period_source,
            v_limit_source, v_tier, v_granted_units, v_subscription_id, 'STARTED')::stepquota.workflow_step_start;
        end if;
        perform stepquota._give_back_unit(p_tenant, v_period_start, v_lane_count);
      end if;
    end if;
    perform stepquota._host_set_run(p_tenant, p_run_id, v_run.status, v_run.node_path);
  end if;

  -- Several calls in one perform, here and below: each perform is a statement of its own, and those cost
  -- more than what they call.
  perform stepquota._check_tenant(p_tenant), stepquota._check_run_id(p_run_id),
    stepquota._check_node_path(p_node_path), stepquota._check_attempt(p_attempt),
    stepquota._check_name('p_step_type', p_step_type);

  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  if p_delivery is not null then
    perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  end if;
  v_step := stepquota._host_find_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month);
  if v_step.status <> 'STARTED' then
    return stepquota._describe_start('already_finished', v_step, null,
      stepquota._describe_period(p_tenant, v_step.period_start, v_now));
  end if;
  if v_run.ended_at is not null then
    perform stepquota._check_run_goes_on(v_run);
  end if;
  if v_step.status = 'STARTED' then
    perform stepquota._enter_resumed_path(p_tenant, p_run_id, p_node_path, v_now);
    return stepquota._describe_start('already_started', v_step, null,
      stepquota._describe_period(p_tenant, v_step.period_start, v_now));
  end if;

  if v_run.held_at is not null or stepquota._host_is_tenant_held(p_tenant) then
    v_start := stepquota._hold_start(v_run, p_node_path, v_now);
    if v_start.outcome is not null then
      return v_start;
    end if;
  end if;

  v_quota := stepquota._take_unit(p_tenant, p_run_id, 0, v_now);
  if not v_quota.allowed then
    v_quota := stepquota._take_unit_elsewhere(p_tenant,
      (stepquota._share_quota(p_tenant, v_now), true)::stepquota._found_quota, 0, v_now);
  end if;
  if not v_quota.allowed then
    v_wait_id := stepquota._pause_run(v_run, p_node_path, 'quota', v_quota.period_end,
      stepquota._describe_pause(v_quota), v_now);
    return stepquota._describe_start('quota_paused', null::stepquota.workflow_run_steps, v_wait_id, v_quota);
  end if;

  v_step.step_id := stepquota._start_attempt(v_run, p_node_path, p_attempt, p_step_type, v_quota.period_start, v_now);
  v_step.status := 'STARTED';
  v_run := stepquota._host_set_run(p_tenant, p_run_id, 'RUNNING', p_node_path);
  return stepquota._describe_start('started', v_step, null, v_quota);
end;
$start_workflow_step$;

-- Pauses a run that is held, or whose tenant is. Asked again behind the gate, so that no release slips
-- between that and the pause; released meanwhile, the answer is NULL.
-- Locks: the caller holds the run; the quota row FOR SHARE.
create or replace function stepquota._hold_start(p_run stepquota.workflow_runs, p_node_path text, p_now timestamptz)
returns stepquota.workflow_step_start
language plpgsql
volatile
as $_hold_start$
declare
  v_quota stepquota.workflow_step_quota;
  v_holds text[];
  v_wait_id uuid;
begin
  v_quota := stepquota._summarize_quota(stepquota._share_quota(p_run.tenant, p_now));
  v_holds := stepquota._list_holds(stepquota._host_find_tenant(p_run.tenant), p_run.held_at is not null);
  if v_holds = '{}' then
    return null;
  end if;
  v_quota.allowed := false;
  v_wait_id := stepquota._pause_run(p_run, p_node_path, v_holds[1], v_quota.period_end,
    stepquota._describe_pause(v_quota), p_now);
  return stepquota._describe_start('held', null::stepquota.workflow_run_steps, v_wait_id, v_quota);
end;
$_hold_start$;

-- The ledger row of an attempt whose unit is taken; its path is back from any pause.
-- Locks: the caller holds the run.
create or replace function stepquota._start_attempt(
  p_run stepquota.workflow_runs, p_node_path text, p_attempt integer, p_step_type text,
  p_period_start timestamptz, p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_start_attempt$
declare
  v_step_id uuid := gen_random_uuid();
begin
  perform
    stepquota._host_insert_step(p_run.tenant, p_run.run_id, p_node_path, p_attempt, p_run.ledger_month, v_step_id,
      p_step_type, p_period_start, p_now),
    stepquota._enter_resumed_path(p_run.tenant, p_run.run_id, p_node_path, p_now),
    stepquota._leave_quota_wait(p_run.tenant, p_run.run_id, p_node_path, p_now);
  return v_step_id;
end;
$_start_attempt$;

-- A whole forEach in one round trip: starts what fits, in the order given, and pauses the run at the
-- first path that does not; the paths after it are neither started nor part of the pause.
-- Locks: as start_workflow_step, with units taken as by _take_units.
-- SQLSTATEs: WQ001, WQ002, WQ006, WQ007.
create or replace function stepquota.start_workflow_steps(
  p_tenant text, p_run_id text, p_node_paths text[], p_attempts integer[] default null,
  p_step_type text default 'action', p_delivery bigint default null)
returns setof stepquota.workflow_steps_start
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: every statement goes by a key, and planning a partitioned ledger each time costs more
-- than all the rest.
set plan_cache_mode = force_generic_plan
as $start_workflow_steps$
declare
  v_now timestamptz := stepquota._now();
  v_attempts integer[] := coalesce(p_attempts, array_fill(1, array[coalesce(cardinality(p_node_paths), 0)]));
  v_run stepquota.workflow_runs;
  v_new_count integer;
  v_holds text[] := array[]::text[];
  v_batch stepquota.workflow_steps_quota;
  v_quota stepquota.workflow_step_quota;
  v_units_left bigint := 0;
  v_visit record;
  v_step stepquota.workflow_run_steps;
  v_wait_id uuid;
  v_start stepquota.workflow_step_start;
  v_last_path text;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_name('p_step_type', p_step_type);
  if coalesce(cardinality(p_node_paths), 0) not between 1 and 10000 or array_ndims(p_node_paths) > 1 then
    perform stepquota._refuse_argument('p_node_paths', cardinality(p_node_paths)::text, 'a list of 1 to 10000 paths',
      'Start a longer forEach in several calls.');
  end if;
  if cardinality(v_attempts) <> cardinality(p_node_paths) then
    perform stepquota._refuse_argument('p_attempts', cardinality(v_attempts)::text, 'one attempt for each path',
      'Leave it out where all are first tries.');
  end if;
  for v_visit in select v.node_path, v.attempt from unnest(p_node_paths, v_attempts) as v (node_path, attempt) loop
    perform stepquota._check_node_path(v_visit.node_path);
    perform stepquota._check_attempt(v_visit.attempt);
  end loop;

  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  select count(*) into v_new_count
    from (select distinct v.node_path, v.attempt from unnest(p_node_paths, v_attempts) as v (node_path, attempt)) d
   where (stepquota._host_find_step(p_tenant, p_run_id, d.node_path, d.attempt, v_run.ledger_month)).step_id is null;
  if v_new_count > 0 then
    perform stepquota._check_run_goes_on(v_run);
    if v_run.held_at is not null or stepquota._host_is_tenant_held(p_tenant) then
      v_quota := stepquota._summarize_quota(stepquota._share_quota(p_tenant, v_now));
      -- Asked again behind the gate, so that no release slips between that and the pause.
      v_holds := stepquota._list_holds(stepquota._host_find_tenant(p_tenant), v_run.held_at is not null);
    end if;
    if v_holds = '{}' then
      v_batch := stepquota._take_units(p_tenant, v_new_count, true, true, v_now);
      v_units_left := v_batch.granted;
      if v_units_left < v_new_count then
        perform stepquota._record_exhaustion(p_tenant, stepquota._describe_batch(v_batch), p_run_id, v_now);
        -- Decided again behind the gate, so that no raise of capacity slips between denial and pause.
        perform stepquota._lock_and_refresh_quota(p_tenant, v_now);
        v_batch := stepquota._take_units(p_tenant, (v_new_count - v_units_left)::integer, true, true, v_now);
        v_units_left := v_units_left + v_batch.granted;
      end if;
      v_quota := stepquota._describe_batch(v_batch);
      perform stepquota._check_alerts(p_tenant, v_quota.period_start, v_quota.used_count, v_now);
      if v_units_left > 0 and v_quota.used_count > v_quota.effective_limit then
        perform stepquota._record_overrun(p_tenant, p_run_id, v_quota.used_count, v_quota.effective_limit,
          v_quota.period_start, v_now);
      end if;
    end if;
  end if;

  for v_visit in select v.node_path, v.attempt from unnest(p_node_paths, v_attempts) as v (node_path, attempt) loop
    v_step := stepquota._host_find_step(p_tenant, p_run_id, v_visit.node_path, v_visit.attempt, v_run.ledger_month);
    if v_step.status <> 'STARTED' then
      v_start := stepquota._describe_start('already_finished', v_step, null,
        stepquota._describe_period(p_tenant, v_step.period_start, v_now));
    elsif v_step.status = 'STARTED' then
      perform stepquota._check_run_goes_on(v_run);
      perform stepquota._enter_resumed_path(p_tenant, p_run_id, v_visit.node_path, v_now);
      v_start := stepquota._describe_start('already_started', v_step, null,
        stepquota._describe_period(p_tenant, v_step.period_start, v_now));
    elsif v_units_left > 0 then
      v_step.step_id := stepquota._start_attempt(v_run, v_visit.node_path, v_visit.attempt, p_step_type,
        v_quota.period_start, v_now);
      v_step.status := 'STARTED';
      v_units_left := v_units_left - 1;
      v_last_path := v_visit.node_path;
      v_quota.allowed := true;
      v_start := stepquota._describe_start('started', v_step, null, v_quota);
    else
      if v_last_path is not null then
        v_run := stepquota._host_set_run(p_tenant, p_run_id, 'RUNNING', v_last_path);
        v_last_path := null;
      end if;
      v_quota.allowed := false;
      if v_wait_id is null then
        v_wait_id := stepquota._pause_run(v_run, v_visit.node_path, coalesce(v_holds[1], 'quota'), v_quota.period_end,
          stepquota._describe_pause(v_quota), v_now);
      end if;
      v_start := stepquota._describe_start(case when v_holds = '{}' then 'quota_paused' else 'held' end,
        null::stepquota.workflow_run_steps, v_wait_id, v_quota);
    end if;
    return next (v_start.outcome, v_start.step_id, v_start.wait_id, v_start.allowed, v_start.used_count,
      v_start.effective_limit, v_start.remaining, v_start.period_start, v_start.period_end, v_start.period_source,
      v_start.limit_source, v_start.tier, v_start.granted_units, v_start.stripe_subscription_id, v_start.step_status,
      v_visit.node_path, v_visit.attempt)::stepquota.workflow_steps_start;
  end loop;
  if v_last_path is not null then
    perform stepquota._host_set_run(p_tenant, p_run_id, 'RUNNING', v_last_path);
  end if;
end;
$start_workflow_steps$;

-- The quota row, up to date and locked against every change of capacity until the caller's transaction
-- ends. If it must be refreshed first, the share is given back: two that held it and wanted more would
-- wait for each other for ever.
-- Locks: the quota row FOR SHARE, waiting; or FOR NO KEY UPDATE, waiting, then as _refresh_quota.
create or replace function stepquota._share_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_share_quota$
declare
  v_found stepquota._found_quota;
begin
  begin
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for share;
    v_found := stepquota._find_quota(p_tenant, p_now);
    if v_found.is_trusted then
      return v_found.quota;
    end if;
    raise exception using errcode = 'WQ000', message = 'the share is given back';
  exception when sqlstate 'WQ000' then
    null;  -- never leaves this function
  end;
  return stepquota._lock_and_refresh_quota(p_tenant, p_now);
end;
$_share_quota$;

create or replace function stepquota._describe_pause(p_quota stepquota.workflow_step_quota)
returns jsonb
language sql
immutable
as $_describe_pause$
  select jsonb_build_object('period_start', p_quota.period_start, 'period_end', p_quota.period_end,
    'used_count', p_quota.used_count, 'effective_limit', p_quota.effective_limit,
    'period_source', p_quota.period_source, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier);
$_describe_pause$;

-- The figures of now for the period that an attempt was counted in. Of an earlier period only the
-- counter is known for sure; limit and sources are those of the tenant's present quota.
create or replace function stepquota._describe_period(p_tenant text, p_period_start timestamptz, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_describe_period$
declare
  v_quota stepquota.workflow_step_quotas := (stepquota._find_quota(p_tenant, p_now)).quota;
  v_period stepquota.workflow_step_usage_periods;
begin
  if v_quota.period_start <> p_period_start then
    select p.* into v_period
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = p_period_start;
    v_quota.period_start := p_period_start;
    v_quota.period_end := v_period.period_end;
    v_quota.period_source := v_period.period_source;
  end if;
  return stepquota._describe_quota(v_quota, stepquota._sum_usage(p_tenant, p_period_start), true);
end;
$_describe_period$;

create or replace function stepquota._describe_start(
  p_outcome text, p_step stepquota.workflow_run_steps, p_wait_id uuid, p_quota stepquota.workflow_step_quota)
returns stepquota.workflow_step_start
language sql
immutable
as $_describe_start$
  select (p_outcome, p_step.step_id, p_wait_id, p_quota.allowed, p_quota.used_count, p_quota.effective_limit,
          p_quota.remaining, p_quota.period_start, p_quota.period_end, p_quota.period_source, p_quota.limit_source,
          p_quota.tier, p_quota.granted_units, p_quota.stripe_subscription_id, p_step.status
         )::stepquota.workflow_step_start;
$_describe_start$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_attempt(p_attempt integer)
returns void
language plpgsql
stable
as $_check_attempt$
begin
  if p_attempt is null or p_attempt < 1 then
    perform stepquota._refuse_argument('p_attempt', p_attempt::text, 'a number from 1', 'The first try is attempt 1.');
  end if;
end;
$_check_attempt$;

-- Locks: the run; then the step and the run's resumptions.
-- SQLSTATEs: WQ001, WQ002, WQ006, WQ007, WQ008, WQ009.
create or replace function stepquota.finish_workflow_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_status text,
  p_error jsonb default null, p_delivery bigint default null)
returns stepquota.workflow_run_steps
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: every statement goes by a key, and planning a partitioned ledger each time costs more
-- than all the rest.
set plan_cache_mode = force_generic_plan
as $finish_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_step stepquota.workflow_run_steps;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_node_path(p_node_path);
  perform stepquota._check_attempt(p_attempt);
  perform stepquota._check_one_of('p_status', p_status, array['SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED']);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  v_step := stepquota._host_find_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month);
  if v_step.step_id is null then
    raise exception using
      errcode = 'WQ008',
      message = 'the run has no such step attempt',
      detail = format('Tenant %L, run %L, path %L, attempt %s.', p_tenant, p_run_id, p_node_path, p_attempt),
      hint = 'Only an attempt that start_workflow_step has started can finish.';
  end if;
  if v_step.status = p_status then
    return v_step;
  end if;
  if v_step.status <> 'STARTED' then
    raise exception using
      errcode = 'WQ009',
      message = 'the step attempt has already finished',
      detail = format('Tenant %L, run %L, path %L, attempt %s is %s; asked for %s.',
        p_tenant, p_run_id, p_node_path, p_attempt, v_step.status, p_status),
      hint = 'A finished attempt keeps its status: start the next attempt.';
  end if;
  perform stepquota._check_run_goes_on(v_run);
  v_step := stepquota._host_finish_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month, p_status,
    p_error, v_now);
  -- Whoever finishes the step is back at its path, if a resumption had asked for that.
  perform stepquota._enter_resumed_path(p_tenant, p_run_id, p_node_path, v_now);
  perform stepquota._settle_run_status(v_run);
  return v_step;
end;
$finish_workflow_step$;

comment on function stepquota._share_quota(text, timestamptz) is 'The quota row, locked against changes of capacity.';
comment on function stepquota._describe_pause(stepquota.workflow_step_quota) is 'The circumstances of a pause.';
comment on function stepquota._describe_period(text, timestamptz, timestamptz) is 'The figures of now for a period an attempt was counted in.';
comment on function stepquota._describe_start(text, stepquota.workflow_run_steps, uuid, stepquota.workflow_step_quota) is 'The answer of start_workflow_step.';
comment on function stepquota._hold_start(stepquota.workflow_runs, text, timestamptz) is 'Pauses a run that is held; NULL if it was released meanwhile.';
comment on function stepquota._check_attempt(integer) is 'Raises WQ001 unless the attempt is 1 or more.';
comment on function stepquota.start_workflow_step(text, text, text, integer, text, bigint) is
  'Starts a step attempt: takes a unit, writes its ledger row and sets the run''s place, all in the caller''s transaction; or pauses the run. outcome: started; already_started (counted before, not finished); already_finished (do not execute; step_status says how); quota_paused (wait_id; a resumption will come); held (an operator holds the run or its tenant, or the tenant is suspended; as quota_paused otherwise). The key (run, node_path, attempt) makes it safe to ask again. step_type is free text; forEach, loop, parallel, event, human, time, timeout and retry are steps that contain or await others. delivery is the number a claim answered. WQ001 bad arguments, WQ002 unknown run, WQ006 ended, WQ007 a newer delivery was claimed.';
comment on function stepquota.finish_workflow_step(text, text, text, integer, text, jsonb, bigint) is
  'Finishes a started attempt as SUCCEEDED, FAILED, RETRY_SCHEDULED or CANCELED; the same again answers the same. Uncounts nothing. WQ001 bad arguments, WQ002 unknown run, WQ006 ended, WQ007 a newer delivery was claimed, WQ008 no such attempt, WQ009 finished with another status.';
comment on function stepquota._start_attempt(stepquota.workflow_runs, text, integer, text, timestamptz, timestamptz) is 'Writes the ledger row of an attempt whose unit is taken.';
comment on function stepquota.start_workflow_steps(text, text, text[], integer[], text, bigint) is
  'Starts many attempts of one run in one round trip, a row a path in the order given: what fits is started, at the first that does not the run is paused. The columns of start_workflow_step, then node_path and attempt. Paths after the pause answer quota_paused (or held) too: ask for them again when the run is resumed. At most 10000 paths; p_attempts NULL is attempt 1 for all. WQ001 bad arguments, WQ002 unknown run, WQ006 ended, WQ007 a newer delivery was claimed.';
