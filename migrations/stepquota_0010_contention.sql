-- How often callers of a tenant met of late: its lane is split where they do so again and again. And one
-- index for the lanes instead of two: every UPDATE of a row opens all the indexes of its table.

alter table stepquota.workflow_step_quotas
  add column if not exists contended_since timestamptz,
  add column if not exists contended_count integer;

-- The generation is in the primary key, so that an index scan backwards meets the newest version first. That
-- no lane is there twice is up to the quota row's lock: nobody makes a lane without it.
do $replace_key$
begin
  if not exists (
    select 1 from pg_catalog.pg_constraint c
     where c.conrelid = 'stepquota.workflow_step_usage_lanes'::pg_catalog.regclass and c.contype = 'p'
       and pg_catalog.array_length(c.conkey, 1) = 4
  ) then
    alter table stepquota.workflow_step_usage_lanes
      drop constraint if exists workflow_step_usage_lanes_pkey,
      add constraint workflow_step_usage_lanes_pkey primary key (tenant, period_start, lane, generation);
  end if;
end;
$replace_key$;

drop index if exists stepquota.workflow_step_usage_lanes_newest_version;

comment on column stepquota.workflow_step_quotas.contended_since is
  'When the count of contended_count began; NULL if callers never met.';
comment on column stepquota.workflow_step_quotas.contended_count is
  'How often a caller found its lane taken in the second from contended_since on; NULL if never.';
