-- Retention: how long what is kept, and the indexes by which what is old is found.

alter table stepquota.policy
  add column if not exists ended_runs_kept_for interval not null default '90 days',
  add column if not exists logs_kept_for interval not null default '90 days',
  add column if not exists events_kept_for interval not null default '400 days',
  add column if not exists unclaimed_events_kept_for interval not null default '800 days',
  add column if not exists scans_kept_for interval not null default '30 days',
  add column if not exists cron_history_kept_for interval not null default '7 days';

create table if not exists stepquota.purge_state (
  only_row boolean not null default true,
  purged_at timestamptz,
  drop_tried_at timestamptz,
  events_purged_until timestamptz not null default '-infinity',
  constraint purge_state_pkey primary key (only_row),
  constraint purge_state_is_one_row check (only_row)
);

insert into stepquota.purge_state (only_row) values (true) on conflict (only_row) do nothing;

create index if not exists workflow_runs_month_ended_at_idx on stepquota.workflow_runs (ledger_month, ended_at);
create index if not exists workflow_run_waits_run_idx on stepquota.workflow_run_waits (tenant, run_id);
create index if not exists workflow_run_logs_logged_at_idx on stepquota.workflow_run_logs (logged_at);
create index if not exists quota_events_created_at_idx on stepquota.quota_events (created_at);

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_ended_runs_kept_for_is_a_day_or_more') then
    alter table stepquota.policy
      add constraint policy_ended_runs_kept_for_is_a_day_or_more check (ended_runs_kept_for >= interval '1 day'),
      add constraint policy_logs_kept_for_is_a_day_or_more check (logs_kept_for >= interval '1 day'),
      add constraint policy_events_kept_for_is_a_day_or_more check (events_kept_for >= interval '1 day'),
      add constraint policy_unclaimed_events_are_kept_longest check (unclaimed_events_kept_for >= events_kept_for),
      add constraint policy_scans_kept_for_is_a_day_or_more check (scans_kept_for >= interval '1 day'),
      add constraint policy_cron_history_kept_for_is_a_day_or_more check (cron_history_kept_for >= interval '1 day');
  end if;
end;
$add_constraints$;

comment on column stepquota.policy.ended_runs_kept_for is
  'How long an ended run is kept at least, with its steps, waits, logs and resumptions; it is deleted with its month.';
comment on column stepquota.policy.logs_kept_for is 'How long an entry of workflow_run_logs is kept.';
comment on column stepquota.policy.events_kept_for is 'How long an event is kept that all its consumers have acknowledged.';
comment on column stepquota.policy.unclaimed_events_kept_for is 'How long an event is kept that a consumer has not acknowledged.';
comment on column stepquota.policy.scans_kept_for is 'How long a row of resume_scans is kept.';
comment on column stepquota.policy.cron_history_kept_for is 'How long pg_cron''s history of our jobs is kept.';
comment on table stepquota.purge_state is 'One row: what purging remembers. Who holds it purges.';
comment on column stepquota.purge_state.only_row is 'Always true: the key of the one row.';
comment on column stepquota.purge_state.purged_at is 'When purge last came to its end.';
comment on column stepquota.purge_state.drop_tried_at is 'When dropping a month of the ledger last failed: it is not tried again at once.';
comment on column stepquota.purge_state.events_purged_until is 'Events of up to this moment may have been deleted.';
