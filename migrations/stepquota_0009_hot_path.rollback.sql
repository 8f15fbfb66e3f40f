drop index if exists stepquota.workflow_step_usage_lanes_newest_version;
alter table if exists stepquota.workflow_step_usage_lanes drop column if exists generation;
alter table if exists stepquota.workflow_step_quotas drop column if exists trusted_until;
alter table if exists stepquota.workflow_step_quotas drop column if exists trusted_from;
