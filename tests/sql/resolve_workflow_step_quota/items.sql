-- Inside a subscription: the item with a valid limit, the greatest, unlimited above all, the oldest item,
-- the id; without any the earliest end. Period and limit come from that one item; quantity never counts.
begin;
select plan(9);
select set_clock('2026-04-15Z');

create function pg_temp.of_items(p_tenant text, variadic p_items jsonb[]) returns text language plpgsql as $$
begin
  perform tap.apply(tap.subscription('sub_' || p_tenant, p_tenant, to_jsonb(p_items)));
  return tap.quota_of(p_tenant);
end;
$$;
create function pg_temp.one(p_id text, p_limit jsonb, p_end timestamptz default '2026-05-01Z', p_created timestamptz default '2025-01-01Z',
  p_quantity integer default 1) returns jsonb language sql as $$
  select tap.item(p_id, tap.price('price_' || p_id, tap.product('prod_' || p_id), p_limit), '2026-04-01Z', p_end, p_created, p_quantity);
$$;

select matches(pg_temp.of_items('t1', pg_temp.one('i11', null, '2026-04-20Z'), pg_temp.one('i12', '"10"', '2026-05-15Z')),
  '\.\.2026-05-15.* 10 ', 'an item with a valid limit goes before one that ends earlier, and brings its period');
select matches(pg_temp.of_items('t2', pg_temp.one('i21', '"10"', '2026-04-20Z'), pg_temp.one('i22', '"9"'), pg_temp.one('i23', '"11"', '2026-05-02Z')),
  '\.\.2026-05-02.* 11 ', 'the greatest of several');
select matches(pg_temp.of_items('t3', pg_temp.one('i31', '"999999999999999999"'), pg_temp.one('i32', '"unlimited"', '2026-05-03Z')),
  '\.\.2026-05-03.* unlimited unlimited_metadata', 'unlimited above all');
select matches(pg_temp.of_items('t4', pg_temp.one('i41', '"10"', '2026-05-01Z', '2025-02-01Z'), pg_temp.one('i42', '"10"', '2026-05-02Z', '2025-01-01Z')),
  '\.\.2026-05-02.* 10 ', 'of equal limits the oldest item');
select matches(pg_temp.of_items('t5', pg_temp.one('i52', '"10"', '2026-05-01Z'), pg_temp.one('i51', '"10"', '2026-05-02Z')),
  '\.\.2026-05-02.* 10 ', 'then the id');
select matches(pg_temp.of_items('t6', pg_temp.one('i61', null, '2026-05-02Z'), pg_temp.one('i62', '"0"', '2026-04-20Z'), pg_temp.one('i63', null, '2026-05-01Z')),
  '\.\.2026-04-20.* 150 tier_default', 'without a valid limit the earliest end');
select matches(pg_temp.of_items('t7', pg_temp.one('i71', '"10"', p_quantity => 5)), ' 10 ', 'quantity multiplies nothing');
select matches(pg_temp.of_items('t8', pg_temp.one('i81', '"10"', '2026-05-01Z'),
    tap.item('i82', tap.price('price_i82', tap.product('prod_i82', '"50"'), '"nonsense"', 'year'), '2026-01-01Z', '2027-01-01Z')),
  '^2026-01-01T00:00:00\.\.2027-01-01.* 50 stripe_product_metadata', 'of mixed intervals, period and limit of the one item');
select matches(pg_temp.of_items('t8', pg_temp.one('i81', '"10"', '2026-05-01Z')), '^2026-04-01.* 10 ', 'an item that is gone counts no more');

select * from finish();
rollback;
