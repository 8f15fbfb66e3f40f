-- Shadow mode: a tenant is counted past its limit and never paused; what would have been is recorded, for
-- who thinks about a limit before it is enforced.
--
-- The lanes of such a tenant own any number of units, as of an unlimited one, so that a reservation is
-- what it always is. Changing the mode deals the lanes anew, as changing a limit does.

-- A step past the limit: the first of each run in a period leaves a row, the first of all an event.
-- Who holds no run (p_run_id NULL) leaves no row. Nothing is waited for.
-- Locks: the caller holds the run, if there is one; the quota row without waiting.
create or replace function stepquota._record_overrun(
  p_tenant text, p_run_id text, p_used_count bigint, p_limit bigint, p_period_start timestamptz, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_overrun$
begin
  if p_run_id is not null then
    insert into stepquota.workflow_run_shadow_pauses
      (tenant, period_start, run_id, would_pause_at, used_count, effective_limit)
    values (p_tenant, p_period_start, p_run_id, p_now, p_used_count, p_limit)
    on conflict (tenant, period_start, run_id) do nothing;
  end if;
  if exists (
    select 1 from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = p_period_start and p.over_limit_since is not null
  ) then
    return;
  end if;
  perform 1
     from stepquota.workflow_step_quotas q
    where q.tenant = p_tenant and q.period_start = p_period_start and q.enforcement = 'shadow'
      for no key update skip locked;
  if not found then
    return;
  end if;
  update stepquota.workflow_step_usage_periods
     set over_limit_since = p_now
   where tenant = p_tenant and period_start = p_period_start and over_limit_since is null;
  perform stepquota._record_event_once(p_tenant, p_period_start, 'quota_exceeded_in_shadow', 'warning', p_run_id,
    jsonb_build_object('used_count', p_used_count, 'effective_limit', p_limit, 'period_start', p_period_start), p_now);
end;
$_record_overrun$;

-- Sets whether a tenant is refused steps past its limit. NULL: as policy says. Resumes what can go on.
-- Locks: the tenant's host row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.set_tenant_enforcement(p_tenant text, p_mode text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_tenant_enforcement$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_mode is not null then
    perform stepquota._check_one_of('p_mode', p_mode, array['enforce', 'shadow']);
  end if;
  v_tenant := stepquota._host_lock_tenant(p_tenant, v_now);
  if v_tenant.enforcement is distinct from p_mode then
    perform stepquota._host_set_tenant_enforcement(p_tenant, p_mode);
    perform stepquota._record_event(p_tenant, 'enforcement_changed', 'info', null,
      jsonb_build_object('from', v_tenant.enforcement, 'to', p_mode, 'by', session_user), v_now);
  end if;
  perform stepquota._refresh_and_resume(array[p_tenant], 'enforcement', v_now);
  return stepquota._summarize_quota(
    (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
end;
$set_tenant_enforcement$;

-- Which tenants would have been blocked, since when and how far over, a row a period, the latest first.
-- Takes no locks. SQLSTATEs: WQ001.
create or replace function stepquota.list_shadow_overruns(p_tenant text default null)
returns table (
  tenant text, period_start timestamptz, period_end timestamptz, effective_limit bigint, used_count bigint,
  over_count bigint, over_limit_since timestamptz, paused_run_count bigint, is_current boolean, enforcement text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_shadow_overruns$
#variable_conflict use_column
begin
  if p_tenant is not null then
    perform stepquota._check_tenant(p_tenant);
  end if;
  p_tenant := coalesce(p_tenant, stepquota._get_callers_tenant());
  return query
    select p.tenant, p.period_start, p.period_end, p.effective_limit, u.used_count,
           greatest(u.used_count - p.effective_limit, 0), p.over_limit_since,
           (select count(*) from stepquota.workflow_run_shadow_pauses r
             where r.tenant = p.tenant and r.period_start = p.period_start),
           coalesce(q.period_start = p.period_start, false), q.enforcement
      from stepquota.workflow_step_usage_periods p
      left join stepquota.workflow_step_quotas q on q.tenant = p.tenant
     cross join lateral (select stepquota._sum_usage(p.tenant, p.period_start) as used_count) u
     where p.over_limit_since is not null and (p_tenant is null or p.tenant = p_tenant)
     order by p.period_start desc, p.tenant;
end;
$list_shadow_overruns$;

comment on function stepquota._record_overrun(text, text, bigint, bigint, timestamptz, timestamptz) is 'Records a step past the limit in shadow mode.';
comment on function stepquota.set_tenant_enforcement(text, text) is
  'Sets whether a tenant is refused steps past its limit (enforce), or counted and never paused (shadow); NULL is as policy enforcement says. Takes effect on the next step, decided by the count; resumes what can go on in the same transaction. Answers the summary. WQ001 bad arguments.';
comment on function stepquota.list_shadow_overruns(text) is
  'Tenants that went past their limit in shadow mode, a row a period: period_start, period_end, effective_limit, used_count (figures of now), over_count, over_limit_since, paused_run_count (runs that would have been paused; workflow_run_shadow_pauses has them), is_current, enforcement (the tenant''s mode now). p_tenant NULL is all. WQ001 for a tenant that cannot be one.';
