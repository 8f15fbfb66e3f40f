-- quota_events: the audit and the alerts. Their types are declared in event_types.sql.

create or replace function stepquota._record_event(
  p_tenant text, p_event_type text, p_level text, p_run_id text, p_details jsonb, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_event$
begin
  insert into stepquota.quota_events (tenant, event_type, level, run_id, details, created_at)
  values (p_tenant, p_event_type, p_level, p_run_id, p_details, p_now);
  if p_level <> 'info' then
    perform stepquota._log_event(p_tenant, p_event_type, p_run_id, p_details);
  end if;
end;
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

-- Records an event that there is to be only one of, whatever happens meanwhile: a period that is left
-- and come back to, marks that were lost. Answers whether it was the first. Would wait for who is
-- recording the same, so whoever may not wait holds the tenant's quota row.
create or replace function stepquota._record_event_under_key(
  p_tenant text, p_once_key text, p_event_type text, p_level text, p_run_id text, p_details jsonb, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_record_event_under_key$
begin
  insert into stepquota.quota_events (tenant, event_type, level, run_id, details, created_at, once_key)
  values (p_tenant, p_event_type, p_level, p_run_id, p_details, p_now, p_once_key)
  on conflict (tenant, once_key) where once_key is not null do nothing;
  if found and p_level <> 'info' then
    perform stepquota._log_event(p_tenant, p_event_type, p_run_id, p_details);
    return true;
  end if;
  return found;
end;
$_record_event_under_key$;

-- The key of an event of a period; p_object tells apart several of a type.
create or replace function stepquota._make_once_key(p_event_type text, p_period_start timestamptz, p_object text)
returns text
language sql
immutable
as $_make_once_key$
  select concat_ws(' ', p_event_type, to_char(p_period_start at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), p_object);
$_make_once_key$;

-- Warnings and errors, also in the server's log. They are recorded once where they would repeat, so
-- that the log is not flooded: never one line a denial.
create or replace function stepquota._log_event(p_tenant text, p_event_type text, p_run_id text, p_details jsonb)
returns void
language plpgsql
stable
as $_log_event$
begin
  raise log using
    message = format('stepquota: %s of tenant %L', p_event_type, p_tenant),
    detail = (p_details || jsonb_strip_nulls(jsonb_build_object('run_id', p_run_id)))::text;
end;
$_log_event$;

-- Records an event that is wanted once a period, and again if the limit was raised in it. The mark is on
-- the tenant's quota row and is set by SKIP LOCKED: nobody waits for an alert. If the row is busy
-- nothing is recorded now; the next one who sees the same, or tick(), records it. Answers whether it was
-- recorded or had been before. The mark is of the current period; the event's key is for ever.
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
  v_generation integer;
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
  select p.alert_generation into v_generation
    from stepquota.workflow_step_usage_periods p
   where p.tenant = p_tenant and p.period_start = p_period_start;
  perform stepquota._record_event_under_key(p_tenant,
    stepquota._make_once_key(p_event_type, p_period_start, v_generation::text), p_event_type, p_level, p_run_id,
    p_details, p_now);
  return true;
end;
$_record_event_once$;

comment on function stepquota._record_event(text, text, text, text, jsonb, timestamptz) is 'Adds a row to quota_events.';
comment on function stepquota._record_events(text, text, text, text[], jsonb[], timestamptz) is 'Adds a row to quota_events for each run.';
comment on function stepquota._record_event_under_key(text, text, text, text, text, jsonb, timestamptz) is
  'Adds a row to quota_events unless the tenant has one under the key; answers whether it did.';
comment on function stepquota._make_once_key(text, timestamptz, text) is 'The key of an event of a period.';
comment on function stepquota._log_event(text, text, text, jsonb) is 'A warning or an error for the server''s log.';
comment on function stepquota._record_event_once(text, timestamptz, text, text, text, jsonb, timestamptz) is
  'Adds a row to quota_events unless the tenant''s period has one of that type; never waits.';
