-- Mapping a customer moves its subscription, refreshes both tenants and resumes; it is audited.
begin;
select plan(8);
select set_clock('2026-04-15Z');
select tier from stepquota.set_tier_limit('solo', 1);
select subscribe('stripes', '"100"');
select use_units('mine', 1);
select isnt(pause_run('mine', 'r'), null, 'a run is paused by the calendar''s limit');
select results_eq($$select * from stepquota.map_stripe_customer('cus_stripes', 'mine')$$, $$values ('customer'::text, 'cus_stripes'::text, 'inserted'::text)$$, 'the customer is mapped');
select is(split_part(quota_of('mine'), ', ', 2), '100 stripe_price_metadata', 'its subscription is the tenant''s');
select matches(quota_of('stripes'), 'fallback_calendar', 'and no longer the one''s that the metadata names');
select is(run_state('mine', 'r'), 'RUNNING at root.steps[0]', 'what was paused goes on');
select is((select count(*) from stepquota.quota_events where event_type = 'customer_mapped'), 1::bigint, 'it is audited');
select is((select action from stepquota.map_stripe_customer('cus_not_seen_yet', 'mine')), 'inserted', 'a customer may be mapped before Stripe is asked for it');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
