-- Retention: what is old enough is deleted, a bounded part in each transaction. How long what is kept are
-- policies. What is deleted of the ledger stays counted in its period's summary, which is kept for ever.
--
-- Ended runs go with the month they were registered in: when all runs of the month have ended and are old
-- enough, its table is detached and dropped at once. Only where a run lives on in an old month, the others
-- of it are deleted row by row.

-- The months of the ledger that are old enough, and whether each can be dropped. Not the one in which runs
-- are that an application had before it adopted stepquota: new ones may come to be in it, so it is purged run
-- by run. (The month is the default that pyshim/stepquota/adoption.py gives the column; a test compares.)
create or replace function stepquota._list_old_ledger_months(p_now timestamptz)
returns table (month date, partition name, is_free boolean)
language sql
stable
as $_list_old_ledger_months$
  select m.month, m.partition, not stepquota._host_has_run_after(m.month, p_now - p.ended_runs_kept_for)
    from (select c.relname as partition, to_date(substring(c.relname from '[0-9]{4}_[0-9]{2}$'), 'YYYY_MM') as month
            from pg_catalog.pg_inherits i
            join pg_catalog.pg_class c on c.oid = i.inhrelid
           where i.inhparent = 'stepquota.workflow_run_steps'::pg_catalog.regclass
             and c.relname ~ '^workflow_run_steps_[0-9]{4}_[0-9]{2}$') m
   cross join stepquota.policy p
   where m.month < stepquota._ledger_month(p_now - p.ended_runs_kept_for) and m.month > date '2000-01-01'
   order by m.month;
$_list_old_ledger_months$;

-- Adds to a period's count of purged steps. A period that nobody knows gets a row, of a month, so that the
-- count is kept.
-- Locks: the period's row.
create or replace function stepquota._add_purged_steps(
  p_tenant text, p_period_start timestamptz, p_step_count bigint, p_now timestamptz)
returns void
language plpgsql
volatile
as $_add_purged_steps$
begin
  update stepquota.workflow_step_usage_periods p
     set purged_step_count = p.purged_step_count + p_step_count
   where p.tenant = p_tenant and p.period_start = p_period_start;
  if not found then
    insert into stepquota.workflow_step_usage_periods
      (tenant, period_start, period_end, period_source, created_at, purged_step_count)
    values (p_tenant, p_period_start, p_period_start + interval '1 month', 'fallback_calendar', p_now, p_step_count);
  end if;
end;
$_add_purged_steps$;

-- Summarises a month of the ledger and drops its table, all in this transaction; answers whether it did.
-- Everybody who writes the ledger is kept out for the moment of the dropping only, and if that cannot be
-- had at once, everything is undone, for a later time.
-- Locks: the month's table against writing; its periods' rows; then the ledger in ACCESS EXCLUSIVE mode.
-- None for longer than lock_timeout, so whoever waits the other way round goes on.
create or replace function stepquota._drop_ledger_month(p_month date, p_partition name, p_now timestamptz)
returns boolean
language plpgsql
volatile
set lock_timeout = '300ms'
as $_drop_ledger_month$
declare
  v_counted record;
begin
  execute format('lock table stepquota.%I in share row exclusive mode', p_partition);
  for v_counted in select c.* from stepquota._host_count_month_steps(p_month) c order by c.tenant, c.period_start loop
    perform stepquota._add_purged_steps(v_counted.tenant, v_counted.period_start, v_counted.step_count, p_now);
  end loop;
  execute format('alter table stepquota.workflow_run_steps detach partition stepquota.%I', p_partition);
  execute format('drop table stepquota.%I', p_partition);
  return true;
exception when lock_not_available or deadlock_detected then
  return false;
end;
$_drop_ledger_month$;

-- Deletes ended runs of old months that cannot be dropped, or were: at most so many rows of the ledger,
-- and so many runs. Answers how many of both.
-- Locks: the runs, without waiting; then their periods' rows.
create or replace function stepquota._purge_ended_runs(p_max_rows integer, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_purge_ended_runs$
declare
  v_until timestamptz := p_now - (select p.ended_runs_kept_for from stepquota.policy p);
  v_to_drop date[] := array(select m.month from stepquota._list_old_ledger_months(p_now) m where m.is_free);
  v_old record;
  v_run stepquota.workflow_runs;
  v_gone record;
  v_left bigint := p_max_rows;
  v_count bigint := 0;
begin
  for v_old in
    select r.tenant, r.run_id, r.ledger_month, r.is_gone
      from stepquota._host_list_ended_runs((stepquota._ledger_month(v_until) - interval '1 month')::date, v_to_drop,
             v_until, p_max_rows) r
     order by r.tenant, r.run_id
  loop
    if not v_old.is_gone then
      v_run := stepquota._host_lock_run_if_free(v_old.tenant, v_old.run_id);
      -- An application may have let it go on meanwhile.
      continue when v_run.run_id is null or v_run.ended_at is null;
    end if;
    for v_gone in select s.* from stepquota._host_delete_steps(v_old.tenant, v_old.run_id, v_old.ledger_month, v_left) s loop
      perform stepquota._add_purged_steps(v_old.tenant, v_gone.period_start, v_gone.step_count, p_now);
      v_left := v_left - v_gone.step_count;
      v_count := v_count + v_gone.step_count;
    end loop;
    exit when v_left <= 0;  -- the run may have more steps, for the next time
    delete from stepquota.workflow_run_resumptions p where p.tenant = v_old.tenant and p.run_id = v_old.run_id;
    perform stepquota._host_delete_run(v_old.tenant, v_old.run_id);
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$_purge_ended_runs$;

-- Deletes old events: at most so many. One that a consumer has yet to get, or has got and not
-- acknowledged, is kept for longer.
-- Locks: the events; purge_state, which the caller holds.
create or replace function stepquota._purge_events(p_max_rows integer, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_purge_events$
declare
  v_old record;
  v_count bigint := 0;
begin
  for v_old in
    select o.tenant, array_agg(o.event_id) as event_ids, max(o.created_at) as created_at
      from (select e.tenant, e.event_id, e.created_at
              from stepquota.quota_events e, stepquota.policy p
             where e.created_at <= p_now - p.events_kept_for
               and (e.created_at <= p_now - p.unclaimed_events_kept_for
                 or not exists (
                      select 1 from stepquota.quota_event_consumers c
                       where e.created_at >= c.start_at and (e.position is null or e.position > c.position)
                         and (c.event_types is null or e.event_type = any (c.event_types)))
                    and not exists (select 1 from stepquota.quota_event_claims l where l.event_id = e.event_id))
             order by e.created_at
             limit p_max_rows) o
     group by o.tenant
     order by o.tenant
  loop
    delete from stepquota.quota_events e where e.tenant = v_old.tenant and e.event_id = any (v_old.event_ids);
    update stepquota.purge_state s set events_purged_until = greatest(s.events_purged_until, v_old.created_at);
    v_count := v_count + cardinality(v_old.event_ids);
  end loop;
  return v_count;
end;
$_purge_events$;

-- Deletes closed findings that are old: at most so many.
create or replace function stepquota._purge_findings(p_max_rows integer, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_purge_findings$
declare
  v_old record;
  v_count bigint := 0;
begin
  for v_old in
    select o.tenant, array_agg(o.finding_id) as finding_ids
      from (select f.tenant, f.finding_id
              from stepquota.reconciliation_findings f, stepquota.policy p
             where f.closed_at <= p_now - p.events_kept_for
             order by f.closed_at
             limit p_max_rows) o
     group by o.tenant
     order by o.tenant
  loop
    delete from stepquota.reconciliation_findings f
     where f.tenant = v_old.tenant and f.finding_id = any (v_old.finding_ids);
    v_count := v_count + cardinality(v_old.finding_ids);
  end loop;
  return v_count;
end;
$_purge_findings$;

-- Deletes what is old of one kind, at most so many rows, and answers how many; 0 also when somebody else
-- purges. ledger_months: drops one month.
-- Locks: the one row of purge_state, without waiting; then as the functions above. SQLSTATEs: WQ001.
create or replace function stepquota.purge_rows(p_kind text, p_max_rows integer default 1000)
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $purge_rows$
declare
  v_now timestamptz := stepquota._now();
  v_policy stepquota.policy;
  v_state stepquota.purge_state;
  v_old record;
  v_count bigint := 0;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_one_of('p_kind', p_kind, array['ledger_months', 'ended_runs', 'logs', 'events', 'findings', 'scans']);
  if p_max_rows is null or p_max_rows < 1 then
    perform stepquota._refuse_argument('p_max_rows', p_max_rows::text, 'a number from 1', 'It bounds one transaction; 1000 is usual.');
  end if;
  select s.* into v_state from stepquota.purge_state s for no key update skip locked;
  if not found then
    return 0;
  end if;
  select p.* into v_policy from stepquota.policy p;
  if p_kind = 'ledger_months' then
    if v_state.drop_tried_at > v_now - interval '10 minutes' and v_state.drop_tried_at <= v_now then
      return 0;
    end if;
    for v_old in select m.* from stepquota._list_old_ledger_months(v_now) m where m.is_free order by m.month limit 1 loop
      v_count := stepquota._drop_ledger_month(v_old.month, v_old.partition, v_now)::integer;
      update stepquota.purge_state set drop_tried_at = case when v_count = 0 then v_now end;
    end loop;
  elsif p_kind = 'ended_runs' then
    v_count := stepquota._purge_ended_runs(p_max_rows, v_now);
  elsif p_kind = 'logs' then
    v_count := stepquota._host_delete_logs(v_now - v_policy.logs_kept_for, p_max_rows);
  elsif p_kind = 'events' then
    v_count := stepquota._purge_events(p_max_rows, v_now);
  elsif p_kind = 'findings' then
    v_count := stepquota._purge_findings(p_max_rows, v_now);
  else
    -- The latest stays: status() tells by it whether the scan is alive.
    delete from stepquota.resume_scans s
     where s.scan_id in (
             select o.scan_id from (select i.scan_id, i.started_at from stepquota.resume_scans i
                                     order by i.scan_id limit p_max_rows) o
              where o.started_at <= v_now - v_policy.scans_kept_for)
       and s.scan_id < (select max(i.scan_id) from stepquota.resume_scans i where i.finished_at is not null);
    get diagnostics v_count = row_count;
    if v_count < p_max_rows then
      update stepquota.purge_state set purged_at = v_now;
    end if;
  end if;
  return v_count;
end;
$purge_rows$;

create or replace function stepquota.get_cron_history_cutoff()
returns timestamptz
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $get_cron_history_cutoff$
declare
  v_now timestamptz := stepquota._now();
begin
  return v_now - (select p.cron_history_kept_for from stepquota.policy p);
end;
$get_cron_history_cutoff$;

-- Deletes pg_cron's history of our own jobs, of the calling role and this database, at most so many rows;
-- answers how many. Nobody else's, and nothing where pg_cron is missing or may not be used. With its
-- caller's rights: pg_cron shows each role its own.
-- SQLSTATEs: WQ001.
create or replace function stepquota.purge_cron_history(p_max_rows integer default 1000)
returns bigint
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $purge_cron_history$
declare
  v_before timestamptz;
  v_table regclass;
  v_count bigint;
begin
  if p_max_rows is null or p_max_rows < 1 then
    raise exception using
      errcode = 'WQ001',
      message = 'p_max_rows must be a number from 1',
      detail = format('p_max_rows is %s.', coalesce(p_max_rows::text, 'NULL')),
      hint = 'It bounds one transaction; 1000 is usual.';
  end if;
  if not exists (select 1 from pg_extension e where e.extname = 'pg_cron')
     or not has_schema_privilege('cron', 'usage') then
    return 0;
  end if;
  v_table := to_regclass('cron.job_run_details');
  if v_table is null or not (has_table_privilege(v_table, 'select') and has_table_privilege(v_table, 'delete')) then
    return 0;
  end if;
  v_before := stepquota.get_cron_history_cutoff();
  execute format(
    'delete from %I.job_run_details d where d.runid in ('
    'select o.runid from %I.job_run_details o join %I.job j on j.jobid = o.jobid'
    ' where j.jobname = any ($1) and j.username = current_user and j.database = current_database()'
    ' and o.username = current_user and o.database = current_database()'
    ' and coalesce(o.end_time, o.start_time) < $2 order by o.runid limit $3)', 'cron', 'cron', 'cron')
    using array(select j.job_name from stepquota.list_cron_jobs('') j), v_before, p_max_rows;
  get diagnostics v_count = row_count;
  return v_count;
end;
$purge_cron_history$;

-- Deletes what is old, kind by kind, p_batch_size rows a transaction, for at most
-- policy.maintenance_seconds, and goes on there when it is called again. Must be called outside a
-- transaction block.
-- Locks: as purge_rows. SQLSTATEs: WQ001.
create or replace procedure stepquota.purge(p_batch_size integer default 1000)
language plpgsql
as $purge$
declare
  v_until pg_catalog.timestamptz;
  v_kind text;
  v_count bigint;
begin
  perform stepquota.check_batch_size(p_batch_size);
  v_until := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => stepquota.get_maintenance_seconds());
  foreach v_kind in array '{ledger_months,ended_runs,logs,events,findings,scans,cron_history}'::pg_catalog.text[] loop
    loop
      if v_kind = 'cron_history' then
        v_count := stepquota.purge_cron_history(p_batch_size);
      else
        v_count := stepquota.purge_rows(v_kind, p_batch_size);
      end if;
      commit;
      exit when v_count = 0 or pg_catalog.clock_timestamp() >= v_until;
    end loop;
    exit when pg_catalog.clock_timestamp() >= v_until;
  end loop;
end;
$purge$;

comment on function stepquota._list_old_ledger_months(timestamptz) is 'Months of the ledger that are old enough, and whether each can be dropped.';
comment on function stepquota._add_purged_steps(text, timestamptz, bigint, timestamptz) is 'Adds to a period''s count of purged steps.';
comment on function stepquota._drop_ledger_month(date, name, timestamptz) is 'Summarises a month of the ledger and drops it; answers whether it did.';
comment on function stepquota._purge_ended_runs(integer, timestamptz) is 'Deletes ended runs of old months, with their steps; answers how many rows.';
comment on function stepquota._purge_events(integer, timestamptz) is 'Deletes old events; answers how many.';
comment on function stepquota._purge_findings(integer, timestamptz) is 'Deletes old closed findings; answers how many.';
comment on function stepquota.purge_rows(text, integer) is
  'For purge: deletes what is old of one kind (ledger_months: drops one month; ended_runs, logs, events, findings, scans), at most p_max_rows; answers how many, 0 also when somebody else purges. WQ001 for another kind or a number below 1.';
comment on function stepquota.get_cron_history_cutoff() is 'For purge_cron_history: what is older may go (policy cron_history_kept_for).';
comment on function stepquota.purge_cron_history(integer) is
  'For purge: deletes pg_cron''s history of our own jobs, scheduled by the calling role in this database, after policy cron_history_kept_for; answers how many rows. WQ001 for a number below 1.';
comment on procedure stepquota.purge(integer) is
  'Deletes what is older than its policy says (ended_runs_kept_for, logs_kept_for, events_kept_for, unclaimed_events_kept_for, scans_kept_for, cron_history_kept_for): p_batch_size rows a transaction, for at most policy.maintenance_seconds. Old months of the ledger are dropped at once. Commits; CALL it outside a transaction block; tick() does. WQ001 for a batch size outside 1 to 100000.';
