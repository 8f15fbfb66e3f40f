-- Each event once; what the mirror does not keep, and what is of another mode or account, is ignored.
begin;
select plan(15);
create function pg_temp.event(p_id text, p_type text, p_changes jsonb default '{}') returns jsonb language sql as $$
  select jsonb_build_object('id', p_id, 'type', p_type, 'created', 1775000000, 'livemode', false, 'object_id', 'x_1') || p_changes;
$$;
create function pg_temp.record(variadic p_events jsonb[]) returns text language sql as $$
  select string_agg(r.event_id || ' ' || r.outcome, ', ') from stepquota.record_stripe_events(to_jsonb(p_events), 'webhook') r;
$$;
select is(pg_temp.record(pg_temp.event('e1', 'price.updated')), 'e1 pending', 'stored');
select is(pg_temp.record(pg_temp.event('e1', 'price.updated')), 'e1 duplicate', 'once');
select is(pg_temp.record(pg_temp.event('e2', 'invoice.paid'), pg_temp.event('e3', 'v1.product.updated')), 'e2 ignored, e3 pending', 'another type is ignored; thin events have the same names');
select is((select array_agg(object_type order by id) from stepquota.stripe_events), array['price', null, 'product'], 'the type of the object follows from the event''s');
select is(pg_temp.record(pg_temp.event('e4', 'checkout.session.completed', '{"object_id": "cs_1", "subscription_id": "sub_1"}'), pg_temp.event('e5', 'checkout.session.completed', '{"object_id": "cs_2"}')),
  'e4 pending, e5 ignored', 'a checkout is about its subscription, if it has one');
select is((select object_type || ' ' || object_id from stepquota.stripe_events where id = 'e4'), 'subscription sub_1', 'which is asked for');
select is(pg_temp.record(pg_temp.event('e6', 'price.updated', '{"account": "acct_other"}')), 'e6 ignored', 'an event of a connected account is ignored');
select is(pg_temp.record(pg_temp.event('live', 'price.updated', '{"livemode": true}')), 'live pending', 'while nobody knows the mode, both are stored');
select ok(stepquota.bind_stripe_mirror('acct_1', false, 'v'), 'the mirror is bound to the test mode');
select is((select status from stepquota.stripe_events where id = 'live'), 'ignored', 'then those of the other are ignored');
select is(pg_temp.record(pg_temp.event('e7', 'price.updated', '{"livemode": true}'), pg_temp.event('e8', 'price.updated', '{"account": "acct_1"}')), 'e7 ignored, e8 pending', 'also new ones; its own account is no other');
select is(pg_temp.record(pg_temp.event('e9', 'price.updated'), pg_temp.event('e9', 'price.updated')), 'e9 pending, e9 pending', 'twice in one call is once');
select ok(not exists (select 1 from stepquota.stripe_sync_state where name = 'full_sync_wanted'), 'no full sync is wanted');
select is(pg_temp.record(pg_temp.event('e10', 'v2.core.health.event_generation_failure.resolved')), 'e10 ignored', 'Stripe says that it lost events');
select ok((select needs_full_sync from stepquota.begin_stripe_catch_up()), 'now one is');
select * from finish();
rollback;
