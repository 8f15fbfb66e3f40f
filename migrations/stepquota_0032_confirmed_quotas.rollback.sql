alter table if exists stepquota.scan_state drop column if exists quotas_compared_in;
alter table if exists stepquota.scan_state drop column if exists quotas_compared_at;
alter table if exists stepquota.policy drop column if exists confirmed_until;
alter table if exists stepquota.policy drop column if exists confirmed_from;
alter table if exists stepquota.workflow_step_quotas drop column if exists inputs_hash;
