-- Registering: RUNNING; the same call again answers the run as it is; otherwise an error.
begin;
select plan(11);
select set_clock('2027-07-15Z');
select is((select array[r.tenant, r.run_id, r.workflow, r.runtime, r.status, r.node_path, r.ledger_month::text] from stepquota.register_workflow_run('acme', 'r', 'flow', 'node') r),
  array['acme', 'r', 'flow', 'node', 'RUNNING', null, '2027-07-01'], 'the run');
select isnt(to_regclass('stepquota.workflow_run_steps_2027_07'), null, 'a month without a partition gets one');
select isnt(obj_description('stepquota.workflow_run_steps_2027_07'::regclass), null, 'with a comment');
select is((stepquota.finish_workflow_run('acme', 'r', 'SUCCEEDED')).status, 'SUCCEEDED', 'it ends');
select set_clock('2027-08-15Z');
select is((select array[r.status, r.ledger_month::text] from stepquota.register_workflow_run('acme', 'r', 'flow', 'node') r), array['SUCCEEDED', '2027-07-01'], 'again: as it is');
select refuses($$select stepquota.register_workflow_run('acme', 'r', 'flow', 'python')$$, 'WQ012', 'another runtime');
select refuses($$select stepquota.register_workflow_run('acme', 'r', 'other', 'node')$$, 'WQ012', 'another workflow');
select refuses($$select stepquota.register_workflow_run('acme', 'r', null, 'node')$$, 'WQ012', 'no workflow');
select is((stepquota.register_workflow_run('other', 'r')).runtime, 'default', 'another tenant may have the same id');
select is((select workflow from stepquota.register_workflow_run(repeat('ä', 127), repeat('x', 255))), null, '255 bytes are not too long');
select refuses(format($$select stepquota.register_workflow_run(%L, 'r')$$, repeat('ä', 128)), 'WQ001', '256 bytes are');
select * from finish();
rollback;
