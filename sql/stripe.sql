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

-- Whether two rows of the mirror say the same, whenever they were asked for.
create or replace function stepquota._is_same_stripe_row(p_before jsonb, p_after jsonb)
returns boolean
language sql
immutable
as $_is_same_stripe_row$
  select p_before - 'fetched_at' = p_after - 'fetched_at';
$_is_same_stripe_row$;

-- Whether a full listing has found the object as it is stored, asked for later than that moment. Such
-- a listing writes no row, so its pages are part of the order guard. Whoever asks holds the object's
-- row, as the listing did: so either the page is seen here, or the listing saw what is written here.
create or replace function stepquota._was_listed_since(p_object_type text, p_object_id text, p_moment timestamptz)
returns boolean
language sql
stable
as $_was_listed_since$
  select exists (
    select 1 from stepquota.stripe_sync_pages p
     where p.object_type = p_object_type and p.fetched_at > p_moment and p_object_id = any (p.object_ids));
$_was_listed_since$;

-- What is to be done with an answer, from the stored row as it is known so far:
-- stale: something later is stored, or the object is deleted; unchanged: it says what is stored, and
-- nothing need be written; else NULL.
--
-- p_role is how the answer came: asked, for the object itself; listed, by a full listing, whose page
-- is stored in this transaction; part, within another object. One that was asked for leaves its moment
-- in the row even if nothing changed, or an older answer on its way could still be stored. A part
-- need not: the object itself is asked for after each of its changes.
create or replace function stepquota._judge_stripe_answer(p_before jsonb, p_after jsonb, p_role text)
returns text
language sql
immutable
as $_judge_stripe_answer$
  select case
    when p_before ->> 'deleted_at' is not null
      or (p_before ->> 'fetched_at')::timestamptz > (p_after ->> 'fetched_at')::timestamptz then 'stale'
    when p_role <> 'asked' and stepquota._is_same_stripe_row(p_before, p_after) then 'unchanged'
  end;
$_judge_stripe_answer$;

-- What writing it did.
create or replace function stepquota._describe_write(p_before jsonb, p_after jsonb)
returns text
language sql
immutable
as $_describe_write$
  select case
    when p_after ->> 'deleted_at' is not null then 'deleted'
    when p_before is null then 'inserted'
    when stepquota._is_same_stripe_row(p_before, p_after) then 'unchanged'
    else 'updated' end;
$_describe_write$;

-- The row of a product as an answer says it. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_product(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns stepquota.stripe_products
language plpgsql
stable
as $_read_stripe_product$
declare
  v_row stepquota.stripe_products;
begin
  v_row.id := stepquota._read_stripe_text(p_object, 'id', true);
  v_row.metadata := stepquota._read_stripe_metadata(p_object);
  v_row.name := left(p_object ->> 'name', 255);
  v_row.active := stepquota._read_stripe_flag(p_object, 'active');
  v_row.livemode := stepquota._read_stripe_flag(p_object, 'livemode');
  v_row.created_at := stepquota._read_stripe_time(p_object, 'created');
  v_row.fetched_at := p_fetched_at;
  v_row.deleted_at := p_deleted_at;
  return v_row;
end;
$_read_stripe_product$;

-- Locks: the product's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_product(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz, p_role text)
returns text
language plpgsql
volatile
as $_store_stripe_product$
declare
  v_new stepquota.stripe_products := stepquota._read_stripe_product(p_object, p_fetched_at, p_deleted_at);
  v_old stepquota.stripe_products;
  v_verdict text;
begin
  insert into stepquota.stripe_products
  select v_new.* where not exists (select 1 from stepquota.stripe_products t where t.id = v_new.id)
  on conflict (id) do nothing;
  if found then
    return stepquota._describe_write(null, to_jsonb(v_new));
  end if;
  select t.* into v_old from stepquota.stripe_products t where t.id = v_new.id;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict = 'stale' or v_verdict = 'unchanged' and p_role = 'part' then
    return v_verdict;
  end if;
  select t.* into v_old from stepquota.stripe_products t where t.id = v_new.id for no key update;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict is null and stepquota._was_listed_since('product', v_new.id, p_fetched_at) then
    v_verdict := 'stale';
  end if;
  if v_verdict is null then
    update stepquota.stripe_products
       set metadata = v_new.metadata, name = v_new.name, active = v_new.active, livemode = v_new.livemode,
           created_at = coalesce(v_new.created_at, created_at), fetched_at = v_new.fetched_at,
           deleted_at = v_new.deleted_at
     where id = v_new.id;
    v_verdict := stepquota._describe_write(to_jsonb(v_old), to_jsonb(v_new));
  end if;
  return v_verdict;
end;
$_store_stripe_product$;

-- The row of a price as an answer says it. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_price(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns stepquota.stripe_prices
language plpgsql
stable
as $_read_stripe_price$
declare
  v_row stepquota.stripe_prices;
  v_recurring jsonb := case when jsonb_typeof(p_object -> 'recurring') = 'object' then p_object -> 'recurring' end;
begin
  v_row.id := stepquota._read_stripe_text(p_object, 'id', true);
  v_row.product_id := stepquota._read_stripe_reference(p_object, 'product');
  v_row.metadata := stepquota._read_stripe_metadata(p_object);
  v_row.nickname := left(p_object ->> 'nickname', 255);
  v_row.active := stepquota._read_stripe_flag(p_object, 'active');
  v_row.recurring_interval := stepquota._read_stripe_text(v_recurring, 'interval');
  v_row.recurring_interval_count := nullif(stepquota._read_stripe_count(v_recurring, 'interval_count'), 0);
  v_row.livemode := stepquota._read_stripe_flag(p_object, 'livemode');
  v_row.created_at := stepquota._read_stripe_time(p_object, 'created');
  v_row.fetched_at := p_fetched_at;
  v_row.deleted_at := p_deleted_at;
  return v_row;
end;
$_read_stripe_price$;

-- Locks: the price's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_price(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz, p_role text)
returns text
language plpgsql
volatile
as $_store_stripe_price$
declare
  v_new stepquota.stripe_prices := stepquota._read_stripe_price(p_object, p_fetched_at, p_deleted_at);
  v_old stepquota.stripe_prices;
  v_verdict text;
begin
  insert into stepquota.stripe_prices
  select v_new.* where not exists (select 1 from stepquota.stripe_prices t where t.id = v_new.id)
  on conflict (id) do nothing;
  if found then
    return stepquota._describe_write(null, to_jsonb(v_new));
  end if;
  select t.* into v_old from stepquota.stripe_prices t where t.id = v_new.id;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict = 'stale' or v_verdict = 'unchanged' and p_role = 'part' then
    return v_verdict;
  end if;
  select t.* into v_old from stepquota.stripe_prices t where t.id = v_new.id for no key update;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict is null and stepquota._was_listed_since('price', v_new.id, p_fetched_at) then
    v_verdict := 'stale';
  end if;
  if v_verdict is null then
    update stepquota.stripe_prices
       set product_id = coalesce(v_new.product_id, product_id), metadata = v_new.metadata,
           nickname = v_new.nickname, active = v_new.active, recurring_interval = v_new.recurring_interval,
           recurring_interval_count = v_new.recurring_interval_count, livemode = v_new.livemode,
           created_at = coalesce(v_new.created_at, created_at), fetched_at = v_new.fetched_at,
           deleted_at = v_new.deleted_at
     where id = v_new.id;
    v_verdict := stepquota._describe_write(to_jsonb(v_old), to_jsonb(v_new));
  end if;
  return v_verdict;
end;
$_store_stripe_price$;

-- The row of a customer as an answer says it; nothing personal. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_customer(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns stepquota.stripe_customers
language plpgsql
stable
as $_read_stripe_customer$
declare
  v_row stepquota.stripe_customers;
begin
  v_row.id := stepquota._read_stripe_text(p_object, 'id', true);
  v_row.metadata := stepquota._read_stripe_metadata(p_object);
  v_row.metadata_tenant := stepquota._read_metadata_tenant(v_row.metadata);
  v_row.livemode := stepquota._read_stripe_flag(p_object, 'livemode');
  v_row.created_at := stepquota._read_stripe_time(p_object, 'created');
  v_row.fetched_at := p_fetched_at;
  v_row.deleted_at := p_deleted_at;
  v_row.is_on_test_clock := coalesce(jsonb_typeof(p_object -> 'test_clock'), 'null') <> 'null';
  return v_row;
end;
$_read_stripe_customer$;

-- Locks: the customer's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_customer(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz, p_role text)
returns text
language plpgsql
volatile
as $_store_stripe_customer$
declare
  v_new stepquota.stripe_customers := stepquota._read_stripe_customer(p_object, p_fetched_at, p_deleted_at);
  v_old stepquota.stripe_customers;
  v_verdict text;
begin
  insert into stepquota.stripe_customers
  select v_new.* where not exists (select 1 from stepquota.stripe_customers t where t.id = v_new.id)
  on conflict (id) do nothing;
  if found then
    return stepquota._describe_write(null, to_jsonb(v_new));
  end if;
  select t.* into v_old from stepquota.stripe_customers t where t.id = v_new.id;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict = 'stale' or v_verdict = 'unchanged' and p_role = 'part' then
    return v_verdict;
  end if;
  select t.* into v_old from stepquota.stripe_customers t where t.id = v_new.id for no key update;
  v_verdict := stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), p_role);
  if v_verdict is null and stepquota._was_listed_since('customer', v_new.id, p_fetched_at) then
    v_verdict := 'stale';
  end if;
  if v_verdict is null then
    update stepquota.stripe_customers
       set metadata = v_new.metadata, metadata_tenant = v_new.metadata_tenant, livemode = v_new.livemode,
           created_at = coalesce(v_new.created_at, created_at), fetched_at = v_new.fetched_at,
           deleted_at = v_new.deleted_at, is_on_test_clock = v_new.is_on_test_clock
     where id = v_new.id;
    v_verdict := stepquota._describe_write(to_jsonb(v_old), to_jsonb(v_new));
  end if;
  return v_verdict;
end;
$_store_stripe_customer$;

-- The row of a subscription as an answer says it. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_subscription(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns stepquota.stripe_subscriptions
language plpgsql
stable
as $_read_stripe_subscription$
declare
  v_row stepquota.stripe_subscriptions;
begin
  v_row.id := stepquota._read_stripe_text(p_object, 'id', true);
  v_row.customer_id := stepquota._read_stripe_reference(p_object, 'customer');
  if p_deleted_at is null and v_row.customer_id is null then
    perform stepquota._refuse_stripe_object(p_object, 'customer is missing');
  end if;
  if p_deleted_at is null and coalesce(jsonb_typeof(p_object #> '{items,data}'), 'null') <> 'array' then
    perform stepquota._refuse_stripe_object(p_object, 'items must be a list of subscription items');
  end if;
  v_row.status := 'deleted';
  if p_deleted_at is null then
    v_row.status := stepquota._read_stripe_text(p_object, 'status', true);
  end if;
  v_row.metadata := stepquota._read_stripe_metadata(p_object);
  v_row.metadata_tenant := stepquota._read_metadata_tenant(v_row.metadata);
  v_row.billing_cycle_anchor := stepquota._read_stripe_time(p_object, 'billing_cycle_anchor');
  v_row.cancel_at := stepquota._read_stripe_time(p_object, 'cancel_at');
  v_row.cancel_at_period_end := coalesce(stepquota._read_stripe_flag(p_object, 'cancel_at_period_end'), false);
  v_row.canceled_at := stepquota._read_stripe_time(p_object, 'canceled_at');
  v_row.ended_at := stepquota._read_stripe_time(p_object, 'ended_at');
  v_row.trial_start := stepquota._read_stripe_time(p_object, 'trial_start');
  v_row.trial_end := stepquota._read_stripe_time(p_object, 'trial_end');
  if jsonb_typeof(p_object -> 'pause_collection') = 'object' then
    perform stepquota._read_stripe_time(p_object -> 'pause_collection', 'resumes_at');
    v_row.pause_collection := p_object -> 'pause_collection';
  end if;
  v_row.livemode := stepquota._read_stripe_flag(p_object, 'livemode');
  v_row.created_at := stepquota._read_stripe_time(p_object, 'created');
  v_row.fetched_at := p_fetched_at;
  v_row.deleted_at := p_deleted_at;
  v_row.is_on_test_clock := coalesce(jsonb_typeof(p_object -> 'test_clock'), 'null') <> 'null';
  return v_row;
end;
$_read_stripe_subscription$;

-- The items of a subscription as an answer says them.
--
-- The period is the item's since API version 2025-03-31.basil; before, it was the subscription's
-- (https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-subscription-current-period-start-and-end).
-- One that has neither is refused: a NULL period would silently take the quota away.
-- SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_items(
  p_subscription jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns setof stepquota.stripe_subscription_items
language plpgsql
stable
as $_read_stripe_items$
declare
  v_item jsonb;
  v_row stepquota.stripe_subscription_items;
begin
  for v_item in
    select i.value
      from jsonb_array_elements(case when jsonb_typeof(p_subscription #> '{items,data}') = 'array'
             then p_subscription #> '{items,data}' else '[]' end) i
  loop
    if jsonb_typeof(v_item) <> 'object' then
      perform stepquota._refuse_stripe_object(p_subscription, 'items must hold objects');
    end if;
    v_row.id := stepquota._read_stripe_text(v_item, 'id', true);
    v_row.subscription_id := p_subscription ->> 'id';
    v_row.price_id := stepquota._read_stripe_reference(v_item, 'price');
    v_row.current_period_start := coalesce(stepquota._read_stripe_time(v_item, 'current_period_start'),
      stepquota._read_stripe_time(p_subscription, 'current_period_start'));
    v_row.current_period_end := coalesce(stepquota._read_stripe_time(v_item, 'current_period_end'),
      stepquota._read_stripe_time(p_subscription, 'current_period_end'));
    if v_row.current_period_start is null or v_row.current_period_end is null
       or v_row.current_period_end <= v_row.current_period_start then
      perform stepquota._refuse_stripe_object(p_subscription,
        format('item %s has no period, and neither has the subscription', v_item -> 'id'));
    end if;
    v_row.metadata := stepquota._read_stripe_metadata(v_item);
    v_row.quantity := stepquota._read_stripe_count(v_item, 'quantity');
    v_row.created_at := stepquota._read_stripe_time(v_item, 'created');
    v_row.fetched_at := p_fetched_at;
    v_row.deleted_at := p_deleted_at;
    return next v_row;
  end loop;
end;
$_read_stripe_items$;

-- A subscription and its items as one value. With p_items, those that an answer gives in place of the
-- stored ones; with p_has_more as well, in addition to the others that are stored.
create or replace function stepquota._describe_subscription(
  p_subscription stepquota.stripe_subscriptions, p_items stepquota.stripe_subscription_items[] default null,
  p_has_more boolean default true)
returns jsonb
language sql
stable
as $_describe_subscription$
  select to_jsonb(p_subscription) || jsonb_build_object('items', (
    select jsonb_agg(i.item - 'fetched_at' order by i.item ->> 'id' collate "C")
      from (
        select to_jsonb(n) as item
          from unnest(p_items) n
         where n.deleted_at is null
        union all
        select to_jsonb(s)
          from stepquota.stripe_subscription_items s
         where s.subscription_id = p_subscription.id and s.deleted_at is null and p_has_more
           and s.id not in (select n.id from unnest(p_items) n)) i));
$_describe_subscription$;

-- The subscription with its items. Items are replaced only when their parent is written, so that an
-- older answer never brings back a removed one.
-- Locks: the subscription's row, then its items'. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_subscription(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz, p_role text)
returns text
language plpgsql
volatile
as $_store_stripe_subscription$
declare
  v_new stepquota.stripe_subscriptions := stepquota._read_stripe_subscription(p_object, p_fetched_at, p_deleted_at);
  v_items stepquota.stripe_subscription_items[];
  v_has_more boolean := false;
  v_old stepquota.stripe_subscriptions;
  v_before jsonb;
  v_after jsonb;
  v_verdict text;
begin
  -- A list that says it has more is only its first page: what is missing there may still exist.
  if p_deleted_at is null then
    v_items := array(select i from stepquota._read_stripe_items(p_object, p_fetched_at, p_deleted_at) i);
    v_has_more := coalesce(stepquota._read_stripe_flag(p_object -> 'items', 'has_more'), false);
  end if;
  insert into stepquota.stripe_subscriptions
  select v_new.* where not exists (select 1 from stepquota.stripe_subscriptions t where t.id = v_new.id)
  on conflict (id) do nothing;
  if found then
    perform stepquota._store_stripe_items(v_new, v_items, v_has_more);
    return stepquota._describe_write(null, to_jsonb(v_new));
  end if;
  select t.* into v_old from stepquota.stripe_subscriptions t where t.id = v_new.id;
  v_new.customer_id := coalesce(v_new.customer_id, v_old.customer_id);
  if stepquota._judge_stripe_answer(to_jsonb(v_old), to_jsonb(v_new), 'asked') = 'stale' then
    return 'stale';
  end if;
  select t.* into v_old from stepquota.stripe_subscriptions t where t.id = v_new.id for no key update;
  v_before := stepquota._describe_subscription(v_old);
  v_after := stepquota._describe_subscription(v_new, v_items, v_has_more);
  v_verdict := stepquota._judge_stripe_answer(v_before, v_after, p_role);
  if v_verdict is null and stepquota._was_listed_since('subscription', v_new.id, p_fetched_at) then
    v_verdict := 'stale';
  end if;
  if v_verdict is null then
    update stepquota.stripe_subscriptions
       set customer_id = v_new.customer_id, status = v_new.status, metadata = v_new.metadata,
           metadata_tenant = v_new.metadata_tenant, billing_cycle_anchor = v_new.billing_cycle_anchor,
           cancel_at = v_new.cancel_at, cancel_at_period_end = v_new.cancel_at_period_end,
           canceled_at = v_new.canceled_at, ended_at = v_new.ended_at, trial_start = v_new.trial_start,
           trial_end = v_new.trial_end, pause_collection = v_new.pause_collection, livemode = v_new.livemode,
           created_at = coalesce(v_new.created_at, created_at), fetched_at = v_new.fetched_at,
           deleted_at = v_new.deleted_at, is_on_test_clock = v_new.is_on_test_clock
     where id = v_new.id;
    perform stepquota._store_stripe_items(v_new, v_items, v_has_more);
    v_verdict := stepquota._describe_write(v_before, v_after);
  end if;
  return v_verdict;
end;
$_store_stripe_subscription$;

-- Writes those that differ from what is stored, and marks the others of the subscription deleted.
-- Locks: the caller holds the subscription's row; the items' rows.
create or replace function stepquota._store_stripe_items(
  p_subscription stepquota.stripe_subscriptions, p_items stepquota.stripe_subscription_items[], p_has_more boolean)
returns void
language plpgsql
volatile
as $_store_stripe_items$
begin
  insert into stepquota.stripe_subscription_items as t
  select n.*
    from unnest(p_items) n
    left join stepquota.stripe_subscription_items s on s.id = n.id
   where s.id is null or not stepquota._is_same_stripe_row(to_jsonb(s), to_jsonb(n))
   order by n.id
  on conflict (id) do update
    set subscription_id = excluded.subscription_id, price_id = excluded.price_id,
        current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
        metadata = excluded.metadata, quantity = excluded.quantity, created_at = excluded.created_at,
        fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where excluded.fetched_at >= t.fetched_at;
  if not p_has_more then
    update stepquota.stripe_subscription_items
       set deleted_at = p_subscription.fetched_at, fetched_at = p_subscription.fetched_at
     where subscription_id = p_subscription.id and deleted_at is null
       and id not in (select n.id from unnest(p_items) n);
  end if;
end;
$_store_stripe_items$;

-- The subscriptions that a customer, price or product has a say in. Of a price or product that very
-- many have, the first so many only.
create or replace function stepquota._list_stripe_subscriptions(
  p_object_type text, p_object_id text, p_most integer, out subscription_ids text[], out are_all boolean)
language plpgsql
stable
as $_list_stripe_subscriptions$
begin
  if p_object_type = 'customer' then
    subscription_ids := array(
      select s.id from stepquota.stripe_subscriptions s where s.customer_id = p_object_id);
    are_all := true;
    return;
  end if;
  if p_object_type = 'price' then
    subscription_ids := array(
      select i.subscription_id
        from stepquota.stripe_subscription_items i
       where i.deleted_at is null and i.price_id = p_object_id
       limit p_most + 1);
  else
    subscription_ids := array(
      select i.subscription_id
        from stepquota.stripe_prices p
        join stepquota.stripe_subscription_items i on i.price_id = p.id
       where i.deleted_at is null and p.product_id = p_object_id
       limit p_most + 1);
  end if;
  are_all := cardinality(subscription_ids) <= p_most;
end;
$_list_stripe_subscriptions$;

-- Whose these subscriptions are: the application's word, the customer's metadata, the subscription's.
create or replace function stepquota._name_tenants_of_subscriptions(p_subscription_ids text[])
returns setof text
language sql
stable
as $_name_tenants_of_subscriptions$
  select distinct coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant)
    from stepquota.stripe_subscriptions s
    left join stepquota.stripe_customer_tenants m on m.customer_id = s.customer_id
    left join stepquota.stripe_customers c on c.id = s.customer_id
   where s.id = any (p_subscription_ids)
     and coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant) is not null;
$_name_tenants_of_subscriptions$;

-- The objects in these and all that is expanded in them, each once, in the one order in which mirror
-- rows are written: customers, products, prices, subscriptions, by id. Two callers with the same
-- prices in opposite order would else wait for each other for ever. Of one object in several places
-- the whole one is taken, not a part.
-- SQLSTATEs: WQ016, WQ017.
create or replace function stepquota._list_stripe_parts(p_objects jsonb, p_role text)
returns table (object_type text, object_id text, part_role text, object jsonb)
language plpgsql
stable
as $_list_stripe_parts$
#variable_conflict use_column
declare
  v_object jsonb;
  v_type text;
begin
  for v_object in select o.value from jsonb_array_elements(p_objects) o loop
    if v_object is null or jsonb_typeof(v_object) <> 'object' then
      perform stepquota._refuse_stripe_object(null, 'the object is a JSON ' || jsonb_typeof(v_object));
    end if;
    v_type := stepquota._read_stripe_text(v_object, 'object', true);
    if v_type not in ('product', 'price', 'customer', 'subscription') then
      raise exception using
        errcode = 'WQ017',
        message = 'the mirror does not keep this type of Stripe object',
        detail = format('The object is a %L, id %L.', v_type, left(v_object ->> 'id', 80)),
        hint = 'It keeps products, prices, customers and subscriptions with their items.';
    end if;
    perform stepquota._read_stripe_text(v_object, 'id', true);
  end loop;
  return query
    with recursive parts as (
      select o.value as object, p_role as part_role, o.number as place
        from jsonb_array_elements(p_objects) with ordinality as o (value, number)
      union all
      select part.value, 'part', p.place
        from parts p
       cross join lateral (
         select p.object -> 'product' as value where p.object ->> 'object' = 'price'
         union all
         select p.object -> 'customer' where p.object ->> 'object' = 'subscription'
         union all
         select i.value -> 'price'
           from jsonb_array_elements(case when p.object ->> 'object' = 'subscription'
                  and jsonb_typeof(p.object #> '{items,data}') = 'array'
                  then p.object #> '{items,data}' else '[]' end) i) part
       where jsonb_typeof(part.value) = 'object')
    select chosen.object_type, chosen.object_id, chosen.part_role, chosen.object
      from (
        select distinct on (p.object ->> 'object', p.object ->> 'id')
               p.object ->> 'object' as object_type, p.object ->> 'id' as object_id, p.part_role, p.object
          from parts p
         order by p.object ->> 'object', p.object ->> 'id', p.part_role = 'part', p.place) chosen
     order by array_position(array['customer', 'product', 'price', 'subscription'], chosen.object_type),
              chosen.object_id collate "C";
end;
$_list_stripe_parts$;

-- Stores one object without its parts. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_object(
  p_object_type text, p_object jsonb, p_fetched_at timestamptz, p_role text)
returns text
language plpgsql
volatile
as $_store_stripe_object$
declare
  v_deleted_at timestamptz;
begin
  if stepquota._read_stripe_flag(p_object, 'deleted') then
    v_deleted_at := p_fetched_at;
  end if;
  if p_object_type = 'product' then
    return stepquota._store_stripe_product(p_object, p_fetched_at, v_deleted_at, p_role);
  elsif p_object_type = 'price' then
    return stepquota._store_stripe_price(p_object, p_fetched_at, v_deleted_at, p_role);
  elsif p_object_type = 'customer' then
    return stepquota._store_stripe_customer(p_object, p_fetched_at, v_deleted_at, p_role);
  elsif p_object_type = 'subscription' then
    return stepquota._store_stripe_subscription(p_object, p_fetched_at, v_deleted_at, p_role);
  end if;
  perform stepquota._refuse_stripe_object(p_object, 'it is expanded where another type belongs');
  return null;
end;
$_store_stripe_object$;

-- Whose the subscriptions and customers among these objects are now: an object of tenants by type and id.
create or replace function stepquota._map_stripe_tenants(p_objects jsonb)
returns jsonb
language sql
stable
as $_map_stripe_tenants$
  with named as (
    select o.value ->> 'object' as object_type, o.value ->> 'id' as object_id
      from jsonb_array_elements(p_objects) o
     where o.value ->> 'object' in ('customer', 'subscription')
    union
    select 'customer', o.value #>> '{customer,id}'
      from jsonb_array_elements(p_objects) o
     where o.value ->> 'object' = 'subscription' and jsonb_typeof(o.value -> 'customer') = 'object'
  ),
  owned as (
    select n.object_type, n.object_id, s.customer_id, s.metadata_tenant
      from named n
      join stepquota.stripe_subscriptions s on s.id = n.object_id
     where n.object_type = 'subscription'
    union
    select n.object_type, n.object_id, s.customer_id, s.metadata_tenant
      from named n
      join stepquota.stripe_subscriptions s on s.customer_id = n.object_id
     where n.object_type = 'customer'
  )
  select coalesce(jsonb_object_agg(m.key, m.tenants), '{}')
    from (
      select o.object_type || ' ' || o.object_id as key,
             jsonb_agg(distinct coalesce(m.tenant, c.metadata_tenant, o.metadata_tenant)) as tenants
        from owned o
        left join stepquota.stripe_customer_tenants m on m.customer_id = o.customer_id
        left join stepquota.stripe_customers c on c.id = o.customer_id
       where coalesce(m.tenant, c.metadata_tenant, o.metadata_tenant) is not null
       group by 1) m;
$_map_stripe_tenants$;

-- Stores objects with their parts, refreshes the quotas that they have a say in and resumes what can
-- go on. For a price or product of more than policy.at_once_tenants subscriptions every stored quota
-- becomes stale, and the paused tenants among them are left to spread_stripe_changes.
-- Tenants that were never asked for have no stored quota; their first step resolves it. From a listing
-- they are not made, or the first one of a large account would take many times as long.
-- Locks: the mirror's rows in the order of _list_stripe_parts; what is to be spread; then as
-- _refresh_and_resume.
-- SQLSTATEs: WQ016, WQ017.
create or replace function stepquota._apply_stripe_objects(
  p_objects jsonb, p_fetched_at timestamptz, p_role text, p_now timestamptz)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
as $_apply_stripe_objects$
declare
  v_part record;
  v_most integer;
  -- Whose it was before, in case the write takes it away from a tenant.
  v_before jsonb := stepquota._map_stripe_tenants(p_objects);
  v_after record;
  v_tenants text[] := '{}'::text[];
  v_subscription_ids text[] := '{}'::text[];
  v_shared text[] := '{}'::text[];
begin
  select p.at_once_tenants into v_most from stepquota.policy p;
  for v_part in select p.* from stepquota._list_stripe_parts(p_objects, p_role) p loop
    object_type := v_part.object_type;
    object_id := v_part.object_id;
    action := stepquota._store_stripe_object(object_type, v_part.object, p_fetched_at, v_part.part_role);
    if action not in ('stale', 'unchanged') then
      v_tenants := v_tenants
        || array(select t.value from jsonb_array_elements_text(v_before -> (object_type || ' ' || object_id)) t);
      if object_type = 'subscription' then
        v_subscription_ids := v_subscription_ids || object_id;
      else
        v_after := stepquota._list_stripe_subscriptions(object_type, object_id, v_most);
        v_subscription_ids := v_subscription_ids || v_after.subscription_ids;
        if not v_after.are_all then
          v_shared := v_shared || object_id;
        end if;
      end if;
    end if;
    return next;
  end loop;
  v_tenants := v_tenants || array(select t from stepquota._name_tenants_of_subscriptions(v_subscription_ids) t);
  if p_role = 'listed' then
    v_tenants := array(select q.tenant from stepquota.workflow_step_quotas q where q.tenant = any (v_tenants));
  end if;
  if cardinality(v_shared) > 0 then
    perform stepquota._spread_later(v_shared, p_now);
    perform stepquota._make_all_quotas_stale();
  end if;
  perform stepquota._refresh_and_resume(v_tenants, 'stripe', p_now);
end;
$_apply_stripe_objects$;

-- One ahead of the clock would make every later answer stale until then. SQLSTATEs: WQ001.
create or replace function stepquota._check_fetched_at(p_fetched_at timestamptz, p_now timestamptz)
returns void
language plpgsql
volatile
as $_check_fetched_at$
begin
  if p_fetched_at is null or not isfinite(p_fetched_at)
     or p_fetched_at > greatest(p_now, clock_timestamp()) + interval '5 minutes' then
    perform stepquota._refuse_argument('p_fetched_at', p_fetched_at::text, 'a moment that is not ahead of the clock',
      'Read the database''s clock before you ask Stripe for the object, and pass it here.');
  end if;
end;
$_check_fetched_at$;

-- Writes an object into the mirror, refreshes the quotas of the tenants it has a say in, and resumes
-- what can go on, in this transaction.
-- Locks: as _apply_stripe_objects. SQLSTATEs: WQ001, WQ016, WQ017.
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
begin
  perform stepquota._check_unbound();
  perform stepquota._check_fetched_at(p_fetched_at, v_now);
  if p_object is null then
    perform stepquota._refuse_stripe_object(null, 'p_object is NULL');
  end if;
  return query
    select a.object_type, a.object_id, a.action
      from stepquota._apply_stripe_objects(jsonb_build_array(p_object), p_fetched_at, 'asked', v_now) a;
end;
$apply_stripe_object$;

-- For changes of a price or product that very many subscriptions have: the paused tenants among them
-- are marked due later, by spread_stripe_changes, in transactions of bounded size.
-- Locks: the rows of what is to be spread, by price.
create or replace function stepquota._spread_later(p_object_ids text[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_spread_later$
begin
  insert into stepquota.stripe_spreads (price_id, after_subscription_id, began_at)
  select p.id, '', p_now
    from stepquota.stripe_prices p
   where p.id = any (p_object_ids) or p.product_id = any (p_object_ids)
   order by p.id collate "C"
  on conflict (price_id) do update
    set after_subscription_id = excluded.after_subscription_id, began_at = excluded.began_at;
end;
$_spread_later$;

-- Marks the paused tenants due that have a price that was changed, from the next so many
-- subscriptions of it. Answers how many subscriptions it looked at: 0 when nothing is left to do.
-- Locks: the row of what is spread, without waiting; then as _mark_due. SQLSTATEs: WQ001.
create or replace function stepquota.spread_stripe_changes(p_subscriptions integer default 1000)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $spread_stripe_changes$
declare
  v_now timestamptz := stepquota._now();
  v_spread stepquota.stripe_spreads;
  v_subscription_ids text[];
begin
  perform stepquota._check_unbound();
  if p_subscriptions is null or p_subscriptions not between 1 and 100000 then
    perform stepquota._refuse_argument('p_subscriptions', p_subscriptions::text, 'a number from 1 to 100000',
      'It bounds one transaction; 1000 is usual.');
  end if;
  select s.* into v_spread from stepquota.stripe_spreads s order by s.began_at limit 1 for no key update skip locked;
  if not found then
    return 0;
  end if;
  v_subscription_ids := array(
    select i.subscription_id
      from stepquota.stripe_subscription_items i
     where i.price_id = v_spread.price_id and i.deleted_at is null
       and i.subscription_id > v_spread.after_subscription_id
     order by i.subscription_id
     limit p_subscriptions);
  perform stepquota._mark_due(array(
    select t.tenant
      from stepquota._name_tenants_of_subscriptions(v_subscription_ids) as t (tenant)
      join stepquota.paused_tenants p on p.tenant = t.tenant), v_now);
  if cardinality(v_subscription_ids) < p_subscriptions then
    delete from stepquota.stripe_spreads where price_id = v_spread.price_id;
  else
    update stepquota.stripe_spreads
       set after_subscription_id = v_subscription_ids[cardinality(v_subscription_ids)]
     where price_id = v_spread.price_id;
  end if;
  -- A price whose last ones were just done counts as one, so that the caller looks for another.
  return greatest(cardinality(v_subscription_ids), 1);
end;
$spread_stripe_changes$;

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
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_name('p_customer', p_customer);
  v_tenants := array(select t from stepquota._name_tenants_of_subscriptions(
    (stepquota._list_stripe_subscriptions('customer', p_customer, 1)).subscription_ids) t);
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

-- Takes the application's word back: metadata decides again.
-- Locks: the mapping's row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.unmap_stripe_customer(p_customer text)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $unmap_stripe_customer$
declare
  v_now timestamptz := stepquota._now();
  v_tenant text;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_name('p_customer', p_customer);
  delete from stepquota.stripe_customer_tenants where customer_id = p_customer returning tenant into v_tenant;
  object_type := 'customer';
  object_id := p_customer;
  action := case when v_tenant is null then 'unchanged' else 'deleted' end;
  if v_tenant is not null then
    perform stepquota._record_event(v_tenant, 'customer_unmapped', 'info', null,
      jsonb_build_object('stripe_customer_id', p_customer, 'by', session_user), v_now);
    perform stepquota._refresh_and_resume(array(select t from stepquota._name_tenants_of_subscriptions(
      (stepquota._list_stripe_subscriptions('customer', p_customer, 1)).subscription_ids) t) || v_tenant,
      'customer mapping', v_now);
  end if;
  return next;
end;
$unmap_stripe_customer$;

comment on function stepquota._read_metadata_tenant(jsonb) is 'The tenant that metadata names.';
comment on function stepquota._read_metadata_tenants() is 'Reads all metadata''s tenants again.';
comment on function stepquota._refuse_stripe_object(jsonb, text) is 'Raises WQ016.';
comment on function stepquota._read_stripe_time(jsonb, text) is 'A moment of a Stripe object.';
comment on function stepquota._read_stripe_text(jsonb, text, boolean) is 'A text of a Stripe object.';
comment on function stepquota._read_stripe_reference(jsonb, text) is 'The id of an object that a Stripe object refers to, expanded or not.';
comment on function stepquota._read_stripe_metadata(jsonb) is 'The metadata of a Stripe object.';
comment on function stepquota._read_stripe_flag(jsonb, text) is 'A flag of a Stripe object.';
comment on function stepquota._read_stripe_count(jsonb, text) is 'A count of a Stripe object.';
comment on function stepquota._is_same_stripe_row(jsonb, jsonb) is 'Whether two rows of the mirror say the same.';
comment on function stepquota._was_listed_since(text, text, timestamptz) is 'Whether a full listing found the object as stored, asked for later.';
comment on function stepquota._judge_stripe_answer(jsonb, jsonb, text) is 'stale, unchanged, or NULL where the answer is to be written.';
comment on function stepquota._describe_write(jsonb, jsonb) is 'What a write did: inserted, updated, unchanged or deleted.';
comment on function stepquota._read_stripe_product(jsonb, timestamptz, timestamptz) is 'A product''s row.';
comment on function stepquota._read_stripe_price(jsonb, timestamptz, timestamptz) is 'A price''s row.';
comment on function stepquota._read_stripe_customer(jsonb, timestamptz, timestamptz) is 'A customer''s row.';
comment on function stepquota._read_stripe_subscription(jsonb, timestamptz, timestamptz) is 'A subscription''s row.';
comment on function stepquota._read_stripe_items(jsonb, timestamptz, timestamptz) is 'The rows of a subscription''s items.';
comment on function stepquota._store_stripe_product(jsonb, timestamptz, timestamptz, text) is 'Writes a product.';
comment on function stepquota._store_stripe_price(jsonb, timestamptz, timestamptz, text) is 'Writes a price.';
comment on function stepquota._store_stripe_customer(jsonb, timestamptz, timestamptz, text) is 'Writes a customer.';
comment on function stepquota._store_stripe_subscription(jsonb, timestamptz, timestamptz, text) is 'Writes a subscription with its items.';
comment on function stepquota._describe_subscription(stepquota.stripe_subscriptions, stepquota.stripe_subscription_items[], boolean) is 'A subscription and its items as one value.';
comment on function stepquota._store_stripe_items(stepquota.stripe_subscriptions, stepquota.stripe_subscription_items[], boolean) is 'Writes the items of a subscription.';
comment on function stepquota._list_stripe_subscriptions(text, text, integer) is 'The subscriptions that an object has a say in.';
comment on function stepquota._map_stripe_tenants(jsonb) is 'Whose the subscriptions and customers among these objects are.';
comment on function stepquota._name_tenants_of_subscriptions(text[]) is 'Whose these subscriptions are.';
comment on function stepquota._list_stripe_parts(jsonb, text) is 'Objects and what is expanded in them, in the order in which they are written.';
comment on function stepquota._store_stripe_object(text, jsonb, timestamptz, text) is 'Writes one object without its parts.';
comment on function stepquota._apply_stripe_objects(jsonb, timestamptz, text, timestamptz) is 'Writes objects with their parts, refreshes quotas and resumes what can go on.';
comment on function stepquota._check_fetched_at(timestamptz, timestamptz) is 'Raises WQ001 for a moment ahead of the clock.';
comment on function stepquota._spread_later(text[], timestamptz) is 'Leaves the paused tenants of a price to spread_stripe_changes.';
comment on function stepquota.spread_stripe_changes(integer) is
  'For tick() and the Stripe sync: after a change of a price of very many subscriptions, marks the paused tenants due of the next so many subscriptions. Answers how many it looked at; 0: nothing is left. WQ001 bad arguments.';
comment on function stepquota.apply_stripe_object(jsonb, timestamptz) is
  'Writes a product, price, customer or subscription (with items and expanded parts; or {id, object, deleted: true}) into the mirror, refreshes the quotas it has a say in and resumes what can go on. p_fetched_at is this database''s clock, read before Stripe was asked. One row an object: object_type, object_id, action (inserted, updated, unchanged, deleted, stale). WQ001 no moment, WQ016 malformed, WQ017 another type.';
comment on function stepquota.map_stripe_customer(text, text) is
  'Says whose customer it is, before any metadata; refreshes the quotas of both tenants and resumes what can go on. Answers object_type, object_id, action (inserted, updated, unchanged). WQ001 bad arguments.';
comment on function stepquota.unmap_stripe_customer(text) is
  'Takes back what map_stripe_customer said: metadata decides again. Refreshes the quotas it concerns and resumes what can go on. Answers object_type, object_id, action (deleted, unchanged). WQ001 bad arguments.';
