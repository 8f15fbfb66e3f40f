-- Between a period's end and the renewal's arrival the next period is presumed, counted from the anchor,
-- for policy.renewal_grace; after a trial for trial_renewal_grace; not where the subscription is due to end.
begin;
select plan(24);

create function pg_temp.quota_at(p_tenant text, p_moment text) returns text language plpgsql as $$
begin
  perform tap.set_clock(p_moment);
  return tap.quota_of(p_tenant);
end;
$$;

-- 31 January -> 28 February -> 31 March, counted from the anchor and not step by step.
select set_clock('2026-02-01Z');
select subscribe('jan31', '"10"', p_start => '2026-01-31T10:00:00Z', p_end => '2026-02-28T10:00:00Z');
select is(pg_temp.quota_at('jan31', '2026-02-28T09:59:59Z'), '2026-01-31T10:00:00..2026-02-28T10:00:00 stripe_subscription, 10 stripe_price_metadata', 'still January''s');
select is(pg_temp.quota_at('jan31', '2026-02-28T10:00:00Z'), '2026-02-28T10:00:00..2026-03-31T10:00:00 presumed_renewal, 10 stripe_price_metadata', '28 February to 31 March');
select ok((stepquota.reserve_workflow_step('jan31')).allowed, 'a unit is used of the presumed period');
select subscribe('jan31', '"10"', p_start => '2026-02-28T10:00:00Z', p_end => '2026-03-31T10:00:00Z', p_changes => '{"billing_cycle_anchor": "2026-01-31T10:00:00Z"}');
select is(pg_temp.quota_at('jan31', '2026-02-28T10:00:20Z'), '2026-02-28T10:00:00..2026-03-31T10:00:00 stripe_subscription, 10 stripe_price_metadata', 'the late webhook says the same period');
select is((select used_count from stepquota.resolve_workflow_step_quota('jan31')), 1::bigint, 'and what was used counts there');
select is(pg_temp.quota_at('jan31', '2026-03-31T10:00:00Z'), '2026-03-31T10:00:00..2026-04-30T10:00:00 presumed_renewal, 10 stripe_price_metadata', '31 March to 30 April');

select set_clock('2028-01-31Z');
select subscribe('leap', '"10"', p_start => '2028-01-31Z', p_end => '2028-02-29Z');
select is(pg_temp.quota_at('leap', '2028-02-29Z'), '2028-02-29T00:00:00..2028-03-31T00:00:00 presumed_renewal, 10 stripe_price_metadata', 'in a leap year 29 February');
select set_clock('2026-11-15Z');
select subscribe('december', '"10"', p_start => '2026-11-30Z', p_end => '2026-12-30Z', p_changes => '{"billing_cycle_anchor": "2026-11-30Z"}');
select is(pg_temp.quota_at('december', '2026-12-31T12:00:00Z'), '2026-12-30T00:00:00..2027-01-30T00:00:00 presumed_renewal, 10 stripe_price_metadata', 'over the end of a year');

create temp table intervals (tenant text, unit text, number integer, period_start timestamptz, period_end timestamptz, expected text);
insert into intervals values
  ('day', 'day', 1, '2026-04-14Z', '2026-04-15Z', '2026-04-16T00:00:00..2026-04-17T00:00:00 presumed_renewal'),
  ('ten_days', 'day', 10, '2026-04-05Z', '2026-04-15Z', '2026-04-15T00:00:00..2026-04-25T00:00:00 presumed_renewal'),
  ('two_weeks', 'week', 2, '2026-04-01Z', '2026-04-15Z', '2026-04-15T00:00:00..2026-04-29T00:00:00 presumed_renewal'),
  ('quarter', 'month', 3, '2026-01-15Z', '2026-04-15Z', '2026-04-15T00:00:00..2026-07-15T00:00:00 presumed_renewal'),
  ('year', 'year', 1, '2025-04-15Z', '2026-04-15Z', '2026-04-15T00:00:00..2027-04-15T00:00:00 presumed_renewal');
select set_clock('2026-04-14T12:00:00Z');
select subscribe(i.tenant, '"10"', p_start => i.period_start, p_end => i.period_end, p_interval => i.unit, p_count => i.number) from intervals i;
select set_clock('2026-04-16T12:00:00Z');
select is(split_part(quota_of(i.tenant), ',', 1), i.expected, 'the next ' || i.tenant) from intervals i;

-- Grace: to its last microsecond, then the calendar, and an event that says so.
select set_clock('2026-04-09Z');
select subscribe('grace', '"10"', p_start => '2026-03-10Z', p_end => '2026-04-10Z');
select matches(pg_temp.quota_at('grace', '2026-04-12T23:59:59.999999Z'), 'presumed_renewal, 10 ', '72 hours of grace');
select is(pg_temp.quota_at('grace', '2026-04-13T00:00:00Z'), '2026-04-01T00:00:00..2026-05-01T00:00:00 fallback_calendar, 150 tier_default', 'then the calendar');
select is(
  (select array[e.level, e.details ->> 'stripe_subscription_id'] from stepquota.quota_events e
    where e.tenant = 'grace' and e.event_type = 'renewal_overdue'), array['error', 'sub_main_grace'], 'and one event that the renewal is overdue');
select lives_ok($$select stepquota.set_policy('renewal_grace', '96 hours')$$, 'policy sets the grace');
select matches(quota_of('grace'), 'presumed_renewal, 10 ', 'and a longer one presumes again');

select subscribe('trial', '"10"', p_status => 'trialing', p_start => '2026-04-01Z', p_end => '2026-04-15Z',
  p_changes => '{"trial_start": "2026-04-01Z", "trial_end": "2026-04-15Z", "billing_cycle_anchor": "2026-04-15Z"}');
select is(pg_temp.quota_at('trial', '2026-04-15T01:59:59Z'), '2026-04-15T00:00:00..2026-05-15T00:00:00 presumed_renewal, 10 stripe_price_metadata', 'two hours after a trial');
select matches(pg_temp.quota_at('trial', '2026-04-15T02:00:00Z'), 'fallback_calendar', 'and no longer');

select set_clock('2026-04-01Z');
select subscribe('ends', '"10"', p_changes => '{"cancel_at_period_end": true}');
select subscribe('cancel_at', '"10"', p_changes => '{"cancel_at": "2026-05-01Z"}');
select subscribe('cancel_later', '"10"', p_changes => '{"cancel_at": "2026-05-02Z"}');
select matches(pg_temp.quota_at('ends', '2026-05-01Z'), 'fallback_calendar', 'nothing is presumed of one that ends with its period');
select is(count_events('ends', 'renewal_overdue'), 0::bigint, 'nor is its renewal overdue');
select matches(pg_temp.quota_at('cancel_at', '2026-05-01Z'), 'fallback_calendar', 'nor of one due to end then');
select is(pg_temp.quota_at('cancel_later', '2026-05-01T12:00:00Z') || ' then ' || pg_temp.quota_at('cancel_later', '2026-05-02Z'),
  '2026-05-01T00:00:00..2026-06-01T00:00:00 presumed_renewal, 10 stripe_price_metadata'
  ' then 2026-05-01T00:00:00..2026-06-01T00:00:00 fallback_calendar, 150 tier_default', 'one due later is presumed until then');

select * from finish();
rollback;
