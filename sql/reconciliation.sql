-- Counter against ledger: for one period, and of all tenants by and by.
--
-- Counter and ledger are written in one transaction, so a statement that reads both sees both sides of it
-- or none: clients may reserve meanwhile. Nothing here takes a lock that a reservation would meet.

-- Both sides of a tenant's periods (NULL: of all), in the snapshot of the statement that calls it.
create or replace function stepquota._compare_usage(
  p_tenant text, p_period_starts timestamptz[], p_ledgers stepquota.registered_ledgers[])
returns setof stepquota._compared_usage
language sql
stable
as $_compare_usage$
  with lanes as (
    select u.period_start, sum(u.used_count)::bigint as used_count, sum(u.unledgered_count)::bigint as unledgered_count,
           max(u.lane) + 1 <> count(*) or max(u.lane) >= max(q.lane_count) as has_stray_lane
      from stepquota.workflow_step_usage_lanes u
      left join stepquota.workflow_step_quotas q on q.tenant = u.tenant and q.period_start = u.period_start
     where u.tenant = p_tenant and (p_period_starts is null or u.period_start = any (p_period_starts))
     group by u.period_start
  ), steps as (
    select s.* from stepquota._host_summarize_steps(p_tenant, p_period_starts) s
  ), periods as (
    select p.period_start, p.period_end, p.purged_step_count
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and (p_period_starts is null or p.period_start = any (p_period_starts))
  ), batches as (
    select b.period_start, sum(b.granted_count)::bigint as granted_count
      from stepquota.workflow_step_batches b
     where b.tenant = p_tenant and b.closed_at is null
     group by b.period_start
  ), starts as (
    select l.period_start from lanes l union select s.period_start from steps s union select p.period_start from periods p
  )
  select k.period_start, p.period_end, p.period_start is not null, coalesce(l.used_count, 0),
         coalesce(l.unledgered_count, 0), coalesce(l.has_stray_lane, false), coalesce(s.step_count, 0),
         coalesce(s.duplicate_count, 0), coalesce(s.misplaced_count, 0), coalesce(p.purged_step_count, 0),
         case when cardinality(p_ledgers) > 0 then array(select r.ledger from unnest(p_ledgers) r) end,
         stepquota._count_registered_steps(p_ledgers, p_tenant, k.period_start, p.period_end),
         coalesce(b.granted_count, 0)
    from starts k
    left join lanes l on l.period_start = k.period_start
    left join steps s on s.period_start = k.period_start
    left join periods p on p.period_start = k.period_start
    left join batches b on b.period_start = k.period_start
   order by k.period_start;
$_compare_usage$;

-- The steps that the counter is to have counted with a row in our ledger: its rows, those that were purged,
-- and each attempt once.
create or replace function stepquota._count_ledgered_steps(p_usage stepquota._compared_usage)
returns bigint
language sql
immutable
as $_count_ledgered_steps$
  select p_usage.step_count - p_usage.duplicate_count + p_usage.purged_step_count;
$_count_ledgered_steps$;

-- What is wrong with a period, and with how many units. A period that is not known yet may be one that
-- somebody is opening: it is left alone for an hour.
create or replace function stepquota._classify_usage(p_usage stepquota._compared_usage, p_now timestamptz)
returns table (class text, ledger text, units bigint)
language sql
immutable
as $_classify_usage$
  select c.class, c.ledger, c.units
    from (values
      ('counter_ahead', 'workflow_run_steps',
       p_usage.used_count - p_usage.unledgered_count - stepquota._count_ledgered_steps(p_usage)),
      ('ledger_ahead', 'workflow_run_steps',
       stepquota._count_ledgered_steps(p_usage) - (p_usage.used_count - p_usage.unledgered_count)),
      ('wrong_period', 'workflow_run_steps',
       case when p_usage.is_known then p_usage.misplaced_count
            when p_usage.period_start <= p_now - interval '1 hour' then p_usage.step_count end),
      ('duplicate', 'workflow_run_steps', p_usage.duplicate_count),
      ('orphan_lane', 'workflow_run_steps',
       case when p_usage.has_stray_lane then greatest(p_usage.used_count, 1)
            when not p_usage.is_known and p_usage.period_start <= p_now - interval '1 hour' then p_usage.used_count end),
      ('reservation_without_ledger', array_to_string(p_usage.registered_ledgers, ', '),
       p_usage.unledgered_count - p_usage.open_batch_count - p_usage.registered_step_count),
      ('ledger_ahead', array_to_string(p_usage.registered_ledgers, ', '),
       p_usage.registered_step_count - p_usage.unledgered_count)
    ) as c (class, ledger, units)
   where c.units > 0;
$_classify_usage$;

-- Keeps what was found of a period, and closes what is gone. Each finding is recorded once, when it is new.
-- Answers how many there are. p_since is when all was well, as far as is known.
-- Locks: the period's open findings.
create or replace function stepquota._record_findings(
  p_tenant text, p_usage stepquota._compared_usage, p_since timestamptz, p_now timestamptz)
returns integer
language plpgsql
volatile
as $_record_findings$
declare
  v_found record;
  v_places jsonb;
  v_place record;
  v_details jsonb;
  v_finding_id bigint;
  v_open bigint[] := '{}'::bigint[];
begin
  for v_found in select f.* from stepquota._classify_usage(p_usage, p_now) f order by f.class, f.ledger loop
    select f.finding_id into v_finding_id
      from stepquota.reconciliation_findings f
     where f.tenant = p_tenant and f.period_start = p_usage.period_start and f.class = v_found.class
       and f.ledger = v_found.ledger and f.closed_at is null;
    if found then
      update stepquota.reconciliation_findings
         set units = v_found.units, seen_at = p_now
       where tenant = p_tenant and finding_id = v_finding_id;
    else
      v_places := '[]';
      if v_found.ledger = 'workflow_run_steps' then
        select coalesce(jsonb_agg(to_jsonb(s) order by s.hour, s.workflow), '[]') into v_places
          from stepquota._host_list_suspect_steps(p_tenant, p_usage.period_start, v_found.class,
                 coalesce(p_since, p_usage.period_start)) s;
      end if;
      select min((p.value ->> 'hour')::timestamptz) as hour,
             (array_agg(p.value ->> 'workflow' order by (p.value ->> 'step_count')::bigint desc))[1] as workflow,
             coalesce((select array_agg(distinct r.value) from jsonb_array_elements(v_places) x,
                       jsonb_array_elements_text(x.value -> 'run_ids') r), '{}') as run_ids
        into v_place
        from jsonb_array_elements(v_places) p;
      v_details := jsonb_build_object('counter_used_count', p_usage.used_count,
        'unledgered_count', p_usage.unledgered_count, 'ledger_step_count', p_usage.step_count,
        'purged_step_count', p_usage.purged_step_count, 'registered_step_count', p_usage.registered_step_count,
        'since', p_since, 'places', v_places);
      insert into stepquota.reconciliation_findings
        (tenant, period_start, class, ledger, units, hour, workflow, run_ids, details, found_at, seen_at)
      values (p_tenant, p_usage.period_start, v_found.class, v_found.ledger, v_found.units, v_place.hour,
        v_place.workflow, v_place.run_ids[:20], v_details, p_now, p_now)
      on conflict (tenant, period_start, class, ledger) where closed_at is null do nothing
      returning finding_id into v_finding_id;
      if found then
        perform stepquota._record_event(p_tenant, 'drift_found', 'error', null,
          jsonb_build_object('finding_id', v_finding_id, 'class', v_found.class, 'ledger', v_found.ledger,
            'units', v_found.units, 'period_start', p_usage.period_start, 'hour', v_place.hour,
            'workflow', v_place.workflow, 'run_ids', to_jsonb(v_place.run_ids[:20])), p_now);
      end if;
    end if;
    v_open := v_open || v_finding_id;
  end loop;
  -- What a registered ledger said is not gone because it cannot be read just now.
  update stepquota.reconciliation_findings f
     set closed_at = p_now
   where f.tenant = p_tenant and f.period_start = p_usage.period_start and f.closed_at is null
     and f.finding_id <> all (v_open)
     and (f.ledger = 'workflow_run_steps' or p_usage.registered_ledgers is not null
          or not exists (select 1 from stepquota.registered_ledgers));
  return cardinality(v_open);
end;
$_record_findings$;

-- SQLSTATEs: WQ018, always.
create or replace function stepquota._refuse_unknown_period(p_tenant text, p_period_start timestamptz)
returns void
language plpgsql
stable
as $_refuse_unknown_period$
begin
  raise exception using
    errcode = 'WQ018',
    message = 'the tenant has no such period',
    detail = format('Tenant %L, period_start %s.', p_tenant, stepquota._format_moment(p_period_start)),
    hint = coalesce('Its latest periods start at ' || (
      select string_agg(stepquota._format_moment(s.period_start), ', ' order by s.period_start desc)
        from (select u.period_start from stepquota.workflow_step_usage_periods u
               where u.tenant = p_tenant order by u.period_start desc limit 3) s) || '.',
      'It has used nothing yet.');
end;
$_refuse_unknown_period$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_period_start(p_period_start timestamptz)
returns void
language plpgsql
stable
as $_check_period_start$
begin
  if p_period_start is null then
    perform stepquota._refuse_argument('p_period_start', null, 'a moment',
      'Pass the period_start that a reservation answered.');
  end if;
end;
$_check_period_start$;

-- Where this may write, what is wrong is kept among the findings, and batches of the period that were left
-- open are recorded, once each.
-- Locks: open findings of the period; such a batch, without waiting; registered ledgers in ACCESS SHARE
-- mode, without waiting. SQLSTATEs: WQ001, WQ018.
create or replace function stepquota.reconcile_workflow_step_usage(p_tenant text, p_period_start timestamptz)
returns table (
  tenant text, period_start timestamptz, period_end timestamptz, counter_used_count bigint,
  ledger_step_count bigint, drift bigint, unledgered_count bigint, purged_step_count bigint,
  registered_ledgers text[], registered_step_count bigint)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reconcile_workflow_step_usage$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_ledgers stepquota.registered_ledgers[] := stepquota._find_readable_ledgers();
  v_usage stepquota._compared_usage;
  v_right_at timestamptz;
  v_batch_id uuid;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_period_start(p_period_start);
  select c.* into v_usage from stepquota._compare_usage(p_tenant, array[p_period_start], v_ledgers) c;
  if v_usage.is_known is null
     or not v_usage.is_known and v_usage.used_count = 0 and v_usage.step_count = 0 then
    perform stepquota._refuse_unknown_period(p_tenant, p_period_start);
  end if;
  if current_setting('transaction_read_only') = 'off' then
    select r.right_at into v_right_at from stepquota.reconciled_tenants r where r.tenant = p_tenant;
    perform stepquota._record_findings(p_tenant, v_usage, v_right_at, v_now);
    for v_batch_id in
      select b.batch_id
        from stepquota.workflow_step_batches b, stepquota.policy p
       where b.tenant = p_tenant and b.period_start = p_period_start and b.closed_at is null
         and b.reported_at is null and b.opened_at <= v_now - p.batch_open_for
       order by b.opened_at, b.batch_id
    loop
      perform stepquota._report_open_batch(p_tenant, v_batch_id, v_now);
    end loop;
  end if;
  tenant := p_tenant;
  period_start := p_period_start;
  period_end := v_usage.period_end;
  counter_used_count := v_usage.used_count;
  ledger_step_count := v_usage.step_count + v_usage.purged_step_count;
  drift := counter_used_count - ledger_step_count;
  unledgered_count := v_usage.unledgered_count;
  purged_step_count := v_usage.purged_step_count;
  registered_ledgers := v_usage.registered_ledgers;
  registered_step_count := v_usage.registered_step_count;
  return next;
end;
$reconcile_workflow_step_usage$;

-- All tenants ----------------------------------------------------------------------------------------

-- For reconcile_all: makes a watermark for tenants that have none, at most once in policy.reconcile_every
-- unless all are wanted, and answers which watermarks are old; NULL if all are wanted.
-- Locks: the scan_state row, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.begin_reconciliation(p_all boolean)
returns timestamptz
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $begin_reconciliation$
declare
  v_now timestamptz := stepquota._now();
  v_every interval := (select p.reconcile_every from stepquota.policy p);
begin
  perform stepquota._check_unbound();
  if p_all is null then
    perform stepquota._refuse_argument('p_all', null, 'true or false', 'false looks at those that are due.');
  end if;
  perform 1
     from stepquota.scan_state s
    where p_all or s.tenants_listed_at is null or s.tenants_listed_at > v_now or s.tenants_listed_at <= v_now - v_every
      for no key update of s skip locked;
  if found then
    update stepquota.scan_state set tenants_listed_at = v_now;
    insert into stepquota.reconciled_tenants (tenant)
    select t.tenant
      from (select u.tenant from stepquota.workflow_step_usage_lanes u
            union select q.tenant from stepquota.workflow_step_quotas q) t
     where not exists (select 1 from stepquota.reconciled_tenants r where r.tenant = t.tenant)
    on conflict (tenant) do nothing;
  end if;
  return case when not p_all then v_now - v_every end;
end;
$begin_reconciliation$;

-- For reconcile_all: tenants to look at next. With p_before those with a watermark from then or older, the
-- oldest first, without those given; without it all after the last of those given, by name.
-- SQLSTATEs: WQ001.
create or replace function stepquota.list_tenants_to_reconcile(
  p_limit integer, p_before timestamptz, p_without text[] default '{}')
returns setof text
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_tenants_to_reconcile$
begin
  perform stepquota._check_unbound();
  if p_limit is null or p_limit < 1 then
    perform stepquota._refuse_argument('p_limit', p_limit::text, 'a number from 1', 'It bounds one look.');
  end if;
  if p_without is null then
    perform stepquota._refuse_argument('p_without', null, 'an array of tenants', 'Pass ''{}'' to leave out nobody.');
  end if;
  if p_before is null then
    return query
      select r.tenant from stepquota.reconciled_tenants r
       where r.tenant > coalesce(p_without[cardinality(p_without)], '')
       order by r.tenant
       limit p_limit;
  else
    return query
      select r.tenant from stepquota.reconciled_tenants r
       where r.reconciled_at <= p_before and r.tenant <> all (p_without)
       order by r.reconciled_at, r.tenant
       limit p_limit;
  end if;
end;
$list_tenants_to_reconcile$;

-- Compares a tenant's periods: those that are not settled, those with open findings, or with p_all every
-- one; then moves its watermark. What goes wrong is kept in the watermark's row and takes nothing of the
-- other tenants with it. Answers how many findings are open, and NULL if somebody else is at it.
-- Locks: the tenant's watermark, without waiting; open findings. SQLSTATEs: WQ001.
create or replace function stepquota.reconcile_tenant(p_tenant text, p_all boolean default false)
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reconcile_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_state stepquota.reconciled_tenants;
  v_starts timestamptz[];
  v_compared timestamptz[] := '{}'::timestamptz[];
  v_ledgers stepquota.registered_ledgers[];
  v_usage stepquota._compared_usage;
  v_sqlstate text;
  v_message text;
  v_context text;
  v_open_count bigint;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_all is null then
    perform stepquota._refuse_argument('p_all', null, 'true or false', 'false passes over settled periods.');
  end if;
  select r.* into v_state from stepquota.reconciled_tenants r where r.tenant = p_tenant for no key update skip locked;
  if not found then
    insert into stepquota.reconciled_tenants (tenant) values (p_tenant) on conflict (tenant) do nothing;
    if not found then
      return null;
    end if;
    v_state.settled_until := '-infinity';
  end if;
  begin
    if not p_all and v_state.settled_until > '-infinity' then
      v_starts := array(
        select p.period_start from stepquota.workflow_step_usage_periods p
         where p.tenant = p_tenant and p.period_end > v_state.settled_until
        union
        select u.period_start from stepquota.workflow_step_usage_lanes u
         where u.tenant = p_tenant
           and not exists (
             select 1 from stepquota.workflow_step_usage_periods p
              where p.tenant = p_tenant and p.period_start = u.period_start)
        union
        select f.period_start from stepquota.reconciliation_findings f
         where f.tenant = p_tenant and f.closed_at is null);
    end if;
    v_ledgers := stepquota._find_readable_ledgers();
    for v_usage in select c.* from stepquota._compare_usage(p_tenant, v_starts, v_ledgers) c loop
      perform stepquota._record_findings(p_tenant, v_usage, v_state.right_at, v_now);
      v_compared := v_compared || v_usage.period_start;
    end loop;
    -- Periods of which nothing is left.
    update stepquota.reconciliation_findings
       set closed_at = v_now
     where tenant = p_tenant and closed_at is null and period_start <> all (v_compared);
    select count(*) into v_open_count
      from stepquota.reconciliation_findings f
     where f.tenant = p_tenant and f.closed_at is null;
    update stepquota.reconciled_tenants
       set reconciled_at = v_now, error = null,
           -- A step that began before the period's end may be committed for a while after it.
           settled_until = greatest(settled_until, v_now - interval '1 day'),
           right_at = case when v_open_count = 0 then v_now else right_at end
     where tenant = p_tenant;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text, v_context = pg_exception_context;
    update stepquota.reconciled_tenants
       set reconciled_at = v_now,
           error = jsonb_build_object('sqlstate', v_sqlstate, 'message', v_message, 'context', v_context)
     where tenant = p_tenant;
    raise warning using message = format('reconciling tenant %L failed: %s', p_tenant, v_message), detail = v_context;
  end;
  return v_open_count;
end;
$reconcile_tenant$;

create or replace function stepquota.get_maintenance_seconds()
returns integer
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $get_maintenance_seconds$
  select p.maintenance_seconds from stepquota.policy p;
$get_maintenance_seconds$;

-- Compares the tenants that are due (see policy.reconcile_every), the longest due first, for at most
-- policy.maintenance_seconds, and goes on there when it is called again. With p_all every tenant and every
-- period, to the end. A transaction a tenant. Must be called outside a transaction block.
-- Locks: as reconcile_tenant. SQLSTATEs: WQ001.
create or replace procedure stepquota.reconcile_all(p_all boolean default false)
language plpgsql
as $reconcile_all$
declare
  v_until pg_catalog.timestamptz;
  v_before pg_catalog.timestamptz;
  v_seen pg_catalog.text[] := '{}'::pg_catalog.text[];
  v_skipped pg_catalog.text[] := '{}'::pg_catalog.text[];
  v_tenants pg_catalog.text[];
  v_tenant text;
begin
  v_until := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => stepquota.get_maintenance_seconds());
  v_before := stepquota.begin_reconciliation(p_all);
  commit;
  loop
    v_tenants := array(select t from stepquota.list_tenants_to_reconcile(100, v_before, v_seen) t);
    exit when pg_catalog.cardinality(v_tenants) = 0;
    foreach v_tenant in array v_tenants loop
      if stepquota.reconcile_tenant(v_tenant, p_all) is null then
        v_skipped := v_skipped || v_tenant;
      end if;
      commit;
      exit when not p_all and pg_catalog.clock_timestamp() >= v_until;
    end loop;
    exit when not p_all and pg_catalog.clock_timestamp() >= v_until;
    v_seen := case when p_all then v_tenants else v_skipped end;
  end loop;
end;
$reconcile_all$;

comment on function stepquota._compare_usage(text, timestamptz[], stepquota.registered_ledgers[]) is 'Counter and ledgers of a tenant''s periods.';
comment on function stepquota._count_ledgered_steps(stepquota._compared_usage) is 'Steps that a period is to have counted with a row in our ledger.';
comment on function stepquota._classify_usage(stepquota._compared_usage, timestamptz) is 'What is wrong with a period: class, ledger, units.';
comment on function stepquota._record_findings(text, stepquota._compared_usage, timestamptz, timestamptz) is 'Keeps what was found of a period and closes what is gone; answers how many findings are open.';
comment on function stepquota._refuse_unknown_period(text, timestamptz) is 'Raises WQ018.';
comment on function stepquota._check_period_start(timestamptz) is 'Raises WQ001 for a period that is missing.';
comment on function stepquota.reconcile_workflow_step_usage(text, timestamptz) is
  'Compares counter and ledger of a period: counter_used_count, ledger_step_count (with purged_step_count, rows that retention deleted), drift (counter minus ledger). unledgered_count are the units that reserve_workflow_step took, whose callers keep the ledger: drift minus unledgered_count is 0 when nothing is wrong. registered_ledgers names those that it was compared with (NULL: none is registered), registered_step_count what they have. What is wrong is kept in reconciliation_findings. WQ001 bad arguments, WQ018 no such period.';
comment on function stepquota.begin_reconciliation(boolean) is 'For reconcile_all: looks for new tenants; answers which watermarks are old. WQ001 for NULL.';
comment on function stepquota.list_tenants_to_reconcile(integer, timestamptz, text[]) is 'For reconcile_all: tenants to look at next. WQ001 for a limit below 1 or a missing array.';
comment on function stepquota.reconcile_tenant(text, boolean) is
  'Compares a tenant''s periods that are not settled, with p_all every one, keeps what is wrong in reconciliation_findings and closes what is gone. Answers how many findings are open; NULL if it failed (reconciled_tenants.error) or somebody else was at it. WQ001 bad arguments.';
comment on function stepquota.get_maintenance_seconds() is 'For reconcile_all and purge: policy.maintenance_seconds.';
comment on procedure stepquota.reconcile_all(boolean) is
  'Compares counters and ledgers of the tenants that are due, the longest due first, for at most policy.maintenance_seconds; with p_all of every tenant and every period, to the end. What is wrong is in reconciliation_findings and a drift_found event. Commits; CALL it outside a transaction block; tick() does. WQ001 for NULL.';
