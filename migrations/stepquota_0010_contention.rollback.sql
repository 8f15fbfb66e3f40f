create index if not exists workflow_step_usage_lanes_newest_version
  on stepquota.workflow_step_usage_lanes (tenant, period_start, lane, generation desc);
alter table if exists stepquota.workflow_step_usage_lanes
  drop constraint if exists workflow_step_usage_lanes_pkey,
  add constraint workflow_step_usage_lanes_pkey primary key (tenant, period_start, lane);
alter table if exists stepquota.workflow_step_quotas drop column if exists contended_count;
alter table if exists stepquota.workflow_step_quotas drop column if exists contended_since;
