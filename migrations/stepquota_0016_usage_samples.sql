-- How much each tenant used in which hour, for the forecast: written by tick(), for those who used any.

create table if not exists stepquota.workflow_step_usage_samples (
  tenant text not null,
  sampled_at timestamptz not null,
  since timestamptz not null,
  period_start timestamptz not null,
  used_count bigint not null,
  units bigint not null,
  constraint workflow_step_usage_samples_pkey primary key (tenant, sampled_at),
  constraint workflow_step_usage_samples_since_is_before check (since <= sampled_at),
  constraint workflow_step_usage_samples_units_is_not_negative check (units >= 0)
);

create table if not exists stepquota.workflow_step_usage_sampling (
  only_row boolean not null default true,
  round_at timestamptz,
  previous_round_at timestamptz,
  sampled_tenant text,
  constraint workflow_step_usage_sampling_pkey primary key (only_row),
  constraint workflow_step_usage_sampling_is_one_row check (only_row)
);

insert into stepquota.workflow_step_usage_sampling (only_row) values (true) on conflict (only_row) do nothing;

comment on table stepquota.workflow_step_usage_samples is
  'What tenants used, at most a row an hour; hours without use have none. Rows of over a week are deleted.';
comment on column stepquota.workflow_step_usage_samples.tenant is 'The tenant.';
comment on column stepquota.workflow_step_usage_samples.sampled_at is 'The end of the time that units is about: when the round began that looked.';
comment on column stepquota.workflow_step_usage_samples.since is
  'Its start: when the round before began. The same as sampled_at if it is not known when the units were used.';
comment on column stepquota.workflow_step_usage_samples.period_start is 'The period that used_count is of.';
comment on column stepquota.workflow_step_usage_samples.used_count is 'Units used in the period by then.';
comment on column stepquota.workflow_step_usage_samples.units is 'Units used in that time.';
comment on table stepquota.workflow_step_usage_sampling is 'One row: the hourly round over all tenants that writes the samples.';
comment on column stepquota.workflow_step_usage_sampling.only_row is 'Always true: the key of the one row.';
comment on column stepquota.workflow_step_usage_sampling.round_at is 'When the last round began.';
comment on column stepquota.workflow_step_usage_sampling.previous_round_at is 'When the one before it began.';
comment on column stepquota.workflow_step_usage_sampling.sampled_tenant is 'How far it has got, by the names of tenants; NULL when it is through.';
