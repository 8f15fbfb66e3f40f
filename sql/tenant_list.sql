-- The list of all tenants, in several orders, at any number of them.
--
-- Usage moves with every step, so nothing that steps write is indexed by it. Instead a round over all
-- tenants, at most one in a minute, stores what lists are sorted by. A list is in the order of the last
-- round, and says so; the figures that it shows are of now. It reads host tables, as views.sql does.

-- What tenants are sorted by, computed now.
create or replace function stepquota._summarize_tenants(p_tenants text[], p_now timestamptz)
returns setof stepquota.tenant_summaries
language plpgsql
stable
as $_summarize_tenants$
declare
  v_epoch constant bigint := stepquota.current_epoch();
begin
  return query
    select s.tenant,
           case when (q.quota).effective_limit is null then -1
                when (q.quota).effective_limit = 0 then 100
                else 100.0 * u.used_count / (q.quota).effective_limit end::double precision,
           u.used_count,
           case when d.tenant is null then 0 else (
             select count(*) from stepquota.workflow_run_waits w
              where w.tenant = s.tenant and w.wait_type = 'quota' and w.status = 'WAITING') end,
           (q.quota).period_end
      from stepquota.workflow_step_quotas s
      left join stepquota.paused_tenants d on d.tenant = s.tenant
     cross join lateral (
       select case when s.epoch = v_epoch and s.valid_until > p_now then s
                   else stepquota._peek_quota(s.tenant, p_now) end as quota
       offset 0) q
     cross join lateral (
       select coalesce(sum(l.used_count), 0)::bigint + (q.quota).carried_count as used_count
         from stepquota.workflow_step_usage_lanes l
        where l.tenant = s.tenant and l.period_start = (q.quota).period_start) u
     where s.tenant = any (p_tenants);
end;
$_summarize_tenants$;

-- Looks at some tenants of the round, in the order of their names, and stores of them what has changed.
-- Answers how many it looked at; fewer than p_max_tenants means that the round is through, that a minute
-- has not passed since it began, or that somebody else is at it.
-- Locks: the one row of tenant_summary_state, without waiting. SQLSTATEs: WQ001, WQ050.
create or replace function stepquota.summarize_tenants(p_max_tenants integer default 10000)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $summarize_tenants$
declare
  v_now timestamptz := stepquota._now();
  v_round stepquota.tenant_summary_state;
  v_after text;
  v_tenants text[];
begin
  perform stepquota._check_unbound();
  if p_max_tenants is null or p_max_tenants < 1 then
    perform stepquota._refuse_argument('p_max_tenants', p_max_tenants::text, 'a number from 1', 'It bounds one transaction; 10000 is usual.');
  end if;
  select s.* into v_round from stepquota.tenant_summary_state s for no key update skip locked;
  if not found then
    return 0;
  end if;
  if v_round.summarized_tenant is null then
    -- Not a whole minute, or a scheduler that calls every minute would come too early every other time.
    if v_now >= v_round.began_at and v_now < v_round.began_at + interval '50 seconds' then
      return 0;
    end if;
    v_round.began_at := v_now;
    v_round.summarized_tenant := '';
  end if;

  v_after := v_round.summarized_tenant;
  v_tenants := array(
    select q.tenant from stepquota.workflow_step_quotas q
     where q.tenant > v_after
     order by q.tenant
     limit p_max_tenants);
  v_round.summarized_tenant := case when cardinality(v_tenants) = p_max_tenants then v_tenants[p_max_tenants] end;
  insert into stepquota.tenant_summaries as s (tenant, fill, used_count, paused_runs, resets_at)
  select n.tenant, n.fill, n.used_count, n.paused_runs, n.resets_at
    from stepquota._summarize_tenants(v_tenants, v_now) n
    left join stepquota.tenant_summaries o on o.tenant = n.tenant
   where (n.fill, n.used_count, n.paused_runs, n.resets_at)
           is distinct from (o.fill, o.used_count, o.paused_runs, o.resets_at)
  on conflict (tenant) do update
    set fill = excluded.fill, used_count = excluded.used_count, paused_runs = excluded.paused_runs,
        resets_at = excluded.resets_at;
  -- A round that was under way when a tenant was forgotten may have made its row again.
  delete from stepquota.tenant_summaries s
   where s.tenant > v_after and (v_round.summarized_tenant is null or s.tenant <= v_round.summarized_tenant)
     and not exists (select 1 from stepquota.workflow_step_quotas q where q.tenant = s.tenant);
  if v_round.summarized_tenant is null then
    v_round.as_of := v_round.began_at;
    select count(*), count(*) filter (where s.fill = -1), count(*) filter (where s.fill >= 80 and s.fill < 100),
           count(*) filter (where s.fill >= 100), count(*) filter (where s.paused_runs > 0), coalesce(sum(s.paused_runs), 0)
      into v_round.tenants, v_round.unlimited_tenants, v_round.nearly_exhausted_tenants,
           v_round.exhausted_tenants, v_round.paused_tenants, v_round.paused_runs
      from stepquota.tenant_summaries s;
  end if;
  update stepquota.tenant_summary_state s
     set began_at = v_round.began_at, summarized_tenant = v_round.summarized_tenant, as_of = v_round.as_of,
         tenants = v_round.tenants, unlimited_tenants = v_round.unlimited_tenants,
         nearly_exhausted_tenants = v_round.nearly_exhausted_tenants, exhausted_tenants = v_round.exhausted_tenants,
         paused_tenants = v_round.paused_tenants, paused_runs = v_round.paused_runs;
  return cardinality(v_tenants);
end;
$summarize_tenants$;

-- A page of the list. By name it is of now; else in the order of the last round, and where there was
-- none yet, of all tenants computed now.
-- Takes no locks. SQLSTATEs: WQ001, WQ050.
create or replace function stepquota.list_tenants(
  p_search text default null, p_only text default null, p_sort text default 'tenant',
  p_descending boolean default false, p_after_value text default null, p_after_tenant text default null,
  p_backwards boolean default false, p_max_tenants integer default 50)
returns table (
  tenant text, used_count bigint, effective_limit bigint, remaining bigint, percent double precision, resets_at timestamptz,
  paused_runs bigint, plan text, tier text, enforcement text, suspended_at timestamptz, held_at timestamptz,
  sort_value text, sorted_as_of timestamptz)
language plpgsql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_tenants$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_as_of timestamptz;
  v_source text;
  v_column text;
  v_type text;
  v_where text;
  v_tenants text[];
  v_values text[];
begin
  perform stepquota._check_unbound();
  perform stepquota._check_one_of('p_sort', p_sort, array['tenant', 'percent', 'used', 'paused', 'resets']);
  if p_only is not null then
    perform stepquota._check_one_of('p_only', p_only, array['paused', 'exhausted', 'nearly', 'unlimited']);
  end if;
  if p_max_tenants is null or p_max_tenants not between 1 and 1000 then
    perform stepquota._refuse_argument('p_max_tenants', p_max_tenants::text, 'a number from 1 to 1000', 'Ask for the next page with p_after_value and p_after_tenant.');
  end if;

  if p_after_tenant is not null and p_after_value is null then
    perform stepquota._refuse_argument('p_after_value', p_after_value, 'the sort_value of a row of the list in the same order', 'Pass sort_value and tenant of the row after which to go on.');
  end if;

  v_column := case p_sort when 'tenant' then 'tenant' when 'percent' then 'fill' when 'used' then 'used_count'
                          when 'paused' then 'paused_runs' else 'resets_at' end;
  v_type := case p_sort when 'tenant' then 'text' when 'percent' then 'double precision' when 'resets' then 'timestamptz'
                        else 'bigint' end;
  select s.as_of into v_as_of from stepquota.tenant_summary_state s;
  if p_sort = 'tenant' and p_only is null then
    v_source := 'stepquota.workflow_step_quotas';
    v_as_of := v_now;
  elsif v_as_of is not null then
    v_source := 'stepquota.tenant_summaries';
  else
    v_source := 'stepquota._summarize_tenants(array(select q.tenant from stepquota.workflow_step_quotas q), $4)';
    v_as_of := v_now;
  end if;
  v_where := concat_ws(' and ', 'true',
    case when p_search <> '' then 'position(lower($1) in lower(t.tenant)) > 0' end,
    case p_only when 'paused' then 't.paused_runs > 0' when 'exhausted' then 't.fill >= 100'
                when 'nearly' then 't.fill >= 80 and t.fill < 100' when 'unlimited' then 't.fill = -1' end,
    case when p_after_tenant is not null then format('(t.%I, t.tenant) %s ($2::%s, $3)', v_column,
      case when coalesce(p_descending, false) <> coalesce(p_backwards, false) then '<' else '>' end, v_type) end);
  begin
    execute format(
      'select array_agg(p.tenant order by p.place), array_agg(p.sort_value order by p.place)
         from (select t.tenant, t.%1$I::text as sort_value, row_number() over (order by t.%1$I %2$s, t.tenant %2$s) as place
                 from %3$s t where %4$s order by t.%1$I %2$s, t.tenant %2$s limit $5) p',
      v_column, case when coalesce(p_descending, false) <> coalesce(p_backwards, false) then 'desc' else 'asc' end, v_source, v_where)
      into v_tenants, v_values
      using p_search, p_after_value, p_after_tenant, v_now, p_max_tenants;
  exception when data_exception then
    perform stepquota._refuse_argument('p_after_value', p_after_value, 'the sort_value of a row of the list in the same order', 'Pass sort_value and tenant of the row after which to go on.');
  end;

  return query
    select p.tenant, u.used_count, (q.quota).effective_limit,
           case when (q.quota).effective_limit is not null then greatest((q.quota).effective_limit - u.used_count, 0) end,
           case when (q.quota).effective_limit = 0 then 100.0
                else round(100.0 * u.used_count / (q.quota).effective_limit, 1) end::double precision,
           (q.quota).period_end, w.paused_count, t.plan, (q.quota).tier, (q.quota).enforcement, t.suspended_at, t.held_at,
           p.sort_value, v_as_of
      from unnest(v_tenants, v_values) with ordinality as p (tenant, sort_value, place)
     cross join lateral (select stepquota._peek_quota(p.tenant, v_now) as quota offset 0) q
     cross join lateral (
       select coalesce(sum(l.used_count), 0)::bigint + (q.quota).carried_count as used_count
         from stepquota.workflow_step_usage_lanes l
        where l.tenant = p.tenant and l.period_start = (q.quota).period_start) u
     cross join lateral stepquota._host_count_quota_waits(p.tenant) w
      left join lateral stepquota._host_find_tenant(p.tenant) t on true
     order by case when p_backwards then - p.place else p.place end;
end;
$list_tenants$;

create or replace view stepquota.tenant_totals with (security_invoker = true) as
select s.as_of,
       s.tenants,
       s.unlimited_tenants,
       s.nearly_exhausted_tenants,
       s.exhausted_tenants,
       s.paused_tenants,
       s.paused_runs
  from stepquota.tenant_summary_state s;

comment on function stepquota._summarize_tenants(text[], timestamptz) is 'What tenants are sorted by, computed now.';
comment on function stepquota.summarize_tenants(integer) is
  'For tick: at most once a minute, stores what list_tenants sorts by. Answers how many tenants it looked at, at most p_max_tenants; fewer when the round is through. WQ001 for a number below 1, WQ050 for a caller who is bound.';
comment on function stepquota.list_tenants(text, text, text, boolean, text, text, boolean, integer) is
  'A page of the tenants that ever asked for a step. p_search: a part of the name, upper and lower case alike; p_only: paused, exhausted, nearly (80 percent or more, but not all) or unlimited; p_sort: tenant, percent (unlimited counts as less than nothing), used, paused or resets; p_after_value and p_after_tenant: sort_value and tenant of the row after which to go on, p_backwards: before which; p_max_tenants: 1 to 1000. Figures are of now; order and choice are those of sorted_as_of. WQ001 bad arguments, WQ050 for a caller who is bound.';
comment on view stepquota.tenant_totals is 'How many tenants there are, in one row, when list_tenants was last put in order.';
comment on column stepquota.tenant_totals.as_of is 'Of when the figures are; NULL: of never, since tick() has not run.';
comment on column stepquota.tenant_totals.tenants is 'Tenants that ever asked for a step.';
comment on column stepquota.tenant_totals.unlimited_tenants is 'Those without a limit.';
comment on column stepquota.tenant_totals.nearly_exhausted_tenants is 'Those that have used 80 percent or more of it, but not all.';
comment on column stepquota.tenant_totals.exhausted_tenants is 'Those that have used it up.';
comment on column stepquota.tenant_totals.paused_tenants is 'Those with paused runs.';
comment on column stepquota.tenant_totals.paused_runs is 'Paused runs of all of them.';
