-- Shadow mode: counting past the limit, and what it would have done. Grants: units on top of the limit.

alter table stepquota.policy add column if not exists enforcement text not null default 'enforce';
alter table stepquota.tenants add column if not exists enforcement text;
alter table stepquota.workflow_step_quotas add column if not exists enforcement text not null default 'enforce';
alter table stepquota.workflow_step_usage_periods
  add column if not exists over_limit_since timestamptz,
  add column if not exists spent_grant_units bigint not null default 0;

-- Who would have been paused: the first time in a period, a row a run.
create table if not exists stepquota.workflow_run_shadow_pauses (
  tenant text not null,
  period_start timestamptz not null,
  run_id text not null,
  would_pause_at timestamptz not null,
  used_count bigint not null,
  effective_limit bigint not null,
  constraint workflow_run_shadow_pauses_pkey primary key (tenant, period_start, run_id)
);

create table if not exists stepquota.workflow_step_grants (
  tenant text not null,
  grant_id uuid not null,
  grant_key text,
  units bigint not null,
  spent_units bigint not null default 0,
  period_start timestamptz not null,
  expires_at timestamptz,
  reason text not null,
  granted_by text not null,
  granted_at timestamptz not null,
  closed_at timestamptz,
  closed_because text,
  closed_by text,
  constraint workflow_step_grants_pkey primary key (tenant, grant_id),
  constraint workflow_step_grants_units_are_positive check (units > 0),
  constraint workflow_step_grants_spent_is_part check (spent_units between 0 and units),
  constraint workflow_step_grants_expires_after_it_was_granted check (expires_at > granted_at),
  constraint workflow_step_grants_closed_has_reason check ((closed_at is null) = (closed_because is null))
);

create unique index if not exists workflow_step_grants_one_a_key
  on stepquota.workflow_step_grants (tenant, grant_key) where grant_key is not null;
-- Few of each tenant: what it has now.
create index if not exists workflow_step_grants_open_idx
  on stepquota.workflow_step_grants (tenant) where closed_at is null;
create index if not exists workflow_step_usage_periods_over_limit_idx
  on stepquota.workflow_step_usage_periods (tenant, period_start) where over_limit_since is not null;

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_enforcement_is_known') then
    alter table stepquota.policy
      add constraint policy_enforcement_is_known check (enforcement in ('enforce', 'shadow'));
    alter table stepquota.tenants
      add constraint tenants_enforcement_is_known check (enforcement in ('enforce', 'shadow')) not valid;
    alter table stepquota.tenants validate constraint tenants_enforcement_is_known;
    alter table stepquota.workflow_step_quotas
      add constraint workflow_step_quotas_enforcement_is_known check (enforcement in ('enforce', 'shadow')) not valid;
    alter table stepquota.workflow_step_quotas validate constraint workflow_step_quotas_enforcement_is_known;
  end if;
end;
$add_constraints$;

comment on column stepquota.policy.enforcement is
  'enforce or shadow: whether tenants without a setting of their own are refused steps past their limit, or only counted.';
comment on column stepquota.tenants.enforcement is 'enforce or shadow; NULL is as policy says.';
comment on column stepquota.workflow_step_quotas.enforcement is
  'enforce, or shadow: the lanes own any number of units, and steps past the limit are counted and recorded.';
comment on column stepquota.workflow_step_usage_periods.over_limit_since is
  'Since when steps were started past the limit, in shadow mode; NULL if none was.';
comment on column stepquota.workflow_step_usage_periods.spent_grant_units is
  'Units past the limit without grants that have been charged to grants: part of the limit of this period.';
comment on table stepquota.workflow_run_shadow_pauses is
  'Runs that would have been paused by quota, had their tenants not been in shadow mode: a row a run and period, of the first time.';
comment on column stepquota.workflow_run_shadow_pauses.tenant is 'The tenant.';
comment on column stepquota.workflow_run_shadow_pauses.period_start is 'The period.';
comment on column stepquota.workflow_run_shadow_pauses.run_id is 'The run.';
comment on column stepquota.workflow_run_shadow_pauses.would_pause_at is 'When its first step past the limit started.';
comment on column stepquota.workflow_run_shadow_pauses.used_count is 'Units used then, that step included.';
comment on column stepquota.workflow_run_shadow_pauses.effective_limit is 'The limit then.';
comment on table stepquota.workflow_step_grants is
  'Units given to tenants on top of their limits: courtesies and bought packs. Each unit is used once.';
comment on column stepquota.workflow_step_grants.tenant is 'The tenant.';
comment on column stepquota.workflow_step_grants.grant_id is 'The grant''s id.';
comment on column stepquota.workflow_step_grants.grant_key is 'The caller''s key, such as a payment''s id, by which the same grant is not given twice; NULL is none.';
comment on column stepquota.workflow_step_grants.units is 'Units given.';
comment on column stepquota.workflow_step_grants.spent_units is
  'Units charged to it: when a period ends, or the grant, what was used past the limit.';
comment on column stepquota.workflow_step_grants.period_start is 'The period it was given in; moves along where usage is carried over.';
comment on column stepquota.workflow_step_grants.expires_at is 'Until when it counts; NULL is the end of its period.';
comment on column stepquota.workflow_step_grants.reason is 'Why it was given.';
comment on column stepquota.workflow_step_grants.granted_by is 'Who gave it.';
comment on column stepquota.workflow_step_grants.granted_at is 'When.';
comment on column stepquota.workflow_step_grants.closed_at is 'When it was found to count no more; NULL while it does.';
comment on column stepquota.workflow_step_grants.closed_because is 'expired, used up, or why it was revoked.';
comment on column stepquota.workflow_step_grants.closed_by is 'Who revoked it; NULL if it ended by itself.';
