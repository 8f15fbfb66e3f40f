-- The schema, its four roles, and the types that functions answer with.
--
-- Roles are optional: where the installer may not create them, the functions work all the same and
-- sql/grants.sql grants to those that exist. They belong to the whole cluster, so another database
-- may have made them already and rolling back leaves them.

-- "if not exists" asks for the right to create it even where it exists.
do $create_schema$
begin
  if pg_catalog.to_regnamespace('stepquota') is null then
    create schema stepquota;
  end if;
end;
$create_schema$;

comment on schema stepquota is
  'Workflow-step quotas per tenant and billing period: reserve, pause, resume, reconcile. Start with stepquota.status().';

do $create_roles$
declare
  v_role text;
  v_may_create_roles boolean;
begin
  select r.rolcreaterole or r.rolsuper into v_may_create_roles
    from pg_catalog.pg_roles r where r.rolname = current_user;
  foreach v_role in array array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer'] loop
    if v_may_create_roles and not exists (select 1 from pg_catalog.pg_roles r where r.rolname = v_role) then
      begin
        execute format('create role %I nologin', v_role);
      exception when duplicate_object or unique_violation then
        null;  -- another installation of the cluster made it at the same moment
      end;
    end if;
  end loop;
end;
$create_roles$;

-- Composite types cannot be made "if not exists".
do $create_types$
begin
  if pg_catalog.to_regtype('stepquota.workflow_step_quota') is null then
    create type stepquota.workflow_step_quota as (
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
      stripe_subscription_id text
    );
  end if;
  if pg_catalog.to_regtype('stepquota.workflow_step_start') is null then
    create type stepquota.workflow_step_start as (
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
      step_status text
    );
  end if;
  if pg_catalog.to_regtype('stepquota.workflow_run_resume') is null then
    create type stepquota.workflow_run_resume as (
      resumed boolean,
      reason text,
      used_count bigint,
      effective_limit bigint,
      period_start timestamptz,
      period_end timestamptz,
      period_source text,
      limit_source text,
      resumption_id uuid
    );
  end if;
end;
$create_types$;

comment on type stepquota.workflow_step_quota is
  'A tenant''s quota of the current period and how much of it is used; the answer of a reservation and of a resolution.';
comment on column stepquota.workflow_step_quota.allowed is
  'After a reservation: whether the unit was taken. After a resolution: whether one is free.';
comment on column stepquota.workflow_step_quota.used_count is 'Units used in the period.';
comment on column stepquota.workflow_step_quota.effective_limit is 'The limit with grants; NULL is unlimited.';
comment on column stepquota.workflow_step_quota.remaining is 'Units left, never below 0; NULL is unlimited.';
comment on column stepquota.workflow_step_quota.period_start is 'Start of the period, included.';
comment on column stepquota.workflow_step_quota.period_end is 'End of the period, excluded; it may move.';
comment on column stepquota.workflow_step_quota.period_source is
  'stripe_subscription, presumed_renewal or fallback_calendar.';
comment on column stepquota.workflow_step_quota.limit_source is
  'stripe_price_metadata, stripe_product_metadata, tier_default or unlimited_metadata.';
comment on column stepquota.workflow_step_quota.tier is 'The tier whose default limit would apply.';
comment on column stepquota.workflow_step_quota.granted_units is 'Units granted on top of the limit, contained in effective_limit.';
comment on column stepquota.workflow_step_quota.stripe_subscription_id is 'The subscription that gave the period; NULL on the calendar.';

comment on type stepquota.workflow_step_start is
  'What start_workflow_step decided, and the quota''s figures. The columns from allowed on are those of workflow_step_quota.';
comment on column stepquota.workflow_step_start.outcome is
  'started, already_started, already_finished (do not execute), quota_paused or held.';
comment on column stepquota.workflow_step_start.step_id is 'The ledger row of the attempt; NULL when it was not started.';
comment on column stepquota.workflow_step_start.wait_id is 'The open wait that the run is paused by; NULL when it was started.';
comment on column stepquota.workflow_step_start.step_status is 'The attempt''s status in the ledger; NULL when it was not started.';

comment on type stepquota.workflow_run_resume is 'What resume_workflow_run decided, and the figures it decided on.';
comment on column stepquota.workflow_run_resume.resumed is 'Whether the run goes on.';
comment on column stepquota.workflow_run_resume.reason is
  'resumed, quota_exhausted, no_capacity (the units left are promised to runs already resumed) or held.';
comment on column stepquota.workflow_run_resume.resumption_id is 'The resumption that a runtime will claim; NULL unless resumed.';
