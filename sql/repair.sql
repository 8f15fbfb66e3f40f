-- Mending a counter, and taking one over from elsewhere: each by an adjusting entry that says who, when,
-- why, and what was there before. The ledger is never edited.

-- Sets the units of a period: all of them on lane 0, what is left dealt to all lanes. Numbers that are
-- missing between lanes are made.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE and all lanes.
create or replace function stepquota._set_period_usage(
  p_tenant text, p_period_start timestamptz, p_used_count bigint, p_unledgered_count bigint, p_limit bigint)
returns integer
language plpgsql
volatile
as $_set_period_usage$
declare
  v_lane_count integer;
begin
  select coalesce(max(u.lane), 0) + 1 into v_lane_count
    from stepquota.workflow_step_usage_lanes u
   where u.tenant = p_tenant and u.period_start = p_period_start;
  insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
  select p_tenant, p_period_start, n.lane, 0
    from generate_series(0, v_lane_count - 1) as n (lane)
   where not exists (
     select 1 from stepquota.workflow_step_usage_lanes u
      where u.tenant = p_tenant and u.period_start = p_period_start and u.lane = n.lane);
  update stepquota.workflow_step_usage_lanes l
     set used_count = case when l.lane = 0 then p_used_count else 0 end,
         unledgered_count = case when l.lane = 0 then p_unledgered_count else 0 end,
         others_used_count = case when l.lane = 0 then 0 else p_used_count end,
         generation = case when l.lane = 0 then least(p_used_count >> 6, 2147483647)::integer else 0 end
   where l.tenant = p_tenant and l.period_start = p_period_start;
  perform stepquota._deal_lanes(p_tenant, p_period_start, p_limit);
  return v_lane_count;
end;
$_set_period_usage$;

-- After the units used in the current period were changed otherwise than by a step: the mark of an
-- exhausted tenant says what is so, and paused runs that can go on do. Answers how many.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; then as _resume_tenant.
create or replace function stepquota._settle_capacity(p_tenant text, p_by text, p_now timestamptz)
returns integer
language plpgsql
volatile
as $_settle_capacity$
declare
  v_quota stepquota.workflow_step_quotas;
  v_policy stepquota.policy;
  v_used_count bigint;
begin
  select p.* into v_policy from stepquota.policy p;
  select q.* into v_quota from stepquota.workflow_step_quotas q where q.tenant = p_tenant;
  v_used_count := stepquota._sum_usage(p_tenant, v_quota.period_start);
  if v_quota.enforcement = 'enforce' and v_used_count >= v_quota.effective_limit then
    -- Who is not marked yet is marked by the next denial, which records the exhaustion first.
    update stepquota.workflow_step_quotas set exhausted_at_count = v_used_count
     where tenant = p_tenant and exhausted_at_count is not null;
    return 0;
  end if;
  update stepquota.workflow_step_quotas set exhausted_at_count = null
   where tenant = p_tenant and exhausted_at_count is not null;
  if not exists (select 1 from stepquota.paused_tenants t where t.tenant = p_tenant) then
    return 0;
  end if;
  v_quota.exhausted_at_count := null;
  return (stepquota._resume_tenant(v_quota, v_policy.at_once_runs, p_by, p_now)).runs_resumed;
end;
$_settle_capacity$;

-- Brings the counter of a period to what the ledger says: its rows, with each attempt once, and those that
-- were purged. Units without a ledger row here stay as they are, unless a registered ledger says otherwise.
-- A dry run says what would be done, takes no lock that a step would meet, and writes nothing.
-- Locks: the quota row FOR NO KEY UPDATE and all lanes of the period in key order, waiting, so that no step
-- of the period is between its unit and its ledger row; then as _resume_tenant.
-- SQLSTATEs: WQ001, WQ018; 55P03 under lock_timeout.
create or replace function stepquota.repair_workflow_step_usage(
  p_tenant text, p_period_start timestamptz, p_dry_run boolean default true, p_reason text default null)
returns table (
  tenant text, period_start timestamptz, used_count_before bigint, used_count_after bigint,
  unledgered_count_before bigint, unledgered_count_after bigint, ledger_step_count bigint,
  changed boolean, adjustment_id uuid, runs_resumed integer)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $repair_workflow_step_usage$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_ledgers stepquota.registered_ledgers[] := stepquota._find_readable_ledgers();
  v_quota stepquota.workflow_step_quotas;
  v_usage stepquota._compared_usage;
  v_is_current boolean;
  v_is_misdealt boolean;
  v_limit bigint;
  v_lane_count integer;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_period_start(p_period_start);
  if p_dry_run is null then
    perform stepquota._refuse_argument('p_dry_run', null, 'true or false', 'true only says what would be done.');
  end if;
  if p_dry_run then
    select q.* into v_quota from stepquota.workflow_step_quotas q where q.tenant = p_tenant;
  else
    v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
    perform 1 from stepquota.workflow_step_usage_lanes u
      where u.tenant = p_tenant and u.period_start = p_period_start
      order by u.tenant, u.period_start, u.lane
        for no key update;
  end if;
  -- A statement of its own: what the lanes' last holders committed is visible only now.
  select c.* into v_usage from stepquota._compare_usage(p_tenant, array[p_period_start], v_ledgers) c;
  if v_usage.is_known is null
     or not v_usage.is_known and v_usage.used_count = 0 and v_usage.step_count = 0 then
    perform stepquota._refuse_unknown_period(p_tenant, p_period_start);
  end if;

  tenant := p_tenant;
  period_start := p_period_start;
  used_count_before := v_usage.used_count;
  unledgered_count_before := v_usage.unledgered_count;
  ledger_step_count := v_usage.step_count + v_usage.purged_step_count;
  unledgered_count_after := greatest(v_usage.unledgered_count, 0);
  if v_usage.registered_step_count is not null then
    -- Of an open batch nobody knows yet how many units have their row.
    unledgered_count_after := least(greatest(unledgered_count_after, v_usage.registered_step_count),
      v_usage.registered_step_count + v_usage.open_batch_count);
  end if;
  used_count_after := stepquota._count_ledgered_steps(v_usage) + unledgered_count_after;
  runs_resumed := 0;

  v_is_current := v_quota.period_start is not distinct from p_period_start;
  -- Another period's lanes stay closed at what is used: a period that was left while it ran was closed so.
  v_limit := case when v_is_current then stepquota._get_lane_limit(v_quota)
                  else used_count_after end;
  select count(*) = 0 and v_is_current
         or coalesce(bool_or(u.used_count < 0 or u.unledgered_count not between 0 and u.used_count), false)
         or v_is_current and (
           coalesce(bool_or(u.used_count > u.allowance), false)
           or case when v_limit is null then bool_or(u.allowance is not null)
                   else bool_or(u.allowance is null) or sum(u.allowance) <> greatest(v_limit, used_count_after) end)
    into v_is_misdealt
    from stepquota.workflow_step_usage_lanes u
   where u.tenant = p_tenant and u.period_start = p_period_start;
  changed := used_count_after <> used_count_before or unledgered_count_after <> unledgered_count_before
    or v_usage.has_stray_lane or v_is_misdealt;
  if not changed or p_dry_run then
    return next;
    return;
  end if;

  v_lane_count := stepquota._set_period_usage(p_tenant, p_period_start, used_count_after, unledgered_count_after, v_limit);
  adjustment_id := gen_random_uuid();
  insert into stepquota.workflow_step_usage_adjustments
    (tenant, adjustment_id, period_start, kind, used_count_before, used_count_after, unledgered_count_before,
     unledgered_count_after, ledger_step_count, adjusted_by, reason, adjusted_at)
  values (p_tenant, adjustment_id, p_period_start, 'repair', used_count_before, used_count_after,
    unledgered_count_before, unledgered_count_after, ledger_step_count, session_user, p_reason, v_now);
  perform stepquota._record_event(p_tenant, 'usage_repaired', 'warning', null,
    jsonb_build_object('adjustment_id', adjustment_id, 'period_start', p_period_start, 'from', used_count_before,
      'to', used_count_after, 'reason', p_reason, 'by', session_user), v_now);
  if v_is_current then
    update stepquota.workflow_step_quotas q set lane_count = v_lane_count where q.tenant = p_tenant;
    runs_resumed := stepquota._settle_capacity(p_tenant, 'repair', v_now);
  end if;
  -- The ledger was counted under the locks, and need not be counted again.
  v_usage.used_count := used_count_after;
  v_usage.unledgered_count := unledgered_count_after;
  v_usage.has_stray_lane := false;
  perform stepquota._record_findings(p_tenant, v_usage, v_now, v_now);
  return next;
end;
$repair_workflow_step_usage$;

-- Takes over what was used in a period before stepquota counted it. p_used_count is all of it, so the same
-- call again changes nothing, and another number replaces the first. It is carried, not counted: no drift.
-- Locks: the quota row FOR NO KEY UPDATE, waiting; lanes in key order, waiting, if less is left than before;
-- then as _resume_tenant. SQLSTATEs: WQ001, WQ018; 55P03 under lock_timeout.
create or replace function stepquota.import_workflow_step_usage(
  p_tenant text, p_period_start timestamptz, p_used bigint, p_reason text)
returns stepquota.workflow_step_usage_adjustments
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $import_workflow_step_usage$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quotas;
  v_period stepquota.workflow_step_usage_periods;
  v_usage stepquota._compared_usage;
  v_entry stepquota.workflow_step_usage_adjustments;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_period_start(p_period_start);
  if p_used is null or p_used not between 0 and 1000000000000000000 then
    perform stepquota._refuse_argument('p_used', p_used::text, 'a number from 0 to 10^18',
      'Pass how many steps of the period were used before stepquota counted them.');
  end if;
  v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
  select p.* into v_period
    from stepquota.workflow_step_usage_periods p
   where p.tenant = p_tenant and p.period_start = p_period_start
     for no key update;
  if not found then
    perform stepquota._refuse_unknown_period(p_tenant, p_period_start);
  end if;
  select c.* into v_usage from stepquota._compare_usage(p_tenant, array[p_period_start], '{}') c;
  v_entry.tenant := p_tenant;
  v_entry.adjustment_id := gen_random_uuid();
  v_entry.period_start := p_period_start;
  v_entry.kind := 'import';
  v_entry.used_count_before := stepquota._sum_usage(p_tenant, p_period_start);
  v_entry.used_count_after := v_entry.used_count_before + p_used - v_period.imported_count;
  v_entry.unledgered_count_before := v_usage.unledgered_count;
  v_entry.unledgered_count_after := v_usage.unledgered_count;
  v_entry.ledger_step_count := v_usage.step_count + v_usage.purged_step_count;
  v_entry.adjusted_by := session_user;
  v_entry.reason := p_reason;
  v_entry.adjusted_at := v_now;
  if p_used = v_period.imported_count then
    v_entry.adjustment_id := null;
    return v_entry;
  end if;
  v_period.carried_count := v_period.carried_count + p_used - v_period.imported_count;
  update stepquota.workflow_step_usage_periods p
     set carried_count = v_period.carried_count, imported_count = p_used
   where p.tenant = p_tenant and p.period_start = p_period_start;
  insert into stepquota.workflow_step_usage_adjustments values (v_entry.*);
  perform stepquota._record_event(p_tenant, 'usage_imported', 'info', null,
    jsonb_build_object('adjustment_id', v_entry.adjustment_id, 'period_start', p_period_start,
      'from', v_period.imported_count, 'to', p_used, 'reason', p_reason, 'by', session_user), v_now);
  if p_period_start = v_quota.period_start then
    v_quota.carried_count := v_period.carried_count;
    v_quota.lane_count := stepquota._fit_lanes(p_tenant, p_period_start, stepquota._get_lane_limit(v_quota));
    update stepquota.workflow_step_quotas q
       set carried_count = v_period.carried_count, lane_count = v_quota.lane_count
     where q.tenant = p_tenant;
    perform stepquota._settle_capacity(p_tenant, 'import', v_now);
  end if;
  return v_entry;
end;
$import_workflow_step_usage$;

comment on function stepquota._set_period_usage(text, timestamptz, bigint, bigint, bigint) is 'Sets the units of a period on its lanes; answers how many lanes there are.';
comment on function stepquota._settle_capacity(text, text, timestamptz) is 'After a counter was changed: sets or clears the exhausted mark and resumes what can go on; answers how many runs.';
comment on function stepquota.repair_workflow_step_usage(text, timestamptz, boolean, text) is
  'Brings the counter of a period to what the ledger says, by an adjusting entry (workflow_step_usage_adjustments) with who, when and why; never edits the ledger. With p_dry_run (the default) only says what it would do. Units of reserve_workflow_step stay, unless a registered ledger says otherwise. Capacity that becomes free resumes paused runs. Answers the counts before and after, whether anything changed, and the entry. WQ001 bad arguments, WQ018 no such period.';
comment on function stepquota.import_workflow_step_usage(text, timestamptz, bigint, text) is
  'Takes over what a tenant used in a period before stepquota counted: p_used steps in all, carried into the period. The same again changes nothing (adjustment_id is NULL); another number replaces the first. Answers the adjusting entry. WQ001 bad arguments, WQ018 no such period.';
