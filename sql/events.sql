-- quota_events: the audit and the alerts.

create or replace function stepquota._record_event(
  p_tenant text, p_event_type text, p_level text, p_run_id text, p_details jsonb, p_now timestamptz)
returns void
language sql
volatile
as $_record_event$
  insert into stepquota.quota_events (tenant, event_type, level, run_id, details, created_at)
  values (p_tenant, p_event_type, p_level, p_run_id, p_details, p_now);
$_record_event$;

-- One for each run, with details of its own.
create or replace function stepquota._record_events(
  p_tenant text, p_event_type text, p_level text, p_run_ids text[], p_details jsonb[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_events$
begin
  insert into stepquota.quota_events (tenant, event_type, level, run_id, details, created_at)
  select p_tenant, p_event_type, p_level, e.run_id, e.details, p_now
    from unnest(p_run_ids, p_details) with ordinality as e (run_id, details, place)
   order by e.place;
end;
$_record_events$;

-- Records an event that is wanted once a period. The mark is on the tenant's quota row and is set by
-- SKIP LOCKED: nobody waits for an alert. If the row is busy nothing is recorded now; the next one
-- who sees the same, or the scan, records it. Answers whether it was recorded or had been before.
-- Locks: the quota row, without waiting.
create or replace function stepquota._record_event_once(
  p_tenant text, p_period_start timestamptz, p_event_type text, p_level text, p_run_id text,
  p_details jsonb, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_record_event_once$
declare
  v_reported text[];
begin
  -- A plain read first: after the first time this is all that happens.
  if exists (
    select 1 from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and q.reported_period_start = p_period_start and p_event_type = any (q.reported)
  ) then
    return true;
  end if;
  select case when q.reported_period_start = p_period_start then q.reported else '{}' end
    into v_reported
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant
     for no key update skip locked;
  if not found then
    return false;
  end if;
  if p_event_type = any (v_reported) then
    return true;
  end if;
  update stepquota.workflow_step_quotas
     set reported_period_start = p_period_start, reported = v_reported || p_event_type
   where tenant = p_tenant;
  perform stepquota._record_event(p_tenant, p_event_type, p_level, p_run_id, p_details, p_now);
  return true;
end;
$_record_event_once$;

comment on function stepquota._record_event(text, text, text, text, jsonb, timestamptz) is 'Adds a row to quota_events.';
comment on function stepquota._record_events(text, text, text, text[], jsonb[], timestamptz) is 'Adds a row to quota_events for each run.';
comment on function stepquota._record_event_once(text, timestamptz, text, text, text, jsonb, timestamptz) is
  'Adds a row to quota_events unless the tenant''s period has one of that type; never waits.';
