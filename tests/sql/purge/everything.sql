-- The procedure goes through all kinds, and tick() calls it.
-- transaction: none
select plan(6);
select set_clock('2026-01-15Z');
select use_units('acme', 3);
select set_clock('2026-06-15Z');
call stepquota.purge(2);
select is(to_regclass('stepquota.workflow_run_steps_2026_01'), null, 'the month is dropped');
select is((select count(*) from stepquota.workflow_runs), 0::bigint, 'the runs are gone');
select is((select purged_step_count from stepquota.workflow_step_usage_periods where tenant = 'acme' and period_start = '2026-01-01Z'), 3::bigint, 'and counted');
select use_units('acme', 1, 'next');
select set_clock('2027-01-15Z');
call stepquota.tick();
select is(to_regclass('stepquota.workflow_run_steps_2026_06'), null, 'tick does it');
select is((select count(*) from stepquota.workflow_runs), 0::bigint, 'all of it');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
