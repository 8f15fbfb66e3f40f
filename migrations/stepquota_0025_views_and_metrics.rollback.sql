drop view if exists stepquota.sync_health;
drop view if exists stepquota.recent_events;
drop view if exists stepquota.top_workflows;
drop view if exists stepquota.paused_runs;
drop view if exists stepquota.tenant_usage;
alter table if exists stepquota.policy drop column if exists metrics_tenants;
drop index if exists stepquota.workflow_run_waits_paused_idx;
