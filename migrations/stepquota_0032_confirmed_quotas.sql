-- So that a stored quota need not be resolved again only because time went by: all of them are compared
-- with their inputs at once, now and then, and those that differ are marked. See sql/confirmation.sql.

alter table stepquota.workflow_step_quotas add column if not exists inputs_hash bigint;
alter table stepquota.policy
  add column if not exists confirmed_from timestamptz not null default '-infinity',
  add column if not exists confirmed_until timestamptz not null default '-infinity';
alter table stepquota.scan_state
  add column if not exists quotas_compared_at timestamptz,
  add column if not exists quotas_compared_in interval not null default '0';

comment on column stepquota.workflow_step_quotas.inputs_hash is
  'Its inputs (plan, tier, policy, grants, Stripe objects) as one number, when they were last compared; NULL before the first time.';
comment on column stepquota.policy.confirmed_from is
  'From when on all stored quotas are known to follow from their inputs, but for those marked as stale. Set by confirm_workflow_step_quotas.';
comment on column stepquota.policy.confirmed_until is
  'Until when they may be trusted without looking at their inputs again.';
comment on column stepquota.scan_state.quotas_compared_at is 'When all stored quotas were last compared with their inputs.';
comment on column stepquota.scan_state.quotas_compared_in is 'How long that took.';
