-- Left open: recorded once. Closed for long: deleted. In bounded steps, and by tick().
-- transaction: none
select plan(9);
create function id(p_number integer) returns uuid language sql as $$ select ('00000000-0000-0000-0000-' || lpad(p_number::text, 12, '0'))::uuid $$;
select set_clock('2026-04-15T12:00:00Z');
select (stepquota.open_workflow_step_batch('acme', id(n), 1, 'me')).granted from generate_series(1, 5) n;
select (stepquota.close_workflow_step_batch('acme', id(n), 1)).closed_at from generate_series(1, 3) n;
select is(stepquota.tend_workflow_step_batches(), 0::bigint, 'nothing to do yet');
select set_clock('2026-04-15T12:01:00Z');
select is(stepquota.tend_workflow_step_batches(), 2::bigint, 'two were left open');
select is(count_events('acme', 'batch_left_open'), 2::bigint, 'which is recorded');
select is(stepquota.tend_workflow_step_batches(), 0::bigint, 'once');
select set_clock('2026-04-15T13:00:01Z');
select is(stepquota.tend_workflow_step_batches(2), 2::bigint, 'two of the three closed ones');
select is((select count(*) from stepquota.workflow_step_batches), 3::bigint, 'are gone');
call stepquota.tick();
select set_eq('select batch_id from stepquota.workflow_step_batches', 'select id(n) from generate_series(4, 5) n', 'tick does the rest, and leaves open ones');
select is(used('acme'), 5::bigint, 'the count stays');
select (stepquota.open_workflow_step_batch('acme', id(6), 1, 'me')).granted;
select set_clock('2026-04-15T13:05:00Z');
call stepquota.tick();
select is(count_events('acme', 'batch_left_open'), 3::bigint, 'tick records as well');
select * from finish();
