-- A default tier that somebody deleted is told, with what to do; tenants with a tier of their own go on.
begin;
select plan(6);
select set_clock('2026-04-15Z');
insert into stepquota.tenants (tenant, plan) values ('pro', 'pro'), ('odd', 'gold');
delete from stepquota.tiers where tier = 'solo';

select refuses($$select * from stepquota.reserve_workflow_step('odd')$$, 'WQ019', 'a plan that is no tier');
select refuses($$select * from stepquota.resolve_workflow_step_quota('new')$$, 'WQ019', 'no plan');
select is_empty($$select * from stepquota.workflow_step_quotas where tenant <> 'pro'$$, 'nothing is left behind');
select ok((select allowed from stepquota.reserve_workflow_step('pro')), 'a plan that is a tier');
select is((select state from stepquota.status() where item = 'default tier'), 'error', 'status says so');
select step_limit from stepquota.set_tier_limit('solo', 5);
select ok((select allowed from stepquota.reserve_workflow_step('odd')), 'what HINT says helps');

select * from finish();
rollback;
