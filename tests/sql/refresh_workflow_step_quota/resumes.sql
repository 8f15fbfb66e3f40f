-- Looks at the inputs again, resumes what can go on, answers the summary.
begin;
select plan(6);
select set_clock('2026-04-15Z');
select give_limit('acme', 1), use_units('acme', 1);
select count(pause_run('acme', 'r' || n)) from generate_series(1, 3) n;
update stepquota.tiers set step_limit = 3 where tier = 'tier of acme';
select is((select array[q.allowed::text, q.used_count::text, q.effective_limit::text, q.remaining::text] from stepquota.refresh_workflow_step_quota('acme') q), array['true', '1', '3', '2'], 'the summary');
select is((select count(*) from stepquota.workflow_run_resumptions), 2::bigint, 'as many go on as there are units');
select is((select count(*) from stepquota.workflow_run_waits where status = 'WAITING'), 1::bigint, 'one waits on');
select (stepquota.refresh_workflow_step_quota('acme')).allowed;
select is((select count(*) from stepquota.workflow_run_resumptions), 2::bigint, 'refreshing again gives nothing twice');
select is((stepquota.refresh_workflow_step_quota('new')).effective_limit, 150::bigint, 'a tenant not seen before');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
