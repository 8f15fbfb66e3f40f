-- For lists of very many tenants: what tenants are sorted by, and units used by day. Both are written by
-- tick().

create table if not exists stepquota.tenant_summaries (
  tenant text not null,
  fill double precision not null,
  used_count bigint not null,
  paused_runs bigint not null,
  resets_at timestamptz not null,
  constraint tenant_summaries_pkey primary key (tenant)
);

create index if not exists tenant_summaries_fill_idx on stepquota.tenant_summaries (fill, tenant);
create index if not exists tenant_summaries_used_count_idx on stepquota.tenant_summaries (used_count, tenant);
create index if not exists tenant_summaries_paused_runs_idx on stepquota.tenant_summaries (paused_runs, tenant);
create index if not exists tenant_summaries_resets_at_idx on stepquota.tenant_summaries (resets_at, tenant);

create table if not exists stepquota.tenant_summary_state (
  only_row boolean not null default true,
  began_at timestamptz,
  summarized_tenant text,
  as_of timestamptz,
  tenants bigint not null default 0,
  unlimited_tenants bigint not null default 0,
  nearly_exhausted_tenants bigint not null default 0,
  exhausted_tenants bigint not null default 0,
  paused_tenants bigint not null default 0,
  paused_runs bigint not null default 0,
  constraint tenant_summary_state_pkey primary key (only_row),
  constraint tenant_summary_state_is_one_row check (only_row)
);

insert into stepquota.tenant_summary_state (only_row) values (true) on conflict (only_row) do nothing;

create table if not exists stepquota.workflow_step_usage_days (
  tenant text not null,
  day date not null,
  units double precision not null,
  constraint workflow_step_usage_days_pkey primary key (tenant, day),
  constraint workflow_step_usage_days_units_is_not_negative check (units >= 0)
);

alter table stepquota.workflow_step_usage_sampling add column if not exists days_since timestamptz;

comment on table stepquota.tenant_summaries is
  'What list_tenants sorts by, a row a tenant: figures of the last rounds of summarize_tenants, never older than tenant_summary_state.as_of.';
comment on column stepquota.tenant_summaries.tenant is 'The tenant.';
comment on column stepquota.tenant_summaries.fill is 'Used, in percent of the limit; -1: unlimited.';
comment on column stepquota.tenant_summaries.used_count is 'Steps used in the period.';
comment on column stepquota.tenant_summaries.paused_runs is 'Runs that were paused.';
comment on column stepquota.tenant_summaries.resets_at is 'End of the period.';
comment on table stepquota.tenant_summary_state is 'One row: the round over all tenants that writes tenant_summaries, and what the last one added up to.';
comment on column stepquota.tenant_summary_state.only_row is 'Always true: the key of the one row.';
comment on column stepquota.tenant_summary_state.began_at is 'When the last round began.';
comment on column stepquota.tenant_summary_state.summarized_tenant is 'How far it has got, by the names of tenants; NULL when it is through.';
comment on column stepquota.tenant_summary_state.as_of is 'When the last round that is through began; NULL: there was none yet.';
comment on column stepquota.tenant_summary_state.tenants is 'How many tenants there were.';
comment on column stepquota.tenant_summary_state.unlimited_tenants is 'Those without a limit.';
comment on column stepquota.tenant_summary_state.nearly_exhausted_tenants is 'Those that had used 80 percent or more of it, but not all.';
comment on column stepquota.tenant_summary_state.exhausted_tenants is 'Those that had used it up.';
comment on column stepquota.tenant_summary_state.paused_tenants is 'Those with paused runs.';
comment on column stepquota.tenant_summary_state.paused_runs is 'Paused runs of all of them.';
comment on table stepquota.workflow_step_usage_days is
  'Units used by day in UTC, of days on which there were any; written with the hourly samples. Rows of over 100 days are deleted.';
comment on column stepquota.workflow_step_usage_days.tenant is 'The tenant.';
comment on column stepquota.workflow_step_usage_days.day is 'The day in UTC.';
comment on column stepquota.workflow_step_usage_days.units is 'Units used; what was sampled across midnight is divided by time, so there may be fractions.';
comment on column stepquota.workflow_step_usage_sampling.days_since is 'Since when workflow_step_usage_days is written.';
