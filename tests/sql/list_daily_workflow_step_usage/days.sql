-- Units by day in UTC: from hourly rounds, and what was used since the last of them.
begin;
select plan(11);
create function pg_temp.days(p_tenant text, p_days integer default 31) returns text language sql as $$
  select coalesce(string_agg(to_char(d.day, 'DD') || ' ' || d.units, ', '), '') from stepquota.list_daily_workflow_step_usage(p_tenant, p_days) d;
$$;
create function pg_temp.use(p_now text, p_tenant text, p_steps integer) returns void language sql as $$
  select tap.set_clock(p_now);
  select (stepquota.reserve_workflow_steps(p_tenant, p_steps)).granted;
$$;
select give_limit('a', null), give_limit('b', null);
select pg_temp.use('2026-04-10T12:00:00Z', 'a', 5);
select is(pg_temp.days('a'), '', 'before the first round nothing is known');
select stepquota.sample_workflow_step_usage();
select is(pg_temp.days('a'), '10 0', 'it is not known when the first units were used');
select pg_temp.use('2026-04-10T12:30:00Z', 'a', 3);
select is(pg_temp.days('a'), '10 3', 'what was used since the last round');
select set_clock('2026-04-10T13:00:00Z'), stepquota.sample_workflow_step_usage();
select is(pg_temp.days('a'), '10 3', 'is the same after the next');
select is(pg_temp.days('b'), '10 0', 'a tenant that used nothing');
-- Across midnight: divided by time.
select set_clock('2026-04-10T23:30:00Z'), stepquota.sample_workflow_step_usage();
select pg_temp.use('2026-04-11T00:10:00Z', 'a', 4);
select set_clock('2026-04-11T00:30:00Z');
select is(pg_temp.days('a'), '10 5, 11 2', 'half of it before midnight, half of it after');
select stepquota.sample_workflow_step_usage();
select is(pg_temp.days('a'), '10 5, 11 2', 'also when it is stored');
-- Days without rounds, and another period.
select pg_temp.use('2026-05-01T12:30:00Z', 'a', 7);
select stepquota.sample_workflow_step_usage();
select is(pg_temp.days('a', 1), '01 0', 'so many days as are asked for; seven units in twenty days are none a day');
select is((select count(*) from stepquota.list_daily_workflow_step_usage('a', 100)), 22::bigint, 'none before the first round');
select is((select round(sum(d.units)) from stepquota.workflow_step_usage_days d where d.tenant = 'a'), 14::double precision, 'nothing is lost by dividing, whatever the period');
-- After a hundred days.
select pg_temp.use('2026-08-15T12:30:00Z', 'a', 1);
select stepquota.sample_workflow_step_usage();
select is((select min(d.day) from stepquota.workflow_step_usage_days d), '2026-05-07'::date, 'days of over a hundred days are deleted');
select * from finish();
rollback;
