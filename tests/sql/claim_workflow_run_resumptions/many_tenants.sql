-- Far more than a claim looks at: one tenant's thousand come before those of 60 others by their age, and still
-- each tenant gets its turn; nothing is delivered twice, nothing is left.
begin;
select plan(8);
create function pg_temp.add(p_tenant text, p_runs integer, p_now timestamptz) returns void language sql as $$
  insert into stepquota.workflow_runs (tenant, run_id, ledger_month, registered_at)
  select p_tenant, 'r' || n, '2026-04-01', p_now from generate_series(1, p_runs) n;
  insert into stepquota.workflow_run_resumptions
    (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths, created_at, claimable_at)
  select p_tenant, gen_random_uuid(), 'r' || n, 'default', gen_random_uuid(), 'event', '{root}', '{root}', p_now, p_now
    from generate_series(1, p_runs) n;
$$;
select pg_temp.add('greedy', 1000, '2026-04-15T12:00:00Z');
select pg_temp.add('t' || n, 2, '2026-04-15T12:00:01Z') from generate_series(1, 60) n;
select pg_temp.add('leased' || n, 1, '2026-04-15T13:30:00Z') from generate_series(1, 20) n;
select set_clock('2026-04-15T13:00:00Z');
create temp table claims (claim integer, tenant text, run_id text, delivery bigint);
insert into claims select 0, c.tenant, c.run_id, c.delivery from stepquota.claim_workflow_run_resumptions('w', 30) c;
select is((select count(*) from claims), 30::bigint, 'as many as wanted');
select cmp_ok((select count(distinct tenant) from claims), '>=', 10::bigint, 'of many tenants');
select cmp_ok((select max(n) from (select count(*) n from claims group by tenant) c), '<=', 10::bigint, 'and of the greedy one hardly more than of the others');
do $$
begin
  for v_claim in 1 .. 150 loop
    insert into claims select v_claim, c.tenant, c.run_id, c.delivery from stepquota.claim_workflow_run_resumptions('w', 1) c;
  end loop;
end;
$$;
-- With 61 tenants, one that is passed over 150 times in a row would be a wonder, if all had the same chance.
select cmp_ok((select count(distinct tenant) from claims where claim > 0), '>=', 40::bigint, 'claims of one run go to many tenants');
insert into claims select 1000, c.tenant, c.run_id, c.delivery from stepquota.claim_workflow_run_resumptions('w', 10000) c;
select is((select array[count(*), count(distinct (tenant, run_id)), count(distinct delivery)] from claims), array[1120, 1120, 1120]::bigint[], 'every one once');
select is_empty($$select * from stepquota.claim_workflow_run_resumptions('w', 10)$$, 'then nothing is left');
select is((select count(*) from claims where tenant like 'leased%'), 0::bigint, 'nor was anything delivered before its time');
select set_clock('2026-04-15T13:30:00Z');
select is((select count(*) from stepquota.claim_workflow_run_resumptions('w', 100)), 100::bigint, 'later the leases are over');
select * from finish();
rollback;
