-- What others left behind: waits of ended runs are closed, waits without a paused tenant are found, and
-- an error with one tenant takes nothing of the others with it.
-- transaction: none
select plan(18);
select set_clock('2026-04-15T12:00:00Z');
select give_limit(t, 1), use_units(t, 1) from unnest(array['ended', 'lost', 'broken', 'fine', 'gone']) t;
select isnt(pause_run(t, 'r'), null, t || ' is paused') from unnest(array['ended', 'lost', 'broken', 'fine', 'gone']) t;
update stepquota.workflow_runs set status = 'SUCCEEDED', ended_at = '2026-04-15Z' where tenant = 'ended' and run_id = 'r';
delete from stepquota.paused_tenants where tenant = 'lost';
delete from stepquota.workflow_runs where tenant = 'gone' and run_id = 'r';
update stepquota.tiers set step_limit = 2 where tier like 'tier of %';
-- As a constraint of the host's might refuse a row.
alter table stepquota.workflow_run_logs add constraint refuse_broken check (tenant <> 'broken');
select is((select array_agg(tenant order by tenant) from stepquota.verify_all() where invariant = 'I5 no lost run'), array['ended', 'gone', 'lost'], 'verify_all sees three of them');
select set_clock('2026-04-15T12:01:00Z');
set client_min_messages = error;
call stepquota.resume_scan();
select is(run_state('lost', 'r') || ', ' || run_state('fine', 'r'), 'RUNNING at root.steps[0], RUNNING at root.steps[0]', 'the others go on');
select is((select status from stepquota.workflow_run_waits where tenant = 'ended'), 'CANCELED', 'the wait of the ended run is closed');
select is((select array_agg(message) from stepquota.workflow_run_logs where tenant = 'ended'), array['quota wait closed: the run had ended'], 'and its log says why');
select is((select status from stepquota.workflow_run_waits where tenant = 'gone'), 'CANCELED', 'so is that of a run that was deleted');
select is((select array_agg(message) from stepquota.workflow_run_logs where tenant = 'gone'), array['quota wait closed: there is no such run'], 'and the log says so');
select is((select count(*) from stepquota.paused_tenants where tenant in ('ended', 'gone')), 0::bigint, 'neither tenant is paused any more');
select is(run_state('broken', 'r'), 'WAITING at root.steps[0]', 'the broken one waits');
select is((select array[e ->> 'tenant', e ->> 'sqlstate'] from stepquota.resume_scans s, jsonb_array_elements(s.errors) e limit 1), array['broken', '23514'], 'the error is kept with its SQLSTATE');
select is((select s.state from stepquota.status() s where s.item = 'last scan errors'), 'error', 'and status() shows it');
select is((select count(*) from stepquota.quota_events where event_type = 'scan_failed_for_tenants'), 1::bigint, 'and an event says so');
alter table stepquota.workflow_run_logs drop constraint refuse_broken;
call stepquota.resume_scan();
select is(run_state('broken', 'r'), 'RUNNING at root.steps[0]', 'once it is mended it goes on');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
