-- What the way of nearly every reservation needs, and what stood in it: until when a stored quota can be
-- trusted, as a column; generations of a lane; and no CHECKs on lanes.

-- Nothing stored before is trusted: the next reservation resolves the quota anew.
alter table stepquota.workflow_step_quotas
  add column if not exists trusted_from timestamptz not null default '-infinity',
  add column if not exists trusted_until timestamptz not null default '-infinity';

-- PostgreSQL reads a table's CHECKs anew in each statement that updates it, which was a quarter of a
-- reservation's time. Nobody but our functions writes lanes; verify_all looks at these instead.
alter table stepquota.workflow_step_usage_lanes
  drop constraint if exists workflow_step_usage_lanes_lane_is_not_negative,
  drop constraint if exists workflow_step_usage_lanes_used_is_not_negative,
  drop constraint if exists workflow_step_usage_lanes_unledgered_is_part_of_used,
  add column if not exists generation integer not null default 0;

-- While somebody holds an old snapshot, the dead versions of a lane pile up behind its key. With a
-- generation that is raised now and then in the key, and read newest first, they are left behind.
create index if not exists workflow_step_usage_lanes_newest_version
  on stepquota.workflow_step_usage_lanes (tenant, period_start, lane, generation desc);

comment on column stepquota.workflow_step_quotas.trusted_from is
  'From when on the row may be decided by: its period has begun, and the clock has not gone back behind its refresh.';
comment on column stepquota.workflow_step_quotas.trusted_until is
  'Until when, without looking at its inputs again: valid_until, or when it is older than policy.staleness.';
comment on column stepquota.workflow_step_usage_lanes.generation is
  'Raised every 64 units, so that an index scan that starts with the newest meets few dead versions.';
