-- Reconciliation of all tenants and repair: a watermark a tenant, findings, adjusting entries, ledgers that
-- callers keep themselves, and what a period remembers of purged ledger rows and imported usage.

alter table stepquota.workflow_step_usage_periods
  add column if not exists purged_step_count bigint not null default 0,
  add column if not exists imported_count bigint not null default 0;

alter table stepquota.scan_state add column if not exists tenants_listed_at timestamptz;

alter table stepquota.policy add column if not exists reconcile_every interval not null default '1 day';
alter table stepquota.policy add column if not exists maintenance_seconds integer not null default 10;

create table if not exists stepquota.reconciled_tenants (
  tenant text not null,
  reconciled_at timestamptz not null default '-infinity',
  right_at timestamptz,
  settled_until timestamptz not null default '-infinity',
  error jsonb,
  constraint reconciled_tenants_pkey primary key (tenant)
);

create index if not exists reconciled_tenants_reconciled_at_idx
  on stepquota.reconciled_tenants (reconciled_at, tenant);

create table if not exists stepquota.reconciliation_findings (
  tenant text not null,
  finding_id bigint generated always as identity,
  period_start timestamptz not null,
  class text not null,
  ledger text not null,
  units bigint not null,
  hour timestamptz,
  workflow text,
  run_ids text[] not null default '{}',
  details jsonb not null default '{}',
  found_at timestamptz not null,
  seen_at timestamptz not null,
  closed_at timestamptz,
  constraint reconciliation_findings_pkey primary key (tenant, finding_id),
  constraint reconciliation_findings_class_is_known check (class in (
    'counter_ahead', 'ledger_ahead', 'wrong_period', 'duplicate', 'orphan_lane', 'reservation_without_ledger')),
  constraint reconciliation_findings_details_is_object check (jsonb_typeof(details) = 'object')
);

create unique index if not exists reconciliation_findings_one_open_of_a_kind
  on stepquota.reconciliation_findings (tenant, period_start, class, ledger) where closed_at is null;
create index if not exists reconciliation_findings_closed_at_idx
  on stepquota.reconciliation_findings (closed_at) where closed_at is not null;

create table if not exists stepquota.workflow_step_usage_adjustments (
  tenant text not null,
  adjustment_id uuid not null,
  period_start timestamptz not null,
  kind text not null,
  used_count_before bigint not null,
  used_count_after bigint not null,
  unledgered_count_before bigint not null,
  unledgered_count_after bigint not null,
  ledger_step_count bigint not null,
  adjusted_by text not null,
  reason text,
  adjusted_at timestamptz not null,
  constraint workflow_step_usage_adjustments_pkey primary key (tenant, adjustment_id),
  constraint workflow_step_usage_adjustments_kind_is_known check (kind in ('repair', 'import'))
);

create table if not exists stepquota.registered_ledgers (
  ledger text not null,
  relation text not null,
  tenant_column text not null,
  period_column text,
  time_column text,
  count_column text,
  registered_by text not null,
  registered_at timestamptz not null,
  constraint registered_ledgers_pkey primary key (ledger),
  constraint registered_ledgers_has_period_or_time check ((period_column is null) <> (time_column is null))
);

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_reconcile_every_is_positive') then
    alter table stepquota.policy
      add constraint policy_reconcile_every_is_positive check (reconcile_every > interval '0'),
      add constraint policy_maintenance_seconds_is_in_range check (maintenance_seconds between 1 and 3600);
  end if;
end;
$add_constraints$;

-- Composite types cannot be made "if not exists".
do $create_types$
begin
  if pg_catalog.to_regtype('stepquota._compared_usage') is null then
    create type stepquota._compared_usage as (
      period_start timestamptz,
      period_end timestamptz,
      is_known boolean,
      used_count bigint,
      unledgered_count bigint,
      has_stray_lane boolean,
      step_count bigint,
      duplicate_count bigint,
      misplaced_count bigint,
      purged_step_count bigint,
      registered_ledgers text[],
      registered_step_count bigint,
      open_batch_count bigint
    );
  end if;
end;
$create_types$;

comment on type stepquota._compared_usage is 'Internal: counter and ledgers of a period, as of one snapshot.';
comment on column stepquota._compared_usage.is_known is 'Whether workflow_step_usage_periods has the period.';
comment on column stepquota._compared_usage.has_stray_lane is 'Whether the numbers of its lanes are not what they are to be.';
comment on column stepquota._compared_usage.open_batch_count is 'Units of open batches, which may have a step in a registered ledger or not.';
comment on column stepquota.workflow_step_usage_periods.purged_step_count is
  'Ledger rows counted in it that retention has deleted; part of what reconciliation compares with the counter.';
comment on column stepquota.workflow_step_usage_periods.imported_count is
  'Units of carried_count that import_workflow_step_usage brought in.';
comment on column stepquota.scan_state.tenants_listed_at is 'When reconcile_all last looked for tenants that it did not know.';
comment on column stepquota.policy.reconcile_every is 'How often reconcile_all looks at each tenant.';
comment on column stepquota.policy.maintenance_seconds is
  'How long one reconcile_all goes on, in seconds, and one purge.';
comment on table stepquota.reconciled_tenants is 'The watermarks of reconcile_all: a row a tenant.';
comment on column stepquota.reconciled_tenants.tenant is 'The tenant.';
comment on column stepquota.reconciled_tenants.reconciled_at is 'When it was last compared; -infinity before the first time.';
comment on column stepquota.reconciled_tenants.right_at is 'When it was last compared and nothing was found.';
comment on column stepquota.reconciled_tenants.settled_until is
  'Periods that ended before this moment were compared after their end, and nothing was found: they are not counted again.';
comment on column stepquota.reconciled_tenants.error is 'What went wrong when it was last compared; NULL is nothing.';
comment on table stepquota.reconciliation_findings is
  'What reconciliation found wrong. One that is gone is closed, never deleted before retention does it.';
comment on column stepquota.reconciliation_findings.tenant is 'The tenant.';
comment on column stepquota.reconciliation_findings.finding_id is 'Number of the finding.';
comment on column stepquota.reconciliation_findings.period_start is 'The period.';
comment on column stepquota.reconciliation_findings.class is
  'counter_ahead, ledger_ahead, wrong_period, duplicate, orphan_lane or reservation_without_ledger.';
comment on column stepquota.reconciliation_findings.ledger is
  'The ledger compared with: workflow_run_steps, or the names of registered ones.';
comment on column stepquota.reconciliation_findings.units is 'How many units it is about.';
comment on column stepquota.reconciliation_findings.hour is 'The hour of the earliest step that it may come from; NULL if no row tells.';
comment on column stepquota.reconciliation_findings.workflow is 'The workflow of most of those steps.';
comment on column stepquota.reconciliation_findings.run_ids is 'Runs that it may come from, at most 20.';
comment on column stepquota.reconciliation_findings.details is
  'The figures; since when it may have come; places: what is suspect by hour and workflow.';
comment on column stepquota.reconciliation_findings.found_at is 'When it was found.';
comment on column stepquota.reconciliation_findings.seen_at is 'When it was last seen.';
comment on column stepquota.reconciliation_findings.closed_at is 'When it was gone; NULL while it is there.';
comment on table stepquota.workflow_step_usage_adjustments is
  'Adjusting entries: each change of a counter that no step made. Kept for ever.';
comment on column stepquota.workflow_step_usage_adjustments.tenant is 'The tenant.';
comment on column stepquota.workflow_step_usage_adjustments.adjustment_id is 'The entry''s id.';
comment on column stepquota.workflow_step_usage_adjustments.period_start is 'The period.';
comment on column stepquota.workflow_step_usage_adjustments.kind is 'repair, or import of usage from elsewhere.';
comment on column stepquota.workflow_step_usage_adjustments.used_count_before is 'Units used before; for an import with what is carried.';
comment on column stepquota.workflow_step_usage_adjustments.used_count_after is 'The same after it.';
comment on column stepquota.workflow_step_usage_adjustments.unledgered_count_before is 'Those without a ledger row here, before.';
comment on column stepquota.workflow_step_usage_adjustments.unledgered_count_after is 'The same after it.';
comment on column stepquota.workflow_step_usage_adjustments.ledger_step_count is 'Steps in the ledger, purged ones included.';
comment on column stepquota.workflow_step_usage_adjustments.adjusted_by is 'The role that was connected.';
comment on column stepquota.workflow_step_usage_adjustments.reason is 'Why, in its words.';
comment on column stepquota.workflow_step_usage_adjustments.adjusted_at is 'When.';
comment on table stepquota.registered_ledgers is
  'Tables and views in which callers of reserve_workflow_step keep a ledger of their own, to compare with.';
comment on column stepquota.registered_ledgers.ledger is 'Its name.';
comment on column stepquota.registered_ledgers.relation is 'The table or view, with its schema.';
comment on column stepquota.registered_ledgers.tenant_column is 'The column of the tenant.';
comment on column stepquota.registered_ledgers.period_column is 'The column of the period''s start; NULL if there is a time_column.';
comment on column stepquota.registered_ledgers.time_column is 'The column of the moment of the reservation.';
comment on column stepquota.registered_ledgers.count_column is 'The column of how many units a row is; NULL is one.';
comment on column stepquota.registered_ledgers.registered_by is 'The role that registered it.';
comment on column stepquota.registered_ledgers.registered_at is 'When it was registered.';
