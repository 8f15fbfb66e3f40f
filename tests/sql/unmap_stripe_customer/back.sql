-- A mapping taken back: metadata decides again, both tenants are refreshed.
begin;
select plan(6);
select set_clock('2026-04-15Z');
select subscribe('stripes', '"100"');
select action from stepquota.map_stripe_customer('cus_stripes', 'mine');
select matches(quota_of('stripes'), 'fallback_calendar', 'mapped away');
select results_eq($$select * from stepquota.unmap_stripe_customer('cus_stripes')$$, $$values ('customer'::text, 'cus_stripes'::text, 'deleted'::text)$$, 'taken back');
select is(split_part(quota_of('stripes'), ', ', 2), '100 stripe_price_metadata', 'the metadata''s tenant has it again');
select matches(quota_of('mine'), 'fallback_calendar', 'the other not');
select is((select action from stepquota.unmap_stripe_customer('cus_stripes')), 'unchanged', 'twice is once');
select is(count_events('mine', 'customer_unmapped'), 1::bigint, 'it is audited');
select * from finish();
rollback;
