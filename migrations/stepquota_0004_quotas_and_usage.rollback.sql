drop table if exists stepquota.workflow_step_usage_lanes;
drop table if exists stepquota.workflow_step_usage_periods;
drop type if exists stepquota._found_quota;
drop type if exists stepquota._resolved_quota;
drop table if exists stepquota.workflow_step_quotas;
