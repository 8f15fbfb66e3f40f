-- Ended runs go with their month: dropped at once when all have ended and are old enough, else row by row.
-- What is deleted stays counted, so reconciling and verify_all go on being right.
begin;
select plan(33);
select set_clock('2026-01-15Z');
create function has_month(p_month text) returns boolean language sql as $$ select to_regclass('stepquota.workflow_run_steps_' || p_month) is not null $$;
create function usage(p_tenant text, p_period timestamptz) returns text language sql as $$
  select format('%s counted, %s in the ledger, %s purged, drift %s', counter_used_count, ledger_step_count, purged_step_count, drift)
    from stepquota.reconcile_workflow_step_usage(p_tenant, p_period) $$;
select use_units('acme', 3), use_units('globex', 2);
select set_clock('2026-02-15Z');
select use_units('acme', 4, 'second');
select (stepquota.register_workflow_run('globex', 'long')).status, (stepquota.start_workflow_step('globex', 'long', 'a')).outcome;
select use_units('globex', 6, 'short');
select set_clock('2026-04-30Z');
select is(stepquota.purge_rows('ledger_months'), 0::bigint, 'the runs of January have not ended for 90 days');
select is(stepquota.purge_rows('ended_runs'), 0::bigint, 'nor is any other run old enough');
select set_clock('2026-05-02Z');
select is(stepquota.purge_rows('ledger_months'), 1::bigint, 'now January goes');
select is(has_month('2026_01'), false, 'its table is gone');
select is(usage('acme', '2026-01-01Z'), '3 counted, 3 in the ledger, 3 purged, drift 0', 'what was in it stays counted');
select is(stepquota.reconcile_tenant('acme', true), 0::bigint, 'nothing is found wrong');
select is_empty('select * from stepquota.verify_all()', 'by verify_all neither');
select is((select count(*) from stepquota.workflow_runs where run_id = 'user'), 2::bigint, 'the runs themselves are next');
select is(stepquota.purge_rows('ended_runs', 1), 1::bigint, 'so many at a time');
select is(stepquota.purge_rows('ended_runs'), 1::bigint, 'then the rest');
select is(stepquota.purge_rows('ended_runs'), 0::bigint, 'and no more');
select refuses($$select stepquota.start_workflow_step('acme', 'user', 'root.steps[1]')$$, 'WQ002', 'a purged run is unknown');
-- A run lives on in February: the month stays, the others of it go row by row.
select set_clock('2026-06-15Z');
select is(stepquota.purge_rows('ledger_months'), 0::bigint, 'February has a run that goes on');
select is((select state from stepquota.status() where item = 'retention'), 'info', 'which status says');
select is(has_month('2026_02'), true, 'so its table stays');
select is(stepquota.purge_rows('ended_runs', 3), 3::bigint, 'rows of the ended ones go, so many at a time');
select is_empty('select * from stepquota.verify_all()', 'in the middle of it nothing is wrong');
select is((select count(*) from stepquota.workflow_runs where run_id in ('second', 'short')), 2::bigint, 'a run is there until its last step is gone');
select is((select sum(stepquota.purge_rows('ended_runs', 3)) from generate_series(1, 9)), 9::numeric, 'ten steps and two runs in all');
select is(usage('globex', '2026-02-01Z'), '7 counted, 7 in the ledger, 6 purged, drift 0', 'the living run''s step is still there');
select is((select outcome from stepquota.start_workflow_step('globex', 'long', 'a')), 'already_started', 'and known');
select is_empty('select * from stepquota.verify_all()', 'nothing is wrong');
select (stepquota.finish_workflow_run('globex', 'long', 'SUCCEEDED')).status;
select is(stepquota.purge_rows('ledger_months'), 0::bigint, 'it has just ended');
select set_clock('2026-09-20Z');
select is(stepquota.purge_rows('ledger_months'), 1::bigint, 'after 90 days February goes');
select is(usage('globex', '2026-02-01Z'), '7 counted, 7 in the ledger, 7 purged, drift 0', 'and is counted');
select is_empty('select * from stepquota.verify_all()', 'nothing is wrong');
-- Repair counts what was purged, too.
select is((select changed from stepquota.repair_workflow_step_usage('globex', '2026-02-01Z')), false, 'there is nothing to repair');
-- With what belongs to a run, all of it goes; a period that nobody knows gets a row.
select set_clock('2026-10-02Z');
select give_limit('poor', 1), use_units('poor', 1);
select isnt(pause_run('poor', 'r'), null, 'a paused run');
select give_limit('poor', 2);
select (stepquota.cancel_workflow_run('poor', 'r')).status;
delete from stepquota.workflow_step_usage_periods where tenant = 'poor';
select set_clock('2027-03-02Z');
select stepquota.purge_rows('ledger_months') from generate_series(1, 9);
select is((select purged_step_count from stepquota.workflow_step_usage_periods where tenant = 'poor' and period_start = '2026-10-01Z'), 1::bigint, 'what nobody knows is counted');
select stepquota.purge_rows('ended_runs');
select is((select count(*) from (select run_id from stepquota.workflow_runs union all select run_id from stepquota.workflow_run_waits union all select run_id from stepquota.workflow_run_logs union all select run_id from stepquota.workflow_run_resumptions) x), 0::bigint, 'with waits, logs and resumptions');
-- Broken on purpose: without its summary a dropped month is seen at once.
select use_units('last', 2);
do $$
begin
  execute replace(pg_get_functiondef('stepquota._add_purged_steps(text, timestamptz, bigint, timestamptz)'::regprocedure), 'p.purged_step_count + p_step_count', 'p.purged_step_count');
end;
$$;
select set_clock('2027-09-02Z');
select cmp_ok(sum(stepquota.purge_rows('ledger_months')), '>', 0::numeric, 'months are dropped without their summary') from generate_series(1, 12);
select set_eq($$select invariant || ' ' || tenant from stepquota.verify_all()$$, array['I3 conserved last', 'I7 usage survives poor'], 'verify_all sees it, and the period that was deleted above');
select is(stepquota.reconcile_tenant('last', true), 1::bigint, 'reconciling too');
select * from finish();
rollback;
