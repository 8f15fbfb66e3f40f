-- What was not handed out is given back, from whatever lanes there are, and wakes whom it may wake.
begin;
select plan(29);
select set_clock('2026-04-15Z');
create function id(p_number integer) returns uuid language sql as $$ select ('00000000-0000-0000-0000-' || lpad(p_number::text, 12, '0'))::uuid $$;
create function closed(p_tenant text, p_number integer, p_handed_out bigint) returns text language sql as $$
  select format('%s of %s, %s returned', b.handed_out_count, b.granted_count, b.returned_count) from stepquota.close_workflow_step_batch(p_tenant, id(p_number), p_handed_out) b $$;
select give_limit('acme', 10);
select is((select q.granted from stepquota.open_workflow_step_batch('acme', id(1), 10, 'me') q), 10::bigint, 'all ten');
select pause_run('acme', 'r');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'acme'), 10::bigint, 'it is known to be exhausted');
select is((select due_at from stepquota.paused_tenants where tenant = 'acme'), '2026-05-01Z'::timestamptz, 'and a run waits for the next period');
select refuses($$select * from stepquota.close_workflow_step_batch('acme', id(1), 11)$$, 'WQ001', 'more than there were');
select refuses($$select * from stepquota.close_workflow_step_batch('acme', id(2), 1)$$, 'WQ025', 'a batch that is not there');
select refuses($$select * from stepquota.close_workflow_step_batch('globex', id(1), 1)$$, 'WQ025', 'or is another tenant''s');
select is(closed('acme', 1, 7), '7 of 10, 3 returned', 'three come back');
select is(used('acme'), 7::bigint, 'and are counted no more');
select is((select exhausted_at_count from stepquota.workflow_step_quotas where tenant = 'acme'), null, 'it is exhausted no more');
select is((select due_at from stepquota.paused_tenants where tenant = 'acme'), '2026-04-15Z'::timestamptz, 'the scan is to look at the paused run');
select is(closed('acme', 1, 7), '7 of 10, 3 returned', 'the same again');
select is(used('acme'), 7::bigint, 'changes nothing');
select refuses($$select * from stepquota.close_workflow_step_batch('acme', id(1), 6)$$, 'WQ026', 'another count is refused');
select is((select array[q.granted, q.used_count] from stepquota.reserve_workflow_steps('acme', 5, true) q), array[3, 10]::bigint[], 'exactly three can be taken');
select is_empty('select * from stepquota.verify_all()', 'the lanes own the limit');

-- Many lanes, some with steps that have a ledger row: those stay.
select give_limit('wide', 64000), use_units('wide', 3);
select stepquota._fan_out_lane('wide', '2026-04-01Z', 0);
select is((select q.granted from stepquota.open_workflow_step_batch('wide', id(3), 60000, 'me') q), 60000::bigint, 'a batch over many lanes');
select is(closed('wide', 3, 10000), '10000 of 60000, 50000 returned', 'given back over many lanes');
select is((select array[counter_used_count, unledgered_count, drift] from stepquota.reconcile_workflow_step_usage('wide', '2026-04-01Z')), array[10003, 10000, 10000]::bigint[], 'counted as it should be');
select is((select q.granted from stepquota.reserve_workflow_steps('wide', 64000, true) q), 53997::bigint, 'and all of it can be taken again');

-- The limit was lowered meanwhile, below what stays used: nothing becomes free, nobody is woken.
select give_limit('less', 10);
select (stepquota.open_workflow_step_batch('less', id(4), 10, 'me')).granted;
select pause_run('less', 'r');
select give_limit('less', 4);
update stepquota.paused_tenants set due_at = '2026-05-01Z' where tenant = 'less';
select is(closed('less', 4, 6), '6 of 10, 4 returned', 'under a lowered limit they come back too');
select is((select due_at from stepquota.paused_tenants where tenant = 'less'), '2026-05-01Z'::timestamptz, 'which wakes nobody');
select is((select q.allowed from stepquota.reserve_workflow_step('less') q), false, 'since there is still none free');

select give_limit('endless', null);
select (stepquota.open_workflow_step_batch('endless', id(5), 10, 'me')).granted;
select is(closed('endless', 5, 0), '0 of 10, 10 returned', 'without a limit');
select is(used('endless'), 0::bigint, 'they are counted no more either');

-- Somebody mended the counter by hand: no more comes back than is counted without a ledger row.
select give_limit('mended', 10), use_units('mended', 3);
select (stepquota.open_workflow_step_batch('mended', id(7), 5, 'me')).granted;
update stepquota.workflow_step_usage_lanes set used_count = 5, unledgered_count = 2 where tenant = 'mended';
select is(closed('mended', 7, 0), '0 of 5, 2 returned', 'what was mended away does not come back');
select is(used('mended'), 3::bigint, 'and steps with a ledger row stay counted');

-- The period is over: what it used stays.
select give_limit('late', 10);
select (stepquota.open_workflow_step_batch('late', id(6), 10, 'me')).granted;
select set_clock('2026-05-01Z');
select is(closed('late', 6, 4), '4 of 10, 0 returned', 'in the next period nothing comes back');
select is((select sum(used_count) from stepquota.workflow_step_usage_lanes where tenant = 'late' and period_start = '2026-04-01Z'), 10::numeric, 'and all stays counted');
select is_empty('select * from stepquota.verify_all()', 'the lanes own the limits');
select * from finish();
rollback;
