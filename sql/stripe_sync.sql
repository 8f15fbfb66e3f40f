-- What the feeders of the mirror agree on: which account and mode the mirror belongs to, how far the
-- events were read, and the full sync: a listing of everything, and after it a look for what is gone.
--
-- All moments here are compared with Stripe's or with when Stripe was asked. So they are the real
-- clock's, and the test clock has no say.

-- The mirror belongs to the first account and mode that are named. A key of another is refused, since
-- for it everything in the mirror would seem to be gone. Events of the other mode that were stored
-- before it was known are ignored from now on.
-- Locks: the state's row. SQLSTATEs: WQ001, WQ030.
create or replace function stepquota.bind_stripe_mirror(p_account text, p_livemode boolean, p_api_version text)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $bind_stripe_mirror$
declare
  v_now timestamptz := clock_timestamp();
  v_mirror jsonb;
begin
  perform stepquota._check_unbound();
  if p_livemode is null then
    perform stepquota._refuse_argument('p_livemode', null, 'true or false', 'The key''s prefix says it: live_ or test_ comes after sk_ or rk_.');
  end if;
  insert into stepquota.stripe_sync_state (name, value, updated_at) values ('mirror', '{}', v_now)
  on conflict (name) do nothing;
  select s.value into v_mirror from stepquota.stripe_sync_state s where s.name = 'mirror' for no key update;
  if (v_mirror ->> 'livemode')::boolean <> p_livemode or v_mirror ->> 'account' <> p_account then
    raise exception using
      errcode = 'WQ030',
      message = 'the mirror belongs to another Stripe account or mode',
      detail = format('It is of account %L, %s mode; the key is of account %L, %s mode.',
        coalesce(v_mirror ->> 'account', 'unknown'),
        case when (v_mirror ->> 'livemode')::boolean then 'live' else 'test' end,
        coalesce(p_account, 'unknown'), case when p_livemode then 'live' else 'test' end),
      hint = 'Use a key of that account and mode, or another database for this one. Nothing was changed.';
  end if;
  if v_mirror ->> 'livemode' is null then
    update stepquota.stripe_events
       set status = 'ignored', processed_at = v_now
     where status = 'pending' and livemode <> p_livemode;
  end if;
  if v_mirror ->> 'livemode' is null or v_mirror ->> 'account' is null and p_account is not null
     or v_mirror ->> 'api_version' is distinct from p_api_version then
    perform stepquota._write_stripe_state('mirror', jsonb_build_object('account',
      coalesce(p_account, v_mirror ->> 'account'), 'livemode', p_livemode, 'api_version', p_api_version), v_now);
  end if;
  return v_mirror ->> 'livemode' is null;
end;
$bind_stripe_mirror$;

-- Objects that the mirror has, to see whether a key that may not say whose it is sees any of them.
create or replace function stepquota.list_stripe_witnesses()
returns table (object_type text, object_id text)
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_stripe_witnesses$
  select stepquota._check_unbound();
  (select 'product', p.id from stepquota.stripe_products p where p.deleted_at is null order by p.created_at desc, p.id limit 2)
  union all
  (select 'price', p.id from stepquota.stripe_prices p where p.deleted_at is null order by p.created_at desc, p.id limit 2)
  union all
  (select 'customer', c.id from stepquota.stripe_customers c where c.deleted_at is null order by c.created_at desc, c.id limit 2)
  union all
  (select 'subscription', s.id from stepquota.stripe_subscriptions s where s.deleted_at is null order by s.created_at desc, s.id limit 2);
$list_stripe_witnesses$;

-- Since when events are to be asked for: ten minutes before the newest that was read, since several
-- share a second and some appear late; ids tell which are known. Stripe lists events for 30 days: with
-- an older mark, or none, only a full sync brings everything.
create or replace function stepquota.begin_stripe_catch_up(out since timestamptz, out needs_full_sync boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $begin_stripe_catch_up$
declare
  v_now timestamptz := clock_timestamp();
  v_cursor timestamptz := (stepquota._read_stripe_state('events_cursor') ->> 'created')::timestamptz;
begin
  perform stepquota._check_unbound();
  needs_full_sync := v_cursor is null or v_cursor < v_now - interval '29 days'
    or exists (select 1 from stepquota.stripe_sync_state s where s.name = 'full_sync_wanted');
  since := v_cursor;
  if since is null or since < v_now - interval '29 days' then
    since := v_now - interval '29 days';
  end if;
  since := since - interval '10 minutes';
end;
$begin_stripe_catch_up$;

-- All events since then were stored; the newest of them was made at p_newest (NULL: there was none).
-- Locks: the state's rows.
create or replace function stepquota.finish_stripe_catch_up(p_newest timestamptz)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_stripe_catch_up$
declare
  v_now timestamptz := clock_timestamp();
  v_cursor timestamptz := (stepquota._read_stripe_state('events_cursor') ->> 'created')::timestamptz;
begin
  perform stepquota._check_unbound();
  if p_newest is not null and (v_cursor is null or p_newest > v_cursor) then
    perform stepquota._write_stripe_state('events_cursor', jsonb_build_object('created', p_newest), v_now);
  end if;
  perform stepquota._write_stripe_state('catch_up', jsonb_build_object('finished_at', v_now), v_now);
end;
$finish_stripe_catch_up$;

-- Begins a full sync, or goes on with one that was stopped less than an hour ago. Only one runs at a
-- time: the holder renews its lease with every page. Answers a row for each type, in the order in which
-- they are listed: how far it is, and how many objects the mirror has.
-- Locks: the state's row. SQLSTATEs: WQ001, WQ032.
create or replace function stepquota.begin_stripe_sync(p_holder text, p_from_start boolean default false)
returns table (started_at timestamptz, object_type text, listed bigint, last_id text, is_complete boolean, known bigint)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $begin_stripe_sync$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_running jsonb;
  v_started_at timestamptz;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_holder', p_holder);
  if p_from_start is null then
    perform stepquota._refuse_argument('p_from_start', null, 'true or false', 'false goes on with one that was stopped.');
  end if;
  insert into stepquota.stripe_sync_state (name, value, updated_at) values ('full_sync_running', '{}', v_now)
  on conflict (name) do nothing;
  select s.value into v_running
    from stepquota.stripe_sync_state s
   where s.name = 'full_sync_running'
     for no key update;
  if v_running ->> 'holder' <> p_holder and (v_running ->> 'leased_until')::timestamptz > v_now then
    raise exception using
      errcode = 'WQ032',
      message = 'another full sync is running',
      detail = format('%L runs it; its lease ends at %s unless it is renewed.', v_running ->> 'holder',
        stepquota._format_moment((v_running ->> 'leased_until')::timestamptz)),
      hint = 'Wait until it is done. If its process is gone, wait until the lease has ended.';
  end if;
  v_started_at := (v_running ->> 'started_at')::timestamptz;
  if v_started_at is null or p_from_start or v_started_at < v_now - interval '1 hour' then
    v_started_at := v_now;
    -- Pages are proofs against older answers, which do not come an hour late.
    delete from stepquota.stripe_sync_pages where fetched_at < v_now - interval '1 hour';
  end if;
  perform stepquota._write_stripe_state('full_sync_running', jsonb_build_object('started_at', v_started_at,
    'holder', p_holder, 'leased_until', v_now + interval '5 minutes'), v_now);
  if not exists (select 1 from stepquota.stripe_sync_state s where s.name = 'events_cursor') then
    perform stepquota._write_stripe_state('events_cursor', jsonb_build_object('created', v_now), v_now);
  end if;
  return query
    select v_started_at, t.object_type, coalesce(sum(cardinality(p.object_ids)), 0)::bigint,
           (array_agg(p.object_ids[cardinality(p.object_ids)] order by p.page_number desc))[1],
           coalesce(bool_or(p.is_last), false), max(t.known)
      from (values ('product', 1, (select count(*) from stepquota.stripe_products x where x.deleted_at is null)),
                   ('price', 2, (select count(*) from stepquota.stripe_prices x where x.deleted_at is null)),
                   ('customer', 3, (select count(*) from stepquota.stripe_customers x where x.deleted_at is null)),
                   ('subscription', 4, (select count(*) from stepquota.stripe_subscriptions x where x.deleted_at is null)))
           as t (object_type, place, known)
      left join stepquota.stripe_sync_pages p on p.started_at = v_started_at and p.object_type = t.object_type
     group by t.object_type, t.place
     order by t.place;
end;
$begin_stripe_sync$;

-- The start of the full sync that the holder runs; its lease is renewed.
-- Locks: the state's row. SQLSTATEs: WQ001, WQ032.
create or replace function stepquota._renew_stripe_sync(p_holder text, p_now timestamptz)
returns timestamptz
language plpgsql
volatile
as $_renew_stripe_sync$
declare
  v_running jsonb;
begin
  perform stepquota._check_name('p_holder', p_holder);
  select s.value into v_running
    from stepquota.stripe_sync_state s
   where s.name = 'full_sync_running'
     for no key update;
  if v_running ->> 'holder' is distinct from p_holder then
    raise exception using
      errcode = 'WQ032',
      message = 'another full sync is running',
      detail = format('%L took over from %L.', coalesce(v_running ->> 'holder', 'nobody'), p_holder),
      hint = 'Begin again with begin_stripe_sync.';
  end if;
  perform stepquota._write_stripe_state('full_sync_running',
    v_running || jsonb_build_object('leased_until', p_now + interval '5 minutes'), p_now);
  return (v_running ->> 'started_at')::timestamptz;
end;
$_renew_stripe_sync$;

-- One page of a listing, in Stripe's order. What the mirror has already is not written again; the
-- page itself is the proof that it was seen. An object that cannot be read is passed over and recorded:
-- what was stored of it stays in force.
-- Locks: the state's row; then as _apply_stripe_objects. SQLSTATEs: WQ001, WQ016, WQ017, WQ032.
create or replace function stepquota.store_stripe_page(
  p_holder text, p_object_type text, p_objects jsonb, p_fetched_at timestamptz, p_is_last boolean)
returns table (action text, objects bigint)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $store_stripe_page$
declare
  v_now timestamptz := clock_timestamp();
  v_started_at timestamptz;
  v_actions text[];
  v_object jsonb;
  v_action text;
  v_message text;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_one_of('p_object_type', p_object_type, array['product', 'price', 'customer', 'subscription']);
  perform stepquota._check_fetched_at(p_fetched_at, v_now);
  if jsonb_typeof(p_objects) is distinct from 'array' or p_is_last is null
     or exists (select 1 from jsonb_array_elements(p_objects) o where o.value ->> 'object' is distinct from p_object_type) then
    perform stepquota._refuse_argument('p_objects', left(p_objects::text, 40), 'an array of objects of the type listed',
      'Pass the data of a page of Stripe''s list, and p_is_last = not has_more.');
  end if;
  v_started_at := stepquota._renew_stripe_sync(p_holder, v_now);
  insert into stepquota.stripe_sync_pages (started_at, object_type, page_number, fetched_at, object_ids, is_last)
  select v_started_at, p_object_type,
         1 + coalesce((select max(p.page_number) from stepquota.stripe_sync_pages p
                        where p.started_at = v_started_at and p.object_type = p_object_type), 0),
         p_fetched_at,
         array(select o.value ->> 'id' from jsonb_array_elements(p_objects) with ordinality as o (value, place) order by o.place),
         p_is_last;
  begin
    v_actions := array(
      select a.action from stepquota._apply_stripe_objects(p_objects, p_fetched_at, 'listed', v_now) a
       where a.object_type = p_object_type);
  exception when sqlstate 'WQ016' then
    -- One of them cannot be read: each by itself.
    v_actions := '{}';
    for v_object in select o.value from jsonb_array_elements(p_objects) o order by o.value ->> 'id' collate "C" loop
      begin
        select a.action into strict v_action
          from stepquota._apply_stripe_objects(jsonb_build_array(v_object), p_fetched_at, 'listed', v_now) a
         where a.object_type = p_object_type;
      exception when sqlstate 'WQ016' then
        get stacked diagnostics v_message = pg_exception_detail;
        v_action := 'refused';
        perform stepquota._record_event('', 'stripe_object_refused', 'error', null,
          jsonb_build_object('object_type', p_object_type, 'object_id', v_object ->> 'id', 'problem', v_message), v_now);
      end;
      v_actions := v_actions || v_action;
    end loop;
  end;
  return query
    select a.action, count(*) from unnest(v_actions) as a (action) group by a.action order by a.action;
end;
$store_stripe_page$;

-- After a complete listing: objects of the mirror that were not on it, and were written before it. Each is
-- to be asked for before it is taken for deleted; those on test clocks are never listed. If they are
-- more than 20 and more than a tenth of their type, something else is wrong, and nothing is answered
-- unless p_force.
-- Locks: the state's row. SQLSTATEs: WQ001, WQ031, WQ032, WQ033.
create or replace function stepquota.list_unseen_stripe_objects(p_holder text, p_force boolean default false)
returns table (object_type text, object_id text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_unseen_stripe_objects$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_started_at timestamptz;
  v_unlisted text;
  v_excess text;
begin
  perform stepquota._check_unbound();
  if p_force is null then
    perform stepquota._refuse_argument('p_force', null, 'true or false', 'false keeps the bound.');
  end if;
  v_started_at := stepquota._renew_stripe_sync(p_holder, v_now);
  select string_agg(t.object_type, ', ') into v_unlisted
    from unnest(array['product', 'price', 'customer', 'subscription']) as t (object_type)
   where not exists (
     select 1 from stepquota.stripe_sync_pages p
      where p.started_at = v_started_at and p.object_type = t.object_type and p.is_last);
  if v_unlisted is not null then
    raise exception using
      errcode = 'WQ033',
      message = 'the listing is not complete',
      detail = format('Not listed to the end: %s.', v_unlisted),
      hint = 'Store all pages first, by store_stripe_page, up to the one with p_is_last.';
  end if;
  select string_agg(format('%s of %s %ss', u.unseen, u.live, u.object_type), ', ') into v_excess
    from (
      select l.object_type, count(*) filter (where l.is_unseen and not l.is_on_test_clock) as unseen, count(*) as live
        from stepquota._list_live_stripe_objects(v_started_at) l
       group by l.object_type) u
   where u.unseen > greatest(20, u.live * 0.1);
  if v_excess is not null and not p_force then
    raise exception using
      errcode = 'WQ031',
      message = 'too many objects of the mirror were not listed',
      detail = format('Not listed: %s.', v_excess),
      hint = 'Check that the key is the right account''s. If they are really gone, let it look at them with p_force (stepquota stripe sync: option force). Nothing was deleted.';
  end if;
  return query
    select l.object_type, l.object_id
      from stepquota._list_live_stripe_objects(v_started_at) l
     where l.is_unseen
     order by 1, 2;
end;
$list_unseen_stripe_objects$;

-- All objects that are not deleted, and whether a full sync that began then has not met them.
create or replace function stepquota._list_live_stripe_objects(p_started_at timestamptz)
returns table (object_type text, object_id text, is_on_test_clock boolean, is_unseen boolean)
language sql
stable
as $_list_live_stripe_objects$
  with live (object_type, object_id, fetched_at, is_on_test_clock) as (
    select 'product', p.id, p.fetched_at, false from stepquota.stripe_products p where p.deleted_at is null
    union all
    select 'price', p.id, p.fetched_at, false from stepquota.stripe_prices p where p.deleted_at is null
    union all
    select 'customer', c.id, c.fetched_at, c.is_on_test_clock
      from stepquota.stripe_customers c where c.deleted_at is null
    union all
    select 'subscription', s.id, s.fetched_at, s.is_on_test_clock
      from stepquota.stripe_subscriptions s where s.deleted_at is null
  ),
  seen as (
    select p.object_type, unnest(p.object_ids) as object_id
      from stepquota.stripe_sync_pages p
     where p.started_at = p_started_at
  )
  select l.object_type, l.object_id, l.is_on_test_clock,
         s.object_id is null and l.fetched_at < p_started_at
    from live l
    left join (select distinct e.object_type, e.object_id from seen e) s
      on s.object_type = l.object_type and s.object_id = l.object_id;
$_list_live_stripe_objects$;

-- The full sync is done: everything was listed and what was missing was looked at.
-- Locks: the state's rows. SQLSTATEs: WQ001, WQ032.
create or replace function stepquota.finish_stripe_sync(p_holder text, p_figures jsonb)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_stripe_sync$
declare
  v_now timestamptz := clock_timestamp();
  v_started_at timestamptz;
begin
  perform stepquota._check_unbound();
  if jsonb_typeof(p_figures) is distinct from 'object' then
    perform stepquota._refuse_argument('p_figures', left(p_figures::text, 40), 'a JSON object', 'How many objects got which action.');
  end if;
  v_started_at := stepquota._renew_stripe_sync(p_holder, v_now);
  perform stepquota._write_stripe_state('full_sync_running', '{}', v_now);
  perform stepquota._write_stripe_state('full_sync', jsonb_build_object('started_at', v_started_at,
    'finished_at', v_now, 'figures', p_figures), v_now);
  delete from stepquota.stripe_sync_state where name = 'full_sync_wanted' and updated_at < v_started_at;
end;
$finish_stripe_sync$;

-- The holder stops: another may go on at once.
-- Locks: the state's row. SQLSTATEs: WQ001.
create or replace function stepquota.release_stripe_sync(p_holder text)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $release_stripe_sync$
declare
  v_now timestamptz := clock_timestamp();
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_holder', p_holder);
  update stepquota.stripe_sync_state
     set value = value - 'holder' - 'leased_until', updated_at = v_now
   where name = 'full_sync_running' and value ->> 'holder' = p_holder;
end;
$release_stripe_sync$;

-- How the feeders of the mirror are. One row.
create or replace function stepquota.stripe_sync_health()
returns table (
  account text, livemode boolean, pending_events bigint, oldest_pending_at timestamptz, dead_events bigint,
  last_webhook_at timestamptz, last_worked_off_at timestamptz, last_catch_up_at timestamptz,
  last_full_sync_at timestamptz, needs_full_sync boolean)
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $stripe_sync_health$
  select stepquota._check_unbound();
  select stepquota._read_stripe_state('mirror') ->> 'account',
         (stepquota._read_stripe_state('mirror') ->> 'livemode')::boolean,
         (select count(*) from stepquota.stripe_events e where e.status = 'pending'),
         (select min(e.received_at) from stepquota.stripe_events e where e.status = 'pending'),
         (select count(*) from stepquota.stripe_events e where e.status = 'dead'),
         (select max(x.received_at)
            from (values ('webhook'), ('thin')) as f (source)
           cross join lateral (
             select e.received_at from stepquota.stripe_events e where e.source = f.source
              order by e.received_at desc limit 1) x),
         (select e.processed_at from stepquota.stripe_events e where e.status in ('done', 'ignored')
           order by e.processed_at desc limit 1),
         (stepquota._read_stripe_state('catch_up') ->> 'finished_at')::timestamptz,
         (stepquota._read_stripe_state('full_sync') ->> 'finished_at')::timestamptz,
         stepquota._read_stripe_state('full_sync') = '{}'
           or exists (select 1 from stepquota.stripe_sync_state s where s.name = 'full_sync_wanted');
$stripe_sync_health$;

comment on function stepquota.bind_stripe_mirror(text, boolean, text) is
  'For the Stripe sync: says whose key is used: account id (NULL if the key may not tell), mode, API version. The first call binds the mirror to them; answers whether this was it. WQ001 no mode, WQ030 the mirror belongs to another account or mode.';
comment on function stepquota.list_stripe_witnesses() is
  'For the Stripe sync: objects of the mirror that a key of its account must see.';
comment on function stepquota.begin_stripe_catch_up() is
  'For the Stripe sync: since when events are to be asked for, and whether a full sync is needed to have everything.';
comment on function stepquota.finish_stripe_catch_up(timestamptz) is
  'For the Stripe sync: all events up to p_newest were stored (NULL: there were none).';
comment on function stepquota.begin_stripe_sync(text, boolean) is
  'For the Stripe sync: begins a full sync, or goes on with one stopped less than an hour ago. A row a type: started_at, object_type, listed, last_id, is_complete, known. WQ001 bad arguments, WQ032 another one is running.';
comment on function stepquota._renew_stripe_sync(text, timestamptz) is 'Renews the lease of a full sync.';
comment on function stepquota.store_stripe_page(text, text, jsonb, timestamptz, boolean) is
  'For the Stripe sync: stores a page of a listing. Answers how many objects got which action (as apply_stripe_object; refused: it cannot be read). WQ001 bad arguments, WQ032 another full sync has taken over.';
comment on function stepquota.list_unseen_stripe_objects(text, boolean) is
  'For the Stripe sync: objects of the mirror that a complete listing did not have, each to be asked for. WQ001 bad arguments, WQ031 they are too many, WQ032 another full sync has taken over, WQ033 the listing is not complete.';
comment on function stepquota._list_live_stripe_objects(timestamptz) is 'Objects that are not deleted, and whether a full sync has not met them.';
comment on function stepquota.finish_stripe_sync(text, jsonb) is
  'For the Stripe sync: the full sync is done, with these figures. WQ001 bad arguments, WQ032 another full sync has taken over.';
comment on function stepquota.release_stripe_sync(text) is
  'For the Stripe sync: the holder stops, and another may go on with the full sync at once. WQ001 bad arguments.';
comment on function stepquota.stripe_sync_health() is
  'How the feeders of the Stripe mirror are, in one row: account and mode of the mirror, events to be worked off and since when, dead events, last success of each feeder, whether a full sync is needed.';
