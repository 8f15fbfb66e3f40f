-- Tenant a 1 of 1, tenant b 2 of 5, one waiting run each: only b's resumes, once.
-- transaction: none
select plan(15);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('a', 1), give_limit('b', 2);
select use_units('a', 1), use_units('b', 2);
select isnt(pause_run(t, 'r'), null, t || ' is paused') from unnest(array['a', 'b']) t;
update stepquota.tiers set step_limit = 5 where tier = 'tier of b';
select set_clock('2026-04-15T12:01:00Z');
call stepquota.resume_scan();
select is(run_state('a', 'r') || ', ' || run_state('b', 'r'), 'WAITING at root.steps[0], RUNNING at root.steps[0]', 'only b''s run resumes');
select is((select array_agg(tenant || ' ' || run_id || ' ' || message || ' ' || (details ->> 'by')) from stepquota.workflow_run_logs), array['b r resumed scan'], 'one log row');
select is((select array_agg(tenant) from stepquota.workflow_run_resumptions), array['b'], 'one resumption');
select is((select array[tenants_seen, runs_resumed] from stepquota.resume_scans), array[2, 1], 'the scan''s row counts it: who is newly paused is looked at once');
select isnt((select finished_at from stepquota.resume_scans), null, 'and says when it was done');
call stepquota.resume_scan();
call stepquota.resume_scan(1);
select is((select count(*) from stepquota.workflow_run_logs), 1::bigint, 'running it twice does nothing more');
select is((select count(*) from stepquota.workflow_run_resumptions), 1::bigint, 'nor hands out another resumption');
select is(used('b'), 2::bigint, 'resuming consumes nothing');
select is((select array_agg(tenant) from stepquota.paused_tenants), array['a'], 'a stays among the paused');
select set_clock('2026-05-01T00:00:00Z');
call stepquota.resume_scan();
select is(run_state('a', 'r'), 'RUNNING at root.steps[0]', 'the next period brings a''s back');
select is((select array[s.outcome, s.used_count::text] from stepquota.start_workflow_step('a', 'r', 'root.steps[0]') s), array['started', '1'], 'to reserve again');
select is((select count(*) from stepquota.paused_tenants), 0::bigint, 'nobody is paused');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
