-- In the seconds that it goes on, what becomes due is done within about one: a wait, a period's end, a limit
-- edited by hand; and what a scan cannot finish with does not make it scan all the time.
-- transaction: none
select plan(9);
select give_limit('acme', 1), use_units('acme', 1), give_limit('poor', 1), use_units('poor', 1), give_limit('hand', 1), use_units('hand', 1);
select isnt(pause_run(t, 'r'), null, t || ' is paused') from unnest(array['acme', 'poor', 'hand']) t;
call stepquota.resume_scan();
select (stepquota.set_policy('staleness', '1 second')).changed;
select (stepquota.register_workflow_run('acme', 'waits')).status, (stepquota.open_workflow_run_wait('acme', 'waits', 'root', 'time', clock_timestamp() + interval '1.2 seconds')).status;
-- As at the end of a period, and as somebody would in psql, telling nobody.
update stepquota.paused_tenants set due_at = clock_timestamp() + interval '1.2 seconds' where tenant = 'acme';
update stepquota.workflow_step_usage_lanes set used_count = 0, unledgered_count = 0 where tenant = 'acme';
update stepquota.workflow_step_quotas set exhausted_at_count = null where tenant = 'acme';
update stepquota.tiers set step_limit = 2 where tier = 'tier of hand';
-- Always due, and never done.
alter table stepquota.workflow_run_logs add constraint refuse_poor check (tenant <> 'poor');
update stepquota.tiers set step_limit = 2 where tier = 'tier of poor';
set client_min_messages = error;
create table began as select clock_timestamp() as at, (select max(scan_id) from stepquota.resume_scans) as last_scan_id;
call stepquota.watch(4);
select is((select clock_timestamp() - at between '4 seconds' and '6 seconds' from began), true, 'it goes on for so long');
select is((select resolved_at - due_at < interval '1 second' from stepquota.workflow_run_waits where run_id = 'waits'), true, 'the wait ends when it is due');
select is((select string_agg(tenant || ' ' || run_state(tenant, 'r'), ', ' order by tenant) from unnest(array['acme', 'hand', 'poor']) tenant),
  'acme RUNNING at root.steps[0], hand RUNNING at root.steps[0], poor WAITING at root.steps[0]', 'runs go on');
select is((select l.logged_at - b.at < interval '3 seconds' from stepquota.workflow_run_logs l, began b where l.tenant = 'acme' and l.run_id = 'r'), true, 'the tenant is looked at when it is due');
select cmp_ok((select count(*) from stepquota.resume_scans s, began b where s.scan_id > b.last_scan_id), '<=', 6::bigint, 'the one with an error is tried less and less often');
select is((select array[e ->> 'constraint', e ->> 'table', e ->> 'schema'] from stepquota.resume_scans s, jsonb_array_elements(s.errors) e limit 1), array['refuse_poor', 'workflow_run_logs', 'stepquota'], 'its error is kept with all its details');
select * from finish();
