-- Grants: units on top of a tenant's limit, a courtesy or a bought pack. Each unit is used once.
--
-- A period's own limit is used first. What is used past it is charged to the grants, those that end first
-- before the others, but only when it must be known: when the period ends, or a grant does. Until then a
-- grant simply raises the limit by what is left of it. So nothing is written when a step starts.
--
-- A grant without an end of its own ends with its period; one with an end goes along, with what is left
-- of it, into the periods before that end.

-- Units that grants add to the limit of a period: what is left of those that count now, and what was
-- charged to any in this period, since that is used already.
create or replace function stepquota._count_granted_units(
  p_tenant text, p_period_start timestamptz, p_now timestamptz, out granted_units bigint, out valid_until timestamptz)
language plpgsql
stable
as $_count_granted_units$
begin
  select coalesce(sum(g.units - g.spent_units), 0)::bigint, min(g.expires_at) into granted_units, valid_until
    from stepquota.workflow_step_grants g
   where g.tenant = p_tenant and g.closed_at is null
     and case when g.expires_at is null then g.period_start = p_period_start else g.expires_at > p_now end;
  granted_units := granted_units + coalesce((
    select p.spent_grant_units
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = p_period_start), 0);
end;
$_count_granted_units$;

-- Charges to the grants what was used past the limit of the quota's period, and has not been charged
-- yet; and closes those that have ended. p_next is the quota that replaces it; the same period if it
-- stays. Where usage is carried over into another period, the period has not ended: what was charged goes
-- along, and so do grants without an end of their own. Answers whether anything changed.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; the period's lanes in key order, waiting, if
-- there is anything to charge.
create or replace function stepquota._settle_grants(
  p_old stepquota.workflow_step_quotas, p_next stepquota.workflow_step_quotas, p_is_carried boolean,
  p_revoked_id uuid, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_settle_grants$
declare
  v_is_over boolean := p_next.period_start <> p_old.period_start and not p_is_carried;
  v_is_due boolean;
  v_left bigint;
  v_charged bigint := 0;
  v_grant stepquota.workflow_step_grants;
  v_charge bigint;
  v_end text;
begin
  v_is_due := exists (
    select 1 from stepquota.workflow_step_grants g
     where g.tenant = p_old.tenant and g.closed_at is null
       and (v_is_over or g.expires_at <= p_now or g.grant_id = p_revoked_id));
  if not v_is_due and not p_is_carried then
    return false;
  end if;
  if v_is_due and p_old.step_limit is not null then
    if v_is_over then
      -- Closed at what they have used: who still reserves there starts over.
      perform stepquota._deal_lanes(p_old.tenant, p_old.period_start, 0);
    else
      perform 1 from stepquota.workflow_step_usage_lanes l
        where l.tenant = p_old.tenant and l.period_start = p_old.period_start
        order by l.tenant, l.period_start, l.lane
          for no key update;
    end if;
    select greatest(stepquota._sum_usage(p_old.tenant, p_old.period_start) - p_old.step_limit - p.spent_grant_units, 0)
      into v_left
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_old.tenant and p.period_start = p_old.period_start;
  end if;
  for v_grant in
    select g.* from stepquota.workflow_step_grants g
     where v_is_due and g.tenant = p_old.tenant and g.closed_at is null
     order by coalesce(g.expires_at, p_old.period_end), g.granted_at, g.grant_id
  loop
    v_charge := least(v_grant.units - v_grant.spent_units, coalesce(v_left, 0));
    v_left := v_left - v_charge;
    v_charged := v_charged + v_charge;
    v_end := case
      when v_grant.grant_id = p_revoked_id then 'revoked'
      when v_grant.expires_at <= p_now or v_is_over and v_grant.expires_at is null then 'expired'
      when v_is_over and v_grant.spent_units + v_charge = v_grant.units then 'used up' end;
    continue when v_charge = 0 and v_end is null;
    update stepquota.workflow_step_grants g
       set spent_units = g.spent_units + v_charge, closed_because = v_end,
           closed_at = case when v_end is not null then p_now end
     where g.tenant = p_old.tenant and g.grant_id = v_grant.grant_id;
    if v_end <> 'revoked' then
      perform stepquota._record_event(p_old.tenant, 'grant_ended', 'info', null,
        jsonb_build_object('grant_id', v_grant.grant_id, 'units', v_grant.units,
          'spent_units', v_grant.spent_units + v_charge, 'because', v_end), p_now);
    end if;
  end loop;
  if v_charged > 0 then
    update stepquota.workflow_step_usage_periods p set spent_grant_units = p.spent_grant_units + v_charged
     where p.tenant = p_old.tenant and p.period_start = p_old.period_start;
  end if;
  if p_is_carried then
    update stepquota.workflow_step_grants g set period_start = p_next.period_start
     where g.tenant = p_old.tenant and g.closed_at is null and g.expires_at is null
       and g.period_start = p_old.period_start;
    insert into stepquota.workflow_step_usage_periods
      (tenant, period_start, period_end, period_source, effective_limit, created_at, spent_grant_units)
    select p_next.tenant, p_next.period_start, p_next.period_end, p_next.period_source, p_next.effective_limit, p_now,
           p.spent_grant_units
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_old.tenant and p.period_start = p_old.period_start
    on conflict (tenant, period_start) do update set spent_grant_units = excluded.spent_grant_units;
  end if;
  return true;
end;
$_settle_grants$;

-- Gives a tenant units on top of its limit, and resumes what can go on. The same key again gives nothing
-- more and answers the grant as it is.
-- Locks: the quota row FOR NO KEY UPDATE; then as _refresh_and_resume. SQLSTATEs: WQ001; 40001 under
-- REPEATABLE READ and SERIALIZABLE when the same key was used since the snapshot.
create or replace function stepquota.grant_workflow_steps(
  p_tenant text, p_units bigint, p_reason text, p_expires_at timestamptz default null, p_grant_key text default null)
returns stepquota.workflow_step_grants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $grant_workflow_steps$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quotas;
  v_grant stepquota.workflow_step_grants;
  v_grant_id uuid := gen_random_uuid();
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_units is null or p_units not between 1 and 1000000000000 then
    perform stepquota._refuse_argument('p_units', p_units::text, 'a number from 1 to 1000000000000',
      'Set another limit to take units away, or a tier without a limit for any number.');
  end if;
  perform stepquota._check_reason(p_reason);
  if p_expires_at <= v_now or not isfinite(p_expires_at) then
    perform stepquota._refuse_argument('p_expires_at', p_expires_at::text, 'a moment in the future, or NULL',
      'NULL is the end of the tenant''s current period.');
  end if;
  if p_grant_key is not null then
    perform stepquota._check_name('p_grant_key', p_grant_key);
  end if;
  v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
  select g.* into v_grant
    from stepquota.workflow_step_grants g
   where g.tenant = p_tenant and g.grant_key = p_grant_key;
  if found then
    return v_grant;
  end if;
  insert into stepquota.workflow_step_grants
    (tenant, grant_id, grant_key, units, period_start, expires_at, reason, granted_by, granted_at)
  values (p_tenant, v_grant_id, p_grant_key, p_units, v_quota.period_start, p_expires_at, p_reason, session_user, v_now);
  perform stepquota._record_event(p_tenant, 'steps_granted', 'info', null,
    jsonb_build_object('grant_id', v_grant_id, 'grant_key', p_grant_key, 'units', p_units, 'expires_at', p_expires_at,
      'period_start', v_quota.period_start, 'reason', p_reason, 'by', session_user), v_now);
  perform stepquota._refresh_and_resume(array[p_tenant], 'grant', v_now);
  select g.* into v_grant
    from stepquota.workflow_step_grants g
   where g.tenant = p_tenant and g.grant_id = v_grant_id;
  return v_grant;
end;
$grant_workflow_steps$;

-- Takes back what is left of a grant; what was used of it stays used. One that has ended is left as it is.
-- Locks: the quota row FOR NO KEY UPDATE; the period's lanes in key order, waiting; then as
-- _refresh_and_resume. SQLSTATEs: WQ001, WQ040.
create or replace function stepquota.revoke_workflow_step_grant(p_tenant text, p_grant_id uuid, p_reason text)
returns stepquota.workflow_step_grants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $revoke_workflow_step_grant$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quotas;
  v_grant stepquota.workflow_step_grants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_grant_id is null then
    perform stepquota._refuse_argument('p_grant_id', null, 'a uuid', 'Pass the grant_id that grant_workflow_steps answered.');
  end if;
  perform stepquota._check_reason(p_reason);
  v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
  select g.* into v_grant
    from stepquota.workflow_step_grants g
   where g.tenant = p_tenant and g.grant_id = p_grant_id;
  if not found then
    raise exception using
      errcode = 'WQ040',
      message = 'the tenant has no such grant',
      detail = format('Tenant %L, grant %s.', p_tenant, p_grant_id),
      hint = 'select * from stepquota.workflow_step_grants has all of them.';
  end if;
  if v_grant.closed_at is not null then
    return v_grant;
  end if;
  perform stepquota._settle_grants(v_quota, v_quota, false, p_grant_id, v_now);
  update stepquota.workflow_step_grants g
     set closed_because = p_reason, closed_by = session_user
   where g.tenant = p_tenant and g.grant_id = p_grant_id;
  select g.* into v_grant
    from stepquota.workflow_step_grants g
   where g.tenant = p_tenant and g.grant_id = p_grant_id;
  perform stepquota._record_event(p_tenant, 'grant_revoked', 'info', null,
    jsonb_build_object('grant_id', p_grant_id, 'units', v_grant.units, 'spent_units', v_grant.spent_units,
      'reason', p_reason, 'by', session_user), v_now);
  perform stepquota._refresh_and_resume(array[p_tenant], 'grant', v_now);
  return v_grant;
end;
$revoke_workflow_step_grant$;

comment on function stepquota._count_granted_units(text, timestamptz, timestamptz) is 'Units that grants add to the limit of a period, and until when.';
comment on function stepquota._settle_grants(stepquota.workflow_step_quotas, stepquota.workflow_step_quotas, boolean, uuid, timestamptz) is
  'Charges to a tenant''s grants what was used past its limit, and closes those that have ended.';
comment on function stepquota.grant_workflow_steps(text, bigint, text, timestamptz, text) is
  'Gives a tenant p_units steps on top of its limit, for the reason given, until p_expires_at (NULL: the end of its current period), and resumes what can go on in the same transaction. Each unit is used once, after the period''s own limit; what is left goes along into later periods until it expires. p_grant_key, such as a payment''s id, makes it safe to call again: the same key gives nothing more and answers the grant as it is. WQ001 bad arguments.';
comment on function stepquota.revoke_workflow_step_grant(text, uuid, text) is
  'Takes back what is left of a grant, for the reason given; what was used of it stays used. Answers the grant; one that has ended is left as it is. WQ001 bad arguments, WQ040 no such grant.';
