alter table if exists stepquota.workflow_step_quotas drop column if exists contended_count;
alter table if exists stepquota.workflow_step_quotas drop column if exists contended_since;
