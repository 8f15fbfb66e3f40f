-- For the views and the metrics: paused runs of a tenant by when they were paused; how many tenants
-- have metrics of their own.

create index if not exists workflow_run_waits_paused_idx
  on stepquota.workflow_run_waits (tenant, created_at) where wait_type = 'quota' and status = 'WAITING';

alter table stepquota.policy add column if not exists metrics_tenants integer not null default 20;

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_metrics_tenants_is_bounded') then
    alter table stepquota.policy
      add constraint policy_metrics_tenants_is_bounded check (metrics_tenants between 0 and 1000);
  end if;
end;
$add_constraints$;

comment on column stepquota.policy.metrics_tenants is
  'How many tenants metrics() has figures of, those that use most, from 0 to 1000; 0 for none.';
