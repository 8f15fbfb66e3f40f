-- The subscription's period, from both generations of answers; its start is in, its end is out.
begin;
select plan(11);

select set_clock('2026-04-15T00:00:00Z');
select subscribe('new', '"1200"');
select apply(older(subscription('sub_old', 'old',
  jsonb_build_array(item('si_old', price('price_old', product('prod_old'), '"1200"'))))));

select is(quota_of(tenant), '2026-04-01T00:00:00..2026-05-01T00:00:00 stripe_subscription, 1200 stripe_price_metadata',
  'resolved at 04-15 from the period on the ' || place)
from (values ('new', 'items'), ('old', 'subscription')) as shapes (tenant, place);

select is(
  (select array[q.allowed::text, q.used_count::text, q.remaining::text, q.tier, q.granted_units::text, q.stripe_subscription_id]
     from stepquota.resolve_workflow_step_quota('new') q),
  array['true', '0', '1200', 'solo', '0', 'sub_main_new'], 'and with the columns of the summary');

select set_clock('2026-04-01T00:00:00Z');
select matches(quota_of(tenant), '^2026-04-01T.* stripe_subscription', 'the period''s start is in: ' || tenant)
from unnest(array['new', 'old']) tenant;
select set_clock('2026-04-30T23:59:59.999999Z');
select matches(quota_of('new'), '^2026-04-01T.* stripe_subscription', 'the moment before its end is in');

select set_clock('2026-05-01T00:00:00Z');
select is(quota_of(tenant), '2026-05-01T00:00:00..2026-06-01T00:00:00 presumed_renewal, 1200 stripe_price_metadata',
  'its end is out, and the renewal is presumed: ' || tenant)
from unnest(array['new', 'old']) tenant;
select is((select stripe_subscription_id from stepquota.resolve_workflow_step_quota('new')), 'sub_main_new',
  'of that subscription');
select is(quota_of('nobody'), '2026-05-01T00:00:00..2026-06-01T00:00:00 fallback_calendar, 150 tier_default',
  'without one it is the calendar month');

-- A period that is on the item goes before one on the subscription.
select set_clock('2026-04-15T00:00:00Z');
select apply(subscription('sub_both', 'both',
    jsonb_build_array(item('si_both', price('price_both', product('prod_both'), '"7"'), '2026-04-10Z', '2026-05-10Z')))
  || jsonb_build_object('current_period_start', seconds('2026-04-01Z'), 'current_period_end', seconds('2026-05-01Z')));
select matches(quota_of('both'), '^2026-04-10T00:00:00\.\.2026-05-10T', 'where both say one, the item''s counts');

select * from finish();
rollback;
