-- Forecasts of histories that are lived through with the test clock: units are taken in each hour, and
-- the hourly samples are made as tick() does.
begin;
select plan(33);
update stepquota.policy set alert_percents = '{}', staleness = '1 year';
-- Hours from the first of April on; p_units says how many units an hour takes.
create function pg_temp.live(p_tenant text, p_units integer[]) returns void language plpgsql as $$
declare v_now timestamptz := stepquota._now();
begin
  perform stepquota.sample_workflow_step_usage();
  for v_hour in 1 .. cardinality(p_units) loop
    perform tap.set_clock((v_now + (v_hour - 1) * interval '1 hour' + interval '30 minutes')::text);
    if p_units[v_hour] > 0 then
      perform stepquota.reserve_workflow_steps(p_tenant, p_units[v_hour], true);
    end if;
    perform tap.set_clock((v_now + v_hour * interval '1 hour')::text);
    perform stepquota.sample_workflow_step_usage();
  end loop;
end;
$$;
create function pg_temp.between(p_moment timestamptz, p_low timestamptz, p_high timestamptz, p_what text) returns text language sql as $$
  select tap.ok(coalesce(p_moment between p_low and p_high, false), format('%s: %s is from %s to %s', p_what, stepquota._format_moment(p_moment), stepquota._format_moment(p_low), stepquota._format_moment(p_high)));
$$;
create temp table f as select * from stepquota.forecast_workflow_step_usage('nobody');

-- Nothing is known yet.
select set_clock('2026-04-01Z');
select give_limit('steady', 2000), give_limit('new', 100), give_limit('free', null), give_limit('idle', 10);
select is((select array[exhausts_at, exhausts_at_low, exhausts_at_high] from stepquota.forecast_workflow_step_usage('new')), array[null, null, null]::timestamptz[], 'without history nothing is said');
select is((select array[lasts::text, units_per_hour::text, history_hours::text] from stepquota.forecast_workflow_step_usage('new')), array[null, null, '0'], 'not even whether it lasts');

-- Constant: 10 an hour, of 2000, used up 200 hours after the first.
select pg_temp.live('steady', array_fill(10, array[3]));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('steady');
select is((select array[history_hours, units_per_hour, used_count] from f), array[3, 10, 30]::double precision[], 'three hours of a constant pace');
select pg_temp.between(exhausts_at, '2026-04-09 07:00Z', '2026-04-09 09:00Z', 'expected') from f;
select pg_temp.between(exhausts_at_low, '2026-04-06Z', '2026-04-07Z', 'the range is wide with so little') from f;
select pg_temp.between(exhausts_at_high, '2026-04-16Z', '2026-04-18Z', 'both ways') from f;
select pg_temp.live('steady', array_fill(10, array[96]));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('steady');
select is((select array[history_hours, units_per_hour, used_count] from f), array[99, 10, 990]::double precision[], 'four days of it');
select pg_temp.between(exhausts_at, '2026-04-09 07:00Z', '2026-04-09 09:00Z', 'expected') from f;
select pg_temp.between(exhausts_at_low, '2026-04-09 03:00Z', '2026-04-09 08:00Z', 'and the range is') from f;
select pg_temp.between(exhausts_at_high, '2026-04-09 08:00Z', '2026-04-09 13:00Z', 'narrow') from f;
select is((select lasts from f), false, 'it does not last');
select is((select tenant || ' ' || effective_limit || ' ' || (as_of = stepquota._now()) || ' ' || (period_start = '2026-04-01Z') || ' ' || (period_end = '2026-05-01Z') from f), 'steady 2000 true true true', 'it says what it is about');
-- A unit taken a moment ago counts at once.
select set_clock((stepquota._now() + interval '30 minutes')::text);
select granted from stepquota.reserve_workflow_steps('steady', 1000);
select pg_temp.between((stepquota.forecast_workflow_step_usage('steady')).exhausts_at, stepquota._now(), stepquota._now() + interval '2 hours', 'a burst of this hour is in it');
select granted from stepquota.reserve_workflow_steps('steady', 1000, true);
select is((select array[exhausts_at, exhausts_at_low, exhausts_at_high] from stepquota.forecast_workflow_step_usage('steady')), array_fill(stepquota._now(), array[3]), 'used up is now');
select is((stepquota.forecast_workflow_step_usage('steady')).lasts, false, 'and does not last');

-- Unlimited, and one that uses nothing.
select set_clock('2026-04-06Z');
select pg_temp.live('free', array_fill(5, array[30]));
select is((select array[exhausts_at::text, lasts::text, units_per_hour::text, effective_limit::text] from stepquota.forecast_workflow_step_usage('free')), array[null, 'true', '5', null], 'unlimited lasts, and has a pace');
select set_clock('2026-04-08Z');
select pg_temp.live('idle', '{1,0,0,0,0,0,0,0}');
select is((select array[exhausts_at::text, lasts::text, units_per_hour::text, history_hours::text] from stepquota.forecast_workflow_step_usage('idle')), array[null, 'true', '0', '8'], 'who has stopped will not get there');

-- Day and night: 20 an hour from 8 to 20, 240 a day. Asked at 20:00 with 100 left: it is night.
select set_clock('2026-04-10Z');
select give_limit('office', 1300);
select pg_temp.live('office', (select array_agg(case when h % 24 between 8 and 19 then 20 else 0 end order by h) from generate_series(0, 5 * 24 - 5) h));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('office');
select is((select array[used_count, history_hours] from f), array[1200, 108]::bigint[], 'five working days: a history begins with the first use');
select pg_temp.between(exhausts_at, '2026-04-15 12:59Z', '2026-04-15 13:01Z', 'nothing happens at night: the next day at one') from f;
select pg_temp.between(exhausts_at_low, '2026-04-15 08:00Z', '2026-04-15 13:01Z', 'at the earliest in the morning') from f;
-- At 13:00 of a day that goes as always, and of one that goes at double pace.
select give_limit('office', 3000);
select set_clock('2026-04-14 20:00Z');
select pg_temp.live('office', (select array_agg(case when h % 24 between 8 and 19 then 40 else 0 end order by h) from generate_series(20, 36) h));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('office');
select is((select array[used_count, units_per_hour] from f), array[1400, 200.0 / 6]::double precision[], 'a day at double pace');
select ok((select exhausts_at_low < exhausts_at and exhausts_at < exhausts_at_high from f), 'the usual pace is the latest, the present one the earliest');
select pg_temp.between(exhausts_at_high, '2026-04-21Z', '2026-04-24Z', 'at the usual pace six to eight days') from f;
select pg_temp.between(exhausts_at_low, '2026-04-16Z', '2026-04-19Z', 'as fast as now about half of that, also at night') from f;

-- A burst: 2 an hour for three days, then 100 an hour for three hours.
select set_clock('2026-04-18Z');
select give_limit('burst', 2000);
select pg_temp.live('burst', array_fill(2, array[72]) || array_fill(100, array[3]));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('burst');
select is((select used_count from f), 444::bigint, 'a burst');
select pg_temp.between(exhausts_at_low, as_of + interval '10 hours', as_of + interval '31 hours', 'if it goes on, tomorrow') from f;
select is((select exhausts_at_high from f), null, 'if it is over, the quota lasts');
select ok((select exhausts_at > exhausts_at_low from f), 'what is expected is between');

-- The range may reach beyond the period's end.
select set_clock('2026-04-24Z');
select give_limit('edge', 1000);
select pg_temp.live('edge', array_fill(5, array[30]));
truncate f; insert into f select * from stepquota.forecast_workflow_step_usage('edge');
select is((select array[exhausts_at, exhausts_at_low, exhausts_at_high] from f), array[null, null, null]::timestamptz[], 'it lasts at 5 an hour');
select is((select lasts from f), true, 'which is said');
-- The next period begins with nothing used, and the pace is known.
select set_clock('2026-05-01 00:30Z');
select is((select array[used_count, history_hours] from stepquota.forecast_workflow_step_usage('edge')), array[0, 168]::bigint[], 'a new period');
select give_limit('edge', 10), stepquota.sample_workflow_step_usage();
select pg_temp.live('edge', array_fill(1, array[4]));
select pg_temp.between((stepquota.forecast_workflow_step_usage('edge')).exhausts_at, stepquota._now() + interval '3 hours', '2026-05-02Z', 'and its forecast');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
