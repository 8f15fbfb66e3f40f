-- The reservation: one unit, exactly, in the caller's transaction.

-- One unit for a caller that keeps its own ledger. A denial is an answer, never an error. The guarded
-- UPDATE of a lane is what makes the limit exact: of any number of callers, those who find room in the
-- row that they update commit, and no others.
--
-- This is the way of nearly every call: the stored quota can be trusted, and the caller's home lane is
-- free and has room; or the tenant is known to be exhausted, which is one row's read. Everything else
-- is _take_unit's. start_workflow_step goes the same way; a test compares the two.
--
-- Two short statements, scalars, and few expressions beside them, on purpose: with many backends the
-- caches are cold at each call, so what costs is how much a call touches. Each statement's plan is set
-- up anew by every call, each expression of PL/pgSQL by every transaction; a function called is as much
-- as an expression or two, a variable of a table's row type as much as a statement.
--
-- xmax is 0 where nobody has touched a version of a row since it was made. So a lane that somebody has
-- locked is left alone without waiting, and without a lock of our own, which would cost another
-- statement. It is no proof (what was rolled back has left its mark as well): _take_unit finds out. It is
-- asked of the newest version alone: as a condition it would send the search on to all the older ones.
-- (For how that is found, see _read_lanes.)
--
-- Locks: the home lane, waiting only if it is taken in the moment between looking and updating; else as
-- _take_unit. SQLSTATEs: WQ001; 55P03 under lock_timeout; 40001 under REPEATABLE READ and SERIALIZABLE
-- when another reservation committed since the snapshot.
create or replace function stepquota.reserve_workflow_step(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: one that was made for the tenant's own figures may sort all versions of a lane that it
-- finds. After an ANALYZE in a bad moment PostgreSQL would make those, and a new one for each call.
set plan_cache_mode = force_generic_plan
as $reserve_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_limit bigint;
  v_period_start timestamptz;
  v_period_end timestamptz;
  v_period_source text;
  v_limit_source text;
  v_tier text;
  v_granted_units bigint;
  v_subscription_id text;
  v_carried_count bigint;
  v_lane_count integer;
  v_exhausted_at_count bigint;
  v_alert_at_count bigint;
  v_own_count bigint;
  v_used_count bigint;
begin
  select q.effective_limit, q.period_start, q.period_end, q.period_source, q.limit_source, q.tier,
         q.granted_units, q.stripe_subscription_id, q.carried_count, q.lane_count, q.exhausted_at_count,
         q.alert_at_count
    into v_limit, v_period_start, v_period_end, v_period_source, v_limit_source, v_tier,
         v_granted_units, v_subscription_id, v_carried_count, v_lane_count, v_exhausted_at_count,
         v_alert_at_count
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant and v_now >= q.trusted_from
     and q.epoch = (
       select p.epoch from stepquota.policy p
        where (p.bound_roles is null or stepquota._may_act_for(p_tenant, p.bound_roles))
          and (v_now < q.trusted_until
               or v_now < q.valid_until and v_now >= p.confirmed_from and v_now < p.confirmed_until));
  if v_exhausted_at_count is not null then
    -- Marked only after the denial's event was recorded, so there is nothing else to do.
    return (false, v_exhausted_at_count, v_limit, 0, v_period_start, v_period_end, v_period_source, v_limit_source,
      v_tier, v_granted_units, v_subscription_id)::stepquota.workflow_step_quota;
  end if;

  update stepquota.workflow_step_usage_lanes l
     set used_count = l.used_count + 1, unledgered_count = l.unledgered_count + 1,
         generation = (l.used_count + 1) >> 6
   where l.tenant = p_tenant
     and l.ctid = (
       select case when i.xmax = '0'::xid then i.ctid end from stepquota.workflow_step_usage_lanes i
        where i.tenant = p_tenant and i.period_start = v_period_start and i.lane = pg_backend_pid() % v_lane_count
          and i.generation between v_lane_count & 0 and v_lane_count | 2147483647
        order by i.tenant, i.period_start, i.lane, i.generation desc
        limit 1)
     and (l.allowance is null or l.used_count < l.allowance)
  returning l.used_count, v_carried_count + l.used_count + l.others_used_count into v_own_count, v_used_count;
  -- One expression for all that is rare; of several lanes, for all that _is_count_due might say.
  if v_used_count is null or v_used_count > v_limit or v_used_count >= v_alert_at_count
     or v_lane_count > 1 and (v_own_count & 31 = 0 or v_limit - v_used_count < v_lane_count * stepquota._get_lane_minimum())
     or stepquota._is_debugging() then
    if v_used_count is null and v_lane_count = 1 then
      v_used_count := v_carried_count + stepquota._take_unit_after_wait(p_tenant, v_period_start, 1, v_now);
    end if;
    if v_used_count is null then
      return stepquota._take_unit(p_tenant, null, 1, v_now);
    end if;
    if stepquota._is_count_due(v_own_count, v_used_count, v_limit, v_alert_at_count, v_lane_count)
       or v_used_count >= v_alert_at_count or stepquota._is_debugging() then
      v_used_count := stepquota._review_taken_unit(p_tenant, null, v_carried_count, v_lane_count, v_alert_at_count,
        v_limit, v_period_start, v_period_end, v_period_source, v_limit_source, v_tier, v_now);
    end if;
  end if;
  return (true, v_used_count, v_limit, stepquota._count_units_left(v_limit, v_used_count), v_period_start,
    v_period_end, v_period_source, v_limit_source, v_tier, v_granted_units, v_subscription_id
    )::stepquota.workflow_step_quota;
end;
$reserve_workflow_step$;

-- Takes one unit or says why not, whatever the short way of reserve_workflow_step met.
-- p_unledgered_units is 1 for a caller that keeps its own ledger, 0 when a ledger row goes with it;
-- p_run_id is for the event of a denial, NULL if there is none.
-- Locks: as _find_quota, then as _take_unit_elsewhere. When denied: as _record_exhaustion.
-- SQLSTATEs: WQ001.
create or replace function stepquota._take_unit(
  p_tenant text, p_run_id text, p_unledgered_units integer, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_take_unit$
declare
  v_answer stepquota.workflow_step_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  v_answer := stepquota._take_unit_elsewhere(
    p_tenant, stepquota._find_quota(p_tenant, p_now), p_unledgered_units, p_now);
  if not v_answer.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_answer, p_run_id, p_now);
  elsif v_answer.used_count > v_answer.effective_limit then
    perform stepquota._record_overrun(p_tenant, p_run_id, v_answer.used_count, v_answer.effective_limit,
      v_answer.period_start, p_now);
  end if;
  return v_answer;
end;
$_take_unit$;

-- What the short way leaves to do for a unit that it has taken, now and then: the units used are counted
-- by looking at all lanes, and remembered by the home lane; thresholds and overruns are recorded, and who
-- debugs is told. Answers the units used.
-- Locks: the caller has just taken a unit from its home lane; then as _record_alerts and _record_overrun.
create or replace function stepquota._review_taken_unit(
  p_tenant text, p_run_id text, p_carried_count bigint, p_lane_count integer, p_alert_at_count bigint,
  p_limit bigint, p_period_start timestamptz, p_period_end timestamptz, p_period_source text, p_limit_source text,
  p_tier text, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_review_taken_unit$
declare
  v_counted bigint;
  v_used_count bigint;
begin
  select sum(l.used_count) into v_counted from stepquota._read_lanes(p_tenant, p_period_start) l;
  if p_lane_count > 1 then
    update stepquota.workflow_step_usage_lanes l
       set others_used_count = v_counted - l.used_count
     where l.tenant = p_tenant
       and l.ctid = (
         select i.ctid from stepquota.workflow_step_usage_lanes i
          where i.tenant = p_tenant and i.period_start = p_period_start and i.lane = pg_backend_pid() % p_lane_count
            and i.generation between p_lane_count & 0 and p_lane_count | 2147483647
          order by i.tenant, i.period_start, i.lane, i.generation desc
          limit 1)
       and l.used_count % 32 = 0;
  end if;
  v_used_count := p_carried_count + v_counted;
  if v_used_count >= p_alert_at_count then
    perform stepquota._record_alerts(p_tenant, p_period_start, v_used_count, p_now);
  end if;
  perform stepquota._debug_reservation(p_tenant, v_used_count, p_limit, p_period_start, p_period_end,
    p_period_source, p_limit_source, p_tier);
  if v_used_count > p_limit then
    perform stepquota._record_overrun(p_tenant, p_run_id, v_used_count, p_limit, p_period_start, p_now);
  end if;
  return v_used_count;
end;
$_review_taken_unit$;

-- Whether an answer's figures must be counted by looking at all lanes: near the limit, where they are
-- exact, past it, where there is something to record, and now and then, less often while the limit and the
-- next threshold are far. Else they rest on what the lane remembers of the others: looking at all lanes
-- costs as much as ten units.
create or replace function stepquota._is_count_due(
  p_own_count bigint, p_used_count bigint, p_limit bigint, p_alert_at_count bigint, p_lane_count integer)
returns boolean
language sql
immutable
as $_is_count_due$
  select p_lane_count > 1
         and p_own_count % case when least(p_limit, p_alert_at_count) - p_used_count < p_lane_count * 1024 then 32 else 256 end = 0
    or coalesce(p_limit - p_used_count
         < case when p_lane_count > 1 then p_lane_count * stepquota._get_lane_minimum() else 0 end, false);
$_is_count_due$;

-- The answer for a unit taken from a lane.
-- Locks: the caller holds the lane.
create or replace function stepquota._describe_taken_unit(
  p_quota stepquota.workflow_step_quotas, p_own_count bigint, p_others_count bigint)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_describe_taken_unit$
declare
  v_used_count bigint := p_quota.carried_count + p_own_count;
begin
  if p_quota.lane_count > 1 then
    v_used_count := v_used_count + p_others_count;
    if stepquota._is_count_due(p_own_count, v_used_count, p_quota.effective_limit, p_quota.alert_at_count,
         p_quota.lane_count) then
      v_used_count := stepquota._sum_usage(p_quota.tenant, p_quota.period_start);
    end if;
  end if;
  perform stepquota._debug_reservation(p_quota.tenant, v_used_count, p_quota.effective_limit, p_quota.period_start,
    p_quota.period_end, p_quota.period_source, p_quota.limit_source, p_quota.tier);
  return stepquota._describe_quota(p_quota, v_used_count, true);
end;
$_describe_taken_unit$;

-- Undoes what the short way has just done to the caller's home lane.
-- Locks: the caller has taken a unit from that lane in this transaction, and so has it locked.
create or replace function stepquota._give_back_unit(
  p_tenant text, p_period_start timestamptz, p_lane_count integer)
returns void
language plpgsql
volatile
as $_give_back_unit$
begin
  update stepquota.workflow_step_usage_lanes l
     set used_count = l.used_count - 1
   where l.tenant = p_tenant
     and l.ctid = (
       select i.ctid from stepquota.workflow_step_usage_lanes i
        where i.tenant = p_tenant and i.period_start = p_period_start and i.lane = pg_backend_pid() % p_lane_count
          and i.generation between p_lane_count & 0 and p_lane_count | 2147483647
        order by i.tenant, i.period_start, i.lane, i.generation desc
        limit 1);
end;
$_give_back_unit$;

-- A lane that nobody has and that has so many units left: the first from home on, else the first before
-- it. NULL if there is none. Somebody may take it before the caller does.
--
-- To know that a lane is free is to lock it, and that is undone before this returns: a row that is
-- updated under an earlier lock of the same transaction takes that lock's mark along in its xmax, and
-- the short way would pass it by ever after. So would the lock of a row whose condition turned out false.
-- Locks: none that stay.
create or replace function stepquota._find_free_lane(
  p_tenant text, p_period_start timestamptz, p_home integer, p_units bigint)
returns integer
language plpgsql
volatile
as $_find_free_lane$
declare
  v_last integer := stepquota._get_last_lane(p_tenant, p_period_start);
  v_lane integer;
begin
  -- Lane by lane, and each locked by its newest version's place, so that no dead version is looked at.
  select f.lane into v_lane
    from generate_series(p_home, p_home + v_last) as i (number)
   cross join lateral (
     select l.ctid as place from stepquota.workflow_step_usage_lanes l
      where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = i.number % (v_last + 1)
        and l.generation between i.number & 0 and i.number | 2147483647
      order by l.tenant, l.period_start, l.lane, l.generation desc
      limit 1) n
   cross join lateral (
     select l.lane from stepquota.workflow_step_usage_lanes l
      where l.tenant = p_tenant and l.ctid = n.place
        and (l.allowance is null or l.used_count + p_units <= l.allowance)
        for no key update skip locked) f
   limit 1;
  raise exception using errcode = 'WQ000', message = 'the locks are given back';
exception when sqlstate 'WQ000' then
  return v_lane;  -- the error never leaves this function
end;
$_find_free_lane$;

-- Waits until nobody has the lane, or for a moment only, where nobody has it.
-- Locks: the lane, waiting; none that stay. (See _find_free_lane: an update under a lock of the same
-- transaction, also of the one that it waited for, would leave a mark that looks like a lock.)
create or replace function stepquota._wait_for_lane(p_tenant text, p_period_start timestamptz, p_lane integer)
returns void
language plpgsql
volatile
as $_wait_for_lane$
begin
  perform 1 from stepquota.workflow_step_usage_lanes l
    where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = p_lane
      and l.generation >= (
        select i.generation from stepquota.workflow_step_usage_lanes i
         where i.tenant = p_tenant and i.period_start = p_period_start and i.lane = p_lane
           and i.generation between p_lane & 0 and p_lane | 2147483647
         order by i.tenant, i.period_start, i.lane, i.generation desc
         limit 1)
      for no key update;
  raise exception using errcode = 'WQ000', message = 'the lock is given back';
exception when sqlstate 'WQ000' then
  null;  -- the error never leaves this function
end;
$_wait_for_lane$;

-- Takes a unit from a lane; answers what has been taken from it and what it knows of the others, NULL
-- where it does not serve. The short way calls it too, for a tenant of one lane: of many that are asked
-- for at random, callers of the same meet now and then.
-- Locks: the lane, waiting if somebody else has taken it in the moment since it was free. One that does
-- not serve after the wait would stay locked, so that attempt is rolled back. Then as _note_contention.
create or replace function stepquota._take_unit_from_lane(
  p_tenant text, p_period_start timestamptz, p_lane integer, p_unledgered_units integer, p_is_contended boolean,
  p_now timestamptz, out own_count bigint, out others_count bigint)
language plpgsql
volatile
as $_take_unit_from_lane$
begin
  -- By the key, so that the row is still the one after a wait; from its newest generation on.
  update stepquota.workflow_step_usage_lanes l
     set used_count = l.used_count + 1, unledgered_count = l.unledgered_count + p_unledgered_units
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = p_lane
     and l.generation >= (
       select i.generation from stepquota.workflow_step_usage_lanes i
        where i.tenant = p_tenant and i.period_start = p_period_start and i.lane = p_lane
          and i.generation between p_lane & 0 and p_lane | 2147483647
        order by i.tenant, i.period_start, i.lane, i.generation desc
        limit 1)
     and (l.allowance is null or l.used_count < l.allowance)
  returning l.used_count, l.others_used_count into own_count, others_count;
  if not found then
    raise exception using errcode = 'WQ000', message = 'the lane does not serve';
  end if;
  if p_is_contended then
    perform stepquota._note_contention(p_tenant, p_period_start, p_lane, p_now);
  end if;
exception when sqlstate 'WQ000' then
  null;  -- never leaves this function: it gives the lane's lock back
end;
$_take_unit_from_lane$;

-- The short way's second attempt, where a tenant's only lane is busy: all that _take_unit would look at
-- first is known. Answers what has been taken from the lane, NULL where it does not serve.
-- Locks: as _wait_for_lane, then as _take_unit_from_lane.
create or replace function stepquota._take_unit_after_wait(
  p_tenant text, p_period_start timestamptz, p_unledgered_units integer, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_take_unit_after_wait$
begin
  perform stepquota._wait_for_lane(p_tenant, p_period_start, 0);
  return (stepquota._take_unit_from_lane(p_tenant, p_period_start, 0, p_unledgered_units, true, p_now)).own_count;
end;
$_take_unit_after_wait$;

-- Takes a unit wherever there is one, waiting if it must: the quota is new or stale, the home lane is
-- busy or used up. The lane that serves a busy tenant is split, if it is worth it.
--
-- A denial is a plain read of quota row and lanes in one statement. It counts only if all lanes are
-- used up there and the quota has not changed since it was chosen; else the decision starts over.
-- Nothing is denied from a pass that skipped a lane.
--
-- p_found is the quota to decide by, as _find_quota answered it or as the caller holds it locked.
-- Locks: the quota row only if somebody else is changing it; then as _wait_for_lane and _take_unit_from_lane.
create or replace function stepquota._take_unit_elsewhere(
  p_tenant text, p_found stepquota._found_quota, p_unledgered_units integer, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_take_unit_elsewhere$
declare
  v_found stepquota._found_quota := p_found;
  v_quota stepquota.workflow_step_quotas := p_found.quota;
  v_home integer;
  v_lane integer;
  v_own_count bigint;
  v_others_count bigint;
  v_used_count bigint;
  v_version bigint;
  v_is_exhausted boolean;
  v_is_contended boolean;
  v_answer stepquota.workflow_step_quota;
begin
  loop
    v_home := pg_backend_pid() % v_quota.lane_count;
    v_lane := stepquota._find_free_lane(p_tenant, v_quota.period_start, v_home, 1);

    -- Not at home: it is busy, or used up and the others may be busy soon.
    v_is_contended := v_lane is distinct from v_home;
    if v_lane is null then
      select q.version, sum(l.used_count), bool_and(l.allowance is not null and l.used_count >= l.allowance),
             min(l.lane) filter (where l.allowance is null or l.used_count < l.allowance)
        into v_version, v_used_count, v_is_exhausted, v_lane
        from stepquota.workflow_step_quotas q
        left join stepquota._read_lanes(p_tenant, v_quota.period_start) l on true
       where q.tenant = p_tenant
       group by q.version;
      if v_version is distinct from v_quota.version then
        v_found := stepquota._find_quota(p_tenant, p_now);
        v_quota := v_found.quota;
        continue;
      elsif v_used_count is null then
        -- The lanes are gone, by hand or by a restore: without one there would be no end to this loop.
        v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
        perform stepquota._fit_lanes(p_tenant, v_quota.period_start, stepquota._get_lane_limit(v_quota));
        continue;
      elsif v_is_exhausted and v_found.is_trusted then
        return stepquota._describe_quota(v_quota, v_quota.carried_count + v_used_count, false);
      elsif v_is_exhausted then
        -- Somebody is changing this quota: nothing may be denied from what it was before.
        v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
        v_found.is_trusted := true;
        continue;
      end if;
      perform stepquota._wait_for_lane(p_tenant, v_quota.period_start, v_lane);
    end if;

    select t.own_count, t.others_count into v_own_count, v_others_count
      from stepquota._take_unit_from_lane(p_tenant, v_quota.period_start, v_lane, p_unledgered_units,
             v_is_contended and v_quota.lane_count < stepquota._get_lane_maximum(), p_now) t;
    exit when v_own_count is not null;
  end loop;
  v_answer := stepquota._describe_taken_unit(v_quota, v_own_count, v_others_count);
  if v_answer.used_count >= v_quota.alert_at_count then
    perform stepquota._record_alerts(p_tenant, v_quota.period_start, v_answer.used_count, p_now);
  end if;
  return v_answer;
end;
$_take_unit_elsewhere$;

-- A reservation leaves no row but the counter. Whoever debugs sees one message with all its figures;
-- building it is saved where nobody listens.
create or replace function stepquota._is_debugging()
returns boolean
language sql
stable
as $_is_debugging$
  select current_setting('client_min_messages') like 'debug%' or current_setting('log_min_messages') like 'debug%';
$_is_debugging$;

create or replace function stepquota._debug_reservation(
  p_tenant text, p_used_count bigint, p_effective_limit bigint, p_period_start timestamptz,
  p_period_end timestamptz, p_period_source text, p_limit_source text, p_tier text)
returns void
language plpgsql
stable
as $_debug_reservation$
begin
  if stepquota._is_debugging() then
    raise debug using
      message = 'workflow step reserved',
      detail = jsonb_build_object('tenant', p_tenant, 'used_count', p_used_count,
        'effective_limit', p_effective_limit, 'period_start', p_period_start, 'period_end', p_period_end,
        'period_source', p_period_source, 'limit_source', p_limit_source, 'tier', p_tier)::text;
  end if;
end;
$_debug_reservation$;

-- What a denial leaves: the first time a period, an event; then the mark on the quota row, by which the
-- next denial is one row's read. Both only if the quota row is free: nobody waits for them.
-- Locks: the quota row, without waiting.
create or replace function stepquota._record_exhaustion(
  p_tenant text, p_quota stepquota.workflow_step_quota, p_run_id text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_exhaustion$
begin
  -- After the first time this read is all that happens.
  if exists (
    select 1 from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and q.period_start = p_quota.period_start and q.exhausted_at_count is not null
       and q.reported_period_start = p_quota.period_start and 'quota_exhausted' = any (q.reported)
  ) then
    return;
  end if;
  if not stepquota._record_event_once(p_tenant, p_quota.period_start, 'quota_exhausted', 'warning', p_run_id,
    jsonb_build_object('used_count', p_quota.used_count, 'effective_limit', p_quota.effective_limit,
      'period_start', p_quota.period_start, 'period_end', p_quota.period_end,
      'period_source', p_quota.period_source, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier), p_now) then
    perform stepquota._note_alert_check(p_tenant, true, p_now);
    return;
  end if;
  perform 1
     from stepquota.workflow_step_quotas q
    where q.tenant = p_tenant and q.period_start = p_quota.period_start and q.exhausted_at_count is null
      and q.reported_period_start = p_quota.period_start and 'quota_exhausted' = any (q.reported)
      for no key update skip locked;
  if found then
    -- Under the lock no capacity can be raised, so what is used up now stays so until the mark is cleared.
    update stepquota.workflow_step_quotas q
       set exhausted_at_count = q.carried_count + u.used_count
      from (select sum(l.used_count)::bigint as used_count,
                   bool_and(l.allowance is not null and l.used_count >= l.allowance) as is_exhausted
              from stepquota._read_lanes(p_tenant, p_quota.period_start) l) u
     where q.tenant = p_tenant and u.is_exhausted;
  end if;
end;
$_record_exhaustion$;

-- Takes many units: all, or as many as there are where partial is allowed, or none. First from one lane
-- that has them and is free: the home lane by the short way, or another. Else from several lanes, behind
-- the only gate to them: the quota row, so that two batches over short lanes cannot wait for each other.
-- Locks: one lane without waiting; or the quota row FOR NO KEY UPDATE and then as many lanes as it takes,
-- all of them for a denial, in key order, waiting.
create or replace function stepquota._take_units(
  p_tenant text, p_units integer, p_allow_partial boolean, p_is_ledgered boolean, p_now timestamptz)
returns stepquota.workflow_steps_quota
language plpgsql
volatile
as $_take_units$
declare
  v_found stepquota._found_quota := stepquota._find_quota(p_tenant, p_now);
  v_quota stepquota.workflow_step_quotas := v_found.quota;
  v_unledgered integer := case when p_is_ledgered then 0 else p_units end;
  v_home integer := pg_backend_pid() % v_quota.lane_count;
  v_lane integer;
  v_granted bigint := 0;
begin
  if v_quota.exhausted_at_count is not null then
    if v_found.is_trusted then
      return stepquota._describe_granted_units(v_quota, 0, false);
    end if;
  else
    update stepquota.workflow_step_usage_lanes l
       set used_count = l.used_count + p_units, unledgered_count = l.unledgered_count + v_unledgered
     where l.tenant = p_tenant
       and l.ctid = (
         select case when i.xmax = '0'::xid then i.ctid end from stepquota.workflow_step_usage_lanes i
          where i.tenant = p_tenant and i.period_start = v_quota.period_start and i.lane = v_home
            and i.generation between v_home & 0 and v_home | 2147483647
          order by i.tenant, i.period_start, i.lane, i.generation desc
          limit 1)
       and (l.allowance is null or l.used_count + p_units <= l.allowance);
    if found then
      return stepquota._describe_granted_units(v_quota, p_units, true);
    end if;
    v_lane := stepquota._find_free_lane(p_tenant, v_quota.period_start, v_home, p_units);
    if v_lane is not null then
      begin
        update stepquota.workflow_step_usage_lanes l
           set used_count = l.used_count + p_units, unledgered_count = l.unledgered_count + v_unledgered
         where l.tenant = p_tenant and l.period_start = v_quota.period_start and l.lane = v_lane
           and (l.allowance is null or l.used_count + p_units <= l.allowance);
        if found then
          return stepquota._describe_granted_units(v_quota, p_units, true);
        end if;
        raise exception using errcode = 'WQ000', message = 'the lane does not serve';
      exception when sqlstate 'WQ000' then
        null;  -- never leaves this function: it gives the lane's lock back
      end;
    end if;
  end if;

  perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
  -- As it is stored by now, and refreshed only if it is stale: nobody else can change it any more.
  v_quota := (stepquota._find_quota(p_tenant, p_now)).quota;
  v_granted := stepquota._take_units_from_lanes(p_tenant, v_quota.period_start, p_units, p_allow_partial, p_is_ledgered);
  return stepquota._describe_granted_units(v_quota, v_granted, v_granted > 0);
end;
$_take_units$;

-- Takes units from as many lanes as it needs, and answers how many: all, or what there is where partial
-- is allowed, or none. Lanes are locked one by one, so that few are where few have enough.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE; lanes in key order, waiting.
create or replace function stepquota._take_units_from_lanes(
  p_tenant text, p_period_start timestamptz, p_units integer, p_allow_partial boolean, p_is_ledgered boolean)
returns bigint
language plpgsql
volatile
as $_take_units_from_lanes$
declare
  v_open_lanes cursor for
    select l.lane, stepquota._count_units_left(l.allowance, l.used_count) as left_count
      from stepquota.workflow_step_usage_lanes l
     where l.tenant = p_tenant and l.period_start = p_period_start
       and (l.allowance is null or l.used_count < l.allowance)
     order by l.tenant, l.period_start, l.lane
       for no key update;
  v_lane integer;
  v_left bigint;
  v_lanes integer[] := array[]::integer[];
  v_takes bigint[] := array[]::bigint[];
  v_missing bigint := p_units;
begin
  open v_open_lanes;
  while v_missing > 0 loop
    -- Not a loop over the query, which would fetch, and so lock, many rows ahead.
    fetch v_open_lanes into v_lane, v_left;
    exit when not found;
    v_left := least(v_left, v_missing);  -- unlimited is NULL, which least passes over
    v_lanes := v_lanes || v_lane;
    v_takes := v_takes || v_left;
    v_missing := v_missing - v_left;
  end loop;
  close v_open_lanes;
  if v_missing > 0 and not p_allow_partial or v_lanes = '{}' then
    return 0;
  end if;
  update stepquota.workflow_step_usage_lanes l
     set used_count = l.used_count + t.taken,
         unledgered_count = l.unledgered_count + case when p_is_ledgered then 0 else t.taken end
    from unnest(v_lanes, v_takes) as t (lane, taken)
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = t.lane;
  return p_units - v_missing;
end;
$_take_units_from_lanes$;

-- The answer for a batch; its figures are exact.
create or replace function stepquota._describe_granted_units(
  p_quota stepquota.workflow_step_quotas, p_granted bigint, p_allowed boolean)
returns stepquota.workflow_steps_quota
language plpgsql
stable
as $_describe_granted_units$
declare
  v_used_count bigint;
begin
  select p_quota.carried_count + coalesce(sum(l.used_count), 0) into v_used_count
    from stepquota._read_lanes(p_quota.tenant, p_quota.period_start) l;
  return (p_allowed, v_used_count, p_quota.effective_limit, stepquota._count_units_left(p_quota.effective_limit, v_used_count),
    p_quota.period_start, p_quota.period_end, p_quota.period_source, p_quota.limit_source, p_quota.tier,
    p_quota.granted_units, p_quota.stripe_subscription_id, p_granted)::stepquota.workflow_steps_quota;
end;
$_describe_granted_units$;

-- Many units in one round trip, for a caller that keeps its own ledger: all, none, or with
-- p_allow_partial as many as are left.
-- Locks: as _take_units. SQLSTATEs: WQ001; 55P03 under lock_timeout; 40001 under REPEATABLE READ and
-- SERIALIZABLE when another reservation committed since the snapshot.
create or replace function stepquota.reserve_workflow_steps(
  p_tenant text, p_steps integer, p_allow_partial boolean default false)
returns stepquota.workflow_steps_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: every statement goes by a key, and planning a partitioned ledger each time costs more
-- than all the rest.
set plan_cache_mode = force_generic_plan
as $reserve_workflow_steps$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_steps_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_steps is null or p_steps < 1 then
    perform stepquota._refuse_argument('p_steps', p_steps::text, 'a number from 1', 'Ask for as many steps as are about to start.');
  end if;
  if p_allow_partial is null then
    perform stepquota._refuse_argument('p_allow_partial', null, 'true or false', 'false takes all or nothing.');
  end if;
  v_quota := stepquota._take_units(p_tenant, p_steps, p_allow_partial, false, v_now);
  perform stepquota._check_alerts(p_tenant, v_quota.period_start, v_quota.used_count, v_now);
  if v_quota.granted < p_steps and v_quota.remaining = 0 then
    perform stepquota._record_exhaustion(p_tenant, stepquota._describe_batch(v_quota), null, v_now);
  elsif v_quota.granted > 0 and v_quota.used_count > v_quota.effective_limit then
    perform stepquota._record_overrun(p_tenant, null, v_quota.used_count, v_quota.effective_limit,
      v_quota.period_start, v_now);
  end if;
  return v_quota;
end;
$reserve_workflow_steps$;

-- A batch's answer without its count.
create or replace function stepquota._describe_batch(p_quota stepquota.workflow_steps_quota)
returns stepquota.workflow_step_quota
language sql
immutable
as $_describe_batch$
  select (p_quota.allowed, p_quota.used_count, p_quota.effective_limit, p_quota.remaining, p_quota.period_start,
          p_quota.period_end, p_quota.period_source, p_quota.limit_source, p_quota.tier, p_quota.granted_units,
          p_quota.stripe_subscription_id)::stepquota.workflow_step_quota;
$_describe_batch$;

comment on function stepquota._take_unit(text, text, integer, timestamptz) is 'Takes one unit of the tenant''s quota by the long way, or says that none is free.';
comment on function stepquota._review_taken_unit(text, text, bigint, integer, bigint, bigint, timestamptz, timestamptz, text, text, text, timestamptz) is 'Counts and records what the short way leaves to do; answers the units used.';
comment on function stepquota._give_back_unit(text, timestamptz, integer) is 'Undoes a unit just taken from the home lane.';
comment on function stepquota._find_free_lane(text, timestamptz, integer, bigint) is 'A lane that nobody has and that has so many units left.';
comment on function stepquota._is_count_due(bigint, bigint, bigint, bigint, integer) is 'Whether an answer''s figures must be counted by looking at all lanes.';
comment on function stepquota._is_debugging() is 'Whether anybody listens to debug messages.';
comment on function stepquota._describe_taken_unit(stepquota.workflow_step_quotas, bigint, bigint) is 'The answer for a unit taken from a lane.';
comment on function stepquota._wait_for_lane(text, timestamptz, integer) is 'Waits until nobody has the lane.';
comment on function stepquota._take_unit_after_wait(text, timestamptz, integer, timestamptz) is 'Takes one unit from a tenant''s only lane, which is busy.';
comment on function stepquota._take_unit_from_lane(text, timestamptz, integer, integer, boolean, timestamptz) is 'Takes one unit from a lane, waiting for who has it.';
comment on function stepquota._take_unit_elsewhere(text, stepquota._found_quota, integer, timestamptz) is 'Takes one unit from any lane, or says that none is free.';
comment on function stepquota._debug_reservation(text, bigint, bigint, timestamptz, timestamptz, text, text, text) is 'One debug message a reservation.';
comment on function stepquota._record_exhaustion(text, stepquota.workflow_step_quota, text, timestamptz) is 'Records that a tenant was denied, once a period.';
comment on function stepquota.reserve_workflow_step(text) is
  'Takes one step of the tenant''s quota, in the caller''s transaction: rolled back with it. allowed = false is a denial, which is data and no error. For callers that keep their own ledger; others use start_workflow_step. WQ001 for a tenant that cannot be one.';
comment on function stepquota._take_units(text, integer, boolean, boolean, timestamptz) is 'Takes many units of the tenant''s quota.';
comment on function stepquota._take_units_from_lanes(text, timestamptz, integer, boolean, boolean) is 'Takes units from as many lanes as it needs.';
comment on function stepquota._describe_granted_units(stepquota.workflow_step_quotas, bigint, boolean) is 'The answer for a batch.';
comment on function stepquota._describe_batch(stepquota.workflow_steps_quota) is 'A batch''s answer without its count.';
comment on function stepquota.reserve_workflow_steps(text, integer, boolean) is
  'Takes p_steps steps of the tenant''s quota in one round trip, in the caller''s transaction: all or none; with p_allow_partial as many as are left. granted is how many. For callers that keep their own ledger. WQ001 bad arguments.';
