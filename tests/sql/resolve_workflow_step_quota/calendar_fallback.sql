-- Without a subscription: the UTC calendar month and the tier's default, whatever the session's time zone.
begin;
select plan(11);

select set_clock('2026-04-15T10:10:10Z');
select lives_ok($$select stepquota.set_tenant_plan('acme', 'solo')$$, 'a tenant of tier solo without a subscription');
select is(quota_of('acme'), '2026-04-01T00:00:00..2026-05-01T00:00:00 fallback_calendar, 150 tier_default', 'April, 150');

create temp table moments (moment text, month text);
insert into moments values
  ('2026-04-01T00:00:00Z', '2026-04-01T00:00:00..2026-05-01T00:00:00'),
  ('2026-04-30T23:59:59.999999Z', '2026-04-01T00:00:00..2026-05-01T00:00:00'),
  ('2026-05-01T00:00:00Z', '2026-05-01T00:00:00..2026-06-01T00:00:00'),
  ('2026-12-31T23:59:59Z', '2026-12-01T00:00:00..2027-01-01T00:00:00'),
  ('2028-02-29T12:00:00Z', '2028-02-01T00:00:00..2028-03-01T00:00:00'),
  ('2027-02-28T12:00:00Z', '2027-02-01T00:00:00..2027-03-01T00:00:00'),
  -- Already May in Auckland, still April in UTC; and the other way round.
  ('2026-05-01T11:30:00+12:00', '2026-04-01T00:00:00..2026-05-01T00:00:00'),
  ('2026-04-30T19:00:00-08:00', '2026-05-01T00:00:00..2026-06-01T00:00:00');
set local timezone = 'Pacific/Auckland';
create function pg_temp.month_at(p_moment text) returns text language plpgsql as $$
begin
  perform tap.set_clock(p_moment);
  return split_part(tap.quota_of('acme'), ' ', 1);
end;
$$;
select is(pg_temp.month_at(m.moment), m.month, 'the month of ' || m.moment) from moments m;

set local timezone = 'UTC';
set local datestyle = 'German, DMY';
select is(pg_temp.month_at('2026-04-15T10:10:10Z'), '2026-04-01T00:00:00..2026-05-01T00:00:00',
  'the session''s date style changes nothing');

select * from finish();
rollback;
