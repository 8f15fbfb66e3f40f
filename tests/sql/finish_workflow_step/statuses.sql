-- Each status; the same again answers the same; another is refused; errors are kept; nothing is uncounted.
begin;
select plan(15);
select set_clock('2026-04-15Z');
select (stepquota.register_workflow_run('acme', 'r')).status;
select is((stepquota.start_workflow_step('acme', 'r', s.status)).outcome, 'started', s.status) from unnest(array['SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED']) s (status);
select is((select array[f.status, f.error::text, (f.finished_at = '2026-04-15Z')::text]
             from stepquota.finish_workflow_step('acme', 'r', s.status, 1, s.status, '{"code": 1}') f), array[s.status, '{"code": 1}', 'true'], 'finishes as ' || s.status)
from unnest(array['SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED']) s (status);
select set_clock('2026-04-16Z');
select is((select f.finished_at from stepquota.finish_workflow_step('acme', 'r', 'FAILED', 1, 'FAILED', '{"code": 2}') f), '2026-04-15Z'::timestamptz, 'the same again answers the same');
select refuses($$select stepquota.finish_workflow_step('acme', 'r', 'FAILED', 1, 'SUCCEEDED')$$, 'WQ009', 'another status is refused');
select refuses($$select stepquota.finish_workflow_step('acme', 'r', 'FAILED', 2, 'SUCCEEDED')$$, 'WQ008', 'so is an attempt that never started');
select refuses($$select stepquota.finish_workflow_step('acme', 'none', 'FAILED', 1, 'SUCCEEDED')$$, 'WQ002', 'and an unknown run');
select is(used('acme'), 4::bigint, 'nothing is uncounted');
select (stepquota.start_workflow_step('acme', 'r', 'late')).outcome, (stepquota.finish_workflow_run('acme', 'r', 'FAILED')).status;
select refuses($$select stepquota.finish_workflow_step('acme', 'r', 'late', 1, 'SUCCEEDED')$$, 'WQ006', 'nor does a step finish after its run');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
