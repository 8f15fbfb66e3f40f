-- A held step's figures are those of the quota as this very call has found it. They were those of before.
begin;
select plan(3);
select set_clock('2026-02-01Z');
select (stepquota.set_policy('usage_on_other_period', 'carry')).changed;
select give_limit('acme', 4), use_units('acme', 4);
select (stepquota.register_workflow_run('acme', 'r')).status, (stepquota.hold_workflow_run('acme', 'r', 'a look')).status;
select subscribe('acme', '"unlimited"', p_start => '2026-02-05Z', p_end => '2026-03-02Z');
select set_clock('2026-02-28 23:30Z');
select is(s.outcome || ' ' || s.used_count || ' since ' || s.period_start::date, 'held 4 since 2026-02-05', 'what was carried into the period is used')
  from stepquota.start_workflow_step('acme', 'r', 'a') s;
select is(s.used_count, 4::bigint, 'also when the period is known') from stepquota.start_workflow_step('acme', 'r', 'b') s;
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
