-- trialing, active, past_due, unpaid: each pair; the better status wins even with the older start, the
-- later id and no limit of its own.
begin;
create temp table pairs as
select b.status as better, w.status as worse
  from unnest(array['trialing', 'active', 'past_due', 'unpaid']) with ordinality as b (status, place)
  join unnest(array['trialing', 'active', 'past_due', 'unpaid']) with ordinality as w (status, place) on b.place < w.place;
select plan((select 3 * count(*)::integer + 4 from pairs));
select set_clock('2026-04-15Z');

-- Both orders of arrival; a limit only at the worse one.
select subscribe(p.better || p.worse, '"10"', null, p.worse, '2026-04-10Z', '2026-05-10Z', 'a'),
       subscribe(p.better || p.worse, null, null, p.better, '2026-04-05Z', '2026-05-05Z', 'b')
from pairs p;
select is(quota_of(p.better || p.worse), '2026-04-05T00:00:00..2026-05-05T00:00:00 stripe_subscription, 150 tier_default',
  format('%s goes before %s', p.better, p.worse))
from pairs p;
select subscribe(p.worse || p.better, '"20"', null, p.better, '2026-04-05Z', '2026-05-05Z', 'b'),
       subscribe(p.worse || p.better, '"10"', null, p.worse, '2026-04-10Z', '2026-05-10Z', 'a')
from pairs p;
select is(quota_of(p.worse || p.better), '2026-04-05T00:00:00..2026-05-05T00:00:00 stripe_subscription, 20 stripe_price_metadata',
  format('%s goes before %s, whichever came first', p.better, p.worse))
from pairs p;

-- A status that improves takes over.
select subscribe(p.better || p.worse, '"10"', null, p.better, '2026-04-10Z', '2026-05-10Z', 'a') from pairs p;
select is(quota_of(p.better || p.worse), '2026-04-10T00:00:00..2026-05-10T00:00:00 stripe_subscription, 10 stripe_price_metadata',
  format('of two that are %s, one with a limit', p.better))
from pairs p;

select subscribe(s.status, '"9"', null, s.status) from unnest(array['trialing', 'active', 'past_due', 'unpaid']) s (status);
select matches(quota_of(s.status), 'stripe_subscription, 9 ', s.status || ' qualifies by itself')
from unnest(array['trialing', 'active', 'past_due', 'unpaid']) s (status);

select * from finish();
rollback;
