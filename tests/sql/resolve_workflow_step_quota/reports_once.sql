-- Price "invalid", product "1": one event that names object and value, one exhausted event; a tenant
-- without subscription: one fallback event; each again in the next period.
begin;
select plan(10);
select set_clock('2026-04-15Z');
select subscribe('acme', '"invalid"', '"1"');
select quota_of('acme');
select is(array_agg(r.allowed order by r.n), array[true, false, false], 'one unit, then denials')
from (select n, (stepquota.reserve_workflow_step('acme')).allowed from generate_series(1, 3) n) r;
select set_clock('2026-04-16Z');
select quota_of('acme');
select results_eq(
  $$select e.event_type, e.level, e.details ->> 'object_type', e.details ->> 'object_id', e.details ->> 'value'
      from stepquota.quota_events e where e.tenant = 'acme' and e.event_type = 'limit_metadata_invalid'$$,
  $$values ('limit_metadata_invalid', 'warning', 'price', 'price_main_acme', 'invalid')$$, 'one event names object and value');
select is(
  (select array[e.level, e.details ->> 'used_count', e.details ->> 'effective_limit', e.details ->> 'limit_source'] from stepquota.quota_events e
    where e.tenant = 'acme' and e.event_type = 'quota_exhausted'), array['warning', '1', '1', 'stripe_product_metadata'], 'one of the exhaustion');
select is(count_events('acme', 'fallback_period'), 0::bigint, 'and none of a fallback');

select subscribe('twice', '"bad"', '"worse"');
select is((select count(distinct e.details ->> 'object_id') from stepquota.quota_events e where e.tenant = 'twice' and e.event_type = 'limit_metadata_invalid'),
  2::bigint, 'two invalid values are two events');

select quota_of('solo'), stepquota.reserve_workflow_step('solo');
select set_clock('2026-04-20Z');
select quota_of('solo');
select is((select array_agg(e.level) from stepquota.quota_events e where e.tenant = 'solo' and e.event_type = 'fallback_period'), array['info'],
  'a tenant without a subscription: one fallback event');

select set_clock('2026-05-01Z');
select quota_of('acme'), quota_of('solo');
select is(count_events('acme', 'limit_metadata_invalid'), 2::bigint, 'the next period reports again');
select is(count_events('solo', 'fallback_period'), 2::bigint, 'the fallback too');
select allowed from stepquota.reserve_workflow_step('acme');
select is(count_events('acme', 'quota_exhausted'), 1::bigint, 'an allowed step is no exhaustion');
select allowed from stepquota.reserve_workflow_step('acme');
select is(count_events('acme', 'quota_exhausted'), 2::bigint, 'the next denial is');

select * from finish();
rollback;
