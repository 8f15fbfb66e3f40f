-- Counter 5 and ledger 3: drift 2; units of callers with their own ledger are told apart.
begin;
select plan(9);
select set_clock('2026-04-15Z');
select use_units('acme', 3);
select results_eq($$select * from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')$$,
  $$values ('acme'::text, '2026-04-01Z'::timestamptz, '2026-05-01Z'::timestamptz, 3::bigint, 3::bigint, 0::bigint, 0::bigint, 0::bigint, null::text[], null::bigint)$$, 'no drift');
update stepquota.workflow_step_usage_lanes set used_count = 5 where tenant = 'acme';
select is((select array[counter_used_count, ledger_step_count, drift] from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), array[5, 3, 2]::bigint[], 'counter 5 and ledger 3: drift 2');
select is((select count(*) from stepquota.verify_all() where invariant = 'I3 conserved' and tenant = 'acme'), 1::bigint, 'verify_all says so');
update stepquota.workflow_step_usage_lanes set used_count = 2 where tenant = 'acme';
select is((select drift from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), -1::bigint, 'a drift may be negative');
update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'acme';
select (stepquota.reserve_workflow_step('acme')).allowed;
select is((select array[drift, unledgered_count] from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), array[1, 1]::bigint[], 'a unit with the caller''s own ledger');
select is_empty('select * from stepquota.verify_all()', 'is no violation');
select refuses($$select * from stepquota.reconcile_workflow_step_usage('acme', '2026-03-01Z')$$, 'WQ018', 'a period the tenant never had');
select refuses($$select * from stepquota.reconcile_workflow_step_usage('nobody', '2026-04-01Z')$$, 'WQ018', 'a tenant that never was');
select refuses($$select * from stepquota.reconcile_workflow_step_usage('acme', null)$$, 'WQ001', 'no period');
select * from finish();
rollback;
