-- Claiming resumptions without looking at those that others have, and tenants in turns without sorting.

alter table stepquota.workflow_run_resumptions
  add column if not exists claimable_at timestamptz not null default '-infinity',
  add column if not exists forgiven_deliveries integer not null default 0;

update stepquota.workflow_run_resumptions
   set claimable_at = coalesce(leased_until, created_at)
 where status = 'OPEN' and claimable_at = '-infinity';

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'workflow_run_resumptions_forgiven_is_part') then
    alter table stepquota.workflow_run_resumptions
      add constraint workflow_run_resumptions_forgiven_is_part
        check (forgiven_deliveries between 0 and cardinality(deliveries));
  end if;
end;
$add_constraints$;

drop index if exists stepquota.workflow_run_resumptions_open_idx;
drop index if exists stepquota.workflow_run_resumptions_runtime_idx;

-- The oldest of a runtime; and what a tenant has. Tenants are in the order of a hash, so that a claim can
-- begin with any of them by chance, whatever their names look like.
create index if not exists workflow_run_resumptions_claimable_idx
  on stepquota.workflow_run_resumptions (runtime, claimable_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_turns_idx
  on stepquota.workflow_run_resumptions (runtime, hashtextextended(tenant, 0), tenant, claimable_at)
  where status = 'OPEN';

comment on column stepquota.workflow_run_resumptions.claimable_at is
  'From when on it may be claimed: when the run was resumed, then when the lease ends; later for one that is stuck.';
comment on column stepquota.workflow_run_resumptions.forgiven_deliveries is
  'How many of its deliveries do not count for being stuck: those before redeliver_workflow_run_resumption.';
