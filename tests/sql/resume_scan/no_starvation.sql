-- 120 old waits of an exhausted tenant before 5 of an eligible one: the 5 resume in the first scan, oldest
-- first, whatever the batch size; each tenant gets what it has units for and no more.
-- transaction: none
select plan(12);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('poor', 1), give_limit('rich', 1), give_limit('some', 1);
select use_units(t, 1) from unnest(array['poor', 'rich', 'some']) t;
select is(count(pause_run('poor', 'r' || n)), 120::bigint, '120 waits of the poor') from generate_series(1, 120) n;
create procedure pause_later(p_tenant text, p_runs integer) language plpgsql as $$
begin
  for v_run in 1 .. p_runs loop
    perform tap.set_clock(format('2026-04-15T12:30:%sZ', 59 - v_run));
    perform tap.pause_run(p_tenant, 'r' || v_run);
  end loop;
end;
$$;
call pause_later('rich', 5);
call pause_later('some', 5);
update stepquota.tiers set step_limit = 100 where tier = 'tier of rich';
update stepquota.tiers set step_limit = 4 where tier = 'tier of some';
select set_clock('2026-04-15T12:40:00Z');
call stepquota.resume_scan(2);
select is((select array_agg(run_id order by log_id) from stepquota.workflow_run_logs where tenant = 'rich'), array['r5', 'r4', 'r3', 'r2', 'r1'], 'the 5 resume in the first scan, oldest first');
select is((select array_agg(run_id order by log_id) from stepquota.workflow_run_logs where tenant = 'some'), array['r5', 'r4', 'r3'], 'some get what there is');
select is((select count(*) from stepquota.workflow_run_logs where tenant = 'poor'), 0::bigint, 'the poor nothing');
select is((select array_agg(tenant order by tenant) from stepquota.paused_tenants), array['poor', 'some'], 'who still waits is paused');
call stepquota.resume_scan();
select is((select count(*) from stepquota.workflow_run_logs), 8::bigint, 'promised units are not given twice');
select is((select skipped from stepquota.resume_scans order by scan_id desc limit 1) ->> 'no_capacity', null, 'and nobody is looked at before something can have changed');
-- A runtime that died: its promises are forgotten, and the next in the queue get their turn.
select set_clock('2026-04-15T12:46:00Z');
call stepquota.resume_scan();
select is((select array_agg(run_id order by log_id) from stepquota.workflow_run_logs where tenant = 'some'), array['r5', 'r4', 'r3', 'r2', 'r1'], 'after five minutes the units are offered to the next');
select is((select count(*) filter (where (stepquota.start_workflow_step('some', 'r' || n, 'root.steps[0]')).outcome = 'started')), 3::bigint, 'and never more than there are start') from generate_series(1, 5) n;
select is((select array_agg(run_id order by run_id) from stepquota.workflow_run_waits where tenant = 'some' and status = 'WAITING'), array['r4', 'r5'], 'the late ones are paused again');
select is((select min(queued_at) from stepquota.workflow_run_waits where tenant = 'some' and status = 'WAITING'), '2026-04-15T12:30:54Z'::timestamptz, 'and keep their place');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
