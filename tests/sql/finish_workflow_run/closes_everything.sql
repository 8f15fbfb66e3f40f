-- Ending a run closes its waits and resumptions; ending it again is an error, in the same way is not.
begin;
select plan(14);
select set_clock('2026-04-15Z');
select give_limit('acme', 1);
select use_units('acme', 1);
select (stepquota.register_workflow_run('acme', 'event')).status;
select (stepquota.open_workflow_run_wait('acme', 'event', 'e', 'event')).status;
select isnt(pause_run('acme', r), null, r || ' is paused') from unnest(array['paused', 'resumed']) r;
update stepquota.workflow_run_waits set queued_at = '2026-04-01Z' where run_id = 'resumed';
select give_limit('acme', 2);
select is(run_state('acme', 'resumed') || ', ' || run_state('acme', 'paused'), 'RUNNING at root.steps[0], WAITING at root.steps[0]', 'one of them is resumed');
select is((select array[f.status, f.error::text, (f.ended_at is not null)::text] from stepquota.finish_workflow_run('acme', r, 'FAILED', '{"message": "given up"}') f),
  array['FAILED', '{"message": "given up"}', 'true'], r || ' ends') from unnest(array['paused', 'resumed', 'event']) r;
select is((select array_agg(distinct status order by status) from stepquota.workflow_run_waits), array['CANCELED', 'RESOLVED'], 'no wait is open');
select is((select array_agg(status) from stepquota.workflow_run_resumptions), array['CANCELED'], 'no resumption');
select is_empty($$select * from stepquota.claim_workflow_run_resumptions('w')$$, 'nothing is claimed');
select is((stepquota.finish_workflow_run('acme', 'paused', 'FAILED')).status, 'FAILED', 'the same again answers the same');
select refuses($$select stepquota.finish_workflow_run('acme', 'paused', 'SUCCEEDED')$$, 'WQ006', 'another end is refused');
select refuses($$select stepquota.finish_workflow_run('acme', 'none', 'SUCCEEDED')$$, 'WQ002', 'and an unknown run');
select ok((stepquota.reserve_workflow_step('acme')).allowed, 'the promised unit is free again');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
