-- A raised limit arms the thresholds above what is used again, and the exhaustion; a lowered one records
-- what it makes reached. A period that is left and come back to records nothing twice.
begin;
select plan(25);
select set_clock('2026-04-15T12:00:00Z');
create function pg_temp.reached(p_tenant text) returns text language sql as $$
  select coalesce(string_agg(format('%s of %s', e.details ->> 'percent', e.details ->> 'effective_limit'), ', ' order by e.event_id), '')
    from stepquota.quota_events e where e.tenant = p_tenant and e.event_type = 'quota_threshold_reached';
$$;
create function pg_temp.take(p_tenant text, p_units integer) returns bigint language sql as $$
  select max((stepquota.reserve_workflow_step(p_tenant)).used_count) from generate_series(1, p_units);
$$;
create function pg_temp.due(p_tenant text) returns bigint language sql as $$
  select alert_at_count from stepquota.workflow_step_quotas where tenant = p_tenant;
$$;
select give_limit('acme', 10), pg_temp.take('acme', 11);
select is(pg_temp.reached('acme'), '50 of 10, 80 of 10, 90 of 10, 100 of 10', 'all of ten');
select is(count_events('acme', 'quota_exhausted'), 1::bigint, 'and a denial');
-- 10 of 16 is 62 percent: half is reached, and was said.
select give_limit('acme', 16);
select is(pg_temp.reached('acme'), '50 of 10, 80 of 10, 90 of 10, 100 of 10', 'an upgrade repeats nothing that is reached');
select is(pg_temp.due('acme'), 13::bigint, '80 percent are armed again');
select is(pg_temp.take('acme', 3), 13::bigint, 'and reached');
select is(pg_temp.reached('acme'), '50 of 10, 80 of 10, 90 of 10, 100 of 10, 80 of 16', 'again');
select is(pg_temp.take('acme', 4), 16::bigint, 'up to the new limit');
select is(pg_temp.reached('acme'), '50 of 10, 80 of 10, 90 of 10, 100 of 10, 80 of 16, 90 of 16, 100 of 16', 'each');
select is(count_events('acme', 'quota_exhausted'), 2::bigint, 'its exhaustion too');
select is(pg_temp.take('acme', 4), 16::bigint, 'further denials');
select is(count_events('acme', 'quota_exhausted'), 2::bigint, 'are not recorded');

-- Lowered: reached at once, by nobody's unit.
select give_limit('low', 1000), pg_temp.take('low', 10);
select give_limit('low', 12);
select is(pg_temp.reached('low'), '50 of 12, 80 of 12', 'a lowered limit is reached at once');
select give_limit('low', 11);
select is(pg_temp.reached('low'), '50 of 12, 80 of 12, 90 of 11', 'lower still, only what was not said');
select give_limit('low', null);
select is(pg_temp.due('low'), null, 'without a limit nothing is due');
select give_limit('low', 20);
select is(pg_temp.reached('low'), '50 of 12, 80 of 12, 90 of 11, 50 of 20', 'a new limit after none begins anew');

-- The unique key is what makes it once, whatever happens to the marks.
select is((select count(distinct once_key) from stepquota.quota_events where tenant = 'acme' and event_type = 'quota_threshold_reached'), 7::bigint, 'a key each');
select give_limit('once', 10), pg_temp.take('once', 11);
update stepquota.workflow_step_usage_periods set alerted_percent = 0 where tenant = 'once';
update stepquota.workflow_step_quotas set reported = '{}', exhausted_at_count = null where tenant = 'once';
select (stepquota.refresh_workflow_step_quota('once')).allowed, pg_temp.take('once', 1);
select is(array[count_events('once', 'quota_threshold_reached'), count_events('once', 'quota_exhausted')], array[4, 1]::bigint[], 'marks that are lost repeat nothing');

-- A period that is left for another and come back to.
select subscribe('back', '"10"', '"bad"');
select pg_temp.take('back', 6);
select subscribe('back', '"worse"', '"bad"', p_start => '2026-04-10Z', p_end => '2026-05-10Z', p_name => 'other', p_status => 'trialing');
select is(quota_of('back'), '2026-04-10T00:00:00..2026-05-10T00:00:00 stripe_subscription, 150 tier_default', 'another subscription');
select is(count_events('back', 'limit_metadata_invalid'), 2::bigint, 'reports what is invalid');
select is(pg_temp.reached('back'), '50 of 10', 'half of the first');
select subscribe('back', '"worse"', '"bad"', p_start => '2026-04-10Z', p_end => '2026-05-10Z', p_name => 'other', p_status => 'canceled');
select is(quota_of('back'), '2026-04-01T00:00:00..2026-05-01T00:00:00 stripe_subscription, 10 stripe_price_metadata', 'back to the first');
select is(pg_temp.due('back'), 8::bigint, 'which knows where it was');
select is(pg_temp.reached('back'), '50 of 10', 'nothing is said twice');
select subscribe('back', '"worse"', '"bad"', p_start => '2026-04-10Z', p_end => '2026-05-10Z', p_name => 'other', p_status => 'trialing');
select is(count_events('back', 'limit_metadata_invalid'), 2::bigint, 'nor of the other');
select is(count_events('back', 'fallback_period'), 0::bigint, 'and it was never the calendar');
select * from finish();
rollback;
