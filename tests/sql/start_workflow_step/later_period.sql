-- A repeated call answers the period the attempt was counted in; the ledger's partition is the month
-- the run was registered in.
begin;
select plan(7);
select set_clock('2026-04-30T23:00:00Z');
select give_limit('acme', 2);
select (stepquota.register_workflow_run('acme', 'r')).ledger_month;
create temp table first as select * from stepquota.start_workflow_step('acme', 'r', 'a');
select set_clock('2026-05-02Z');
create temp table again as select * from stepquota.start_workflow_step('acme', 'r', 'a');
select is((select again.outcome || ' ' || (again.step_id = first.step_id) from again, first), 'already_started true', 'the same attempt in the next period');
select is((select array[again.period_start, again.period_end] from again), array['2026-04-01Z', '2026-05-01Z']::timestamptz[], 'was counted in April');
select is((select used_count from again), 1::bigint, 'and April''s figure is answered');
select is((select array[s.outcome, s.used_count::text, s.period_start::date::text] from stepquota.start_workflow_step('acme', 'r', 'b') s), array['started', '1', '2026-05-01'], 'the next step counts in May');
select is((select array_agg(tableoid::regclass::text || ' ' || period_start::date order by node_path) from stepquota.workflow_run_steps),
  array['stepquota.workflow_run_steps_2026_04 2026-04-01', 'stepquota.workflow_run_steps_2026_04 2026-05-01'], 'both are in the partition of the run''s month');
select is((select array_agg(drift) from unnest(array['2026-04-01Z', '2026-05-01Z']::timestamptz[]) p, stepquota.reconcile_workflow_step_usage('acme', p)), array[0, 0]::bigint[], 'without drift');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
