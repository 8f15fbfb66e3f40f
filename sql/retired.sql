-- Internal functions of earlier releases that are no more, or that have other parameters now. Public
-- ones are never dropped here.

drop function if exists stepquota._give_limit_to_lane(text, timestamptz, bigint);
drop function if exists stepquota._take_unit(text, stepquota._found_quota, integer, timestamptz);
drop function if exists stepquota._take_unit(text, integer, timestamptz);
drop function if exists stepquota._describe_taken_unit(stepquota.workflow_step_quotas, integer, bigint, bigint);
drop function if exists stepquota._debug_reservation(stepquota.workflow_step_quotas, bigint);
drop function if exists stepquota._host_insert_step(text, text, text, integer, date, uuid, text, timestamptz, timestamptz);
