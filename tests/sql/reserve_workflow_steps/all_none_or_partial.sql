-- A batch takes all it asks for, or nothing, or with p_allow_partial what is left; lanes or not.
begin;
select plan(14);
select set_clock('2026-04-15Z');
select stepquota.set_tier_limit('gold', 10);
select stepquota.set_tenant_plan('acme', 'gold');
select is((select array[q.granted, q.used_count, q.remaining] from stepquota.reserve_workflow_steps('acme', 7) q), array[7, 7, 3]::bigint[], 'seven of ten');
select is((select array[q.granted, q.used_count, q.remaining] from stepquota.reserve_workflow_steps('acme', 4) q), array[0, 7, 3]::bigint[], 'four do not fit: none is taken');
select is((select q.allowed from stepquota.reserve_workflow_steps('acme', 4) q), false, 'which is a denial');
select is((select array[q.granted, q.used_count, q.remaining] from stepquota.reserve_workflow_steps('acme', 4, true) q), array[3, 10, 0]::bigint[], 'partly: the three that are left');
select is((select array[q.granted, q.used_count] from stepquota.reserve_workflow_steps('acme', 1, true) q), array[0, 10]::bigint[], 'then nothing');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'acme'), 10::bigint, 'the quota row is marked');
select is((select q.allowed from stepquota.reserve_workflow_step('acme') q), false, 'a single one is denied by the mark');
select is((select count(*) from stepquota.quota_events where event_type = 'quota_exhausted'), 1::bigint, 'recorded once');
select stepquota.set_tier_limit('gold', 12);
select is((select array[q.granted, q.used_count] from stepquota.reserve_workflow_steps('acme', 2) q), array[2, 12]::bigint[], 'a raise clears the mark');
select is((select unledgered_count from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), 12::bigint, 'no ledger row goes with them');
-- Sixty-four lanes that each have less left than is asked for.
select stepquota.set_tier_limit('wide', 64000);
select stepquota.set_tenant_plan('globex', 'wide');
update stepquota.workflow_step_usage_lanes set used_count = used_count where tenant = 'globex';
select stepquota._fan_out_lane('globex', '2026-04-01Z', 0);
select is((select count(*) from stepquota.workflow_step_usage_lanes where tenant = 'globex'), 64::bigint, 'a lane with enough left splits into 64');
select is((select array[q.granted, q.used_count] from stepquota.reserve_workflow_steps('globex', 60000) q), array[60000, 60000]::bigint[], 'a batch that no one lane can serve is served by all');
select is((select array[q.granted, q.used_count] from stepquota.reserve_workflow_steps('globex', 5000, true) q), array[4000, 64000]::bigint[], 'and the rest of it');
select is_empty('select * from stepquota.verify_all()', 'the lanes own the limit');
select * from finish();
rollback;
