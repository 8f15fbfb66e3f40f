-- Subscriptions that do not qualify: other statuses, ended, due to end, of another time, without bounds.
begin;
select plan(19);
select set_clock('2026-04-15T12:00:00Z');

select subscribe(s.status, '"9"', null, s.status)
from unnest(array['canceled', 'incomplete', 'incomplete_expired', 'paused', 'invented', 'Active', 'ACTIVE']) s (status);
select matches(quota_of(s.status), 'fallback_calendar, 150 ', s.status || ' does not qualify')
from unnest(array['canceled', 'incomplete', 'incomplete_expired', 'paused', 'invented', 'Active', 'ACTIVE']) s (status);

select subscribe('ended', '"9"', p_changes => '{"ended_at": "2026-04-15T12:00:00Z"}');
select matches(quota_of('ended'), 'fallback_calendar', 'one that ended now does not');
select subscribe('ends', '"9"', p_changes => '{"ended_at": "2026-04-15T12:00:01Z"}');
select matches(quota_of('ends'), 'stripe_subscription', 'one that ends in a second still does');
select subscribe('canceled_at', '"9"', p_changes => '{"cancel_at": "2026-04-15T12:00:00Z"}');
select matches(quota_of('canceled_at'), 'fallback_calendar', 'nor one that was due to end now');
select subscribe('cancels', '"9"', p_changes => '{"cancel_at": "2026-04-15T12:00:01Z"}');
select matches(quota_of('cancels'), 'stripe_subscription', 'one that is due in a second does');
select subscribe('due', '"9"', p_changes => '{"cancel_at_period_end": true, "cancel_at": "2026-05-01Z"}');
select matches(quota_of('due'), 'stripe_subscription', 'and one that ends with its period, before that');
select subscribe('collecting', '"9"', p_changes => '{"pause_collection": {"behavior": "void"}}');
select matches(quota_of('collecting'), 'stripe_subscription', 'a paused collection leaves the status as it is');

select subscribe('later', '"9"', p_start => '2026-04-20Z', p_end => '2026-05-20Z');
select matches(quota_of('later'), 'fallback_calendar', 'a period of the future does not qualify');
select subscribe('earlier', '"9"', p_start => '2026-02-01Z', p_end => '2026-03-01Z');
select matches(quota_of('earlier'), 'fallback_calendar', 'nor one that is long over');

-- The mirror refuses objects without a period; rows edited by hand may have none.
select subscribe('unbounded', '"9"');
update stepquota.stripe_subscription_items set current_period_start = null where id = 'si_main_unbounded';
select matches((select quota_of('unbounded') from stepquota.refresh_workflow_step_quota('unbounded')), 'fallback_calendar',
  'a missing start does not qualify');
update stepquota.stripe_subscription_items set current_period_start = '2026-04-01Z', current_period_end = null where id = 'si_main_unbounded';
select matches((select quota_of('unbounded') from stepquota.refresh_workflow_step_quota('unbounded')), 'fallback_calendar',
  'nor does a missing end');

-- One that starts later takes over when its time has come, without anybody saying so.
select set_clock('2026-04-20T00:00:00Z');
select is(quota_of('later'), '2026-04-20T00:00:00..2026-05-20T00:00:00 stripe_subscription, 9 stripe_price_metadata',
  'the start of another candidate ends the stored quota');
select set_clock('2026-04-15T12:00:01Z');
select matches(quota_of('cancels'), 'fallback_calendar', 'and so does cancel_at, at its second');

select * from finish();
rollback;
