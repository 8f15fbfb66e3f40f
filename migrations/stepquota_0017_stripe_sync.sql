-- What the Stripe sync remembers: the pages of a full listing, changes that concern very many
-- subscriptions, objects on test clocks; and the policies of what qualifies and of events.

alter table stepquota.policy
  add column if not exists past_due_qualifies boolean not null default true,
  add column if not exists pause_collection_qualifies boolean not null default true,
  add column if not exists stripe_event_attempts integer not null default 8,
  add column if not exists stripe_events_kept_for interval not null default '35 days';

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_stripe_event_attempts_is_positive') then
    alter table stepquota.policy
      add constraint policy_stripe_event_attempts_is_positive check (stripe_event_attempts > 0),
      -- Stripe lists events for 30 days: an id that is forgotten sooner is taken for a new one.
      add constraint policy_stripe_events_kept_for_is_long_enough check (stripe_events_kept_for >= interval '31 days');
  end if;
end;
$add_constraints$;

alter table stepquota.stripe_customers add column if not exists is_on_test_clock boolean not null default false;
alter table stepquota.stripe_subscriptions add column if not exists is_on_test_clock boolean not null default false;

-- In the order in which a change of a price is spread over its subscriptions.
create index if not exists stripe_subscription_items_price_id_subscription_id_idx
  on stepquota.stripe_subscription_items (price_id, subscription_id) where deleted_at is null;
drop index if exists stepquota.stripe_subscription_items_price_id_idx;

create index if not exists stripe_events_processed_at_idx
  on stepquota.stripe_events (processed_at) where status in ('done', 'ignored');

create index if not exists stripe_events_source_received_at_idx
  on stepquota.stripe_events (source, received_at);

create table if not exists stepquota.stripe_sync_pages (
  started_at timestamptz not null,
  object_type text not null,
  page_number integer not null,
  fetched_at timestamptz not null,
  object_ids text[] not null,
  is_last boolean not null,
  constraint stripe_sync_pages_pkey primary key (started_at, object_type, page_number),
  constraint stripe_sync_pages_object_type_is_known check (object_type in ('product', 'price', 'customer', 'subscription'))
);

create index if not exists stripe_sync_pages_fetched_at_idx
  on stepquota.stripe_sync_pages (object_type, fetched_at);

create table if not exists stepquota.stripe_spreads (
  price_id text not null,
  after_subscription_id text not null,
  began_at timestamptz not null,
  constraint stripe_spreads_pkey primary key (price_id)
);

comment on column stepquota.policy.past_due_qualifies is
  'Whether a subscription whose payment is past due still gives period and limit.';
comment on column stepquota.policy.pause_collection_qualifies is
  'Whether a subscription whose collection is paused (pause_collection) still gives period and limit.';
comment on column stepquota.policy.stripe_event_attempts is
  'After how many failed attempts an event of Stripe is given up as dead.';
comment on column stepquota.policy.stripe_events_kept_for is
  'How long an event that is done with stays in stripe_events; at least 31 days.';
comment on column stepquota.stripe_customers.is_on_test_clock is
  'Whether it is on one of Stripe''s test clocks: then no listing has it.';
comment on column stepquota.stripe_subscriptions.is_on_test_clock is
  'Whether it is on one of Stripe''s test clocks: then no listing has it.';
comment on table stepquota.stripe_sync_pages is
  'The pages of full listings of Stripe: what was seen, and when it was asked for. What a page found unchanged was not written, so the page is its proof against older answers.';
comment on column stepquota.stripe_sync_pages.started_at is 'When the full sync began.';
comment on column stepquota.stripe_sync_pages.object_type is 'Type of the objects listed.';
comment on column stepquota.stripe_sync_pages.page_number is 'Number of the page, from 1.';
comment on column stepquota.stripe_sync_pages.fetched_at is 'This database''s clock, read before the page was asked for.';
comment on column stepquota.stripe_sync_pages.object_ids is 'Ids of the objects on it, in Stripe''s order.';
comment on column stepquota.stripe_sync_pages.is_last is 'Whether the listing of the type ended with it.';
comment on table stepquota.stripe_spreads is
  'Prices of very many subscriptions that were changed, while the paused tenants among them are being marked due.';
comment on column stepquota.stripe_spreads.price_id is 'The price.';
comment on column stepquota.stripe_spreads.after_subscription_id is 'The last subscription that was looked at; empty at the start.';
comment on column stepquota.stripe_spreads.began_at is 'When the price was changed.';
