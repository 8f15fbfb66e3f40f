-- Claims: tenants take turns, a lease each, a greater delivery number each time, only what is not yet
-- re-entered; stuck ones are reported and hold back no unit.
begin;
select plan(21);
select set_clock('2026-04-15T12:00:00Z');
select give_limit(t, 1), use_units(t, 1) from unnest(array['a', 'b']) t;
select count(pause_run('a', 'r' || n)) from generate_series(1, 4) n;
select count(pause_run('b', 'r' || n)) from generate_series(1, 2) n;
select give_limit('a', 10);
select set_clock('2026-04-15T12:00:01Z');
select give_limit('b', 10);
create temp table one as select * from stepquota.claim_workflow_run_resumptions('one', 3);
select is((select array_agg(distinct tenant || cardinality(node_paths)) from one having count(*) = 3), array['a1', 'b1'], 'three of six, tenants in turns');
create temp table two as select * from stepquota.claim_workflow_run_resumptions('two', 100);
select is((select array_agg(tenant order by tenant) from (select tenant from one union all select tenant from two) c), array['a', 'a', 'a', 'a', 'b', 'b'], 'another worker gets the others');
select is_empty('select run_id, tenant from one intersect select run_id, tenant from two', 'no run twice');
select is((select count(distinct delivery) from (select delivery from one union all select delivery from two) d), 6::bigint, 'each delivery has a number of its own');
select is_empty($$select * from stepquota.claim_workflow_run_resumptions('three', 100)$$, 'nothing is left');
select is((select array_agg(distinct worker order by worker) from stepquota.workflow_run_resumptions), array['one', 'two'], 'who has them is known');
select set_clock('2026-04-15T12:01:01Z');
select is((select array_agg(distinct tenant) from stepquota.claim_workflow_run_resumptions('three', 100, '10 minutes', 'default', 'b')), array['b'], 'one tenant''s, when the leases are over');
select is((select count(*) from stepquota.claim_workflow_run_resumptions('three', 100, '10 minutes')), 4::bigint, 'and the rest');

-- Acknowledged: not delivered any more, but its paths still hold back units.
select ok(stepquota.acknowledge_workflow_run_resumption('a', (select resumption_id from stepquota.workflow_run_resumptions where tenant = 'a' and run_id = 'r1')), 'acknowledged');
select ok(not stepquota.acknowledge_workflow_run_resumption('a', (select resumption_id from stepquota.workflow_run_resumptions where tenant = 'a' and run_id = 'r1')), 'a second time it was already');
select is((stepquota.start_workflow_step('a', 'r2', 'root.steps[0]')).outcome, 'started', 'another is re-entered');
select ok(not stepquota.acknowledge_workflow_run_resumption('a', (select resumption_id from stepquota.workflow_run_resumptions where tenant = 'a' and run_id = 'r2')), 'which acknowledged it');
select refuses($$select stepquota.acknowledge_workflow_run_resumption('a', '00000000-0000-0000-0000-000000000001')$$, 'WQ013', 'an unknown resumption');
select refuses(format($$select stepquota.acknowledge_workflow_run_resumption('b', %L)$$, (select resumption_id from stepquota.workflow_run_resumptions where tenant = 'a' and run_id = 'r3')), 'WQ013', 'another tenant''s');
select set_clock('2026-04-15T13:00:00Z');
select is((select array_agg(run_id order by run_id) from stepquota.claim_workflow_run_resumptions('four', 100, '1 minute', 'default', 'a')), array['r3', 'r4'], 'neither is delivered again');

-- Stuck after policy.stuck_after_deliveries.
create function pg_temp.deliver(p_times integer) returns void language plpgsql as $$
begin
  for v_time in 1 .. p_times loop
    perform tap.set_clock(format('2026-04-15T14:%s:00Z', 10 + v_time));
    perform stepquota.claim_workflow_run_resumptions('five', 100, '1 minute', 'default', 'b');
  end loop;
end;
$$;
select pg_temp.deliver(5);
select is(count_events('b', 'resumption_stuck'), 2::bigint, 'after five deliveries each is reported, once');
select is((select array[level, details ->> 'worker'] from stepquota.quota_events where event_type = 'resumption_stuck' limit 1), array['error', 'five'], 'as an error');
select give_limit('b', 2);
select is((select array[s.outcome, s.used_count::text] from stepquota.start_workflow_step('b', 'r1', 'root.steps[0]') s), array['started', '2'], 'a stuck run may still be re-entered');
select is((stepquota.cancel_workflow_run('b', 'r2')).status, 'CANCELED', 'or cancelled');
select is_empty($$select * from stepquota.claim_workflow_run_resumptions('six', 100, '1 minute', 'default', 'b')$$, 'then nothing is left of either');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
