drop table if exists stepquota.workflow_step_usage_sampling;
drop table if exists stepquota.workflow_step_usage_samples;
