-- Logs, events, findings and scans go when they are old; an event that a consumer has not acknowledged is
-- kept for longer, and no longer than that.
begin;
select plan(26);
select set_clock('2026-01-15Z');
select give_limit('acme', 1), use_units('acme', 1);
select isnt(pause_run('acme', 'r'), null, 'a paused run');
select give_limit('acme', 2);
select set_clock('2026-04-14Z');
select is(stepquota.purge_rows('logs'), 0::bigint, 'logs are kept for 90 days');
select set_clock('2026-04-16Z');
select is(stepquota.purge_rows('logs'), 1::bigint, 'then they go, of runs that go on too');
-- Events.
select set_clock('2026-05-01Z');
select is(stepquota.purge_rows('events'), 0::bigint, 'events are kept for longer');
select count(*) from stepquota.claim_quota_events('mail', 1, p_event_types => array['run_paused', 'run_resumed'], p_start_at => '2026-01-01Z');
create function types() returns text language sql as $$ select string_agg(event_type, ', ' order by event_id) from stepquota.quota_events where created_at < '2026-02-01Z' $$;
select set_clock('2027-03-01Z');
select cmp_ok(stepquota.purge_rows('events'), '>', 3::bigint, 'old ones go');
select is(types(), 'run_paused, run_resumed', 'but for what a consumer has claimed, and what it has yet to get');
select is(stepquota.purge_rows('events'), 0::bigint, 'and no more');
-- Broken on purpose: each of the two guards is needed.
savepoint sound;
do $$
begin
  execute replace(pg_get_functiondef('stepquota._purge_events(integer, timestamptz)'::regprocedure), 'l.event_id = e.event_id', 'false');
end;
$$;
select is(stepquota.purge_rows('events') || ' ' || types(), '1 run_resumed', 'what is claimed would go');
rollback to sound;
do $$
begin
  execute replace(pg_get_functiondef('stepquota._purge_events(integer, timestamptz)'::regprocedure), 'e.position > c.position', 'false');
end;
$$;
select is(stepquota.purge_rows('events') || ' ' || types(), '1 run_paused', 'so would what is yet to get');
rollback to sound;
select cmp_ok((select events_purged_until from stepquota.purge_state), '=', '2026-01-15Z'::timestamptz, 'it is known until when they may be missing');
select count(*) from stepquota.acknowledge_quota_events('mail', array(select event_id from stepquota.quota_events where event_type = 'run_paused'));
select is(stepquota.purge_rows('events'), 1::bigint, 'what is acknowledged goes');
select is(types(), 'run_resumed', 'the other stays');
select set_clock('2028-05-01Z');
select cmp_ok(stepquota.purge_rows('events'), '>', 0::bigint, 'for 800 days');
select is(types(), null, 'and no longer');
-- Without events of it, an earlier lowered limit is no alarm.
select give_limit('less', 5), use_units('less', 3);
update stepquota.workflow_step_usage_lanes set allowance = 2 where tenant = 'less';
select set_clock('2028-06-02Z');
select stepquota.refresh_workflow_step_quota('less');
select isnt_empty($$select * from stepquota.verify_all() where tenant = 'less'$$, 'a lane that used too much');
update stepquota.purge_state set events_purged_until = '2028-06-01Z';
select is_empty($$select * from stepquota.verify_all() where tenant = 'less'$$, 'may be so because a limit was lowered once');
-- Findings.
select use_units('off', 1);
update stepquota.workflow_step_usage_lanes set used_count = 2 where tenant = 'off';
select is(stepquota.reconcile_tenant('off'), 1::bigint, 'a finding');
select set_clock('2032-01-01Z');
select is(stepquota.purge_rows('findings'), 0::bigint, 'one that is open stays');
update stepquota.workflow_step_usage_lanes set used_count = 1 where tenant = 'off';
select is(stepquota.reconcile_tenant('off'), 0::bigint, 'it is closed');
select is(stepquota.purge_rows('findings'), 0::bigint, 'and stays for a while');
select set_clock('2034-01-01Z');
select is(stepquota.purge_rows('findings'), 1::bigint, 'then it goes');
-- Scans.
insert into stepquota.resume_scans (started_at, finished_at) select '2033-10-01Z'::timestamptz + n * interval '1 day', '2033-10-01Z'::timestamptz + n * interval '1 day' from generate_series(1, 50) n;
select is(stepquota.purge_rows('scans', 7), 7::bigint, 'scans, so many at a time');
select is(stepquota.purge_rows('scans', 100), 42::bigint, 'all old ones but the latest');
select is((select count(*) from stepquota.resume_scans), 1::bigint, 'by which status tells that the scan is alive');
select isnt((select purged_at from stepquota.purge_state), null, 'when it came to its end is known');
-- Policies have a lower bound.
select refuses($$select * from stepquota.set_policy('ended_runs_kept_for', '1 hour')$$, 'WQ015', 'nothing goes before a day is over');
select * from finish();
rollback;
