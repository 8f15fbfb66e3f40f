-- Batches: units for many threads or tasks of one process, taken in one call and handed out by the
-- process. Each is a row, written in the transaction that takes the units, so that what a process took
-- and never handed out is known: given back when the batch is closed, or found when nobody closes it.

-- Takes up to p_steps units, as many as are left, and opens a batch of them; where none is left there is
-- no batch. Batches before it are closed in the same round trip, first, so that what was not handed out
-- of them can be taken again; one that is not open is passed over. The same p_batch_id again takes
-- nothing: it answers what it got, so that a caller that lost its connection can ask what became of the
-- call. Meant to be committed at once.
-- Locks: the batches to close; the quota row and all lanes in key order if units come back from them;
-- then as _take_units. SQLSTATEs: WQ001, WQ026; 55P03 under lock_timeout; 40001 when the same batch is
-- being opened by somebody else, and under REPEATABLE READ and SERIALIZABLE.
create or replace function stepquota.open_workflow_step_batch(
  p_tenant text, p_batch_id uuid, p_steps integer, p_holder text,
  p_close_batch_ids uuid[] default null, p_close_handed_out bigint[] default null)
returns stepquota.workflow_steps_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
-- Generic plans: every statement goes by a key.
set plan_cache_mode = force_generic_plan
as $open_workflow_step_batch$
declare
  v_now timestamptz := stepquota._now();
  v_batch stepquota.workflow_step_batches;
  v_quota stepquota.workflow_steps_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_batch_id is null then
    perform stepquota._refuse_argument('p_batch_id', null, 'a uuid', 'Make a new one for each batch.');
  end if;
  if p_steps is null or p_steps < 1 then
    perform stepquota._refuse_argument('p_steps', p_steps::text, 'a number from 1', 'Ask for as many steps as are about to start.');
  end if;
  perform stepquota._check_name('p_holder', p_holder);
  if stepquota._has_null(p_close_batch_ids) then
    perform stepquota._refuse_argument('p_close_batch_ids', p_close_batch_ids::text, 'an array of uuids',
      'Pass the batches that are done with; none is NULL.');
  end if;
  if coalesce(cardinality(p_close_handed_out), 0) <> coalesce(cardinality(p_close_batch_ids), 0)
     or stepquota._has_null(p_close_handed_out) or 0 > any (p_close_handed_out) then
    perform stepquota._refuse_argument('p_close_handed_out', p_close_handed_out::text,
      'as many numbers from 0 as p_close_batch_ids has', 'Pass how many units of each batch were handed out.');
  end if;
  for v_place in 1 .. coalesce(cardinality(p_close_batch_ids), 0) loop
    perform stepquota._close_batch(p_tenant, p_close_batch_ids[v_place], 'p_close_handed_out', p_close_handed_out[v_place], v_now);
  end loop;
  select b.* into v_batch
    from stepquota.workflow_step_batches b
   where b.tenant = p_tenant and b.batch_id = p_batch_id;
  if found then
    return stepquota._describe_opened_batch(v_batch, v_now);
  end if;
  v_quota := stepquota._take_units(p_tenant, p_steps, true, false, v_now);
  perform stepquota._check_alerts(p_tenant, v_quota.period_start, v_quota.used_count, v_now);
  if v_quota.granted > 0 then
    insert into stepquota.workflow_step_batches (tenant, batch_id, period_start, granted_count, holder, opened_at)
    values (p_tenant, p_batch_id, v_quota.period_start, v_quota.granted, p_holder, v_now)
    on conflict (tenant, batch_id) do nothing;
    if not found then
      -- Its first call was still under way, and has committed now. The units taken here go back with
      -- the transaction.
      raise exception using
        errcode = '40001',
        message = 'the batch was opened by another call at the same time',
        detail = format('Tenant %L, batch %s.', p_tenant, p_batch_id),
        hint = 'Run the transaction again: it will answer what that call got.';
    end if;
  end if;
  if v_quota.granted < p_steps and v_quota.remaining = 0 then
    perform stepquota._record_exhaustion(p_tenant, stepquota._describe_batch(v_quota), null, v_now);
  elsif v_quota.granted > 0 and v_quota.used_count > v_quota.effective_limit then
    perform stepquota._record_overrun(p_tenant, null, v_quota.used_count, v_quota.effective_limit,
      v_quota.period_start, v_now);
  end if;
  return v_quota;
end;
$open_workflow_step_batch$;

-- What a batch got when it was opened, with the figures of now. SQLSTATEs: WQ026.
create or replace function stepquota._describe_opened_batch(p_batch stepquota.workflow_step_batches, p_now timestamptz)
returns stepquota.workflow_steps_quota
language plpgsql
volatile
as $_describe_opened_batch$
declare
  v_quota stepquota.workflow_step_quotas;
  v_answer stepquota.workflow_steps_quota;
begin
  if p_batch.closed_at is not null then
    perform stepquota._refuse_closed_batch(p_batch);
  end if;
  v_quota := (stepquota._find_quota(p_batch.tenant, p_now)).quota;
  v_answer := stepquota._describe_granted_units(v_quota, p_batch.granted_count, true);
  if p_batch.period_start <> v_quota.period_start then
    select p.period_start, p.period_end, p.period_source, p.effective_limit
      into v_answer.period_start, v_answer.period_end, v_answer.period_source, v_answer.effective_limit
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_batch.tenant and p.period_start = p_batch.period_start;
    v_answer.used_count := stepquota._sum_usage(p_batch.tenant, p_batch.period_start);
    v_answer.remaining := stepquota._count_units_left(v_answer.effective_limit, v_answer.used_count);
  end if;
  return v_answer;
end;
$_describe_opened_batch$;

-- Always raises WQ026.
create or replace function stepquota._refuse_closed_batch(p_batch stepquota.workflow_step_batches)
returns void
language plpgsql
stable
as $_refuse_closed_batch$
begin
  raise exception using
    errcode = 'WQ026',
    message = 'the batch is closed',
    detail = format('Tenant %L, batch %s: closed at %s with %s of %s units handed out, %s given back.', p_batch.tenant,
      p_batch.batch_id, stepquota._format_moment(p_batch.closed_at), p_batch.handed_out_count, p_batch.granted_count,
      p_batch.returned_count),
    hint = 'Its units are accounted for. Open another batch for more.';
end;
$_refuse_closed_batch$;

-- Says how many units of a batch were handed out. The rest is given back if the batch's period is still
-- the tenant's; else it stays counted, and the row says so. The same again changes nothing.
-- Locks: the batch; the quota row and all lanes in key order if units come back. SQLSTATEs: WQ001,
-- WQ025, WQ026; 55P03 under lock_timeout.
create or replace function stepquota.close_workflow_step_batch(p_tenant text, p_batch_id uuid, p_handed_out bigint)
returns stepquota.workflow_step_batches
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $close_workflow_step_batch$
declare
  v_now timestamptz := stepquota._now();
  v_batch stepquota.workflow_step_batches;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_handed_out is null or p_handed_out < 0 then
    perform stepquota._refuse_argument('p_handed_out', p_handed_out::text, 'a number from 0',
      'Pass how many steps were started with the units of the batch.');
  end if;
  perform stepquota._close_batch(p_tenant, p_batch_id, 'p_handed_out', p_handed_out, v_now);
  select b.* into v_batch
    from stepquota.workflow_step_batches b
   where b.tenant = p_tenant and b.batch_id = p_batch_id;
  if not found then
    raise exception using
      errcode = 'WQ025',
      message = 'the tenant has no such batch',
      detail = format('Tenant %L, batch %s.', p_tenant, coalesce(p_batch_id::text, 'NULL')),
      hint = 'list_open_workflow_step_batches() has the open ones; closed ones are deleted after policy.closed_batches_kept_for.';
  end if;
  if v_batch.handed_out_count <> p_handed_out then
    perform stepquota._refuse_closed_batch(v_batch);
  end if;
  return v_batch;
end;
$close_workflow_step_batch$;

-- Closes a batch if it is open.
-- Locks: the batch; then as _return_units. SQLSTATEs: WQ001.
create or replace function stepquota._close_batch(
  p_tenant text, p_batch_id uuid, p_parameter text, p_handed_out bigint, p_now timestamptz)
returns void
language plpgsql
volatile
as $_close_batch$
declare
  v_batch stepquota.workflow_step_batches;
begin
  -- The usual case in one statement. That it is open is said by a column without an index of its own:
  -- the primary key is the way to it at any size of the table.
  update stepquota.workflow_step_batches b
     set handed_out_count = p_handed_out, returned_count = 0, closed_at = p_now
   where b.tenant = p_tenant and b.batch_id = p_batch_id and b.handed_out_count is null
     and b.granted_count = p_handed_out;
  if found then
    return;
  end if;
  select b.* into v_batch
    from stepquota.workflow_step_batches b
   where b.tenant = p_tenant and b.batch_id = p_batch_id
     for no key update;
  if not found or v_batch.closed_at is not null then
    return;
  end if;
  if p_handed_out > v_batch.granted_count then
    perform stepquota._refuse_argument(p_parameter, p_handed_out::text,
      format('at most the %s units of the batch', v_batch.granted_count),
      format('Batch %s was granted no more: check which batch it is.', p_batch_id));
  end if;
  v_batch.returned_count := stepquota._return_units(p_tenant, v_batch.period_start,
    v_batch.granted_count - p_handed_out, p_now);
  update stepquota.workflow_step_batches b
     set handed_out_count = p_handed_out, returned_count = v_batch.returned_count, closed_at = p_now
   where b.tenant = p_tenant and b.batch_id = p_batch_id;
end;
$_close_batch$;

-- Gives units back to the period they were counted in, if that is still the tenant's, and answers how
-- many. They are taken off the lanes that counted units without a ledger row, and the lanes dealt anew,
-- so that together they own the limit again.
-- Locks: the quota row FOR NO KEY UPDATE, waiting; all lanes in key order, waiting.
create or replace function stepquota._return_units(
  p_tenant text, p_period_start timestamptz, p_units bigint, p_now timestamptz)
returns bigint
language plpgsql
volatile
as $_return_units$
declare
  v_quota stepquota.workflow_step_quotas := stepquota._lock_and_refresh_quota(p_tenant, p_now);
  v_returned bigint;
begin
  if v_quota.period_start <> p_period_start then
    return 0;
  end if;
  perform 1 from stepquota.workflow_step_usage_lanes l
    where l.tenant = p_tenant and l.period_start = p_period_start
    order by l.tenant, l.period_start, l.lane
      for no key update;
  -- A statement of its own: what the lanes' last holders committed is visible only now.
  select least(p_units, coalesce(sum(l.unledgered_count), 0)) into v_returned
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start;
  update stepquota.workflow_step_usage_lanes l
     set used_count = l.used_count - t.returned, unledgered_count = l.unledgered_count - t.returned
    from (select r.lane, least(r.unledgered_count, v_returned - r.before)::bigint as returned
            from (select i.lane, i.unledgered_count,
                         coalesce(sum(i.unledgered_count)
                           over (order by i.lane rows between unbounded preceding and 1 preceding), 0) as before
                    from stepquota.workflow_step_usage_lanes i
                   where i.tenant = p_tenant and i.period_start = p_period_start) r
           where r.before < v_returned and r.unledgered_count > 0) t
   where l.tenant = p_tenant and l.period_start = p_period_start and l.lane = t.lane;
  perform stepquota._deal_lanes(p_tenant, p_period_start, stepquota._get_lane_limit(v_quota));
  if v_quota.effective_limit is null or stepquota._sum_usage(p_tenant, p_period_start) < v_quota.effective_limit then
    update stepquota.workflow_step_quotas q set exhausted_at_count = null
     where q.tenant = p_tenant and q.exhausted_at_count is not null;
    update stepquota.paused_tenants t set due_at = p_now where t.tenant = p_tenant and t.due_at > p_now;
  end if;
  return v_returned;
end;
$_return_units$;

-- The open batches, the oldest first. One that is_overdue was left by a process that died: of its units
-- at most those in granted_count are counted without a step.
-- Takes no locks.
create or replace function stepquota.list_open_workflow_step_batches()
returns table (
  tenant text, batch_id uuid, period_start timestamptz, granted_count bigint, holder text,
  opened_at timestamptz, is_overdue boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_open_workflow_step_batches$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_unbound();
  return query
    select b.tenant, b.batch_id, b.period_start, b.granted_count, b.holder, b.opened_at,
           b.opened_at <= v_now - p.batch_open_for
      from stepquota.workflow_step_batches b, stepquota.policy p
     where b.closed_at is null
     order by b.opened_at, b.tenant, b.batch_id;
end;
$list_open_workflow_step_batches$;

-- For tick(): records the batches that were left open, each once, and deletes closed ones that are old
-- enough, at most p_max_rows of each. Answers how many it did of both: fewer than p_max_rows means
-- that no more are left.
-- Locks: the batches' rows. SQLSTATEs: WQ001.
create or replace function stepquota.tend_workflow_step_batches(p_max_rows integer default 10000)
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $tend_workflow_step_batches$
declare
  v_now timestamptz := stepquota._now();
  v_policy stepquota.policy;
  v_old record;
  v_count bigint := 0;
begin
  perform stepquota._check_unbound();
  if p_max_rows is null or p_max_rows < 1 then
    perform stepquota._refuse_argument('p_max_rows', p_max_rows::text, 'a number from 1', 'It bounds one transaction; 10000 is usual.');
  end if;
  select p.* into v_policy from stepquota.policy p;
  for v_old in
    select b.tenant, b.batch_id
      from stepquota.workflow_step_batches b
     where b.closed_at is null and b.reported_at is null and b.opened_at <= v_now - v_policy.batch_open_for
     order by b.opened_at, b.tenant, b.batch_id
     limit p_max_rows
  loop
    if stepquota._report_open_batch(v_old.tenant, v_old.batch_id, v_now) then
      v_count := v_count + 1;
    end if;
  end loop;
  for v_old in
    select o.tenant, array_agg(o.batch_id) as batch_ids
      from (select b.tenant, b.batch_id
              from stepquota.workflow_step_batches b
             where b.closed_at < v_now - v_policy.closed_batches_kept_for
             order by b.closed_at
             limit p_max_rows) o
     group by o.tenant
     order by o.tenant
  loop
    delete from stepquota.workflow_step_batches b
     where b.tenant = v_old.tenant and b.batch_id = any (v_old.batch_ids);
    v_count := v_count + cardinality(v_old.batch_ids);
  end loop;
  return v_count;
end;
$tend_workflow_step_batches$;

-- Records that a batch was left open, unless that was done or somebody is at it; answers whether it did.
-- Locks: the batch, without waiting.
create or replace function stepquota._report_open_batch(p_tenant text, p_batch_id uuid, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_report_open_batch$
declare
  v_batch stepquota.workflow_step_batches;
begin
  select b.* into v_batch
    from stepquota.workflow_step_batches b
   where b.tenant = p_tenant and b.batch_id = p_batch_id and b.closed_at is null and b.reported_at is null
     for no key update skip locked;
  if not found then
    return false;
  end if;
  perform stepquota._record_event(p_tenant, 'batch_left_open', 'warning', null,
    jsonb_build_object('batch_id', p_batch_id, 'period_start', v_batch.period_start,
      'granted_count', v_batch.granted_count, 'holder', v_batch.holder, 'opened_at', v_batch.opened_at), p_now);
  update stepquota.workflow_step_batches b set reported_at = p_now
   where b.tenant = p_tenant and b.batch_id = p_batch_id;
  return true;
end;
$_report_open_batch$;

comment on function stepquota.open_workflow_step_batch(text, uuid, integer, text, uuid[], bigint[]) is
  'Takes up to p_steps steps of the tenant''s quota, as many as are left, for a process that hands them out itself, and closes the batches that are done with. granted is how many; with 0 no batch is opened. The same p_batch_id again takes nothing and answers what it got. Commit it at once; the Python package''s Reserver does all of this. WQ001 bad arguments, WQ026 the batch is closed.';
comment on function stepquota._describe_opened_batch(stepquota.workflow_step_batches, timestamptz) is 'What a batch got, with the figures of now.';
comment on function stepquota._refuse_closed_batch(stepquota.workflow_step_batches) is 'Raises WQ026.';
comment on function stepquota.close_workflow_step_batch(text, uuid, bigint) is
  'Closes a batch: p_handed_out of its units were used, the rest is given back if the batch''s period is still the tenant''s. The same again changes nothing. Answers the row. WQ001 more handed out than granted, WQ025 no such batch, WQ026 closed with another count.';
comment on function stepquota._close_batch(text, uuid, text, bigint, timestamptz) is 'Closes a batch if it is open.';
comment on function stepquota._return_units(text, timestamptz, bigint, timestamptz) is 'Gives units back to the current period; answers how many.';
comment on function stepquota.list_open_workflow_step_batches() is
  'Batches of units that a process took and has not closed: tenant, batch_id, period_start, granted_count, holder, opened_at, is_overdue. One that is overdue (policy batch_open_for) was left by a process that died.';
comment on function stepquota.tend_workflow_step_batches(integer) is
  'For tick: records batches that were left open, and deletes closed ones after policy.closed_batches_kept_for. Answers how many of both, at most p_max_rows of each. WQ001 for a number below 1.';
comment on function stepquota._report_open_batch(text, uuid, timestamptz) is 'Records once that a batch was left open.';
