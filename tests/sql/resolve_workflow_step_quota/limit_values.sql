-- Every way to write a limit, as table: DESIGN 3.7. The value is the price's; the product has 77.
begin;
create temp table cases (value jsonb, expected text);
insert into cases values
  -- whole numbers
  ('"1"', '1'), ('"150"', '150'), ('"007"', '7'), ('"000000000000000001"', '1'),
  ('"2147483647"', '2147483647'), ('"2147483648"', '2147483648'), ('"9999999999"', '9999999999'),
  ('"999999999999999999"', '999999999999999999'), ('"1000000000000000000"', 'invalid'), ('"0000000000000000001"', 'invalid'),
  ('"99999999999999999999999999"', 'invalid'),
  -- white space around
  ('" 42"', '42'), ('"42 "', '42'), ('"  42  "', '42'), ('"\t42\t"', '42'), ('"\n42\r\n"', '42'), ('"\u000b42\f"', '42'),
  ('"4 2"', 'invalid'), ('"4\t2"', 'invalid'), ('"1\n2"', 'invalid'),
  -- JSON numbers are read by their text
  ('1200', '1200'), ('1', '1'), ('4294967296', '4294967296'), ('1200.0', 'invalid'), ('1.5', 'invalid'), ('0', 'invalid'),
  ('-5', 'invalid'),
  -- unlimited
  ('"unlimited"', 'unlimited'), ('"UNLIMITED"', 'unlimited'), ('"UnLimited"', 'unlimited'), ('" unlimited "', 'unlimited'),
  ('"\tunlimited\n"', 'unlimited'), ('"unlimited!"', 'invalid'), ('"un limited"', 'invalid'), ('"unlimitedunlimited"', 'invalid'),
  -- absent
  ('null', 'absent'),
  -- anything else
  ('"0"', 'invalid'), ('"00"', 'invalid'), ('"-1"', 'invalid'), ('"+1"', 'invalid'), ('"1,000"', 'invalid'), ('"1.000"', 'invalid'),
  ('"1_000"', 'invalid'), ('"1e3"', 'invalid'), ('"0x10"', 'invalid'), ('"10.0"', 'invalid'), ('""', 'invalid'), ('" "', 'invalid'),
  ('"ten"', 'invalid'), ('"١٢"', 'invalid'), ('"１２"', 'invalid'), ('"10 steps"', 'invalid'), ('"infinity"', 'invalid'),
  ('"null"', 'invalid'), ('true', 'invalid'), ('false', 'invalid'), ('{}', 'invalid'), ('[]', 'invalid'), ('["5"]', 'invalid'),
  ('{"limit": 5}', 'invalid');
select plan((select 2 * count(*)::integer + 6 from cases));
select set_clock('2026-04-15Z');

select subscribe('t' || c.value::text, c.value, '"77"') from cases c;
select is(split_part(quota_of('t' || c.value::text), ', ', 2),
  case when c.expected = 'unlimited' then 'unlimited unlimited_metadata'
       when c.expected in ('invalid', 'absent') then '77 stripe_product_metadata'
       else c.expected || ' stripe_price_metadata' end,
  format('%s is %s', c.value, c.expected))
from cases c;
select is(count_events('t' || c.value::text, 'limit_metadata_invalid'), (c.expected = 'invalid')::integer::bigint,
  format('%s is reported if it is invalid', c.value))
from cases c;

-- 0 blocks everything where policy says so.
select is(split_part(quota_of('t"0"'), ', ', 2), '77 stripe_product_metadata', '0 is invalid by default');
select lives_ok($$select stepquota.set_policy('zero_limit_blocks', 'true')$$, 'policy may say otherwise');
select is(split_part(quota_of('t"0"'), ', ', 2), '0 stripe_price_metadata', 'then 0 is a limit');
select is((select array[r.allowed::text, r.used_count::text, r.remaining::text] from stepquota.reserve_workflow_step('t"0"') r),
  array['false', '0', '0'], 'that allows nothing');
select is(split_part(quota_of('t"-1"'), ', ', 2), '77 stripe_product_metadata', 'a negative one is invalid all the same');
select is(split_part(quota_of('t"00"'), ', ', 2), '0 stripe_price_metadata', 'leading zeros change nothing');

select * from finish();
rollback;
