-- The one writer of the Stripe mirror. Every feeder, webhook, catch-up or listing, ends here.
--
-- Order guard: fetched_at is this database's clock, read before the object was asked for. An answer
-- asked for earlier than the one stored is stale and changes nothing; a deletion is final.

-- The tenant that metadata names, if the text can be one.
create or replace function stepquota._read_metadata_tenant(p_metadata jsonb)
returns text
language sql
stable
as $_read_metadata_tenant$
  select case when octet_length(named.tenant) between 1 and 255 then named.tenant end
    from (select p_metadata ->> p.tenant_metadata_key as tenant from stepquota.policy p) named;
$_read_metadata_tenant$;

-- After policy.tenant_metadata_key changed: what was read under the old key is read again.
create or replace function stepquota._read_metadata_tenants()
returns void
language plpgsql
volatile
as $_read_metadata_tenants$
begin
  update stepquota.stripe_customers c set metadata_tenant = n.tenant
    from (select i.id, stepquota._read_metadata_tenant(i.metadata) as tenant from stepquota.stripe_customers i) n
   where n.id = c.id and c.metadata_tenant is distinct from n.tenant;
  update stepquota.stripe_subscriptions s set metadata_tenant = n.tenant
    from (select i.id, stepquota._read_metadata_tenant(i.metadata) as tenant from stepquota.stripe_subscriptions i) n
   where n.id = s.id and s.metadata_tenant is distinct from n.tenant;
end;
$_read_metadata_tenants$;

-- Always raises WQ016; long values are cut.
create or replace function stepquota._refuse_stripe_object(p_object jsonb, p_problem text)
returns void
language plpgsql
stable
as $_refuse_stripe_object$
begin
  raise exception using
    errcode = 'WQ016',
    message = 'the Stripe object has not the expected shape',
    detail = format('%s; object %s, id %s.', p_problem,
      coalesce(left((p_object -> 'object')::text, 40), 'without type'), coalesce(left((p_object -> 'id')::text, 80), 'missing')),
    hint = 'Pass an object as Stripe''s API answers it; nothing of it was written.';
end;
$_refuse_stripe_object$;

-- A moment from Stripe's unix seconds; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_time(p_object jsonb, p_key text)
returns timestamptz
language plpgsql
stable
as $_read_stripe_time$
declare
  v_value jsonb := p_object -> p_key;
begin
  if v_value is null or jsonb_typeof(v_value) = 'null' then
    return null;
  end if;
  -- Up to the year 9999; beyond it is no moment that Stripe could mean.
  if jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0 and 253402300799 then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a time in seconds', p_key));
  end if;
  return to_timestamp(v_value::double precision);
end;
$_read_stripe_time$;

-- A text; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_text(p_object jsonb, p_key text, p_is_required boolean default false)
returns text
language plpgsql
stable
as $_read_stripe_text$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> p_key), 'null');
  v_value text := p_object ->> p_key;
begin
  if v_type not in ('string', 'null') or (p_is_required and coalesce(v_value, '') = '') or octet_length(v_value) > 255 then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a text of at most 255 bytes', p_key));
  end if;
  return v_value;
end;
$_read_stripe_text$;

-- A reference to another object: its id, whether it was expanded or not. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_reference(p_object jsonb, p_key text)
returns text
language plpgsql
stable
as $_read_stripe_reference$
begin
  if jsonb_typeof(p_object -> p_key) = 'object' then
    return stepquota._read_stripe_text(p_object -> p_key, 'id', true);
  end if;
  return stepquota._read_stripe_text(p_object, p_key);
end;
$_read_stripe_reference$;

-- The metadata; {} if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_metadata(p_object jsonb)
returns jsonb
language plpgsql
stable
as $_read_stripe_metadata$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> 'metadata'), 'null');
begin
  if v_type = 'null' then
    return '{}'::jsonb;
  end if;
  if v_type <> 'object' then
    perform stepquota._refuse_stripe_object(p_object, 'metadata must be an object');
  end if;
  return p_object -> 'metadata';
end;
$_read_stripe_metadata$;

-- A flag; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_flag(p_object jsonb, p_key text)
returns boolean
language plpgsql
stable
as $_read_stripe_flag$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> p_key), 'null');
begin
  if v_type not in ('boolean', 'null') then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be true or false', p_key));
  end if;
  return (p_object ->> p_key)::boolean;
end;
$_read_stripe_flag$;

-- A count; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_count(p_object jsonb, p_key text)
returns bigint
language plpgsql
stable
as $_read_stripe_count$
declare
  v_value jsonb := p_object -> p_key;
begin
  if v_value is null or jsonb_typeof(v_value) = 'null' then
    return null;
  end if;
  if jsonb_typeof(v_value) <> 'number' or v_value::text !~ '^[0-9]{1,9}$' then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a whole number', p_key));
  end if;
  return v_value::bigint;
end;
$_read_stripe_count$;

-- What an upsert under the order guard did, from the row before and after (NULL after: it was stale).
create or replace function stepquota._describe_write(p_before jsonb, p_after jsonb)
returns text
language sql
immutable
as $_describe_write$
  select case
    when p_after is null then 'stale'
    when p_after ->> 'deleted_at' is not null then 'deleted'
    when p_before is null then 'inserted'
    when p_before - 'fetched_at' = p_after - 'fetched_at' then 'unchanged'
    else 'updated' end;
$_describe_write$;

-- Locks: the product's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_product(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_product$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_products t where t.id = v_id;
  insert into stepquota.stripe_products as t
    (id, metadata, name, active, livemode, created_at, fetched_at, deleted_at)
  values (v_id, stepquota._read_stripe_metadata(p_object), left(p_object ->> 'name', 255),
    stepquota._read_stripe_flag(p_object, 'active'), stepquota._read_stripe_flag(p_object, 'livemode'),
    stepquota._read_stripe_time(p_object, 'created'), p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set metadata = excluded.metadata, name = excluded.name, active = excluded.active, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_product$;

-- Locks: the price's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_price(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_price$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_recurring jsonb := case when jsonb_typeof(p_object -> 'recurring') = 'object' then p_object -> 'recurring' end;
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_prices t where t.id = v_id;
  insert into stepquota.stripe_prices as t
    (id, product_id, metadata, nickname, active, recurring_interval, recurring_interval_count, livemode, created_at,
     fetched_at, deleted_at)
  values (v_id, stepquota._read_stripe_reference(p_object, 'product'), stepquota._read_stripe_metadata(p_object),
    left(p_object ->> 'nickname', 255), stepquota._read_stripe_flag(p_object, 'active'),
    stepquota._read_stripe_text(v_recurring, 'interval'),
    nullif(stepquota._read_stripe_count(v_recurring, 'interval_count'), 0),
    stepquota._read_stripe_flag(p_object, 'livemode'), stepquota._read_stripe_time(p_object, 'created'),
    p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set product_id = excluded.product_id, metadata = excluded.metadata, nickname = excluded.nickname,
        active = excluded.active, recurring_interval = excluded.recurring_interval,
        recurring_interval_count = excluded.recurring_interval_count, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_price$;

-- Locks: the customer's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_customer(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_customer$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_metadata jsonb := stepquota._read_stripe_metadata(p_object);
  v_tenant text := stepquota._read_metadata_tenant(v_metadata);
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_customers t where t.id = v_id;
  insert into stepquota.stripe_customers as t
    (id, metadata, metadata_tenant, livemode, created_at, fetched_at, deleted_at)
  values (v_id, v_metadata, v_tenant, stepquota._read_stripe_flag(p_object, 'livemode'),
    stepquota._read_stripe_time(p_object, 'created'), p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set metadata = excluded.metadata, metadata_tenant = excluded.metadata_tenant, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_customer$;

-- The subscription with its items. Items are replaced only when their parent was written, so that an
-- older answer never brings back a removed one.
-- Locks: the subscription's row, then its items'. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_subscription(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_subscription$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_metadata jsonb := stepquota._read_stripe_metadata(p_object);
  v_tenant text := stepquota._read_metadata_tenant(v_metadata);
  v_customer_id text := stepquota._read_stripe_reference(p_object, 'customer');
  v_before jsonb;
  v_after jsonb;
begin
  if p_deleted_at is null and v_customer_id is null then
    perform stepquota._refuse_stripe_object(p_object, 'customer is missing');
  end if;
  if p_deleted_at is null and coalesce(jsonb_typeof(p_object #> '{items,data}'), 'null') <> 'array' then
    perform stepquota._refuse_stripe_object(p_object, 'items must be a list of subscription items');
  end if;
  select to_jsonb(t) into v_before from stepquota._list_subscription_with_items(v_id) t;
  insert into stepquota.stripe_subscriptions as t
    (id, customer_id, status, metadata, metadata_tenant, billing_cycle_anchor, cancel_at, cancel_at_period_end,
     canceled_at, ended_at, trial_start, trial_end, pause_collection, livemode, created_at, fetched_at, deleted_at)
  values (v_id, v_customer_id,
    case when p_deleted_at is null then stepquota._read_stripe_text(p_object, 'status', true) else 'deleted' end,
    v_metadata, v_tenant, stepquota._read_stripe_time(p_object, 'billing_cycle_anchor'),
    stepquota._read_stripe_time(p_object, 'cancel_at'),
    coalesce(stepquota._read_stripe_flag(p_object, 'cancel_at_period_end'), false),
    stepquota._read_stripe_time(p_object, 'canceled_at'), stepquota._read_stripe_time(p_object, 'ended_at'),
    stepquota._read_stripe_time(p_object, 'trial_start'), stepquota._read_stripe_time(p_object, 'trial_end'),
    case when jsonb_typeof(p_object -> 'pause_collection') = 'object' then p_object -> 'pause_collection' end,
    stepquota._read_stripe_flag(p_object, 'livemode'), stepquota._read_stripe_time(p_object, 'created'),
    p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set customer_id = coalesce(excluded.customer_id, t.customer_id), status = excluded.status,
        metadata = excluded.metadata, metadata_tenant = excluded.metadata_tenant,
        billing_cycle_anchor = excluded.billing_cycle_anchor, cancel_at = excluded.cancel_at,
        cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
        ended_at = excluded.ended_at, trial_start = excluded.trial_start, trial_end = excluded.trial_end,
        pause_collection = excluded.pause_collection, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at;
  if not found then
    return 'stale';
  end if;
  perform stepquota._store_stripe_items(p_object, v_id, p_fetched_at, p_deleted_at);
  select to_jsonb(t) into v_after from stepquota._list_subscription_with_items(v_id) t;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_subscription$;

-- A subscription and its items as one value, to compare before and after.
create or replace function stepquota._list_subscription_with_items(p_subscription_id text)
returns table (fetched_at timestamptz, deleted_at timestamptz, subscription jsonb, items jsonb)
language sql
stable
as $_list_subscription_with_items$
  select s.fetched_at, s.deleted_at, to_jsonb(s) - 'fetched_at',
         (select jsonb_agg(to_jsonb(i) - 'fetched_at' order by i.id)
            from stepquota.stripe_subscription_items i
           where i.subscription_id = s.id)
    from stepquota.stripe_subscriptions s
   where s.id = p_subscription_id;
$_list_subscription_with_items$;

-- The period is the item's since API version 2025-03-31.basil; before, it was the subscription's
-- (https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-subscription-current-period-start-and-end).
-- One that has neither is refused: a NULL period would silently take the quota away.
-- Locks: the caller holds the subscription's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_items(
  p_subscription jsonb, p_subscription_id text, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns void
language plpgsql
volatile
as $_store_stripe_items$
declare
  v_item jsonb;
  v_period_start timestamptz;
  v_period_end timestamptz;
  v_seen text[] := '{}'::text[];
begin
  for v_item in
    select i.value
      from jsonb_array_elements(case when jsonb_typeof(p_subscription #> '{items,data}') = 'array'
             then p_subscription #> '{items,data}' else '[]' end) i
  loop
    if jsonb_typeof(v_item) <> 'object' then
      perform stepquota._refuse_stripe_object(p_subscription, 'items must hold objects');
    end if;
    v_period_start := coalesce(stepquota._read_stripe_time(v_item, 'current_period_start'),
      stepquota._read_stripe_time(p_subscription, 'current_period_start'));
    v_period_end := coalesce(stepquota._read_stripe_time(v_item, 'current_period_end'),
      stepquota._read_stripe_time(p_subscription, 'current_period_end'));
    if v_period_start is null or v_period_end is null or v_period_end <= v_period_start then
      perform stepquota._refuse_stripe_object(p_subscription,
        format('item %s has no period, and neither has the subscription', v_item -> 'id'));
    end if;
    v_seen := v_seen || stepquota._read_stripe_text(v_item, 'id', true);
    insert into stepquota.stripe_subscription_items as t
      (id, subscription_id, price_id, current_period_start, current_period_end, metadata, quantity, created_at,
       fetched_at, deleted_at)
    values (v_item ->> 'id', p_subscription_id, stepquota._read_stripe_reference(v_item, 'price'), v_period_start,
      v_period_end, stepquota._read_stripe_metadata(v_item), stepquota._read_stripe_count(v_item, 'quantity'),
      stepquota._read_stripe_time(v_item, 'created'), p_fetched_at, p_deleted_at)
    on conflict (id) do update
      set subscription_id = excluded.subscription_id, price_id = excluded.price_id,
          current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
          metadata = excluded.metadata, quantity = excluded.quantity, created_at = excluded.created_at,
          fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
      where excluded.fetched_at >= t.fetched_at;
  end loop;
  -- A list that says it has more is only its first page: what is missing there may still exist.
  if p_deleted_at is not null or not coalesce(stepquota._read_stripe_flag(p_subscription -> 'items', 'has_more'), false) then
    update stepquota.stripe_subscription_items
       set deleted_at = p_fetched_at, fetched_at = p_fetched_at
     where subscription_id = p_subscription_id and deleted_at is null and id <> all (v_seen);
  end if;
end;
$_store_stripe_items$;

-- The tenants whose quota an object has a say in.
create or replace function stepquota._list_stripe_tenants(p_object_type text, p_object_id text)
returns setof text
language sql
stable
as $_list_stripe_tenants$
  with subscriptions as (
    select s.customer_id, s.metadata_tenant
      from stepquota.stripe_subscriptions s
     where (p_object_type = 'subscription' and s.id = p_object_id)
        or (p_object_type = 'customer' and s.customer_id = p_object_id)
        or (p_object_type in ('price', 'product') and s.id in (
             select i.subscription_id
               from stepquota.stripe_subscription_items i
              where i.deleted_at is null
                and i.price_id in (
                  select p_object_id where p_object_type = 'price'
                  union all
                  select p.id from stepquota.stripe_prices p
                   where p_object_type = 'product' and p.product_id = p_object_id)))
  )
  select distinct coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant)
    from subscriptions s
    left join stepquota.stripe_customer_tenants m on m.customer_id = s.customer_id
    left join stepquota.stripe_customers c on c.id = s.customer_id
   where coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant) is not null;
$_list_stripe_tenants$;

-- Stores the object and what is expanded in it; one row an object, parts before the whole.
-- SQLSTATEs: WQ016, WQ017.
create or replace function stepquota._store_stripe_object(p_object jsonb, p_fetched_at timestamptz)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
as $_store_stripe_object$
declare
  v_part jsonb;
  v_deleted_at timestamptz;
begin
  if p_object is null or jsonb_typeof(p_object) <> 'object' then
    perform stepquota._refuse_stripe_object(null,
      format('p_object is %s', coalesce('a JSON ' || jsonb_typeof(p_object), 'NULL')));
  end if;
  object_type := stepquota._read_stripe_text(p_object, 'object', true);
  object_id := stepquota._read_stripe_text(p_object, 'id', true);
  if object_type not in ('product', 'price', 'customer', 'subscription') then
    raise exception using
      errcode = 'WQ017',
      message = 'the mirror does not keep this type of Stripe object',
      detail = format('The object is a %L, id %L.', object_type, object_id),
      hint = 'It keeps products, prices, customers and subscriptions with their items.';
  end if;
  if stepquota._read_stripe_flag(p_object, 'deleted') then
    v_deleted_at := p_fetched_at;
  end if;

  for v_part in
    select part.value
      from (
        select 1 as place, 0::bigint as item, p_object -> 'product' as value where object_type = 'price'
        union all
        select 2, 0, p_object -> 'customer' where object_type = 'subscription'
        union all
        select 3, i.item, i.value -> 'price'
          from jsonb_array_elements(case when object_type = 'subscription'
                 and jsonb_typeof(p_object #> '{items,data}') = 'array'
                 then p_object #> '{items,data}' else '[]' end) with ordinality as i (value, item)) part
     where jsonb_typeof(part.value) = 'object'
     order by part.place, part.item
  loop
    return query select s.object_type, s.object_id, s.action
                   from stepquota._store_stripe_object(v_part, p_fetched_at) s;
  end loop;

  action := case object_type
    when 'product' then stepquota._store_stripe_product(p_object, p_fetched_at, v_deleted_at)
    when 'price' then stepquota._store_stripe_price(p_object, p_fetched_at, v_deleted_at)
    when 'customer' then stepquota._store_stripe_customer(p_object, p_fetched_at, v_deleted_at)
    else stepquota._store_stripe_subscription(p_object, p_fetched_at, v_deleted_at)
  end;
  return next;
end;
$_store_stripe_object$;

-- Writes an object into the mirror, refreshes the quotas of the tenants it has a say in, and resumes
-- what can go on, in this transaction.
-- Locks: the mirror's rows; then as _refresh_and_resume. SQLSTATEs: WQ001, WQ016, WQ017.
create or replace function stepquota.apply_stripe_object(p_object jsonb, p_fetched_at timestamptz)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $apply_stripe_object$
declare
  v_now timestamptz := stepquota._now();
  v_written record;
  v_tenants text[] := '{}'::text[];
begin
  -- One ahead of the clock would make every later answer stale until then.
  if p_fetched_at is null or not isfinite(p_fetched_at)
     or p_fetched_at > greatest(v_now, clock_timestamp()) + interval '5 minutes' then
    perform stepquota._refuse_argument('p_fetched_at', p_fetched_at::text, 'a moment that is not ahead of the clock',
      'Read the database''s clock before you ask Stripe for the object, and pass it here.');
  end if;
  -- Whose it was before, in case the write takes it away from a tenant.
  if jsonb_typeof(p_object) = 'object' then
    v_tenants := array(select t from stepquota._list_stripe_tenants(p_object ->> 'object', p_object ->> 'id') t);
  end if;
  for v_written in select s.* from stepquota._store_stripe_object(p_object, p_fetched_at) s loop
    object_type := v_written.object_type;
    object_id := v_written.object_id;
    action := v_written.action;
    if action in ('inserted', 'updated', 'deleted') then
      v_tenants := v_tenants || array(select t from stepquota._list_stripe_tenants(object_type, object_id) t);
    end if;
    return next;
  end loop;
  perform stepquota._refresh_and_resume(v_tenants, 'stripe', v_now);
end;
$apply_stripe_object$;

-- The application's word on whose customer it is.
-- Locks: the mapping's row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.map_stripe_customer(p_customer text, p_tenant text)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $map_stripe_customer$
declare
  v_now timestamptz := stepquota._now();
  v_tenants text[];
  v_previous_tenant text;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_name('p_customer', p_customer);
  v_tenants := array(select t from stepquota._list_stripe_tenants('customer', p_customer) t);
  select m.tenant into v_previous_tenant
    from stepquota.stripe_customer_tenants m
   where m.customer_id = p_customer
     for no key update;
  action := case when not found then 'inserted' when v_previous_tenant = p_tenant then 'unchanged' else 'updated' end;
  object_type := 'customer';
  object_id := p_customer;
  if action <> 'unchanged' then
    insert into stepquota.stripe_customer_tenants (customer_id, tenant, mapped_at) values (p_customer, p_tenant, v_now)
    on conflict (customer_id) do update set tenant = excluded.tenant, mapped_at = excluded.mapped_at;
    perform stepquota._record_event(p_tenant, 'customer_mapped', 'info', null,
      jsonb_build_object('stripe_customer_id', p_customer, 'from', v_previous_tenant, 'by', session_user), v_now);
    perform stepquota._refresh_and_resume(v_tenants || p_tenant, 'customer mapping', v_now);
  end if;
  return next;
end;
$map_stripe_customer$;

comment on function stepquota._read_metadata_tenant(jsonb) is 'The tenant that metadata names.';
comment on function stepquota._read_metadata_tenants() is 'Reads all metadata''s tenants again.';
comment on function stepquota._refuse_stripe_object(jsonb, text) is 'Raises WQ016.';
comment on function stepquota._read_stripe_time(jsonb, text) is 'A moment of a Stripe object.';
comment on function stepquota._read_stripe_text(jsonb, text, boolean) is 'A text of a Stripe object.';
comment on function stepquota._read_stripe_reference(jsonb, text) is 'The id of an object that a Stripe object refers to, expanded or not.';
comment on function stepquota._read_stripe_metadata(jsonb) is 'The metadata of a Stripe object.';
comment on function stepquota._read_stripe_flag(jsonb, text) is 'A flag of a Stripe object.';
comment on function stepquota._read_stripe_count(jsonb, text) is 'A count of a Stripe object.';
comment on function stepquota._describe_write(jsonb, jsonb) is 'What an upsert did: inserted, updated, unchanged, deleted or stale.';
comment on function stepquota._store_stripe_product(jsonb, timestamptz, timestamptz) is 'Writes a product.';
comment on function stepquota._store_stripe_price(jsonb, timestamptz, timestamptz) is 'Writes a price.';
comment on function stepquota._store_stripe_customer(jsonb, timestamptz, timestamptz) is 'Writes a customer.';
comment on function stepquota._store_stripe_subscription(jsonb, timestamptz, timestamptz) is 'Writes a subscription with its items.';
comment on function stepquota._list_subscription_with_items(text) is 'A subscription and its items as one row.';
comment on function stepquota._store_stripe_items(jsonb, text, timestamptz, timestamptz) is 'Writes the items of a subscription.';
comment on function stepquota._list_stripe_tenants(text, text) is 'The tenants whose quota an object has a say in.';
comment on function stepquota._store_stripe_object(jsonb, timestamptz) is 'Writes an object and what is expanded in it.';
comment on function stepquota.apply_stripe_object(jsonb, timestamptz) is
  'Writes a product, price, customer or subscription (with items and expanded parts; or {id, object, deleted: true}) into the mirror, refreshes the quotas it has a say in and resumes what can go on. p_fetched_at is this database''s clock, read before Stripe was asked. One row an object: object_type, object_id, action (inserted, updated, unchanged, deleted, stale). WQ001 no moment, WQ016 malformed, WQ017 another type.';
comment on function stepquota.map_stripe_customer(text, text) is
  'Says whose customer it is, before any metadata; refreshes the quotas of both tenants and resumes what can go on. Answers object_type, object_id, action (inserted, updated, unchanged). WQ001 bad arguments.';
