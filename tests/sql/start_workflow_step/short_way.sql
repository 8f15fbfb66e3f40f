-- The short way and the long one give the same answers: of a repeated start, of an exhausted tenant, of a
-- tenant with many lanes.
begin;
select plan(16);
select set_clock('2026-04-15Z');
select stepquota.set_tier_limit('wide', 20000);
select stepquota.set_tier_limit('small', 2);
select stepquota.set_tenant_plan('acme', 'wide');
select stepquota.set_tenant_plan('globex', 'small');
select stepquota.register_workflow_run('acme', 'r1');
select stepquota.register_workflow_run('globex', 'r1');
update stepquota.workflow_step_usage_lanes set used_count = used_count;

create temporary view place as
  select r.status, r.node_path, l.used_count, l.unledgered_count
    from stepquota.workflow_runs r, lateral (
      select sum(l.used_count) as used_count, sum(l.unledgered_count) as unledgered_count
        from stepquota.workflow_step_usage_lanes l where l.tenant = r.tenant) l
   where r.tenant = 'acme';
create temporary table started as select * from stepquota.start_workflow_step('acme', 'r1', 'a');
select is((select array[s.outcome, s.step_status] from started s), array['started', 'STARTED'], 'a path starts');
select is((select array[s.used_count, s.effective_limit, s.remaining] from started s), array[1, 20000, 19999]::bigint[], 'and costs a unit');
select is((select s.step_id from started s), (select s.step_id from stepquota.workflow_run_steps s where s.tenant = 'acme'), 'its ledger row is the one of the answer');
select is((select s.outcome from stepquota.start_workflow_step('acme', 'r1', 'b') s), 'started', 'another path starts');
select results_eq('select * from place', $$values ('RUNNING', 'b', 2::numeric, 0::numeric)$$, 'the run stands there, two units are used and both are in the ledger');

select is((select s.outcome from stepquota.start_workflow_step('acme', 'r1', 'a') s), 'already_started', 'the first one again');
select is((select s.step_id from stepquota.start_workflow_step('acme', 'r1', 'a') s), (select s.step_id from started s), 'has the same step_id');
select is((select s.used_count from stepquota.start_workflow_step('acme', 'r1', 'a') s), 2::bigint, 'and counts nothing');
select results_eq('select * from place', $$values ('RUNNING', 'b', 2::numeric, 0::numeric)$$, 'nothing has changed, not even where the run stands');
select is((select s.used_count from stepquota.start_workflow_step('acme', 'r1', 'c') s), 3::bigint, 'and the next one goes on from there');

-- Each lane remembers the others; near the limit all are counted.
select stepquota._fan_out_lane('acme', '2026-04-01Z', 0);
update stepquota.workflow_step_usage_lanes set used_count = used_count;
select is((select max(s.used_count) from generate_series(1, 70) i, lateral stepquota.start_workflow_step('acme', 'r1', 'many' || i) s), 73::bigint, 'with many lanes the figures are those of all');
select is((select max(l.others_used_count) from stepquota.workflow_step_usage_lanes l where l.tenant = 'acme' and l.lane = pg_backend_pid() % 64) >= 3 or pg_backend_pid() % 64 = 0, true, 'which the home lane remembers');

select is((select count(*) from generate_series(1, 2) i, lateral stepquota.start_workflow_step('globex', 'r1', 'a' || i) s where s.outcome = 'started'), 2::bigint, 'a small tenant uses up what it has');
select is((select array[s.outcome, s.used_count::text] from stepquota.start_workflow_step('globex', 'r1', 'b') s), array['quota_paused', '2'], 'and is paused');
select is((select array[r.status, r.node_path] from stepquota.workflow_runs r where r.tenant = 'globex'), array['RUNNING', 'b'], 'at the path that was refused, while its other branches work');
select is_empty('select * from stepquota.verify_all()', 'everything adds up');
select * from finish();
rollback;
