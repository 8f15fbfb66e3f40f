-- The reservation: one unit, exactly, in the caller's transaction.

-- Takes one unit or says why not. The guarded UPDATE of the lane is what makes the limit exact: of any
-- number of callers, those whose UPDATE finds room commit, and no others.
--
-- A denial is a plain read of quota row and lane in one statement. It counts only if the lane is used
-- up there and the quota has not changed since it was chosen; else the decision starts over.
--
-- p_found is the quota to decide by, as _find_quota answered it or as the caller holds it locked.
-- p_unledgered_units is 1 for a caller that keeps its own ledger, 0 when a ledger row goes with it.
-- Locks: the lane, waiting for who has it; the quota row only if somebody else is changing it. A lane
-- that does not serve after the wait would stay locked, so the attempt is rolled back.
create or replace function stepquota._take_unit(
  p_tenant text, p_found stepquota._found_quota, p_unledgered_units integer, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_take_unit$
declare
  v_found stepquota._found_quota := p_found;
  v_quota stepquota.workflow_step_quotas := p_found.quota;
  v_version bigint;
  v_used_count bigint;
  v_is_exhausted boolean;
  v_allowed boolean;
begin
  loop
    begin
      update stepquota.workflow_step_usage_lanes l
         set used_count = l.used_count + 1, unledgered_count = l.unledgered_count + p_unledgered_units
       where l.tenant = p_tenant and l.period_start = v_quota.period_start and l.lane = 0
         and (l.allowance is null or l.used_count < l.allowance)
      returning l.used_count into v_used_count;
      if found then
        perform stepquota._debug_reservation(v_quota, v_used_count);
        v_allowed := true;
        exit;
      end if;
      raise exception using errcode = 'WQ000', message = 'the lane does not serve';
    exception when sqlstate 'WQ000' then
      null;  -- never leaves this function: it gives the lane's lock back
    end;

    select q.version, l.used_count, l.used_count >= l.allowance
      into v_version, v_used_count, v_is_exhausted
      from stepquota.workflow_step_quotas q
      left join stepquota.workflow_step_usage_lanes l
        on l.tenant = q.tenant and l.period_start = v_quota.period_start and l.lane = 0
     where q.tenant = p_tenant;
    if v_is_exhausted and v_version = v_quota.version then
      if v_found.is_trusted then
        v_allowed := false;
        exit;
      end if;
      -- Somebody is changing this quota: nothing may be denied from what it was before.
      v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
      v_found.is_trusted := true;
    elsif v_version is distinct from v_quota.version then
      v_found := stepquota._find_quota(p_tenant, p_now);
      v_quota := v_found.quota;
    elsif v_used_count is null then
      -- The lane is gone, by hand or by a restore: without one there would be no end to this loop.
      v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
      perform stepquota._give_limit_to_lane(p_tenant, v_quota.period_start, v_quota.effective_limit);
    end if;
  end loop;
  return stepquota._describe_quota(v_quota, v_used_count, v_allowed);
end;
$_take_unit$;

-- A reservation leaves no row but the counter. Whoever debugs sees one message with all its figures;
-- building it is saved where nobody listens.
create or replace function stepquota._debug_reservation(p_quota stepquota.workflow_step_quotas, p_used_count bigint)
returns void
language plpgsql
stable
as $_debug_reservation$
begin
  if current_setting('client_min_messages') like 'debug%' or current_setting('log_min_messages') like 'debug%' then
    raise debug using
      message = 'workflow step reserved',
      detail = jsonb_build_object('tenant', p_quota.tenant, 'used_count', p_used_count,
        'effective_limit', p_quota.effective_limit, 'period_start', p_quota.period_start,
        'period_end', p_quota.period_end, 'period_source', p_quota.period_source,
        'limit_source', p_quota.limit_source, 'tier', p_quota.tier)::text;
  end if;
end;
$_debug_reservation$;

-- What is recorded when a tenant is denied: the first time a period.
create or replace function stepquota._record_exhaustion(
  p_tenant text, p_quota stepquota.workflow_step_quota, p_run_id text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_exhaustion$
begin
  perform stepquota._record_event_once(p_tenant, p_quota.period_start, 'quota_exhausted', 'warning', p_run_id,
    jsonb_build_object('used_count', p_quota.used_count, 'effective_limit', p_quota.effective_limit,
      'period_start', p_quota.period_start, 'period_end', p_quota.period_end,
      'period_source', p_quota.period_source, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier), p_now);
end;
$_record_exhaustion$;

-- One unit for a caller that keeps its own ledger. A denial is an answer, never an error.
-- Locks: perhaps the quota row without waiting; the lane. SQLSTATEs: WQ001; 55P03 under lock_timeout;
-- 40001 under REPEATABLE READ and SERIALIZABLE when another reservation committed since the snapshot.
create or replace function stepquota.reserve_workflow_step(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reserve_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  v_quota := stepquota._take_unit(p_tenant, stepquota._find_quota(p_tenant, v_now), 1, v_now);
  if not v_quota.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_quota, null, v_now);
  end if;
  return v_quota;
end;
$reserve_workflow_step$;

comment on function stepquota._take_unit(text, stepquota._found_quota, integer, timestamptz) is 'Takes one unit of the tenant''s quota, or says that none is free.';
comment on function stepquota._debug_reservation(stepquota.workflow_step_quotas, bigint) is 'One debug message a reservation.';
comment on function stepquota._record_exhaustion(text, stepquota.workflow_step_quota, text, timestamptz) is 'Records that a tenant was denied, once a period.';
comment on function stepquota.reserve_workflow_step(text) is
  'Takes one step of the tenant''s quota, in the caller''s transaction: rolled back with it. allowed = false is a denial, which is data and no error. For callers that keep their own ledger; others use start_workflow_step. WQ001 for a tenant that cannot be one.';
