-- Alerts about usage: the percents of policy.alert_percents, each recorded once when it is reached; and
-- again in the same period only after the limit was raised above it.
--
-- Who takes the unit that reaches a threshold records it, in the same transaction: the event says what is
-- true when that commits, and is rolled back with it. The stored quota carries the count at which the
-- next one is reached (alert_at_count), so nearly every reservation compares two numbers. Nobody waits:
-- the quota row is taken if it is free; else a note makes the next tick() look.

-- The units used at which a percent of a limit is reached; NULL where there is no limit, or one of 0.
create or replace function stepquota._count_at_percent(p_limit bigint, p_percent integer)
returns bigint
language sql
immutable
as $_count_at_percent$
  select case when p_limit > 0
              then least(ceil(p_limit::numeric * p_percent / 100), 9223372036854775807)::bigint end;
$_count_at_percent$;

-- Records the thresholds that are reached and were not recorded yet; answers the units used at which the
-- next one is reached, NULL for none.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE.
create or replace function stepquota._record_thresholds(
  p_quota stepquota.workflow_step_quotas, p_used_count bigint, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_record_thresholds$
declare
  v_period stepquota.workflow_step_usage_periods;
  v_percent integer;
  v_threshold_count bigint;
  v_next_count bigint;
  v_reached integer;
begin
  select p.* into v_period
    from stepquota.workflow_step_usage_periods p
   where p.tenant = p_quota.tenant and p.period_start = p_quota.period_start;
  for v_percent in
    select distinct a.percent
      from stepquota.policy p
     cross join lateral unnest(p.alert_percents) as a (percent)
     where a.percent > v_period.alerted_percent
     order by 1
  loop
    v_threshold_count := stepquota._count_at_percent(p_quota.effective_limit, v_percent);
    if v_threshold_count is null or v_threshold_count > p_used_count then
      v_next_count := v_threshold_count;
      exit;
    end if;
    v_reached := v_percent;
    perform stepquota._record_event_under_key(p_quota.tenant,
      stepquota._make_once_key('quota_threshold_reached', p_quota.period_start,
        v_percent || ' ' || v_period.alert_generation),
      'quota_threshold_reached', 'info', null,
      jsonb_build_object('percent', v_percent, 'threshold_count', v_threshold_count, 'used_count', p_used_count,
        'effective_limit', p_quota.effective_limit, 'period_start', p_quota.period_start,
        'period_end', p_quota.period_end, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier,
        'generation', v_period.alert_generation), p_now);
  end loop;
  if v_reached is not null then
    update stepquota.workflow_step_usage_periods p
       set alerted_percent = v_reached
     where p.tenant = p_quota.tenant and p.period_start = p_quota.period_start;
  end if;
  return v_next_count;
end;
$_record_thresholds$;

-- For a quota that is being refreshed: what it becomes after its thresholds were looked at. If the limit
-- was raised in the period, those that usage is now below, and the exhaustion, may be recorded again: the
-- period's generation, which is part of their keys, goes up. A lowered limit arms nothing again, but what
-- it makes reached for the first time is recorded.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE.
create or replace function stepquota._arm_alerts(
  p_quota stepquota.workflow_step_quotas, p_limit_before bigint, p_is_known_period boolean, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_arm_alerts$
declare
  v_quota stepquota.workflow_step_quotas := p_quota;
  v_used_count bigint := stepquota._sum_usage(p_quota.tenant, p_quota.period_start);
  v_reached integer;
begin
  if p_is_known_period and p_limit_before is not null
     and (p_quota.effective_limit is null or p_quota.effective_limit > p_limit_before) then
    select max(a.percent) into v_reached
      from stepquota.policy p
     cross join lateral unnest(p.alert_percents) as a (percent)
     where stepquota._count_at_percent(p_quota.effective_limit, a.percent) <= v_used_count;
    update stepquota.workflow_step_usage_periods p
       set alert_generation = p.alert_generation + 1, alerted_percent = least(p.alerted_percent, coalesce(v_reached, 0))
     where p.tenant = p_quota.tenant and p.period_start = p_quota.period_start;
    v_quota.reported := array_remove(v_quota.reported, 'quota_exhausted');
  end if;
  v_quota.alert_at_count := stepquota._record_thresholds(v_quota, v_used_count, p_now);
  return v_quota;
end;
$_arm_alerts$;

-- For who took units and sees, with them, that the next threshold is reached. Only under READ COMMITTED:
-- otherwise a change of the quota row would make this transaction or others fail.
-- Locks: the quota row, without waiting; perhaps while holding a lane, against the usual order.
create or replace function stepquota._record_alerts(
  p_tenant text, p_period_start timestamptz, p_used_count bigint, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_alerts$
declare
  v_quota stepquota.workflow_step_quotas;
begin
  if current_setting('transaction_isolation') = 'read committed' then
    select q.* into v_quota
      from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and q.period_start = p_period_start
       for no key update skip locked;
    if found then
      if v_quota.alert_at_count <= p_used_count then
        v_quota.alert_at_count := stepquota._record_thresholds(v_quota, p_used_count, p_now);
        update stepquota.workflow_step_quotas q
           set alert_at_count = v_quota.alert_at_count
         where q.tenant = p_tenant;
      end if;
      return;
    end if;
  end if;
  perform stepquota._note_alert_check(p_tenant, false, p_now);
end;
$_record_alerts$;

-- The same for a caller that has an answer and no quota, such as a batch.
create or replace function stepquota._check_alerts(
  p_tenant text, p_period_start timestamptz, p_used_count bigint, p_now timestamptz)
returns void
language plpgsql
volatile
as $_check_alerts$
begin
  if exists (
    select 1 from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and q.period_start = p_period_start and q.alert_at_count <= p_used_count
  ) then
    perform stepquota._record_alerts(p_tenant, p_period_start, p_used_count, p_now);
  end if;
end;
$_check_alerts$;

-- The next tick() looks at the tenant. No key that two could wait for; a few notes of one tenant do no harm.
create or replace function stepquota._note_alert_check(p_tenant text, p_is_denial boolean, p_now timestamptz)
returns void
language plpgsql
volatile
as $_note_alert_check$
begin
  if not exists (
    select 1 from stepquota.workflow_step_alert_checks c where c.tenant = p_tenant and c.is_denial = p_is_denial
  ) then
    insert into stepquota.workflow_step_alert_checks (tenant, is_denial, noted_at) values (p_tenant, p_is_denial, p_now);
  end if;
end;
$_note_alert_check$;

-- For tick(): records what those who saw it could not. Looks at tenants that are noted, and at those of
-- several lanes, where who takes a unit does not know to the unit what the others have used; in the
-- order of their names, after the one given. Answers the last one it looked at, NULL if none is left.
-- Locks: quota rows, without waiting: one that is busy stays noted. SQLSTATEs: WQ001.
create or replace function stepquota.record_due_alerts(p_after text default '', p_max_tenants integer default 1000)
returns text
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $record_due_alerts$
declare
  v_now timestamptz := stepquota._now();
  v_due record;
  v_count integer := 0;
  v_last text;
begin
  perform stepquota._check_unbound();
  if p_after is null then
    perform stepquota._refuse_argument('p_after', null, 'a tenant, or an empty text to begin', 'Pass what the last call answered.');
  end if;
  if p_max_tenants is null or p_max_tenants < 1 then
    perform stepquota._refuse_argument('p_max_tenants', p_max_tenants::text, 'a number from 1', 'It bounds one transaction; 1000 is usual.');
  end if;
  for v_due in
    select d.tenant,
           array(select c.check_id from stepquota.workflow_step_alert_checks c where c.tenant = d.tenant) as check_ids,
           exists (select 1 from stepquota.workflow_step_alert_checks c where c.tenant = d.tenant and c.is_denial) as is_denied,
           (select q.alert_at_count <= stepquota._sum_usage(q.tenant, q.period_start)
              from stepquota.workflow_step_quotas q where q.tenant = d.tenant) as is_reached
      from ((select distinct c.tenant from stepquota.workflow_step_alert_checks c where c.tenant > p_after order by 1 limit p_max_tenants)
            union
            (select q.tenant from stepquota.workflow_step_quotas q
              where q.lane_count > 1 and q.tenant > p_after order by q.tenant limit p_max_tenants)) d
     order by d.tenant
     limit p_max_tenants
  loop
    v_last := v_due.tenant;
    v_count := v_count + 1;
    if v_due.is_reached or v_due.check_ids <> '{}' then
      perform stepquota._record_due_alerts_of(v_due.tenant, v_due.check_ids, v_due.is_denied, v_now);
    end if;
  end loop;
  return case when v_count = p_max_tenants then v_last end;
end;
$record_due_alerts$;

-- Usage is summed after the notes were read: what a note was written with is in the sum.
-- Locks: the quota row, without waiting; if it is busy the notes stay.
create or replace function stepquota._record_due_alerts_of(
  p_tenant text, p_check_ids bigint[], p_is_denied boolean, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_due_alerts_of$
declare
  v_quota stepquota.workflow_step_quotas;
  v_used_count bigint;
begin
  select q.* into v_quota
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant
     for no key update skip locked;
  if not found and exists (select 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant) then
    return;
  end if;
  v_used_count := stepquota._sum_usage(p_tenant, v_quota.period_start);
  if v_quota.alert_at_count <= v_used_count then
    v_quota.alert_at_count := stepquota._record_thresholds(v_quota, v_used_count, p_now);
    update stepquota.workflow_step_quotas q set alert_at_count = v_quota.alert_at_count where q.tenant = p_tenant;
  end if;
  if p_is_denied and v_quota.tenant is not null then
    perform stepquota._record_missed_exhaustion(p_tenant, p_now);
  end if;
  delete from stepquota.workflow_step_alert_checks c
   where c.tenant = p_tenant and c.check_id = any (p_check_ids);
end;
$_record_due_alerts_of$;

comment on function stepquota._count_at_percent(bigint, integer) is 'The units used at which a percent of a limit is reached.';
comment on function stepquota._record_thresholds(stepquota.workflow_step_quotas, bigint, timestamptz) is
  'Records the thresholds that are reached; answers the count at which the next one is.';
comment on function stepquota._arm_alerts(stepquota.workflow_step_quotas, bigint, boolean, timestamptz) is
  'A quota that is being refreshed, after its thresholds were looked at.';
comment on function stepquota._record_alerts(text, timestamptz, bigint, timestamptz) is
  'Records the thresholds that the caller''s units reach, or has tick() do it; never waits.';
comment on function stepquota._check_alerts(text, timestamptz, bigint, timestamptz) is 'The same, if any threshold is reached.';
comment on function stepquota._note_alert_check(text, boolean, timestamptz) is 'Has the next tick() look at a tenant.';
comment on function stepquota._record_due_alerts_of(text, bigint[], boolean, timestamptz) is 'Records what is due of one tenant.';
comment on function stepquota.record_due_alerts(text, integer) is
  'For tick: records thresholds and exhaustions that could not be recorded when they came, for at most p_max_tenants tenants after p_after. Answers the last one, NULL if none is left. WQ001 bad arguments.';
