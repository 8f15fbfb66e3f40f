-- The recurring work: the scan that resumes what can go on, and tick(), which does all that is due.
--
-- A procedure that commits may be neither SECURITY DEFINER nor pin a search_path, so resume_scan and
-- tick are bare loops over granted functions, one tenant at a time, which hold the exception blocks.

create or replace function stepquota.begin_resume_scan()
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $begin_resume_scan$
declare
  v_now timestamptz := stepquota._now();
  v_scan_id bigint;
begin
  perform stepquota._check_unbound();
  perform stepquota._mark_edited_tenants(v_now);
  insert into stepquota.resume_scans (started_at) values (v_now) returning scan_id into v_scan_id;
  return v_scan_id;
end;
$begin_resume_scan$;

-- Inputs edited by hand announce themselves to nobody. At most once in policy.staleness, paused tenants
-- whose inputs are not what they were when they were last compared are marked due, also those that were
-- never compared; so are those who have units left all the same (raised by a REPEATABLE READ transaction
-- that could not see them paused, or no longer suspended), and tenants with open quota waits that are not
-- among the paused ones, a part of the queue each time. Exhaustions whose record was skipped are made up
-- for.
-- Locks: the scan_state row, without waiting; paused_tenants and quota rows, without waiting.
create or replace function stepquota._mark_edited_tenants(p_now timestamptz)
returns void
language plpgsql
volatile
as $_mark_edited_tenants$
declare
  v_part constant integer := 200;
  v_looked_at_to text;
  v_queued text[];
  v_paused record;
begin
  select s.queue_looked_at_to into v_looked_at_to
    from stepquota.scan_state s, stepquota.policy p
   where s.inputs_compared_at is null or s.inputs_compared_at > p_now
      or s.inputs_compared_at <= p_now - p.staleness
     for no key update of s skip locked;
  if not found then
    return;
  end if;
  v_queued := array(select stepquota._host_list_queued_tenants(v_looked_at_to, v_part));
  update stepquota.scan_state
     set inputs_compared_at = p_now,
         queue_looked_at_to = case when cardinality(v_queued) = v_part then v_queued[v_part] else '' end;

  insert into stepquota.paused_tenants (tenant, due_at, paused_at)
  select w.tenant, p_now, p_now
    from unnest(v_queued) as w (tenant)
   where not exists (select 1 from stepquota.paused_tenants t where t.tenant = w.tenant)
  on conflict (tenant) do nothing;

  for v_paused in
    select c.tenant, c.inputs_hash, c.is_edited or c.has_units_left as is_due, not c.is_recorded as is_missed
      from (select t.tenant, h.inputs_hash,
                   h.known_hash is distinct from h.inputs_hash or q.tenant is null as is_edited,
                   -- Where the mark says that all is used up, it need not be counted.
                   q.effective_limit is null or q.enforcement = 'shadow'
                     or q.exhausted_at_count is null
                        and stepquota._sum_usage(q.tenant, q.period_start) < q.effective_limit as has_units_left,
                   coalesce(q.reported_period_start = q.period_start and 'quota_exhausted' = any (q.reported), false)
                     as is_recorded
              from stepquota.paused_tenants t
              join stepquota._list_input_hashes(true) h on h.tenant = t.tenant
              left join stepquota.workflow_step_quotas q on q.tenant = t.tenant
             where t.due_at > p_now
            offset 0) c
     where c.is_edited or c.has_units_left or not c.is_recorded
     order by c.tenant
  loop
    if v_paused.is_due then
      perform 1 from stepquota.paused_tenants t where t.tenant = v_paused.tenant for no key update skip locked;
      if found then
        update stepquota.paused_tenants set due_at = p_now, inputs_hash = v_paused.inputs_hash
         where tenant = v_paused.tenant;
      end if;
    end if;
    if v_paused.is_missed then
      perform stepquota._record_missed_exhaustion(v_paused.tenant, p_now);
    end if;
  end loop;
end;
$_mark_edited_tenants$;

create or replace function stepquota._record_missed_exhaustion(p_tenant text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_missed_exhaustion$
declare
  v_summary stepquota.workflow_step_quota;
begin
  v_summary := stepquota._summarize_quota((select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
  if not v_summary.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_summary, null, p_now);
  end if;
end;
$_record_missed_exhaustion$;

-- Tenants to look at now, longest due first, without those given.
create or replace function stepquota.list_due_tenants(p_limit integer, p_without text[] default '{}')
returns setof text
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_due_tenants$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  if p_limit is null or p_limit < 1 then
    perform stepquota._refuse_argument('p_limit', p_limit::text, 'a number from 1', 'It bounds one look.');
  end if;
  if p_without is null then
    perform stepquota._refuse_argument('p_without', null, 'an array of tenants', 'Pass ''{}'' to leave out nobody.');
  end if;
  return query
    select t.tenant from stepquota.paused_tenants t
     where t.due_at <= v_now and t.tenant <> all (p_without)
     order by t.due_at, t.tenant
     limit p_limit;
end;
$list_due_tenants$;

-- One tenant's turn in a scan. What goes wrong with it is answered, with all that PostgreSQL says, and
-- takes nothing of the other tenants with it.
-- Locks: the quota row without waiting (another scan or a change has it: busy); then as _resume_tenant.
create or replace function stepquota.resume_due_tenant(
  p_tenant text, p_max_runs integer, out runs_resumed integer, out skipped_because text, out error jsonb)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resume_due_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_result record;
  v_sqlstate text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
  v_schema text;
  v_table text;
  v_column text;
  v_constraint text;
  v_type text;
begin
  perform stepquota._check_unbound();
  perform stepquota._check_tenant(p_tenant);
  if p_max_runs is null or p_max_runs < 1 then
    perform stepquota._refuse_argument('p_max_runs', p_max_runs::text, 'a number from 1', 'It bounds one tenant''s turn.');
  end if;
  runs_resumed := 0;
  begin
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update skip locked;
    if not found and exists (select 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant) then
      skipped_because := 'busy';
      return;
    end if;
    v_result := stepquota._resume_tenant(stepquota._refresh_quota(p_tenant, v_now), p_max_runs, 'scan', v_now);
    runs_resumed := v_result.runs_resumed;
    skipped_because := v_result.skipped_because;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text,
      v_detail = pg_exception_detail, v_hint = pg_exception_hint, v_context = pg_exception_context,
      v_schema = schema_name, v_table = table_name, v_column = column_name, v_constraint = constraint_name,
      v_type = pg_datatype_name;
    runs_resumed := 0;
    skipped_because := 'error';
    error := jsonb_build_object('tenant', p_tenant, 'sqlstate', v_sqlstate, 'message', v_message,
      'detail', v_detail, 'hint', v_hint, 'context', v_context, 'schema', v_schema, 'table', v_table,
      'column', v_column, 'constraint', v_constraint, 'datatype', v_type);
    raise warning using message = format('resuming tenant %L failed: %s', p_tenant, v_message),
      detail = error::text;
  end;
end;
$resume_due_tenant$;

create or replace function stepquota.finish_resume_scan(
  p_scan_id bigint, p_tenants_seen integer, p_runs_resumed integer, p_skipped jsonb, p_errors jsonb)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_resume_scan$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  if p_scan_id is null or p_tenants_seen is null or p_runs_resumed is null or p_skipped is null
     or jsonb_typeof(p_errors) is distinct from 'array' then
    perform stepquota._refuse_argument('each argument', null, 'what resume_scan counted, p_errors an array',
      'Only resume_scan calls this, with the p_scan_id that begin_resume_scan answered.');
  end if;
  update stepquota.resume_scans
     set finished_at = v_now, tenants_seen = p_tenants_seen, runs_resumed = p_runs_resumed,
         skipped = p_skipped, errors = p_errors
   where scan_id = p_scan_id and finished_at is null;
  if jsonb_array_length(p_errors) > 0 then
    perform stepquota._record_event('', 'scan_failed_for_tenants', 'error', null,
      jsonb_build_object('scan_id', p_scan_id, 'errors', p_errors), v_now);
  end if;
end;
$finish_resume_scan$;

create or replace function stepquota.get_scan_seconds()
returns integer
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $get_scan_seconds$
  select p.scan_seconds from stepquota.policy p;
$get_scan_seconds$;

-- Resumes what can go on: at most p_batch_size resumptions in one transaction, tenants in turns, until
-- nothing more can go on or policy.scan_seconds are over. Must be called outside a transaction block.
-- Locks: in each transaction quota rows and runs, none of them waiting. SQLSTATEs: WQ001.
create or replace procedure stepquota.resume_scan(p_batch_size integer default 100)
language plpgsql
as $resume_scan$
declare
  v_until pg_catalog.timestamptz;
  v_scan_id bigint;
  v_round_seen pg_catalog.text[];
  v_done pg_catalog.text[] := '{}'::pg_catalog.text[];
  v_tenants pg_catalog.text[];
  v_tenant text;
  v_result record;
  v_batch_left integer;
  v_round_resumed integer;
  v_runs_resumed integer := 0;
  v_tenants_seen integer := 0;
  v_skipped pg_catalog.jsonb := '{}'::pg_catalog.jsonb;
  v_errors pg_catalog.jsonb := '[]'::pg_catalog.jsonb;
  v_is_first_round boolean := true;
begin
  perform stepquota.check_batch_size(p_batch_size);
  v_until := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => stepquota.get_scan_seconds());
  v_scan_id := stepquota.begin_resume_scan();
  commit;
  loop  -- rounds: each due tenant gets one turn in each
    v_round_seen := '{}';
    v_round_resumed := 0;
    loop  -- transactions
      v_tenants := array(select t from stepquota.list_due_tenants(p_batch_size, v_round_seen || v_done) t);
      exit when pg_catalog.cardinality(v_tenants) = 0;
      v_batch_left := p_batch_size;
      foreach v_tenant in array v_tenants loop
        exit when v_batch_left <= 0;
        v_result := stepquota.resume_due_tenant(v_tenant,
          least(v_batch_left, greatest(1, p_batch_size / pg_catalog.cardinality(v_tenants))));
        v_round_seen := v_round_seen || v_tenant;
        v_batch_left := v_batch_left - v_result.runs_resumed;
        v_round_resumed := v_round_resumed + v_result.runs_resumed;
        if v_result.runs_resumed = 0 then
          v_done := v_done || v_tenant;
        end if;
        if v_is_first_round then
          v_tenants_seen := v_tenants_seen + 1;
          if v_result.skipped_because is not null and v_result.runs_resumed = 0 then
            v_skipped := v_skipped || pg_catalog.jsonb_build_object(v_result.skipped_because,
              coalesce((v_skipped ->> v_result.skipped_because)::integer, 0) + 1);
          end if;
        end if;
        if v_result.error is not null then
          v_errors := v_errors || v_result.error;
        end if;
      end loop;
      commit;
      exit when pg_catalog.clock_timestamp() >= v_until;
    end loop;
    v_runs_resumed := v_runs_resumed + v_round_resumed;
    v_is_first_round := false;
    exit when v_round_resumed = 0 or pg_catalog.clock_timestamp() >= v_until;
  end loop;
  perform stepquota.finish_resume_scan(v_scan_id, v_tenants_seen, v_runs_resumed, v_skipped, v_errors);
  commit;
end;
$resume_scan$;

-- Raises WQ001. Granted, since resume_scan runs with its caller's rights.
create or replace function stepquota.check_batch_size(p_batch_size integer)
returns void
language plpgsql
stable
-- Definer: raises through an internal function.
security definer
set search_path = pg_catalog, pg_temp
as $check_batch_size$
begin
  if p_batch_size is null or p_batch_size not between 1 and 100000 then
    perform stepquota._refuse_argument('p_batch_size', p_batch_size::text, 'a number from 1 to 100000',
      'It bounds one transaction; 100 is usual.');
  end if;
end;
$check_batch_size$;

-- For watch: looks for inputs edited by hand, if the last look is long enough ago; and says when there is
-- something to do next for the scan, for tenants other than these. NULL is never.
-- Locks: as _mark_edited_tenants. SQLSTATEs: WQ001.
create or replace function stepquota.find_next_due_tenant(p_without text[] default '{}')
returns timestamptz
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $find_next_due_tenant$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  if p_without is null then
    perform stepquota._refuse_argument('p_without', null, 'an array of tenants', 'Pass ''{}'' to leave out nobody.');
  end if;
  perform stepquota._mark_edited_tenants(v_now);
  return (
    select t.due_at from stepquota.paused_tenants t
     where t.tenant <> all (p_without)
     order by t.due_at
     limit 1);
end;
$find_next_due_tenant$;

-- For watch: when the next wait resolves by itself. NULL is never.
create or replace function stepquota.find_next_due_wait()
returns timestamptz
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $find_next_due_wait$
  select stepquota._check_unbound();
  select stepquota._host_find_next_due_at();
$find_next_due_wait$;

-- For watch: how long until then, in seconds; NULL is never, 0 or less is now.
create or replace function stepquota.count_seconds_until(p_moment timestamptz)
returns double precision
language sql
volatile
-- Definer: reads the policy of the test clock.
security definer
set search_path = pg_catalog, pg_temp
as $count_seconds_until$
  -- Moments without end have a difference only as numbers.
  select (extract(epoch from p_moment) - extract(epoch from stepquota._now()))::double precision;
$count_seconds_until$;

-- Does what is due when it is due: resolves waits and runs the scan, for so many seconds, and sleeps in
-- between, never longer than a second, since others may mark tenants due at any time. No lock is held
-- while it sleeps, and no snapshot for long. Tenants that a scan could not finish with, since somebody was
-- at them or for an error, are tried again after a second, then after two, and so on up to 16.
-- Must be called outside a transaction block. Locks: as resume_scan. SQLSTATEs: WQ001.
create or replace procedure stepquota.watch(p_seconds integer default 55)
language plpgsql
as $watch$
declare
  v_until pg_catalog.timestamptz;
  v_left pg_catalog.text[] := '{}'::pg_catalog.text[];
  v_patience integer := 1;
  v_retry_at pg_catalog.timestamptz;
  v_tenant_in double precision;
  v_wait_in double precision;
  v_wake_at pg_catalog.timestamptz;
begin
  perform stepquota.check_watch_seconds(p_seconds);
  v_until := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => p_seconds);
  loop
    v_wait_in := stepquota.count_seconds_until(stepquota.find_next_due_wait());
    commit;
    while v_wait_in <= 0 loop
      exit when stepquota.resolve_due_waits(100) = 0;
      commit;
    end loop;
    if v_retry_at <= pg_catalog.clock_timestamp() then
      v_left := '{}';
      v_retry_at := null;
    end if;
    perform stepquota.confirm_workflow_step_quotas();
    commit;
    v_tenant_in := stepquota.count_seconds_until(stepquota.find_next_due_tenant(v_left));
    commit;
    if v_tenant_in <= 0 then
      call stepquota.resume_scan();
      v_left := array(select t from stepquota.list_due_tenants(1000) t);
      v_patience := case when v_left = '{}' then 1 else least(v_patience * 2, 16) end;
      v_retry_at := case when v_left <> '{}'
        then pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => v_patience / 2.0) end;
      v_tenant_in := stepquota.count_seconds_until(stepquota.find_next_due_tenant(v_left));
      commit;
    end if;
    v_wait_in := stepquota.count_seconds_until(stepquota.find_next_due_wait());
    commit;
    exit when pg_catalog.clock_timestamp() >= v_until;
    -- A wait that is due and was not resolved has a run that somebody is at.
    v_wake_at := pg_catalog.clock_timestamp() + pg_catalog.make_interval(
      secs => greatest(0.05, least(1, v_tenant_in, case when v_wait_in <= 0 then 0.5 else v_wait_in end)));
    -- In naps: whoever sleeps has a snapshot, and while somebody has an old one no dead version of a lane
    -- can be cleared away. A second of that made the lanes of a busy installation a hundred times as large.
    while pg_catalog.clock_timestamp() < v_wake_at loop
      perform pg_catalog.pg_sleep(0.05);
      commit;
    end loop;
  end loop;
end;
$watch$;

-- Raises WQ001. Granted, since watch runs with its caller's rights.
create or replace function stepquota.check_watch_seconds(p_seconds integer)
returns void
language plpgsql
stable
-- Definer: raises through an internal function.
security definer
set search_path = pg_catalog, pg_temp
as $check_watch_seconds$
begin
  if p_seconds is null or p_seconds not between 1 and 3600 then
    perform stepquota._refuse_argument('p_seconds', p_seconds::text, 'a number from 1 to 3600',
      '55 is usual, called every minute.');
  end if;
end;
$check_watch_seconds$;

-- All that is due: waits whose time has come, alerts that could not be recorded at once, changes of
-- shared prices, the scan, the ledger's partitions ahead, batches that were left open or are long
-- closed, the order of new events, samples of usage, the order of list_tenants, old events of Stripe, a part
-- of reconciling and purging. For any scheduler, every minute or every five; safe to call at any time, also twice at once.
create or replace procedure stepquota.tick()
language plpgsql
as $tick$
declare
  v_tenant text := '';
begin
  loop
    exit when stepquota.resolve_due_waits(100) = 0;
    commit;
  end loop;
  commit;
  loop
    v_tenant := stepquota.record_due_alerts(v_tenant);
    commit;
    exit when v_tenant is null;
  end loop;
  loop
    exit when stepquota.spread_stripe_changes(1000) = 0;
    commit;
  end loop;
  commit;
  perform stepquota.confirm_workflow_step_quotas();
  commit;
  call stepquota.resume_scan();
  perform stepquota.make_ledger_partitions();
  commit;
  loop
    exit when stepquota.tend_workflow_step_batches(10000) < 10000;
    commit;
  end loop;
  commit;
  loop
    exit when stepquota.order_quota_events(10000) < 10000;
    commit;
  end loop;
  commit;
  loop
    exit when stepquota.tend_stripe_events(10000) < 10000;
    commit;
  end loop;
  commit;
  loop
    exit when stepquota.sample_workflow_step_usage(10000) < 10000;
    commit;
  end loop;
  commit;
  loop
    exit when stepquota.summarize_tenants(10000) < 10000;
    commit;
  end loop;
  commit;
  call stepquota.reconcile_all();
  call stepquota.purge();
end;
$tick$;

comment on function stepquota.begin_resume_scan() is 'For resume_scan: looks for inputs edited by hand and opens the scan''s row; answers its id.';
comment on function stepquota._mark_edited_tenants(timestamptz) is 'Marks paused tenants due whose inputs were edited by hand.';
comment on function stepquota._record_missed_exhaustion(text, timestamptz) is 'Records an exhaustion whose record was skipped.';
comment on function stepquota.list_due_tenants(integer, text[]) is 'For resume_scan: paused tenants to look at now, longest due first, without those given.';
comment on function stepquota.resume_due_tenant(text, integer) is
  'For resume_scan: one tenant''s turn. Answers how many runs it resumed, why it was skipped (quota_exhausted, no_capacity, tenant_suspended, operator_hold, busy, error) and the error. WQ001 for a tenant that cannot be one.';
comment on function stepquota.finish_resume_scan(bigint, integer, integer, jsonb, jsonb) is 'For resume_scan: closes the scan''s row.';
comment on function stepquota.get_scan_seconds() is 'For resume_scan: policy.scan_seconds.';
comment on function stepquota.check_batch_size(integer) is 'For resume_scan: raises WQ001 unless the batch size is from 1 to 100000.';
comment on procedure stepquota.resume_scan(integer) is
  'Resumes paused runs whose tenants have quota again: at most p_batch_size resumptions a transaction, tenants in turns, until nothing more can go on or policy.scan_seconds are over. Commits; CALL it outside a transaction block. Its result is a row of resume_scans. WQ001 for a batch size outside 1 to 100000.';
comment on function stepquota.find_next_due_tenant(text[]) is 'For watch: looks for inputs edited by hand, and answers when the scan has something to do next, without these tenants; NULL is never. WQ001 for NULL.';
comment on function stepquota.find_next_due_wait() is 'For watch: when the next wait resolves by itself; NULL is never.';
comment on function stepquota.count_seconds_until(timestamptz) is 'For watch: how many seconds it is until then, by the clock of stepquota; NULL for NULL.';
comment on function stepquota.check_watch_seconds(integer) is 'For watch: raises WQ001 unless it is from 1 to 3600.';
comment on procedure stepquota.watch(integer) is
  'Resolves waits and resumes runs when it is time, within about a second, for p_seconds (1 to 3600; 55). Call it every minute, beside tick(). Commits; CALL it outside a transaction block. WQ001 for another number of seconds.';
comment on procedure stepquota.tick() is
  'All due work: due waits, alerts, changes of shared prices, resume_scan, ledger partitions, batches, events, samples of usage, old events of Stripe, a part of reconcile_all and of purge. Commits; CALL it outside a transaction block, from pg_cron or any other scheduler.';
