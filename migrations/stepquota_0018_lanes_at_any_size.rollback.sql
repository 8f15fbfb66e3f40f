alter table if exists stepquota.workflow_step_usage_lanes reset (vacuum_truncate);
