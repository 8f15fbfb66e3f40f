-- Events, the newest first, each with its meaning.
begin;
select plan(5);
select set_clock('2026-04-15T12:00:00Z');
select stepquota.set_tenant_plan('acme', 'pro');
select set_clock('2026-04-15T13:00:00Z');
select stepquota.set_tenant_plan('globex', 'pro');
select stepquota.hold_tenant('acme', 'a ticket');
select is((select e.event_type || ' ' || e.tenant from stepquota.recent_events e limit 1), 'tenant_held acme', 'the newest first');
select is((select array_agg(e.event_type) from (select * from stepquota.recent_events where tenant = 'acme' limit 3) e), array['tenant_held', 'fallback_period', 'plan_changed'], 'and of one tenant');
select is_empty($$select 1 from stepquota.recent_events where coalesce(meaning, '') = ''$$, 'each says what it means');
select is((select count(*) from stepquota.recent_events), (select count(*) from stepquota.quota_events), 'none is missing');
set local role stepquota_observer;
select is((select count(*) from stepquota.recent_events where event_type = 'tenant_held'), 1::bigint, 'an observer may look');
reset role;
select * from finish();
rollback;
