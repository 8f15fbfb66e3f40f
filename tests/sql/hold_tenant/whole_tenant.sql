-- A hold on a tenant stops its runs, and only its own; scans skip it.
-- transaction: none
select plan(13);
select set_clock('2026-04-14T12:00:00Z');
select give_limit('acme', 5), give_limit('other', 5);
select (stepquota.register_workflow_run('acme', 'r')).status, (stepquota.register_workflow_run('other', 'r')).status;
select is((select array[tenant, plan, held_at::text, held_by, held_because] from stepquota.hold_tenant('acme', 'audit')),
  array['acme', 'tier of acme', '2026-04-14 12:00:00+00', session_user::text, 'audit'], 'it is held');
select is((select held_because from stepquota.hold_tenant('acme', 'again')), 'audit', 'held again it stays as it is');
select is((stepquota.start_workflow_step('acme', 'r', 'root')).outcome, 'held', 'nothing of it starts');
select is((stepquota.start_workflow_step('other', 'r', 'root')).outcome, 'started', 'of others it does');
select is((select array_agg(reason) from stepquota.explain_workflow_step_quota('acme') where object_type = 'tenant'),
  array[format('%s holds the tenant since 2026-04-14 12:00:00 UTC: start_workflow_step starts nothing, whatever is left.', session_user)], 'the explanation says so');
call stepquota.resume_scan();
select is((select skipped from stepquota.resume_scans), '{"operator_hold": 1}'::jsonb, 'the scan skips it and says why');
select is(count_events('acme', 'resume_skipped_operator_hold'), 1::bigint, 'and records it');
select is(run_state('acme', 'r'), 'WAITING at root', 'the run waits');
select is((select held_at from stepquota.release_tenant('acme', 'done')), null, 'it is released');
select is(run_state('acme', 'r'), 'RUNNING at root', 'and the run goes on in the same transaction');
select is((select array_agg(event_type || ' ' || (details ->> 'reason') order by event_id) from stepquota.quota_events where event_type in ('tenant_held', 'tenant_released')),
  array['tenant_held audit', 'tenant_released done'], 'both are recorded, once');
select is((select held_at from stepquota.release_tenant('acme', 'again')), null, 'released again, nothing happens');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
