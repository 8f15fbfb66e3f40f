-- What enforces: each tenant's resolved quota, its periods, and the lanes that hold the counters.

create table if not exists stepquota.workflow_step_quotas (
  tenant text not null,
  tier text not null,
  step_limit bigint,
  granted_units bigint not null default 0,
  effective_limit bigint,
  limit_source text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  period_source text not null,
  stripe_subscription_id text,
  stripe_subscription_item_id text,
  valid_until timestamptz not null,
  epoch bigint not null,
  refreshed_at timestamptz not null,
  version bigint not null default 1,
  reported_period_start timestamptz,
  reported text[] not null default '{}',
  constraint workflow_step_quotas_pkey primary key (tenant),
  constraint workflow_step_quotas_tenant_is_named check (tenant <> ''),
  constraint workflow_step_quotas_period_is_forward check (period_end > period_start),
  constraint workflow_step_quotas_limit_is_not_negative check (step_limit >= 0),
  constraint workflow_step_quotas_granted_is_not_negative check (granted_units >= 0),
  constraint workflow_step_quotas_effective_is_sum
    check (effective_limit is not distinct from step_limit + granted_units),
  constraint workflow_step_quotas_period_source_is_known
    check (period_source in ('stripe_subscription', 'presumed_renewal', 'fallback_calendar')),
  constraint workflow_step_quotas_limit_source_is_known
    check (limit_source in ('stripe_price_metadata', 'stripe_product_metadata', 'tier_default', 'unlimited_metadata'))
) with (fillfactor = 70);

create table if not exists stepquota.workflow_step_usage_periods (
  tenant text not null,
  period_start timestamptz not null,
  period_end timestamptz not null,
  period_source text not null,
  created_at timestamptz not null,
  constraint workflow_step_usage_periods_pkey primary key (tenant, period_start),
  constraint workflow_step_usage_periods_period_is_forward check (period_end > period_start)
);

create table if not exists stepquota.workflow_step_usage_lanes (
  tenant text not null,
  period_start timestamptz not null,
  lane integer not null,
  allowance bigint,
  used_count bigint not null default 0,
  unledgered_count bigint not null default 0,
  constraint workflow_step_usage_lanes_pkey primary key (tenant, period_start, lane),
  constraint workflow_step_usage_lanes_lane_is_not_negative check (lane >= 0),
  constraint workflow_step_usage_lanes_used_is_not_negative check (used_count >= 0),
  constraint workflow_step_usage_lanes_unledgered_is_part_of_used
    check (unledgered_count between 0 and used_count)
) with (
  -- The hottest rows of all: room on the page for new versions, and vacuumed by their number alone.
  fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000
);

-- What resolving and finding a quota answer, between internal functions.
do $create_types$
begin
  if pg_catalog.to_regtype('stepquota._resolved_quota') is null then
    create type stepquota._resolved_quota as (quota stepquota.workflow_step_quotas, findings jsonb);
  end if;
  if pg_catalog.to_regtype('stepquota._found_quota') is null then
    create type stepquota._found_quota as (quota stepquota.workflow_step_quotas, is_trusted boolean);
  end if;
end;
$create_types$;

comment on type stepquota._resolved_quota is 'Internal: a quota as its inputs say, and what is worth reporting about it.';
comment on column stepquota._resolved_quota.findings is 'An array of {event_type, level, details}.';
comment on type stepquota._found_quota is 'Internal: the quota to decide by.';
comment on column stepquota._found_quota.is_trusted is 'Whether it may deny: false while somebody else is changing it.';

comment on table stepquota.workflow_step_quotas is
  'The stored resolution: which period and limit a tenant has now, from which source, and until when that can be trusted. Its row is the gate for everything that changes a limit.';
comment on column stepquota.workflow_step_quotas.tenant is 'The tenant.';
comment on column stepquota.workflow_step_quotas.tier is 'The tier whose default limit would apply.';
comment on column stepquota.workflow_step_quotas.step_limit is 'The limit without grants; NULL is unlimited.';
comment on column stepquota.workflow_step_quotas.granted_units is 'Units granted on top of the limit.';
comment on column stepquota.workflow_step_quotas.effective_limit is 'step_limit and granted_units together; NULL is unlimited.';
comment on column stepquota.workflow_step_quotas.limit_source is 'Where the limit was found.';
comment on column stepquota.workflow_step_quotas.period_start is 'Start of the period, included; the key of usage.';
comment on column stepquota.workflow_step_quotas.period_end is 'End of the period, excluded.';
comment on column stepquota.workflow_step_quotas.period_source is 'Where the period was found.';
comment on column stepquota.workflow_step_quotas.stripe_subscription_id is 'The subscription that won; NULL on the calendar.';
comment on column stepquota.workflow_step_quotas.stripe_subscription_item_id is 'Its item that gave period and limit.';
comment on column stepquota.workflow_step_quotas.valid_until is
  'The earliest moment ahead at which time alone changes the answer; from then on it must be resolved again.';
comment on column stepquota.workflow_step_quotas.epoch is 'policy.epoch that it was resolved under.';
comment on column stepquota.workflow_step_quotas.refreshed_at is 'When it was last compared with its inputs.';
comment on column stepquota.workflow_step_quotas.version is 'Raised whenever period or limit change.';
comment on column stepquota.workflow_step_quotas.reported_period_start is 'The period that reported is about.';
comment on column stepquota.workflow_step_quotas.reported is 'Event types already recorded for that period, where once is enough.';

comment on table stepquota.workflow_step_usage_periods is 'Every period a tenant used or was about to use; kept for ever.';
comment on column stepquota.workflow_step_usage_periods.tenant is 'The tenant.';
comment on column stepquota.workflow_step_usage_periods.period_start is 'Start of the period, included.';
comment on column stepquota.workflow_step_usage_periods.period_end is 'Its end as last known; it may move.';
comment on column stepquota.workflow_step_usage_periods.period_source is 'Where the period was last found.';
comment on column stepquota.workflow_step_usage_periods.created_at is 'When it was first resolved.';

comment on table stepquota.workflow_step_usage_lanes is
  'The counters. Each lane owns an allowance of its period''s limit, so its guarded UPDATE is exact without looking at the others.';
comment on column stepquota.workflow_step_usage_lanes.tenant is 'The tenant.';
comment on column stepquota.workflow_step_usage_lanes.period_start is 'The period.';
comment on column stepquota.workflow_step_usage_lanes.lane is 'Number of the lane, from 0.';
comment on column stepquota.workflow_step_usage_lanes.allowance is 'Units this lane may use; NULL is unlimited. After a limit was lowered it may be below used_count.';
comment on column stepquota.workflow_step_usage_lanes.used_count is 'Units used.';
comment on column stepquota.workflow_step_usage_lanes.unledgered_count is
  'Those of used_count that reserve_workflow_step took: their caller keeps the ledger.';
