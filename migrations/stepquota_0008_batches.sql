-- Batches: units taken for many threads or tasks of one process at once, by a client-side batcher.

create table if not exists stepquota.workflow_step_batches (
  tenant text not null,
  batch_id uuid not null,
  period_start timestamptz not null,
  granted_count bigint not null,
  handed_out_count bigint,
  returned_count bigint,
  holder text not null,
  opened_at timestamptz not null,
  closed_at timestamptz,
  reported_at timestamptz,
  constraint workflow_step_batches_pkey primary key (tenant, batch_id),
  constraint workflow_step_batches_granted_is_positive check (granted_count > 0),
  constraint workflow_step_batches_handed_out_is_part_of_granted
    check (handed_out_count between 0 and granted_count),
  constraint workflow_step_batches_returned_is_part_of_the_rest
    check (returned_count between 0 and granted_count - handed_out_count),
  constraint workflow_step_batches_closed_has_counts
    check ((closed_at is null) = (handed_out_count is null) and (closed_at is null) = (returned_count is null))
);

-- Few rows each: the first at most one a tenant and process, the second until tick() has deleted them.
create index if not exists workflow_step_batches_open
  on stepquota.workflow_step_batches (opened_at) where closed_at is null;
create index if not exists workflow_step_batches_closed
  on stepquota.workflow_step_batches (closed_at) where closed_at is not null;

alter table stepquota.policy add column if not exists batch_open_for interval not null default '1 minute';
alter table stepquota.policy add column if not exists closed_batches_kept_for interval not null default '1 hour';

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_batch_open_for_is_positive') then
    alter table stepquota.policy
      add constraint policy_batch_open_for_is_positive check (batch_open_for > interval '0'),
      add constraint policy_closed_batches_kept_for_is_positive check (closed_batches_kept_for > interval '0');
  end if;
end;
$add_constraints$;

comment on table stepquota.workflow_step_batches is
  'Units taken by open_workflow_step_batch, a row a batch, written in the transaction that took them. One that stays open was left by a process that died: of its units nobody knows which were handed out.';
comment on column stepquota.workflow_step_batches.tenant is 'The tenant.';
comment on column stepquota.workflow_step_batches.batch_id is 'The batch; its opener chose the id, so that the same call again opens nothing new.';
comment on column stepquota.workflow_step_batches.period_start is 'The period that its units were counted in.';
comment on column stepquota.workflow_step_batches.granted_count is 'Units taken.';
comment on column stepquota.workflow_step_batches.handed_out_count is 'Units that steps were started with; NULL while it is open.';
comment on column stepquota.workflow_step_batches.returned_count is
  'Units given back to the tenant''s quota; NULL while it is open. What was neither handed out nor given back stays counted: its period was over.';
comment on column stepquota.workflow_step_batches.holder is 'Who opened it, for people: host and process.';
comment on column stepquota.workflow_step_batches.opened_at is 'When it was opened.';
comment on column stepquota.workflow_step_batches.closed_at is 'When it was closed; NULL while it is open.';
comment on column stepquota.workflow_step_batches.reported_at is 'When it was recorded that it was left open.';
comment on column stepquota.policy.batch_open_for is 'How long a batch may be open before it counts as left behind by a process that died.';
comment on column stepquota.policy.closed_batches_kept_for is 'How long a closed batch stays in workflow_step_batches.';
