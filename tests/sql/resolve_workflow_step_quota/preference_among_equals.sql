-- Among subscriptions of equal status: one with a valid limit, then the newest start, then the id.
begin;
select plan(7);
select set_clock('2026-04-15Z');

select subscribe('limit_first', null, null, 'active', '2026-04-10Z', '2026-05-10Z', 'a');
select subscribe('limit_first', '"10"', null, 'active', '2026-04-01Z', '2026-05-01Z', 'b');
select matches(quota_of('limit_first'), '^2026-04-01.* 10 ', 'a valid limit goes before a newer start');
select subscribe('limit_first', '"0"', null, 'active', '2026-04-12Z', '2026-05-12Z', 'c');
select matches(quota_of('limit_first'), '^2026-04-01.* 10 ', 'an invalid limit is no limit');

select subscribe('newest', '"10"', null, 'active', '2026-04-01Z', '2026-05-01Z', 'a');
select subscribe('newest', '"5"', null, 'active', '2026-04-02Z', '2026-05-02Z', 'b');
select matches(quota_of('newest'), '^2026-04-02.* 5 ', 'the newest start wins, not the greatest limit');
select subscribe('newest', '"unlimited"', null, 'active', '2026-04-01T12:00:00Z', '2026-05-02Z', 'c');
select matches(quota_of('newest'), '^2026-04-02.* 5 ', 'nor unlimited');

select subscribe('id', '"10"', null, 'active', p_name => 'b');
select subscribe('id', '"20"', null, 'active', p_name => 'a');
select subscribe('id', '"30"', null, 'active', p_name => 'B');
select matches(quota_of('id'), ' 30 ', 'of equal starts the first id, by its bytes');

select subscribe('none', null, null, 'active', '2026-04-01Z', '2026-05-01Z', 'a');
select subscribe('none', null, null, 'active', '2026-04-03Z', '2026-05-03Z', 'b');
select matches(quota_of('none'), '^2026-04-03.* 150 tier_default', 'without limits the newest start too');

select subscribe('current', '"10"', null, 'trialing', '2026-03-14Z', '2026-04-14Z', 'a');
select subscribe('current', '"20"', null, 'unpaid', '2026-04-01Z', '2026-05-01Z', 'b');
select matches(quota_of('current'), '^2026-04-01T.* stripe_subscription, 20 ', 'a running period goes before a presumed one');

select * from finish();
rollback;
