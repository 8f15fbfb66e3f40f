-- An unknown run, another tenant's, one that has ended.
begin;
select plan(6);
select (stepquota.register_workflow_run('acme', 'r')).status, (stepquota.register_workflow_run('acme', 'ended')).status,
  (stepquota.finish_workflow_run('acme', 'ended', 'FAILED')).status;
select refuses($$select stepquota.hold_workflow_run('acme', 'none', 'x')$$, 'WQ002', 'hold an unknown run');
select refuses($$select stepquota.hold_workflow_run('other', 'r', 'x')$$, 'WQ002', 'hold another tenant''s');
select refuses($$select stepquota.hold_workflow_run('acme', 'ended', 'x')$$, 'WQ006', 'hold one that has ended');
select refuses($$select stepquota.release_workflow_run('acme', 'none', 'x')$$, 'WQ002', 'release an unknown run');
select refuses($$select stepquota.release_workflow_run('acme', 'ended', 'x')$$, 'WQ006', 'release one that has ended');
select is((select array[run_id, held_at::text] from stepquota.release_workflow_run('acme', 'r', 'x')), array['r', null], 'one that is not held is left as it is');
select * from finish();
rollback;
