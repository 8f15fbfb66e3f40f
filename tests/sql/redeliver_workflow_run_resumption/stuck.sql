-- A stuck resumption is delivered after longer and longer pauses, never given up; an operator has it delivered at
-- once, and its unit counts as promised again.
begin;
select plan(15);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1), use_units('acme', 1);
select pause_run('acme', 'r1');
select give_limit('acme', 2);
select set_policy.changed from stepquota.set_policy('stuck_after_deliveries', '3');
select set_policy.changed from stepquota.set_policy('resumption_counts_for', '30 days');
create function pg_temp.claimed_at(p_moments text[]) returns text language plpgsql as $$
declare
  v_moment text;
  v_at text := '';
begin
  foreach v_moment in array p_moments loop
    perform tap.set_clock('2026-04-15T' || v_moment || 'Z');
    if exists (select 1 from stepquota.claim_workflow_run_resumptions('w')) then
      v_at := concat_ws(' ', nullif(v_at, ''), v_moment);
    end if;
  end loop;
  return v_at;
end;
$$;
select is(pg_temp.claimed_at(array['12:00:00', '12:00:59', '12:01:00', '12:02:00']), '12:00:00 12:01:00 12:02:00', 'three deliveries, a lease each');
select is((select s.state || ' ' || s.detail from stepquota.status() s where s.item = 'stuck resumptions'), 'error 1, the first of tenant acme, run r1', 'status() shows that it is stuck');
select matches((select s.hint from stepquota.status() s where s.item = 'stuck resumptions'), 'redeliver_workflow_run_resumption', 'and what to do');
select is((stepquota._count_promised_units('acme', '2026-04-15T12:02:00Z')), 0::bigint, 'its unit is nobody''s');
select is(pg_temp.claimed_at(array['12:02:59', '12:03:00', '12:04:59', '12:05:00', '12:08:59', '12:09:00']), '12:03:00 12:05:00 12:09:00', 'then after 2, 4 and 8 leases');
select is(pg_temp.claimed_at(array['12:17:00', '12:33:00', '13:05:00', '14:05:00', '15:05:00']), '12:17:00 12:33:00 13:05:00 14:05:00 15:05:00', 'in the end every hour');
select is(count_events('acme', 'resumption_stuck'), 1::bigint, 'reported once');
create temp table stuck as select * from stepquota.workflow_run_resumptions;
select set_clock('2026-04-15T15:10:00Z');
select ok(stepquota.redeliver_workflow_run_resumption('acme', (select resumption_id from stuck)), 'redelivered');
select is((stepquota._count_promised_units('acme', '2026-04-15T15:10:00Z')), 1::bigint, 'its unit counts again');
select is((select array_agg(delivery > (select delivery from stuck)) from stepquota.claim_workflow_run_resumptions('w')), array[true], 'at once, with a greater number');
select refuses(format($$select stepquota.start_workflow_step('acme', 'r1', 'root.steps[0]', 1, 'action', %s)$$, (select delivery from stuck)), 'WQ007', 'whoever had it before is refused');
select is((select array[e.level, e.details ->> 'deliveries'] from stepquota.quota_events e where e.event_type = 'resumption_redelivered'), array['info', '11'], 'an event says so');
select is((stepquota.start_workflow_step('acme', 'r1', 'root.steps[0]')).outcome, 'started', 'it goes on');
select ok(not stepquota.redeliver_workflow_run_resumption('acme', (select resumption_id from stuck)), 'there is nothing to redeliver any more');
select refuses($$select stepquota.redeliver_workflow_run_resumption('acme', '00000000-0000-0000-0000-000000000001')$$, 'WQ013', 'an unknown resumption');
select * from finish();
rollback;
