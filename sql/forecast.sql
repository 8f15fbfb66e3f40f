-- When a quota will be used up, at the present pace. It rests on samples of the counters, so it is the
-- same for all who take units, and costs them nothing.

-- Looks at some tenants of the hourly round over all of them, in the order of their names, and stores a
-- sample for each that has used anything since the last one. Answers how many tenants it looked at;
-- fewer than p_max_tenants means that the round is through, that its hour has not come, or that
-- somebody else is at it. A round that is late belongs to the hour that it began in.
-- Locks: the one row of workflow_step_usage_sampling, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.sample_workflow_step_usage(p_max_tenants integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $sample_workflow_step_usage$
declare
  v_now timestamptz := stepquota._now();
  v_round stepquota.workflow_step_usage_sampling;
  v_tenants text[];
  v_tenant text;
begin
  perform stepquota._check_unbound();
  if p_max_tenants is null or p_max_tenants < 1 then
    perform stepquota._refuse_argument('p_max_tenants', p_max_tenants::text, 'a number from 1', 'It bounds one transaction; 10000 is usual.');
  end if;
  select s.* into v_round from stepquota.workflow_step_usage_sampling s for no key update skip locked;
  if not found then
    return 0;
  end if;
  if v_round.sampled_tenant is null then
    if date_trunc('hour', v_now, 'UTC') = date_trunc('hour', v_round.round_at, 'UTC') then
      return 0;
    end if;
    -- A clock that was set back: what was before is not before any more.
    v_round.previous_round_at := case when v_round.round_at < v_now then v_round.round_at end;
    v_round.round_at := v_now;
    v_round.sampled_tenant := '';
    v_round.days_since := coalesce(v_round.days_since, v_now);
  end if;

  v_tenants := array(
    select q.tenant from stepquota.workflow_step_quotas q
     where q.tenant > v_round.sampled_tenant
     order by q.tenant
     limit p_max_tenants);
  v_round.sampled_tenant := case when cardinality(v_tenants) = p_max_tenants then v_tenants[p_max_tenants] end;
  with stored as (
  insert into stepquota.workflow_step_usage_samples (tenant, sampled_at, since, period_start, used_count, units)
  select u.tenant, v_round.round_at, coalesce(v_round.previous_round_at, v_round.round_at), u.period_start, u.used_count,
         case when v_round.previous_round_at is null then 0
              else greatest(u.used_count - u.used_before, 0) + u.units_of_old_period end
    from (select q.tenant, q.period_start, q.carried_count + l.used_count as used_count,
                 coalesce(i.used_count, q.carried_count) as used_before,
                 case when s.period_start <> q.period_start
                      then greatest(stepquota._sum_usage(q.tenant, s.period_start) - s.used_count, 0)
                      else 0 end as units_of_old_period
            from unnest(v_tenants) as t (tenant)
            join stepquota.workflow_step_quotas q on q.tenant = t.tenant
           cross join lateral (
             select coalesce(sum(c.used_count), 0)::bigint as used_count
               from stepquota.workflow_step_usage_lanes c
              where c.tenant = q.tenant and c.period_start = q.period_start) l
            left join lateral (
              select p.period_start, p.used_count
                from stepquota.workflow_step_usage_samples p
               where p.tenant = q.tenant
               order by p.tenant, p.sampled_at desc
               limit 1) s on true
            left join lateral (
              select p.used_count
                from stepquota.workflow_step_usage_samples p
               where p.tenant = q.tenant and p.period_start = q.period_start
               order by p.tenant, p.sampled_at desc
               limit 1) i on true) u
   where u.used_count <> u.used_before or u.units_of_old_period > 0
  on conflict (tenant, sampled_at) do nothing
  returning tenant, since, sampled_at, units)
  insert into stepquota.workflow_step_usage_days as d (tenant, day, units)
  select s.tenant, n.day, n.units
    from stored s
   cross join lateral stepquota._divide_by_day(s.since, s.sampled_at, s.units) n
  on conflict (tenant, day) do update set units = d.units + excluded.units;
  for v_tenant in
    select distinct p.tenant
      from stepquota.workflow_step_usage_samples p
     where p.tenant = any (v_tenants) and p.sampled_at < v_round.round_at - interval '9 days'
     order by p.tenant
  loop
    perform stepquota._delete_old_samples(v_tenant, v_round.round_at - interval '8 days');
  end loop;
  delete from stepquota.workflow_step_usage_days d
   where d.tenant = any (v_tenants) and d.day < (v_round.round_at at time zone 'UTC')::date - 100;
  update stepquota.workflow_step_usage_sampling s
     set round_at = v_round.round_at, previous_round_at = v_round.previous_round_at,
         sampled_tenant = v_round.sampled_tenant, days_since = v_round.days_since;
  return cardinality(v_tenants);
end;
$sample_workflow_step_usage$;

-- Deletes a tenant's samples of before a moment but the last one: it says that there was no use since.
create or replace function stepquota._delete_old_samples(p_tenant text, p_before timestamptz)
returns void
language sql
volatile
as $_delete_old_samples$
  delete from stepquota.workflow_step_usage_samples s
   where s.tenant = p_tenant and s.sampled_at < (
     select max(n.sampled_at)
       from stepquota.workflow_step_usage_samples n
      where n.tenant = p_tenant and n.sampled_at < p_before);
$_delete_old_samples$;

-- Units by day in UTC, divided by time. Nothing where there is no time or there are no units.
create or replace function stepquota._divide_by_day(p_since timestamptz, p_until timestamptz, p_units bigint)
returns table (day date, units double precision)
language sql
immutable
as $_divide_by_day$
  select n.day,
         p_units * extract(epoch from
           least(p_until, (n.day + 1)::timestamp at time zone 'UTC') - greatest(p_since, n.day::timestamp at time zone 'UTC'))::double precision
         / extract(epoch from p_until - p_since)::double precision
    from (select (p_since at time zone 'UTC')::date + g.number as day
            from generate_series(0, (p_until at time zone 'UTC')::date - (p_since at time zone 'UTC')::date) as g (number)) n
   where p_units > 0 and p_since < p_until and n.day::timestamp at time zone 'UTC' < p_until;
$_divide_by_day$;

-- What was used since the last round passed this tenant, which no sample has yet; no row if none did.
create or replace function stepquota._find_unsampled_usage(
  p_quota stepquota.workflow_step_quotas, p_used_count bigint, p_now timestamptz)
returns table (since timestamptz, units bigint)
language plpgsql
stable
as $_find_unsampled_usage$
declare
  v_used_before bigint;
begin
  -- Whether or not the round left a sample.
  select greatest(
           case when s.sampled_tenant is null or s.sampled_tenant >= p_quota.tenant then s.round_at else s.previous_round_at end,
           (select max(n.sampled_at) from stepquota.workflow_step_usage_samples n
             where n.tenant = p_quota.tenant and n.sampled_at <= p_now))
    into since
    from stepquota.workflow_step_usage_sampling s;
  if since is null or since > p_now then
    return;
  end if;
  select coalesce((
    select s.used_count
      from stepquota.workflow_step_usage_samples s
     where s.tenant = p_quota.tenant and s.period_start = p_quota.period_start and s.sampled_at <= p_now
     order by s.tenant, s.sampled_at desc
     limit 1), p_quota.carried_count) into v_used_before;
  units := greatest(p_used_count - v_used_before, 0);
  return next;
end;
$_find_unsampled_usage$;

-- The units used in each of the last 168 hours, counted back from a moment: number 1 ends there. Hours
-- that the samples do not cover in full are left out.
create or replace function stepquota._list_hourly_usage(
  p_quota stepquota.workflow_step_quotas, p_used_count bigint, p_now timestamptz)
returns table (hours_ago integer, units double precision)
language plpgsql
stable
as $_list_hourly_usage$
declare
  v_looked_at timestamptz;
  v_unsampled bigint;
  v_covered_since timestamptz;
begin
  select u.since, u.units into v_looked_at, v_unsampled
    from stepquota._find_unsampled_usage(p_quota, p_used_count, p_now) u;
  if v_looked_at is null then
    return;
  end if;
  select least(min(s.since), v_looked_at) into v_covered_since
    from stepquota.workflow_step_usage_samples s
   where s.tenant = p_quota.tenant;

  return query
    select h.hours_ago,
           coalesce(sum(w.units * extract(epoch from
             least(w.until, p_now - (h.hours_ago - 1) * interval '1 hour') - greatest(w.since, p_now - h.hours_ago * interval '1 hour'))
             / extract(epoch from w.until - w.since)), 0)::double precision
      from generate_series(1, 168) as h (hours_ago)
      left join (
        select s.since, s.sampled_at as until, s.units
          from stepquota.workflow_step_usage_samples s
         where s.tenant = p_quota.tenant and s.units > 0 and s.since < s.sampled_at
        union all
        -- What was used since nobody has stored yet.
        select v_looked_at, p_now, v_unsampled
         where v_looked_at < p_now) w
        on w.since < p_now - (h.hours_ago - 1) * interval '1 hour' and w.until > p_now - h.hours_ago * interval '1 hour'
     where p_now - h.hours_ago * interval '1 hour' >= v_covered_since
     group by h.hours_ago
     order by h.hours_ago;
end;
$_list_hourly_usage$;

-- When the tenant's quota is used up if it goes on as it does.
--
-- The usual pace of an hour of the day is the mean of that hour over the days there are, of the last
-- seven. The recent pace is the same, shifted by how much the last six hours differ from the same hours
-- of the days before. What is expected is between the two; the range goes from the slower to the faster
-- of them, widened by how much whole days differ, or by what chance makes of so few units. With less than
-- a day there is no usual pace: the recent hours are taken, and half of it either way. With less than
-- an hour nothing is said.
create or replace function stepquota._forecast_usage(p_quota stepquota.workflow_step_quotas, p_now timestamptz)
returns table (
  tenant text, as_of timestamptz, period_start timestamptz, period_end timestamptz, used_count bigint,
  effective_limit bigint, units_per_hour double precision, exhausts_at timestamptz, exhausts_at_low timestamptz,
  exhausts_at_high timestamptz, lasts boolean, history_hours integer)
language plpgsql
stable
as $_forecast_usage$
#variable_conflict use_column
declare
  v_usage double precision[];
  v_history double precision;
  v_shift double precision;
  v_spread double precision;
  v_paces record;
begin
  as_of := p_now;
  tenant := p_quota.tenant;
  period_start := p_quota.period_start;
  period_end := p_quota.period_end;
  effective_limit := p_quota.effective_limit;
  used_count := stepquota._sum_usage(p_quota.tenant, p_quota.period_start);
  -- Without gaps: an hour is covered if the ones after it are.
  v_usage := array(select u.units from stepquota._list_hourly_usage(p_quota, used_count, as_of) u order by u.hours_ago);
  history_hours := cardinality(v_usage);
  if history_hours > 0 then
    units_per_hour := (select avg(u) from unnest(v_usage[:6]) u);
  end if;

  if used_count >= effective_limit then
    exhausts_at := as_of;
    exhausts_at_low := as_of;
    exhausts_at_high := as_of;
    lasts := false;
  elsif effective_limit is null then
    lasts := true;
  elsif history_hours > 0 then
    v_history := (select sum(u) from unnest(v_usage) u);
    select coalesce(avg(v_usage[r.hour] - o.usual), 0) into v_shift
      from generate_series(1, 6) as r (hour)
     cross join lateral (
       select avg(v_usage[r.hour + d.day * 24]) as usual
         from generate_series(1, 6) as d (day)) o
     where o.usual is not null;
    v_spread := greatest(1 / sqrt(greatest(v_history, 1)), case when history_hours < 24 then 0.5 else coalesce((
      select stddev_samp(t.units) / nullif(avg(t.units), 0)
        from (select sum(v_usage[d.day * 24 + h.hour]) as units
                from generate_series(0, history_hours / 24 - 1) as d (day)
               cross join generate_series(1, 24) as h (hour)
               group by d.day) t), 0) end);
    select min(p.moment) filter (where p.pace = 'expected') as expected, min(p.moment) filter (where p.pace = 'fast') as fast,
           min(p.moment) filter (where p.pace = 'slow') as slow
      into v_paces
      from (
        select r.pace,
               as_of + (r.hour - 1 + (effective_limit - used_count - r.used_then + r.units) / r.units) * interval '1 hour' as moment
          from (
            select n.pace, h.hour, n.units, sum(n.units) over (partition by n.pace order by h.hour) as used_then
              from generate_series(1, least(ceil(extract(epoch from period_end - as_of) / 3600), 10000)::integer) as h (hour)
             cross join lateral (
               select case when history_hours < 24 then units_per_hour else (
                        select avg(v_usage[24 - (h.hour - 1) % 24 + d.day * 24]) from generate_series(0, 6) as d (day)) end as usual) u
             cross join lateral (
               select greatest(u.usual + v_shift, 0) as recent) s
             cross join lateral (
               values ('expected', (u.usual + s.recent) / 2),
                      ('fast', greatest(u.usual, s.recent) * (1 + v_spread)),
                      ('slow', least(u.usual, s.recent) * (1 - least(v_spread, 0.9)))) as n (pace, units)) r
         -- The hour in which it is reached.
         where r.used_then >= effective_limit - used_count and r.used_then - r.units < effective_limit - used_count) p
     where p.moment < period_end;
    exhausts_at := v_paces.expected;
    exhausts_at_low := v_paces.fast;
    exhausts_at_high := v_paces.slow;
    lasts := exhausts_at is null;
  end if;
  return next;
end;
$_forecast_usage$;

-- Locks: as resolve_workflow_step_quota. SQLSTATEs: WQ001.
create or replace function stepquota.forecast_workflow_step_usage(p_tenant text)
returns table (
  tenant text, as_of timestamptz, period_start timestamptz, period_end timestamptz, used_count bigint,
  effective_limit bigint, units_per_hour double precision, exhausts_at timestamptz, exhausts_at_low timestamptz,
  exhausts_at_high timestamptz, lasts boolean, history_hours integer)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $forecast_workflow_step_usage$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_tenant(p_tenant);
  return query select f.* from stepquota._forecast_usage((stepquota._find_quota(p_tenant, v_now)).quota, v_now) f;
end;
$forecast_workflow_step_usage$;

-- Takes no locks. SQLSTATEs: WQ001, WQ019, WQ050.
create or replace function stepquota.list_daily_workflow_step_usage(p_tenant text, p_days integer default 31)
returns table (day date, units bigint)
language plpgsql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_daily_workflow_step_usage$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_today constant date := (v_now at time zone 'UTC')::date;
  v_quota stepquota.workflow_step_quotas;
  v_first date;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_days is null or p_days not between 1 and 100 then
    perform stepquota._refuse_argument('p_days', p_days::text, 'a number from 1 to 100', 'Days are kept for 100 days.');
  end if;
  select greatest((s.days_since at time zone 'UTC')::date, v_today - p_days + 1) into v_first
    from stepquota.workflow_step_usage_sampling s
   where s.days_since is not null;
  v_quota := stepquota._peek_quota(p_tenant, v_now);
  return query
    select n.day, round(coalesce(sum(u.units), 0))::bigint
      from (select v_first + g.number as day from generate_series(0, v_today - v_first) as g (number)) n
      left join (
        select d.day, d.units from stepquota.workflow_step_usage_days d where d.tenant = p_tenant and d.day >= v_first
        union all
        select r.day, r.units
          from stepquota._find_unsampled_usage(v_quota, stepquota._sum_usage(p_tenant, v_quota.period_start), v_now) f
         cross join lateral stepquota._divide_by_day(f.since, v_now, f.units) r) u on u.day = n.day
     group by n.day
     order by n.day;
end;
$list_daily_workflow_step_usage$;

comment on function stepquota._divide_by_day(timestamptz, timestamptz, bigint) is 'Units by day in UTC, divided by time.';
comment on function stepquota._find_unsampled_usage(stepquota.workflow_step_quotas, bigint, timestamptz) is
  'Units used since the last hourly round, and since when.';
comment on function stepquota.list_daily_workflow_step_usage(text, integer) is
  'Units used on each of the last p_days days (1 to 100) in UTC, today the last, whatever the period: day, units. It rests on the hourly samples of tick, so days before the first of them are left out, and what was sampled across midnight is divided by time. WQ001 bad arguments, WQ050 for another tenant than a bound caller''s.';
comment on function stepquota.sample_workflow_step_usage(integer) is
  'For tick: once an hour, samples how much each tenant has used, for the forecast. Answers how many tenants it looked at, at most p_max_tenants; fewer when the hour''s round is through. WQ001 for a number below 1.';
comment on function stepquota._delete_old_samples(text, timestamptz) is 'Deletes a tenant''s old samples but the last one.';
comment on function stepquota._list_hourly_usage(stepquota.workflow_step_quotas, bigint, timestamptz) is
  'Units used in each of the last 168 hours that the samples cover.';
comment on function stepquota._forecast_usage(stepquota.workflow_step_quotas, timestamptz) is
  'When a quota is used up at the present pace.';
comment on function stepquota.forecast_workflow_step_usage(text) is
  'When the quota is used up at the present pace: tenant, as_of, period_start, period_end, used_count, effective_limit, units_per_hour (the mean of the last six hours), exhausts_at, exhausts_at_low (the earliest, if it goes fast), exhausts_at_high (the latest), each NULL if it lasts until the period''s end at that pace; lasts, NULL if too little is known to say; history_hours that it rests on, at most 168. A quota that is used up is answered with as_of. WQ001 for a tenant that cannot be one.';
