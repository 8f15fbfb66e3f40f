-- Counter against ledger, for one period.

-- One statement, so both sides are of one snapshot. Where this may write, units that nothing explains
-- are recorded, once a period, and batches of the period that were left open, once each.
-- Locks: none but such a batch, without waiting. SQLSTATEs: WQ001, WQ018.
create or replace function stepquota.reconcile_workflow_step_usage(p_tenant text, p_period_start timestamptz)
returns table (
  tenant text, period_start timestamptz, period_end timestamptz, counter_used_count bigint,
  ledger_step_count bigint, drift bigint, unledgered_count bigint)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reconcile_workflow_step_usage$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_batch_id uuid;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_period_start is null then
    perform stepquota._refuse_argument('p_period_start', null, 'a moment',
      'Pass the period_start that a reservation answered.');
  end if;
  select p_tenant, p_period_start, p.period_end, c.used_count, l.step_count, c.used_count - l.step_count,
         c.unledgered_count
    into tenant, period_start, period_end, counter_used_count, ledger_step_count, drift, unledgered_count
    from (select coalesce(sum(u.used_count), 0)::bigint as used_count,
                 coalesce(sum(u.unledgered_count), 0)::bigint as unledgered_count
            from stepquota.workflow_step_usage_lanes u
           where u.tenant = p_tenant and u.period_start = p_period_start) c
   cross join (select stepquota._host_count_steps(p_tenant, p_period_start) as step_count) l
    left join stepquota.workflow_step_usage_periods p
      on p.tenant = p_tenant and p.period_start = p_period_start
   where p.tenant is not null or c.used_count > 0 or l.step_count > 0;
  if not found then
    raise exception using
      errcode = 'WQ018',
      message = 'the tenant has no such period',
      detail = format('Tenant %L, period_start %s.', p_tenant, stepquota._format_moment(p_period_start)),
      hint = coalesce('Its latest periods start at ' || (
        select string_agg(stepquota._format_moment(s.period_start), ', ' order by s.period_start desc)
          from (select u.period_start from stepquota.workflow_step_usage_periods u
                 where u.tenant = p_tenant order by u.period_start desc limit 3) s) || '.',
        'It has used nothing yet.');
  end if;
  if drift <> unledgered_count and current_setting('transaction_read_only') = 'off' then
    perform stepquota._record_event_under_key(p_tenant, stepquota._make_once_key('usage_drift', p_period_start, null),
      'usage_drift', 'error', null,
      jsonb_build_object('counter_used_count', counter_used_count, 'ledger_step_count', ledger_step_count,
        'drift', drift, 'unledgered_count', unledgered_count, 'period_start', p_period_start), v_now);
  end if;
  if current_setting('transaction_read_only') = 'off' then
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
  return next;
end;
$reconcile_workflow_step_usage$;

comment on function stepquota.reconcile_workflow_step_usage(text, timestamptz) is
  'Compares counter and ledger of a period: counter_used_count, ledger_step_count, drift (counter minus ledger). unledgered_count are the units that reserve_workflow_step took, whose callers keep the ledger: drift minus unledgered_count is 0 when nothing is wrong. WQ001 bad arguments, WQ018 no such period.';
