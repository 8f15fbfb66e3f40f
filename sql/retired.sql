-- Internal functions of earlier releases that are no more, or that have other parameters now. Public
-- ones are never dropped here.

drop function if exists stepquota._give_limit_to_lane(text, timestamptz, bigint);
drop function if exists stepquota._take_unit(text, stepquota._found_quota, integer, timestamptz);
