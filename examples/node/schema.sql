-- What the worker of this example has beside stepquota.

create table if not exists jobs (
  tenant text not null,
  run_id text not null,
  steps integer not null,
  state text not null default 'ready' check (state in ('ready', 'running', 'paused', 'done')),
  taken_at timestamptz,
  primary key (tenant, run_id)
);

create table if not exists effects (
  step_id uuid primary key,
  worker text not null
);
