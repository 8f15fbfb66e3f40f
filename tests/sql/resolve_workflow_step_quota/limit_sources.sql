-- The price's limit, else the product's, else the tier's default.
begin;
select plan(12);
select set_clock('2026-04-15Z');

create temp table cases (tenant text, price_limit jsonb, product_limit jsonb, expected text);
insert into cases values
  ('price_and_product', '"1200"', '"5000"', '1200 stripe_price_metadata'),
  ('price_invalid', '"invalid"', '"5000"', '5000 stripe_product_metadata'),
  ('price_absent', null, '"5000"', '5000 stripe_product_metadata'),
  ('price_null', 'null', '"5000"', '5000 stripe_product_metadata'),
  ('product_unlimited', null, '"unlimited"', 'unlimited unlimited_metadata'),
  ('price_unlimited', '"unlimited"', '"5000"', 'unlimited unlimited_metadata'),
  ('price_over_unlimited', '"5"', '"unlimited"', '5 stripe_price_metadata'),
  ('both_invalid', '"0"', '"1.5"', '150 tier_default'),
  ('both_absent', null, null, '150 tier_default'),
  ('invalid_and_absent', '""', null, '150 tier_default');
select subscribe(c.tenant, c.price_limit, c.product_limit) from cases c;
select is(split_part(quota_of(c.tenant), ', ', 2), c.expected, c.tenant) from cases c;

select is((select remaining from stepquota.resolve_workflow_step_quota('price_unlimited')), null,
  'unlimited leaves no number of remaining units');

-- Archived prices and products still give limits to running subscriptions.
select apply(price('price_main_price_and_product', product('prod_main_price_and_product', '"5000"') || '{"active": false}', '"1200"')
  || '{"active": false}');
select is(split_part(quota_of('price_and_product'), ', ', 2), '1200 stripe_price_metadata', 'an archived price counts');

select * from finish();
rollback;
