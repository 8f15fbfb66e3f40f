drop table if exists stepquota.stripe_spreads;
drop table if exists stepquota.stripe_sync_pages;
drop index if exists stepquota.stripe_events_source_received_at_idx;
drop index if exists stepquota.stripe_events_processed_at_idx;
create index if not exists stripe_subscription_items_price_id_idx
  on stepquota.stripe_subscription_items (price_id) where deleted_at is null;
drop index if exists stepquota.stripe_subscription_items_price_id_subscription_id_idx;
alter table if exists stepquota.stripe_subscriptions drop column if exists is_on_test_clock;
alter table if exists stepquota.stripe_customers drop column if exists is_on_test_clock;
alter table if exists stepquota.policy drop column if exists stripe_events_kept_for;
alter table if exists stepquota.policy drop column if exists stripe_event_attempts;
alter table if exists stepquota.policy drop column if exists pause_collection_qualifies;
alter table if exists stepquota.policy drop column if exists past_due_qualifies;
