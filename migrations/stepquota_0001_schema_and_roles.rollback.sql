drop type if exists stepquota.workflow_run_resume;
drop type if exists stepquota.workflow_step_start;
drop type if exists stepquota.workflow_step_quota;
-- Fails if anything is left in it: nothing that is not ours is dropped with it.
drop schema if exists stepquota;
