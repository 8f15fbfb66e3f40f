-- A better price resumes in the same transaction, for every tenant it has a say in, up to policy's bounds.
begin;
select plan(9);
select set_clock('2026-04-15Z');
-- Three tenants share a price and its product; a fourth has another.
select apply(subscription('sub_' || t, t, jsonb_build_array(item('si_' || t, price('shared', product('both'), '"1"'))))) from unnest(array['a', 'b', 'c']) t;
select subscribe('d', '"1"');
select use_units(t, 1) from unnest(array['a', 'b', 'c', 'd']) t;
select count(pause_run(t, 'r')) from unnest(array['a', 'b', 'c', 'd']) t;
select apply(price('shared', product('both'), '"2"'));
select is((select array_agg(tenant order by tenant) from stepquota.workflow_run_resumptions), array['a', 'b', 'c'], 'all tenants of the price go on');
select is((select array_agg(distinct details ->> 'by') from stepquota.quota_events where event_type = 'run_resumed'), array['stripe'], 'because of Stripe');
select is((select array_agg(tenant) from stepquota.paused_tenants), array['d'], 'the other stays');
select apply(price('shared', product('both', '"7"'), null));
select is(split_part(quota_of('b'), ', ', 2), '7 stripe_product_metadata', 'the product of an expanded price is written with it');
select apply(product('both', '"8"'));
select is(split_part(quota_of('c'), ', ', 2), '8 stripe_product_metadata', 'and reaches its tenants by itself');
savepoint s;
select apply(price('price_main_d', product('prod_main_d'), '"5"'));
select is((select count(*) from stepquota.workflow_run_resumptions where tenant = 'd'), 1::bigint, 'd goes on');
rollback to s;
select is(run_state('d', 'r') || ' ' || split_part(quota_of('d'), ', ', 2), 'WAITING at root.steps[0] 1 stripe_price_metadata', 'and waits again when the caller rolls back');
select value from stepquota.set_policy('at_once_tenants', '2');
select apply(product('both', '"9"'));
select is((select array_agg(split_part(quota_of(t), ', ', 2)) from unnest(array['a', 'b', 'c']) t), array_fill('9 stripe_product_metadata'::text, array[3]), 'tenants beyond the bound get it with their next step');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
