drop table if exists stepquota.workflow_step_grants;
drop table if exists stepquota.workflow_run_shadow_pauses;
drop index if exists stepquota.workflow_step_usage_periods_over_limit_idx;
alter table if exists stepquota.workflow_step_usage_periods
  drop column if exists spent_grant_units, drop column if exists over_limit_since;
alter table if exists stepquota.workflow_step_quotas drop column if exists enforcement;
alter table if exists stepquota.tenants drop column if exists enforcement;
alter table if exists stepquota.policy drop column if exists enforcement;
