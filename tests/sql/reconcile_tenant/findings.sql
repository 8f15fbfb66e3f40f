-- Each class of finding is found, with where it comes from, recorded once, and closed when it is gone.
begin;
select plan(37);
select set_clock('2026-04-15T12:30:00Z');
create function found(p_tenant text) returns text language sql as $$
  select string_agg(format('%s %s', f.class, f.units), ', ' order by f.class, f.ledger)
    from stepquota.reconciliation_findings f where f.tenant = p_tenant and f.closed_at is null $$;
create function place(p_tenant text, p_class text) returns text language sql as $$
  select format('%s %s %s', to_char(f.hour at time zone 'UTC', 'DD HH24'), f.workflow, f.run_ids) from stepquota.reconciliation_findings f
   where f.tenant = p_tenant and f.class = p_class and f.closed_at is null $$;
create function steps(p_tenant text, p_run_id text, p_steps integer) returns void language sql as $$
  select stepquota.register_workflow_run(p_tenant, p_run_id, 'flow of ' || p_run_id);
  select stepquota.start_workflow_step(p_tenant, p_run_id, 'root.steps[' || n || ']') from generate_series(1, p_steps) n; $$;
select steps(t, 'r', 3) from unnest(array['right', 'ahead', 'behind', 'period', 'twice', 'lane', 'gap']) t;
select is(stepquota.reconcile_tenant(t), 0::bigint, t || ' is right') from unnest(array['right', 'ahead', 'behind', 'period', 'twice', 'lane', 'gap']) t;
select is_empty($$select * from stepquota.reconciliation_findings$$, 'and no finding is kept');
select is((select right_at from stepquota.reconciled_tenants where tenant = 'ahead'), '2026-04-15T12:30:00Z'::timestamptz, 'that all was well is remembered');

-- A row of the ledger is deleted: the counter is ahead.
select set_clock('2026-04-16T08:10:00Z');
delete from stepquota.workflow_run_steps where tenant = 'ahead' and node_path = 'root.steps[3]';
select is(stepquota.reconcile_tenant('ahead'), 1::bigint, 'a deleted row is found');
select is(found('ahead'), 'counter_ahead 1', 'the counter is ahead');
select is(place('ahead', 'counter_ahead'), '15 12 flow of r {r}', 'by a run that stands where no step is');
select is((select (details ->> 'since')::timestamptz from stepquota.reconciliation_findings where tenant = 'ahead'), '2026-04-15T12:30:00Z'::timestamptz, 'since when it was right');
select is(count_events('ahead', 'drift_found'), 1::bigint, 'it is recorded');
select set_clock('2026-04-16T09:00:00Z');
select is(stepquota.reconcile_tenant('ahead'), 1::bigint, 'it is there a second time');
select is(count_events('ahead', 'drift_found'), 1::bigint, 'and recorded once');
select is((select array[found_at, seen_at] from stepquota.reconciliation_findings where tenant = 'ahead'), array['2026-04-16T08:10:00Z', '2026-04-16T09:00:00Z']::timestamptz[], 'when it was found and last seen');
update stepquota.workflow_step_usage_lanes set used_count = 2 where tenant = 'ahead';
select is(stepquota.reconcile_tenant('ahead'), 0::bigint, 'it is gone');
select is((select closed_at from stepquota.reconciliation_findings where tenant = 'ahead'), '2026-04-16T09:00:00Z'::timestamptz, 'closed, not deleted');
update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'ahead';
select is((select drift from stepquota.reconcile_workflow_step_usage('ahead', '2026-04-01Z')), 1::bigint, 'it comes back, seen by a look at one period');
select is(count_events('ahead', 'drift_found'), 2::bigint, 'which is another finding');

-- A row that nobody counted: the ledger is ahead. It began before its run was registered.
insert into stepquota.workflow_run_steps (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, period_start, started_at)
values ('behind', 'r', 'by hand', 1, '2026-04-01', gen_random_uuid(), 'action', '2026-04-01Z', '2026-04-15T11:20:00Z');
select is(stepquota.reconcile_tenant('behind'), 1::bigint, 'a row by hand is found');
select is(found('behind') || ' ' || place('behind', 'ledger_ahead'), 'ledger_ahead 1 15 11 flow of r {r}', 'and named');

-- A row moved to another period: it is in the wrong one, and each period's counter is off.
select set_clock('2026-05-02Z');
select steps('period', 'r', 4);
update stepquota.workflow_run_steps set period_start = '2026-05-01Z' where tenant = 'period' and node_path = 'root.steps[1]';
select is(stepquota.reconcile_tenant('period'), 3::bigint, 'a moved row is found');
select is(found('period'), 'counter_ahead 1, ledger_ahead 1, wrong_period 1', 'in both periods');
select is(place('period', 'wrong_period'), '15 12 flow of r {r}', 'with its hour, workflow and run');

-- The same attempt in two months: a duplicate, and nothing else.
insert into stepquota.workflow_run_steps (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, period_start, started_at)
select tenant, run_id, node_path, attempt, '2026-05-01', gen_random_uuid(), step_type, period_start, started_at
  from stepquota.workflow_run_steps where tenant = 'twice' and node_path = 'root.steps[2]';
select is(stepquota.reconcile_tenant('twice'), 1::bigint, 'a duplicate is found');
select is(found('twice') || ' ' || place('twice', 'duplicate'), 'duplicate 1 15 12 flow of r {r}', 'and where');

-- A lane of a period that is none; a number missing between lanes.
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count) values ('lane', '2026-03-07Z', 0, 150, 2);
select is(stepquota.reconcile_tenant('lane'), 2::bigint, 'an orphan lane is found');
select is(found('lane'), 'counter_ahead 2, orphan_lane 2', 'with the units on it');
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance) values ('gap', '2026-04-01Z', 2, 0);
select is(stepquota.reconcile_tenant('gap'), 1::bigint, 'a gap between lanes is found');
select is(found('gap'), 'orphan_lane 3', 'as an orphan too');
delete from stepquota.workflow_step_usage_lanes where tenant = 'lane' and period_start = '2026-03-07Z';
select is(stepquota.reconcile_tenant('lane'), 0::bigint, 'a period of which nothing is left has no finding');

-- A period that is settled is not counted again, but for an open finding, or if all are asked for.
select set_clock('2026-06-03Z');
select is(stepquota.reconcile_tenant('right'), 0::bigint, 'the period is over, and right');
delete from stepquota.workflow_run_steps where tenant = 'right' and node_path = 'root.steps[3]';
select is(stepquota.reconcile_tenant('right'), 0::bigint, 'it is settled');
select is(stepquota.reconcile_tenant('right', true), 1::bigint, 'and counted again when all are asked for');
select is(stepquota.reconcile_tenant('right'), 1::bigint, 'with an open finding it is not settled');
select * from finish();
rollback;
