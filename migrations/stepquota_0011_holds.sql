-- Holds: runs and tenants that an operator has stopped. A held run's quota wait is outside the queue, so
-- that nobody who looks for runs to go on with meets it.

alter table stepquota.tenants
  add column if not exists held_at timestamptz,
  add column if not exists held_by text,
  add column if not exists held_because text;
alter table stepquota.workflow_runs
  add column if not exists held_at timestamptz,
  add column if not exists held_by text,
  add column if not exists held_because text;
alter table stepquota.workflow_run_waits add column if not exists is_held boolean not null default false;

do $change_constraint_and_index$
begin
  if not exists (
    select 1 from pg_catalog.pg_constraint c
     where c.conrelid = 'stepquota.workflow_run_waits'::pg_catalog.regclass
       and c.conname = 'workflow_run_waits_reason_is_known'
       and pg_catalog.pg_get_constraintdef(c.oid) like '%operator_hold%'
  ) then
    alter table stepquota.workflow_run_waits drop constraint if exists workflow_run_waits_reason_is_known;
    alter table stepquota.workflow_run_waits add constraint workflow_run_waits_reason_is_known
      check ((wait_type = 'quota') = (reason is not null) and reason in ('quota', 'tenant_suspended', 'operator_hold'))
      not valid;
    alter table stepquota.workflow_run_waits validate constraint workflow_run_waits_reason_is_known;
  end if;
  if not exists (
    select 1 from pg_catalog.pg_indexes i
     where i.schemaname = 'stepquota' and i.indexname = 'workflow_run_waits_quota_queue_idx'
       and i.indexdef like '%is_held%'
  ) then
    drop index if exists stepquota.workflow_run_waits_quota_queue_idx;
    create index workflow_run_waits_quota_queue_idx
      on stepquota.workflow_run_waits (tenant, queued_at, wait_id)
      where wait_type = 'quota' and status = 'WAITING' and not is_held;
  end if;
end;
$change_constraint_and_index$;

create index if not exists workflow_runs_held_idx
  on stepquota.workflow_runs (tenant, held_at) where held_at is not null;

comment on column stepquota.tenants.held_at is 'Since when an operator holds all its runs; NULL is not held.';
comment on column stepquota.tenants.held_by is 'Who holds it.';
comment on column stepquota.tenants.held_because is 'Why it is held.';
comment on column stepquota.workflow_runs.held_at is 'Since when an operator holds it: no new step starts; NULL is not held.';
comment on column stepquota.workflow_runs.held_by is 'Who holds it.';
comment on column stepquota.workflow_runs.held_because is 'Why it is held.';
comment on column stepquota.workflow_run_waits.is_held is
  'Whether this is a quota wait outside its tenant''s queue, because its run is held.';
comment on column stepquota.workflow_run_waits.reason is
  'Why a quota wait was opened: quota, tenant_suspended or operator_hold; NULL for other types. What is left of it is derived.';
comment on table stepquota.paused_tenants is
  'Tenants with open quota waits of runs that are not held, and when each can next go on by itself.';
