-- The stored quota: one row a tenant, so that a reservation reads no Stripe table. Its row is also the
-- gate: whoever changes a limit holds it FOR NO KEY UPDATE, whoever pauses a run holds it FOR SHARE.

-- Brings the stored quota in line with its inputs, makes the period and its lane, gives the lane the
-- limit, records what is worth recording, and marks the tenant due if there is more capacity now.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE (or there is none yet); then the lane.
create or replace function stepquota._refresh_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_refresh_quota$
declare
  v_resolved stepquota._resolved_quota;
  v_old stepquota.workflow_step_quotas;
  v_new stepquota.workflow_step_quotas;
  v_is_new_period boolean;
  v_is_known_period boolean := true;
  v_limit_before bigint;
  v_is_raised boolean;
  v_is_carried boolean;
  v_finding jsonb;
  v_mark text;
begin
  -- Locked here too, before anything is read: where the caller found no row, there may be one by now.
  select q.* into v_old from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
  v_resolved := stepquota._resolve_quota(p_tenant, p_now);
  v_new := v_resolved.quota;
  if v_old.tenant is null then
    insert into stepquota.workflow_step_quotas values (v_new.*) on conflict (tenant) do nothing;
    if not found then
      -- Somebody else made the row meanwhile; take their lock like everybody, and look at the inputs
      -- again: what was resolved before may be older than what they stored.
      select q.* into v_old from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
      v_resolved := stepquota._resolve_quota(p_tenant, p_now);
      v_new := v_resolved.quota;
    end if;
  end if;

  v_is_new_period := v_old.tenant is null or v_old.period_start <> v_new.period_start;
  v_limit_before := v_old.effective_limit;
  if v_is_new_period then
    -- A period that was left and is come back to had a limit of its own.
    select p.effective_limit into v_limit_before
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = v_new.period_start;
    v_is_known_period := found;
  end if;
  v_is_carried := v_is_new_period and stepquota._is_usage_carried(v_old, v_new);
  if v_old.tenant is not null and stepquota._settle_grants(v_old, v_new, v_is_carried, null, p_now) then
    select c.granted_units, v_new.step_limit + c.granted_units, least(v_new.valid_until, c.valid_until),
           least(v_new.trusted_until, c.valid_until)
      into v_new.granted_units, v_new.effective_limit, v_new.valid_until, v_new.trusted_until
      from stepquota._count_granted_units(p_tenant, v_new.period_start, p_now) c;
  end if;
  v_is_raised := v_is_new_period
    or v_old.enforcement = 'enforce' and v_new.enforcement = 'shadow'
    or v_old.effective_limit is not null
       and (v_new.effective_limit is null or v_new.effective_limit > v_old.effective_limit);
  if v_old.tenant is not null then
    v_new.version := v_old.version
      + case when (v_old.period_start, v_old.period_end, v_old.effective_limit, v_old.enforcement,
                   v_old.period_source, v_old.limit_source)
                  is distinct from
                  (v_new.period_start, v_new.period_end, v_new.effective_limit, v_new.enforcement,
                   v_new.period_source, v_new.limit_source)
             then 1 else 0 end;
    v_new.reported_period_start := v_old.reported_period_start;
    v_new.reported := v_old.reported;
    v_new.lane_count := v_old.lane_count;
    v_new.carried_count := v_old.carried_count;
    v_new.exhausted_at_count := v_old.exhausted_at_count;
  end if;

  if v_is_new_period then
    v_new.carried_count := stepquota._carry_usage(v_old, v_new, v_is_carried);
  end if;
  if v_is_new_period
     or (v_old.effective_limit, v_old.enforcement) is distinct from (v_new.effective_limit, v_new.enforcement) then
    v_new.lane_count := stepquota._fit_lanes(p_tenant, v_new.period_start, stepquota._get_lane_limit(v_new));
    v_new.exhausted_at_count := null;
  end if;
  if v_is_new_period or (v_old.period_end, v_old.period_source, v_old.effective_limit)
       is distinct from (v_new.period_end, v_new.period_source, v_new.effective_limit) then
    insert into stepquota.workflow_step_usage_periods
      (tenant, period_start, period_end, period_source, effective_limit, carried_count, created_at)
    values (p_tenant, v_new.period_start, v_new.period_end, v_new.period_source, v_new.effective_limit,
      v_new.carried_count, p_now)
    on conflict (tenant, period_start) do update
      set period_end = excluded.period_end, period_source = excluded.period_source,
          effective_limit = excluded.effective_limit, carried_count = excluded.carried_count;
  end if;

  if v_is_known_period and v_limit_before is distinct from v_new.effective_limit then
    perform stepquota._record_event(p_tenant, 'limit_changed', 'info', null, jsonb_build_object(
      'period_start', v_new.period_start, 'from', v_limit_before, 'to', v_new.effective_limit,
      'from_source', v_old.limit_source, 'to_source', v_new.limit_source), p_now);
  end if;
  for v_finding in select f.value from jsonb_array_elements(v_resolved.findings) f loop
    if v_new.reported_period_start is distinct from v_new.period_start then
      v_new.reported_period_start := v_new.period_start;
      v_new.reported := '{}';
    end if;
    -- Price and product may both be invalid: each is reported.
    v_mark := concat_ws(' ', v_finding ->> 'event_type', v_finding #>> '{details,object_id}');
    if v_mark <> all (v_new.reported) then
      v_new.reported := v_new.reported || v_mark;
      -- The marks are of one period; if this one was left and is come back to, the key knows.
      perform stepquota._record_event_under_key(p_tenant,
        stepquota._make_once_key(v_finding ->> 'event_type', v_new.period_start, v_finding #>> '{details,object_id}'),
        v_finding ->> 'event_type', v_finding ->> 'level', null,
        (v_finding -> 'details') || jsonb_build_object('period_start', v_new.period_start), p_now);
    end if;
  end loop;

  v_new := stepquota._arm_alerts(v_new, v_limit_before, v_is_known_period, p_now);

  update stepquota.workflow_step_quotas q
     set tier = v_new.tier, step_limit = v_new.step_limit, granted_units = v_new.granted_units,
         effective_limit = v_new.effective_limit, limit_source = v_new.limit_source,
         enforcement = v_new.enforcement, period_start = v_new.period_start, period_end = v_new.period_end, period_source = v_new.period_source,
         stripe_subscription_id = v_new.stripe_subscription_id,
         stripe_subscription_item_id = v_new.stripe_subscription_item_id,
         valid_until = v_new.valid_until, epoch = v_new.epoch, refreshed_at = v_new.refreshed_at,
         trusted_from = v_new.trusted_from, trusted_until = v_new.trusted_until,
         version = v_new.version, lane_count = v_new.lane_count, exhausted_at_count = v_new.exhausted_at_count,
         alert_at_count = v_new.alert_at_count, carried_count = v_new.carried_count,
         reported_period_start = v_new.reported_period_start, reported = v_new.reported
   where q.tenant = p_tenant;

  -- The next period's lane is made ahead, or its first insert would make everybody wait for one caller.
  -- Grants that go along are added when it begins.
  if p_now >= v_new.period_end - interval '1 hour' and v_new.step_limit is distinct from 0 then
    insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
    select p_tenant, v_new.period_end, 0, case when v_new.enforcement = 'enforce' then v_new.step_limit end
     where not exists (
       select 1 from stepquota.workflow_step_usage_lanes l
        where l.tenant = p_tenant and l.period_start = v_new.period_end);
  end if;

  if v_is_raised then
    update stepquota.paused_tenants set due_at = p_now where tenant = p_tenant and due_at > p_now;
  elsif v_old.valid_until is distinct from v_new.valid_until then
    update stepquota.paused_tenants set due_at = least(due_at, v_new.valid_until) where tenant = p_tenant;
  end if;
  return v_new;
end;
$_refresh_quota$;

-- Whether usage goes along into a new period. A renewal takes over nothing: it starts where the old period
-- ends. A period that begins before the old one has ended replaces it while it runs: then policy says
-- whether usage goes along, by default only for the same subscription.
create or replace function stepquota._is_usage_carried(
  p_old stepquota.workflow_step_quotas, p_new stepquota.workflow_step_quotas)
returns boolean
language plpgsql
stable
as $_is_usage_carried$
begin
  if p_old.tenant is null or p_new.period_start >= p_old.period_end or p_new.period_end <= p_old.period_start then
    return false;
  end if;
  return (
    select case when p_old.stripe_subscription_id = p_new.stripe_subscription_id
                then p.usage_on_moved_period else p.usage_on_other_period end = 'carry'
      from stepquota.policy p);
end;
$_is_usage_carried$;

-- What the new period takes over from the one it replaces.
--
-- Units counted in the new period before, when it was current already, were carried to the old one and
-- come back within its usage: only what they do not explain is carried.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; the old period's lanes in key order, waiting.
create or replace function stepquota._carry_usage(
  p_old stepquota.workflow_step_quotas, p_new stepquota.workflow_step_quotas, p_is_carried boolean)
returns bigint
language plpgsql
volatile
as $_carry_usage$
declare
  v_known bigint;
begin
  select p.carried_count into v_known
    from stepquota.workflow_step_usage_periods p
   where p.tenant = p_new.tenant and p.period_start = p_new.period_start;
  if not p_is_carried then
    return coalesce(v_known, 0);
  end if;
  -- The old lanes are closed at what they have used: who still reserves there starts over.
  perform stepquota._deal_lanes(p_old.tenant, p_old.period_start, 0);
  return greatest(
    stepquota._sum_usage(p_old.tenant, p_old.period_start)
    - (stepquota._sum_usage(p_new.tenant, p_new.period_start) - coalesce(v_known, 0)), 0);
end;
$_carry_usage$;

-- The quota row, locked against everybody who pauses runs or changes the limit, and up to date. For
-- who changes inputs, resumes or removes a paused tenant.
-- Locks: the quota row FOR NO KEY UPDATE, waiting; the lane if the limit changed.
create or replace function stepquota._lock_and_refresh_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_lock_and_refresh_quota$
begin
  perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
  return stepquota._refresh_quota(p_tenant, p_now);
end;
$_lock_and_refresh_quota$;

-- The quota to decide by: the stored one if it can be trusted; else refreshed, if its row is free;
-- else as stored while it is valid by the clock, or resolved without storing it; and only where its
-- lanes are not ready for that, after waiting for the row.
-- is_trusted is false where somebody else holds the row: such a quota may allow, but not deny.
-- Locks: the quota row without waiting, only when it must be refreshed.
create or replace function stepquota._find_quota(p_tenant text, p_now timestamptz)
returns stepquota._found_quota
language plpgsql
volatile
as $_find_quota$
declare
  v_quota stepquota.workflow_step_quotas;
  v_is_confirmed boolean;
  v_epoch bigint;
  v_is_stored boolean;
  v_resolved stepquota._resolved_quota;
begin
  select p.epoch, p_now >= p.confirmed_from and p_now < p.confirmed_until into v_epoch, v_is_confirmed
    from stepquota.policy p;
  select q.* into v_quota from stepquota.workflow_step_quotas q where q.tenant = p_tenant;
  v_is_stored := found;
  if v_is_stored and v_quota.epoch = v_epoch
     and p_now >= v_quota.trusted_from
     and (p_now < v_quota.trusted_until or v_is_confirmed and p_now < v_quota.valid_until) then
    return (v_quota, true)::stepquota._found_quota;
  end if;
  if v_is_stored then
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update skip locked;
  end if;
  if not v_is_stored or found then
    return (stepquota._refresh_quota(p_tenant, p_now), true)::stepquota._found_quota;
  end if;
  if p_now >= v_quota.period_start and p_now < v_quota.valid_until then
    return (v_quota, false)::stepquota._found_quota;
  end if;
  -- The period is over and somebody else is opening the next one. Its lane was made ahead: if it owns
  -- what the limit is now, nobody need wait.
  v_resolved := stepquota._resolve_quota(p_tenant, p_now);
  if exists (
    select 1 from stepquota.workflow_step_usage_lanes l
     where l.tenant = p_tenant and l.period_start = (v_resolved.quota).period_start
    having count(*) > 0 and sum(l.allowance) is not distinct from stepquota._get_lane_limit(v_resolved.quota)
  ) then
    v_resolved.quota.version := v_quota.version;
    return (v_resolved.quota, false)::stepquota._found_quota;
  end if;
  return (stepquota._lock_and_refresh_quota(p_tenant, p_now), true)::stepquota._found_quota;
end;
$_find_quota$;

-- Quota and usage as the answer that callers get.
create or replace function stepquota._describe_quota(
  p_quota stepquota.workflow_step_quotas, p_used_count bigint, p_allowed boolean)
returns stepquota.workflow_step_quota
language sql
immutable
as $_describe_quota$
  select (p_allowed, p_used_count, p_quota.effective_limit,
          stepquota._count_units_left(p_quota.effective_limit, p_used_count),
          p_quota.period_start, p_quota.period_end, p_quota.period_source, p_quota.limit_source, p_quota.tier,
          p_quota.granted_units, p_quota.stripe_subscription_id)::stepquota.workflow_step_quota;
$_describe_quota$;

-- The units used in a period: carried into it and counted in it.
create or replace function stepquota._sum_usage(p_tenant text, p_period_start timestamptz)
returns bigint
language plpgsql
stable
as $_sum_usage$
begin
  return (
    select coalesce(sum(l.used_count), 0) from stepquota._read_lanes(p_tenant, p_period_start) l)
    + coalesce((
    select p.carried_count
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = p_period_start), 0);
end;
$_sum_usage$;

-- The summary without reserving. Refreshes the stored quota if it is stale and its row is free.
-- Locks: the quota row without waiting, only when it must be refreshed. SQLSTATEs: WQ001.
create or replace function stepquota.resolve_workflow_step_quota(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_workflow_step_quota$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quotas;
begin
  perform stepquota._check_tenant(p_tenant);
  v_quota := (stepquota._find_quota(p_tenant, v_now)).quota;
  return stepquota._summarize_quota(v_quota);
end;
$resolve_workflow_step_quota$;

-- Volatile, so that it sees what finding the quota has just stored: both are often one expression.
create or replace function stepquota._summarize_quota(p_quota stepquota.workflow_step_quotas)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_summarize_quota$
declare
  v_used_count bigint := stepquota._sum_usage(p_quota.tenant, p_quota.period_start);
begin
  return stepquota._describe_quota(p_quota, v_used_count,
    p_quota.enforcement = 'shadow' or p_quota.effective_limit is null or v_used_count < p_quota.effective_limit);
end;
$_summarize_quota$;

comment on function stepquota._refresh_quota(text, timestamptz) is 'Brings the stored quota in line with its inputs.';
comment on function stepquota._lock_and_refresh_quota(text, timestamptz) is 'Locks the quota row and brings it in line with its inputs.';
comment on function stepquota._find_quota(text, timestamptz) is 'The quota to decide by, and whether it may deny.';
comment on function stepquota._describe_quota(stepquota.workflow_step_quotas, bigint, boolean) is 'Quota and usage as callers get them.';
comment on function stepquota._is_usage_carried(stepquota.workflow_step_quotas, stepquota.workflow_step_quotas) is 'Whether usage goes along into a new period.';
comment on function stepquota._carry_usage(stepquota.workflow_step_quotas, stepquota.workflow_step_quotas, boolean) is 'Units that a period takes over from the one it replaces.';
comment on function stepquota._sum_usage(text, timestamptz) is 'Units used in a period.';
comment on function stepquota._summarize_quota(stepquota.workflow_step_quotas) is 'A quota with what is used of it.';
comment on function stepquota.resolve_workflow_step_quota(text) is
  'The tenant''s period, limit and usage, reserving nothing. allowed says whether a unit is free. Figures are exact. WQ001 for a tenant that cannot be one.';
