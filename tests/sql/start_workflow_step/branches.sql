-- Branches: one wait for all that are refused; branches already started may finish; the run is WAITING
-- only when every branch waits; a started path leaves the wait, which closes when none is left.
begin;
select plan(26);
select set_clock('2026-04-15T12:00:00Z');
create function pg_temp.start(p_path text) returns text language sql as $$
  select (stepquota.start_workflow_step('acme', 'r', p_path)).outcome;
$$;
create function pg_temp.paths() returns text[] language sql as $$
  select node_paths from stepquota.workflow_run_waits where wait_type = 'quota' and status = 'WAITING';
$$;
select give_limit('acme', 1);
select (stepquota.register_workflow_run('acme', 'r')).status;
select is(pg_temp.start('a'), 'started', 'branch a works');
select is(pg_temp.start('b'), 'quota_paused', 'branch b is refused');
select is(run_state('acme', 'r'), 'RUNNING at b', 'the run is RUNNING as long as a works');
select is(pg_temp.start('c'), 'quota_paused', 'branch c is refused');
select is((select count(*) from stepquota.workflow_run_waits), 1::bigint, 'one wait');
select is(pg_temp.paths(), array['b', 'c'], 'with both paths');
select is(pg_temp.start('b') || ' ' || pg_temp.start('c'), 'quota_paused quota_paused', 'asking again');
select is(pg_temp.paths(), array['b', 'c'], 'adds no path twice');
select is((stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED')).status, 'SUCCEEDED', 'a finishes');
select is(split_part(run_state('acme', 'r'), ' ', 1), 'WAITING', 'now every branch waits');

select give_limit('acme', 2);
select is(split_part(run_state('acme', 'r'), ' ', 1), 'RUNNING', 'one more unit resumes one path');
select is((select node_paths from stepquota.workflow_run_resumptions), array['b'], 'the first');
select is(pg_temp.paths(), array['c'], 'the other waits on');
select is(pg_temp.start('c'), 'started', 'whoever asks first gets the unit');
select is(pg_temp.paths(), null, 'the wait closes when no path is left');
select is(pg_temp.start('b'), 'quota_paused', 'b is paused again');
select is((select queued_at from stepquota.workflow_run_waits where status = 'WAITING'), '2026-04-15T12:00:00Z'::timestamptz, 'and keeps its place in the queue');
select is(run_state('acme', 'r'), 'RUNNING at b', 'c works');
select is((stepquota.finish_workflow_step('acme', 'r', 'c', 1, 'FAILED')).status, 'FAILED', 'c fails');
select is(run_state('acme', 'r'), 'WAITING at b', 'and the run waits where it is paused');
select is((select reason from stepquota.resume_workflow_run('acme', 'r', 'x')), 'quota_exhausted', 'so that it can be resumed by hand');

-- A path that starts leaves the wait; the rest goes on waiting.
select pg_temp.start('d');
update stepquota.tiers set step_limit = 3 where tier = 'tier of acme';
select set_clock('2026-04-15T12:01:00Z');
select is(pg_temp.start('d'), 'started', 'd starts');
select is(pg_temp.paths(), array['b'], 'and leaves the wait');
select (stepquota.finish_workflow_step('acme', 'r', 'd', 1, 'SUCCEEDED')).status;
select is(run_state('acme', 'r'), 'WAITING at b', 'after d the run waits at b, not at d');
select is((select reason from stepquota.resume_workflow_run('acme', 'r', 'x')), 'quota_exhausted', 'which is no stale pause');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
