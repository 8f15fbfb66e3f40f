-- Stopping runs for other reasons than quota: a hold on a run, a hold on a tenant, a suspension. They
-- stack, with each other and with quota: a run goes on only when none is left. What has started may
-- finish; the next start answers held.
--
-- A hold is a column of the run or the tenant, which every start reads anyway. The quota wait of a held
-- run is outside its tenant's queue (is_held) until the run is released, and keeps its place there.

-- What stops a run beside quota, the first first: tenant_suspended, operator_hold.
create or replace function stepquota._list_holds(p_tenant stepquota.tenants, p_is_run_held boolean)
returns text[]
language sql
immutable
as $_list_holds$
  select array_remove(array[
    case when p_tenant.suspended_at is not null then 'tenant_suspended' end,
    case when p_tenant.held_at is not null or p_is_run_held then 'operator_hold' end], null);
$_list_holds$;

-- What has to be done about each of these, in words, in their order.
create or replace function stepquota._explain_holds(
  p_holds text[], p_tenant stepquota.tenants, p_run stepquota.workflow_runs)
returns text[]
language sql
immutable
as $_explain_holds$
  select array(
    select case h.hold
             when 'tenant_suspended' then 'lifting the suspension'
             when 'operator_hold' then concat_ws(', and ',
               case when p_tenant.held_at is not null then format('release_tenant, held by %s since %s: %s',
                 coalesce(p_tenant.held_by, 'somebody'), stepquota._format_moment(p_tenant.held_at),
                 coalesce(p_tenant.held_because, 'no reason given')) end,
               case when p_run.held_at is not null then format('release_workflow_run, held by %s since %s: %s',
                 p_run.held_by, stepquota._format_moment(p_run.held_at), p_run.held_because) end)
           end
      from unnest(p_holds) with ordinality as h (hold, place)
     order by h.place);
$_explain_holds$;

-- Why somebody does something, for the record. Raises WQ001.
create or replace function stepquota._check_reason(p_reason text)
returns void
language plpgsql
stable
as $_check_reason$
begin
  if p_reason is null or p_reason = '' or octet_length(p_reason) > 1000 then
    perform stepquota._refuse_argument('p_reason', p_reason, 'a text of 1 to 1000 bytes', 'Say why, for the record.');
  end if;
end;
$_check_reason$;

-- Stops a run: what has started may finish, its next start answers held. Held again, it stays as it is.
-- Locks: the run; then its quota wait. SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.hold_workflow_run(p_tenant text, p_run_id text, p_reason text)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $hold_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_wait stepquota.workflow_run_waits;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_reason(p_reason);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_run_goes_on(v_run);
  if v_run.held_at is not null then
    return v_run;
  end if;
  v_run := stepquota._host_set_run_hold(p_tenant, p_run_id, v_now, session_user, p_reason);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if v_wait.wait_id is not null then
    perform stepquota._host_set_wait_held(p_tenant, v_wait.wait_id, true);
  end if;
  perform stepquota._record_hold('run_held', 'info', p_tenant, p_run_id, p_reason, v_now);
  return v_run;
end;
$hold_workflow_run$;

-- Lets a held run go on, at once if quota allows; else it waits for quota at the place it had in the
-- queue. The other reasons that stop it stay. Not held, it is left as it is.
-- Locks: the run; then, if it waits, the quota row FOR NO KEY UPDATE, and as _resume_tenant.
-- SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.release_workflow_run(p_tenant text, p_run_id text, p_reason text)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $release_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_wait stepquota.workflow_run_waits;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_reason(p_reason);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_run_goes_on(v_run);
  if v_run.held_at is null then
    return v_run;
  end if;
  perform stepquota._host_set_run_hold(p_tenant, p_run_id, null, null, null);
  perform stepquota._record_hold('run_released', 'info', p_tenant, p_run_id, p_reason, v_now);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if v_wait.wait_id is not null then
    perform stepquota._host_set_wait_held(p_tenant, v_wait.wait_id, false);
    perform stepquota._resume_tenant(stepquota._lock_and_refresh_quota(p_tenant, v_now),
      (select p.at_once_runs from stepquota.policy p), 'release', v_now);
  end if;
  return stepquota._host_find_run(p_tenant, p_run_id);
end;
$release_workflow_run$;

-- Stops all runs of a tenant, those of later too, as hold_workflow_run does one. Held again, it stays as
-- it is.
-- Locks: the tenant's host row. SQLSTATEs: WQ001.
create or replace function stepquota.hold_tenant(p_tenant text, p_reason text)
returns stepquota.tenants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $hold_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_reason(p_reason);
  v_tenant := stepquota._host_lock_tenant(p_tenant, v_now);
  if v_tenant.held_at is not null then
    return v_tenant;
  end if;
  v_tenant := stepquota._host_set_tenant_hold(p_tenant, v_now, session_user, p_reason);
  perform stepquota._record_hold('tenant_held', 'info', p_tenant, null, p_reason, v_now);
  return v_tenant;
end;
$hold_tenant$;

-- Ends the hold on a tenant and resumes what can go on, up to policy's bounds. Runs that are held
-- themselves stay so. Not held, it is left as it is.
-- Locks: the tenant's host row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.release_tenant(p_tenant text, p_reason text)
returns stepquota.tenants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $release_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_reason(p_reason);
  v_tenant := stepquota._host_find_tenant(p_tenant);
  if v_tenant.held_at is not null then
    v_tenant := stepquota._host_lock_tenant(p_tenant, v_now);
  end if;
  if v_tenant.held_at is null then
    -- It may have no row, and gets none by that.
    v_tenant.tenant := p_tenant;
    return v_tenant;
  end if;
  v_tenant := stepquota._host_set_tenant_hold(p_tenant, null, null, null);
  perform stepquota._record_hold('tenant_released', 'info', p_tenant, null, p_reason, v_now);
  perform stepquota._refresh_and_resume(array[p_tenant], 'release', v_now);
  return v_tenant;
end;
$release_tenant$;

-- Suspends a tenant: as a hold on it, with a reason of its own, for an account that is not in order.
-- Setting suspended_at by hand does the same. Suspended again, it stays as it is.
-- Locks: the tenant's host row. SQLSTATEs: WQ001.
create or replace function stepquota.suspend_tenant(p_tenant text, p_reason text)
returns stepquota.tenants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $suspend_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_reason(p_reason);
  v_tenant := stepquota._host_lock_tenant(p_tenant, v_now);
  if v_tenant.suspended_at is not null then
    return v_tenant;
  end if;
  v_tenant := stepquota._host_set_tenant_suspended_at(p_tenant, v_now);
  perform stepquota._record_hold('tenant_suspended', 'info', p_tenant, null, p_reason, v_now);
  return v_tenant;
end;
$suspend_tenant$;

-- Lifts a suspension and resumes what can go on, up to policy's bounds. Not suspended, it is left as it is.
-- Locks: the tenant's host row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.reinstate_tenant(p_tenant text, p_reason text)
returns stepquota.tenants
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reinstate_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_reason(p_reason);
  v_tenant := stepquota._host_find_tenant(p_tenant);
  if v_tenant.suspended_at is not null then
    v_tenant := stepquota._host_lock_tenant(p_tenant, v_now);
  end if;
  if v_tenant.suspended_at is null then
    -- It may have no row, and gets none by that.
    v_tenant.tenant := p_tenant;
    return v_tenant;
  end if;
  v_tenant := stepquota._host_set_tenant_suspended_at(p_tenant, null);
  perform stepquota._record_hold('tenant_reinstated', 'info', p_tenant, null, p_reason, v_now);
  perform stepquota._refresh_and_resume(array[p_tenant], 'reinstatement', v_now);
  return v_tenant;
end;
$reinstate_tenant$;

-- Who and why: an event, and a line in the run's log.
create or replace function stepquota._record_hold(
  p_event_type text, p_level text, p_tenant text, p_run_id text, p_reason text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_hold$
declare
  v_details jsonb := jsonb_build_object('reason', p_reason, 'by', session_user);
begin
  perform stepquota._record_event(p_tenant, p_event_type, p_level, p_run_id, v_details, p_now);
  if p_run_id is not null then
    perform stepquota._host_add_log(p_tenant, p_run_id, p_level,
      case p_event_type when 'run_held' then 'held' else 'released' end, v_details, p_now);
  end if;
end;
$_record_hold$;

comment on function stepquota._list_holds(stepquota.tenants, boolean) is 'What stops a run beside quota: tenant_suspended, operator_hold.';
comment on function stepquota._explain_holds(text[], stepquota.tenants, stepquota.workflow_runs) is 'What lifts each hold, in words.';
comment on function stepquota._check_reason(text) is 'Raises WQ001 unless the text can be a reason.';
comment on function stepquota._record_hold(text, text, text, text, text, timestamptz) is 'Records who held or released what, and why.';
comment on function stepquota.hold_workflow_run(text, text, text) is
  'Stops one run, for the reason given: what has started may finish, the next start answers held, and nothing but release_workflow_run brings it back. The same again changes nothing. Answers the run. WQ001 bad arguments, WQ002 unknown run, WQ006 ended.';
comment on function stepquota.release_workflow_run(text, text, text) is
  'Ends the hold on one run, for the reason given; it goes on in the same transaction if quota allows and nothing else stops it. The same again changes nothing. Answers the run. WQ001 bad arguments, WQ002 unknown run, WQ006 ended.';
comment on function stepquota.hold_tenant(text, text) is
  'Stops all runs of a tenant, for the reason given: what has started may finish, the next starts answer held. The same again changes nothing. Answers the tenant''s row. WQ001 bad arguments.';
comment on function stepquota.release_tenant(text, text) is
  'Ends the hold on a tenant, for the reason given; resumes what can go on in the same transaction, within policy''s bounds. Not held, it is left as it is; of a tenant without a row nothing but its name is answered. Answers the tenant''s row. WQ001 bad arguments.';
comment on function stepquota.suspend_tenant(text, text) is
  'Suspends a tenant, for the reason given: what has started may finish, the next starts answer held. The same again changes nothing. Answers the tenant''s row. WQ001 bad arguments.';
comment on function stepquota.reinstate_tenant(text, text) is
  'Lifts the suspension of a tenant, for the reason given; resumes what can go on in the same transaction, within policy''s bounds. Not suspended, it is left as it is; of a tenant without a row nothing but its name is answered. Answers the tenant''s row. WQ001 bad arguments.';
