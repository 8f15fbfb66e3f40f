-- Open batches, the oldest first; from some age on they were left behind.
begin;
select plan(8);
create function id(p_number integer) returns uuid language sql as $$ select ('00000000-0000-0000-0000-' || lpad(p_number::text, 12, '0'))::uuid $$;
select set_clock('2026-04-15T12:00:00Z');
select is_empty('select * from stepquota.list_open_workflow_step_batches()', 'none at first');
select (stepquota.open_workflow_step_batch('acme', id(2), 3, 'one')).granted;
select set_clock('2026-04-15T12:00:30Z');
select (stepquota.open_workflow_step_batch('globex', id(1), 5, 'other')).granted, (stepquota.open_workflow_step_batch('globex', id(3), 5, 'other')).granted,
  (stepquota.close_workflow_step_batch('globex', id(3), 5)).closed_at;
select results_eq('select tenant, batch_id, period_start, granted_count, holder, opened_at, is_overdue from stepquota.list_open_workflow_step_batches()',
  $$values ('acme', id(2), '2026-04-01Z'::timestamptz, 3::bigint, 'one', '2026-04-15T12:00:00Z'::timestamptz, false),
           ('globex', id(1), '2026-04-01Z', 5, 'other', '2026-04-15T12:00:30Z', false)$$, 'all that are not closed');
select set_clock('2026-04-15T12:01:00Z');
select results_eq('select tenant, is_overdue from stepquota.list_open_workflow_step_batches()', $$values ('acme', true), ('globex', false)$$, 'one for too long');
-- Reconciling its period records it, once; another tenant's it does not look at.
select (stepquota.reconcile_workflow_step_usage('globex', '2026-04-01Z')).drift;
select is(count_events('acme', 'batch_left_open') + count_events('globex', 'batch_left_open'), 0::bigint, 'nothing is recorded of others, nor too early');
select (stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')).drift;
select is(count_events('acme', 'batch_left_open'), 1::bigint, 'reconciling records it');
select (stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')).drift;
select is(count_events('acme', 'batch_left_open'), 1::bigint, 'once');
select is((select details - 'opened_at' - 'period_start' from stepquota.quota_events where event_type = 'batch_left_open'),
  jsonb_build_object('batch_id', id(2), 'granted_count', 3, 'holder', 'one'), 'with what is known');
select set_clock('2026-04-15Z');
set local transaction_read_only = on;
select is((select drift from stepquota.reconcile_workflow_step_usage('acme', '2026-04-01Z')), 3::bigint, 'it may be read only');
select * from finish();
rollback;
