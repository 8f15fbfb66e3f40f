drop index if exists stepquota.workflow_run_resumptions_turns_idx;
drop index if exists stepquota.workflow_run_resumptions_claimable_idx;
create index if not exists workflow_run_resumptions_runtime_idx
  on stepquota.workflow_run_resumptions (runtime, created_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_open_idx
  on stepquota.workflow_run_resumptions (tenant, runtime, created_at) where status = 'OPEN';
alter table if exists stepquota.workflow_run_resumptions
  drop constraint if exists workflow_run_resumptions_forgiven_is_part,
  drop column if exists forgiven_deliveries,
  drop column if exists claimable_at;
