-- A better plan resumes at once, within policy's bounds; it is audited; an unknown plan is refused.
begin;
select plan(16);
select set_clock('2026-04-15Z');
select tier from stepquota.set_tier_limit('tiny', 1);
select is((stepquota.set_tenant_plan('acme', 'tiny')).effective_limit, 1::bigint, 'a plan');
select use_units('acme', 1);
select count(pause_run('acme', 'r' || n)) from generate_series(1, 3) n;
select is((select array[q.tier, q.effective_limit::text, q.used_count::text, q.allowed::text] from stepquota.set_tenant_plan('acme', 'pro') q), array['pro', '750', '1', 'true'], 'the summary after an upgrade');
select is((select count(*) from stepquota.workflow_run_resumptions), 3::bigint, 'all runs go on in the same transaction');
select is((select count(*) from stepquota.paused_tenants), 0::bigint, 'nobody is paused');
select is((select array_agg((details ->> 'from') || ' ' || (details ->> 'to') order by event_id) from stepquota.quota_events where event_type = 'plan_changed' and tenant = 'acme' and details ->> 'from' is not null), array['tiny pro'], 'it is audited');
select is((stepquota.set_tenant_plan('acme', 'pro')).tier, 'pro', 'the same again');
select is(count_events('acme', 'plan_changed'), 2::bigint, 'is no change');
select is((select array[q.tier, q.effective_limit::text] from stepquota.set_tenant_plan('acme', null) q), array['solo', '150'], 'no plan: the default tier');
select refuses($$select stepquota.set_tenant_plan('acme', 'gold')$$, 'WQ001', 'a plan that is no tier');
select refuses($$select stepquota.set_tenant_plan('acme', '')$$, 'WQ001', 'an empty plan');

-- Beyond policy.at_once_runs the scan goes on.
select value from stepquota.set_policy('at_once_runs', '2');
select (stepquota.set_tenant_plan('many', 'tiny')).tier;
select use_units('many', 1);
select count(pause_run('many', 'r' || n)) from generate_series(1, 5) n;
select (stepquota.set_tenant_plan('many', 'pro')).tier;
select is((select count(*) from stepquota.workflow_run_resumptions where tenant = 'many'), 2::bigint, 'at most so many at once');
select is((select due_at from stepquota.paused_tenants where tenant = 'many'), '2026-04-15Z'::timestamptz, 'the rest is due now');
select is((select runs_resumed from stepquota.resume_due_tenant('many', 100)), 3, 'and is the scan''s');
select is_empty($$select * from stepquota.paused_tenants$$, 'then nobody is paused');
select (stepquota.set_tenant_plan('many', 'tiny')).tier;
select is((select q.remaining from stepquota.resolve_workflow_step_quota('many') q), 0::bigint, 'a lower plan leaves nothing');
select is_empty('select * from stepquota.verify_all()', 'every invariant holds');
select * from finish();
rollback;
