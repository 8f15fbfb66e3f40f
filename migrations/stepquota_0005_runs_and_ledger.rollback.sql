drop table if exists stepquota.paused_tenants;
drop sequence if exists stepquota.workflow_run_deliveries;
drop table if exists stepquota.workflow_run_resumptions;
drop table if exists stepquota.workflow_run_logs;
drop table if exists stepquota.workflow_run_waits;
drop table if exists stepquota.workflow_run_steps;
drop table if exists stepquota.workflow_runs;
