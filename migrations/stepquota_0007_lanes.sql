-- Lanes that split: how many a tenant's period has, whether all are used up, and what a lane remembers
-- of the others.

alter table stepquota.workflow_step_quotas add column if not exists lane_count integer not null default 1;
alter table stepquota.workflow_step_quotas add column if not exists exhausted_at_count bigint;
alter table stepquota.workflow_step_usage_lanes add column if not exists others_used_count bigint not null default 0;

alter table stepquota.workflow_step_quotas add column if not exists carried_count bigint not null default 0;
alter table stepquota.workflow_step_usage_periods add column if not exists carried_count bigint not null default 0;
alter table stepquota.workflow_step_usage_periods add column if not exists effective_limit bigint;
alter table stepquota.policy add column if not exists usage_on_moved_period text not null default 'carry';
alter table stepquota.policy add column if not exists usage_on_other_period text not null default 'reset';

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'workflow_step_quotas_lane_count_is_positive') then
    alter table stepquota.workflow_step_quotas
      add constraint workflow_step_quotas_lane_count_is_positive check (lane_count > 0) not valid;
    alter table stepquota.workflow_step_quotas validate constraint workflow_step_quotas_lane_count_is_positive;
  end if;
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_usage_on_moved_period_is_known') then
    alter table stepquota.policy
      add constraint policy_usage_on_moved_period_is_known check (usage_on_moved_period in ('carry', 'reset')),
      add constraint policy_usage_on_other_period_is_known check (usage_on_other_period in ('carry', 'reset'));
  end if;
end;
$add_constraints$;

-- Composite types cannot be made "if not exists".
do $create_types$
begin
  if pg_catalog.to_regtype('stepquota.workflow_steps_quota') is null then
    create type stepquota.workflow_steps_quota as (
      allowed boolean,
      used_count bigint,
      effective_limit bigint,
      remaining bigint,
      period_start timestamptz,
      period_end timestamptz,
      period_source text,
      limit_source text,
      tier text,
      granted_units bigint,
      stripe_subscription_id text,
      granted bigint
    );
  end if;
  if pg_catalog.to_regtype('stepquota.workflow_steps_start') is null then
    create type stepquota.workflow_steps_start as (
      outcome text,
      step_id uuid,
      wait_id uuid,
      allowed boolean,
      used_count bigint,
      effective_limit bigint,
      remaining bigint,
      period_start timestamptz,
      period_end timestamptz,
      period_source text,
      limit_source text,
      tier text,
      granted_units bigint,
      stripe_subscription_id text,
      step_status text,
      node_path text,
      attempt integer
    );
  end if;
end;
$create_types$;

comment on type stepquota.workflow_steps_quota is
  'The answer of a batch: the columns of workflow_step_quota, and how many units were taken.';
comment on column stepquota.workflow_steps_quota.allowed is 'Whether any unit was taken.';
comment on column stepquota.workflow_steps_quota.granted is 'Units taken: all, 0, or with p_allow_partial what was left.';
comment on type stepquota.workflow_steps_start is
  'What start_workflow_steps decided for one path: the columns of workflow_step_start, and which attempt they are about.';
comment on column stepquota.workflow_steps_start.node_path is 'The path.';
comment on column stepquota.workflow_steps_start.attempt is 'The attempt.';

comment on column stepquota.workflow_step_quotas.carried_count is 'Units carried into the current period, part of what is used.';
comment on column stepquota.workflow_step_usage_periods.carried_count is
  'Units carried over from the period that this one replaced while it ran; used is carried and counted together.';
comment on column stepquota.workflow_step_usage_periods.effective_limit is
  'The limit that was last in force in it, with grants; NULL is unlimited.';
comment on column stepquota.policy.usage_on_moved_period is
  'carry or reset: what becomes of usage when the bounds of the same subscription''s period move while it runs.';
comment on column stepquota.policy.usage_on_other_period is
  'carry or reset: the same when another subscription, or the calendar, gives the period.';
comment on column stepquota.workflow_step_quotas.lane_count is 'How many lanes the current period has: 0 to this, without it.';
comment on column stepquota.workflow_step_quotas.exhausted_at_count is
  'Units used when all lanes were found used up; NULL while any is free. Set and cleared under the row''s lock.';
comment on column stepquota.workflow_step_usage_lanes.others_used_count is
  'What the other lanes of the period had used when this one last asked: for the figures of an answer, never for a decision.';
