-- Runs, the ledger of their step attempts, their waits and logs: the host tables, reached only
-- through sql/host.sql; and what pausing adds to them: paused tenants and the resumption outbox.

create table if not exists stepquota.workflow_runs (
  tenant text not null,
  run_id text not null,
  workflow text,
  runtime text not null default 'default',
  status text not null default 'RUNNING',
  node_path text,
  ledger_month date not null,
  error jsonb,
  registered_at timestamptz not null,
  ended_at timestamptz,
  constraint workflow_runs_pkey primary key (tenant, run_id),
  constraint workflow_runs_run_id_is_named check (run_id <> ''),
  constraint workflow_runs_runtime_is_named check (runtime <> ''),
  constraint workflow_runs_status_is_known
    check (status in ('RUNNING', 'WAITING', 'SUCCEEDED', 'FAILED', 'CANCELED')),
  constraint workflow_runs_ledger_month_is_first_day
    check (extract(day from ledger_month) = 1),
  constraint workflow_runs_ended_when_it_ended
    check ((status in ('SUCCEEDED', 'FAILED', 'CANCELED')) = (ended_at is not null))
) with (fillfactor = 70);

create table if not exists stepquota.workflow_run_steps (
  tenant text not null,
  run_id text not null,
  node_path text not null,
  attempt integer not null,
  ledger_month date not null,
  step_id uuid not null,
  step_type text not null,
  status text not null default 'STARTED',
  period_start timestamptz not null,
  error jsonb,
  started_at timestamptz not null,
  finished_at timestamptz,
  -- The idempotency key. The month is a constant of the run, so it adds nothing to it.
  constraint workflow_run_steps_pkey primary key (tenant, run_id, node_path, attempt, ledger_month),
  constraint workflow_run_steps_node_path_is_named check (node_path <> ''),
  constraint workflow_run_steps_attempt_is_positive check (attempt > 0),
  constraint workflow_run_steps_step_type_is_named check (step_type <> ''),
  constraint workflow_run_steps_status_is_known
    check (status in ('STARTED', 'SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED')),
  constraint workflow_run_steps_finished_when_not_started
    check ((status = 'STARTED') = (finished_at is null))
) partition by range (ledger_month);

create table if not exists stepquota.workflow_run_waits (
  tenant text not null,
  wait_id uuid not null,
  run_id text not null,
  node_path text not null,
  node_paths text[] not null,
  attempt integer not null default 0,
  wait_type text not null,
  status text not null default 'WAITING',
  reason text,
  due_at timestamptz,
  queued_at timestamptz not null,
  created_at timestamptz not null,
  resolved_at timestamptz,
  payload jsonb,
  constraint workflow_run_waits_pkey primary key (tenant, wait_id),
  constraint workflow_run_waits_wait_type_is_known
    check (wait_type in ('event', 'retry', 'human', 'timeout', 'time', 'quota')),
  constraint workflow_run_waits_status_is_known check (status in ('WAITING', 'RESOLVED', 'CANCELED')),
  constraint workflow_run_waits_resolved_when_not_waiting check ((status = 'WAITING') = (resolved_at is null)),
  constraint workflow_run_waits_open_wait_has_paths check (status <> 'WAITING' or cardinality(node_paths) > 0),
  constraint workflow_run_waits_reason_is_known
    check ((wait_type = 'quota') = (reason is not null) and reason in ('quota', 'tenant_suspended'))
);

create unique index if not exists workflow_run_waits_one_open_quota_wait_a_run
  on stepquota.workflow_run_waits (tenant, run_id) where wait_type = 'quota' and status = 'WAITING';
create unique index if not exists workflow_run_waits_one_wait_a_visit
  on stepquota.workflow_run_waits (tenant, run_id, node_path, wait_type, attempt) where wait_type <> 'quota';
create index if not exists workflow_run_waits_open_idx
  on stepquota.workflow_run_waits (tenant, run_id) where status = 'WAITING';
create index if not exists workflow_run_waits_quota_queue_idx
  on stepquota.workflow_run_waits (tenant, queued_at, wait_id) where wait_type = 'quota' and status = 'WAITING';
create index if not exists workflow_run_waits_due_idx
  on stepquota.workflow_run_waits (due_at) where status = 'WAITING' and due_at is not null;

create table if not exists stepquota.workflow_run_logs (
  tenant text not null,
  log_id bigint generated always as identity,
  run_id text not null,
  level text not null,
  message text not null,
  details jsonb not null default '{}',
  logged_at timestamptz not null,
  constraint workflow_run_logs_pkey primary key (tenant, run_id, log_id),
  constraint workflow_run_logs_level_is_known check (level in ('debug', 'info', 'warning', 'error'))
);

create table if not exists stepquota.workflow_run_resumptions (
  tenant text not null,
  resumption_id uuid not null,
  run_id text not null,
  runtime text not null,
  wait_id uuid not null,
  wait_type text not null,
  node_paths text[] not null,
  unentered_paths text[] not null,
  status text not null default 'OPEN',
  delivery bigint,
  deliveries bigint[] not null default '{}',
  worker text,
  leased_until timestamptz,
  created_at timestamptz not null,
  closed_at timestamptz,
  constraint workflow_run_resumptions_pkey primary key (tenant, resumption_id),
  constraint workflow_run_resumptions_status_is_known check (status in ('OPEN', 'ACKNOWLEDGED', 'CANCELED')),
  constraint workflow_run_resumptions_closed_when_not_open check ((status = 'OPEN') = (closed_at is null)),
  constraint workflow_run_resumptions_unentered_is_part check (unentered_paths <@ node_paths),
  constraint workflow_run_resumptions_open_has_unentered check (status <> 'OPEN' or cardinality(unentered_paths) > 0)
);

create index if not exists workflow_run_resumptions_open_idx
  on stepquota.workflow_run_resumptions (tenant, runtime, created_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_runtime_idx
  on stepquota.workflow_run_resumptions (runtime, created_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_run_idx
  on stepquota.workflow_run_resumptions (tenant, run_id);
create index if not exists workflow_run_resumptions_promised_idx
  on stepquota.workflow_run_resumptions (tenant, created_at)
  where wait_type = 'quota' and status <> 'CANCELED' and unentered_paths <> '{}';

-- Numbers of deliveries: a later claim always has the greater one. Gaps mean nothing.
create sequence if not exists stepquota.workflow_run_deliveries as bigint;

create table if not exists stepquota.paused_tenants (
  tenant text not null,
  due_at timestamptz not null,
  paused_at timestamptz not null,
  constraint paused_tenants_pkey primary key (tenant)
) with (fillfactor = 70);

create index if not exists paused_tenants_due_at_idx on stepquota.paused_tenants (due_at, tenant);

comment on table stepquota.workflow_runs is 'Host table: one execution of a workflow.';
comment on column stepquota.workflow_runs.tenant is 'The tenant.';
comment on column stepquota.workflow_runs.run_id is 'The run''s key, as text.';
comment on column stepquota.workflow_runs.workflow is 'Name of the workflow.';
comment on column stepquota.workflow_runs.runtime is 'The program family that executes it.';
comment on column stepquota.workflow_runs.status is 'RUNNING, WAITING, SUCCEEDED, FAILED or CANCELED.';
comment on column stepquota.workflow_runs.node_path is 'Where the run stands: the path last started, or the one it was paused at.';
comment on column stepquota.workflow_runs.ledger_month is 'The month it was registered in, which is the ledger partition of all its attempts.';
comment on column stepquota.workflow_runs.error is 'What it failed with.';
comment on column stepquota.workflow_runs.registered_at is 'When it was registered.';
comment on column stepquota.workflow_runs.ended_at is 'When it ended.';

comment on table stepquota.workflow_run_steps is
  'Host table, the ledger: one row a counted step attempt, partitioned by the month its run was registered in.';
comment on column stepquota.workflow_run_steps.tenant is 'The tenant.';
comment on column stepquota.workflow_run_steps.run_id is 'The run.';
comment on column stepquota.workflow_run_steps.node_path is 'One visit of one node, with the iteration of every loop around it.';
comment on column stepquota.workflow_run_steps.attempt is 'The try, from 1.';
comment on column stepquota.workflow_run_steps.ledger_month is 'The month its run was registered in.';
comment on column stepquota.workflow_run_steps.step_id is 'The attempt''s id.';
comment on column stepquota.workflow_run_steps.step_type is
  'What kind of step. forEach, loop, parallel, event, human, time, timeout and retry contain or await others; all else works.';
comment on column stepquota.workflow_run_steps.status is 'STARTED, SUCCEEDED, FAILED, RETRY_SCHEDULED or CANCELED.';
comment on column stepquota.workflow_run_steps.period_start is 'The period it was counted in; nothing derives it again.';
comment on column stepquota.workflow_run_steps.error is 'What it failed with.';
comment on column stepquota.workflow_run_steps.started_at is 'When it started, and was counted.';
comment on column stepquota.workflow_run_steps.finished_at is 'When it finished.';

comment on table stepquota.workflow_run_waits is 'Host table: why runs are WAITING.';
comment on column stepquota.workflow_run_waits.tenant is 'The tenant.';
comment on column stepquota.workflow_run_waits.wait_id is 'The wait''s id.';
comment on column stepquota.workflow_run_waits.run_id is 'The run.';
comment on column stepquota.workflow_run_waits.node_path is 'The node that waits; of a quota wait the first that was refused.';
comment on column stepquota.workflow_run_waits.node_paths is 'All nodes that wait here: refused branches of one run share its quota wait.';
comment on column stepquota.workflow_run_waits.attempt is 'The node''s latest attempt when the wait was opened; 0 if none.';
comment on column stepquota.workflow_run_waits.wait_type is 'event, retry, human, timeout, time or quota.';
comment on column stepquota.workflow_run_waits.status is 'WAITING, RESOLVED or CANCELED.';
comment on column stepquota.workflow_run_waits.reason is 'Why a quota wait was opened: quota or tenant_suspended; NULL for other types.';
comment on column stepquota.workflow_run_waits.due_at is 'When it resolves by itself; NULL is never.';
comment on column stepquota.workflow_run_waits.queued_at is 'The run''s place in its tenant''s queue; kept when it is paused again without having started.';
comment on column stepquota.workflow_run_waits.created_at is 'When it was opened.';
comment on column stepquota.workflow_run_waits.resolved_at is 'When it was resolved or cancelled.';
comment on column stepquota.workflow_run_waits.payload is 'What it was opened with, then what it was resolved with.';

comment on table stepquota.workflow_run_logs is 'Host table: what was done to runs from outside: resumed, cancelled, waits closed.';
comment on column stepquota.workflow_run_logs.tenant is 'The tenant.';
comment on column stepquota.workflow_run_logs.log_id is 'Number of the entry.';
comment on column stepquota.workflow_run_logs.run_id is 'The run.';
comment on column stepquota.workflow_run_logs.level is 'debug, info, warning or error.';
comment on column stepquota.workflow_run_logs.message is 'What happened.';
comment on column stepquota.workflow_run_logs.details is 'The circumstances.';
comment on column stepquota.workflow_run_logs.logged_at is 'When.';

comment on table stepquota.workflow_run_resumptions is
  'The outbox: runs to go on with. A runtime claims, acknowledges, and re-enters the paths.';
comment on column stepquota.workflow_run_resumptions.tenant is 'The tenant.';
comment on column stepquota.workflow_run_resumptions.resumption_id is 'The resumption''s id.';
comment on column stepquota.workflow_run_resumptions.run_id is 'The run.';
comment on column stepquota.workflow_run_resumptions.runtime is 'The runtime that may claim it.';
comment on column stepquota.workflow_run_resumptions.wait_id is 'The wait that was resolved.';
comment on column stepquota.workflow_run_resumptions.wait_type is 'Its type.';
comment on column stepquota.workflow_run_resumptions.node_paths is 'The paths to re-enter.';
comment on column stepquota.workflow_run_resumptions.unentered_paths is 'Those not re-entered yet; each holds back one unit for a while.';
comment on column stepquota.workflow_run_resumptions.status is 'OPEN is delivered until it is ACKNOWLEDGED; CANCELED when its run ended.';
comment on column stepquota.workflow_run_resumptions.delivery is 'Number of the latest delivery; NULL before the first.';
comment on column stepquota.workflow_run_resumptions.deliveries is 'Numbers of all deliveries: an earlier one may not act any more.';
comment on column stepquota.workflow_run_resumptions.worker is 'Who claimed it last.';
comment on column stepquota.workflow_run_resumptions.leased_until is 'Until when nobody else may claim it.';
comment on column stepquota.workflow_run_resumptions.created_at is 'When the run was resumed.';
comment on column stepquota.workflow_run_resumptions.closed_at is 'When it was acknowledged or cancelled.';
comment on sequence stepquota.workflow_run_deliveries is 'Numbers of deliveries.';

comment on table stepquota.paused_tenants is 'Tenants with open quota waits, and when each can next go on by itself.';
comment on column stepquota.paused_tenants.tenant is 'The tenant.';
comment on column stepquota.paused_tenants.due_at is 'When the scan looks at it: the period''s end, or at once when capacity was raised.';
comment on column stepquota.paused_tenants.paused_at is 'Since when it has had an open quota wait.';
