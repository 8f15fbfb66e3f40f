-- Retries count, every forEach item counts and the forEach itself; entering a wait counts once.
begin;
select plan(15);
select set_clock('2026-04-15Z');
create function pg_temp.step(p_path text, p_attempt integer, p_status text, p_type text default 'action') returns text language plpgsql as $$
declare
  v_start stepquota.workflow_step_start := stepquota.start_workflow_step('acme', 'r', p_path, p_attempt, p_type);
begin
  if p_status is not null and v_start.outcome = 'started' then
    perform stepquota.finish_workflow_step('acme', 'r', p_path, p_attempt, p_status);
  end if;
  return v_start.outcome;
end;
$$;
select (stepquota.register_workflow_run('acme', 'r')).status;
select is(pg_temp.step('root.steps[0]', 1, 'RETRY_SCHEDULED') || ' ' || pg_temp.step('root.steps[0]', 2, 'SUCCEEDED'), 'started started', 'failing once, retried');
select is(used('acme'), 2::bigint, 'used 2');
select is((select array_agg(attempt || ' ' || status order by attempt) from stepquota.workflow_run_steps), array['1 RETRY_SCHEDULED', '2 SUCCEEDED'], 'two rows');
select is(pg_temp.step('root.steps[3]', 1, 'FAILED'), 'started', 'one that fails for good');
select is(used('acme'), 3::bigint, 'counts as well');

select is(pg_temp.step('root.steps[1]', 1, null, 'forEach'), 'started', 'a forEach');
select is(array_agg(pg_temp.step(format('root.steps[1].body[%s].steps[0]', n), 1, 'SUCCEEDED') order by n), array['started', 'started', 'started'], 'over three items') from generate_series(0, 2) n;
select is(used('acme'), 3 + 4::bigint, 'used 4 more');
select is((select count(*) from stepquota.workflow_run_steps where node_path like '%body%'), 3::bigint, 'three body rows, each with its item in the path');

select is(pg_temp.step('root.steps[2]', 1, null, 'event'), 'started', 'an event step');
create temp table wait as select * from stepquota.open_workflow_run_wait('acme', 'r', 'root.steps[2]', 'event');
select is(used('acme'), 8::bigint, 'counts once, at its entry');
select is((stepquota.resolve_workflow_run_wait('acme', (select wait_id from wait), '{"x": 1}')).status, 'RESOLVED', 'the event comes');
select is((select array[s.outcome, s.used_count::text] from stepquota.start_workflow_step('acme', 'r', 'root.steps[2]', 1, 'event') s), array['already_started', '8'], 're-entering is no new start');
select is(used('acme'), 8::bigint, 'waking up counts nothing');
select is_empty('select * from stepquota.verify_all()', 'counter and ledger agree');
select * from finish();
rollback;
