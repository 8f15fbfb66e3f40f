-- Lanes: a period's counter in several rows, each owning a part of the limit, so that callers of one
-- tenant need not wait for each other. A guarded UPDATE of any one lane is exact by itself.
--
-- What changes allowances or the number of lanes holds the tenant's quota row FOR NO KEY UPDATE: it is
-- the only gate to several lanes. Nobody waits for a lane while holding another without it.
--
-- Always: the allowances of a period add up to the greater of its limit and what is used; of a tenant in
-- shadow mode they are unlimited.

-- A lane worth having owns at least this many units; below, waiting is cheaper than looking around.
create or replace function stepquota._get_lane_minimum()
returns integer
language sql
immutable
as $_get_lane_minimum$
  select 64;
$_get_lane_minimum$;

-- No period is split into more than this: more than there are clients at once is of no use.
create or replace function stepquota._get_lane_maximum()
returns integer
language sql
immutable
as $_get_lane_maximum$
  select 64;
$_get_lane_maximum$;

-- A limit less what is used of it, never below 0. Not greatest(): it passes over the NULL of unlimited.
create or replace function stepquota._count_units_left(p_limit bigint, p_used_count bigint)
returns bigint
language sql
immutable
as $_count_units_left$
  select case when p_limit < p_used_count then 0 else p_limit - p_used_count end;
$_count_units_left$;

-- What the lanes of a tenant's period own together; NULL is any number of units.
create or replace function stepquota._get_lane_limit(p_quota stepquota.workflow_step_quotas)
returns bigint
language sql
immutable
as $_get_lane_limit$
  select case when p_quota.enforcement = 'enforce'
              then stepquota._count_units_left(p_quota.effective_limit, p_quota.carried_count) end;
$_get_lane_limit$;

-- The number of a period's last lane, 0 where it has none. In PL/pgSQL, since it is too much to be inlined,
-- and a function in SQL would be planned again by each call.
create or replace function stepquota._get_last_lane(p_tenant text, p_period_start timestamptz)
returns integer
language plpgsql
stable
as $_get_last_lane$
begin
  return coalesce((
    select l.lane from stepquota.workflow_step_usage_lanes l
     where l.tenant = p_tenant and l.period_start = p_period_start
     order by l.tenant desc, l.period_start desc, l.lane desc, l.generation desc
     limit 1), 0);
end;
$_get_last_lane$;

-- A period's lanes, for statements that only read them. Lane by lane, the newest version first: while
-- somebody holds an old snapshot there may be very many dead ones, and a scan over the key meets each.
--
-- The newest version is where a walk backwards through the key begins. Two things see to it that it is
-- found so, here and wherever else one version is asked for. Any generation is between 0 and the greatest
-- integer, said in a way that the planner cannot know: it takes it for a narrow range, and then no bitmap
-- of all versions seems cheaper, however many pages the statistics say a row has. And the table is never
-- so small that reading it whole seems cheaper (_pad_lanes).
create or replace function stepquota._read_lanes(p_tenant text, p_period_start timestamptz)
returns setof stepquota.workflow_step_usage_lanes
language sql
stable
as $_read_lanes$
  select n.*
    from generate_series(0, stepquota._get_last_lane(p_tenant, p_period_start)) as i (number)
   cross join lateral (
     select l.* from stepquota.workflow_step_usage_lanes l
      where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = i.number
        and l.generation between i.number & 0 and i.number | 2147483647
      order by l.tenant, l.period_start, l.lane, l.generation desc
      limit 1) n;
$_read_lanes$;

-- Makes the lanes' table so many pages long that no plan reads it whole: a cached plan goes on to do so
-- after the table has grown. The pages stay, as VACUUM is told not to cut them off; what VACUUM FULL or a
-- restore has left out, the next load of this file adds.
create or replace function stepquota._pad_lanes()
returns void
language plpgsql
volatile
as $_pad_lanes$
declare
  v_pages constant integer := 16;
  v_nobody constant text := '';
begin
  if pg_relation_size('stepquota.workflow_step_usage_lanes') < v_pages * current_setting('block_size')::bigint then
    -- No tenant has this name. Half a page is left free in each.
    insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane)
    select v_nobody, '-infinity', n.lane from generate_series(1, v_pages * 60) as n (lane);
    delete from stepquota.workflow_step_usage_lanes l where l.tenant = v_nobody;
  end if;
end;
$_pad_lanes$;

-- Brings a period's lanes in line with the limit and answers how many there are. A period without
-- lanes gets one. A raise waits for nobody: its units go to a lane that is free, or to a new one. Any
-- other change deals what is left anew.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; then lanes in key order, waiting, unless it
-- is a raise.
create or replace function stepquota._fit_lanes(p_tenant text, p_period_start timestamptz, p_limit bigint)
returns integer
language plpgsql
volatile
as $_fit_lanes$
declare
  v_lane_count integer;
  v_owned numeric;
  v_is_unlimited boolean;
  v_lane integer;
begin
  select count(*), sum(l.allowance), bool_or(l.allowance is null) into v_lane_count, v_owned, v_is_unlimited
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start;
  if v_lane_count = 0 then
    insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
    values (p_tenant, p_period_start, 0, p_limit);
    return 1;
  end if;
  if v_is_unlimited or p_limit is null or p_limit < v_owned then
    if not (v_is_unlimited and p_limit is null) then
      perform stepquota._deal_lanes(p_tenant, p_period_start, p_limit);
    end if;
    return v_lane_count;
  end if;
  if p_limit > v_owned then
    select l.lane into v_lane
      from stepquota.workflow_step_usage_lanes l
     where l.tenant = p_tenant and l.period_start = p_period_start
     order by l.lane desc
     limit 1
       for no key update skip locked;
    if found then
      update stepquota.workflow_step_usage_lanes l
         set allowance = l.allowance + (p_limit - v_owned)::bigint
       where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = v_lane;
    else
      insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
      values (p_tenant, p_period_start, v_lane_count, (p_limit - v_owned)::bigint);
      v_lane_count := v_lane_count + 1;
    end if;
  end if;
  return v_lane_count;
end;
$_fit_lanes$;

-- Deals a limit to all lanes of a period: each keeps what it has used, what is left is shared evenly.
-- New lanes cannot appear meanwhile: whoever adds some holds the quota row.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; all lanes in key order, waiting.
create or replace function stepquota._deal_lanes(p_tenant text, p_period_start timestamptz, p_limit bigint)
returns void
language plpgsql
volatile
as $_deal_lanes$
declare
  v_lane_count bigint;
  v_used_count bigint;
  v_left bigint;
begin
  perform 1 from stepquota.workflow_step_usage_lanes l
    where l.tenant = p_tenant and l.period_start = p_period_start
    order by l.lane
      for no key update;
  -- A statement of its own: what the lanes' last holders committed is visible only now.
  select count(*), sum(l.used_count) into v_lane_count, v_used_count
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start;
  v_left := stepquota._count_units_left(p_limit, v_used_count);
  update stepquota.workflow_step_usage_lanes l
     set allowance = l.used_count + v_left / v_lane_count + (l.lane < v_left % v_lane_count)::integer,
         others_used_count = v_used_count - l.used_count
   where l.tenant = p_tenant and l.period_start = p_period_start;
end;
$_deal_lanes$;

-- How many lanes a period should have that has so many units left in the lane to be split; 0: no more
-- than it has.
create or replace function stepquota._choose_lane_count(p_left bigint)
returns integer
language sql
immutable
as $_choose_lane_count$
  select case
    when p_left is null or p_left >= stepquota._get_lane_maximum() * stepquota._get_lane_minimum()
      then stepquota._get_lane_maximum()
    when p_left >= 16 * stepquota._get_lane_minimum() then 16
    else 0 end;
$_choose_lane_count$;

-- Somebody had to look around for a lane and got this one. Where that happens 8 times within a second it
-- is split, if it is worth it. Not at once: of many tenants that are asked for at random two callers
-- meet now and then, and each of them would end with as many rows as a busy one.
-- Locks: the caller holds the lane; the quota row without waiting, against the usual order.
create or replace function stepquota._note_contention(
  p_tenant text, p_period_start timestamptz, p_lane integer, p_now timestamptz)
returns void
language plpgsql
volatile
as $_note_contention$
declare
  v_since timestamptz;
  v_count integer;
  v_left bigint;
begin
  -- Under REPEATABLE READ an update of the quota row would make others fail.
  if current_setting('transaction_isolation') <> 'read committed' then
    return;
  end if;
  select l.allowance - l.used_count into v_left
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = p_lane;
  select q.contended_since, q.contended_count into v_since, v_count
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant and q.period_start = p_period_start
     and q.lane_count < stepquota._choose_lane_count(v_left)
     for no key update skip locked;
  if not found then
    return;
  end if;
  if v_since is null or abs(extract(epoch from p_now - v_since)) > 1 then
    v_since := p_now;
    v_count := 0;
  end if;
  if v_count >= 7 then
    perform stepquota._fan_out_lane(p_tenant, p_period_start, p_lane);
  else
    update stepquota.workflow_step_quotas q
       set contended_since = v_since, contended_count = v_count + 1
     where q.tenant = p_tenant;
  end if;
end;
$_note_contention$;

-- Splits the units that a lane has left over new lanes, while there are enough of them. Not under
-- REPEATABLE READ, where an update of the quota row would make others fail.
-- Locks: the caller holds the lane; the quota row without waiting, against the usual order.
create or replace function stepquota._fan_out_lane(p_tenant text, p_period_start timestamptz, p_lane integer)
returns void
language plpgsql
volatile
as $_fan_out_lane$
declare
  v_lane_count integer;
  v_left bigint;
  v_target integer;
  v_share bigint;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    return;
  end if;
  select q.lane_count into v_lane_count
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant and q.period_start = p_period_start
     for no key update skip locked;
  if not found then
    return;
  end if;
  select l.allowance - l.used_count into v_left
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = p_lane;
  v_target := stepquota._choose_lane_count(v_left);
  if v_target <= v_lane_count then
    return;
  end if;
  v_share := v_left / (v_target - v_lane_count + 1);
  insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
  select p_tenant, p_period_start, n.lane, v_share
    from generate_series(v_lane_count, v_target - 1) as n (lane);
  update stepquota.workflow_step_usage_lanes l
     set allowance = l.allowance - v_share * (v_target - v_lane_count)
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = p_lane;
  update stepquota.workflow_step_quotas q set lane_count = v_target where q.tenant = p_tenant;
end;
$_fan_out_lane$;

do $pad_lanes$
begin
  perform stepquota._pad_lanes();
end;
$pad_lanes$;

comment on function stepquota._get_lane_minimum() is 'Units that a lane owns at least when it is made by splitting.';
comment on function stepquota._get_lane_maximum() is 'Lanes that a period is split into at most.';
comment on function stepquota._count_units_left(bigint, bigint) is 'A limit less what is used of it, never below 0; NULL is unlimited.';
comment on function stepquota._get_lane_limit(stepquota.workflow_step_quotas) is 'What the lanes of a period own together; NULL is unlimited.';
comment on function stepquota._get_last_lane(text, timestamptz) is 'The number of a period''s last lane.';
comment on function stepquota._read_lanes(text, timestamptz) is 'A period''s lanes, without meeting their dead versions.';
comment on function stepquota._pad_lanes() is 'Makes the lanes'' table so long that no plan reads it whole.';
comment on function stepquota._fit_lanes(text, timestamptz, bigint) is 'Brings a period''s lanes in line with the limit; answers how many there are.';
comment on function stepquota._deal_lanes(text, timestamptz, bigint) is 'Deals a limit to all lanes of a period.';
comment on function stepquota._choose_lane_count(bigint) is 'Lanes that a period should have, by what is left.';
comment on function stepquota._note_contention(text, timestamptz, integer, timestamptz) is 'Splits a lane where callers meet often.';
comment on function stepquota._fan_out_lane(text, timestamptz, integer) is 'Splits a lane into many.';
