-- The mirror of what Stripe says, written by apply_stripe_object alone.
--
-- No foreign keys: objects arrive in any order. Statuses are plain text: Stripe adds new ones.
-- Nothing personal is kept: no names, no e-mail addresses, no payloads.

create table if not exists stepquota.stripe_products (
  id text not null,
  metadata jsonb not null default '{}',
  name text,
  active boolean,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_products_pkey primary key (id),
  constraint stripe_products_metadata_is_object check (jsonb_typeof(metadata) = 'object')
);

create table if not exists stepquota.stripe_prices (
  id text not null,
  product_id text,
  metadata jsonb not null default '{}',
  nickname text,
  active boolean,
  recurring_interval text,
  recurring_interval_count integer,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_prices_pkey primary key (id),
  constraint stripe_prices_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_prices_interval_count_is_positive check (recurring_interval_count > 0)
);

create index if not exists stripe_prices_product_id_idx on stepquota.stripe_prices (product_id);

create table if not exists stepquota.stripe_customers (
  id text not null,
  metadata jsonb not null default '{}',
  metadata_tenant text,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_customers_pkey primary key (id),
  constraint stripe_customers_metadata_is_object check (jsonb_typeof(metadata) = 'object')
);

create index if not exists stripe_customers_metadata_tenant_idx
  on stepquota.stripe_customers (metadata_tenant) where metadata_tenant is not null;

create table if not exists stepquota.stripe_customer_tenants (
  customer_id text not null,
  tenant text not null,
  mapped_at timestamptz not null,
  constraint stripe_customer_tenants_pkey primary key (customer_id),
  constraint stripe_customer_tenants_tenant_is_named check (tenant <> '')
);

create index if not exists stripe_customer_tenants_tenant_idx on stepquota.stripe_customer_tenants (tenant);

create table if not exists stepquota.stripe_subscriptions (
  id text not null,
  customer_id text,
  status text not null,
  metadata jsonb not null default '{}',
  metadata_tenant text,
  billing_cycle_anchor timestamptz,
  cancel_at timestamptz,
  cancel_at_period_end boolean not null default false,
  canceled_at timestamptz,
  ended_at timestamptz,
  trial_start timestamptz,
  trial_end timestamptz,
  pause_collection jsonb,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_subscriptions_pkey primary key (id),
  constraint stripe_subscriptions_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_subscriptions_has_customer_unless_deleted check (customer_id is not null or deleted_at is not null)
);

create index if not exists stripe_subscriptions_customer_id_idx on stepquota.stripe_subscriptions (customer_id);
create index if not exists stripe_subscriptions_metadata_tenant_idx
  on stepquota.stripe_subscriptions (metadata_tenant) where metadata_tenant is not null;

create table if not exists stepquota.stripe_subscription_items (
  id text not null,
  subscription_id text not null,
  price_id text,
  current_period_start timestamptz,
  current_period_end timestamptz,
  metadata jsonb not null default '{}',
  quantity bigint,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_subscription_items_pkey primary key (id),
  constraint stripe_subscription_items_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_subscription_items_period_is_forward check (current_period_end > current_period_start)
);

create index if not exists stripe_subscription_items_subscription_id_idx
  on stepquota.stripe_subscription_items (subscription_id) where deleted_at is null;
create index if not exists stripe_subscription_items_price_id_idx
  on stepquota.stripe_subscription_items (price_id) where deleted_at is null;

create table if not exists stepquota.stripe_events (
  id text not null,
  event_type text not null,
  object_id text,
  object_type text,
  livemode boolean,
  created_at timestamptz,
  received_at timestamptz not null,
  source text not null,
  status text not null default 'pending',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null,
  processed_at timestamptz,
  last_error text,
  constraint stripe_events_pkey primary key (id),
  constraint stripe_events_source_is_known check (source in ('webhook', 'thin', 'catch_up')),
  constraint stripe_events_status_is_known check (status in ('pending', 'done', 'ignored', 'dead')),
  constraint stripe_events_attempts_is_not_negative check (attempts >= 0)
);

create index if not exists stripe_events_pending_idx
  on stepquota.stripe_events (next_attempt_at) where status = 'pending';

create table if not exists stepquota.stripe_sync_state (
  name text not null,
  value jsonb not null,
  updated_at timestamptz not null,
  constraint stripe_sync_state_pkey primary key (name)
);

comment on table stepquota.stripe_products is 'Stripe mirror: products, for their metadata.';
comment on table stepquota.stripe_prices is 'Stripe mirror: prices, for their metadata and billing interval.';
comment on table stepquota.stripe_customers is 'Stripe mirror: customers, for the tenant that their metadata names. Nothing personal.';
comment on table stepquota.stripe_customer_tenants is
  'The application''s own word on whose customer it is, by map_stripe_customer; it goes before any metadata.';
comment on table stepquota.stripe_subscriptions is 'Stripe mirror: subscriptions.';
comment on table stepquota.stripe_subscription_items is
  'Stripe mirror: subscription items, which carry the period. For answers of API versions before 2025-03-31.basil the subscription''s period is stored on each item.';
comment on table stepquota.stripe_events is 'Events that were received: triggers for a fetch, never data.';
comment on table stepquota.stripe_sync_state is 'What the sync remembers between runs, by name.';

do $comment_mirror_columns$
declare
  v_column record;
begin
  -- The columns that all mirror tables share, commented from one place.
  for v_column in
    select a.attrelid::pg_catalog.regclass as table_name, a.attname as column_name, c.comment
      from pg_catalog.pg_attribute a
      join (values
        ('id', 'Stripe''s id.'),
        ('metadata', 'Stripe''s metadata, as received.'),
        ('metadata_tenant', 'The tenant named by the metadata under policy.tenant_metadata_key.'),
        ('livemode', 'Whether the object is of Stripe''s live mode.'),
        ('created_at', 'When Stripe made it.'),
        ('fetched_at', 'This database''s clock, read before the object was asked for: newer answers win.'),
        ('deleted_at', 'When it was found to be gone; final.'),
        ('active', 'Whether it can be bought; archived ones still give limits to running subscriptions.'),
        ('name', 'Name.'),
        ('nickname', 'Stripe''s nickname of the price.'),
        ('product_id', 'The price''s product.'),
        ('recurring_interval', 'day, week, month or year; NULL for one-time prices.'),
        ('recurring_interval_count', 'How many intervals a period has.'),
        ('customer_id', 'The Stripe customer.'),
        ('tenant', 'The tenant.'),
        ('mapped_at', 'When the application said so.'),
        ('status', 'Status.'),
        ('billing_cycle_anchor', 'The moment that periods are counted from.'),
        ('cancel_at', 'When the subscription is due to end.'),
        ('cancel_at_period_end', 'Whether it ends with its period.'),
        ('canceled_at', 'When it was cancelled.'),
        ('ended_at', 'When it ended.'),
        ('trial_start', 'Start of the trial.'),
        ('trial_end', 'End of the trial.'),
        ('pause_collection', 'Stripe''s pause_collection object; the status stays active.'),
        ('subscription_id', 'The subscription.'),
        ('price_id', 'The item''s price.'),
        ('current_period_start', 'Start of the item''s period, included.'),
        ('current_period_end', 'End of the item''s period, excluded.'),
        ('quantity', 'Quantity; it never multiplies a limit.'),
        ('event_type', 'Stripe''s type of event.'),
        ('object_id', 'Id of the object to fetch.'),
        ('object_type', 'Type of the object to fetch.'),
        ('received_at', 'When it was stored here.'),
        ('source', 'webhook, thin or catch_up.'),
        ('attempts', 'How often it was tried.'),
        ('next_attempt_at', 'When it is tried next.'),
        ('processed_at', 'When it was done with.'),
        ('last_error', 'Why the last try failed.'),
        ('value', 'What is remembered.'),
        ('updated_at', 'When it was last written.')
      ) as c (column_name, comment) on c.column_name = a.attname
     where a.attrelid in (
       'stepquota.stripe_products'::pg_catalog.regclass, 'stepquota.stripe_prices'::pg_catalog.regclass,
       'stepquota.stripe_customers'::pg_catalog.regclass, 'stepquota.stripe_customer_tenants'::pg_catalog.regclass,
       'stepquota.stripe_subscriptions'::pg_catalog.regclass, 'stepquota.stripe_subscription_items'::pg_catalog.regclass,
       'stepquota.stripe_events'::pg_catalog.regclass, 'stepquota.stripe_sync_state'::pg_catalog.regclass)
       and a.attnum > 0 and not a.attisdropped
  loop
    execute format('comment on column %s.%I is %L', v_column.table_name, v_column.column_name, v_column.comment);
  end loop;
end;
$comment_mirror_columns$;
