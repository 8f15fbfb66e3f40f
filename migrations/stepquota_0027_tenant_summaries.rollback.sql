drop view if exists stepquota.tenant_totals;
drop function if exists stepquota._summarize_tenants(text[], timestamptz);
alter table if exists stepquota.workflow_step_usage_sampling drop column if exists days_since;
drop table if exists stepquota.workflow_step_usage_days;
drop table if exists stepquota.tenant_summary_state;
drop table if exists stepquota.tenant_summaries;
