-- Events of Stripe: triggers to ask for an object, never data. Each id is stored once, worked off by
-- whoever takes it, and kept until Stripe no longer lists it. Leases and moments are the real clock's:
-- the test clock has no say here.

-- The type of the object that an event is about, if the mirror keeps it; NULL otherwise. Thin events
-- have the same names behind "v1.".
create or replace function stepquota._name_stripe_event_object(p_event_type text)
returns text
language sql
immutable
as $_name_stripe_event_object$
  select case
    when named.event_type ~ '^customer[.]subscription[.](created|updated|deleted|paused|resumed|pending_update_applied|pending_update_expired)$'
      or named.event_type = 'checkout.session.completed' then 'subscription'
    when named.event_type ~ '^customer[.](created|updated|deleted)$' then 'customer'
    when named.event_type ~ '^product[.](created|updated|deleted)$' then 'product'
    when named.event_type ~ '^price[.](created|updated|deleted)$' then 'price'
  end
    from (select regexp_replace(p_event_type, '^v1[.]', '') as event_type) named;
$_name_stripe_event_object$;

-- What the sync remembers under a name; {} if nothing.
create or replace function stepquota._read_stripe_state(p_name text)
returns jsonb
language sql
stable
as $_read_stripe_state$
  select coalesce((select s.value from stepquota.stripe_sync_state s where s.name = p_name), '{}');
$_read_stripe_state$;

-- Locks: the state's row.
create or replace function stepquota._write_stripe_state(p_name text, p_value jsonb, p_now timestamptz)
returns void
language sql
volatile
as $_write_stripe_state$
  insert into stepquota.stripe_sync_state as s (name, value, updated_at) values (p_name, p_value, p_now)
  on conflict (name) do update set value = excluded.value, updated_at = excluded.updated_at;
$_write_stripe_state$;

-- Stores events that were received, each id once. Those about objects that the mirror does not keep, of
-- the other mode or of another account are ignored: stored as such, and never worked off. If Stripe
-- says that it has lost events, a full sync is wanted.
-- Sends NOTIFY stepquota_stripe_event where there is something to work off.
-- Locks: the events' rows by id. SQLSTATEs: WQ001, WQ016.
create or replace function stepquota.record_stripe_events(p_events jsonb, p_source text)
returns table (event_id text, outcome text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $record_stripe_events$
declare
  v_now timestamptz := clock_timestamp();
  v_mirror jsonb := stepquota._read_stripe_state('mirror');
  v_event jsonb;
  v_rows stepquota.stripe_events[] := '{}'::stepquota.stripe_events[];
  v_row stepquota.stripe_events;
  v_new text[];
begin
  perform stepquota._check_unbound();
  perform stepquota._check_one_of('p_source', p_source, array['webhook', 'thin', 'catch_up']);
  if jsonb_typeof(p_events) is distinct from 'array' then
    perform stepquota._refuse_argument('p_events', left(p_events::text, 40), 'a JSON array of events',
      'Pass objects with id, type, created, livemode, account, object_id and subscription_id.');
  end if;
  for v_event in select e.value from jsonb_array_elements(p_events) e loop
    v_row := null;
    v_row.id := stepquota._read_stripe_text(v_event, 'id', true);
    v_row.event_type := stepquota._read_stripe_text(v_event, 'type', true);
    v_row.object_type := stepquota._name_stripe_event_object(v_row.event_type);
    v_row.object_id := stepquota._read_stripe_text(v_event,
      case when v_row.event_type ~ '^(v1[.])?checkout[.]' then 'subscription_id' else 'object_id' end);
    v_row.livemode := stepquota._read_stripe_flag(v_event, 'livemode');
    v_row.created_at := stepquota._read_stripe_time(v_event, 'created');
    v_row.received_at := v_now;
    v_row.source := p_source;
    v_row.attempts := 0;
    v_row.next_attempt_at := v_now;
    v_row.status := 'pending';
    if v_row.object_type is null or v_row.object_id is null
       or v_row.livemode <> (v_mirror ->> 'livemode')::boolean
       or stepquota._read_stripe_text(v_event, 'account') <> coalesce(v_mirror ->> 'account', '') then
      v_row.status := 'ignored';
      v_row.processed_at := v_now;
    end if;
    v_rows := v_rows || v_row;
  end loop;
  with stored as (
    insert into stepquota.stripe_events
    select distinct on (r.id) r.* from unnest(v_rows) r order by r.id
    on conflict (id) do nothing
    returning id, event_type, status
  )
  select array_agg(s.id) into v_new from stored s;
  if exists (
    select 1 from unnest(v_rows) r
     where r.id = any (v_new) and r.event_type = 'v2.core.health.event_generation_failure.resolved'
  ) then
    perform stepquota._write_stripe_state('full_sync_wanted', jsonb_build_object('because', 'Stripe lost events'), v_now);
  end if;
  if exists (select 1 from unnest(v_rows) r where r.id = any (v_new) and r.status = 'pending') then
    perform pg_notify('stepquota_stripe_event', '');
  end if;
  return query
    select r.id, case when r.id = any (v_new) then r.status else 'duplicate' end
      from unnest(v_rows) r;
end;
$record_stripe_events$;

-- Takes pending events, the longest due first, and answers their objects: one request serves all events
-- of an object. They are somebody else's again when the lease is over.
-- Locks: the events' rows, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.claim_stripe_events(
  p_max_events integer default 50, p_lease interval default '2 minutes')
returns table (object_type text, object_id text, event_ids text[])
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $claim_stripe_events$
declare
  v_now timestamptz := clock_timestamp();
  v_ids text[];
begin
  perform stepquota._check_unbound();
  if p_max_events is null or p_max_events not between 1 and 10000 then
    perform stepquota._refuse_argument('p_max_events', p_max_events::text, 'a number from 1 to 10000', 'It bounds one claim.');
  end if;
  if p_lease is null or p_lease not between interval '1 second' and interval '1 hour' then
    perform stepquota._refuse_argument('p_lease', p_lease::text, 'an interval from 1 second to 1 hour',
      'It is how long others leave the events alone.');
  end if;
  v_ids := array(
    select e.id from stepquota.stripe_events e
     where e.status = 'pending' and e.next_attempt_at <= v_now
     order by e.next_attempt_at
     limit p_max_events
       for no key update skip locked);
  update stepquota.stripe_events set next_attempt_at = v_now + p_lease where id = any (v_ids);
  return query
    select e.object_type, e.object_id, array_agg(e.id order by e.id)
      from stepquota.stripe_events e
     where e.id = any (v_ids)
     group by e.object_type, e.object_id
     order by min(e.created_at), e.object_type, e.object_id;
end;
$claim_stripe_events$;

-- The events' object was asked for and written, in this transaction.
-- Locks: the events' rows by id. SQLSTATEs: WQ001.
create or replace function stepquota.finish_stripe_events(p_event_ids text[])
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_stripe_events$
declare
  v_now timestamptz := clock_timestamp();
  v_count integer;
begin
  perform stepquota._check_unbound();
  perform stepquota._lock_stripe_events(p_event_ids);
  update stepquota.stripe_events
     set status = 'done', processed_at = v_now, last_error = null
   where id = any (p_event_ids) and status in ('pending', 'dead');
  get diagnostics v_count = row_count;
  return v_count;
end;
$finish_stripe_events$;

-- Locks: the events' rows by id. SQLSTATEs: WQ001.
create or replace function stepquota._lock_stripe_events(p_event_ids text[])
returns void
language plpgsql
volatile
as $_lock_stripe_events$
begin
  if p_event_ids is null or stepquota._has_null(p_event_ids) then
    perform stepquota._refuse_argument('p_event_ids', p_event_ids::text, 'an array of event ids', 'Pass what claim_stripe_events answered.');
  end if;
  perform 1 from stepquota.stripe_events e where e.id = any (p_event_ids) order by e.id for no key update;
end;
$_lock_stripe_events$;

-- The events could not be worked off now. They are due again after p_wait, by default after 2, 4, 8 ...
-- seconds up to an hour, and dead after policy.stripe_event_attempts. What is no fault of the event (a key
-- without rights, a server that is busy) counts as no attempt, and is due again within half a minute.
-- Locks: the events' rows by id. SQLSTATEs: WQ001.
create or replace function stepquota.fail_stripe_events(
  p_event_ids text[], p_error text, p_is_attempt boolean default true, p_wait interval default null)
returns table (event_id text, status text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $fail_stripe_events$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_spread double precision := random();
  v_most integer;
  v_event stepquota.stripe_events;
  v_attempts integer;
begin
  perform stepquota._check_unbound();
  if p_error is null or p_is_attempt is null then
    perform stepquota._refuse_argument('p_error and p_is_attempt', null, 'a text and a flag', 'Say what went wrong.');
  end if;
  perform stepquota._lock_stripe_events(p_event_ids);
  select p.stripe_event_attempts into v_most from stepquota.policy p;
  for v_event in
    select e.* from stepquota.stripe_events e
     where e.id = any (p_event_ids) and e.status = 'pending'
     order by e.id
  loop
    v_attempts := v_event.attempts + case when p_is_attempt then 1 else 0 end;
    event_id := v_event.id;
    status := case when p_is_attempt and v_attempts >= v_most then 'dead' else 'pending' end;
    update stepquota.stripe_events e
       set status = fail_stripe_events.status, attempts = v_attempts, last_error = left(p_error, 1000),
           processed_at = case when fail_stripe_events.status = 'dead' then v_now end,
           next_attempt_at = v_now + coalesce(p_wait,
             case when p_is_attempt then least(interval '1 second' * 2 ^ least(v_attempts, 12), interval '1 hour')
                  else interval '30 seconds' end * (0.5 + v_spread / 2))
     where e.id = v_event.id;
    if status = 'dead' then
      perform stepquota._record_event('', 'stripe_event_dead', 'error', null,
        jsonb_build_object('event_id', v_event.id, 'stripe_event_type', v_event.event_type,
          'object_type', v_event.object_type, 'object_id', v_event.object_id, 'attempts', v_attempts,
          'error', left(p_error, 1000)), v_now);
    end if;
    return next;
  end loop;
end;
$fail_stripe_events$;

-- Dead events are due again, all of them or those given; after their cause was put right.
-- Locks: the events' rows by id. SQLSTATEs: WQ001.
create or replace function stepquota.requeue_stripe_events(p_event_ids text[] default null)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $requeue_stripe_events$
declare
  v_now timestamptz := clock_timestamp();
  v_ids text[] := p_event_ids;
  v_count integer;
begin
  perform stepquota._check_unbound();
  if v_ids is null then
    v_ids := array(select e.id from stepquota.stripe_events e where e.status = 'dead');
  end if;
  perform stepquota._lock_stripe_events(v_ids);
  update stepquota.stripe_events
     set status = 'pending', attempts = 0, next_attempt_at = v_now, processed_at = null
   where id = any (v_ids) and status = 'dead';
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform pg_notify('stepquota_stripe_event', '');
  end if;
  return v_count;
end;
$requeue_stripe_events$;

-- Deletes events that are done with for longer than policy.stripe_events_kept_for, so many at most.
-- Locks: the events' rows, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.tend_stripe_events(p_max_events integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $tend_stripe_events$
declare
  v_now timestamptz := clock_timestamp();
  v_ids text[];
begin
  perform stepquota._check_unbound();
  if p_max_events is null or p_max_events < 1 then
    perform stepquota._refuse_argument('p_max_events', p_max_events::text, 'a number from 1', 'It bounds one transaction.');
  end if;
  v_ids := array(
    select e.id
      from stepquota.stripe_events e, stepquota.policy p
     where e.status in ('done', 'ignored') and e.processed_at < v_now - p.stripe_events_kept_for
     limit p_max_events
       for no key update of e skip locked);
  delete from stepquota.stripe_events where id = any (v_ids);
  return cardinality(v_ids);
end;
$tend_stripe_events$;

comment on function stepquota._name_stripe_event_object(text) is 'The type of the object that an event is about.';
comment on function stepquota._read_stripe_state(text) is 'What the sync remembers under a name.';
comment on function stepquota._write_stripe_state(text, jsonb, timestamptz) is 'Remembers something for the sync.';
comment on function stepquota._lock_stripe_events(text[]) is 'Locks events by id.';
comment on function stepquota.record_stripe_events(jsonb, text) is
  'Stores events that were received, each id once, by source (webhook, thin, catch_up). p_events is an array of {id, type, created, livemode, account, object_id, subscription_id}, the last for checkout sessions. Answers event_id, outcome (pending, ignored, duplicate). WQ001 bad arguments, WQ016 an event without id or type.';
comment on function stepquota.claim_stripe_events(integer, interval) is
  'Takes pending events for the time of the lease. A row an object to ask Stripe for: object_type, object_id, event_ids. WQ001 bad arguments.';
comment on function stepquota.finish_stripe_events(text[]) is
  'Marks events done, in the transaction that wrote their object; answers how many. WQ001 bad arguments.';
comment on function stepquota.fail_stripe_events(text[], text, boolean, interval) is
  'Puts events off after a failure (p_wait; by default longer each time), and gives up those that failed too often. Answers event_id, status (pending, dead). WQ001 bad arguments.';
comment on function stepquota.requeue_stripe_events(text[]) is
  'Makes dead events due again, those given or all (NULL); answers how many. WQ001 bad arguments.';
comment on function stepquota.tend_stripe_events(integer) is
  'For tick(): deletes events done with for longer than policy.stripe_events_kept_for, so many at most; answers how many. WQ001 bad arguments.';
