-- Held runs are not in the queue: many of them cost the others nothing.
-- transaction: none
select plan(8);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1);
select use_units('acme', 1);
insert into stepquota.workflow_runs (tenant, run_id, status, node_path, ledger_month, registered_at, held_at)
select 'acme', 'held ' || n, 'WAITING', 'root', '2026-04-01', '2026-04-15Z', '2026-04-15Z' from generate_series(1, 10000) n;
insert into stepquota.workflow_run_waits (tenant, wait_id, run_id, node_path, node_paths, wait_type, status, reason, queued_at, created_at, is_held)
select 'acme', gen_random_uuid(), 'held ' || n, 'root', '{root}', 'quota', 'WAITING', 'operator_hold', '2026-04-15Z', '2026-04-15Z', true from generate_series(1, 10000) n;
select pause_run('acme', 'r');
analyze stepquota.workflow_run_waits;
select is((select count(*) from stepquota.workflow_run_waits where status = 'WAITING'), 10001::bigint, 'ten thousand held runs before one that is not');
create function pg_temp.blocks_of(p_statement text) returns bigint language plpgsql as $$
declare
  v_plan jsonb;
begin
  execute 'explain (analyze, buffers, timing off, summary off, format json) ' || p_statement into v_plan;
  return (v_plan #>> '{0,Plan,Shared Hit Blocks}')::bigint + (v_plan #>> '{0,Plan,Shared Read Blocks}')::bigint;
end;
$$;
update stepquota.tiers set step_limit = 2 where tier = 'tier of acme';
select set_clock('2026-04-15T12:01:00Z');
select cmp_ok(pg_temp.blocks_of($$select * from stepquota.resume_due_tenant('acme', 10)$$), '<', 3000::bigint, 'its turn in a scan looks at few blocks');
select is(run_state('acme', 'r'), 'RUNNING at root.steps[0]', 'and brings it back');
select is((select count(*) from stepquota.workflow_runs where status = 'RUNNING'), 1::bigint, 'it alone');
select is_empty('select * from stepquota.paused_tenants', 'nothing is left to look at');
select is((select count(*) from stepquota._host_list_queued_tenants('', 500)), 0::bigint, 'nor is the tenant found by its waits');
select cmp_ok(pg_temp.blocks_of($$select stepquota._host_has_quota_queue('acme')$$), '<', 3000::bigint, 'which takes few blocks too');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
