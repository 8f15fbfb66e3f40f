alter table if exists stepquota.policy drop column if exists closed_batches_kept_for;
alter table if exists stepquota.policy drop column if exists batch_open_for;
drop table if exists stepquota.workflow_step_batches;
