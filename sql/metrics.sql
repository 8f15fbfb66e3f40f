-- Figures for an exporter. Few series, whatever the number of tenants: only those that use most have their own.

-- Every figure as a row. What does not apply has no row: no scan yet, no Stripe sync.
-- Takes no locks. SQLSTATEs: WQ001, WQ050.
create or replace function stepquota.metrics(p_part text default null)
returns table (name text, labels jsonb, value double precision)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $metrics$
#variable_conflict use_column
declare
  v_parts text[] := array['info', 'all', 'item', 'scan', 'stripe', 'tenant', 'event', 'finding', 'consumer', 'table'];
  v_now timestamptz := stepquota._now();
  v_clock timestamptz := clock_timestamp();
  v_policy stepquota.policy;
  v_totals stepquota.tenant_summary_state;
begin
  perform stepquota._check_unbound();
  if p_part is not null then
    perform stepquota._check_one_of('p_part', p_part, v_parts);
    v_parts := array[p_part];
  end if;
  select p.* into v_policy from stepquota.policy p;

  if 'info' = any (v_parts) then
    return query select 'stepquota_info_installed', jsonb_build_object('version', stepquota.version()), 1::double precision;
  end if;

  if 'all' = any (v_parts) then
    -- Counting what are very many takes long, and tick has just done it; where it has not, they are counted.
    select s.* into v_totals from stepquota.tenant_summary_state s
     where s.as_of > v_now - interval '2 minutes' and s.as_of <= v_now;
    return query
      select 'stepquota_all_tenants', '{}'::jsonb,
             coalesce(v_totals.tenants, (select count(*) from stepquota.workflow_step_quotas))::double precision;
    return query
      select m.name, '{}'::jsonb, m.value
        from (select count(*)::double precision as paused,
                     (count(*) filter (where t.due_at < v_now))::double precision as due,
                     extract(epoch from v_now - min(t.paused_at))::double precision as oldest,
                     extract(epoch from v_now - min(t.due_at))::double precision as overdue
                from stepquota.paused_tenants t) p
       cross join lateral (
         values ('stepquota_all_paused_tenants', p.paused),
                ('stepquota_all_due_tenants', p.due),
                ('stepquota_all_oldest_pause_seconds', coalesce(p.oldest, 0)),
                ('stepquota_all_overdue_seconds', greatest(p.overdue, 0))) as m (name, value);
    return query
      select 'stepquota_all_paused_runs', '{}'::jsonb, coalesce(v_totals.paused_runs, (
               select count(*) from stepquota.workflow_run_waits w
                where w.wait_type = 'quota' and w.status = 'WAITING'))::double precision;
    return query
      select m.name, '{}'::jsonb, m.value
        from (select count(*)::double precision as resumptions, extract(epoch from v_now - min(r.created_at))::double precision as oldest,
                     (count(*) filter (where stepquota._is_stuck(r, v_policy.stuck_after_deliveries)))::double precision as stuck
                from stepquota.workflow_run_resumptions r where r.status = 'OPEN') p
       cross join lateral (
         values ('stepquota_all_open_resumptions', p.resumptions),
                ('stepquota_all_oldest_resumption_seconds', coalesce(p.oldest, 0)),
                ('stepquota_all_stuck_resumptions', p.stuck)) as m (name, value);
    return query
      select m.name, '{}'::jsonb, m.value
        from (select count(*)::double precision as batches, extract(epoch from v_now - min(b.opened_at))::double precision as oldest
                from stepquota.workflow_step_batches b where b.closed_at is null) p
       cross join lateral (
         values ('stepquota_all_open_batches', p.batches),
                ('stepquota_all_oldest_batch_seconds', coalesce(p.oldest, 0))) as m (name, value);
  end if;

  if 'item' = any (v_parts) then
    return query
      select 'stepquota_item_state', jsonb_build_object('item', s.item),
             case s.state when 'warn' then 1 when 'error' then 2 else 0 end::double precision
        from stepquota.status() s;
  end if;

  if 'scan' = any (v_parts) then
    return query
      select m.name, '{}'::jsonb, m.value
        from (select extract(epoch from v_now - s.finished_at)::double precision as age,
                     extract(epoch from s.finished_at - s.started_at)::double precision as duration,
                     s.runs_resumed::double precision, jsonb_array_length(s.errors)::double precision
                from stepquota.resume_scans s where s.finished_at is not null
               order by s.scan_id desc limit 1) as p (age, duration, runs_resumed, errors)
       cross join lateral (
         values ('stepquota_scan_age_seconds', p.age), ('stepquota_scan_duration_seconds', p.duration),
                ('stepquota_scan_runs_resumed', p.runs_resumed),
                ('stepquota_scan_errors', p.errors)) as m (name, value);
  end if;

  if 'stripe' = any (v_parts) then
    return query
      select m.name, '{}'::jsonb, m.value
        from stepquota.stripe_sync_health() h
       cross join lateral (
         values ('stepquota_stripe_pending_events', h.pending_events::double precision),
                ('stepquota_stripe_oldest_pending_seconds',
                 coalesce(extract(epoch from v_clock - h.oldest_pending_at), 0)::double precision),
                ('stepquota_stripe_dead_events', h.dead_events::double precision),
                ('stepquota_stripe_catch_up_age_seconds', extract(epoch from v_clock - h.last_catch_up_at)::double precision),
                ('stepquota_stripe_full_sync_age_seconds',
                 extract(epoch from v_clock - h.last_full_sync_at)::double precision)) as m (name, value)
       where h.livemode is not null and m.value is not null;
  end if;

  if 'tenant' = any (v_parts) and v_policy.metrics_tenants > 0 then
    return query
      select m.name, jsonb_build_object('tenant', u.tenant), m.value
        from stepquota.list_tenants(p_sort => 'used', p_descending => true, p_max_tenants => v_policy.metrics_tenants) u
       cross join lateral (
         values ('stepquota_tenant_used_steps', u.used_count::double precision),
                ('stepquota_tenant_limit_steps', u.effective_limit::double precision),
                ('stepquota_tenant_used_ratio', (u.percent / 100)::double precision),
                ('stepquota_tenant_paused_runs', u.paused_runs::double precision)) as m (name, value)
       where m.value is not null;
  end if;

  if 'event' = any (v_parts) then
    return query
      select 'stepquota_event_recent', jsonb_build_object('event_type', e.event_type, 'level', e.level), count(*)::double precision
        from stepquota.quota_events e
       where e.created_at > v_now - interval '10 minutes' and e.created_at <= v_now
       group by e.event_type, e.level;
  end if;

  if 'finding' = any (v_parts) then
    return query
      select 'stepquota_finding_open', jsonb_build_object('class', f.class), count(*)::double precision
        from stepquota.reconciliation_findings f where f.closed_at is null
       group by f.class;
  end if;

  if 'consumer' = any (v_parts) then
    return query
      select m.name, jsonb_build_object('consumer', c.consumer), m.value
        from stepquota.quota_event_consumers c
       cross join stepquota.quota_event_order o
       cross join lateral (
         values ('stepquota_consumer_behind_events', greatest(o.last_position - c.position, 0)::double precision),
                ('stepquota_consumer_claim_age_seconds', extract(epoch from v_now - c.claimed_at)::double precision)) as m (name, value);
  end if;

  if 'table' = any (v_parts) then
    return query
      select m.name, jsonb_build_object('table', s.relname), m.value
        from pg_stat_all_tables s
       cross join lateral (
         values ('stepquota_table_live_rows', s.n_live_tup::double precision),
                ('stepquota_table_dead_rows', s.n_dead_tup::double precision)) as m (name, value)
       where s.schemaname = 'stepquota'
         and s.relname in ('workflow_step_usage_lanes', 'workflow_step_quotas', 'workflow_runs', 'workflow_run_waits',
           'workflow_run_resumptions', 'paused_tenants', 'quota_events');
  end if;
end;
$metrics$;

comment on function stepquota.metrics(text) is
  'Figures for an exporter, all gauges: name, labels, value. p_part is one of info, all, item, scan, stripe, tenant, event, finding, consumer, table; NULL: everything. Only so many tenants as the policy metrics_tenants says, those that use most, have figures of their own. docs/monitoring.md lists them. WQ001 for another part.';
