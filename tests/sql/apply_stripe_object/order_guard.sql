-- Newer answers win, whatever order they arrive in; a deletion is final; nothing is written for a stale one.
begin;
select plan(23);
select set_clock('2026-04-15Z');
create function pg_temp.put(p_object jsonb, p_fetched_at timestamptz) returns text language sql as $$
  select string_agg(a.object_type || ' ' || a.object_id || ' ' || a.action, ', ') from stepquota.apply_stripe_object(p_object, p_fetched_at) a;
$$;
select is(pg_temp.put(product('p', '"1"'), '2026-04-10Z'), 'product p inserted', 'inserted');
select is(pg_temp.put(product('p', '"1"'), '2026-04-11Z'), 'product p unchanged', 'unchanged');
select is(pg_temp.put(product('p', '"2"'), '2026-04-11Z'), 'product p updated', 'of the same moment: updated');
select is(pg_temp.put(product('p', '"3"'), '2026-04-10T12:00:00Z'), 'product p stale', 'asked for before: stale');
select is((select array[metadata ->> 'workflow_step_limit', fetched_at::text] from stepquota.stripe_products), array['2', '2026-04-11Z'::timestamptz::text], 'and nothing is written');
select is(pg_temp.put('{"id": "p", "object": "product", "deleted": true}', '2026-04-12Z'), 'product p deleted', 'deleted');
select is(pg_temp.put(product('p', '"4"'), '2026-04-13Z'), 'product p stale', 'a deletion is final');
select is(pg_temp.put('{"id": "p", "object": "product", "deleted": true}', '2026-04-13Z'), 'product p stale', 'also for another deletion');
select is(pg_temp.put('{"id": "never", "object": "customer", "deleted": true}', '2026-04-13Z'), 'customer never deleted', 'a tombstone of one never seen');
select is(pg_temp.put('{"id": "never", "object": "customer", "metadata": {"tenant": "x"}}', '2026-04-12Z'), 'customer never stale', 'which an earlier answer does not bring back');

select is(pg_temp.put(subscription('s', 'acme', jsonb_build_array(item('i1', price('p1', product('q1'), '"10"')), item('i2', price('p2', '"q2"'::jsonb, '"20"')))), '2026-04-10Z'),
  'customer cus_acme inserted, product q1 inserted, price p1 inserted, price p2 inserted, subscription s inserted', 'a row an object, parts before the whole');
select is(split_part(quota_of('acme'), ', ', 2), '20 stripe_price_metadata', 'a limit of two items');
-- The second item is gone; an older answer still has it.
select is(pg_temp.put(subscription('s', 'acme', jsonb_build_array(item('i1', price('p1', product('q1'), '"10"')))), '2026-04-12Z'),
  'customer cus_acme unchanged, product q1 unchanged, price p1 unchanged, subscription s updated', 'an item is gone');
select matches(pg_temp.put(subscription('s', 'acme', jsonb_build_array(item('i1', price('p1', product('q1'), '"10"')), item('i2', price('p2', '"q2"'::jsonb, '"20"')))), '2026-04-11Z'),
  'subscription s stale$', 'an older answer is stale');
select is(split_part(quota_of('acme'), ', ', 2), '10 stripe_price_metadata', 'and brings no item back');
-- A list that has more is only its first page.
select matches(pg_temp.put(jsonb_set(subscription('s', 'acme', jsonb_build_array(item('i3', price('p3', product('q3'), '"5"')))), '{items,has_more}', 'true'), '2026-04-13Z'),
  'subscription s updated$', 'a first page');
select is(split_part(quota_of('acme'), ', ', 2), '10 stripe_price_metadata', 'takes away nothing');
select is(pg_temp.put('{"id": "s", "object": "subscription", "deleted": true}', '2026-04-14Z'), 'subscription s deleted', 'the subscription is deleted');
select matches(quota_of('acme'), 'fallback_calendar', 'and the quota falls back');
select is((select count(*) from stepquota.stripe_subscription_items where deleted_at is null), 0::bigint, 'its items are gone with it');
select is(pg_temp.put(product('q1', '"1"') || '{"unknown_field": {"a": [1]}}', '2026-04-15Z'), 'product q1 updated', 'fields that are not known are passed over');
select is((select count(*) from information_schema.columns where table_schema = 'stepquota' and table_name like 'stripe%' and column_name ~ 'email|name$' and column_name not in ('name', 'nickname')), 0::bigint, 'nothing personal has a place');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
