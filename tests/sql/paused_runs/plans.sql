-- What support asks about one tenant is answered from indexes, also where another has very many paused runs.
begin;
select plan(8);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('small', 1), use_units('small', 1), give_limit('large', 1), use_units('large', 1);
select count(pause_run('small', 'r' || n)) from generate_series(1, 3) n;
select count(pause_run('large', 'first'));
insert into stepquota.workflow_runs (tenant, run_id, workflow, status, node_path, ledger_month, registered_at)
select 'large', 'run-' || n, 'w', 'WAITING', 'root', '2026-04-01', now() from generate_series(1, 20000) n;
insert into stepquota.workflow_run_waits (tenant, wait_id, run_id, node_path, node_paths, wait_type, reason, queued_at, created_at)
select 'large', gen_random_uuid(), 'run-' || n, 'root', '{root}', 'quota', 'quota', m.at, m.at
  from generate_series(1, 20000) n cross join lateral (select timestamptz '2026-04-15T11:00:00Z' + n * interval '0.1 s' as at) m;
insert into stepquota.workflow_step_quotas (tenant, tier, step_limit, effective_limit, limit_source, period_start, period_end, period_source, valid_until, epoch, refreshed_at)
select 'tenant-' || n, 'solo', 150, 150, 'tier_default', '2026-04-01Z', '2026-05-01Z', 'fallback_calendar', '2026-05-01Z', p.epoch, now()
  from generate_series(1, 2000) n cross join stepquota.policy p;
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count)
select 'tenant-' || n, '2026-04-01Z', 0, 150, n % 150 from generate_series(1, 2000) n;
insert into stepquota.quota_events (tenant, event_type, level, details, created_at)
select 'large', 'plan_changed', 'info', '{"from": null, "to": "pro", "by": "me"}', w.created_at from stepquota.workflow_run_waits w where w.tenant = 'large';
analyze stepquota.workflow_runs, stepquota.workflow_run_waits, stepquota.workflow_step_quotas, stepquota.workflow_step_usage_lanes, stepquota.quota_events;
-- Buffers that the statement reads, its second time.
create function buffers_of(p_statement text) returns bigint language plpgsql as $$
declare
  v_plan jsonb;
begin
  execute 'explain (analyze, buffers, format json) ' || p_statement into v_plan;
  execute 'explain (analyze, buffers, format json) ' || p_statement into v_plan;
  return (v_plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (v_plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
end;
$$;
select cmp_ok(buffers_of($$select * from stepquota.paused_runs where tenant = 'small' order by paused_since desc limit 20$$), '<', 300::bigint, 'the paused runs of a small tenant');
select cmp_ok(buffers_of($$select * from stepquota.paused_runs where tenant = 'large' order by paused_since desc limit 20$$), '<', 500::bigint, 'the newest of a large one');
select cmp_ok(buffers_of($$select * from stepquota.paused_runs where tenant = 'large' order by paused_since limit 20$$), '<', 500::bigint, 'and the oldest');
select cmp_ok(buffers_of($$select * from stepquota.paused_runs where tenant = 'large' and run_id = 'run-77'$$), '<', 100::bigint, 'one run');
select cmp_ok(buffers_of($$select * from stepquota.tenant_usage where tenant = 'small'$$), '<', 600::bigint, 'the usage of one tenant, with its forecast');
select cmp_ok(buffers_of($$select * from stepquota.recent_events limit 20$$), '<', 200::bigint, 'the newest events');
select cmp_ok(buffers_of($$select * from stepquota.recent_events where tenant = 'small' limit 20$$), '<', 200::bigint, 'and those of a small tenant');
-- The costly columns are computed for the rows that are shown, not for all that are sorted.
select cmp_ok(buffers_of($$select * from stepquota.tenant_usage order by percent desc nulls last limit 5$$), '<', 12000::bigint, 'the fullest tenants without a forecast for each');
select * from finish();
rollback;
