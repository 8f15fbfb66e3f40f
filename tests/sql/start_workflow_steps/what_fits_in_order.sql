-- A forEach in one round trip: what fits starts in order, the run is paused at the first that does not.
begin;
select plan(11);
select set_clock('2026-04-15Z');
select stepquota.set_tier_limit('solo', 3);
select stepquota.register_workflow_run('acme', 'r');
select results_eq(
  $$select outcome, node_path from stepquota.start_workflow_steps('acme', 'r', array['a', 'b', 'c', 'd', 'e'])$$,
  $$values ('started', 'a'), ('started', 'b'), ('started', 'c'), ('quota_paused', 'd'), ('quota_paused', 'e')$$,
  'three of five');
select is((select count(*) from stepquota.workflow_run_steps where tenant = 'acme'), 3::bigint, 'three ledger rows');
select is((select node_paths from stepquota.workflow_run_waits where status = 'WAITING'), array['d'], 'one wait, of the first that did not fit');
select results_eq(
  $$select outcome, node_path from stepquota.start_workflow_steps('acme', 'r', array['a', 'd'])$$,
  $$values ('already_started', 'a'), ('quota_paused', 'd')$$, 'asking again counts nothing');
select is((select used_count from stepquota.resolve_workflow_step_quota('acme')), 3::bigint, 'used 3');
select stepquota.finish_workflow_step('acme', 'r', p, 1, 'SUCCEEDED') from unnest(array['a', 'b', 'c']) p;
select is((select status from stepquota.workflow_runs where run_id = 'r'), 'WAITING', 'the run waits when its branches are done');
select stepquota.set_tier_limit('solo', 5);
select results_eq(
  $$select outcome, node_path, step_status from stepquota.start_workflow_steps('acme', 'r', array['c', 'd', 'e'])$$,
  $$values ('already_finished', 'c', 'SUCCEEDED'), ('started', 'd', 'STARTED'), ('started', 'e', 'STARTED')$$, 'the rest after a raise');
select results_eq(
  $$select outcome, attempt from stepquota.start_workflow_steps('acme', 'r', array['d', 'd'], array[1, 1])$$,
  $$values ('already_started', 1), ('already_started', 1)$$, 'a path named twice is one attempt');
update stepquota.tenants set suspended_at = '2026-04-15Z' where tenant = 'acme';
insert into stepquota.tenants (tenant, suspended_at) values ('acme', '2026-04-15Z') on conflict (tenant) do nothing;
select results_eq(
  $$select outcome from stepquota.start_workflow_steps('acme', 'r', array['d', 'f', 'g'])$$,
  $$values ('already_started'), ('held'), ('held')$$, 'a suspended tenant starts nothing new');
select refuses($$select * from stepquota.start_workflow_steps('acme', 'nobody', array['a'])$$, 'WQ002', 'an unknown run');
select is_empty('select * from stepquota.verify_all()', 'all invariants hold');
select * from finish();
rollback;
