-- How is it wired, and is it alive? Cheap enough for every minute; verify_all() is the thorough one.

create or replace function stepquota.status()
returns table (item text, state text, detail text, hint text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $status$
declare
  v_now timestamptz := stepquota._now();
  v_policy stepquota.policy;
  v_job stepquota.scheduler_jobs;
  v_scan stepquota.resume_scans;
  v_resumption stepquota.workflow_run_resumptions;
  v_missing text;
  v_count bigint;
  v_by_session bigint;
  v_oldest timestamptz;
  v_stripe record;
  -- The feeders' moments are the real clock's.
  v_clock timestamptz := clock_timestamp();
  v_failed bigint;
begin
  perform stepquota._check_unbound();
  select p.* into v_policy from stepquota.policy p;

  item := 'version';
  state := 'ok';
  detail := format('stepquota %s on PostgreSQL %s', stepquota.version(), current_setting('server_version'));
  hint := null;
  return next;

  item := 'clock';
  if v_policy.allow_test_clock then
    state := 'warn';
    detail := format('the test clock is allowed; now is %s', stepquota._format_moment(v_now));
    hint := 'Outside tests: update stepquota.policy set allow_test_clock = false;';
  else
    state := 'ok';
    detail := 'the database''s clock decides';
    hint := null;
  end if;
  return next;

  item := 'roles';
  select string_agg(r.name, ', ') into v_missing
    from unnest(array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer']) as r (name)
   where not exists (select 1 from pg_roles p where p.rolname = r.name);
  state := case when v_missing is null then 'ok' else 'info' end;
  detail := coalesce('missing: ' || v_missing, 'all four are there');
  hint := case when v_missing is not null
    then 'Optional. A role with CREATEROLE makes them; migrate again grants to them.' end;
  return next;

  item := 'bound roles';
  select count(*), count(*) filter (where b.tenant = ''),
         string_agg(format('%s: %s', b.role, b.problem), '; ' order by b.role) filter (where b.problem is not null)
    into v_count, v_by_session, v_missing
    from stepquota.list_tenant_role_bindings() b;
  if cardinality(coalesce(v_policy.bound_roles, '{}')) <> v_count then
    v_missing := 'the policy row does not name them as tenant_role_bindings does';
  end if;
  state := case when v_missing is not null then 'warn' else 'ok' end;
  detail := coalesce(v_missing, case when v_count = 0 then 'none' else concat_ws(', ',
    case when v_count > v_by_session then format('%s to a tenant each', v_count - v_by_session) end,
    case when v_by_session > 0 then format('%s to the tenant that its session names', v_by_session) end) end);
  hint := case when v_missing is not null
    then 'Bind such a role anew by its present name, or unbind it: unbind_tenant_role, bind_tenant_role.' end;
  return next;

  item := 'default tier';
  if exists (select 1 from stepquota.tiers t where t.tier = v_policy.default_tier) then
    state := 'ok';
    detail := v_policy.default_tier;
    hint := null;
  else
    state := 'error';
    detail := format('%s does not exist: tenants without a plan of their own get WQ019', v_policy.default_tier);
    hint := format('Make it with stepquota.set_tier_limit(%L, a number of steps), or set policy default_tier to another.', v_policy.default_tier);
  end if;
  return next;

  item := 'scheduler';
  select j.* into v_job from stepquota.scheduler_jobs j order by j.job_name limit 1;
  select s.* into v_scan from stepquota.resume_scans s where s.finished_at is not null order by s.scan_id desc limit 1;
  if v_scan.scan_id is null then
    state := 'warn';
    detail := case when v_job.job_name is null then 'nothing is scheduled and no scan has run'
      else format('pg_cron runs %s at %L; no scan has run yet', v_job.job_name, v_job.schedule) end;
    hint := 'Schedule it: select * from stepquota.enable_cron(); or let any scheduler run: call stepquota.tick();';
  else
    state := case when v_now - v_scan.finished_at > interval '15 minutes' then 'warn' else 'ok' end;
    detail := format('%s; the last scan ended at %s and resumed %s runs',
      case when v_job.job_name is null then 'not by enable_cron'
        else format('pg_cron runs %s at %L as %s', v_job.job_name, v_job.schedule, v_job.scheduled_by) end,
      stepquota._format_moment(v_scan.finished_at), v_scan.runs_resumed);
    hint := case when state = 'warn' then 'No scan for over 15 minutes: look at cron.job_run_details, or call stepquota.tick() by hand.' end;
  end if;
  return next;

  item := 'last scan errors';
  v_count := coalesce(jsonb_array_length(v_scan.errors), 0);
  state := case when v_count > 0 then 'error' else 'ok' end;
  detail := case when v_count > 0 then format('%s tenants failed, first: %s', v_count, v_scan.errors #>> '{0,message}')
    else 'none' end;
  hint := case when v_count > 0
    then format('select errors from stepquota.resume_scans where scan_id = %s;', v_scan.scan_id) end;
  return next;

  item := 'ledger partitions';
  select string_agg(to_char(m.month, 'YYYY-MM'), ', ' order by m.month) into v_missing
    from generate_series(stepquota._ledger_month(v_now), stepquota._ledger_month(v_now) + interval '3 months',
           interval '1 month') as m (month)
   where to_regclass('stepquota.workflow_run_steps_' || to_char(m.month, 'YYYY_MM')) is null;
  state := case when v_missing is null then 'ok' else 'warn' end;
  detail := coalesce('missing: ' || v_missing, 'three months ahead are made');
  hint := case when v_missing is not null then 'Run: select stepquota.make_ledger_partitions(); tick() does it too.' end;
  return next;

  item := 'paused tenants';
  select count(*), min(t.due_at) into v_count, v_oldest from stepquota.paused_tenants t;
  state := case when v_oldest < v_now - interval '15 minutes' then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'none' else format('%s; the next is due at %s', v_count, stepquota._format_moment(v_oldest)) end;
  hint := case when state = 'warn' then 'The scan is behind: see scheduler.' end;
  return next;

  item := 'resumptions';
  select count(*), min(r.created_at) into v_count, v_oldest
    from stepquota.workflow_run_resumptions r where r.status = 'OPEN';
  state := case when v_oldest < v_now - interval '15 minutes' then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'all taken'
    else format('%s to be taken, the oldest since %s', v_count, stepquota._format_moment(v_oldest)) end;
  hint := case when state = 'warn'
    then 'No runtime takes them: do workers call claim_workflow_run_resumptions for their runtime?' end;
  return next;

  item := 'stuck resumptions';
  select count(*) into v_count
    from stepquota.workflow_run_resumptions r
   where r.status = 'OPEN' and stepquota._is_stuck(r, v_policy.stuck_after_deliveries);
  select r.* into v_resumption
    from stepquota.workflow_run_resumptions r
   where r.status = 'OPEN' and stepquota._is_stuck(r, v_policy.stuck_after_deliveries)
   order by r.created_at, r.tenant, r.resumption_id
   limit 1;
  state := case when v_count > 0 then 'error' else 'ok' end;
  detail := case when v_count = 0 then 'none'
    else format('%s, the first of tenant %s, run %s', v_count, v_resumption.tenant, v_resumption.run_id) end;
  hint := case when v_count > 0
    then format('See why its workers do not start it. Then: select stepquota.redeliver_workflow_run_resumption(%L, %L);',
      v_resumption.tenant, v_resumption.resumption_id) end;
  return next;

  item := 'open batches';
  select count(*), min(b.opened_at) into v_count, v_oldest
    from stepquota.workflow_step_batches b where b.closed_at is null;
  state := case when v_oldest <= v_now - v_policy.batch_open_for then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'none' else format('%s, the oldest since %s', v_count, stepquota._format_moment(v_oldest)) end;
  hint := case when state = 'warn'
    then 'A process died with units it had not handed out: select * from stepquota.list_open_workflow_step_batches();' end;
  return next;

  item := 'event consumers';
  select count(*), min(c.claimed_at), string_agg(format('%s (claimed %s, %s behind, %s not acknowledged)', c.consumer,
           stepquota._format_moment(c.claimed_at), greatest(o.last_position - c.position, 0),
           (select count(*) from stepquota.quota_event_claims l where l.consumer = c.consumer)), ', ' order by c.claimed_at, c.consumer)
    into v_count, v_oldest, v_missing
    from stepquota.quota_event_consumers c, stepquota.quota_event_order o;
  state := case when v_oldest < v_now - interval '1 hour' then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'none' else v_missing end;
  hint := case when state = 'warn'
    then 'One has not claimed for over an hour: start it, or select stepquota.remove_quota_event_consumer(''its name'');' end;
  return next;

  item := 'stripe sync';
  select h.* into v_stripe from stepquota.stripe_sync_health() h;
  state := case
    when v_stripe.livemode is null then 'info'
    when v_stripe.dead_events > 0 then 'error'
    when v_stripe.oldest_pending_at < v_clock - interval '5 minutes'
      or coalesce(v_stripe.last_catch_up_at, '-infinity') < v_clock - interval '15 minutes'
      or coalesce(v_stripe.last_full_sync_at, '-infinity') < v_clock - interval '26 hours' then 'warn'
    else 'ok' end;
  detail := case when v_stripe.livemode is null then 'not set up'
    else format('%s events to work off, %s dead; last catch-up %s, last full sync %s', v_stripe.pending_events,
      v_stripe.dead_events, coalesce(stepquota._format_moment(v_stripe.last_catch_up_at), 'never'),
      coalesce(stepquota._format_moment(v_stripe.last_full_sync_at), 'never')) end;
  hint := case
    when v_stripe.livemode is null then 'Only if the mirror is filled from Stripe: docs/stripe.md says how.'
    when state <> 'ok' then 'stepquota stripe check says what is wrong.' end;
  return next;

  item := 'reconciliation';
  select count(*) into v_count from stepquota.reconciliation_findings f where f.closed_at is null;
  select min(r.reconciled_at), count(*) filter (where r.error is not null) into v_oldest, v_failed
    from stepquota.reconciled_tenants r;
  state := case when v_count > 0 or v_failed > 0 then 'error'
    when v_oldest < v_now - 3 * v_policy.reconcile_every and v_scan.started_at < v_now - v_policy.reconcile_every then 'warn'
    else 'ok' end;
  detail := case when v_count > 0 then format('%s open findings', v_count)
    when v_failed > 0 then format('%s tenants could not be compared', v_failed)
    when v_oldest is null then 'no tenant was compared yet'
    when v_oldest = '-infinity' then 'nothing is wrong, and some tenants are yet to be compared'
    else format('nothing is wrong; every tenant was compared since %s', stepquota._format_moment(v_oldest)) end;
  hint := case when v_count > 0 then 'select * from stepquota.reconciliation_findings where closed_at is null;'
    when v_failed > 0 then 'select tenant, error from stepquota.reconciled_tenants where error is not null;'
    when state = 'warn' then 'tick() does not get to it: raise policy maintenance_seconds, or call stepquota.reconcile_all(true);' end;
  return next;

  item := 'retention';
  select string_agg(to_char(m.month, 'YYYY-MM'), ', ' order by m.month) into v_missing
    from stepquota._list_old_ledger_months(v_now) m where not m.is_free;
  select s.drop_tried_at into v_oldest from stepquota.purge_state s;
  state := case when v_oldest is not null then 'warn' when v_missing is not null then 'info' else 'ok' end;
  detail := case when v_oldest is not null
      then format('a month of the ledger could not be dropped at %s', stepquota._format_moment(v_oldest))
    else coalesce('months kept since runs of theirs go on, or ended lately: ' || v_missing, 'no old month of the ledger is left') end;
  hint := case when state = 'warn' then 'A long transaction reads or writes the ledger; it is tried again every ten minutes.'
    when state = 'info' then 'Look at runs of those months that have no ended_at: cancel_workflow_run ends one that goes on.' end;
  return next;
end;
$status$;

comment on function stepquota.status() is
  'Wiring and health, a row an item: item, state (ok, info, warn, error), detail, hint (what to do; NULL when ok). Cheap; verify_all() checks the invariants.';
