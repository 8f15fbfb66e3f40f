-- Handing out events to consumers: each gets every event at least once, whatever the others do.
--
-- Events commit in another order than their numbers say. So an event gets its place in the order, its
-- position, only after it was committed, from whoever claims next or from tick(), one at a time. A
-- consumer then needs to remember one position: what commits late comes after it.

-- Gives positions to events that have none, at most so many; answers how many. 0 also if somebody else
-- is at it: then these come with the next claim.
-- Locks: the one row of quota_event_order, without waiting; the events, which nobody else changes.
create or replace function stepquota._order_events(p_max_events integer)
returns integer
language plpgsql
volatile
as $_order_events$
declare
  v_last_position bigint;
  v_new record;
  v_count integer := 0;
begin
  select o.last_position into v_last_position from stepquota.quota_event_order o for no key update skip locked;
  if not found then
    return 0;
  end if;
  for v_new in
    select n.tenant, array_agg(n.event_id) as event_ids, array_agg(v_last_position + n.number) as positions
      from (select u.tenant, u.event_id, row_number() over (order by u.event_id) as number
              from (select e.tenant, e.event_id
                      from stepquota.quota_events e
                     where e.position is null
                     order by e.event_id
                     limit p_max_events) u) n
     group by n.tenant
     order by n.tenant
  loop
    update stepquota.quota_events e
       set position = n.position
      from unnest(v_new.event_ids, v_new.positions) as n (event_id, position)
     where e.tenant = v_new.tenant and e.event_id = n.event_id;
    v_count := v_count + cardinality(v_new.event_ids);
  end loop;
  if v_count > 0 then
    update stepquota.quota_event_order set last_position = v_last_position + v_count;
  end if;
  return v_count;
end;
$_order_events$;

-- A position with no event of that moment or later before it. Positions go with the time but for
-- transactions that took long; a day is allowed for those. Looks at some 60 events, however many there are.
create or replace function stepquota._find_position_before(p_moment timestamptz, p_last_position bigint)
returns bigint
language plpgsql
stable
as $_find_position_before$
declare
  v_low bigint := 0;
  v_high bigint := p_last_position;
  v_middle bigint;
  v_found record;
begin
  if p_moment = '-infinity' then
    return 0;
  elsif p_moment = 'infinity' then
    return p_last_position;
  end if;
  while v_low < v_high loop
    v_middle := v_low + (v_high - v_low) / 2;
    select e.position, e.created_at into v_found
      from stepquota.quota_events e
     where e.position > v_middle
     order by e.position
     limit 1;
    if v_found.created_at < p_moment - interval '1 day' then
      v_low := least(v_found.position, v_high);
    else
      v_high := v_middle;
    end if;
  end loop;
  return v_low;
end;
$_find_position_before$;

-- Hands events to a consumer for a lease, first those whose lease ended without an acknowledgement. A
-- consumer that is not known is made by that. The caller commits before it acts on them, and soon:
-- meanwhile nobody else can put new events in order.
-- Locks: quota_event_order without waiting; the consumer's row, waiting; its claims without waiting.
-- SQLSTATEs: WQ001.
create or replace function stepquota.claim_quota_events(
  p_consumer text, p_max_events integer default 100, p_lease interval default '1 minute',
  p_event_types text[] default null, p_start_at timestamptz default null)
returns table (
  tenant text, event_id bigint, event_type text, level text, run_id text, details jsonb,
  created_at timestamptz, delivery integer, leased_until timestamptz)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $claim_quota_events$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  -- So many positions are looked at in one statement, and in one call: of a consumer that wants few of
  -- very many events, a call may answer none although there are more.
  v_window constant integer := 10000;
  v_windows_left integer := 100;
  v_consumer stepquota.quota_event_consumers;
  v_last_position bigint;
  v_until bigint;
  v_start_at timestamptz := coalesce(p_start_at, v_now);
  v_position bigint;
  v_left integer := p_max_events;
  v_claimed bigint[] := array[]::bigint[];
  v_claim record;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_consumer', p_consumer);
  if p_max_events is null or p_max_events not between 1 and 10000 then
    perform stepquota._refuse_argument('p_max_events', p_max_events::text, 'a number from 1 to 10000', 'Claim as many events as you can take on now.');
  end if;
  if p_lease is null or p_lease <= interval '0' or p_lease > interval '1 day' then
    perform stepquota._refuse_argument('p_lease', p_lease::text, 'an interval above 0, of at most a day', 'A minute is usual.');
  end if;
  perform stepquota._check_event_types(p_event_types);

  perform stepquota._order_events(10000);
  select o.last_position into v_last_position from stepquota.quota_event_order o;
  if not exists (select 1 from stepquota.quota_event_consumers c where c.consumer = p_consumer) then
    if p_start_at is not null then
      v_position := stepquota._find_position_before(p_start_at, v_last_position);
    else
      v_position := v_last_position;
    end if;
    insert into stepquota.quota_event_consumers (consumer, event_types, start_at, position, created_at, claimed_at)
    values (p_consumer, p_event_types, v_start_at, v_position, v_now, v_now)
    on conflict (consumer) do nothing;
  end if;
  select c.* into v_consumer
    from stepquota.quota_event_consumers c
   where c.consumer = p_consumer
     for no key update;
  if not found then
    -- Removed meanwhile: for this call there are no events.
    return;
  end if;

  -- Old events may have been deleted.
  delete from stepquota.quota_event_claims l
   where l.consumer = p_consumer and l.leased_until <= v_now
     and not exists (
       select 1 from stepquota.quota_events e where e.position = l.position and e.event_id = l.event_id);
  for v_claim in
    select l.event_id
      from stepquota.quota_event_claims l
     where l.consumer = p_consumer and l.leased_until <= v_now
     order by l.leased_until, l.event_id
     limit v_left
       for no key update skip locked
  loop
    v_left := v_left - 1;
    v_claimed := v_claimed || v_claim.event_id;
    update stepquota.quota_event_claims l
       set leased_until = v_now + p_lease, delivery = l.delivery + 1
     where l.consumer = p_consumer and l.event_id = v_claim.event_id;
  end loop;

  -- Read again: under the consumer's lock it is not behind the consumer's position.
  select o.last_position into v_last_position from stepquota.quota_event_order o;
  v_consumer.event_types := coalesce(p_event_types, v_consumer.event_types);
  while v_left > 0 and v_consumer.position < v_last_position and v_windows_left > 0 loop
    v_until := least(v_consumer.position + v_window, v_last_position);
    v_windows_left := v_windows_left - 1;
    for v_claim in
      select e.event_id, e.position
        from stepquota.quota_events e
       where e.position > v_consumer.position and e.position <= v_until
         and e.created_at >= v_consumer.start_at
         and (v_consumer.event_types is null or e.event_type = any (v_consumer.event_types))
       order by e.position
       limit v_left
    loop
      v_left := v_left - 1;
      v_claimed := v_claimed || v_claim.event_id;
      v_consumer.position := v_claim.position;
      insert into stepquota.quota_event_claims (consumer, event_id, position, delivery, leased_until)
      values (p_consumer, v_claim.event_id, v_claim.position, 1, v_now + p_lease);
    end loop;
    if v_left > 0 then
      v_consumer.position := v_until;
    end if;
  end loop;
  update stepquota.quota_event_consumers c
     set event_types = v_consumer.event_types, position = v_consumer.position, claimed_at = v_now
   where c.consumer = p_consumer;

  return query
    select e.tenant, e.event_id, e.event_type, e.level, e.run_id, e.details, e.created_at, l.delivery, l.leased_until
      from stepquota.quota_event_claims l
      join stepquota.quota_events e on e.position = l.position and e.event_id = l.event_id
     where l.consumer = p_consumer and l.event_id = any (v_claimed)
     order by l.position;
end;
$claim_quota_events$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_event_types(p_event_types text[])
returns void
language plpgsql
stable
as $_check_event_types$
declare
  v_unknown text;
begin
  if p_event_types = '{}' or stepquota._has_null(p_event_types) then
    perform stepquota._refuse_argument('p_event_types', p_event_types::text, 'an array of types', 'Leave it out for all types.');
  end if;
  select u.event_type into v_unknown
    from unnest(p_event_types) as u (event_type)
   where not exists (select 1 from stepquota.quota_event_types t where t.event_type = u.event_type)
   order by 1
   limit 1;
  if found then
    perform stepquota._refuse_argument('p_event_types', v_unknown, 'an array of types of events',
      'The types are in stepquota.quota_event_types.');
  end if;
end;
$_check_event_types$;

-- Says that the consumer is done with these events; answers how many of them it had. The others were
-- acknowledged before, or never handed to it. Anybody may say so, also after the lease.
-- Locks: the claims. SQLSTATEs: WQ001.
create or replace function stepquota.acknowledge_quota_events(p_consumer text, p_event_ids bigint[])
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $acknowledge_quota_events$
declare
  v_count bigint;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_consumer', p_consumer);
  if p_event_ids is null or stepquota._has_null(p_event_ids) then
    perform stepquota._refuse_argument('p_event_ids', p_event_ids::text, 'an array of numbers', 'Pass the event_id of each event that is done with.');
  end if;
  delete from stepquota.quota_event_claims l
   where l.consumer = p_consumer and l.event_id = any (p_event_ids);
  get diagnostics v_count = row_count;
  return v_count;
end;
$acknowledge_quota_events$;

-- Forgets a consumer, for one that will not claim any more. If it claims again it is a new one.
-- Locks: the consumer's row, waiting; its claims. SQLSTATEs: WQ001.
create or replace function stepquota.remove_quota_event_consumer(p_consumer text)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $remove_quota_event_consumer$
declare
  v_is_removed boolean;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_consumer', p_consumer);
  delete from stepquota.quota_event_consumers c where c.consumer = p_consumer;
  v_is_removed := found;
  delete from stepquota.quota_event_claims l where l.consumer = p_consumer;
  return v_is_removed;
end;
$remove_quota_event_consumer$;

-- For tick(): puts events in order, so that none pile up where nobody claims. Fewer than p_max_events
-- means that no more are left, or that somebody else is at it.
-- Locks: as _order_events. SQLSTATEs: WQ001.
create or replace function stepquota.order_quota_events(p_max_events integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $order_quota_events$
begin
  perform stepquota._check_unbound();
  if p_max_events is null or p_max_events < 1 then
    perform stepquota._refuse_argument('p_max_events', p_max_events::text, 'a number from 1', 'It bounds one transaction; 10000 is usual.');
  end if;
  return stepquota._order_events(p_max_events);
end;
$order_quota_events$;

comment on function stepquota._order_events(integer) is 'Gives positions to committed events that have none; answers how many.';
comment on function stepquota._find_position_before(timestamptz, bigint) is 'A position with no event of that moment or later before it.';
comment on function stepquota._check_event_types(text[]) is 'Raises WQ001 unless these are types of events.';
comment on function stepquota.claim_quota_events(text, integer, interval, text[], timestamptz) is
  'Hands quota_events to a consumer, for a lease, in the order in which they were committed: tenant, event_id, event_type, level, run_id, details, created_at, delivery (how many times this one was handed out, from 1), leased_until. Each consumer gets every event at least once; not acknowledged when the lease ends, it comes again. p_max_events 1 to 10000. p_event_types: the types it wants from now on; NULL leaves that as it is, at first all. A new consumer starts at p_start_at, NULL is now, -infinity the first event. Commit soon. WQ001 bad arguments.';
comment on function stepquota.acknowledge_quota_events(text, bigint[]) is
  'Says that the consumer is done with these events: they are not handed to it again. Answers how many of them it had. WQ001 bad arguments.';
comment on function stepquota.remove_quota_event_consumer(text) is
  'Forgets a consumer that will not claim any more; answers whether there was one. WQ001 bad arguments.';
comment on function stepquota.order_quota_events(integer) is
  'For tick: puts committed events in the order in which consumers get them; answers how many, at most p_max_events. WQ001 for a number below 1.';
