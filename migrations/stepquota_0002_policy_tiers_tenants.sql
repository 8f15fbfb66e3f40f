-- What operators set: one row of policy, the tiers with their default limits, and the tenants.

create table if not exists stepquota.policy (
  only_row boolean not null default true,
  allow_test_clock boolean not null default false,
  default_tier text not null default 'solo',
  staleness interval not null default '30 seconds',
  renewal_grace interval not null default '72 hours',
  trial_renewal_grace interval not null default '2 hours',
  zero_limit_blocks boolean not null default false,
  tenant_metadata_key text not null default 'tenant',
  at_once_tenants integer not null default 100,
  at_once_runs integer not null default 1000,
  scan_seconds integer not null default 50,
  resumption_counts_for interval not null default '5 minutes',
  stuck_after_deliveries integer not null default 5,
  notify_resumptions boolean not null default true,
  epoch bigint not null default 1,
  constraint policy_pkey primary key (only_row),
  constraint policy_is_one_row check (only_row),
  constraint policy_default_tier_is_named check (default_tier <> ''),
  constraint policy_staleness_is_positive check (staleness > interval '0'),
  constraint policy_renewal_grace_is_not_negative check (renewal_grace >= interval '0'),
  constraint policy_trial_renewal_grace_is_not_negative check (trial_renewal_grace >= interval '0'),
  constraint policy_tenant_metadata_key_is_named check (tenant_metadata_key <> ''),
  constraint policy_at_once_tenants_is_positive check (at_once_tenants > 0),
  constraint policy_at_once_runs_is_positive check (at_once_runs > 0),
  constraint policy_scan_seconds_is_in_range check (scan_seconds between 1 and 3600),
  constraint policy_resumption_counts_for_is_positive check (resumption_counts_for > interval '0'),
  constraint policy_stuck_after_deliveries_is_positive check (stuck_after_deliveries > 0)
);

insert into stepquota.policy (only_row) values (true) on conflict (only_row) do nothing;

comment on table stepquota.policy is 'One row: the rules an operator may change, by set_policy(name, value).';
comment on column stepquota.policy.only_row is 'Always true: the key of the one row.';
comment on column stepquota.policy.allow_test_clock is
  'Whether the setting stepquota.now replaces the clock. For tests; only the owner sets it, with UPDATE.';
comment on column stepquota.policy.default_tier is 'Tier of tenants whose plan is missing or names no tier.';
comment on column stepquota.policy.staleness is
  'How old a stored quota may be before inputs edited by hand are looked at again.';
comment on column stepquota.policy.renewal_grace is
  'How long after a period''s end the renewal is presumed while its webhook is awaited.';
comment on column stepquota.policy.trial_renewal_grace is 'The same after a trial.';
comment on column stepquota.policy.zero_limit_blocks is
  'Whether workflow_step_limit 0 is a valid limit that blocks everything; otherwise 0 is invalid.';
comment on column stepquota.policy.tenant_metadata_key is
  'Key of Stripe customer and subscription metadata that names the tenant.';
comment on column stepquota.policy.at_once_tenants is
  'How many tenants one change refreshes and resumes in its own transaction; the rest is left to the scan.';
comment on column stepquota.policy.at_once_runs is 'How many runs one change resumes in its own transaction.';
comment on column stepquota.policy.scan_seconds is 'How long one resume_scan goes on, in seconds.';
comment on column stepquota.policy.resumption_counts_for is
  'How long a resumption that nobody re-entered holds back a unit of its tenant.';
comment on column stepquota.policy.stuck_after_deliveries is
  'After how many deliveries a resumption that nobody re-entered is reported as stuck and holds back no unit.';
comment on column stepquota.policy.notify_resumptions is 'Whether a new resumption sends NOTIFY stepquota_resumption.';
comment on column stepquota.policy.epoch is
  'Raised when inputs of very many tenants change; a stored quota of an older epoch is stale. Not an operator''s to set.';

create table if not exists stepquota.tiers (
  tier text not null,
  step_limit bigint,
  constraint tiers_pkey primary key (tier),
  constraint tiers_tier_is_named check (tier <> ''),
  constraint tiers_step_limit_is_positive check (step_limit > 0)
);

insert into stepquota.tiers (tier, step_limit) values ('solo', 150), ('pro', 750), ('premium', 10000)
on conflict (tier) do nothing;

comment on table stepquota.tiers is 'Default limits, by tier. A tier of its own gives one tenant a special limit.';
comment on column stepquota.tiers.tier is 'The name that tenants.plan refers to.';
comment on column stepquota.tiers.step_limit is 'Steps a period; NULL is unlimited.';

create table if not exists stepquota.tenants (
  tenant text not null,
  plan text,
  suspended_at timestamptz,
  created_at timestamptz not null default now(),
  constraint tenants_pkey primary key (tenant),
  constraint tenants_tenant_is_named check (tenant <> '')
);

comment on table stepquota.tenants is
  'Host table: the tenants. One without a row is served by the default tier. Reached only through sql/host.sql.';
comment on column stepquota.tenants.tenant is 'The tenant''s name or key, as text.';
comment on column stepquota.tenants.plan is 'The tier; missing or unknown means policy.default_tier and is reported.';
comment on column stepquota.tenants.suspended_at is 'Since when no new step of the tenant starts; NULL is not suspended.';
comment on column stepquota.tenants.created_at is 'When the row was made.';
