-- Used, left, percent, resets, sources, paused runs: as the functions say, and nothing is stored by looking.
begin;
select plan(24);
select set_clock('2026-04-15T12:00:00Z');
select give_limit('acme', 4), use_units('acme', 3);
select is((select (u.used_count, u.effective_limit, u.remaining, u.percent, u.resets_at, u.paused_runs, u.period_source, u.limit_source, u.tier, u.plan)::text from stepquota.tenant_usage u where u.tenant = 'acme'),
  '(3,4,1,75.0,"2026-05-01 00:00:00+00",0,fallback_calendar,tier_default,"tier of acme","tier of acme")', 'a tenant with something left');
select is((select oldest_pause from stepquota.tenant_usage where tenant = 'acme'), null, 'with nothing paused');
select use_units('acme', 1, 'more');
select count(pause_run('acme', 'r1'));
select set_clock('2026-04-15T13:00:00Z');
select count(pause_run('acme', 'r2'));
select is((select (u.remaining, u.percent, u.paused_runs, u.oldest_pause, u.exhausts_at)::text from stepquota.tenant_usage u where u.tenant = 'acme'),
  '(0,100.0,2,"2026-04-15 12:00:00+00","2026-04-15 13:00:00+00")', 'one that has used it up');
select stepquota.grant_workflow_steps('acme', 10, 'sorry');
select is((select (u.granted_units, u.effective_limit, u.remaining, u.paused_runs)::text from stepquota.tenant_usage u where u.tenant = 'acme'), '(10,14,10,0)', 'a grant counts');
select give_limit('globex', null), use_units('globex', 2);
select is((select (u.used_count, u.effective_limit, u.remaining, u.percent)::text from stepquota.tenant_usage u where u.tenant = 'globex'), '(2,,,)', 'unlimited has no rest and no percent');
select is_empty($$select 1 from stepquota.tenant_usage where tenant = 'nobody'$$, 'a tenant that never asked has no row');
-- Lowered below what is used.
select give_limit('initech', 5), use_units('initech', 4), give_limit('initech', 2);
select is((select (u.remaining, u.percent)::text from stepquota.tenant_usage u where u.tenant = 'initech'), '(0,200.0)', 'past the limit nothing is left, and less than nothing neither');
select stepquota.hold_tenant('initech', 'a ticket'), stepquota.suspend_tenant('globex', 'unpaid');
select is((select u.held_because || ' by ' || u.held_by from stepquota.tenant_usage u where u.tenant = 'initech'), 'a ticket by ' || session_user, 'a hold');
select is((select suspended_at from stepquota.tenant_usage where tenant = 'globex'), '2026-04-15T13:00:00Z'::timestamptz, 'a suspension');
select stepquota.set_tenant_enforcement('initech', 'shadow');
select is((select enforcement from stepquota.tenant_usage where tenant = 'initech'), 'shadow', 'and shadow mode');

-- As the functions say, for each of them.
create function same_as_resolved() returns setof text language sql as $$
  select u.tenant from stepquota.tenant_usage u cross join lateral stepquota.resolve_workflow_step_quota(u.tenant) q
   where (u.used_count, u.effective_limit, u.remaining, u.period_start, u.resets_at, u.period_source, u.limit_source, u.tier, u.granted_units)
      is distinct from (q.used_count, q.effective_limit, q.remaining, q.period_start, q.period_end, q.period_source, q.limit_source, q.tier, q.granted_units)
$$;
select is_empty('select same_as_resolved()', 'as resolve_workflow_step_quota says');
-- A limit of all tenants of a tier is changed: the stored rows are stale, the view is not.
select stepquota.set_tier_limit('tier of initech', 9);
update stepquota.workflow_step_quotas set epoch = epoch - 1 where tenant = 'initech';
select is((select effective_limit from stepquota.tenant_usage where tenant = 'initech'), 9::bigint, 'a stored quota that is stale is resolved anew');
select isnt((select epoch from stepquota.workflow_step_quotas where tenant = 'initech'), (select epoch from stepquota.policy), 'and not stored');
select is((select used_count from stepquota.tenant_usage where tenant = 'initech'), 4::bigint, 'with its usage');
select is_empty('select same_as_resolved()', 'again as the function says');
-- The period is over, and nobody has asked since.
select set_clock('2026-05-02Z');
select is((select (u.used_count, u.effective_limit, u.period_start, u.resets_at)::text from stepquota.tenant_usage u where u.tenant = 'acme'),
  '(0,4,"2026-05-01 00:00:00+00","2026-06-01 00:00:00+00")', 'the next period begins by itself');
select is((select period_start from stepquota.workflow_step_quotas where tenant = 'acme'), '2026-04-01Z'::timestamptz, 'and is not stored by looking');
-- Usage that was carried into a period.
select set_clock('2026-04-15T14:00:00Z');
select stepquota.import_workflow_step_usage('umbrella', '2026-04-01Z', 40, 'from before');
select is((select used_count from stepquota.tenant_usage where tenant = 'umbrella'), 40::bigint, 'carried units are used');
update stepquota.workflow_step_quotas set valid_until = '2026-04-15T13:00:00Z' where tenant = 'umbrella';
select is((select used_count from stepquota.tenant_usage where tenant = 'umbrella'), 40::bigint, 'also when the stored quota is stale');

-- The forecast is that of the function.
select give_limit('hooli', 100);
do $$ begin for v_hour in 0 .. 9 loop
  perform tap.set_clock((timestamptz '2026-04-16Z' + v_hour * interval '1 hour')::text);
  perform stepquota.sample_workflow_step_usage(1000);
  perform tap.use_units('hooli', 3, 'h' || v_hour);
end loop; end $$;
select isnt((select exhausts_at from stepquota.tenant_usage where tenant = 'hooli'), null, 'a tenant with a history has a forecast');
select is((select exhausts_at from stepquota.tenant_usage where tenant = 'hooli'), (select f.exhausts_at from stepquota.forecast_workflow_step_usage('hooli') f), 'that of the function');
-- With the rights of who asks.
set local role stepquota_observer;
select is((select count(*) from stepquota.tenant_usage), 5::bigint, 'an observer may look');
reset role;
set local role stepquota_runtime;
select throws_ok('select 1 from stepquota.tenant_usage', '42501', null, 'a runtime may not');
reset role;
create role view_reader;
grant usage on schema stepquota to view_reader;
grant select on stepquota.tenant_usage to view_reader;
set local role view_reader;
select throws_ok('select 1 from stepquota.tenant_usage', '42501', null, 'nor one who may read the view alone: the tables are read with his rights');
reset role;
select * from finish();
rollback;
