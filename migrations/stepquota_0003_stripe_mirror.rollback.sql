drop table if exists stepquota.stripe_sync_state;
drop table if exists stepquota.stripe_events;
drop table if exists stepquota.stripe_subscription_items;
drop table if exists stepquota.stripe_subscriptions;
drop table if exists stepquota.stripe_customer_tenants;
drop table if exists stepquota.stripe_customers;
drop table if exists stepquota.stripe_prices;
drop table if exists stepquota.stripe_products;
