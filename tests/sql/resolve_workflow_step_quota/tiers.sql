-- The tier is the tenant's plan; a missing or unknown plan gets the default tier and is reported.
begin;
select plan(12);
select set_clock('2026-04-15Z');
create function pg_temp.tier_of(p_tenant text) returns text language sql as $$
  select q.tier || ' ' || coalesce(q.effective_limit::text, 'unlimited') from stepquota.resolve_workflow_step_quota(p_tenant) q;
$$;

insert into stepquota.tenants (tenant, plan) values ('solo', 'solo'), ('pro', 'pro'), ('premium', 'premium'), ('odd', 'gold'), ('none', null);
select is(pg_temp.tier_of(t.tenant), t.expected, 'plan ' || t.tenant)
from (values ('solo', 'solo 150'), ('pro', 'pro 750'), ('premium', 'premium 10000'), ('odd', 'solo 150'), ('none', 'solo 150'),
  ('without a row', 'solo 150')) t (tenant, expected);
select results_eq(
  $$select e.tenant, e.level, e.details ->> 'plan' from stepquota.quota_events e where e.event_type = 'plan_unknown' order by e.tenant collate "C"$$,
  $$values ('none'::text, 'warning'::text, null::text), ('odd', 'warning', 'gold'), ('without a row', 'warning', null)$$,
  'a missing or unknown plan is reported');
select pg_temp.tier_of('odd') from stepquota.refresh_workflow_step_quota('odd');
select is(count_events('odd', 'plan_unknown'), 1::bigint, 'once a period');
select value from stepquota.set_policy('default_tier', 'pro');
select is(pg_temp.tier_of('odd'), 'pro 750', 'the default tier is policy''s');
select changed from stepquota.set_tier_limit('gold', null);
select is(pg_temp.tier_of('odd'), 'gold unlimited', 'a tier that is made is one, and may be unlimited');
select is((select limit_source from stepquota.resolve_workflow_step_quota('odd')), 'tier_default', 'an unlimited tier is still the tier''s default');
select is((select remaining from stepquota.resolve_workflow_step_quota('odd')), null, 'without a number of units left');

select * from finish();
rollback;
