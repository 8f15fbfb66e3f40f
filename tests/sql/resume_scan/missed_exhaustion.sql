-- An exhaustion whose record was skipped, because the quota row was busy, is made up for by the scan.
-- transaction: none
select plan(3);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 1), use_units('acme', 1);
select isnt(pause_run('acme', 'r'), null, 'a paused run');
delete from stepquota.quota_events where event_type = 'quota_exhausted';
update stepquota.workflow_step_quotas set reported = array_remove(reported, 'quota_exhausted');
call stepquota.resume_scan();
select is((select array[level, details ->> 'used_count', details ->> 'effective_limit'] from stepquota.quota_events where event_type = 'quota_exhausted'), array['warning', '1', '1'], 'the scan records it');
select set_clock('2026-04-15T12:01:00Z');
call stepquota.resume_scan();
select is(count_events('acme', 'quota_exhausted'), 1::bigint, 'once');
select * from finish();
