drop index if exists stepquota.workflow_runs_held_idx;
drop index if exists stepquota.workflow_run_waits_quota_queue_idx;
alter table if exists stepquota.workflow_run_waits drop constraint if exists workflow_run_waits_reason_is_known;
alter table if exists stepquota.workflow_run_waits drop column if exists is_held;
alter table if exists stepquota.workflow_runs
  drop column if exists held_because, drop column if exists held_by, drop column if exists held_at;
alter table if exists stepquota.tenants
  drop column if exists held_because, drop column if exists held_by, drop column if exists held_at;
