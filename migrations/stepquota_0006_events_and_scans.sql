-- What is recorded: audit and alerts, the scan's runs, and the scheduler's jobs.

create table if not exists stepquota.quota_events (
  tenant text not null default '',
  event_id bigint generated always as identity,
  event_type text not null,
  level text not null,
  run_id text,
  details jsonb not null default '{}',
  created_at timestamptz not null,
  constraint quota_events_pkey primary key (tenant, event_id),
  constraint quota_events_event_type_is_named check (event_type ~ '^[a-z_]+$'),
  constraint quota_events_level_is_known check (level in ('info', 'warning', 'error')),
  constraint quota_events_details_is_object check (jsonb_typeof(details) = 'object')
);

create table if not exists stepquota.resume_scans (
  scan_id bigint generated always as identity,
  started_at timestamptz not null,
  finished_at timestamptz,
  tenants_seen integer not null default 0,
  runs_resumed integer not null default 0,
  skipped jsonb not null default '{}',
  errors jsonb not null default '[]',
  constraint resume_scans_pkey primary key (scan_id)
);

create table if not exists stepquota.scheduler_jobs (
  job_name text not null,
  schedule text not null,
  command text not null,
  scheduled_by text not null,
  scheduled_at timestamptz not null,
  constraint scheduler_jobs_pkey primary key (job_name)
);

-- When the set-based look for inputs edited by hand was last taken; one row.
create table if not exists stepquota.scan_state (
  only_row boolean not null default true,
  inputs_compared_at timestamptz,
  constraint scan_state_pkey primary key (only_row),
  constraint scan_state_is_one_row check (only_row)
);

insert into stepquota.scan_state (only_row) values (true) on conflict (only_row) do nothing;

comment on table stepquota.quota_events is
  'Audit and alerts: everything worth knowing but the single reservation. An empty tenant means the whole installation.';
comment on column stepquota.quota_events.tenant is 'The tenant; empty for what concerns all.';
comment on column stepquota.quota_events.event_id is 'Number of the event.';
comment on column stepquota.quota_events.event_type is 'What happened; docs/operations.md lists the types.';
comment on column stepquota.quota_events.level is 'info, warning or error.';
comment on column stepquota.quota_events.run_id is 'The run, where it is about one.';
comment on column stepquota.quota_events.details is 'The circumstances, by type.';
comment on column stepquota.quota_events.created_at is 'When.';

comment on table stepquota.resume_scans is 'One row a run of resume_scan.';
comment on column stepquota.resume_scans.scan_id is 'Number of the scan.';
comment on column stepquota.resume_scans.started_at is 'When it started.';
comment on column stepquota.resume_scans.finished_at is 'When it finished; NULL is running or died.';
comment on column stepquota.resume_scans.tenants_seen is 'How many due tenants it looked at, each once.';
comment on column stepquota.resume_scans.runs_resumed is 'How many resumptions it handed out.';
comment on column stepquota.resume_scans.skipped is 'How many tenants it skipped, by reason.';
comment on column stepquota.resume_scans.errors is 'What went wrong at single tenants, with SQLSTATE, message, detail, hint and context.';

comment on table stepquota.scheduler_jobs is 'What enable_cron scheduled.';
comment on column stepquota.scheduler_jobs.job_name is 'The pg_cron job''s name.';
comment on column stepquota.scheduler_jobs.schedule is 'Its schedule.';
comment on column stepquota.scheduler_jobs.command is 'Its command.';
comment on column stepquota.scheduler_jobs.scheduled_by is 'The role it runs as.';
comment on column stepquota.scheduler_jobs.scheduled_at is 'When it was last scheduled.';

comment on table stepquota.scan_state is 'One row: what the scan remembers.';
comment on column stepquota.scan_state.only_row is 'Always true: the key of the one row.';
comment on column stepquota.scan_state.inputs_compared_at is 'When it last looked for inputs edited by hand.';
