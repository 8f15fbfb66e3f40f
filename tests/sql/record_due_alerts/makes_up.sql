-- What could not be recorded when it came, tick() records: noted tenants, and those of several lanes.
-- transaction: none
select plan(21);
select set_clock('2026-04-15T12:00:00Z');
create function reached(p_tenant text) returns text language sql as $$
  select coalesce(string_agg(e.details ->> 'percent', ', ' order by e.event_id), '')
    from stepquota.quota_events e where e.tenant = p_tenant and e.event_type = 'quota_threshold_reached';
$$;
-- Under REPEATABLE READ nobody changes the quota row on the way.
select give_limit('acme', 10);
set default_transaction_isolation = 'repeatable read';
select (stepquota.reserve_workflow_steps('acme', 5)).granted, (stepquota.reserve_workflow_step('acme')).allowed;
set default_transaction_isolation = 'read committed';
select is(reached('acme'), '', 'not recorded');
select is((select count(*) from stepquota.workflow_step_alert_checks where tenant = 'acme'), 1::bigint, 'but noted, once');
call stepquota.tick();
select is(reached('acme'), '50', 'tick records it');
select is((select count(*) from stepquota.workflow_step_alert_checks), 0::bigint, 'and the note is done with');
select is((select alert_at_count from stepquota.workflow_step_quotas where tenant = 'acme'), 8::bigint, 'the next is armed');

-- Several lanes: what is used is in lanes that nobody asked.
select give_limit('hot', 100000);
insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance, used_count, unledgered_count)
select 'hot', '2026-04-01Z', n, 1000, 800, 800 from generate_series(1, 63) n;
update stepquota.workflow_step_usage_lanes set allowance = 100000 - 63 * 1000 where tenant = 'hot' and lane = 0;
update stepquota.workflow_step_quotas set lane_count = 64 where tenant = 'hot';
select is(stepquota.record_due_alerts(), null, 'all looked at in one call');
select is(reached('hot'), '50', 'half of it is used');
select is(stepquota.record_due_alerts(), null, 'looked at again');
select is(reached('hot'), '50', 'is not recorded again');

-- Many: in bounded steps.
select give_limit('t' || n, 10) from generate_series(1, 5) n;
insert into stepquota.workflow_step_alert_checks (tenant, is_denial, noted_at) select 't' || n, false, '2026-04-15Z' from generate_series(1, 5) n cross join generate_series(1, 3);
select is(stepquota.record_due_alerts('', 2), 't1', 'two tenants, the one of many lanes among them');
select is((select count(*) from stepquota.workflow_step_alert_checks), 12::bigint, 'all notes of a tenant');
select is(stepquota.record_due_alerts('t1', 2), 't3', 'two more');
select is(stepquota.record_due_alerts('t3', 3), null, 'the rest');
select is((select count(*) from stepquota.workflow_step_alert_checks), 0::bigint, 'no note is left');

-- A tenant that nobody knows any more, and one without a quota row.
insert into stepquota.workflow_step_alert_checks (tenant, is_denial, noted_at) values ('unknown', true, '2026-04-15Z');
select is(stepquota.record_due_alerts(), null, 'a note of a tenant without a quota');
select is((select count(*) from stepquota.workflow_step_alert_checks), 0::bigint, 'is dropped');

-- A refusal whose record was skipped.
select give_limit('dry', 1);
select is((select array_agg((stepquota.reserve_workflow_step('dry')).allowed) from generate_series(1, 2)), array[true, false], 'refused');
delete from stepquota.quota_events where tenant = 'dry' and event_type = 'quota_exhausted';
update stepquota.workflow_step_quotas set reported = '{}', exhausted_at_count = null where tenant = 'dry';
insert into stepquota.workflow_step_alert_checks (tenant, is_denial, noted_at) values ('dry', true, '2026-04-15Z');
call stepquota.tick();
select is(count_events('dry', 'quota_exhausted'), 1::bigint, 'is made up for');
call stepquota.tick();
select is(count_events('dry', 'quota_exhausted'), 1::bigint, 'once');
select is_empty('select tenant, position from stepquota.quota_events where position is null', 'tick puts events in order');
delete from stepquota.workflow_step_usage_lanes where tenant = 'hot' and lane > 0;
update stepquota.workflow_step_usage_lanes set allowance = 100000 where tenant = 'hot';
update stepquota.workflow_step_quotas set lane_count = 1 where tenant = 'hot';
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
