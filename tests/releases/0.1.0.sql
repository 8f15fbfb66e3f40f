-- stepquota 0.1.0, all of it. Install it, or upgrade an older installation, with
--
--   psql --set ON_ERROR_STOP=1 --single-transaction --file=FILE "$DATABASE_URL"
--
-- Running it again changes nothing, and a later "stepquota migrate" goes on from here.


set local search_path = pg_catalog, pg_temp;
set local client_min_messages = warning;
set local statement_timeout = 0;
set local lock_timeout = '5s';

do $refuse_old_server$
begin
  if pg_catalog.current_setting('server_version_num')::integer < 150000 then
    raise exception using
      errcode = 'feature_not_supported',
      message = 'stepquota needs PostgreSQL 15 or later',
      detail = 'The server is ' || pg_catalog.current_setting('server_version') || '.';
  end if;
end;
$refuse_old_server$;

do $lock_out_others$
begin
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('stepquota migrate', 0));
end;
$lock_out_others$;

do $create_schema$
begin
  -- "if not exists" asks for the right to create it even where it exists.
  if pg_catalog.to_regnamespace('stepquota_migrations') is null then
    create schema stepquota_migrations;
    comment on schema stepquota_migrations is 'Which migrations of stepquota this database has had.';
  end if;
end;
$create_schema$;

create table if not exists stepquota_migrations._stepquota_migration (
  migration_hash varchar(64),
  migration_id varchar(255),
  applied_at_utc timestamp,
  primary key (migration_hash)
);
create table if not exists stepquota_migrations._yoyo_log (
  id varchar(36),
  migration_hash varchar(64),
  migration_id varchar(255),
  operation varchar(10),
  username varchar(255),
  hostname varchar(255),
  comment varchar(255),
  created_at_utc timestamp,
  primary key (id)
);
create table if not exists stepquota_migrations._yoyo_version (
  version int not null primary key,
  installed_at_utc timestamp
);
create table if not exists stepquota_migrations.yoyo_lock (
  locked int default 1,
  ctime timestamp,
  pid int not null,
  primary key (locked)
);
insert into stepquota_migrations._yoyo_version (version, installed_at_utc)
values (2, pg_catalog.clock_timestamp() at time zone 'utc')
on conflict (version) do nothing;

-- migrations/stepquota_0001_schema_and_roles.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = '34a91b8ce8ace7dd3533a49e2b621c9300ba2499124fcf38730137579ea62ed9'
  ) then
    return;
  end if;
  execute $stepquota_0001_schema_and_roles$
-- The schema, its four roles, and the types that functions answer with.
--
-- Roles are optional: where the installer may not create them, the functions work all the same and
-- sql/grants.sql grants to those that exist. They belong to the whole cluster, so another database
-- may have made them already and rolling back leaves them.

create schema if not exists stepquota;

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
$stepquota_0001_schema_and_roles$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('34a91b8ce8ace7dd3533a49e2b621c9300ba2499124fcf38730137579ea62ed9', 'stepquota_0001_schema_and_roles',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '34a91b8ce8ace7dd3533a49e2b621c9300ba2499124fcf38730137579ea62ed9', 'stepquota_0001_schema_and_roles',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- migrations/stepquota_0002_policy_tiers_tenants.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = '8e4eaee150d5c39dba40e894664d20d57255c14c66d16b681bde30ff7be59fcc'
  ) then
    return;
  end if;
  execute $stepquota_0002_policy_tiers_tenants$
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
$stepquota_0002_policy_tiers_tenants$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('8e4eaee150d5c39dba40e894664d20d57255c14c66d16b681bde30ff7be59fcc', 'stepquota_0002_policy_tiers_tenants',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '8e4eaee150d5c39dba40e894664d20d57255c14c66d16b681bde30ff7be59fcc', 'stepquota_0002_policy_tiers_tenants',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- migrations/stepquota_0003_stripe_mirror.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = 'c0b7e8629cc72472ba19415126939b21753a3594939b3187ddeb085b2956c07a'
  ) then
    return;
  end if;
  execute $stepquota_0003_stripe_mirror$
-- The mirror of what Stripe says, written by apply_stripe_object alone.
--
-- No foreign keys: objects arrive in any order. Statuses are plain text: Stripe adds new ones.
-- Nothing personal is kept: no names, no e-mail addresses, no payloads.

create table if not exists stepquota.stripe_products (
  id text not null,
  metadata jsonb not null default '{}',
  name text,
  active boolean,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_products_pkey primary key (id),
  constraint stripe_products_metadata_is_object check (jsonb_typeof(metadata) = 'object')
);

create table if not exists stepquota.stripe_prices (
  id text not null,
  product_id text,
  metadata jsonb not null default '{}',
  nickname text,
  active boolean,
  recurring_interval text,
  recurring_interval_count integer,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_prices_pkey primary key (id),
  constraint stripe_prices_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_prices_interval_count_is_positive check (recurring_interval_count > 0)
);

create index if not exists stripe_prices_product_id_idx on stepquota.stripe_prices (product_id);

create table if not exists stepquota.stripe_customers (
  id text not null,
  metadata jsonb not null default '{}',
  metadata_tenant text,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_customers_pkey primary key (id),
  constraint stripe_customers_metadata_is_object check (jsonb_typeof(metadata) = 'object')
);

create index if not exists stripe_customers_metadata_tenant_idx
  on stepquota.stripe_customers (metadata_tenant) where metadata_tenant is not null;

create table if not exists stepquota.stripe_customer_tenants (
  customer_id text not null,
  tenant text not null,
  mapped_at timestamptz not null,
  constraint stripe_customer_tenants_pkey primary key (customer_id),
  constraint stripe_customer_tenants_tenant_is_named check (tenant <> '')
);

create index if not exists stripe_customer_tenants_tenant_idx on stepquota.stripe_customer_tenants (tenant);

create table if not exists stepquota.stripe_subscriptions (
  id text not null,
  customer_id text,
  status text not null,
  metadata jsonb not null default '{}',
  metadata_tenant text,
  billing_cycle_anchor timestamptz,
  cancel_at timestamptz,
  cancel_at_period_end boolean not null default false,
  canceled_at timestamptz,
  ended_at timestamptz,
  trial_start timestamptz,
  trial_end timestamptz,
  pause_collection jsonb,
  livemode boolean,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_subscriptions_pkey primary key (id),
  constraint stripe_subscriptions_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_subscriptions_has_customer_unless_deleted check (customer_id is not null or deleted_at is not null)
);

create index if not exists stripe_subscriptions_customer_id_idx on stepquota.stripe_subscriptions (customer_id);
create index if not exists stripe_subscriptions_metadata_tenant_idx
  on stepquota.stripe_subscriptions (metadata_tenant) where metadata_tenant is not null;

create table if not exists stepquota.stripe_subscription_items (
  id text not null,
  subscription_id text not null,
  price_id text,
  current_period_start timestamptz,
  current_period_end timestamptz,
  metadata jsonb not null default '{}',
  quantity bigint,
  created_at timestamptz,
  fetched_at timestamptz not null,
  deleted_at timestamptz,
  constraint stripe_subscription_items_pkey primary key (id),
  constraint stripe_subscription_items_metadata_is_object check (jsonb_typeof(metadata) = 'object'),
  constraint stripe_subscription_items_period_is_forward check (current_period_end > current_period_start)
);

create index if not exists stripe_subscription_items_subscription_id_idx
  on stepquota.stripe_subscription_items (subscription_id) where deleted_at is null;
create index if not exists stripe_subscription_items_price_id_idx
  on stepquota.stripe_subscription_items (price_id) where deleted_at is null;

create table if not exists stepquota.stripe_events (
  id text not null,
  event_type text not null,
  object_id text,
  object_type text,
  livemode boolean,
  created_at timestamptz,
  received_at timestamptz not null,
  source text not null,
  status text not null default 'pending',
  attempts integer not null default 0,
  next_attempt_at timestamptz not null,
  processed_at timestamptz,
  last_error text,
  constraint stripe_events_pkey primary key (id),
  constraint stripe_events_source_is_known check (source in ('webhook', 'thin', 'catch_up')),
  constraint stripe_events_status_is_known check (status in ('pending', 'done', 'ignored', 'dead')),
  constraint stripe_events_attempts_is_not_negative check (attempts >= 0)
);

create index if not exists stripe_events_pending_idx
  on stepquota.stripe_events (next_attempt_at) where status = 'pending';

create table if not exists stepquota.stripe_sync_state (
  name text not null,
  value jsonb not null,
  updated_at timestamptz not null,
  constraint stripe_sync_state_pkey primary key (name)
);

comment on table stepquota.stripe_products is 'Stripe mirror: products, for their metadata.';
comment on table stepquota.stripe_prices is 'Stripe mirror: prices, for their metadata and billing interval.';
comment on table stepquota.stripe_customers is 'Stripe mirror: customers, for the tenant that their metadata names. Nothing personal.';
comment on table stepquota.stripe_customer_tenants is
  'The application''s own word on whose customer it is, by map_stripe_customer; it goes before any metadata.';
comment on table stepquota.stripe_subscriptions is 'Stripe mirror: subscriptions.';
comment on table stepquota.stripe_subscription_items is
  'Stripe mirror: subscription items, which carry the period. For answers of API versions before 2025-03-31.basil the subscription''s period is stored on each item.';
comment on table stepquota.stripe_events is 'Events that were received: triggers for a fetch, never data.';
comment on table stepquota.stripe_sync_state is 'What the sync remembers between runs, by name.';

do $comment_mirror_columns$
declare
  v_column record;
begin
  -- The columns that all mirror tables share, commented from one place.
  for v_column in
    select a.attrelid::pg_catalog.regclass as table_name, a.attname as column_name, c.comment
      from pg_catalog.pg_attribute a
      join (values
        ('id', 'Stripe''s id.'),
        ('metadata', 'Stripe''s metadata, as received.'),
        ('metadata_tenant', 'The tenant named by the metadata under policy.tenant_metadata_key.'),
        ('livemode', 'Whether the object is of Stripe''s live mode.'),
        ('created_at', 'When Stripe made it.'),
        ('fetched_at', 'This database''s clock, read before the object was asked for: newer answers win.'),
        ('deleted_at', 'When it was found to be gone; final.'),
        ('active', 'Whether it can be bought; archived ones still give limits to running subscriptions.'),
        ('name', 'Name.'),
        ('nickname', 'Stripe''s nickname of the price.'),
        ('product_id', 'The price''s product.'),
        ('recurring_interval', 'day, week, month or year; NULL for one-time prices.'),
        ('recurring_interval_count', 'How many intervals a period has.'),
        ('customer_id', 'The Stripe customer.'),
        ('tenant', 'The tenant.'),
        ('mapped_at', 'When the application said so.'),
        ('status', 'Status.'),
        ('billing_cycle_anchor', 'The moment that periods are counted from.'),
        ('cancel_at', 'When the subscription is due to end.'),
        ('cancel_at_period_end', 'Whether it ends with its period.'),
        ('canceled_at', 'When it was cancelled.'),
        ('ended_at', 'When it ended.'),
        ('trial_start', 'Start of the trial.'),
        ('trial_end', 'End of the trial.'),
        ('pause_collection', 'Stripe''s pause_collection object; the status stays active.'),
        ('subscription_id', 'The subscription.'),
        ('price_id', 'The item''s price.'),
        ('current_period_start', 'Start of the item''s period, included.'),
        ('current_period_end', 'End of the item''s period, excluded.'),
        ('quantity', 'Quantity; it never multiplies a limit.'),
        ('event_type', 'Stripe''s type of event.'),
        ('object_id', 'Id of the object to fetch.'),
        ('object_type', 'Type of the object to fetch.'),
        ('received_at', 'When it was stored here.'),
        ('source', 'webhook, thin or catch_up.'),
        ('attempts', 'How often it was tried.'),
        ('next_attempt_at', 'When it is tried next.'),
        ('processed_at', 'When it was done with.'),
        ('last_error', 'Why the last try failed.'),
        ('value', 'What is remembered.'),
        ('updated_at', 'When it was last written.')
      ) as c (column_name, comment) on c.column_name = a.attname
     where a.attrelid in (
       'stepquota.stripe_products'::pg_catalog.regclass, 'stepquota.stripe_prices'::pg_catalog.regclass,
       'stepquota.stripe_customers'::pg_catalog.regclass, 'stepquota.stripe_customer_tenants'::pg_catalog.regclass,
       'stepquota.stripe_subscriptions'::pg_catalog.regclass, 'stepquota.stripe_subscription_items'::pg_catalog.regclass,
       'stepquota.stripe_events'::pg_catalog.regclass, 'stepquota.stripe_sync_state'::pg_catalog.regclass)
       and a.attnum > 0 and not a.attisdropped
  loop
    execute format('comment on column %s.%I is %L', v_column.table_name, v_column.column_name, v_column.comment);
  end loop;
end;
$comment_mirror_columns$;
$stepquota_0003_stripe_mirror$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('c0b7e8629cc72472ba19415126939b21753a3594939b3187ddeb085b2956c07a', 'stepquota_0003_stripe_mirror',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), 'c0b7e8629cc72472ba19415126939b21753a3594939b3187ddeb085b2956c07a', 'stepquota_0003_stripe_mirror',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- migrations/stepquota_0004_quotas_and_usage.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = '1ebabe3296040f90db1e60556ba959556bafc20d453fee94f234d0699e404894'
  ) then
    return;
  end if;
  execute $stepquota_0004_quotas_and_usage$
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
$stepquota_0004_quotas_and_usage$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('1ebabe3296040f90db1e60556ba959556bafc20d453fee94f234d0699e404894', 'stepquota_0004_quotas_and_usage',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '1ebabe3296040f90db1e60556ba959556bafc20d453fee94f234d0699e404894', 'stepquota_0004_quotas_and_usage',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- migrations/stepquota_0005_runs_and_ledger.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = '57eb6ff207e9a218ab30d64da3b9ec3617770a08a391bf914bac2b57f3a65622'
  ) then
    return;
  end if;
  execute $stepquota_0005_runs_and_ledger$
-- Runs, the ledger of their step attempts, their waits and logs: the host tables, reached only
-- through sql/host.sql; and what pausing adds to them: paused tenants and the resumption outbox.

create table if not exists stepquota.workflow_runs (
  tenant text not null,
  run_id text not null,
  workflow text,
  runtime text not null default 'default',
  status text not null default 'RUNNING',
  node_path text,
  ledger_month date not null,
  error jsonb,
  registered_at timestamptz not null,
  ended_at timestamptz,
  constraint workflow_runs_pkey primary key (tenant, run_id),
  constraint workflow_runs_run_id_is_named check (run_id <> ''),
  constraint workflow_runs_runtime_is_named check (runtime <> ''),
  constraint workflow_runs_status_is_known
    check (status in ('RUNNING', 'WAITING', 'SUCCEEDED', 'FAILED', 'CANCELED')),
  constraint workflow_runs_ledger_month_is_first_day
    check (extract(day from ledger_month) = 1),
  constraint workflow_runs_ended_when_it_ended
    check ((status in ('SUCCEEDED', 'FAILED', 'CANCELED')) = (ended_at is not null))
) with (fillfactor = 70);

create table if not exists stepquota.workflow_run_steps (
  tenant text not null,
  run_id text not null,
  node_path text not null,
  attempt integer not null,
  ledger_month date not null,
  step_id uuid not null,
  step_type text not null,
  status text not null default 'STARTED',
  period_start timestamptz not null,
  error jsonb,
  started_at timestamptz not null,
  finished_at timestamptz,
  -- The idempotency key. The month is a constant of the run, so it adds nothing to it.
  constraint workflow_run_steps_pkey primary key (tenant, run_id, node_path, attempt, ledger_month),
  constraint workflow_run_steps_node_path_is_named check (node_path <> ''),
  constraint workflow_run_steps_attempt_is_positive check (attempt > 0),
  constraint workflow_run_steps_step_type_is_named check (step_type <> ''),
  constraint workflow_run_steps_status_is_known
    check (status in ('STARTED', 'SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED')),
  constraint workflow_run_steps_finished_when_not_started
    check ((status = 'STARTED') = (finished_at is null))
) partition by range (ledger_month);

create table if not exists stepquota.workflow_run_waits (
  tenant text not null,
  wait_id uuid not null,
  run_id text not null,
  node_path text not null,
  node_paths text[] not null,
  attempt integer not null default 0,
  wait_type text not null,
  status text not null default 'WAITING',
  reason text,
  due_at timestamptz,
  queued_at timestamptz not null,
  created_at timestamptz not null,
  resolved_at timestamptz,
  payload jsonb,
  constraint workflow_run_waits_pkey primary key (tenant, wait_id),
  constraint workflow_run_waits_wait_type_is_known
    check (wait_type in ('event', 'retry', 'human', 'timeout', 'time', 'quota')),
  constraint workflow_run_waits_status_is_known check (status in ('WAITING', 'RESOLVED', 'CANCELED')),
  constraint workflow_run_waits_resolved_when_not_waiting check ((status = 'WAITING') = (resolved_at is null)),
  constraint workflow_run_waits_open_wait_has_paths check (status <> 'WAITING' or cardinality(node_paths) > 0),
  constraint workflow_run_waits_reason_is_known
    check ((wait_type = 'quota') = (reason is not null) and reason in ('quota', 'tenant_suspended'))
);

create unique index if not exists workflow_run_waits_one_open_quota_wait_a_run
  on stepquota.workflow_run_waits (tenant, run_id) where wait_type = 'quota' and status = 'WAITING';
create unique index if not exists workflow_run_waits_one_wait_a_visit
  on stepquota.workflow_run_waits (tenant, run_id, node_path, wait_type, attempt) where wait_type <> 'quota';
create index if not exists workflow_run_waits_open_idx
  on stepquota.workflow_run_waits (tenant, run_id) where status = 'WAITING';
create index if not exists workflow_run_waits_quota_queue_idx
  on stepquota.workflow_run_waits (tenant, queued_at, wait_id) where wait_type = 'quota' and status = 'WAITING';
create index if not exists workflow_run_waits_due_idx
  on stepquota.workflow_run_waits (due_at) where status = 'WAITING' and due_at is not null;

create table if not exists stepquota.workflow_run_logs (
  tenant text not null,
  log_id bigint generated always as identity,
  run_id text not null,
  level text not null,
  message text not null,
  details jsonb not null default '{}',
  logged_at timestamptz not null,
  constraint workflow_run_logs_pkey primary key (tenant, run_id, log_id),
  constraint workflow_run_logs_level_is_known check (level in ('debug', 'info', 'warning', 'error'))
);

create table if not exists stepquota.workflow_run_resumptions (
  tenant text not null,
  resumption_id uuid not null,
  run_id text not null,
  runtime text not null,
  wait_id uuid not null,
  wait_type text not null,
  node_paths text[] not null,
  unentered_paths text[] not null,
  status text not null default 'OPEN',
  delivery bigint,
  deliveries bigint[] not null default '{}',
  worker text,
  leased_until timestamptz,
  created_at timestamptz not null,
  closed_at timestamptz,
  constraint workflow_run_resumptions_pkey primary key (tenant, resumption_id),
  constraint workflow_run_resumptions_status_is_known check (status in ('OPEN', 'ACKNOWLEDGED', 'CANCELED')),
  constraint workflow_run_resumptions_closed_when_not_open check ((status = 'OPEN') = (closed_at is null)),
  constraint workflow_run_resumptions_unentered_is_part check (unentered_paths <@ node_paths),
  constraint workflow_run_resumptions_open_has_unentered check (status <> 'OPEN' or cardinality(unentered_paths) > 0)
);

create index if not exists workflow_run_resumptions_open_idx
  on stepquota.workflow_run_resumptions (tenant, runtime, created_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_runtime_idx
  on stepquota.workflow_run_resumptions (runtime, created_at) where status = 'OPEN';
create index if not exists workflow_run_resumptions_run_idx
  on stepquota.workflow_run_resumptions (tenant, run_id);
create index if not exists workflow_run_resumptions_promised_idx
  on stepquota.workflow_run_resumptions (tenant, created_at)
  where wait_type = 'quota' and status <> 'CANCELED' and unentered_paths <> '{}';

-- Numbers of deliveries: a later claim always has the greater one. Gaps mean nothing.
create sequence if not exists stepquota.workflow_run_deliveries as bigint;

create table if not exists stepquota.paused_tenants (
  tenant text not null,
  due_at timestamptz not null,
  paused_at timestamptz not null,
  constraint paused_tenants_pkey primary key (tenant)
) with (fillfactor = 70);

create index if not exists paused_tenants_due_at_idx on stepquota.paused_tenants (due_at, tenant);

comment on table stepquota.workflow_runs is 'Host table: one execution of a workflow.';
comment on column stepquota.workflow_runs.tenant is 'The tenant.';
comment on column stepquota.workflow_runs.run_id is 'The run''s key, as text.';
comment on column stepquota.workflow_runs.workflow is 'Name of the workflow.';
comment on column stepquota.workflow_runs.runtime is 'The program family that executes it.';
comment on column stepquota.workflow_runs.status is 'RUNNING, WAITING, SUCCEEDED, FAILED or CANCELED.';
comment on column stepquota.workflow_runs.node_path is 'Where the run stands: the path last started, or the one it was paused at.';
comment on column stepquota.workflow_runs.ledger_month is 'The month it was registered in, which is the ledger partition of all its attempts.';
comment on column stepquota.workflow_runs.error is 'What it failed with.';
comment on column stepquota.workflow_runs.registered_at is 'When it was registered.';
comment on column stepquota.workflow_runs.ended_at is 'When it ended.';

comment on table stepquota.workflow_run_steps is
  'Host table, the ledger: one row a counted step attempt, partitioned by the month its run was registered in.';
comment on column stepquota.workflow_run_steps.tenant is 'The tenant.';
comment on column stepquota.workflow_run_steps.run_id is 'The run.';
comment on column stepquota.workflow_run_steps.node_path is 'One visit of one node, with the iteration of every loop around it.';
comment on column stepquota.workflow_run_steps.attempt is 'The try, from 1.';
comment on column stepquota.workflow_run_steps.ledger_month is 'The month its run was registered in.';
comment on column stepquota.workflow_run_steps.step_id is 'The attempt''s id.';
comment on column stepquota.workflow_run_steps.step_type is
  'What kind of step. forEach, loop, parallel, event, human, time, timeout and retry contain or await others; all else works.';
comment on column stepquota.workflow_run_steps.status is 'STARTED, SUCCEEDED, FAILED, RETRY_SCHEDULED or CANCELED.';
comment on column stepquota.workflow_run_steps.period_start is 'The period it was counted in; nothing derives it again.';
comment on column stepquota.workflow_run_steps.error is 'What it failed with.';
comment on column stepquota.workflow_run_steps.started_at is 'When it started, and was counted.';
comment on column stepquota.workflow_run_steps.finished_at is 'When it finished.';

comment on table stepquota.workflow_run_waits is 'Host table: why runs are WAITING.';
comment on column stepquota.workflow_run_waits.tenant is 'The tenant.';
comment on column stepquota.workflow_run_waits.wait_id is 'The wait''s id.';
comment on column stepquota.workflow_run_waits.run_id is 'The run.';
comment on column stepquota.workflow_run_waits.node_path is 'The node that waits; of a quota wait the first that was refused.';
comment on column stepquota.workflow_run_waits.node_paths is 'All nodes that wait here: refused branches of one run share its quota wait.';
comment on column stepquota.workflow_run_waits.attempt is 'The node''s latest attempt when the wait was opened; 0 if none.';
comment on column stepquota.workflow_run_waits.wait_type is 'event, retry, human, timeout, time or quota.';
comment on column stepquota.workflow_run_waits.status is 'WAITING, RESOLVED or CANCELED.';
comment on column stepquota.workflow_run_waits.reason is 'Why a quota wait was opened: quota or tenant_suspended; NULL for other types.';
comment on column stepquota.workflow_run_waits.due_at is 'When it resolves by itself; NULL is never.';
comment on column stepquota.workflow_run_waits.queued_at is 'The run''s place in its tenant''s queue; kept when it is paused again without having started.';
comment on column stepquota.workflow_run_waits.created_at is 'When it was opened.';
comment on column stepquota.workflow_run_waits.resolved_at is 'When it was resolved or cancelled.';
comment on column stepquota.workflow_run_waits.payload is 'What it was opened with, then what it was resolved with.';

comment on table stepquota.workflow_run_logs is 'Host table: what was done to runs from outside: resumed, cancelled, waits closed.';
comment on column stepquota.workflow_run_logs.tenant is 'The tenant.';
comment on column stepquota.workflow_run_logs.log_id is 'Number of the entry.';
comment on column stepquota.workflow_run_logs.run_id is 'The run.';
comment on column stepquota.workflow_run_logs.level is 'debug, info, warning or error.';
comment on column stepquota.workflow_run_logs.message is 'What happened.';
comment on column stepquota.workflow_run_logs.details is 'The circumstances.';
comment on column stepquota.workflow_run_logs.logged_at is 'When.';

comment on table stepquota.workflow_run_resumptions is
  'The outbox: runs to go on with. A runtime claims, acknowledges, and re-enters the paths.';
comment on column stepquota.workflow_run_resumptions.tenant is 'The tenant.';
comment on column stepquota.workflow_run_resumptions.resumption_id is 'The resumption''s id.';
comment on column stepquota.workflow_run_resumptions.run_id is 'The run.';
comment on column stepquota.workflow_run_resumptions.runtime is 'The runtime that may claim it.';
comment on column stepquota.workflow_run_resumptions.wait_id is 'The wait that was resolved.';
comment on column stepquota.workflow_run_resumptions.wait_type is 'Its type.';
comment on column stepquota.workflow_run_resumptions.node_paths is 'The paths to re-enter.';
comment on column stepquota.workflow_run_resumptions.unentered_paths is 'Those not re-entered yet; each holds back one unit for a while.';
comment on column stepquota.workflow_run_resumptions.status is 'OPEN is delivered until it is ACKNOWLEDGED; CANCELED when its run ended.';
comment on column stepquota.workflow_run_resumptions.delivery is 'Number of the latest delivery; NULL before the first.';
comment on column stepquota.workflow_run_resumptions.deliveries is 'Numbers of all deliveries: an earlier one may not act any more.';
comment on column stepquota.workflow_run_resumptions.worker is 'Who claimed it last.';
comment on column stepquota.workflow_run_resumptions.leased_until is 'Until when nobody else may claim it.';
comment on column stepquota.workflow_run_resumptions.created_at is 'When the run was resumed.';
comment on column stepquota.workflow_run_resumptions.closed_at is 'When it was acknowledged or cancelled.';
comment on sequence stepquota.workflow_run_deliveries is 'Numbers of deliveries.';

comment on table stepquota.paused_tenants is 'Tenants with open quota waits, and when each can next go on by itself.';
comment on column stepquota.paused_tenants.tenant is 'The tenant.';
comment on column stepquota.paused_tenants.due_at is 'When the scan looks at it: the period''s end, or at once when capacity was raised.';
comment on column stepquota.paused_tenants.paused_at is 'Since when it has had an open quota wait.';
$stepquota_0005_runs_and_ledger$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('57eb6ff207e9a218ab30d64da3b9ec3617770a08a391bf914bac2b57f3a65622', 'stepquota_0005_runs_and_ledger',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '57eb6ff207e9a218ab30d64da3b9ec3617770a08a391bf914bac2b57f3a65622', 'stepquota_0005_runs_and_ledger',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- migrations/stepquota_0006_events_and_scans.sql

do $apply_once$
begin
  if exists (
    select from stepquota_migrations._stepquota_migration m
    where m.migration_hash = '5e3b9307f96cf8559db46ce8450c33d1017dc9fc1688dfd2128201d77bad57af'
  ) then
    return;
  end if;
  execute $stepquota_0006_events_and_scans$
-- What is recorded: audit and alerts, the scan's runs, and the scheduler's jobs.

create table if not exists stepquota.quota_events (
  tenant text not null default '',
  event_id bigint generated always as identity,
  event_type text not null,
  level text not null,
  run_id text,
  details jsonb not null default '{}',
  created_at timestamptz not null,
  constraint quota_events_pkey primary key (tenant, event_id),
  constraint quota_events_event_type_is_named check (event_type ~ '^[a-z_]+$'),
  constraint quota_events_level_is_known check (level in ('info', 'warning', 'error')),
  constraint quota_events_details_is_object check (jsonb_typeof(details) = 'object')
);

create table if not exists stepquota.resume_scans (
  scan_id bigint generated always as identity,
  started_at timestamptz not null,
  finished_at timestamptz,
  tenants_seen integer not null default 0,
  runs_resumed integer not null default 0,
  skipped jsonb not null default '{}',
  errors jsonb not null default '[]',
  constraint resume_scans_pkey primary key (scan_id)
);

create table if not exists stepquota.scheduler_jobs (
  job_name text not null,
  schedule text not null,
  command text not null,
  scheduled_by text not null,
  scheduled_at timestamptz not null,
  constraint scheduler_jobs_pkey primary key (job_name)
);

-- When the set-based look for inputs edited by hand was last taken; one row.
create table if not exists stepquota.scan_state (
  only_row boolean not null default true,
  inputs_compared_at timestamptz,
  constraint scan_state_pkey primary key (only_row),
  constraint scan_state_is_one_row check (only_row)
);

insert into stepquota.scan_state (only_row) values (true) on conflict (only_row) do nothing;

comment on table stepquota.quota_events is
  'Audit and alerts: everything worth knowing but the single reservation. An empty tenant means the whole installation.';
comment on column stepquota.quota_events.tenant is 'The tenant; empty for what concerns all.';
comment on column stepquota.quota_events.event_id is 'Number of the event.';
comment on column stepquota.quota_events.event_type is 'What happened; docs/operations.md lists the types.';
comment on column stepquota.quota_events.level is 'info, warning or error.';
comment on column stepquota.quota_events.run_id is 'The run, where it is about one.';
comment on column stepquota.quota_events.details is 'The circumstances, by type.';
comment on column stepquota.quota_events.created_at is 'When.';

comment on table stepquota.resume_scans is 'One row a run of resume_scan.';
comment on column stepquota.resume_scans.scan_id is 'Number of the scan.';
comment on column stepquota.resume_scans.started_at is 'When it started.';
comment on column stepquota.resume_scans.finished_at is 'When it finished; NULL is running or died.';
comment on column stepquota.resume_scans.tenants_seen is 'How many due tenants it looked at, each once.';
comment on column stepquota.resume_scans.runs_resumed is 'How many resumptions it handed out.';
comment on column stepquota.resume_scans.skipped is 'How many tenants it skipped, by reason.';
comment on column stepquota.resume_scans.errors is 'What went wrong at single tenants, with SQLSTATE, message, detail, hint and context.';

comment on table stepquota.scheduler_jobs is 'What enable_cron scheduled.';
comment on column stepquota.scheduler_jobs.job_name is 'The pg_cron job''s name.';
comment on column stepquota.scheduler_jobs.schedule is 'Its schedule.';
comment on column stepquota.scheduler_jobs.command is 'Its command.';
comment on column stepquota.scheduler_jobs.scheduled_by is 'The role it runs as.';
comment on column stepquota.scheduler_jobs.scheduled_at is 'When it was last scheduled.';

comment on table stepquota.scan_state is 'One row: what the scan remembers.';
comment on column stepquota.scan_state.only_row is 'Always true: the key of the one row.';
comment on column stepquota.scan_state.inputs_compared_at is 'When it last looked for inputs edited by hand.';
$stepquota_0006_events_and_scans$;
  insert into stepquota_migrations._stepquota_migration
    (migration_hash, migration_id, applied_at_utc)
  values
    ('5e3b9307f96cf8559db46ce8450c33d1017dc9fc1688dfd2128201d77bad57af', 'stepquota_0006_events_and_scans',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into stepquota_migrations._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '5e3b9307f96cf8559db46ce8450c33d1017dc9fc1688dfd2128201d77bad57af', 'stepquota_0006_events_and_scans',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;

-- sql/version.sql

-- Which release the functions are of.

create or replace function stepquota.version()
returns text
language sql
immutable
as $version$
  select '0.1.0'::text;
$version$;

comment on function stepquota.version() is
  'The release that the installed functions are of, as major.minor.patch.';

-- sql/clock.sql

-- The one clock. Every public function reads it once into a variable, so that all it decides is of
-- one moment, and because Citus refuses a volatile function inside UPDATE, ON CONFLICT or CASE.

create or replace function stepquota._now()
returns timestamptz
language plpgsql
volatile
as $_now$
declare
  v_test_time text := current_setting('stepquota.now', true);
begin
  if v_test_time is null or v_test_time = '' then
    return clock_timestamp();
  end if;
  -- Anybody may set the setting, so it counts only where the owner has allowed it.
  if exists (select 1 from stepquota.policy p where p.allow_test_clock) then
    return v_test_time::timestamptz;
  end if;
  return clock_timestamp();
end;
$_now$;

-- Moments in sentences: UTC, to the second, without depending on the session's settings.
create or replace function stepquota._format_moment(p_moment timestamptz)
returns text
language sql
immutable
as $_format_moment$
  select to_char(p_moment at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC';
$_format_moment$;

comment on function stepquota._now() is
  'The present moment: the database''s clock, or the setting stepquota.now where policy.allow_test_clock is on.';
comment on function stepquota._format_moment(timestamptz) is 'A moment for a sentence, in UTC.';

-- sql/checks.sql

-- Arguments that cannot be meant. What is refused here has written nothing yet.

-- Every granted function calls this before anything else: tenants are keys of every table.
-- Raises WQ001.
create or replace function stepquota._check_tenant(p_tenant text)
returns void
language plpgsql
stable
as $_check_tenant$
begin
  if p_tenant is null or p_tenant = '' or octet_length(p_tenant) > 255 then
    perform stepquota._refuse_argument('p_tenant', p_tenant, 'a text of 1 to 255 bytes',
      'Pass the tenant''s key as text, for instance $1::text for a uuid or an integer.');
  end if;
end;
$_check_tenant$;

-- Keys longer than these would not fit an index entry of the ledger. Raises WQ001.
create or replace function stepquota._check_run_id(p_run_id text)
returns void
language plpgsql
stable
as $_check_run_id$
begin
  if p_run_id is null or p_run_id = '' or octet_length(p_run_id) > 255 then
    perform stepquota._refuse_argument('p_run_id', p_run_id, 'a text of 1 to 255 bytes',
      'Pass the run''s key as text.');
  end if;
end;
$_check_run_id$;

-- Raises WQ001.
create or replace function stepquota._check_node_path(p_node_path text)
returns void
language plpgsql
stable
as $_check_node_path$
begin
  if p_node_path is null or p_node_path = '' or octet_length(p_node_path) > 1800 then
    perform stepquota._refuse_argument('p_node_path', p_node_path, 'a text of 1 to 1800 bytes',
      'Pass the path of the visit, with the iteration of every loop around it, for instance root.steps[1].');
  end if;
end;
$_check_node_path$;

-- A short name: a worker, a runtime, a tier. Raises WQ001.
create or replace function stepquota._check_name(p_parameter text, p_value text)
returns void
language plpgsql
stable
as $_check_name$
begin
  if p_value is null or p_value = '' or octet_length(p_value) > 255 then
    perform stepquota._refuse_argument(p_parameter, p_value, 'a text of 1 to 255 bytes', 'Pass a short name.');
  end if;
end;
$_check_name$;

-- Raises WQ001.
create or replace function stepquota._check_one_of(p_parameter text, p_value text, p_allowed text[])
returns void
language plpgsql
stable
as $_check_one_of$
begin
  if p_value is null or p_value <> all (p_allowed) then
    perform stepquota._refuse_argument(p_parameter, p_value, 'one of ' || array_to_string(p_allowed, ', '),
      'Words are compared exactly, upper and lower case included.');
  end if;
end;
$_check_one_of$;

-- The one place that words this error. Always raises WQ001; long values are cut, they may be megabytes.
create or replace function stepquota._refuse_argument(p_parameter text, p_value text, p_expected text, p_hint text)
returns void
language plpgsql
stable
as $_refuse_argument$
begin
  raise exception using
    errcode = 'WQ001',
    message = format('%s must be %s', p_parameter, p_expected),
    detail = case
      when p_value is null then format('%s is NULL.', p_parameter)
      when octet_length(p_value) > 120
        then format('%s is %L..., %s bytes long.', p_parameter, left(p_value, 40), octet_length(p_value))
      else format('%s is %L.', p_parameter, p_value)
    end,
    hint = p_hint;
end;
$_refuse_argument$;

comment on function stepquota._check_tenant(text) is 'Raises WQ001 unless the text can be a tenant.';
comment on function stepquota._check_run_id(text) is 'Raises WQ001 unless the text can be a run id.';
comment on function stepquota._check_node_path(text) is 'Raises WQ001 unless the text can be a node path.';
comment on function stepquota._check_name(text, text) is 'Raises WQ001 unless the text can be a short name.';
comment on function stepquota._check_one_of(text, text, text[]) is 'Raises WQ001 unless the word is one of the allowed.';
comment on function stepquota._refuse_argument(text, text, text, text) is 'Raises WQ001 for an argument.';

-- sql/events.sql

-- quota_events: the audit and the alerts.

create or replace function stepquota._record_event(
  p_tenant text, p_event_type text, p_level text, p_run_id text, p_details jsonb, p_now timestamptz)
returns void
language sql
volatile
as $_record_event$
  insert into stepquota.quota_events (tenant, event_type, level, run_id, details, created_at)
  values (p_tenant, p_event_type, p_level, p_run_id, p_details, p_now);
$_record_event$;

-- Records an event that is wanted once a period. The mark is on the tenant's quota row and is set by
-- SKIP LOCKED: nobody waits for an alert. If the row is busy nothing is recorded now; the next one
-- who sees the same, or the scan, records it. Answers whether it was recorded or had been before.
-- Locks: the quota row, without waiting.
create or replace function stepquota._record_event_once(
  p_tenant text, p_period_start timestamptz, p_event_type text, p_level text, p_run_id text,
  p_details jsonb, p_now timestamptz)
returns boolean
language plpgsql
volatile
as $_record_event_once$
declare
  v_reported text[];
begin
  -- A plain read first: after the first time this is all that happens.
  if exists (
    select 1 from stepquota.workflow_step_quotas q
     where q.tenant = p_tenant and q.reported_period_start = p_period_start and p_event_type = any (q.reported)
  ) then
    return true;
  end if;
  select case when q.reported_period_start = p_period_start then q.reported else '{}' end
    into v_reported
    from stepquota.workflow_step_quotas q
   where q.tenant = p_tenant
     for no key update skip locked;
  if not found then
    return false;
  end if;
  if p_event_type = any (v_reported) then
    return true;
  end if;
  update stepquota.workflow_step_quotas
     set reported_period_start = p_period_start, reported = v_reported || p_event_type
   where tenant = p_tenant;
  perform stepquota._record_event(p_tenant, p_event_type, p_level, p_run_id, p_details, p_now);
  return true;
end;
$_record_event_once$;

comment on function stepquota._record_event(text, text, text, text, jsonb, timestamptz) is 'Adds a row to quota_events.';
comment on function stepquota._record_event_once(text, timestamptz, text, text, text, jsonb, timestamptz) is
  'Adds a row to quota_events unless the tenant''s period has one of that type; never waits.';

-- sql/host.sql

-- The only statements that touch the host tables: tenants, workflow_runs, workflow_run_steps,
-- workflow_run_waits, workflow_run_logs. An application that has such tables already gets a file like
-- this one made for its own; everything else goes through these functions. Each is one statement by
-- primary key (or by an index named here), and decides nothing.
--
-- Those that every step goes through are PL/pgSQL: up to PostgreSQL 17 a function in SQL that cannot be
-- inlined is planned again in every transaction.

-- tenants ------------------------------------------------------------------------------------------

create or replace function stepquota._host_find_tenant(p_tenant text)
returns stepquota.tenants
language plpgsql
stable
as $_host_find_tenant$
declare
  v_tenant stepquota.tenants;
begin
  select t.* into v_tenant from stepquota.tenants t where t.tenant = p_tenant;
  return v_tenant;
end;
$_host_find_tenant$;

create or replace function stepquota._host_set_tenant_plan(p_tenant text, p_plan text, p_now timestamptz)
returns void
language sql
volatile
as $_host_set_tenant_plan$
  insert into stepquota.tenants (tenant, plan, created_at) values (p_tenant, p_plan, p_now)
  on conflict (tenant) do update set plan = excluded.plan;
$_host_set_tenant_plan$;

-- workflow_runs ------------------------------------------------------------------------------------

create or replace function stepquota._host_find_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language sql
stable
as $_host_find_run$
  select r.* from stepquota.workflow_runs r where r.tenant = p_tenant and r.run_id = p_run_id;
$_host_find_run$;

-- Waits for the run's lock. All that changes a run, its steps, waits and resumptions holds it.
create or replace function stepquota._host_lock_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_host_lock_run$
declare
  v_run stepquota.workflow_runs;
begin
  select r.* into v_run from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id
     for no key update;
  return v_run;
end;
$_host_lock_run$;

-- The same for who already holds the tenant's quota row and so must not wait for a run.
create or replace function stepquota._host_lock_run_if_free(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language sql
volatile
as $_host_lock_run_if_free$
  select r.* from stepquota.workflow_runs r
   where r.tenant = p_tenant and r.run_id = p_run_id
     for no key update skip locked;
$_host_lock_run_if_free$;

-- NULL if the run is there already.
create or replace function stepquota._host_insert_run(
  p_tenant text, p_run_id text, p_workflow text, p_runtime text, p_ledger_month date, p_now timestamptz)
returns stepquota.workflow_runs
language sql
volatile
as $_host_insert_run$
  insert into stepquota.workflow_runs (tenant, run_id, workflow, runtime, status, ledger_month, registered_at)
  values (p_tenant, p_run_id, p_workflow, p_runtime, 'RUNNING', p_ledger_month, p_now)
  on conflict (tenant, run_id) do nothing
  returning workflow_runs.*;
$_host_insert_run$;

create or replace function stepquota._host_set_run(
  p_tenant text, p_run_id text, p_status text, p_node_path text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_host_set_run$
declare
  v_run stepquota.workflow_runs;
begin
  update stepquota.workflow_runs
     set status = p_status, node_path = p_node_path
   where tenant = p_tenant and run_id = p_run_id
  returning workflow_runs.* into v_run;
  return v_run;
end;
$_host_set_run$;

create or replace function stepquota._host_end_run(
  p_tenant text, p_run_id text, p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_runs
language sql
volatile
as $_host_end_run$
  update stepquota.workflow_runs
     set status = p_status, error = p_error, ended_at = p_now
   where tenant = p_tenant and run_id = p_run_id
  returning workflow_runs.*;
$_host_end_run$;

-- workflow_run_steps -------------------------------------------------------------------------------

create or replace function stepquota._host_find_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date)
returns stepquota.workflow_run_steps
language plpgsql
stable
as $_host_find_step$
declare
  v_step stepquota.workflow_run_steps;
begin
  select s.* into v_step from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.run_id = p_run_id and s.node_path = p_node_path
     and s.attempt = p_attempt and s.ledger_month = p_ledger_month;
  return v_step;
end;
$_host_find_step$;

create or replace function stepquota._host_insert_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date,
  p_step_id uuid, p_step_type text, p_period_start timestamptz, p_now timestamptz)
returns void
language plpgsql
volatile
as $_host_insert_step$
begin
  insert into stepquota.workflow_run_steps
    (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, status, period_start, started_at)
  values (p_tenant, p_run_id, p_node_path, p_attempt, p_ledger_month, p_step_id, p_step_type, 'STARTED',
    p_period_start, p_now);
end;
$_host_insert_step$;

create or replace function stepquota._host_finish_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_ledger_month date,
  p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_run_steps
language sql
volatile
as $_host_finish_step$
  update stepquota.workflow_run_steps
     set status = p_status, error = p_error, finished_at = p_now
   where tenant = p_tenant and run_id = p_run_id and node_path = p_node_path
     and attempt = p_attempt and ledger_month = p_ledger_month
  returning workflow_run_steps.*;
$_host_finish_step$;

create or replace function stepquota._host_cancel_started_steps(
  p_tenant text, p_run_id text, p_ledger_month date, p_now timestamptz)
returns void
language sql
volatile
as $_host_cancel_started_steps$
  update stepquota.workflow_run_steps
     set status = 'CANCELED', finished_at = p_now
   where tenant = p_tenant and run_id = p_run_id and ledger_month = p_ledger_month and status = 'STARTED';
$_host_cancel_started_steps$;

create or replace function stepquota._host_find_latest_attempt(
  p_tenant text, p_run_id text, p_node_path text, p_ledger_month date)
returns integer
language sql
stable
as $_host_find_latest_attempt$
  select max(s.attempt) from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.run_id = p_run_id and s.node_path = p_node_path
     and s.ledger_month = p_ledger_month;
$_host_find_latest_attempt$;

-- Whether any of the run's branches is at work: a started attempt of a step that does something itself
-- and does not wait. Steps that contain or await others are started for as long as those last.
create or replace function stepquota._host_has_working_step(p_tenant text, p_run_id text, p_ledger_month date)
returns boolean
language sql
stable
as $_host_has_working_step$
  select exists (
    select 1 from stepquota.workflow_run_steps s
     where s.tenant = p_tenant and s.run_id = p_run_id and s.ledger_month = p_ledger_month
       and s.status = 'STARTED'
       and s.step_type not in ('forEach', 'loop', 'parallel', 'event', 'human', 'time', 'timeout', 'retry')
       and not exists (
         select 1 from stepquota.workflow_run_waits w
          where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING'
            and s.node_path = any (w.node_paths)));
$_host_has_working_step$;

create or replace function stepquota._host_count_steps(p_tenant text, p_period_start timestamptz)
returns bigint
language sql
stable
as $_host_count_steps$
  select count(*) from stepquota.workflow_run_steps s
   where s.tenant = p_tenant and s.period_start = p_period_start;
$_host_count_steps$;

-- Every tenant's count of every period, for verify_all().
create or replace function stepquota._host_count_all_steps()
returns table (tenant text, period_start timestamptz, step_count bigint)
language sql
stable
as $_host_count_all_steps$
  select s.tenant, s.period_start, count(*)
    from stepquota.workflow_run_steps s
   group by s.tenant, s.period_start;
$_host_count_all_steps$;

-- workflow_run_waits -------------------------------------------------------------------------------

create or replace function stepquota._host_find_wait(p_tenant text, p_wait_id uuid)
returns stepquota.workflow_run_waits
language sql
stable
as $_host_find_wait$
  select w.* from stepquota.workflow_run_waits w where w.tenant = p_tenant and w.wait_id = p_wait_id;
$_host_find_wait$;

-- By workflow_run_waits_one_open_quota_wait_a_run.
create or replace function stepquota._host_find_quota_wait(p_tenant text, p_run_id text)
returns stepquota.workflow_run_waits
language plpgsql
stable
as $_host_find_quota_wait$
declare
  v_wait stepquota.workflow_run_waits;
begin
  select w.* into v_wait from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.run_id = p_run_id and w.wait_type = 'quota' and w.status = 'WAITING';
  return v_wait;
end;
$_host_find_quota_wait$;

-- By workflow_run_waits_one_wait_a_visit.
create or replace function stepquota._host_find_visit_wait(
  p_tenant text, p_run_id text, p_node_path text, p_wait_type text, p_attempt integer)
returns stepquota.workflow_run_waits
language sql
stable
as $_host_find_visit_wait$
  select w.* from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.run_id = p_run_id and w.node_path = p_node_path
     and w.wait_type = p_wait_type and w.attempt = p_attempt and w.wait_type <> 'quota';
$_host_find_visit_wait$;

create or replace function stepquota._host_has_open_wait(p_tenant text, p_run_id text)
returns boolean
language sql
stable
as $_host_has_open_wait$
  select exists (
    select 1 from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.run_id = p_run_id and w.status = 'WAITING');
$_host_has_open_wait$;

create or replace function stepquota._host_insert_wait(
  p_tenant text, p_wait_id uuid, p_run_id text, p_node_path text, p_attempt integer, p_wait_type text,
  p_reason text, p_due_at timestamptz, p_queued_at timestamptz, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language sql
volatile
as $_host_insert_wait$
  insert into stepquota.workflow_run_waits
    (tenant, wait_id, run_id, node_path, node_paths, attempt, wait_type, status, reason, due_at, queued_at,
     created_at, payload)
  values (p_tenant, p_wait_id, p_run_id, p_node_path, array[p_node_path], p_attempt, p_wait_type, 'WAITING',
    p_reason, p_due_at, p_queued_at, p_now, p_payload)
  returning workflow_run_waits.*;
$_host_insert_wait$;

create or replace function stepquota._host_set_wait_paths(p_tenant text, p_wait_id uuid, p_node_paths text[])
returns void
language sql
volatile
as $_host_set_wait_paths$
  update stepquota.workflow_run_waits set node_paths = p_node_paths
   where tenant = p_tenant and wait_id = p_wait_id;
$_host_set_wait_paths$;

-- A NULL payload leaves the one it was opened with.
create or replace function stepquota._host_close_wait(
  p_tenant text, p_wait_id uuid, p_status text, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language sql
volatile
as $_host_close_wait$
  update stepquota.workflow_run_waits
     set status = p_status, resolved_at = p_now, payload = coalesce(p_payload, payload)
   where tenant = p_tenant and wait_id = p_wait_id and status = 'WAITING'
  returning workflow_run_waits.*;
$_host_close_wait$;

create or replace function stepquota._host_cancel_open_waits(p_tenant text, p_run_id text, p_now timestamptz)
returns void
language sql
volatile
as $_host_cancel_open_waits$
  update stepquota.workflow_run_waits set status = 'CANCELED', resolved_at = p_now
   where tenant = p_tenant and run_id = p_run_id and status = 'WAITING';
$_host_cancel_open_waits$;

-- A tenant's queue, oldest place first, by workflow_run_waits_quota_queue_idx.
create or replace function stepquota._host_list_quota_queue(p_tenant text)
returns setof stepquota.workflow_run_waits
language sql
stable
as $_host_list_quota_queue$
  select w.* from stepquota.workflow_run_waits w
   where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING'
   order by w.queued_at, w.wait_id;
$_host_list_quota_queue$;

create or replace function stepquota._host_has_quota_queue(p_tenant text)
returns boolean
language sql
stable
as $_host_has_quota_queue$
  select exists (
    select 1 from stepquota.workflow_run_waits w
     where w.tenant = p_tenant and w.wait_type = 'quota' and w.status = 'WAITING');
$_host_has_quota_queue$;

-- Tenants that have open quota waits, found by hopping over the queue index from tenant to tenant, so
-- that the cost follows the tenants and not their waits.
create or replace function stepquota._host_list_queued_tenants()
returns setof text
language sql
stable
as $_host_list_queued_tenants$
  with recursive hop (tenant) as (
    (select w.tenant from stepquota.workflow_run_waits w
      where w.wait_type = 'quota' and w.status = 'WAITING'
      order by w.tenant limit 1)
    union all
    select (select w.tenant from stepquota.workflow_run_waits w
             where w.wait_type = 'quota' and w.status = 'WAITING' and w.tenant > h.tenant
             order by w.tenant limit 1)
      from hop h
     where h.tenant is not null
  )
  select h.tenant from hop h where h.tenant is not null;
$_host_list_queued_tenants$;

-- Waits that resolve by themselves, by workflow_run_waits_due_idx.
create or replace function stepquota._host_list_due_waits(p_now timestamptz, p_limit integer)
returns setof stepquota.workflow_run_waits
language sql
stable
as $_host_list_due_waits$
  select w.* from stepquota.workflow_run_waits w
   where w.status = 'WAITING' and w.due_at <= p_now and w.wait_type <> 'quota'
   order by w.due_at, w.tenant, w.wait_id
   limit p_limit;
$_host_list_due_waits$;

-- workflow_run_logs --------------------------------------------------------------------------------

create or replace function stepquota._host_add_log(
  p_tenant text, p_run_id text, p_level text, p_message text, p_details jsonb, p_now timestamptz)
returns void
language sql
volatile
as $_host_add_log$
  insert into stepquota.workflow_run_logs (tenant, run_id, level, message, details, logged_at)
  values (p_tenant, p_run_id, p_level, p_message, p_details, p_now);
$_host_add_log$;

comment on function stepquota._host_find_tenant(text) is 'Host: the tenant''s row.';
comment on function stepquota._host_set_tenant_plan(text, text, timestamptz) is 'Host: sets the plan, making the tenant if needed.';
comment on function stepquota._host_find_run(text, text) is 'Host: the run, not locked.';
comment on function stepquota._host_lock_run(text, text) is 'Host: the run, locked, after waiting for it.';
comment on function stepquota._host_lock_run_if_free(text, text) is 'Host: the run, locked, or NULL if somebody else has it.';
comment on function stepquota._host_insert_run(text, text, text, text, date, timestamptz) is 'Host: makes the run; NULL if it exists.';
comment on function stepquota._host_set_run(text, text, text, text) is 'Host: sets status and node path of a run that goes on.';
comment on function stepquota._host_end_run(text, text, text, jsonb, timestamptz) is 'Host: ends the run.';
comment on function stepquota._host_find_step(text, text, text, integer, date) is 'Host: the attempt''s ledger row.';
comment on function stepquota._host_insert_step(text, text, text, integer, date, uuid, text, timestamptz, timestamptz) is 'Host: the ledger row of an attempt that starts.';
comment on function stepquota._host_finish_step(text, text, text, integer, date, text, jsonb, timestamptz) is 'Host: finishes an attempt.';
comment on function stepquota._host_cancel_started_steps(text, text, date, timestamptz) is 'Host: cancels the attempts that are still started.';
comment on function stepquota._host_find_latest_attempt(text, text, text, date) is 'Host: the greatest attempt of a path; NULL if none.';
comment on function stepquota._host_has_working_step(text, text, date) is 'Host: whether a branch of the run is at work.';
comment on function stepquota._host_count_steps(text, timestamptz) is 'Host: the ledger''s count of a period.';
comment on function stepquota._host_count_all_steps() is 'Host: the ledger''s counts of all periods.';
comment on function stepquota._host_find_wait(text, uuid) is 'Host: the wait.';
comment on function stepquota._host_find_quota_wait(text, text) is 'Host: the run''s open quota wait.';
comment on function stepquota._host_find_visit_wait(text, text, text, text, integer) is 'Host: the wait of one attempt at one path, open or closed.';
comment on function stepquota._host_has_open_wait(text, text) is 'Host: whether the run has any open wait.';
comment on function stepquota._host_insert_wait(text, uuid, text, text, integer, text, text, timestamptz, timestamptz, jsonb, timestamptz) is 'Host: opens a wait.';
comment on function stepquota._host_set_wait_paths(text, uuid, text[]) is 'Host: sets which paths wait.';
comment on function stepquota._host_close_wait(text, uuid, text, jsonb, timestamptz) is 'Host: closes an open wait.';
comment on function stepquota._host_cancel_open_waits(text, text, timestamptz) is 'Host: cancels all open waits of a run.';
comment on function stepquota._host_list_quota_queue(text) is 'Host: the tenant''s open quota waits, oldest place first.';
comment on function stepquota._host_has_quota_queue(text) is 'Host: whether the tenant has an open quota wait.';
comment on function stepquota._host_list_queued_tenants() is 'Host: tenants with open quota waits.';
comment on function stepquota._host_list_due_waits(timestamptz, integer) is 'Host: waits whose time has come.';
comment on function stepquota._host_add_log(text, text, text, text, jsonb, timestamptz) is 'Host: adds a line to the run''s log.';

-- sql/ledger.sql

-- The ledger's partitions. A row's partition is the month its run was registered in: a constant of
-- the run, so the idempotency key stays unique, and a month can be dropped once its runs have ended.

-- Makes the month's partition if it is missing. The table is made and filled with constraints before
-- it is attached: attaching locks the ledger against other DDL only (SHARE UPDATE EXCLUSIVE), while
-- CREATE TABLE ... PARTITION OF would stop every reader and writer.
create or replace function stepquota._make_ledger_partition(p_month date)
returns boolean
language plpgsql
volatile
as $_make_ledger_partition$
declare
  v_name text := 'workflow_run_steps_' || to_char(p_month, 'YYYY_MM');
  v_next_month date := (p_month + interval '1 month')::date;
begin
  if to_regclass('stepquota.' || v_name) is not null then
    return false;
  end if;
  -- Two that find it missing at once: the second waits here for the first and then sees it.
  lock table stepquota.workflow_run_steps in share update exclusive mode;
  if to_regclass('stepquota.' || v_name) is not null then
    return false;
  end if;
  execute format(
    'create table stepquota.%I (like stepquota.workflow_run_steps including defaults including constraints)'
    ' with (fillfactor = 90)', v_name);
  execute format(
    'alter table stepquota.%I add constraint %I check (ledger_month >= %L and ledger_month < %L)',
    v_name, v_name || '_is_of_its_month', p_month, v_next_month);
  execute format(
    'alter table stepquota.workflow_run_steps attach partition stepquota.%I for values from (%L) to (%L)',
    v_name, p_month, v_next_month);
  execute format('comment on table stepquota.%I is %L', v_name,
    'Ledger of the runs registered in ' || to_char(p_month, 'YYYY-MM') || '.');
  return true;
end;
$_make_ledger_partition$;

-- For the scheduler: the present month and those ahead, so that no registration has to make one.
create or replace function stepquota.make_ledger_partitions(p_months_ahead integer default 3)
returns integer
language plpgsql
volatile
-- Definer: makes tables in the owner's name.
security definer
set search_path = pg_catalog, pg_temp
as $make_ledger_partitions$
declare
  v_month date := stepquota._ledger_month(stepquota._now());
  v_made integer := 0;
begin
  if p_months_ahead is null or p_months_ahead not between 0 and 120 then
    perform stepquota._refuse_argument('p_months_ahead', p_months_ahead::text, 'a number of months from 0 to 120',
      'Three months ahead are usual.');
  end if;
  for v_offset in 0 .. p_months_ahead loop
    if stepquota._make_ledger_partition((v_month + v_offset * interval '1 month')::date) then
      v_made := v_made + 1;
    end if;
  end loop;
  return v_made;
end;
$make_ledger_partitions$;

create or replace function stepquota._ledger_month(p_moment timestamptz)
returns date
language sql
immutable
as $_ledger_month$
  select date_trunc('month', p_moment at time zone 'UTC')::date;
$_ledger_month$;

comment on function stepquota._make_ledger_partition(date) is
  'Makes the ledger partition of a month; answers whether it was missing.';
comment on function stepquota.make_ledger_partitions(integer) is
  'Makes the ledger partitions of this month and of the given number of months ahead; answers how many were missing. tick() calls it. WQ001 outside 0 to 120.';
comment on function stepquota._ledger_month(timestamptz) is 'First day of the UTC month of a moment.';

-- The month that runs are registered in now, and three ahead, so that the first registration need not.
do $first_partitions$
begin
  perform stepquota.make_ledger_partitions();
end;
$first_partitions$;

-- sql/limits.sql

-- How a limit is read from metadata, and how billing periods are counted.

-- What a metadata value says: state is absent, limited, unlimited or invalid; step_limit is set when
-- limited. Any white space around, leading zeros and any case of "unlimited" are accepted. At most 18
-- digits, so that it fits a bigint; a JSON number has been turned to its text by ->> before.
create or replace function stepquota._read_step_limit(
  p_value text, p_zero_is_valid boolean, out state text, out step_limit bigint)
language plpgsql
immutable
as $_read_step_limit$
begin
  if p_value is null then
    state := 'absent';
  elsif p_value ~ '^\s*[0-9]{1,18}\s*$' then
    step_limit := regexp_replace(p_value, '\s', '', 'g')::bigint;
    state := 'limited';
    if step_limit = 0 and not p_zero_is_valid then
      state := 'invalid';
      step_limit := null;
    end if;
  elsif p_value ~* '^\s*unlimited\s*$' then
    state := 'unlimited';
  else
    state := 'invalid';
  end if;
end;
$_read_step_limit$;

-- The billing period around a moment, counted from the anchor and never step by step: an anchor on the
-- 31st bills on 28 February and then on 31 March, as Stripe does
-- (https://docs.stripe.com/billing/subscriptions/billing-cycle). All in UTC.
-- NULL if the interval is not one of Stripe's, or the moment lies before the anchor.
create or replace function stepquota._billing_period(
  p_anchor timestamptz, p_interval text, p_interval_count integer, p_moment timestamptz,
  out period_start timestamptz, out period_end timestamptz)
language plpgsql
immutable
as $_billing_period$
declare
  v_anchor timestamp := p_anchor at time zone 'UTC';
  v_moment timestamp := p_moment at time zone 'UTC';
  v_step interval;
  v_steps bigint;
begin
  v_step := case p_interval
    when 'day' then interval '1 day' when 'week' then interval '7 days'
    when 'month' then interval '1 month' when 'year' then interval '12 months'
  end * p_interval_count;
  if v_step is null or v_moment < v_anchor then
    return;
  end if;
  -- A first guess that is never too high by more than one, then exact by comparison.
  v_steps := case
    when p_interval in ('day', 'week') then floor(extract(epoch from v_moment - v_anchor) / extract(epoch from v_step))
    else ((extract(year from v_moment) - extract(year from v_anchor)) * 12
          + extract(month from v_moment) - extract(month from v_anchor))::bigint
         / (extract(year from v_step) * 12 + extract(month from v_step))::bigint
  end;
  if v_anchor + v_steps * v_step > v_moment then
    v_steps := v_steps - 1;
  end if;
  period_start := (v_anchor + v_steps * v_step) at time zone 'UTC';
  period_end := (v_anchor + (v_steps + 1) * v_step) at time zone 'UTC';
end;
$_billing_period$;

-- The UTC calendar month around a moment.
create or replace function stepquota._calendar_month(
  p_moment timestamptz, out period_start timestamptz, out period_end timestamptz)
language sql
immutable
as $_calendar_month$
  select m.first_day at time zone 'UTC', (m.first_day + interval '1 month') at time zone 'UTC'
    from (select date_trunc('month', p_moment at time zone 'UTC') as first_day) m;
$_calendar_month$;

comment on function stepquota._read_step_limit(text, boolean) is 'Reads a workflow_step_limit value.';
comment on function stepquota._billing_period(timestamptz, text, integer, timestamptz) is
  'The billing period around a moment, counted from the anchor.';
comment on function stepquota._calendar_month(timestamptz) is 'The UTC calendar month around a moment.';

-- sql/resolution.sql

-- Which period and limit a tenant has: the rules of choice, and their explanation.
--
-- There is one query that looks at every item of every subscription of the tenant and says what it
-- would give and why it does not qualify: _list_quota_candidates. The quota is its first row;
-- explain_workflow_step_quota prints them all.

-- The tenant of a subscription: the application's own mapping of the customer, then the customer's
-- metadata, then the subscription's. Never an e-mail, never a client reference: those can be forged.
create or replace function stepquota._list_tenant_subscriptions(p_tenant text)
returns setof stepquota.stripe_subscriptions
language sql
stable
as $_list_tenant_subscriptions$
  with customers as (
    select m.customer_id from stepquota.stripe_customer_tenants m where m.tenant = p_tenant
    union all
    select c.id from stepquota.stripe_customers c
     where c.metadata_tenant = p_tenant
       and not exists (select 1 from stepquota.stripe_customer_tenants m where m.customer_id = c.id)
  )
  select s.* from stepquota.stripe_subscriptions s
   where s.deleted_at is null and s.customer_id in (select c.customer_id from customers c)
  union all
  select s.* from stepquota.stripe_subscriptions s
   where s.deleted_at is null and s.metadata_tenant = p_tenant
     and not exists (select 1 from stepquota.stripe_customer_tenants m where m.customer_id = s.customer_id)
     and not exists (
       select 1 from stepquota.stripe_customers c
        where c.id = s.customer_id and c.metadata_tenant is not null);
$_list_tenant_subscriptions$;

-- Every subscription item of the tenant, best first, those that do not qualify last with the reason.
--
-- Statuses: trialing, active, past_due, unpaid. A period that contains the moment goes before one that
-- is only presumed because its renewal has not arrived. Then the status, a valid limit, the newest
-- start, the id. Inside a subscription: the item with a valid limit, the greatest, the oldest item,
-- the id; without any limit the earliest end.
create or replace function stepquota._list_quota_candidates(p_tenant text, p_now timestamptz)
returns table (
  candidate_rank bigint,
  item_rank bigint,
  subscription_id text,
  subscription_status text,
  item_id text,
  price_id text,
  product_id text,
  period_state text,
  period_start timestamptz,
  period_end timestamptz,
  valid_until timestamptz,
  price_limit_text text,
  price_limit_state text,
  product_limit_text text,
  product_limit_state text,
  has_valid_limit boolean,
  step_limit bigint,
  limit_source text,
  starts_later_at timestamptz,
  renewal_is_overdue boolean,
  disqualified_because text)
language sql
stable
as $_list_quota_candidates$
  with items as (
    select s.id as subscription_id, s.status, s.ended_at, s.cancel_at,
           i.id as item_id, i.created_at as item_created_at, i.price_id, p.product_id,
           i.current_period_start as item_start, i.current_period_end as item_end,
           array_position(array['trialing', 'active', 'past_due', 'unpaid'], s.status) as status_rank,
           p.metadata ->> 'workflow_step_limit' as price_limit_text,
           r.metadata ->> 'workflow_step_limit' as product_limit_text,
           price_limit.state as price_limit_state,
           product_limit.state as product_limit_state,
           -- The first valid source: the price, then the product.
           case when price_limit.state in ('limited', 'unlimited') then price_limit.state
                else product_limit.state end as limit_state,
           case when price_limit.state in ('limited', 'unlimited') then price_limit.step_limit
                else product_limit.step_limit end as step_limit,
           case when price_limit.state in ('limited', 'unlimited') then 'stripe_price_metadata'
                else 'stripe_product_metadata' end as limit_place,
           coalesce(s.cancel_at_period_end or s.cancel_at <= i.current_period_end, false) as is_due_to_end,
           i.current_period_end
             + case when s.trial_end = i.current_period_end then policy.trial_renewal_grace
                    else policy.renewal_grace end as presumed_until,
           -- Without an anchor or a known interval, another period as long as the last.
           greatest(coalesce(renewal.period_start, i.current_period_end), i.current_period_end) as renewal_start,
           coalesce(renewal.period_end, i.current_period_end + (i.current_period_end - i.current_period_start))
             as renewal_end
      from stepquota._list_tenant_subscriptions(p_tenant) s
      join stepquota.stripe_subscription_items i on i.subscription_id = s.id and i.deleted_at is null
      left join stepquota.stripe_prices p on p.id = i.price_id and p.deleted_at is null
      left join stepquota.stripe_products r on r.id = p.product_id and r.deleted_at is null
     cross join stepquota.policy policy
     cross join lateral stepquota._read_step_limit(p.metadata ->> 'workflow_step_limit', policy.zero_limit_blocks)
             as price_limit
     cross join lateral stepquota._read_step_limit(r.metadata ->> 'workflow_step_limit', policy.zero_limit_blocks)
             as product_limit
     cross join lateral stepquota._billing_period(
             coalesce(s.billing_cycle_anchor, i.current_period_end), p.recurring_interval,
             p.recurring_interval_count, p_now) as renewal
  ),
  judged as (
    select i.*,
           i.limit_state in ('limited', 'unlimited') as has_valid_limit,
           case
             when i.status_rank is null then format('status %s does not qualify', i.status)
             when i.ended_at <= p_now then format('it ended at %s', stepquota._format_moment(i.ended_at))
             when i.cancel_at <= p_now then format('it was due to end at %s', stepquota._format_moment(i.cancel_at))
             when i.item_start is null or i.item_end is null then 'a bound of its period is missing'
             when p_now < i.item_start
               then format('its period starts only at %s', stepquota._format_moment(i.item_start))
             when p_now < i.item_end then null
             when i.is_due_to_end
               then format('its period ended at %s and it is due to end with it', stepquota._format_moment(i.item_end))
             when p_now >= i.presumed_until
               then format('its period ended at %s and no renewal has arrived until %s',
                 stepquota._format_moment(i.item_end), stepquota._format_moment(i.presumed_until))
             when p_now < i.renewal_end then null
             else format('its period ended at %s and the next one by its length too',
                 stepquota._format_moment(i.item_end))
           end as disqualified_because
      from items i
  ),
  placed as (
    select j.*,
           case when j.disqualified_because is not null then null
                when p_now < j.item_end then 'current' else 'presumed' end as period_state,
           case when j.disqualified_because is null then
             row_number() over (
               partition by j.subscription_id, j.disqualified_because is null
               order by j.has_valid_limit desc,
                        j.has_valid_limit and j.step_limit is null desc,
                        case when j.has_valid_limit then j.step_limit end desc nulls last,
                        case when not j.has_valid_limit then j.item_end end,
                        j.item_created_at nulls last, j.item_id collate "C")
           end as item_rank
      from judged j
  )
  select row_number() over (
           order by p.item_rank nulls last, (p.period_state = 'current') desc nulls last, p.status_rank nulls last,
                    p.has_valid_limit desc,
                    case when p.period_state = 'presumed' then p.renewal_start else p.item_start end desc nulls last,
                    p.subscription_id collate "C", p.item_id collate "C"),
         p.item_rank, p.subscription_id, p.status, p.item_id, p.price_id, p.product_id, p.period_state,
         case when p.period_state = 'presumed' then p.renewal_start else p.item_start end,
         case when p.period_state = 'presumed' then p.renewal_end else p.item_end end,
         least(
           case when p.period_state = 'presumed' then least(p.renewal_end, p.presumed_until) else p.item_end end,
           p.cancel_at, p.ended_at),
         p.price_limit_text, p.price_limit_state, p.product_limit_text, p.product_limit_state,
         p.has_valid_limit, p.step_limit,
         case when p.limit_state = 'unlimited' then 'unlimited_metadata' else p.limit_place end,
         case when p.status_rank is not null and p_now < p.item_start then p.item_start end,
         coalesce(p.status_rank is not null and not p.is_due_to_end and p_now >= p.item_end
                  and p.disqualified_because is not null, false),
         p.disqualified_because
    from placed p
   order by 1;
$_list_quota_candidates$;

-- The tenant's quota as its inputs say now, stored nowhere, and what is worth reporting about it:
-- findings is an array of {event_type, level, details}. Takes no locks.
create or replace function stepquota._resolve_quota(p_tenant text, p_now timestamptz)
returns stepquota._resolved_quota
language plpgsql
stable
as $_resolve_quota$
declare
  v_policy stepquota.policy;
  v_plan text;
  v_tier stepquota.tiers;
  v_quota stepquota.workflow_step_quotas;
  v_findings jsonb := '[]'::jsonb;
  v_winner record;
  v_has_winner boolean;
  v_next_start timestamptz;
  v_overdue text;
begin
  select p.* into v_policy from stepquota.policy p;
  v_plan := (stepquota._host_find_tenant(p_tenant)).plan;
  select t.* into v_tier from stepquota.tiers t where t.tier = v_plan;
  if not found then
    select t.* into v_tier from stepquota.tiers t where t.tier = v_policy.default_tier;
    v_findings := v_findings || jsonb_build_object('event_type', 'plan_unknown', 'level', 'warning',
      'details', jsonb_build_object('plan', v_plan, 'default_tier', v_policy.default_tier));
  end if;

  select c.* into v_winner
    from stepquota._list_quota_candidates(p_tenant, p_now) c
   where c.disqualified_because is null
   order by c.candidate_rank limit 1;
  v_has_winner := found;
  select min(c.starts_later_at), min(c.subscription_id) filter (where c.renewal_is_overdue)
    into v_next_start, v_overdue
    from stepquota._list_quota_candidates(p_tenant, p_now) c;

  v_quota.tenant := p_tenant;
  v_quota.tier := v_tier.tier;
  v_quota.granted_units := 0;
  if v_has_winner then
    v_quota.period_start := v_winner.period_start;
    v_quota.period_end := v_winner.period_end;
    v_quota.period_source := case v_winner.period_state
      when 'presumed' then 'presumed_renewal' else 'stripe_subscription' end;
    v_quota.stripe_subscription_id := v_winner.subscription_id;
    v_quota.stripe_subscription_item_id := v_winner.item_id;
    v_quota.valid_until := least(v_winner.valid_until, v_next_start);
    if v_winner.has_valid_limit then
      v_quota.step_limit := v_winner.step_limit;
      v_quota.limit_source := v_winner.limit_source;
    end if;
    if v_winner.price_limit_state = 'invalid' then
      v_findings := v_findings || stepquota._describe_invalid_limit('price', v_winner.price_id, v_winner.price_limit_text);
    end if;
    if v_winner.product_limit_state = 'invalid' and v_winner.price_limit_state in ('absent', 'invalid') then
      v_findings := v_findings
        || stepquota._describe_invalid_limit('product', v_winner.product_id, v_winner.product_limit_text);
    end if;
  else
    select m.period_start, m.period_end into v_quota.period_start, v_quota.period_end
      from stepquota._calendar_month(p_now) m;
    v_quota.period_source := 'fallback_calendar';
    v_quota.valid_until := least(v_quota.period_end, v_next_start);
    v_findings := v_findings || jsonb_build_object('event_type', 'fallback_period', 'level', 'info',
      'details', jsonb_build_object('period_start', v_quota.period_start, 'period_end', v_quota.period_end,
        'subscriptions_looked_at', (select count(distinct c.subscription_id)
                                      from stepquota._list_quota_candidates(p_tenant, p_now) c)));
    if v_overdue is not null then
      v_findings := v_findings || jsonb_build_object('event_type', 'renewal_overdue', 'level', 'error',
        'details', jsonb_build_object('stripe_subscription_id', v_overdue));
    end if;
  end if;
  if v_quota.limit_source is null then
    v_quota.step_limit := v_tier.step_limit;
    v_quota.limit_source := 'tier_default';
  end if;
  v_quota.effective_limit := v_quota.step_limit + v_quota.granted_units;
  v_quota.epoch := v_policy.epoch;
  v_quota.refreshed_at := p_now;
  v_quota.version := 1;
  v_quota.reported := '{}';
  return (v_quota, v_findings)::stepquota._resolved_quota;
end;
$_resolve_quota$;

create or replace function stepquota._describe_invalid_limit(p_object_type text, p_object_id text, p_value text)
returns jsonb
language sql
immutable
as $_describe_invalid_limit$
  select jsonb_build_object('event_type', 'limit_metadata_invalid', 'level', 'warning',
    'details', jsonb_build_object('object_type', p_object_type, 'object_id', p_object_id,
      'key', 'workflow_step_limit', 'value', p_value,
      'expected', 'a whole number above 0, or unlimited'));
$_describe_invalid_limit$;

-- "Why am I blocked": every object that was looked at, in the order of preference, with the verdict in
-- words. Looks at the inputs of this moment and stores nothing.
-- SQLSTATEs: WQ001.
create or replace function stepquota.explain_workflow_step_quota(p_tenant text)
returns table ("position" integer, object_type text, object_id text, verdict text, reason text, details jsonb)
language plpgsql
stable
-- Definer: callers have no right to read the mirror itself.
security definer
set search_path = pg_catalog, pg_temp
as $explain_workflow_step_quota$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_resolved stepquota._resolved_quota;
  v_quota stepquota.workflow_step_quotas;
  v_candidate record;
  v_plan text;
  v_used numeric;
  v_first boolean := true;
begin
  perform stepquota._check_tenant(p_tenant);
  v_resolved := stepquota._resolve_quota(p_tenant, v_now);
  v_quota := v_resolved.quota;
  v_plan := (stepquota._host_find_tenant(p_tenant)).plan;
  "position" := 0;

  for v_candidate in select c.* from stepquota._list_quota_candidates(p_tenant, v_now) c loop
    -- The item, for its period.
    "position" := "position" + 1;
    object_type := 'subscription_item';
    object_id := v_candidate.item_id;
    verdict := case when v_candidate.disqualified_because is null and v_first then 'won' else 'lost' end;
    reason := case
      when v_candidate.disqualified_because is not null
        then format('Subscription %s: %s.', v_candidate.subscription_id, v_candidate.disqualified_because)
      when v_first and v_candidate.period_state = 'presumed'
        then format('Subscription %s (%s) gives the period: the renewal is presumed from the billing anchor until Stripe''s word arrives.',
          v_candidate.subscription_id, v_candidate.subscription_status)
      when v_first
        then format('Subscription %s (%s) gives the period.', v_candidate.subscription_id, v_candidate.subscription_status)
      when v_candidate.item_rank > 1
        then format('Another item of subscription %s is preferred: a valid limit, the greatest, the oldest item.',
          v_candidate.subscription_id)
      else format('Subscription %s (%s) qualifies, but another is preferred: a period that is running, the status, a valid limit, the newest start.',
          v_candidate.subscription_id, v_candidate.subscription_status)
    end;
    details := jsonb_build_object('stripe_subscription_id', v_candidate.subscription_id,
      'status', v_candidate.subscription_status, 'price', v_candidate.price_id, 'product', v_candidate.product_id,
      'period_start', v_candidate.period_start, 'period_end', v_candidate.period_end);
    return next;

    -- Its price and its product, for the limit.
    "position" := "position" + 1;
    object_type := 'price';
    object_id := v_candidate.price_id;
    verdict := case
      when verdict = 'won' and v_candidate.price_limit_state in ('limited', 'unlimited') then 'won' else 'lost' end;
    reason := stepquota._explain_limit('price', v_candidate.price_limit_state, v_candidate.price_limit_text,
      verdict = 'won', v_first and v_candidate.disqualified_because is null);
    details := jsonb_build_object('workflow_step_limit', v_candidate.price_limit_text);
    return next;
    "position" := "position" + 1;
    object_type := 'product';
    object_id := v_candidate.product_id;
    verdict := case
      when v_first and v_candidate.disqualified_because is null
       and v_candidate.price_limit_state not in ('limited', 'unlimited')
       and v_candidate.product_limit_state in ('limited', 'unlimited') then 'won' else 'lost' end;
    reason := stepquota._explain_limit('product', v_candidate.product_limit_state, v_candidate.product_limit_text,
      verdict = 'won', v_first and v_candidate.disqualified_because is null);
    details := jsonb_build_object('workflow_step_limit', v_candidate.product_limit_text);
    return next;
    v_first := false;
  end loop;

  "position" := "position" + 1;
  object_type := 'calendar_month';
  object_id := null;
  verdict := case when v_quota.period_source = 'fallback_calendar' then 'won' else 'lost' end;
  reason := case when verdict = 'won'
    then 'No subscription qualifies, so the UTC calendar month is the period.'
    else 'A subscription gives the period, so the UTC calendar month is not used.' end;
  details := (select jsonb_build_object('period_start', m.period_start, 'period_end', m.period_end)
                from stepquota._calendar_month(v_now) m);
  return next;

  "position" := "position" + 1;
  object_type := 'tier';
  object_id := v_quota.tier;
  verdict := case when v_quota.limit_source = 'tier_default' then 'won' else 'lost' end;
  reason := case
      when v_plan is distinct from v_quota.tier and v_plan is null
        then format('The tenant has no plan, so the default tier %s stands in. ', v_quota.tier)
      when v_plan is distinct from v_quota.tier
        then format('The tenant''s plan %s is no tier, so the default tier %s stands in. ', quote_literal(v_plan), v_quota.tier)
      else '' end
    || case when verdict = 'won' then 'Neither price nor product of the period has a valid limit, so the tier''s default applies.'
            else 'The limit comes from Stripe''s metadata, so the tier''s default is not used.' end;
  details := (select jsonb_build_object('plan', v_plan, 'step_limit', t.step_limit)
                from stepquota.tiers t where t.tier = v_quota.tier);
  return next;

  select sum(l.used_count) into v_used
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = v_quota.period_start;
  "position" := "position" + 1;
  object_type := 'usage';
  object_id := p_tenant;
  verdict := 'info';
  reason := case
    when v_quota.effective_limit is null
      then format('%s steps used, unlimited, in the period until %s.', coalesce(v_used, 0),
        stepquota._format_moment(v_quota.period_end))
    else format('%s of %s steps used, %s left until %s.', coalesce(v_used, 0), v_quota.effective_limit,
        greatest(v_quota.effective_limit - coalesce(v_used, 0), 0), stepquota._format_moment(v_quota.period_end))
  end;
  details := jsonb_build_object('used_count', coalesce(v_used, 0), 'effective_limit', v_quota.effective_limit,
    'period_start', v_quota.period_start, 'period_end', v_quota.period_end,
    'period_source', v_quota.period_source, 'limit_source', v_quota.limit_source);
  return next;
end;
$explain_workflow_step_quota$;

create or replace function stepquota._explain_limit(
  p_object_type text, p_state text, p_text text, p_won boolean, p_item_won boolean)
returns text
language sql
immutable
as $_explain_limit$
  select case
    when p_won then format('Its workflow_step_limit %s is the limit.', quote_literal(p_text))
    when p_state = 'absent' then format('The %s has no workflow_step_limit.', p_object_type)
    when p_state = 'invalid'
      then format('Its workflow_step_limit %s is not valid (a whole number above 0, or unlimited), so the next source is used.',
        quote_literal(p_text))
    when not p_item_won then format('Its workflow_step_limit %s is not used, since its item does not give the period.',
        quote_literal(p_text))
    else format('Its workflow_step_limit %s is not used: the price''s goes first.', quote_literal(p_text))
  end;
$_explain_limit$;

comment on function stepquota._list_tenant_subscriptions(text) is 'The subscriptions that are a tenant''s.';
comment on function stepquota._list_quota_candidates(text, timestamptz) is
  'Every subscription item of a tenant, best first, with what it would give or why it does not qualify.';
comment on function stepquota._resolve_quota(text, timestamptz) is
  'A tenant''s quota as its inputs say now, and what is worth reporting about it.';
comment on function stepquota._describe_invalid_limit(text, text, text) is 'The finding about a limit that cannot be read.';
comment on function stepquota._explain_limit(text, text, text, boolean, boolean) is 'A sentence about one source of a limit.';
comment on function stepquota.explain_workflow_step_quota(text) is
  'Why a tenant has the quota it has. One row an object, in order of preference: position, object_type (subscription_item, price, product, calendar_month, tier, usage), object_id, verdict (won, lost, info), reason in words, details. WQ001 for a tenant that cannot be one.';

-- sql/quotas.sql

-- The stored quota: one row a tenant, so that a reservation reads no Stripe table. Its row is also the
-- gate: whoever changes a limit holds it FOR NO KEY UPDATE, whoever pauses a run holds it FOR SHARE.

-- Brings the stored quota in line with its inputs, makes the period and its lane, gives the lane the
-- limit, records what is worth recording, and marks the tenant due if there is more capacity now.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE (or there is none yet); then the lane.
create or replace function stepquota._refresh_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_refresh_quota$
declare
  v_resolved stepquota._resolved_quota;
  v_old stepquota.workflow_step_quotas;
  v_new stepquota.workflow_step_quotas;
  v_is_new_period boolean;
  v_is_known_period boolean := true;
  v_limit_before bigint;
  v_is_raised boolean;
  v_finding jsonb;
  v_mark text;
begin
  v_resolved := stepquota._resolve_quota(p_tenant, p_now);
  v_new := v_resolved.quota;
  select q.* into v_old from stepquota.workflow_step_quotas q where q.tenant = p_tenant;
  if not found then
    insert into stepquota.workflow_step_quotas values (v_new.*) on conflict (tenant) do nothing;
    if not found then
      -- Somebody else made the row meanwhile; take their lock like everybody, and look at the inputs
      -- again: what was resolved before may be older than what they stored.
      select q.* into v_old from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
      v_resolved := stepquota._resolve_quota(p_tenant, p_now);
      v_new := v_resolved.quota;
    end if;
  end if;

  v_is_new_period := v_old.tenant is null or v_old.period_start <> v_new.period_start;
  v_is_raised := v_is_new_period
    or v_old.effective_limit is not null
       and (v_new.effective_limit is null or v_new.effective_limit > v_old.effective_limit);
  if v_old.tenant is not null then
    v_new.version := v_old.version
      + case when (v_old.period_start, v_old.period_end, v_old.effective_limit, v_old.period_source, v_old.limit_source)
                  is distinct from
                  (v_new.period_start, v_new.period_end, v_new.effective_limit, v_new.period_source, v_new.limit_source)
             then 1 else 0 end;
    v_new.reported_period_start := v_old.reported_period_start;
    v_new.reported := v_old.reported;
  end if;

  v_limit_before := v_old.effective_limit;
  if v_is_new_period then
    -- A period that was left and is come back to has its lane still, with the limit of then.
    select l.allowance into v_limit_before from stepquota.workflow_step_usage_lanes l
     where l.tenant = p_tenant and l.period_start = v_new.period_start and l.lane = 0;
    v_is_known_period := found;
  end if;
  if v_is_new_period or v_old.effective_limit is distinct from v_new.effective_limit then
    perform stepquota._give_limit_to_lane(p_tenant, v_new.period_start, v_new.effective_limit);
  end if;
  if v_is_new_period or (v_old.period_end, v_old.period_source) <> (v_new.period_end, v_new.period_source) then
    insert into stepquota.workflow_step_usage_periods (tenant, period_start, period_end, period_source, created_at)
    values (p_tenant, v_new.period_start, v_new.period_end, v_new.period_source, p_now)
    on conflict (tenant, period_start) do update
      set period_end = excluded.period_end, period_source = excluded.period_source;
  end if;

  if v_is_known_period and v_limit_before is distinct from v_new.effective_limit then
    perform stepquota._record_event(p_tenant, 'limit_changed', 'info', null, jsonb_build_object(
      'period_start', v_new.period_start, 'from', v_limit_before, 'to', v_new.effective_limit,
      'from_source', v_old.limit_source, 'to_source', v_new.limit_source), p_now);
  end if;
  for v_finding in select f.value from jsonb_array_elements(v_resolved.findings) f loop
    if v_new.reported_period_start is distinct from v_new.period_start then
      v_new.reported_period_start := v_new.period_start;
      v_new.reported := '{}';
    end if;
    -- Price and product may both be invalid: each is reported.
    v_mark := concat_ws(' ', v_finding ->> 'event_type', v_finding #>> '{details,object_id}');
    if v_mark <> all (v_new.reported) then
      v_new.reported := v_new.reported || v_mark;
      perform stepquota._record_event(p_tenant, v_finding ->> 'event_type', v_finding ->> 'level', null,
        (v_finding -> 'details') || jsonb_build_object('period_start', v_new.period_start), p_now);
    end if;
  end loop;

  update stepquota.workflow_step_quotas q
     set tier = v_new.tier, step_limit = v_new.step_limit, granted_units = v_new.granted_units,
         effective_limit = v_new.effective_limit, limit_source = v_new.limit_source,
         period_start = v_new.period_start, period_end = v_new.period_end, period_source = v_new.period_source,
         stripe_subscription_id = v_new.stripe_subscription_id,
         stripe_subscription_item_id = v_new.stripe_subscription_item_id,
         valid_until = v_new.valid_until, epoch = v_new.epoch, refreshed_at = v_new.refreshed_at,
         version = v_new.version, reported_period_start = v_new.reported_period_start, reported = v_new.reported
   where q.tenant = p_tenant;

  if v_is_raised then
    update stepquota.paused_tenants set due_at = p_now where tenant = p_tenant and due_at > p_now;
  elsif v_old.valid_until is distinct from v_new.valid_until then
    update stepquota.paused_tenants set due_at = least(due_at, v_new.valid_until) where tenant = p_tenant;
  end if;
  return v_new;
end;
$_refresh_quota$;

-- The period's one lane owns the whole limit.
-- Locks: the lane, after the quota row that the caller holds.
create or replace function stepquota._give_limit_to_lane(p_tenant text, p_period_start timestamptz, p_limit bigint)
returns void
language plpgsql
volatile
as $_give_limit_to_lane$
begin
  insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
  values (p_tenant, p_period_start, 0, p_limit)
  on conflict (tenant, period_start, lane) do nothing;
  if not found then
    update stepquota.workflow_step_usage_lanes
       set allowance = p_limit
     where tenant = p_tenant and period_start = p_period_start and lane = 0
       and allowance is distinct from p_limit;
  end if;
end;
$_give_limit_to_lane$;

-- The quota row, locked against everybody who pauses runs or changes the limit, and up to date. For
-- who changes inputs, resumes or removes a paused tenant.
-- Locks: the quota row FOR NO KEY UPDATE, waiting; the lane if the limit changed.
create or replace function stepquota._lock_and_refresh_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_lock_and_refresh_quota$
begin
  perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update;
  return stepquota._refresh_quota(p_tenant, p_now);
end;
$_lock_and_refresh_quota$;

-- The quota to decide by: the stored one if it can be trusted; else refreshed, if its row is free;
-- else as stored while it is valid by the clock, or resolved without storing it.
-- is_trusted is false where somebody else holds the row: such a quota may allow, but not deny.
-- Locks: the quota row without waiting, only when it must be refreshed.
create or replace function stepquota._find_quota(p_tenant text, p_now timestamptz)
returns stepquota._found_quota
language plpgsql
volatile
as $_find_quota$
declare
  v_quota stepquota.workflow_step_quotas;
  v_epoch bigint;
  v_staleness interval;
  v_is_stored boolean;
  v_resolved stepquota._resolved_quota;
begin
  select p.epoch, p.staleness into v_epoch, v_staleness from stepquota.policy p;
  select q.* into v_quota from stepquota.workflow_step_quotas q where q.tenant = p_tenant;
  v_is_stored := found;
  if v_is_stored and v_quota.epoch = v_epoch
     and p_now >= v_quota.period_start and p_now < v_quota.valid_until
     -- It may have been refreshed a moment after p_now was read: that is no reason to do it again.
     and p_now - v_quota.refreshed_at > -v_staleness and p_now - v_quota.refreshed_at < v_staleness then
    return (v_quota, true)::stepquota._found_quota;
  end if;
  if v_is_stored then
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update skip locked;
  end if;
  if not v_is_stored or found then
    return (stepquota._refresh_quota(p_tenant, p_now), true)::stepquota._found_quota;
  end if;
  if p_now >= v_quota.period_start and p_now < v_quota.valid_until then
    return (v_quota, false)::stepquota._found_quota;
  end if;
  v_resolved := stepquota._resolve_quota(p_tenant, p_now);
  v_resolved.quota.version := v_quota.version;
  v_quota := v_resolved.quota;
  insert into stepquota.workflow_step_usage_lanes (tenant, period_start, lane, allowance)
  values (p_tenant, v_quota.period_start, 0, v_quota.effective_limit)
  on conflict (tenant, period_start, lane) do nothing;
  return (v_quota, false)::stepquota._found_quota;
end;
$_find_quota$;

-- Quota and usage as the answer that callers get.
create or replace function stepquota._describe_quota(
  p_quota stepquota.workflow_step_quotas, p_used_count bigint, p_allowed boolean)
returns stepquota.workflow_step_quota
language sql
immutable
as $_describe_quota$
  -- Not greatest(): it passes over the NULL of unlimited.
  select (p_allowed, p_used_count, p_quota.effective_limit,
          case when p_used_count > p_quota.effective_limit then 0 else p_quota.effective_limit - p_used_count end,
          p_quota.period_start, p_quota.period_end, p_quota.period_source, p_quota.limit_source, p_quota.tier,
          p_quota.granted_units, p_quota.stripe_subscription_id)::stepquota.workflow_step_quota;
$_describe_quota$;

-- The units used in a period.
create or replace function stepquota._sum_usage(p_tenant text, p_period_start timestamptz)
returns bigint
language sql
stable
as $_sum_usage$
  select coalesce(sum(l.used_count), 0)::bigint
    from stepquota.workflow_step_usage_lanes l
   where l.tenant = p_tenant and l.period_start = p_period_start;
$_sum_usage$;

-- The summary without reserving. Refreshes the stored quota if it is stale and its row is free.
-- Locks: the quota row without waiting, only when it must be refreshed. SQLSTATEs: WQ001.
create or replace function stepquota.resolve_workflow_step_quota(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_workflow_step_quota$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quotas;
begin
  perform stepquota._check_tenant(p_tenant);
  v_quota := (stepquota._find_quota(p_tenant, v_now)).quota;
  return stepquota._summarize_quota(v_quota);
end;
$resolve_workflow_step_quota$;

create or replace function stepquota._summarize_quota(p_quota stepquota.workflow_step_quotas)
returns stepquota.workflow_step_quota
language plpgsql
stable
as $_summarize_quota$
declare
  v_used_count bigint := stepquota._sum_usage(p_quota.tenant, p_quota.period_start);
begin
  return stepquota._describe_quota(p_quota, v_used_count,
    p_quota.effective_limit is null or v_used_count < p_quota.effective_limit);
end;
$_summarize_quota$;

comment on function stepquota._refresh_quota(text, timestamptz) is 'Brings the stored quota in line with its inputs.';
comment on function stepquota._give_limit_to_lane(text, timestamptz, bigint) is 'Gives a period''s lane the limit, making it if needed.';
comment on function stepquota._lock_and_refresh_quota(text, timestamptz) is 'Locks the quota row and brings it in line with its inputs.';
comment on function stepquota._find_quota(text, timestamptz) is 'The quota to decide by, and whether it may deny.';
comment on function stepquota._describe_quota(stepquota.workflow_step_quotas, bigint, boolean) is 'Quota and usage as callers get them.';
comment on function stepquota._sum_usage(text, timestamptz) is 'Units used in a period.';
comment on function stepquota._summarize_quota(stepquota.workflow_step_quotas) is 'A quota with what is used of it.';
comment on function stepquota.resolve_workflow_step_quota(text) is
  'The tenant''s period, limit and usage, reserving nothing. allowed says whether a unit is free. Figures are exact. WQ001 for a tenant that cannot be one.';

-- sql/reservation.sql

-- The reservation: one unit, exactly, in the caller's transaction.

-- Takes one unit or says why not. The guarded UPDATE of the lane is what makes the limit exact: of any
-- number of callers, those whose UPDATE finds room commit, and no others.
--
-- A denial is a plain read of quota row and lane in one statement. It counts only if the lane is used
-- up there and the quota has not changed since it was chosen; else the decision starts over.
--
-- p_found is the quota to decide by, as _find_quota answered it or as the caller holds it locked.
-- p_unledgered_units is 1 for a caller that keeps its own ledger, 0 when a ledger row goes with it.
-- Locks: the lane, waiting for who has it; the quota row only if somebody else is changing it. A lane
-- that does not serve after the wait would stay locked, so the attempt is rolled back.
create or replace function stepquota._take_unit(
  p_tenant text, p_found stepquota._found_quota, p_unledgered_units integer, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_take_unit$
declare
  v_found stepquota._found_quota := p_found;
  v_quota stepquota.workflow_step_quotas := p_found.quota;
  v_version bigint;
  v_used_count bigint;
  v_is_exhausted boolean;
  v_allowed boolean;
begin
  loop
    begin
      update stepquota.workflow_step_usage_lanes l
         set used_count = l.used_count + 1, unledgered_count = l.unledgered_count + p_unledgered_units
       where l.tenant = p_tenant and l.period_start = v_quota.period_start and l.lane = 0
         and (l.allowance is null or l.used_count < l.allowance)
      returning l.used_count into v_used_count;
      if found then
        perform stepquota._debug_reservation(v_quota, v_used_count);
        v_allowed := true;
        exit;
      end if;
      raise exception using errcode = 'WQ000', message = 'the lane does not serve';
    exception when sqlstate 'WQ000' then
      null;  -- never leaves this function: it gives the lane's lock back
    end;

    select q.version, l.used_count, l.used_count >= l.allowance
      into v_version, v_used_count, v_is_exhausted
      from stepquota.workflow_step_quotas q
      left join stepquota.workflow_step_usage_lanes l
        on l.tenant = q.tenant and l.period_start = v_quota.period_start and l.lane = 0
     where q.tenant = p_tenant;
    if v_is_exhausted and v_version = v_quota.version then
      if v_found.is_trusted then
        v_allowed := false;
        exit;
      end if;
      -- Somebody is changing this quota: nothing may be denied from what it was before.
      v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
      v_found.is_trusted := true;
    elsif v_version is distinct from v_quota.version then
      v_found := stepquota._find_quota(p_tenant, p_now);
      v_quota := v_found.quota;
    elsif v_used_count is null then
      -- The lane is gone, by hand or by a restore: without one there would be no end to this loop.
      v_quota := stepquota._lock_and_refresh_quota(p_tenant, p_now);
      perform stepquota._give_limit_to_lane(p_tenant, v_quota.period_start, v_quota.effective_limit);
    end if;
  end loop;
  return stepquota._describe_quota(v_quota, v_used_count, v_allowed);
end;
$_take_unit$;

-- A reservation leaves no row but the counter. Whoever debugs sees one message with all its figures;
-- building it is saved where nobody listens.
create or replace function stepquota._debug_reservation(p_quota stepquota.workflow_step_quotas, p_used_count bigint)
returns void
language plpgsql
stable
as $_debug_reservation$
begin
  if current_setting('client_min_messages') like 'debug%' or current_setting('log_min_messages') like 'debug%' then
    raise debug using
      message = 'workflow step reserved',
      detail = jsonb_build_object('tenant', p_quota.tenant, 'used_count', p_used_count,
        'effective_limit', p_quota.effective_limit, 'period_start', p_quota.period_start,
        'period_end', p_quota.period_end, 'period_source', p_quota.period_source,
        'limit_source', p_quota.limit_source, 'tier', p_quota.tier)::text;
  end if;
end;
$_debug_reservation$;

-- What is recorded when a tenant is denied: the first time a period.
create or replace function stepquota._record_exhaustion(
  p_tenant text, p_quota stepquota.workflow_step_quota, p_run_id text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_exhaustion$
begin
  perform stepquota._record_event_once(p_tenant, p_quota.period_start, 'quota_exhausted', 'warning', p_run_id,
    jsonb_build_object('used_count', p_quota.used_count, 'effective_limit', p_quota.effective_limit,
      'period_start', p_quota.period_start, 'period_end', p_quota.period_end,
      'period_source', p_quota.period_source, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier), p_now);
end;
$_record_exhaustion$;

-- One unit for a caller that keeps its own ledger. A denial is an answer, never an error.
-- Locks: perhaps the quota row without waiting; the lane. SQLSTATEs: WQ001; 55P03 under lock_timeout;
-- 40001 under REPEATABLE READ and SERIALIZABLE when another reservation committed since the snapshot.
create or replace function stepquota.reserve_workflow_step(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reserve_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_quota stepquota.workflow_step_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  v_quota := stepquota._take_unit(p_tenant, stepquota._find_quota(p_tenant, v_now), 1, v_now);
  if not v_quota.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_quota, null, v_now);
  end if;
  return v_quota;
end;
$reserve_workflow_step$;

comment on function stepquota._take_unit(text, stepquota._found_quota, integer, timestamptz) is 'Takes one unit of the tenant''s quota, or says that none is free.';
comment on function stepquota._debug_reservation(stepquota.workflow_step_quotas, bigint) is 'One debug message a reservation.';
comment on function stepquota._record_exhaustion(text, stepquota.workflow_step_quota, text, timestamptz) is 'Records that a tenant was denied, once a period.';
comment on function stepquota.reserve_workflow_step(text) is
  'Takes one step of the tenant''s quota, in the caller''s transaction: rolled back with it. allowed = false is a denial, which is data and no error. For callers that keep their own ledger; others use start_workflow_step. WQ001 for a tenant that cannot be one.';

-- sql/pauses.sql

-- Pausing a run because its tenant may not start a step now, and saying why it is paused.

-- Pauses the run at a path: an open quota wait (or the path joins the one there is), the tenant among
-- the paused ones, and the run WAITING unless another of its branches works. A run that comes back from
-- a resumption without having started keeps its place in the queue.
-- Locks: the caller holds the run, then the quota row FOR SHARE, so that no change of capacity can
-- slip between the denial and this pause. Then only the tenant's paused_tenants row, for its key.
create or replace function stepquota._pause_run(
  p_run stepquota.workflow_runs, p_node_path text, p_reason text, p_due_at timestamptz, p_details jsonb,
  p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_pause_run$
declare
  v_wait stepquota.workflow_run_waits;
  v_queued_at timestamptz;
  v_wait_id uuid;
  v_status text;
begin
  v_wait := stepquota._host_find_quota_wait(p_run.tenant, p_run.run_id);
  v_queued_at := stepquota._enter_resumed_path(p_run.tenant, p_run.run_id, p_node_path, p_now);
  if v_wait.wait_id is not null then
    v_wait_id := v_wait.wait_id;
    if p_node_path <> all (v_wait.node_paths) then
      perform stepquota._host_set_wait_paths(p_run.tenant, v_wait_id, v_wait.node_paths || p_node_path);
    end if;
  else
    v_wait_id := gen_random_uuid();
    perform stepquota._host_insert_wait(p_run.tenant, v_wait_id, p_run.run_id, p_node_path, 0, 'quota', p_reason, null,
      coalesce(v_queued_at, p_now), p_details, p_now);
    perform stepquota._record_event(p_run.tenant, 'run_paused', 'info', p_run.run_id,
      p_details || jsonb_build_object('reason', p_reason, 'node_path', p_node_path, 'wait_id', v_wait_id), p_now);
  end if;
  v_status := case when stepquota._goes_on(p_run) then 'RUNNING' else 'WAITING' end;
  if p_run.status <> v_status or p_run.node_path is distinct from p_node_path then
    perform stepquota._host_set_run(p_run.tenant, p_run.run_id, v_status, p_node_path);
  end if;

  -- The key's lock makes a removal wait for us; under REPEATABLE READ it also finds out a removed row.
  perform 1 from stepquota.paused_tenants t where t.tenant = p_run.tenant for key share;
  if not found then
    insert into stepquota.paused_tenants (tenant, due_at, paused_at) values (p_run.tenant, p_due_at, p_now)
    on conflict (tenant) do nothing;
  end if;
  return v_wait_id;
end;
$_pause_run$;

-- The path starts, or never will: it leaves the open quota wait, which closes when no path is left.
-- Locks: the caller holds the run.
create or replace function stepquota._leave_quota_wait(p_tenant text, p_run_id text, p_node_path text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_leave_quota_wait$
declare
  v_wait stepquota.workflow_run_waits := stepquota._host_find_quota_wait(p_tenant, p_run_id);
begin
  if v_wait.wait_id is null or p_node_path <> all (v_wait.node_paths) then
    return;
  end if;
  if cardinality(v_wait.node_paths) > 1 then
    perform stepquota._host_set_wait_paths(p_tenant, v_wait.wait_id, array_remove(v_wait.node_paths, p_node_path));
  else
    perform stepquota._host_close_wait(p_tenant, v_wait.wait_id, 'RESOLVED', null, p_now);
  end if;
end;
$_leave_quota_wait$;

-- Whether any branch of the run goes on: it works, or was resumed and its runtime is on the way.
create or replace function stepquota._goes_on(p_run stepquota.workflow_runs)
returns boolean
language plpgsql
stable
as $_goes_on$
begin
  return stepquota._host_has_working_step(p_run.tenant, p_run.run_id, p_run.ledger_month)
    or stepquota._has_unentered_resumption(p_run.tenant, p_run.run_id);
end;
$_goes_on$;

-- After a branch has finished its step: a run none of whose branches goes on is WAITING, if anything
-- waits in it. One that is paused by quota stands where it is paused, or nobody could resume it by hand.
-- Locks: the caller holds the run.
create or replace function stepquota._settle_run_status(p_run stepquota.workflow_runs)
returns void
language plpgsql
volatile
as $_settle_run_status$
declare
  v_wait stepquota.workflow_run_waits;
begin
  if p_run.status = 'RUNNING'
     and stepquota._host_has_open_wait(p_run.tenant, p_run.run_id)
     and not stepquota._goes_on(p_run) then
    v_wait := stepquota._host_find_quota_wait(p_run.tenant, p_run.run_id);
    perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'WAITING',
      case when p_run.node_path <> all (v_wait.node_paths) then v_wait.node_paths[1] else p_run.node_path end);
  end if;
end;
$_settle_run_status$;

-- Why a run is paused; no row if it is not. Takes no locks. SQLSTATEs: WQ001, WQ002.
create or replace function stepquota.workflow_run_quota_pause(p_tenant text, p_run_id text)
returns table (
  reason text, period_start timestamptz, period_end timestamptz, used_count bigint, effective_limit bigint,
  period_source text, limit_source text, paused_since timestamptz, wait_id uuid, node_paths text[],
  unblocked_by text, unblocks_at timestamptz)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $workflow_run_quota_pause$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_wait stepquota.workflow_run_waits;
  v_quota stepquota.workflow_step_quota;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._host_find_run(p_tenant, p_run_id);
  if v_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if v_wait.wait_id is null then
    return;
  end if;
  v_quota := stepquota._summarize_quota((stepquota._find_quota(p_tenant, v_now)).quota);
  reason := case when (stepquota._host_find_tenant(p_tenant)).suspended_at is not null
    then 'tenant_suspended' else 'quota' end;
  period_start := v_quota.period_start;
  period_end := v_quota.period_end;
  used_count := v_quota.used_count;
  effective_limit := v_quota.effective_limit;
  period_source := v_quota.period_source;
  limit_source := v_quota.limit_source;
  paused_since := v_wait.created_at;
  wait_id := v_wait.wait_id;
  node_paths := v_wait.node_paths;
  if reason = 'tenant_suspended' then
    unblocked_by := 'lifting the suspension';
  elsif v_quota.allowed then
    unblocked_by := 'the next scan: units are free';
    unblocks_at := v_now;
  else
    unblocked_by := 'a higher limit, or the next period';
    unblocks_at := v_quota.period_end;
  end if;
  return next;
end;
$workflow_run_quota_pause$;

comment on function stepquota._pause_run(stepquota.workflow_runs, text, text, timestamptz, jsonb, timestamptz) is
  'Pauses a run at a path; answers the open wait.';
comment on function stepquota._leave_quota_wait(text, text, text, timestamptz) is 'Takes a path out of the run''s open quota wait.';
comment on function stepquota._goes_on(stepquota.workflow_runs) is 'Whether any branch of a run works or was resumed.';
comment on function stepquota._settle_run_status(stepquota.workflow_runs) is 'Sets a run WAITING when none of its branches goes on.';
comment on function stepquota.workflow_run_quota_pause(text, text) is
  'Why a run is paused: reason (quota, tenant_suspended), the period and its figures of now, paused_since, the wait and its paths, what unblocks it (unblocked_by) and when (unblocks_at; NULL is unknown). No row if it is not paused by quota. WQ001 bad key, WQ002 unknown run.';

-- sql/resumptions.sql

-- The outbox: runs that a runtime should go on with. Delivered until acknowledged or re-entered.

create or replace function stepquota._add_resumption(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_node_paths text[], p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_add_resumption$
declare
  v_resumption_id uuid := gen_random_uuid();
begin
  insert into stepquota.workflow_run_resumptions
    (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths, created_at)
  values (p_run.tenant, v_resumption_id, p_run.run_id, p_run.runtime, p_wait.wait_id, p_wait.wait_type,
    p_node_paths, p_node_paths, p_now);
  return v_resumption_id;
end;
$_add_resumption$;

-- One hint for whoever listens, with a fixed payload: PostgreSQL folds equal ones of a transaction.
-- Only transactions that added a resumption may send it, since NOTIFY makes commits wait for each other.
create or replace function stepquota._notify_resumptions()
returns void
language plpgsql
volatile
as $_notify_resumptions$
begin
  if exists (select 1 from stepquota.policy p where p.notify_resumptions) then
    perform pg_notify('stepquota_resumption', '');
  end if;
end;
$_notify_resumptions$;

-- The runtime is back at a path: it leaves the resumptions of the run, and one without further paths
-- is acknowledged by that. Answers the queue place of the quota wait it came from, if it did.
-- Locks: the caller holds the run; then its resumptions.
create or replace function stepquota._enter_resumed_path(
  p_tenant text, p_run_id text, p_node_path text, p_now timestamptz)
returns timestamptz
language plpgsql
volatile
as $_enter_resumed_path$
declare
  v_resumption record;
  v_queued_at timestamptz;
begin
  for v_resumption in
    select r.resumption_id, r.wait_id, r.wait_type
      from stepquota.workflow_run_resumptions r
     where r.tenant = p_tenant and r.run_id = p_run_id and p_node_path = any (r.unentered_paths)
  loop
    update stepquota.workflow_run_resumptions r
       set unentered_paths = array_remove(r.unentered_paths, p_node_path),
           status = case when cardinality(r.unentered_paths) = 1 and r.status = 'OPEN'
                         then 'ACKNOWLEDGED' else r.status end,
           closed_at = case when cardinality(r.unentered_paths) = 1 and r.status = 'OPEN'
                            then p_now else r.closed_at end
     where r.tenant = p_tenant and r.resumption_id = v_resumption.resumption_id;
    if v_resumption.wait_type = 'quota' then
      v_queued_at := least(v_queued_at, (stepquota._host_find_wait(p_tenant, v_resumption.wait_id)).queued_at);
    end if;
  end loop;
  return v_queued_at;
end;
$_enter_resumed_path$;

-- The run has ended: nothing of it is to be gone on with.
create or replace function stepquota._cancel_resumptions(p_tenant text, p_run_id text, p_now timestamptz)
returns void
language sql
volatile
as $_cancel_resumptions$
  update stepquota.workflow_run_resumptions
     set status = 'CANCELED', closed_at = p_now
   where tenant = p_tenant and run_id = p_run_id and status = 'OPEN';
  update stepquota.workflow_run_resumptions
     set unentered_paths = '{}'
   where tenant = p_tenant and run_id = p_run_id and status = 'ACKNOWLEDGED' and unentered_paths <> '{}';
$_cancel_resumptions$;

create or replace function stepquota._has_unentered_resumption(p_tenant text, p_run_id text)
returns boolean
language sql
stable
as $_has_unentered_resumption$
  select exists (
    select 1 from stepquota.workflow_run_resumptions r
     where r.tenant = p_tenant and r.run_id = p_run_id and r.status <> 'CANCELED' and r.unentered_paths <> '{}');
$_has_unentered_resumption$;

-- Units that are promised: quota resumptions handed out whose paths nobody has re-entered. Old and
-- stuck ones count no more, so that a dead runtime does not starve its tenant.
create or replace function stepquota._count_promised_units(p_tenant text, p_now timestamptz)
returns bigint
language sql
stable
as $_count_promised_units$
  select coalesce(sum(cardinality(r.unentered_paths)), 0)::bigint
    from stepquota.workflow_run_resumptions r, stepquota.policy p
   where r.tenant = p_tenant and r.wait_type = 'quota' and r.status <> 'CANCELED' and r.unentered_paths <> '{}'
     and r.created_at > p_now - p.resumption_counts_for
     and cardinality(r.deliveries) < p.stuck_after_deliveries;
$_count_promised_units$;

-- A worker may act under a delivery only while no newer claim of the same resumption exists; and none
-- comes into being before the worker's transaction ends.
-- Locks: the caller holds the run; then the resumption, waiting. SQLSTATEs: WQ007.
create or replace function stepquota._check_delivery(p_tenant text, p_run_id text, p_delivery bigint)
returns void
language plpgsql
volatile
as $_check_delivery$
declare
  v_newest bigint;
begin
  if p_delivery is null then
    return;
  end if;
  select r.delivery into v_newest
    from stepquota.workflow_run_resumptions r
   where r.tenant = p_tenant and r.run_id = p_run_id and p_delivery = any (r.deliveries)
     for no key update;
  if v_newest is distinct from p_delivery then
    raise exception using
      errcode = 'WQ007',
      message = 'the delivery is not the newest one',
      detail = format('Tenant %L, run %L, delivery %s; the newest delivery of that resumption is %s.',
        p_tenant, p_run_id, p_delivery, coalesce(v_newest::text, 'unknown')),
      hint = 'Another worker has claimed the resumption since: stop working on this run.';
  end if;
end;
$_check_delivery$;

-- Hands resumptions of one runtime to a worker, each to one worker at a time: it has them for the
-- lease. Tenants take turns. Delivered again when the lease ends without an acknowledgement.
-- Locks: resumptions, never waiting, one tenant after the other. SQLSTATEs: WQ001.
create or replace function stepquota.claim_workflow_run_resumptions(
  p_worker text, p_max_runs integer default 100, p_lease interval default '1 minute',
  p_runtime text default 'default', p_tenant text default null)
returns table (
  tenant text, resumption_id uuid, run_id text, node_paths text[], delivery bigint, wait_type text,
  leased_until timestamptz, payload jsonb)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $claim_workflow_run_resumptions$
declare
  v_now timestamptz := stepquota._now();
  v_stuck_after integer;
  v_candidate record;
  v_resumption stepquota.workflow_run_resumptions;
begin
  perform stepquota._check_name('p_worker', p_worker);
  perform stepquota._check_name('p_runtime', p_runtime);
  if p_max_runs is null or p_max_runs not between 1 and 10000 then
    perform stepquota._refuse_argument('p_max_runs', p_max_runs::text, 'a number from 1 to 10000', 'Claim as many runs as you can take on now.');
  end if;
  -- An endless lease would lose the run of a worker that dies.
  if p_lease is null or p_lease <= interval '0' or p_lease > interval '1 day' then
    perform stepquota._refuse_argument('p_lease', p_lease::text, 'an interval above 0, of at most a day', 'A minute is usual.');
  end if;
  if p_tenant is not null then
    perform stepquota._check_tenant(p_tenant);
  end if;
  select p.stuck_after_deliveries into v_stuck_after from stepquota.policy p;

  for v_candidate in
    select c.tenant, c.resumption_id
      from (select r.tenant, r.resumption_id, r.created_at,
                   row_number() over (partition by r.tenant order by r.created_at, r.resumption_id) as turn
              from stepquota.workflow_run_resumptions r
             where r.runtime = p_runtime and r.status = 'OPEN'
               and (p_tenant is null or r.tenant = p_tenant)
               and (r.leased_until is null or r.leased_until <= v_now)) c
     order by c.turn, c.created_at, c.resumption_id
     -- More than asked for, since another worker may have some of them.
     limit p_max_runs * 4
  loop
    exit when p_max_runs = 0;
    select r.* into v_resumption
      from stepquota.workflow_run_resumptions r
     where r.tenant = v_candidate.tenant and r.resumption_id = v_candidate.resumption_id
       and r.status = 'OPEN' and (r.leased_until is null or r.leased_until <= v_now)
       for no key update skip locked;
    continue when not found;
    p_max_runs := p_max_runs - 1;
    tenant := v_resumption.tenant;
    resumption_id := v_resumption.resumption_id;
    run_id := v_resumption.run_id;
    node_paths := v_resumption.unentered_paths;
    delivery := nextval('stepquota.workflow_run_deliveries');
    wait_type := v_resumption.wait_type;
    leased_until := v_now + p_lease;
    payload := (stepquota._host_find_wait(v_resumption.tenant, v_resumption.wait_id)).payload;
    update stepquota.workflow_run_resumptions r
       set delivery = claim_workflow_run_resumptions.delivery,
           deliveries = r.deliveries || claim_workflow_run_resumptions.delivery,
           worker = p_worker,
           leased_until = claim_workflow_run_resumptions.leased_until
     where r.tenant = v_resumption.tenant and r.resumption_id = v_resumption.resumption_id;
    if cardinality(v_resumption.deliveries) + 1 = v_stuck_after then
      perform stepquota._record_event(v_resumption.tenant, 'resumption_stuck', 'error', v_resumption.run_id,
        jsonb_build_object('resumption_id', v_resumption.resumption_id, 'deliveries', v_stuck_after,
          'runtime', p_runtime, 'worker', p_worker, 'node_paths', to_jsonb(node_paths)), v_now);
    end if;
    return next;
  end loop;
end;
$claim_workflow_run_resumptions$;

-- The runtime has stored the hand-over durably: no more deliveries. Re-entering does the same.
-- Locks: the resumption. SQLSTATEs: WQ001, WQ013.
create or replace function stepquota.acknowledge_workflow_run_resumption(p_tenant text, p_resumption_id uuid)
returns boolean
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $acknowledge_workflow_run_resumption$
declare
  v_now timestamptz := stepquota._now();
  v_status text;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_resumption_id is null then
    perform stepquota._refuse_argument('p_resumption_id', null, 'a uuid', 'Pass the resumption_id that was claimed.');
  end if;
  select r.status into v_status
    from stepquota.workflow_run_resumptions r
   where r.tenant = p_tenant and r.resumption_id = p_resumption_id
     for no key update;
  if not found then
    raise exception using
      errcode = 'WQ013',
      message = 'the tenant has no such resumption',
      detail = format('Tenant %L, resumption %L.', p_tenant, p_resumption_id),
      hint = 'Pass tenant and resumption_id as claim_workflow_run_resumptions answered them.';
  end if;
  if v_status <> 'OPEN' then
    return false;
  end if;
  update stepquota.workflow_run_resumptions
     set status = 'ACKNOWLEDGED', closed_at = v_now
   where tenant = p_tenant and resumption_id = p_resumption_id;
  return true;
end;
$acknowledge_workflow_run_resumption$;

comment on function stepquota._add_resumption(stepquota.workflow_runs, stepquota.workflow_run_waits, text[], timestamptz) is 'Adds a resumption to the outbox.';
comment on function stepquota._notify_resumptions() is 'Sends the hint that there are resumptions, where policy wants it.';
comment on function stepquota._enter_resumed_path(text, text, text, timestamptz) is 'Takes a path out of the run''s resumptions.';
comment on function stepquota._cancel_resumptions(text, text, timestamptz) is 'Cancels the resumptions of a run that has ended.';
comment on function stepquota._has_unentered_resumption(text, text) is 'Whether the run was resumed at a path that nobody has re-entered.';
comment on function stepquota._count_promised_units(text, timestamptz) is 'Units promised to resumptions handed out.';
comment on function stepquota._check_delivery(text, text, bigint) is 'Raises WQ007 for a delivery that is not the newest.';
comment on function stepquota.claim_workflow_run_resumptions(text, integer, interval, text, text) is
  'Hands runs to go on with to a worker, for a lease: tenant, resumption_id, run_id, the paths to re-enter (node_paths), delivery (pass it to start and finish), wait_type, leased_until, payload of the wait. p_max_runs 1 to 10000; p_tenant NULL is all tenants. Not acknowledged and not re-entered when the lease ends, they are delivered again. WQ001 bad arguments.';
comment on function stepquota.acknowledge_workflow_run_resumption(text, uuid) is
  'Says that the runtime has stored the hand-over durably; no further delivery. True the first time. Re-entering every path of it does the same. WQ001 bad arguments, WQ013 unknown resumption.';

-- sql/resume.sql

-- Bringing paused runs back: for one tenant, by hand, and at once when its capacity was raised.
-- Resuming consumes nothing: the runtime reserves again when it re-enters the step.

-- The units that can be handed out: those left, less those promised already. NULL is unlimited.
create or replace function stepquota._count_resumable_units(p_quota stepquota.workflow_step_quotas, p_now timestamptz)
returns bigint
language plpgsql
stable
as $_count_resumable_units$
begin
  if p_quota.effective_limit is null then
    return null;
  end if;
  return greatest(p_quota.effective_limit
    - stepquota._sum_usage(p_quota.tenant, p_quota.period_start)
    - stepquota._count_promised_units(p_quota.tenant, p_now), 0);
end;
$_count_resumable_units$;

-- Resumes one run at some of the paths of its quota wait; those that are not handed out go on waiting.
-- Locks: the caller holds the run and the quota row.
create or replace function stepquota._resume_quota_wait(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_max_paths bigint,
  p_by text, p_details jsonb, p_now timestamptz)
returns uuid
language plpgsql
volatile
as $_resume_quota_wait$
declare
  v_paths text[] := p_wait.node_paths;
  v_resumption_id uuid;
begin
  if p_max_paths < cardinality(v_paths) then
    perform stepquota._host_set_wait_paths(p_run.tenant, p_wait.wait_id, v_paths[p_max_paths + 1:]);
    v_paths := v_paths[:p_max_paths];
  else
    perform stepquota._host_close_wait(p_run.tenant, p_wait.wait_id, 'RESOLVED', null, p_now);
  end if;
  perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'RUNNING', p_run.node_path);
  v_resumption_id := stepquota._add_resumption(p_run, p_wait, v_paths, p_now);
  p_details := p_details || jsonb_build_object('by', p_by, 'wait_id', p_wait.wait_id,
    'resumption_id', v_resumption_id, 'node_paths', to_jsonb(v_paths), 'paused_since', p_wait.created_at);
  perform stepquota._host_add_log(p_run.tenant, p_run.run_id, 'info', 'resumed', p_details, p_now);
  perform stepquota._record_event(p_run.tenant, 'run_resumed', 'info', p_run.run_id, p_details, p_now);
  return v_resumption_id;
end;
$_resume_quota_wait$;

-- Resumes what can go on of one tenant, oldest place first, and says when to look again.
-- skipped_because is quota_exhausted, no_capacity, tenant_suspended, or NULL.
-- Locks: the caller holds the quota row FOR NO KEY UPDATE and has refreshed it. Runs without waiting:
-- here quota goes before run, against the usual order.
create or replace function stepquota._resume_tenant(
  p_quota stepquota.workflow_step_quotas, p_max_runs integer, p_by text, p_now timestamptz,
  out runs_resumed integer, out skipped_because text)
language plpgsql
volatile
as $_resume_tenant$
declare
  v_policy stepquota.policy;
  v_capacity bigint;
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
  v_due_at timestamptz;
begin
  runs_resumed := 0;
  select p.* into v_policy from stepquota.policy p;
  v_capacity := stepquota._count_resumable_units(p_quota, p_now);

  if (stepquota._host_find_tenant(p_quota.tenant)).suspended_at is not null then
    skipped_because := 'tenant_suspended';
    v_due_at := p_now + v_policy.staleness;
  else
    for v_wait in select w.* from stepquota._host_list_quota_queue(p_quota.tenant) w loop
      exit when v_capacity <= 0 or runs_resumed >= p_max_runs;
      v_run := stepquota._host_lock_run_if_free(p_quota.tenant, v_wait.run_id);
      continue when v_run.run_id is null;  -- somebody is at it: the tenant stays due
      -- Whoever had the run before us may have closed the wait or changed its paths.
      v_wait := stepquota._host_find_quota_wait(p_quota.tenant, v_run.run_id);
      continue when v_wait.wait_id is null;
      if v_run.status not in ('RUNNING', 'WAITING') then
        perform stepquota._host_close_wait(v_run.tenant, v_wait.wait_id, 'CANCELED', null, p_now);
        perform stepquota._host_add_log(v_run.tenant, v_run.run_id, 'warning', 'quota wait closed: the run had ended',
          jsonb_build_object('wait_id', v_wait.wait_id, 'run_status', v_run.status), p_now);
        continue;
      end if;
      perform stepquota._resume_quota_wait(v_run, v_wait, coalesce(v_capacity, cardinality(v_wait.node_paths)), p_by,
        jsonb_build_object('period_start', p_quota.period_start), p_now);
      v_capacity := v_capacity - cardinality(v_wait.node_paths);
      runs_resumed := runs_resumed + 1;
    end loop;
    if v_capacity <= 0 then
      skipped_because := case
        when stepquota._sum_usage(p_quota.tenant, p_quota.period_start) >= p_quota.effective_limit
        then 'quota_exhausted' else 'no_capacity' end;
    end if;
    v_due_at := case skipped_because
      when 'quota_exhausted' then p_quota.valid_until
      when 'no_capacity' then least(p_quota.valid_until, p_now + v_policy.resumption_counts_for)
      else p_now end;
  end if;

  if runs_resumed > 0 then
    perform stepquota._notify_resumptions();
  end if;
  if stepquota._host_has_quota_queue(p_quota.tenant) then
    update stepquota.paused_tenants set due_at = v_due_at where tenant = p_quota.tenant;
    if not found then
      insert into stepquota.paused_tenants (tenant, due_at, paused_at) values (p_quota.tenant, v_due_at, p_now)
      on conflict (tenant) do nothing;
    end if;
    if skipped_because is not null and runs_resumed = 0 then
      perform stepquota._record_event_once(p_quota.tenant, p_quota.period_start, 'resume_skipped_' || skipped_because,
        'info', null, jsonb_build_object('reason', skipped_because, 'due_at', v_due_at), p_now);
    end if;
  else
    skipped_because := null;
    delete from stepquota.paused_tenants where tenant = p_quota.tenant;
  end if;
end;
$_resume_tenant$;

-- After inputs of these tenants changed: refreshes their quotas and resumes what can go on, in this
-- transaction up to policy's bounds. Tenants beyond them are marked due, and the epoch makes their
-- stored quotas stale, for the scan.
-- Locks: the policy row if there are so many; quota rows in tenant order, each FOR NO KEY UPDATE, then as
-- _resume_tenant; then as _mark_due.
create or replace function stepquota._refresh_and_resume(p_tenants text[], p_by text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_refresh_and_resume$
declare
  v_policy stepquota.policy;
  v_tenants text[];
  v_tenant text;
  v_quota stepquota.workflow_step_quotas;
  v_runs_left integer;
begin
  select p.* into v_policy from stepquota.policy p;
  v_tenants := array(select distinct t.tenant from unnest(p_tenants) as t (tenant) where t.tenant is not null order by 1);
  if cardinality(v_tenants) > v_policy.at_once_tenants then
    perform stepquota._make_all_quotas_stale();
  end if;
  v_runs_left := v_policy.at_once_runs;
  foreach v_tenant in array v_tenants[:v_policy.at_once_tenants] loop
    v_quota := stepquota._lock_and_refresh_quota(v_tenant, p_now);
    if v_runs_left > 0 and exists (select 1 from stepquota.paused_tenants t where t.tenant = v_tenant) then
      v_runs_left := v_runs_left - (stepquota._resume_tenant(v_quota, v_runs_left, p_by, p_now)).runs_resumed;
    end if;
  end loop;
  perform stepquota._mark_due(v_tenants[v_policy.at_once_tenants + 1:], p_now);
end;
$_refresh_and_resume$;

-- For inputs of very many tenants: every stored quota is resolved again before it is next used.
-- Locks: the policy row, and so before any quota row, or two such changes could wait for each other.
create or replace function stepquota._make_all_quotas_stale()
returns void
language plpgsql
volatile
as $_make_all_quotas_stale$
begin
  update stepquota.policy set epoch = epoch + 1;
end;
$_make_all_quotas_stale$;

-- The next scan looks at these tenants, of whom it is enough that they are paused.
-- Locks: paused_tenants, without waiting: whoever has such a row has the tenant's quota row, and may wait
-- for one that is held here. What is passed over is found by the scan's look for edited inputs.
create or replace function stepquota._mark_due(p_tenants text[], p_now timestamptz)
returns void
language plpgsql
volatile
as $_mark_due$
declare
  v_tenant text;
begin
  for v_tenant in
    select t.tenant from stepquota.paused_tenants t
     where t.tenant = any (p_tenants) and t.due_at > p_now
     order by t.tenant
  loop
    perform 1 from stepquota.paused_tenants t where t.tenant = v_tenant for no key update skip locked;
    if found then
      update stepquota.paused_tenants set due_at = p_now where tenant = v_tenant and due_at > p_now;
    end if;
  end loop;
end;
$_mark_due$;

-- Looks at the tenant's inputs again and resumes what can go on.
-- Locks: as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.refresh_workflow_step_quota(p_tenant text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $refresh_workflow_step_quota$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._refresh_and_resume(array[p_tenant], 'refresh', v_now);
  return stepquota._summarize_quota(
    (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
end;
$refresh_workflow_step_quota$;

-- Resumes one run by hand, without looking at its place in the queue and never past the quota.
-- Locks: the run, then the quota row FOR NO KEY UPDATE.
-- SQLSTATEs: WQ001, WQ002, WQ003, WQ004, WQ005, WQ006.
create or replace function stepquota.resume_workflow_run(p_tenant text, p_run_id text, p_reason text)
returns stepquota.workflow_run_resume
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resume_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_wait stepquota.workflow_run_waits;
  v_quota stepquota.workflow_step_quotas;
  v_capacity bigint;
  v_answer stepquota.workflow_run_resume;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._host_lock_run(p_tenant, p_run_id);
  perform stepquota._check_run_can_be_resumed(p_tenant, p_run_id, v_run);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);

  v_quota := stepquota._lock_and_refresh_quota(p_tenant, v_now);
  v_answer.resumed := false;
  v_answer.used_count := stepquota._sum_usage(p_tenant, v_quota.period_start);
  v_answer.effective_limit := v_quota.effective_limit;
  v_answer.period_start := v_quota.period_start;
  v_answer.period_end := v_quota.period_end;
  v_answer.period_source := v_quota.period_source;
  v_answer.limit_source := v_quota.limit_source;
  v_capacity := stepquota._count_resumable_units(v_quota, v_now);
  if (stepquota._host_find_tenant(p_tenant)).suspended_at is not null then
    v_answer.reason := 'held';
  elsif v_answer.used_count >= v_quota.effective_limit then
    v_answer.reason := 'quota_exhausted';
  elsif v_capacity <= 0 then
    v_answer.reason := 'no_capacity';
  else
    v_answer.resumption_id := stepquota._resume_quota_wait(v_run, v_wait,
      coalesce(v_capacity, cardinality(v_wait.node_paths)), 'operator',
      jsonb_build_object('reason', p_reason, 'operator', session_user, 'period_start', v_quota.period_start), v_now);
    perform stepquota._notify_resumptions();
    if not stepquota._host_has_quota_queue(p_tenant) then
      delete from stepquota.paused_tenants where tenant = p_tenant;
    end if;
    v_answer.resumed := true;
    v_answer.reason := 'resumed';
  end if;
  if not v_answer.resumed then
    perform stepquota._record_event(p_tenant, 'resume_refused', 'info', p_run_id,
      jsonb_build_object('by', 'operator', 'operator', session_user, 'reason', v_answer.reason,
        'operator_reason', p_reason, 'used_count', v_answer.used_count, 'effective_limit', v_answer.effective_limit),
      v_now);
  end if;
  return v_answer;
end;
$resume_workflow_run$;

-- Each misuse has its own SQLSTATE: WQ002, WQ006, WQ003, WQ004, WQ005.
create or replace function stepquota._check_run_can_be_resumed(
  p_tenant text, p_run_id text, p_run stepquota.workflow_runs)
returns void
language plpgsql
stable
as $_check_run_can_be_resumed$
declare
  v_wait stepquota.workflow_run_waits;
begin
  if p_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  perform stepquota._check_run_goes_on(p_run);
  v_wait := stepquota._host_find_quota_wait(p_tenant, p_run_id);
  if p_run.status <> 'WAITING' then
    raise exception using
      errcode = 'WQ003',
      message = 'the run is not waiting',
      detail = format('Tenant %L, run %L is %s.', p_tenant, p_run_id, p_run.status),
      hint = case when v_wait.wait_id is null
        then 'It has nothing to resume from.'
        else 'One of its branches is paused while another goes on: the scan resumes it when there is quota.' end;
  end if;
  if v_wait.wait_id is null then
    raise exception using
      errcode = 'WQ004',
      message = 'the run is not paused by quota',
      detail = format('Tenant %L, run %L waits at %L for something else.', p_tenant, p_run_id, p_run.node_path),
      hint = 'Resolve what it waits for with resolve_workflow_run_wait.';
  end if;
  if p_run.node_path <> all (v_wait.node_paths) then
    raise exception using
      errcode = 'WQ005',
      message = 'the pause is not of the node where the run stands',
      detail = format('Tenant %L, run %L stands at %L; wait %s is of %s.', p_tenant, p_run_id, p_run.node_path,
        v_wait.wait_id, v_wait.node_paths),
      hint = 'The run has moved on since it was paused; let its runtime start its step again.';
  end if;
end;
$_check_run_can_be_resumed$;

comment on function stepquota._count_resumable_units(stepquota.workflow_step_quotas, timestamptz) is 'Units that may be handed out to paused runs; NULL is unlimited.';
comment on function stepquota._resume_quota_wait(stepquota.workflow_runs, stepquota.workflow_run_waits, bigint, text, jsonb, timestamptz) is 'Resumes a run at up to so many paths of its quota wait.';
comment on function stepquota._resume_tenant(stepquota.workflow_step_quotas, integer, text, timestamptz) is 'Resumes what can go on of one tenant.';
comment on function stepquota._refresh_and_resume(text[], text, timestamptz) is 'Refreshes quotas whose inputs changed and resumes what can go on, within policy''s bounds.';
comment on function stepquota._make_all_quotas_stale() is 'Makes every stored quota stale.';
comment on function stepquota._mark_due(text[], timestamptz) is 'Marks paused tenants due.';
comment on function stepquota._check_run_can_be_resumed(text, text, stepquota.workflow_runs) is 'Raises unless the run is paused by quota where it stands.';
comment on function stepquota.refresh_workflow_step_quota(text) is
  'Looks at the tenant''s inputs again, stores the quota and resumes what can go on; answers the summary. WQ001 for a tenant that cannot be one.';
comment on function stepquota.resume_workflow_run(text, text, text) is
  'Resumes one paused run by hand, for the reason given. resumed = false with reason quota_exhausted, no_capacity (the units left are promised to runs already resumed) or held is an answer, with used, limit, period and sources. WQ001 bad key, WQ002 unknown run, WQ003 not waiting, WQ004 not paused by quota, WQ005 paused at another node than where it stands, WQ006 ended.';

-- sql/scan.sql

-- The recurring work: the scan that resumes what can go on, and tick(), which does all that is due.
--
-- A procedure that commits may be neither SECURITY DEFINER nor pin a search_path, so resume_scan and
-- tick are bare loops over granted functions, one tenant at a time, which hold the exception blocks.

create or replace function stepquota.begin_resume_scan()
returns bigint
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $begin_resume_scan$
declare
  v_now timestamptz := stepquota._now();
  v_scan_id bigint;
begin
  perform stepquota._mark_edited_tenants(v_now);
  insert into stepquota.resume_scans (started_at) values (v_now) returning scan_id into v_scan_id;
  return v_scan_id;
end;
$begin_resume_scan$;

-- Inputs edited by hand announce themselves to nobody. At most once in policy.staleness, paused tenants
-- whose resolution of now differs from the stored one are marked due; so are those who have units left
-- all the same (raised by a REPEATABLE READ transaction that could not see them paused, or no longer
-- suspended), and tenants with open quota waits that are not among the paused ones. Exhaustions whose
-- record was skipped are made up for.
-- Locks: the scan_state row, without waiting; paused_tenants and quota rows, without waiting.
create or replace function stepquota._mark_edited_tenants(p_now timestamptz)
returns void
language plpgsql
volatile
as $_mark_edited_tenants$
declare
  v_paused record;
begin
  perform 1
     from stepquota.scan_state s, stepquota.policy p
    where s.inputs_compared_at is null or s.inputs_compared_at > p_now
       or s.inputs_compared_at <= p_now - p.staleness
      for no key update of s skip locked;
  if not found then
    return;
  end if;
  update stepquota.scan_state set inputs_compared_at = p_now;

  insert into stepquota.paused_tenants (tenant, due_at, paused_at)
  select w.tenant, p_now, p_now
    from stepquota._host_list_queued_tenants() as w (tenant)
   where not exists (select 1 from stepquota.paused_tenants t where t.tenant = w.tenant)
  on conflict (tenant) do nothing;

  for v_paused in
    select t.tenant, q.period_start, q.reported, q.reported_period_start,
           q.tenant is null
             or (q.effective_limit, q.period_start, q.valid_until)
                is distinct from ((r.quota).effective_limit, (r.quota).period_start, (r.quota).valid_until)
             as is_edited,
           q.effective_limit is null or stepquota._sum_usage(q.tenant, q.period_start) < q.effective_limit
             as has_units_left
      from stepquota.paused_tenants t
      left join stepquota.workflow_step_quotas q on q.tenant = t.tenant
     cross join lateral stepquota._resolve_quota(t.tenant, p_now) r
     where t.due_at > p_now
     order by t.tenant
  loop
    if v_paused.is_edited or v_paused.has_units_left then
      perform 1 from stepquota.paused_tenants t where t.tenant = v_paused.tenant for no key update skip locked;
      if found then
        update stepquota.paused_tenants set due_at = p_now where tenant = v_paused.tenant;
      end if;
    elsif v_paused.reported_period_start is distinct from v_paused.period_start
       or 'quota_exhausted' <> all (v_paused.reported) then
      perform stepquota._record_missed_exhaustion(v_paused.tenant, p_now);
    end if;
  end loop;
end;
$_mark_edited_tenants$;

create or replace function stepquota._record_missed_exhaustion(p_tenant text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_record_missed_exhaustion$
declare
  v_summary stepquota.workflow_step_quota;
begin
  v_summary := stepquota._summarize_quota((select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
  if not v_summary.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_summary, null, p_now);
  end if;
end;
$_record_missed_exhaustion$;

-- Tenants to look at now, longest due first, without those given.
create or replace function stepquota.list_due_tenants(p_limit integer, p_without text[] default '{}')
returns setof text
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $list_due_tenants$
declare
  v_now timestamptz := stepquota._now();
begin
  if p_limit is null or p_limit < 1 then
    perform stepquota._refuse_argument('p_limit', p_limit::text, 'a number from 1', 'It bounds one look.');
  end if;
  if p_without is null then
    perform stepquota._refuse_argument('p_without', null, 'an array of tenants', 'Pass ''{}'' to leave out nobody.');
  end if;
  return query
    select t.tenant from stepquota.paused_tenants t
     where t.due_at <= v_now and t.tenant <> all (p_without)
     order by t.due_at, t.tenant
     limit p_limit;
end;
$list_due_tenants$;

-- One tenant's turn in a scan. What goes wrong with it is answered, with all that PostgreSQL says, and
-- takes nothing of the other tenants with it.
-- Locks: the quota row without waiting (another scan or a change has it: busy); then as _resume_tenant.
create or replace function stepquota.resume_due_tenant(
  p_tenant text, p_max_runs integer, out runs_resumed integer, out skipped_because text, out error jsonb)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resume_due_tenant$
declare
  v_now timestamptz := stepquota._now();
  v_result record;
  v_sqlstate text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_max_runs is null or p_max_runs < 1 then
    perform stepquota._refuse_argument('p_max_runs', p_max_runs::text, 'a number from 1', 'It bounds one tenant''s turn.');
  end if;
  runs_resumed := 0;
  begin
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for no key update skip locked;
    if not found and exists (select 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant) then
      skipped_because := 'busy';
      return;
    end if;
    v_result := stepquota._resume_tenant(stepquota._refresh_quota(p_tenant, v_now), p_max_runs, 'scan', v_now);
    runs_resumed := v_result.runs_resumed;
    skipped_because := v_result.skipped_because;
  exception when others then
    get stacked diagnostics v_sqlstate = returned_sqlstate, v_message = message_text,
      v_detail = pg_exception_detail, v_hint = pg_exception_hint, v_context = pg_exception_context;
    runs_resumed := 0;
    skipped_because := 'error';
    error := jsonb_build_object('tenant', p_tenant, 'sqlstate', v_sqlstate, 'message', v_message,
      'detail', v_detail, 'hint', v_hint, 'context', v_context);
    raise warning using message = format('resuming tenant %L failed: %s', p_tenant, v_message),
      detail = error::text;
  end;
end;
$resume_due_tenant$;

create or replace function stepquota.finish_resume_scan(
  p_scan_id bigint, p_tenants_seen integer, p_runs_resumed integer, p_skipped jsonb, p_errors jsonb)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_resume_scan$
declare
  v_now timestamptz := stepquota._now();
begin
  if p_scan_id is null or p_tenants_seen is null or p_runs_resumed is null or p_skipped is null
     or jsonb_typeof(p_errors) is distinct from 'array' then
    perform stepquota._refuse_argument('each argument', null, 'what resume_scan counted, p_errors an array',
      'Only resume_scan calls this, with the p_scan_id that begin_resume_scan answered.');
  end if;
  update stepquota.resume_scans
     set finished_at = v_now, tenants_seen = p_tenants_seen, runs_resumed = p_runs_resumed,
         skipped = p_skipped, errors = p_errors
   where scan_id = p_scan_id and finished_at is null;
  if jsonb_array_length(p_errors) > 0 then
    perform stepquota._record_event('', 'scan_failed_for_tenants', 'error', null,
      jsonb_build_object('scan_id', p_scan_id, 'errors', p_errors), v_now);
  end if;
end;
$finish_resume_scan$;

create or replace function stepquota.get_scan_seconds()
returns integer
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $get_scan_seconds$
  select p.scan_seconds from stepquota.policy p;
$get_scan_seconds$;

-- Resumes what can go on: at most p_batch_size resumptions in one transaction, tenants in turns, until
-- nothing more can go on or policy.scan_seconds are over. Must be called outside a transaction block.
-- Locks: in each transaction quota rows and runs, none of them waiting. SQLSTATEs: WQ001.
create or replace procedure stepquota.resume_scan(p_batch_size integer default 100)
language plpgsql
as $resume_scan$
declare
  v_until pg_catalog.timestamptz;
  v_scan_id bigint;
  v_round_seen pg_catalog.text[];
  v_done pg_catalog.text[] := '{}'::pg_catalog.text[];
  v_tenants pg_catalog.text[];
  v_tenant text;
  v_result record;
  v_batch_left integer;
  v_round_resumed integer;
  v_runs_resumed integer := 0;
  v_tenants_seen integer := 0;
  v_skipped pg_catalog.jsonb := '{}'::pg_catalog.jsonb;
  v_errors pg_catalog.jsonb := '[]'::pg_catalog.jsonb;
  v_is_first_round boolean := true;
begin
  perform stepquota.check_batch_size(p_batch_size);
  v_until := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => stepquota.get_scan_seconds());
  v_scan_id := stepquota.begin_resume_scan();
  commit;
  loop  -- rounds: each due tenant gets one turn in each
    v_round_seen := '{}';
    v_round_resumed := 0;
    loop  -- transactions
      v_tenants := array(select t from stepquota.list_due_tenants(p_batch_size, v_round_seen || v_done) t);
      exit when pg_catalog.cardinality(v_tenants) = 0;
      v_batch_left := p_batch_size;
      foreach v_tenant in array v_tenants loop
        exit when v_batch_left <= 0;
        v_result := stepquota.resume_due_tenant(v_tenant,
          least(v_batch_left, greatest(1, p_batch_size / pg_catalog.cardinality(v_tenants))));
        v_round_seen := v_round_seen || v_tenant;
        v_batch_left := v_batch_left - v_result.runs_resumed;
        v_round_resumed := v_round_resumed + v_result.runs_resumed;
        if v_result.runs_resumed = 0 then
          v_done := v_done || v_tenant;
        end if;
        if v_is_first_round then
          v_tenants_seen := v_tenants_seen + 1;
          if v_result.skipped_because is not null and v_result.runs_resumed = 0 then
            v_skipped := v_skipped || pg_catalog.jsonb_build_object(v_result.skipped_because,
              coalesce((v_skipped ->> v_result.skipped_because)::integer, 0) + 1);
          end if;
        end if;
        if v_result.error is not null then
          v_errors := v_errors || v_result.error;
        end if;
      end loop;
      commit;
      exit when pg_catalog.clock_timestamp() >= v_until;
    end loop;
    v_runs_resumed := v_runs_resumed + v_round_resumed;
    v_is_first_round := false;
    exit when v_round_resumed = 0 or pg_catalog.clock_timestamp() >= v_until;
  end loop;
  perform stepquota.finish_resume_scan(v_scan_id, v_tenants_seen, v_runs_resumed, v_skipped, v_errors);
  commit;
end;
$resume_scan$;

-- Raises WQ001. Granted, since resume_scan runs with its caller's rights.
create or replace function stepquota.check_batch_size(p_batch_size integer)
returns void
language plpgsql
stable
-- Definer: raises through an internal function.
security definer
set search_path = pg_catalog, pg_temp
as $check_batch_size$
begin
  if p_batch_size is null or p_batch_size not between 1 and 100000 then
    perform stepquota._refuse_argument('p_batch_size', p_batch_size::text, 'a number from 1 to 100000',
      'It bounds one transaction; 100 is usual.');
  end if;
end;
$check_batch_size$;

-- All that is due: waits whose time has come, the scan, the ledger's partitions ahead. For any
-- scheduler, every minute or every five; safe to call at any time, also twice at once.
create or replace procedure stepquota.tick()
language plpgsql
as $tick$
begin
  loop
    exit when stepquota.resolve_due_waits(100) = 0;
    commit;
  end loop;
  commit;
  call stepquota.resume_scan();
  perform stepquota.make_ledger_partitions();
  commit;
end;
$tick$;

comment on function stepquota.begin_resume_scan() is 'For resume_scan: looks for inputs edited by hand and opens the scan''s row; answers its id.';
comment on function stepquota._mark_edited_tenants(timestamptz) is 'Marks paused tenants due whose inputs were edited by hand.';
comment on function stepquota._record_missed_exhaustion(text, timestamptz) is 'Records an exhaustion whose record was skipped.';
comment on function stepquota.list_due_tenants(integer, text[]) is 'For resume_scan: paused tenants to look at now, longest due first, without those given.';
comment on function stepquota.resume_due_tenant(text, integer) is
  'For resume_scan: one tenant''s turn. Answers how many runs it resumed, why it was skipped (quota_exhausted, no_capacity, tenant_suspended, busy, error) and the error. WQ001 for a tenant that cannot be one.';
comment on function stepquota.finish_resume_scan(bigint, integer, integer, jsonb, jsonb) is 'For resume_scan: closes the scan''s row.';
comment on function stepquota.get_scan_seconds() is 'For resume_scan: policy.scan_seconds.';
comment on function stepquota.check_batch_size(integer) is 'For resume_scan: raises WQ001 unless the batch size is from 1 to 100000.';
comment on procedure stepquota.resume_scan(integer) is
  'Resumes paused runs whose tenants have quota again: at most p_batch_size resumptions a transaction, tenants in turns, until nothing more can go on or policy.scan_seconds are over. Commits; CALL it outside a transaction block. Its result is a row of resume_scans. WQ001 for a batch size outside 1 to 100000.';
comment on procedure stepquota.tick() is
  'All due work: due waits, resume_scan, ledger partitions. Commits; CALL it outside a transaction block, from pg_cron or any other scheduler.';

-- sql/runs.sql

-- Runs: registered, ended, cancelled.

-- SQLSTATEs: WQ002, always.
create or replace function stepquota._refuse_unknown_run(p_tenant text, p_run_id text)
returns void
language plpgsql
stable
as $_refuse_unknown_run$
begin
  raise exception using
    errcode = 'WQ002',
    message = 'the tenant has no such run',
    detail = format('Tenant %L, run %L.', p_tenant, p_run_id),
    hint = 'Register it with register_workflow_run first, and check whose run it is.';
end;
$_refuse_unknown_run$;

-- SQLSTATEs: WQ006.
create or replace function stepquota._check_run_goes_on(p_run stepquota.workflow_runs)
returns void
language plpgsql
stable
as $_check_run_goes_on$
begin
  if p_run.status not in ('RUNNING', 'WAITING') then
    raise exception using
      errcode = 'WQ006',
      message = 'the run has ended',
      detail = format('Tenant %L, run %L is %s since %s.', p_run.tenant, p_run.run_id, p_run.status,
        stepquota._format_moment(p_run.ended_at)),
      hint = 'Nothing of an ended run starts, finishes or resumes; register another run.';
  end if;
end;
$_check_run_goes_on$;

-- The run, locked, or the error that there is none.
-- Locks: the run. SQLSTATEs: WQ002.
create or replace function stepquota._lock_known_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_lock_known_run$
declare
  v_run stepquota.workflow_runs := stepquota._host_lock_run(p_tenant, p_run_id);
begin
  if v_run.run_id is null then
    perform stepquota._refuse_unknown_run(p_tenant, p_run_id);
  end if;
  return v_run;
end;
$_lock_known_run$;

-- The run, made RUNNING or as it is if it was registered before.
-- Locks: the new run; the ledger against DDL if the month has no partition yet. SQLSTATEs: WQ001, WQ012.
create or replace function stepquota.register_workflow_run(
  p_tenant text, p_run_id text, p_workflow text default null, p_runtime text default 'default')
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $register_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_ledger_month date := stepquota._ledger_month(v_now);
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_name('p_runtime', p_runtime);
  if p_workflow is not null then
    perform stepquota._check_name('p_workflow', p_workflow);
  end if;
  perform stepquota._make_ledger_partition(v_ledger_month);
  v_run := stepquota._host_insert_run(p_tenant, p_run_id, p_workflow, p_runtime, v_ledger_month, v_now);
  if v_run.run_id is null then
    v_run := stepquota._host_find_run(p_tenant, p_run_id);
    if v_run.runtime <> p_runtime or v_run.workflow is distinct from p_workflow then
      raise exception using
        errcode = 'WQ012',
        message = 'the run is registered with another workflow or runtime',
        detail = format('Tenant %L, run %L: workflow %L, runtime %L; asked for workflow %L, runtime %L.',
          p_tenant, p_run_id, v_run.workflow, v_run.runtime, p_workflow, p_runtime),
        hint = 'A run id names one execution of one workflow: use another id.';
    end if;
  end if;
  return v_run;
end;
$register_workflow_run$;

-- Ends the run and closes what is open of it: waits and resumptions.
-- Locks: the caller holds the run; then its waits and resumptions.
create or replace function stepquota._end_run(
  p_run stepquota.workflow_runs, p_status text, p_error jsonb, p_now timestamptz)
returns stepquota.workflow_runs
language plpgsql
volatile
as $_end_run$
begin
  perform stepquota._host_cancel_open_waits(p_run.tenant, p_run.run_id, p_now);
  perform stepquota._cancel_resumptions(p_run.tenant, p_run.run_id, p_now);
  return stepquota._host_end_run(p_run.tenant, p_run.run_id, p_status, p_error, p_now);
end;
$_end_run$;

-- Locks: the run; then its waits and resumptions. SQLSTATEs: WQ001, WQ002, WQ006, WQ007.
create or replace function stepquota.finish_workflow_run(
  p_tenant text, p_run_id text, p_status text, p_error jsonb default null, p_delivery bigint default null)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_one_of('p_status', p_status, array['SUCCEEDED', 'FAILED', 'CANCELED']);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  if v_run.status = p_status then
    return v_run;
  end if;
  perform stepquota._check_run_goes_on(v_run);
  return stepquota._end_run(v_run, p_status, p_error, v_now);
end;
$finish_workflow_run$;

-- Cancels the run from outside: its started attempts too.
-- Locks: the run; then its steps, waits and resumptions. SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.cancel_workflow_run(p_tenant text, p_run_id text)
returns stepquota.workflow_runs
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $cancel_workflow_run$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  if v_run.status = 'CANCELED' then
    return v_run;
  end if;
  perform stepquota._check_run_goes_on(v_run);
  perform stepquota._host_cancel_started_steps(p_tenant, p_run_id, v_run.ledger_month, v_now);
  perform stepquota._host_add_log(p_tenant, p_run_id, 'info', 'canceled',
    jsonb_build_object('by', session_user, 'node_path', v_run.node_path, 'was', v_run.status), v_now);
  return stepquota._end_run(v_run, 'CANCELED', null, v_now);
end;
$cancel_workflow_run$;

comment on function stepquota._refuse_unknown_run(text, text) is 'Raises WQ002.';
comment on function stepquota._check_run_goes_on(stepquota.workflow_runs) is 'Raises WQ006 if the run has ended.';
comment on function stepquota._lock_known_run(text, text) is 'The run, locked; raises WQ002 if there is none.';
comment on function stepquota._end_run(stepquota.workflow_runs, text, jsonb, timestamptz) is 'Ends a run and closes what is open of it.';
comment on function stepquota.register_workflow_run(text, text, text, text) is
  'Makes a run, RUNNING; the same call again answers the run as it is. runtime is the program family that claims its resumptions. WQ001 bad arguments, WQ012 registered with another workflow or runtime.';
comment on function stepquota.finish_workflow_run(text, text, text, jsonb, bigint) is
  'Ends a run as SUCCEEDED, FAILED or CANCELED and closes its waits and resumptions. WQ001 bad arguments, WQ002 unknown run, WQ006 ended with another status, WQ007 a newer delivery was claimed.';
comment on function stepquota.cancel_workflow_run(text, text) is
  'Cancels a run: its started attempts, waits and resumptions too. WQ001 bad arguments, WQ002 unknown run, WQ006 ended otherwise.';

-- sql/waits.sql

-- Event, time, human, timeout and retry waits. They count nothing: starting their step did.

-- One wait an attempt at a path: asking again answers the wait there is, open or not.
-- Locks: the run. SQLSTATEs: WQ001, WQ002, WQ006.
create or replace function stepquota.open_workflow_run_wait(
  p_tenant text, p_run_id text, p_node_path text, p_wait_type text,
  p_due_at timestamptz default null, p_payload jsonb default null)
returns stepquota.workflow_run_waits
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $open_workflow_run_wait$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_attempt integer;
  v_wait stepquota.workflow_run_waits;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_node_path(p_node_path);
  perform stepquota._check_one_of('p_wait_type', p_wait_type, array['event', 'retry', 'human', 'timeout', 'time']);
  if p_wait_type in ('time', 'timeout', 'retry') and p_due_at is null then
    perform stepquota._refuse_argument('p_due_at', null, format('a moment for a wait of type %s', p_wait_type),
      'Nothing else would ever resolve such a wait.');
  end if;
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_run_goes_on(v_run);
  v_attempt := coalesce(
    stepquota._host_find_latest_attempt(p_tenant, p_run_id, p_node_path, v_run.ledger_month), 0);
  v_wait := stepquota._host_find_visit_wait(p_tenant, p_run_id, p_node_path, p_wait_type, v_attempt);
  if v_wait.wait_id is not null then
    return v_wait;
  end if;
  v_wait := stepquota._host_insert_wait(p_tenant, gen_random_uuid(), p_run_id, p_node_path, v_attempt, p_wait_type,
    null, p_due_at, v_now, p_payload, v_now);
  if not stepquota._goes_on(v_run) then
    perform stepquota._host_set_run(p_tenant, p_run_id, 'WAITING', p_node_path);
  end if;
  return v_wait;
end;
$open_workflow_run_wait$;

-- Locks: the run; then the wait. SQLSTATEs: WQ001, WQ006, WQ010, WQ011.
create or replace function stepquota.resolve_workflow_run_wait(
  p_tenant text, p_wait_id uuid, p_payload jsonb default null)
returns stepquota.workflow_run_waits
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_workflow_run_wait$
declare
  v_now timestamptz := stepquota._now();
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_wait_id is null then
    perform stepquota._refuse_argument('p_wait_id', null, 'a uuid', 'Pass the wait_id that open_workflow_run_wait answered.');
  end if;
  -- Read for the run, lock the run, read again: runs come before waits in the order of locks.
  v_wait := stepquota._host_find_wait(p_tenant, p_wait_id);
  if v_wait.wait_id is null then
    raise exception using
      errcode = 'WQ010',
      message = 'the tenant has no such wait',
      detail = format('Tenant %L, wait %L.', p_tenant, p_wait_id),
      hint = 'Pass tenant and wait_id as open_workflow_run_wait answered them.';
  end if;
  v_run := stepquota._lock_known_run(p_tenant, v_wait.run_id);
  v_wait := stepquota._host_find_wait(p_tenant, p_wait_id);
  if v_wait.wait_type = 'quota' or v_wait.status = 'CANCELED' then
    raise exception using
      errcode = 'WQ011',
      message = 'the wait cannot be resolved',
      detail = format('Tenant %L, wait %L is of type %s and %s.', p_tenant, p_wait_id, v_wait.wait_type, v_wait.status),
      hint = case when v_wait.wait_type = 'quota'
        then 'A run paused by quota goes on with the scan, or by resume_workflow_run.'
        else 'Its run has ended.' end;
  end if;
  if v_wait.status = 'RESOLVED' then
    return v_wait;
  end if;
  return stepquota._resolve_wait(v_run, v_wait, p_payload, v_now);
end;
$resolve_workflow_run_wait$;

-- The wait RESOLVED, the run RUNNING, a resumption for its runtime.
-- Locks: the caller holds the run.
create or replace function stepquota._resolve_wait(
  p_run stepquota.workflow_runs, p_wait stepquota.workflow_run_waits, p_payload jsonb, p_now timestamptz)
returns stepquota.workflow_run_waits
language plpgsql
volatile
as $_resolve_wait$
declare
  v_wait stepquota.workflow_run_waits;
begin
  v_wait := stepquota._host_close_wait(p_run.tenant, p_wait.wait_id, 'RESOLVED', p_payload, p_now);
  perform stepquota._host_set_run(p_run.tenant, p_run.run_id, 'RUNNING', p_run.node_path);
  perform stepquota._add_resumption(p_run, v_wait, v_wait.node_paths, p_now);
  perform stepquota._notify_resumptions();
  return v_wait;
end;
$_resolve_wait$;

-- For tick(): resolves waits whose time has come, a batch a call; answers how many. A wait whose run is
-- busy is left for the next call.
-- Locks: runs, without waiting. SQLSTATEs: WQ001.
create or replace function stepquota.resolve_due_waits(p_batch_size integer default 100)
returns integer
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $resolve_due_waits$
declare
  v_now timestamptz := stepquota._now();
  v_wait stepquota.workflow_run_waits;
  v_run stepquota.workflow_runs;
  v_resolved integer := 0;
begin
  perform stepquota.check_batch_size(p_batch_size);
  for v_wait in select w.* from stepquota._host_list_due_waits(v_now, p_batch_size) w loop
    v_run := stepquota._host_lock_run_if_free(v_wait.tenant, v_wait.run_id);
    continue when v_run.run_id is null or v_run.status not in ('RUNNING', 'WAITING');
    continue when (stepquota._host_find_wait(v_wait.tenant, v_wait.wait_id)).status <> 'WAITING';
    perform stepquota._resolve_wait(v_run, v_wait, null, v_now);
    v_resolved := v_resolved + 1;
  end loop;
  return v_resolved;
end;
$resolve_due_waits$;

comment on function stepquota._resolve_wait(stepquota.workflow_runs, stepquota.workflow_run_waits, jsonb, timestamptz) is 'Resolves a wait and hands its run to the runtime.';
comment on function stepquota.open_workflow_run_wait(text, text, text, text, timestamptz, jsonb) is
  'Opens a wait of type event, human, time, timeout or retry: the run is WAITING once no branch works. Counts nothing. due_at is when tick() resolves it by itself: required for time, timeout and retry, optional for the others. The same call again answers the same wait. WQ001 bad arguments, WQ002 unknown run, WQ006 ended.';
comment on function stepquota.resolve_workflow_run_wait(text, uuid, jsonb) is
  'Resolves a wait: its run is RUNNING and its runtime gets a resumption with the payload. Resolving again answers the same. WQ001 bad arguments, WQ010 unknown wait, WQ011 a quota wait or a cancelled one.';
comment on function stepquota.resolve_due_waits(integer) is
  'For tick(): resolves waits whose due_at has come, at most p_batch_size; answers how many. WQ001 for a batch size outside 1 to 100000.';

-- sql/steps.sql

-- Step attempts: the reservation, the ledger row and the run's place in one round trip, or the pause.

-- Starts an attempt, or says that it was started before, or pauses the run.
--
-- Asking twice for the same attempt counts once: its ledger row is the answer, whatever the quota says
-- now. On a WAITING run a free unit starts the step; that is how a resumed run goes on.
--
-- Locks: the run; then perhaps the quota row without waiting, then the lane. When denied: the quota row
-- FOR SHARE, and the decision again, so that no raise of capacity slips between denial and pause.
-- SQLSTATEs: WQ001, WQ002, WQ006, WQ007.
create or replace function stepquota.start_workflow_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer default 1,
  p_step_type text default 'action', p_delivery bigint default null)
returns stepquota.workflow_step_start
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $start_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_step stepquota.workflow_run_steps;
  v_quota stepquota.workflow_step_quota;
  v_step_id uuid;
  v_wait_id uuid;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_node_path(p_node_path);
  perform stepquota._check_attempt(p_attempt);
  perform stepquota._check_name('p_step_type', p_step_type);

  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  v_step := stepquota._host_find_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month);
  if v_step.status <> 'STARTED' then
    return stepquota._describe_start('already_finished', v_step, null,
      stepquota._describe_period(p_tenant, v_step.period_start, v_now));
  end if;
  perform stepquota._check_run_goes_on(v_run);
  if v_step.status = 'STARTED' then
    perform stepquota._enter_resumed_path(p_tenant, p_run_id, p_node_path, v_now);
    return stepquota._describe_start('already_started', v_step, null,
      stepquota._describe_period(p_tenant, v_step.period_start, v_now));
  end if;

  if (stepquota._host_find_tenant(p_tenant)).suspended_at is not null then
    v_quota := stepquota._summarize_quota(stepquota._share_quota(p_tenant, v_now));
    v_quota.allowed := false;
    v_wait_id := stepquota._pause_run(v_run, p_node_path, 'tenant_suspended', v_quota.period_end,
      stepquota._describe_pause(v_quota), v_now);
    return stepquota._describe_start('held', null::stepquota.workflow_run_steps, v_wait_id, v_quota);
  end if;

  v_quota := stepquota._take_unit(p_tenant, stepquota._find_quota(p_tenant, v_now), 0, v_now);
  if not v_quota.allowed then
    perform stepquota._record_exhaustion(p_tenant, v_quota, p_run_id, v_now);
    v_quota := stepquota._take_unit(p_tenant, (stepquota._share_quota(p_tenant, v_now), true)::stepquota._found_quota,
      0, v_now);
  end if;
  if not v_quota.allowed then
    v_wait_id := stepquota._pause_run(v_run, p_node_path, 'quota', v_quota.period_end,
      stepquota._describe_pause(v_quota), v_now);
    return stepquota._describe_start('quota_paused', null::stepquota.workflow_run_steps, v_wait_id, v_quota);
  end if;

  v_step_id := gen_random_uuid();
  perform stepquota._host_insert_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month, v_step_id,
    p_step_type, v_quota.period_start, v_now);
  perform stepquota._enter_resumed_path(p_tenant, p_run_id, p_node_path, v_now);
  perform stepquota._leave_quota_wait(p_tenant, p_run_id, p_node_path, v_now);
  perform stepquota._host_set_run(p_tenant, p_run_id, 'RUNNING', p_node_path);
  v_step.step_id := v_step_id;
  v_step.status := 'STARTED';
  return stepquota._describe_start('started', v_step, null, v_quota);
end;
$start_workflow_step$;

-- The quota row, up to date and locked against every change of capacity until the caller's transaction
-- ends. If it must be refreshed first, the share is given back: two that held it and wanted more would
-- wait for each other for ever.
-- Locks: the quota row FOR SHARE, waiting; or FOR NO KEY UPDATE, waiting, then as _refresh_quota.
create or replace function stepquota._share_quota(p_tenant text, p_now timestamptz)
returns stepquota.workflow_step_quotas
language plpgsql
volatile
as $_share_quota$
declare
  v_found stepquota._found_quota;
begin
  begin
    perform 1 from stepquota.workflow_step_quotas q where q.tenant = p_tenant for share;
    v_found := stepquota._find_quota(p_tenant, p_now);
    if v_found.is_trusted then
      return v_found.quota;
    end if;
    raise exception using errcode = 'WQ000', message = 'the share is given back';
  exception when sqlstate 'WQ000' then
    null;  -- never leaves this function
  end;
  return stepquota._lock_and_refresh_quota(p_tenant, p_now);
end;
$_share_quota$;

create or replace function stepquota._describe_pause(p_quota stepquota.workflow_step_quota)
returns jsonb
language sql
immutable
as $_describe_pause$
  select jsonb_build_object('period_start', p_quota.period_start, 'period_end', p_quota.period_end,
    'used_count', p_quota.used_count, 'effective_limit', p_quota.effective_limit,
    'period_source', p_quota.period_source, 'limit_source', p_quota.limit_source, 'tier', p_quota.tier);
$_describe_pause$;

-- The figures of now for the period that an attempt was counted in. Of an earlier period only the
-- counter is known for sure; limit and sources are those of the tenant's present quota.
create or replace function stepquota._describe_period(p_tenant text, p_period_start timestamptz, p_now timestamptz)
returns stepquota.workflow_step_quota
language plpgsql
volatile
as $_describe_period$
declare
  v_quota stepquota.workflow_step_quotas := (stepquota._find_quota(p_tenant, p_now)).quota;
  v_period stepquota.workflow_step_usage_periods;
begin
  if v_quota.period_start <> p_period_start then
    select p.* into v_period
      from stepquota.workflow_step_usage_periods p
     where p.tenant = p_tenant and p.period_start = p_period_start;
    v_quota.period_start := p_period_start;
    v_quota.period_end := v_period.period_end;
    v_quota.period_source := v_period.period_source;
  end if;
  return stepquota._describe_quota(v_quota, stepquota._sum_usage(p_tenant, p_period_start), true);
end;
$_describe_period$;

create or replace function stepquota._describe_start(
  p_outcome text, p_step stepquota.workflow_run_steps, p_wait_id uuid, p_quota stepquota.workflow_step_quota)
returns stepquota.workflow_step_start
language sql
immutable
as $_describe_start$
  select (p_outcome, p_step.step_id, p_wait_id, p_quota.allowed, p_quota.used_count, p_quota.effective_limit,
          p_quota.remaining, p_quota.period_start, p_quota.period_end, p_quota.period_source, p_quota.limit_source,
          p_quota.tier, p_quota.granted_units, p_quota.stripe_subscription_id, p_step.status
         )::stepquota.workflow_step_start;
$_describe_start$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_attempt(p_attempt integer)
returns void
language plpgsql
stable
as $_check_attempt$
begin
  if p_attempt is null or p_attempt < 1 then
    perform stepquota._refuse_argument('p_attempt', p_attempt::text, 'a number from 1', 'The first try is attempt 1.');
  end if;
end;
$_check_attempt$;

-- Locks: the run; then the step and the run's resumptions.
-- SQLSTATEs: WQ001, WQ002, WQ006, WQ007, WQ008, WQ009.
create or replace function stepquota.finish_workflow_step(
  p_tenant text, p_run_id text, p_node_path text, p_attempt integer, p_status text,
  p_error jsonb default null, p_delivery bigint default null)
returns stepquota.workflow_run_steps
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $finish_workflow_step$
declare
  v_now timestamptz := stepquota._now();
  v_run stepquota.workflow_runs;
  v_step stepquota.workflow_run_steps;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_run_id(p_run_id);
  perform stepquota._check_node_path(p_node_path);
  perform stepquota._check_attempt(p_attempt);
  perform stepquota._check_one_of('p_status', p_status, array['SUCCEEDED', 'FAILED', 'RETRY_SCHEDULED', 'CANCELED']);
  v_run := stepquota._lock_known_run(p_tenant, p_run_id);
  perform stepquota._check_delivery(p_tenant, p_run_id, p_delivery);
  v_step := stepquota._host_find_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month);
  if v_step.step_id is null then
    raise exception using
      errcode = 'WQ008',
      message = 'the run has no such step attempt',
      detail = format('Tenant %L, run %L, path %L, attempt %s.', p_tenant, p_run_id, p_node_path, p_attempt),
      hint = 'Only an attempt that start_workflow_step has started can finish.';
  end if;
  if v_step.status = p_status then
    return v_step;
  end if;
  if v_step.status <> 'STARTED' then
    raise exception using
      errcode = 'WQ009',
      message = 'the step attempt has already finished',
      detail = format('Tenant %L, run %L, path %L, attempt %s is %s; asked for %s.',
        p_tenant, p_run_id, p_node_path, p_attempt, v_step.status, p_status),
      hint = 'A finished attempt keeps its status: start the next attempt.';
  end if;
  perform stepquota._check_run_goes_on(v_run);
  v_step := stepquota._host_finish_step(p_tenant, p_run_id, p_node_path, p_attempt, v_run.ledger_month, p_status,
    p_error, v_now);
  -- Whoever finishes the step is back at its path, if a resumption had asked for that.
  perform stepquota._enter_resumed_path(p_tenant, p_run_id, p_node_path, v_now);
  perform stepquota._settle_run_status(v_run);
  return v_step;
end;
$finish_workflow_step$;

comment on function stepquota._share_quota(text, timestamptz) is 'The quota row, locked against changes of capacity.';
comment on function stepquota._describe_pause(stepquota.workflow_step_quota) is 'The circumstances of a pause.';
comment on function stepquota._describe_period(text, timestamptz, timestamptz) is 'The figures of now for a period an attempt was counted in.';
comment on function stepquota._describe_start(text, stepquota.workflow_run_steps, uuid, stepquota.workflow_step_quota) is 'The answer of start_workflow_step.';
comment on function stepquota._check_attempt(integer) is 'Raises WQ001 unless the attempt is 1 or more.';
comment on function stepquota.start_workflow_step(text, text, text, integer, text, bigint) is
  'Starts a step attempt: takes a unit, writes its ledger row and sets the run''s place, all in the caller''s transaction; or pauses the run. outcome: started; already_started (counted before, not finished); already_finished (do not execute; step_status says how); quota_paused (wait_id; a resumption will come); held (the tenant is suspended). The key (run, node_path, attempt) makes it safe to ask again. step_type is free text; forEach, loop, parallel, event, human, time, timeout and retry are steps that contain or await others. delivery is the number a claim answered. WQ001 bad arguments, WQ002 unknown run, WQ006 ended, WQ007 a newer delivery was claimed.';
comment on function stepquota.finish_workflow_step(text, text, text, integer, text, jsonb, bigint) is
  'Finishes a started attempt as SUCCEEDED, FAILED, RETRY_SCHEDULED or CANCELED; the same again answers the same. Uncounts nothing. WQ001 bad arguments, WQ002 unknown run, WQ006 ended, WQ007 a newer delivery was claimed, WQ008 no such attempt, WQ009 finished with another status.';

-- sql/settings.sql

-- What operators change: plans, tier limits, policy. Each change is a row of quota_events.

-- Locks: the tenant's host row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.set_tenant_plan(p_tenant text, p_plan text)
returns stepquota.workflow_step_quota
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_tenant_plan$
declare
  v_now timestamptz := stepquota._now();
  v_tenant stepquota.tenants;
begin
  perform stepquota._check_tenant(p_tenant);
  if p_plan is not null then
    perform stepquota._check_known_tier('p_plan', p_plan);
  end if;
  v_tenant := stepquota._host_find_tenant(p_tenant);
  if v_tenant.tenant is null or v_tenant.plan is distinct from p_plan then
    perform stepquota._host_set_tenant_plan(p_tenant, p_plan, v_now);
    perform stepquota._record_event(p_tenant, 'plan_changed', 'info', null,
      jsonb_build_object('from', v_tenant.plan, 'to', p_plan, 'by', session_user), v_now);
  end if;
  perform stepquota._refresh_and_resume(array[p_tenant], 'plan', v_now);
  return stepquota._summarize_quota(
    (select q from stepquota.workflow_step_quotas q where q.tenant = p_tenant));
end;
$set_tenant_plan$;

-- SQLSTATEs: WQ001.
create or replace function stepquota._check_known_tier(p_parameter text, p_tier text)
returns void
language plpgsql
stable
as $_check_known_tier$
begin
  if not exists (select 1 from stepquota.tiers t where t.tier = p_tier) then
    perform stepquota._refuse_argument(p_parameter, p_tier, 'the name of a tier',
      format('Tiers are %s; set_tier_limit makes another.',
        (select string_agg(t.tier, ', ' order by t.tier) from stepquota.tiers t)));
  end if;
end;
$_check_known_tier$;

-- A tier's limit concerns all its tenants: their stored quotas become stale, and the scan resumes.
-- Within policy's bounds the paused ones go on at once.
-- Locks: the tier; the policy row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.set_tier_limit(p_tier text, p_step_limit bigint)
returns table (tier text, step_limit bigint, previous_step_limit bigint, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_tier_limit$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
  v_was_known boolean;
begin
  perform stepquota._check_name('p_tier', p_tier);
  if p_step_limit < 1 then
    perform stepquota._refuse_argument('p_step_limit', p_step_limit::text, 'a number above 0, or NULL for unlimited',
      'Suspend a tenant to stop all of its steps.');
  end if;
  select t.step_limit into previous_step_limit from stepquota.tiers t where t.tier = p_tier for no key update;
  v_was_known := found;
  tier := p_tier;
  step_limit := p_step_limit;
  changed := not v_was_known or previous_step_limit is distinct from p_step_limit;
  if changed then
    insert into stepquota.tiers (tier, step_limit) values (p_tier, p_step_limit)
    on conflict (tier) do update set step_limit = excluded.step_limit;
    perform stepquota._record_event('', 'tier_limit_changed', 'info', null,
      jsonb_build_object('tier', p_tier, 'from', previous_step_limit, 'to', p_step_limit,
        'was_known', v_was_known, 'by', session_user), v_now);
    perform stepquota._apply_to_all_tenants('tier limit', v_now);
  end if;
  return next;
end;
$set_tier_limit$;

-- For a change that may concern every tenant: all stored quotas stale, and of the paused tenants as many
-- as policy allows resumed in this transaction, the others due.
-- Locks: the policy row, then as _refresh_and_resume.
create or replace function stepquota._apply_to_all_tenants(p_by text, p_now timestamptz)
returns void
language plpgsql
volatile
as $_apply_to_all_tenants$
begin
  perform stepquota._make_all_quotas_stale();
  perform stepquota._refresh_and_resume(array(select t.tenant from stepquota.paused_tenants t), p_by, p_now);
end;
$_apply_to_all_tenants$;

-- Sets one policy from its text form. The test clock and the epoch are not an operator's to set.
-- Locks: the policy row, then as _apply_to_all_tenants. SQLSTATEs: WQ001, WQ014, WQ015.
create or replace function stepquota.set_policy(p_name text, p_value text)
returns table (name text, value text, previous_value text, changed boolean)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $set_policy$
declare
  v_now timestamptz := stepquota._now();
  v_names text[];
  v_message text;
begin
  if p_value is null then
    perform stepquota._refuse_argument('p_value', null, 'a text', 'Pass the value as text, for instance ''30 seconds''.');
  end if;
  v_names := array(
    select a.attname::text from pg_attribute a
     where a.attrelid = 'stepquota.policy'::regclass and a.attnum > 0 and not a.attisdropped
       and a.attname not in ('only_row', 'epoch', 'allow_test_clock')
     order by 1);
  if p_name is null or p_name <> all (v_names) then
    raise exception using
      errcode = 'WQ014',
      message = 'there is no such policy',
      detail = format('p_name is %L.', p_name),
      hint = format('Policies are %s.', array_to_string(v_names, ', '));
  end if;
  if p_name = 'default_tier' then
    perform stepquota._check_known_tier('p_value', p_value);
  end if;
  execute format('select p.%I::text from stepquota.policy p for no key update', p_name) into previous_value;
  begin
    execute format('update stepquota.policy set %I = $1::%s returning %1$I::text', p_name,
      (select format_type(a.atttypid, a.atttypmod) from pg_attribute a
        where a.attrelid = 'stepquota.policy'::regclass and a.attname = p_name))
      using p_value into value;
  exception when data_exception or check_violation then
    get stacked diagnostics v_message = message_text;
    raise exception using
      errcode = 'WQ015',
      message = format('the value does not fit policy %s', p_name),
      detail = format('p_value is %L: %s.', left(p_value, 120), v_message),
      hint = format('It was left at %L.', previous_value);
  end;
  name := p_name;
  changed := value is distinct from previous_value;
  if changed then
    perform stepquota._record_event('', 'policy_changed', 'info', null,
      jsonb_build_object('name', p_name, 'from', previous_value, 'to', value, 'by', session_user), v_now);
    if p_name = 'tenant_metadata_key' then
      perform stepquota._read_metadata_tenants();
    end if;
    perform stepquota._apply_to_all_tenants('policy', v_now);
  end if;
  return next;
end;
$set_policy$;

comment on function stepquota._check_known_tier(text, text) is 'Raises WQ001 unless the tier exists.';
comment on function stepquota._apply_to_all_tenants(text, timestamptz) is 'Makes all quotas stale and resumes what can go on, within policy''s bounds.';
comment on function stepquota.set_tenant_plan(text, text) is
  'Sets the tenant''s plan, a tier (NULL: none), making the tenant if needed; resumes what can go on in the same transaction; answers the summary. WQ001 for a plan that is no tier.';
comment on function stepquota.set_tier_limit(text, bigint) is
  'Sets a tier''s default limit in steps a period (NULL: unlimited), making the tier if needed. All its tenants get it with their next step. Answers tier, step_limit, previous_step_limit, changed. WQ001 bad arguments.';
comment on function stepquota.set_policy(text, text) is
  'Sets a policy (a column of stepquota.policy) from text; resumes what can go on. Answers name, value, previous_value, changed. WQ001 a NULL value or a tier that does not exist, WQ014 unknown policy, WQ015 a value that does not fit.';

-- sql/stripe.sql

-- The one writer of the Stripe mirror. Every feeder, webhook, catch-up or listing, ends here.
--
-- Order guard: fetched_at is this database's clock, read before the object was asked for. An answer
-- asked for earlier than the one stored is stale and changes nothing; a deletion is final.

-- The tenant that metadata names, if the text can be one.
create or replace function stepquota._read_metadata_tenant(p_metadata jsonb)
returns text
language sql
stable
as $_read_metadata_tenant$
  select case when octet_length(named.tenant) between 1 and 255 then named.tenant end
    from (select p_metadata ->> p.tenant_metadata_key as tenant from stepquota.policy p) named;
$_read_metadata_tenant$;

-- After policy.tenant_metadata_key changed: what was read under the old key is read again.
create or replace function stepquota._read_metadata_tenants()
returns void
language plpgsql
volatile
as $_read_metadata_tenants$
begin
  update stepquota.stripe_customers c set metadata_tenant = n.tenant
    from (select i.id, stepquota._read_metadata_tenant(i.metadata) as tenant from stepquota.stripe_customers i) n
   where n.id = c.id and c.metadata_tenant is distinct from n.tenant;
  update stepquota.stripe_subscriptions s set metadata_tenant = n.tenant
    from (select i.id, stepquota._read_metadata_tenant(i.metadata) as tenant from stepquota.stripe_subscriptions i) n
   where n.id = s.id and s.metadata_tenant is distinct from n.tenant;
end;
$_read_metadata_tenants$;

-- Always raises WQ016; long values are cut.
create or replace function stepquota._refuse_stripe_object(p_object jsonb, p_problem text)
returns void
language plpgsql
stable
as $_refuse_stripe_object$
begin
  raise exception using
    errcode = 'WQ016',
    message = 'the Stripe object has not the expected shape',
    detail = format('%s; object %s, id %s.', p_problem,
      coalesce(left((p_object -> 'object')::text, 40), 'without type'), coalesce(left((p_object -> 'id')::text, 80), 'missing')),
    hint = 'Pass an object as Stripe''s API answers it; nothing of it was written.';
end;
$_refuse_stripe_object$;

-- A moment from Stripe's unix seconds; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_time(p_object jsonb, p_key text)
returns timestamptz
language plpgsql
stable
as $_read_stripe_time$
declare
  v_value jsonb := p_object -> p_key;
begin
  if v_value is null or jsonb_typeof(v_value) = 'null' then
    return null;
  end if;
  -- Up to the year 9999; beyond it is no moment that Stripe could mean.
  if jsonb_typeof(v_value) <> 'number' or v_value::numeric not between 0 and 253402300799 then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a time in seconds', p_key));
  end if;
  return to_timestamp(v_value::double precision);
end;
$_read_stripe_time$;

-- A text; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_text(p_object jsonb, p_key text, p_is_required boolean default false)
returns text
language plpgsql
stable
as $_read_stripe_text$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> p_key), 'null');
  v_value text := p_object ->> p_key;
begin
  if v_type not in ('string', 'null') or (p_is_required and coalesce(v_value, '') = '') or octet_length(v_value) > 255 then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a text of at most 255 bytes', p_key));
  end if;
  return v_value;
end;
$_read_stripe_text$;

-- A reference to another object: its id, whether it was expanded or not. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_reference(p_object jsonb, p_key text)
returns text
language plpgsql
stable
as $_read_stripe_reference$
begin
  if jsonb_typeof(p_object -> p_key) = 'object' then
    return stepquota._read_stripe_text(p_object -> p_key, 'id', true);
  end if;
  return stepquota._read_stripe_text(p_object, p_key);
end;
$_read_stripe_reference$;

-- The metadata; {} if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_metadata(p_object jsonb)
returns jsonb
language plpgsql
stable
as $_read_stripe_metadata$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> 'metadata'), 'null');
begin
  if v_type = 'null' then
    return '{}'::jsonb;
  end if;
  if v_type <> 'object' then
    perform stepquota._refuse_stripe_object(p_object, 'metadata must be an object');
  end if;
  return p_object -> 'metadata';
end;
$_read_stripe_metadata$;

-- A flag; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_flag(p_object jsonb, p_key text)
returns boolean
language plpgsql
stable
as $_read_stripe_flag$
declare
  v_type text := coalesce(jsonb_typeof(p_object -> p_key), 'null');
begin
  if v_type not in ('boolean', 'null') then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be true or false', p_key));
  end if;
  return (p_object ->> p_key)::boolean;
end;
$_read_stripe_flag$;

-- A count; NULL if the key is absent or null. SQLSTATEs: WQ016.
create or replace function stepquota._read_stripe_count(p_object jsonb, p_key text)
returns bigint
language plpgsql
stable
as $_read_stripe_count$
declare
  v_value jsonb := p_object -> p_key;
begin
  if v_value is null or jsonb_typeof(v_value) = 'null' then
    return null;
  end if;
  if jsonb_typeof(v_value) <> 'number' or v_value::text !~ '^[0-9]{1,9}$' then
    perform stepquota._refuse_stripe_object(p_object, format('%s must be a whole number', p_key));
  end if;
  return v_value::bigint;
end;
$_read_stripe_count$;

-- What an upsert under the order guard did, from the row before and after (NULL after: it was stale).
create or replace function stepquota._describe_write(p_before jsonb, p_after jsonb)
returns text
language sql
immutable
as $_describe_write$
  select case
    when p_after is null then 'stale'
    when p_after ->> 'deleted_at' is not null then 'deleted'
    when p_before is null then 'inserted'
    when p_before - 'fetched_at' = p_after - 'fetched_at' then 'unchanged'
    else 'updated' end;
$_describe_write$;

-- Locks: the product's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_product(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_product$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_products t where t.id = v_id;
  insert into stepquota.stripe_products as t
    (id, metadata, name, active, livemode, created_at, fetched_at, deleted_at)
  values (v_id, stepquota._read_stripe_metadata(p_object), left(p_object ->> 'name', 255),
    stepquota._read_stripe_flag(p_object, 'active'), stepquota._read_stripe_flag(p_object, 'livemode'),
    stepquota._read_stripe_time(p_object, 'created'), p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set metadata = excluded.metadata, name = excluded.name, active = excluded.active, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_product$;

-- Locks: the price's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_price(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_price$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_recurring jsonb := case when jsonb_typeof(p_object -> 'recurring') = 'object' then p_object -> 'recurring' end;
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_prices t where t.id = v_id;
  insert into stepquota.stripe_prices as t
    (id, product_id, metadata, nickname, active, recurring_interval, recurring_interval_count, livemode, created_at,
     fetched_at, deleted_at)
  values (v_id, stepquota._read_stripe_reference(p_object, 'product'), stepquota._read_stripe_metadata(p_object),
    left(p_object ->> 'nickname', 255), stepquota._read_stripe_flag(p_object, 'active'),
    stepquota._read_stripe_text(v_recurring, 'interval'),
    nullif(stepquota._read_stripe_count(v_recurring, 'interval_count'), 0),
    stepquota._read_stripe_flag(p_object, 'livemode'), stepquota._read_stripe_time(p_object, 'created'),
    p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set product_id = excluded.product_id, metadata = excluded.metadata, nickname = excluded.nickname,
        active = excluded.active, recurring_interval = excluded.recurring_interval,
        recurring_interval_count = excluded.recurring_interval_count, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_price$;

-- Locks: the customer's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_customer(p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_customer$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_metadata jsonb := stepquota._read_stripe_metadata(p_object);
  v_tenant text := stepquota._read_metadata_tenant(v_metadata);
  v_before jsonb;
  v_after jsonb;
begin
  select to_jsonb(t) into v_before from stepquota.stripe_customers t where t.id = v_id;
  insert into stepquota.stripe_customers as t
    (id, metadata, metadata_tenant, livemode, created_at, fetched_at, deleted_at)
  values (v_id, v_metadata, v_tenant, stepquota._read_stripe_flag(p_object, 'livemode'),
    stepquota._read_stripe_time(p_object, 'created'), p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set metadata = excluded.metadata, metadata_tenant = excluded.metadata_tenant, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at
  returning to_jsonb(t) into v_after;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_customer$;

-- The subscription with its items. Items are replaced only when their parent was written, so that an
-- older answer never brings back a removed one.
-- Locks: the subscription's row, then its items'. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_subscription(
  p_object jsonb, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns text
language plpgsql
volatile
as $_store_stripe_subscription$
declare
  v_id text := stepquota._read_stripe_text(p_object, 'id', true);
  v_metadata jsonb := stepquota._read_stripe_metadata(p_object);
  v_tenant text := stepquota._read_metadata_tenant(v_metadata);
  v_customer_id text := stepquota._read_stripe_reference(p_object, 'customer');
  v_before jsonb;
  v_after jsonb;
begin
  if p_deleted_at is null and v_customer_id is null then
    perform stepquota._refuse_stripe_object(p_object, 'customer is missing');
  end if;
  if p_deleted_at is null and coalesce(jsonb_typeof(p_object #> '{items,data}'), 'null') <> 'array' then
    perform stepquota._refuse_stripe_object(p_object, 'items must be a list of subscription items');
  end if;
  select to_jsonb(t) into v_before from stepquota._list_subscription_with_items(v_id) t;
  insert into stepquota.stripe_subscriptions as t
    (id, customer_id, status, metadata, metadata_tenant, billing_cycle_anchor, cancel_at, cancel_at_period_end,
     canceled_at, ended_at, trial_start, trial_end, pause_collection, livemode, created_at, fetched_at, deleted_at)
  values (v_id, v_customer_id,
    case when p_deleted_at is null then stepquota._read_stripe_text(p_object, 'status', true) else 'deleted' end,
    v_metadata, v_tenant, stepquota._read_stripe_time(p_object, 'billing_cycle_anchor'),
    stepquota._read_stripe_time(p_object, 'cancel_at'),
    coalesce(stepquota._read_stripe_flag(p_object, 'cancel_at_period_end'), false),
    stepquota._read_stripe_time(p_object, 'canceled_at'), stepquota._read_stripe_time(p_object, 'ended_at'),
    stepquota._read_stripe_time(p_object, 'trial_start'), stepquota._read_stripe_time(p_object, 'trial_end'),
    case when jsonb_typeof(p_object -> 'pause_collection') = 'object' then p_object -> 'pause_collection' end,
    stepquota._read_stripe_flag(p_object, 'livemode'), stepquota._read_stripe_time(p_object, 'created'),
    p_fetched_at, p_deleted_at)
  on conflict (id) do update
    set customer_id = coalesce(excluded.customer_id, t.customer_id), status = excluded.status,
        metadata = excluded.metadata, metadata_tenant = excluded.metadata_tenant,
        billing_cycle_anchor = excluded.billing_cycle_anchor, cancel_at = excluded.cancel_at,
        cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
        ended_at = excluded.ended_at, trial_start = excluded.trial_start, trial_end = excluded.trial_end,
        pause_collection = excluded.pause_collection, livemode = excluded.livemode,
        created_at = excluded.created_at, fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
    where t.deleted_at is null and excluded.fetched_at >= t.fetched_at;
  if not found then
    return 'stale';
  end if;
  perform stepquota._store_stripe_items(p_object, v_id, p_fetched_at, p_deleted_at);
  select to_jsonb(t) into v_after from stepquota._list_subscription_with_items(v_id) t;
  return stepquota._describe_write(v_before, v_after);
end;
$_store_stripe_subscription$;

-- A subscription and its items as one value, to compare before and after.
create or replace function stepquota._list_subscription_with_items(p_subscription_id text)
returns table (fetched_at timestamptz, deleted_at timestamptz, subscription jsonb, items jsonb)
language sql
stable
as $_list_subscription_with_items$
  select s.fetched_at, s.deleted_at, to_jsonb(s) - 'fetched_at',
         (select jsonb_agg(to_jsonb(i) - 'fetched_at' order by i.id)
            from stepquota.stripe_subscription_items i
           where i.subscription_id = s.id)
    from stepquota.stripe_subscriptions s
   where s.id = p_subscription_id;
$_list_subscription_with_items$;

-- The period is the item's since API version 2025-03-31.basil; before, it was the subscription's
-- (https://docs.stripe.com/changelog/basil/2025-03-31/deprecate-subscription-current-period-start-and-end).
-- One that has neither is refused: a NULL period would silently take the quota away.
-- Locks: the caller holds the subscription's row. SQLSTATEs: WQ016.
create or replace function stepquota._store_stripe_items(
  p_subscription jsonb, p_subscription_id text, p_fetched_at timestamptz, p_deleted_at timestamptz)
returns void
language plpgsql
volatile
as $_store_stripe_items$
declare
  v_item jsonb;
  v_period_start timestamptz;
  v_period_end timestamptz;
  v_seen text[] := '{}'::text[];
begin
  for v_item in
    select i.value
      from jsonb_array_elements(case when jsonb_typeof(p_subscription #> '{items,data}') = 'array'
             then p_subscription #> '{items,data}' else '[]' end) i
  loop
    if jsonb_typeof(v_item) <> 'object' then
      perform stepquota._refuse_stripe_object(p_subscription, 'items must hold objects');
    end if;
    v_period_start := coalesce(stepquota._read_stripe_time(v_item, 'current_period_start'),
      stepquota._read_stripe_time(p_subscription, 'current_period_start'));
    v_period_end := coalesce(stepquota._read_stripe_time(v_item, 'current_period_end'),
      stepquota._read_stripe_time(p_subscription, 'current_period_end'));
    if v_period_start is null or v_period_end is null or v_period_end <= v_period_start then
      perform stepquota._refuse_stripe_object(p_subscription,
        format('item %s has no period, and neither has the subscription', v_item -> 'id'));
    end if;
    v_seen := v_seen || stepquota._read_stripe_text(v_item, 'id', true);
    insert into stepquota.stripe_subscription_items as t
      (id, subscription_id, price_id, current_period_start, current_period_end, metadata, quantity, created_at,
       fetched_at, deleted_at)
    values (v_item ->> 'id', p_subscription_id, stepquota._read_stripe_reference(v_item, 'price'), v_period_start,
      v_period_end, stepquota._read_stripe_metadata(v_item), stepquota._read_stripe_count(v_item, 'quantity'),
      stepquota._read_stripe_time(v_item, 'created'), p_fetched_at, p_deleted_at)
    on conflict (id) do update
      set subscription_id = excluded.subscription_id, price_id = excluded.price_id,
          current_period_start = excluded.current_period_start, current_period_end = excluded.current_period_end,
          metadata = excluded.metadata, quantity = excluded.quantity, created_at = excluded.created_at,
          fetched_at = excluded.fetched_at, deleted_at = excluded.deleted_at
      where excluded.fetched_at >= t.fetched_at;
  end loop;
  -- A list that says it has more is only its first page: what is missing there may still exist.
  if p_deleted_at is not null or not coalesce(stepquota._read_stripe_flag(p_subscription -> 'items', 'has_more'), false) then
    update stepquota.stripe_subscription_items
       set deleted_at = p_fetched_at, fetched_at = p_fetched_at
     where subscription_id = p_subscription_id and deleted_at is null and id <> all (v_seen);
  end if;
end;
$_store_stripe_items$;

-- The tenants whose quota an object has a say in.
create or replace function stepquota._list_stripe_tenants(p_object_type text, p_object_id text)
returns setof text
language sql
stable
as $_list_stripe_tenants$
  with subscriptions as (
    select s.customer_id, s.metadata_tenant
      from stepquota.stripe_subscriptions s
     where (p_object_type = 'subscription' and s.id = p_object_id)
        or (p_object_type = 'customer' and s.customer_id = p_object_id)
        or (p_object_type in ('price', 'product') and s.id in (
             select i.subscription_id
               from stepquota.stripe_subscription_items i
              where i.deleted_at is null
                and i.price_id in (
                  select p_object_id where p_object_type = 'price'
                  union all
                  select p.id from stepquota.stripe_prices p
                   where p_object_type = 'product' and p.product_id = p_object_id)))
  )
  select distinct coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant)
    from subscriptions s
    left join stepquota.stripe_customer_tenants m on m.customer_id = s.customer_id
    left join stepquota.stripe_customers c on c.id = s.customer_id
   where coalesce(m.tenant, c.metadata_tenant, s.metadata_tenant) is not null;
$_list_stripe_tenants$;

-- Stores the object and what is expanded in it; one row an object, parts before the whole.
-- SQLSTATEs: WQ016, WQ017.
create or replace function stepquota._store_stripe_object(p_object jsonb, p_fetched_at timestamptz)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
as $_store_stripe_object$
declare
  v_part jsonb;
  v_deleted_at timestamptz;
begin
  if p_object is null or jsonb_typeof(p_object) <> 'object' then
    perform stepquota._refuse_stripe_object(null,
      format('p_object is %s', coalesce('a JSON ' || jsonb_typeof(p_object), 'NULL')));
  end if;
  object_type := stepquota._read_stripe_text(p_object, 'object', true);
  object_id := stepquota._read_stripe_text(p_object, 'id', true);
  if object_type not in ('product', 'price', 'customer', 'subscription') then
    raise exception using
      errcode = 'WQ017',
      message = 'the mirror does not keep this type of Stripe object',
      detail = format('The object is a %L, id %L.', object_type, object_id),
      hint = 'It keeps products, prices, customers and subscriptions with their items.';
  end if;
  if stepquota._read_stripe_flag(p_object, 'deleted') then
    v_deleted_at := p_fetched_at;
  end if;

  for v_part in
    select part.value
      from (
        select 1 as place, 0::bigint as item, p_object -> 'product' as value where object_type = 'price'
        union all
        select 2, 0, p_object -> 'customer' where object_type = 'subscription'
        union all
        select 3, i.item, i.value -> 'price'
          from jsonb_array_elements(case when object_type = 'subscription'
                 and jsonb_typeof(p_object #> '{items,data}') = 'array'
                 then p_object #> '{items,data}' else '[]' end) with ordinality as i (value, item)) part
     where jsonb_typeof(part.value) = 'object'
     order by part.place, part.item
  loop
    return query select s.object_type, s.object_id, s.action
                   from stepquota._store_stripe_object(v_part, p_fetched_at) s;
  end loop;

  action := case object_type
    when 'product' then stepquota._store_stripe_product(p_object, p_fetched_at, v_deleted_at)
    when 'price' then stepquota._store_stripe_price(p_object, p_fetched_at, v_deleted_at)
    when 'customer' then stepquota._store_stripe_customer(p_object, p_fetched_at, v_deleted_at)
    else stepquota._store_stripe_subscription(p_object, p_fetched_at, v_deleted_at)
  end;
  return next;
end;
$_store_stripe_object$;

-- Writes an object into the mirror, refreshes the quotas of the tenants it has a say in, and resumes
-- what can go on, in this transaction.
-- Locks: the mirror's rows; then as _refresh_and_resume. SQLSTATEs: WQ001, WQ016, WQ017.
create or replace function stepquota.apply_stripe_object(p_object jsonb, p_fetched_at timestamptz)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $apply_stripe_object$
declare
  v_now timestamptz := stepquota._now();
  v_written record;
  v_tenants text[] := '{}'::text[];
begin
  if p_fetched_at is null or not isfinite(p_fetched_at) then
    perform stepquota._refuse_argument('p_fetched_at', p_fetched_at::text, 'a moment',
      'Read the database''s clock before you ask Stripe for the object, and pass it here.');
  end if;
  -- Whose it was before, in case the write takes it away from a tenant.
  if jsonb_typeof(p_object) = 'object' then
    v_tenants := array(select t from stepquota._list_stripe_tenants(p_object ->> 'object', p_object ->> 'id') t);
  end if;
  for v_written in select s.* from stepquota._store_stripe_object(p_object, p_fetched_at) s loop
    object_type := v_written.object_type;
    object_id := v_written.object_id;
    action := v_written.action;
    if action in ('inserted', 'updated', 'deleted') then
      v_tenants := v_tenants || array(select t from stepquota._list_stripe_tenants(object_type, object_id) t);
    end if;
    return next;
  end loop;
  perform stepquota._refresh_and_resume(v_tenants, 'stripe', v_now);
end;
$apply_stripe_object$;

-- The application's word on whose customer it is.
-- Locks: the mapping's row; then as _refresh_and_resume. SQLSTATEs: WQ001.
create or replace function stepquota.map_stripe_customer(p_customer text, p_tenant text)
returns table (object_type text, object_id text, action text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $map_stripe_customer$
declare
  v_now timestamptz := stepquota._now();
  v_tenants text[];
  v_previous_tenant text;
begin
  perform stepquota._check_tenant(p_tenant);
  perform stepquota._check_name('p_customer', p_customer);
  v_tenants := array(select t from stepquota._list_stripe_tenants('customer', p_customer) t);
  select m.tenant into v_previous_tenant
    from stepquota.stripe_customer_tenants m
   where m.customer_id = p_customer
     for no key update;
  action := case when not found then 'inserted' when v_previous_tenant = p_tenant then 'unchanged' else 'updated' end;
  object_type := 'customer';
  object_id := p_customer;
  if action <> 'unchanged' then
    insert into stepquota.stripe_customer_tenants (customer_id, tenant, mapped_at) values (p_customer, p_tenant, v_now)
    on conflict (customer_id) do update set tenant = excluded.tenant, mapped_at = excluded.mapped_at;
    perform stepquota._record_event(p_tenant, 'customer_mapped', 'info', null,
      jsonb_build_object('stripe_customer_id', p_customer, 'from', v_previous_tenant, 'by', session_user), v_now);
    perform stepquota._refresh_and_resume(v_tenants || p_tenant, 'customer mapping', v_now);
  end if;
  return next;
end;
$map_stripe_customer$;

comment on function stepquota._read_metadata_tenant(jsonb) is 'The tenant that metadata names.';
comment on function stepquota._read_metadata_tenants() is 'Reads all metadata''s tenants again.';
comment on function stepquota._refuse_stripe_object(jsonb, text) is 'Raises WQ016.';
comment on function stepquota._read_stripe_time(jsonb, text) is 'A moment of a Stripe object.';
comment on function stepquota._read_stripe_text(jsonb, text, boolean) is 'A text of a Stripe object.';
comment on function stepquota._read_stripe_reference(jsonb, text) is 'The id of an object that a Stripe object refers to, expanded or not.';
comment on function stepquota._read_stripe_metadata(jsonb) is 'The metadata of a Stripe object.';
comment on function stepquota._read_stripe_flag(jsonb, text) is 'A flag of a Stripe object.';
comment on function stepquota._read_stripe_count(jsonb, text) is 'A count of a Stripe object.';
comment on function stepquota._describe_write(jsonb, jsonb) is 'What an upsert did: inserted, updated, unchanged, deleted or stale.';
comment on function stepquota._store_stripe_product(jsonb, timestamptz, timestamptz) is 'Writes a product.';
comment on function stepquota._store_stripe_price(jsonb, timestamptz, timestamptz) is 'Writes a price.';
comment on function stepquota._store_stripe_customer(jsonb, timestamptz, timestamptz) is 'Writes a customer.';
comment on function stepquota._store_stripe_subscription(jsonb, timestamptz, timestamptz) is 'Writes a subscription with its items.';
comment on function stepquota._list_subscription_with_items(text) is 'A subscription and its items as one row.';
comment on function stepquota._store_stripe_items(jsonb, text, timestamptz, timestamptz) is 'Writes the items of a subscription.';
comment on function stepquota._list_stripe_tenants(text, text) is 'The tenants whose quota an object has a say in.';
comment on function stepquota._store_stripe_object(jsonb, timestamptz) is 'Writes an object and what is expanded in it.';
comment on function stepquota.apply_stripe_object(jsonb, timestamptz) is
  'Writes a product, price, customer or subscription (with items and expanded parts; or {id, object, deleted: true}) into the mirror, refreshes the quotas it has a say in and resumes what can go on. p_fetched_at is this database''s clock, read before Stripe was asked. One row an object: object_type, object_id, action (inserted, updated, unchanged, deleted, stale). WQ001 no moment, WQ016 malformed, WQ017 another type.';
comment on function stepquota.map_stripe_customer(text, text) is
  'Says whose customer it is, before any metadata; refreshes the quotas of both tenants and resumes what can go on. Answers object_type, object_id, action (inserted, updated, unchanged). WQ001 bad arguments.';

-- sql/reconciliation.sql

-- Counter against ledger, for one period.

-- One statement, so both sides are of one snapshot. Units that nothing explains are recorded once a
-- period, where this may write.
-- Takes no locks. SQLSTATEs: WQ001, WQ018.
create or replace function stepquota.reconcile_workflow_step_usage(p_tenant text, p_period_start timestamptz)
returns table (
  tenant text, period_start timestamptz, period_end timestamptz, counter_used_count bigint,
  ledger_step_count bigint, drift bigint, unledgered_count bigint)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $reconcile_workflow_step_usage$
#variable_conflict use_column
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_tenant(p_tenant);
  if p_period_start is null then
    perform stepquota._refuse_argument('p_period_start', null, 'a moment',
      'Pass the period_start that a reservation answered.');
  end if;
  select p_tenant, p_period_start, p.period_end, c.used_count, l.step_count, c.used_count - l.step_count,
         c.unledgered_count
    into tenant, period_start, period_end, counter_used_count, ledger_step_count, drift, unledgered_count
    from (select coalesce(sum(u.used_count), 0)::bigint as used_count,
                 coalesce(sum(u.unledgered_count), 0)::bigint as unledgered_count
            from stepquota.workflow_step_usage_lanes u
           where u.tenant = p_tenant and u.period_start = p_period_start) c
   cross join (select stepquota._host_count_steps(p_tenant, p_period_start) as step_count) l
    left join stepquota.workflow_step_usage_periods p
      on p.tenant = p_tenant and p.period_start = p_period_start
   where p.tenant is not null or c.used_count > 0 or l.step_count > 0;
  if not found then
    raise exception using
      errcode = 'WQ018',
      message = 'the tenant has no such period',
      detail = format('Tenant %L, period_start %s.', p_tenant, stepquota._format_moment(p_period_start)),
      hint = coalesce('Its latest periods start at ' || (
        select string_agg(stepquota._format_moment(s.period_start), ', ' order by s.period_start desc)
          from (select u.period_start from stepquota.workflow_step_usage_periods u
                 where u.tenant = p_tenant order by u.period_start desc limit 3) s) || '.',
        'It has used nothing yet.');
  end if;
  if drift <> unledgered_count and current_setting('transaction_read_only') = 'off'
     and not exists (
       select 1 from stepquota.quota_events e
        where e.tenant = p_tenant and e.event_type = 'usage_drift'
          and (e.details ->> 'period_start')::timestamptz = p_period_start) then
    perform stepquota._record_event(p_tenant, 'usage_drift', 'error', null,
      jsonb_build_object('counter_used_count', counter_used_count, 'ledger_step_count', ledger_step_count,
        'drift', drift, 'unledgered_count', unledgered_count, 'period_start', p_period_start), v_now);
  end if;
  return next;
end;
$reconcile_workflow_step_usage$;

comment on function stepquota.reconcile_workflow_step_usage(text, timestamptz) is
  'Compares counter and ledger of a period: counter_used_count, ledger_step_count, drift (counter minus ledger). unledgered_count are the units that reserve_workflow_step took, whose callers keep the ledger: drift minus unledgered_count is 0 when nothing is wrong. WQ001 bad arguments, WQ018 no such period.';

-- sql/verification.sql

-- Is it right? Every invariant as a query; a row for each violation.

-- Reads everything, so not for every minute. Takes no locks.
create or replace function stepquota.verify_all()
returns table (invariant text, tenant text, object text, detail text)
language sql
stable
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $verify_all$
  -- I1: what the lanes own together is the limit, or what is used where a limit was lowered below it.
  select 'I1 exact', q.tenant, q.period_start::text,
         format('limit %s, used %s, but the lanes own %s', coalesce(q.effective_limit::text, 'unlimited'),
           l.used_count, coalesce(l.allowance::text, 'unlimited'))
    from stepquota.workflow_step_quotas q
    join (select u.tenant, u.period_start, sum(u.used_count) as used_count,
                 case when bool_and(u.allowance is not null) then sum(u.allowance) end as allowance
            from stepquota.workflow_step_usage_lanes u
           group by u.tenant, u.period_start) l
      on l.tenant = q.tenant and l.period_start = q.period_start
   where q.effective_limit is distinct from l.allowance
     and l.allowance is distinct from greatest(q.effective_limit, l.used_count)
  union all
  select 'I1 exact', q.tenant, q.period_start::text, 'the current period has no lane'
    from stepquota.workflow_step_quotas q
   where not exists (
     select 1 from stepquota.workflow_step_usage_lanes u
      where u.tenant = q.tenant and u.period_start = q.period_start)
  union all
  -- I1: more used than the limit ever was in the period.
  select 'I1 exact', l.tenant, l.period_start::text,
         format('lane %s used %s of its %s, and the limit was not lowered', l.lane, l.used_count, l.allowance)
    from stepquota.workflow_step_usage_lanes l
   where l.used_count > l.allowance
     and not exists (
       select 1 from stepquota.quota_events e
        where e.tenant = l.tenant and e.event_type = 'limit_changed'
          and (e.details ->> 'period_start')::timestamptz = l.period_start
          and (e.details ->> 'to')::bigint < coalesce((e.details ->> 'from')::bigint, 9223372036854775807))
  union all
  -- I3: units counted with a ledger row, and ledger rows, are the same number in every period.
  select 'I3 conserved', coalesce(c.tenant, s.tenant), coalesce(c.period_start, s.period_start)::text,
         format('counter %s, ledger %s', coalesce(c.ledgered_count, 0), coalesce(s.step_count, 0))
    from (select u.tenant, u.period_start, sum(u.used_count - u.unledgered_count) as ledgered_count
            from stepquota.workflow_step_usage_lanes u
           group by u.tenant, u.period_start) c
    full join stepquota._host_count_all_steps() s on s.tenant = c.tenant and s.period_start = c.period_start
   where coalesce(c.ledgered_count, 0) <> coalesce(s.step_count, 0)
  union all
  -- I5: every run that waits has something it waits for, and will be brought back by.
  select 'I5 no lost run', r.tenant, r.run_id, 'the run is WAITING and has no open wait'
    from stepquota.workflow_runs r
   where r.status = 'WAITING'
     and not exists (
       select 1 from stepquota.workflow_run_waits w
        where w.tenant = r.tenant and w.run_id = r.run_id and w.status = 'WAITING')
  union all
  select 'I5 no lost run', w.tenant, w.run_id,
         format('wait %s is open, but the run is %s', w.wait_id, coalesce(r.status, 'unknown'))
    from stepquota.workflow_run_waits w
    left join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
   where w.status = 'WAITING' and coalesce(r.status, '') not in ('RUNNING', 'WAITING')
  union all
  select distinct 'I5 no lost run', w.tenant, w.run_id, 'the run is paused by quota, but its tenant is not among paused_tenants'
    from stepquota.workflow_run_waits w
   where w.status = 'WAITING' and w.wait_type = 'quota'
     and not exists (select 1 from stepquota.paused_tenants t where t.tenant = w.tenant)
  union all
  select 'I5 no lost run', p.tenant, p.resumption_id::text,
         format('the resumption is open, but its run %s is %s', p.run_id, coalesce(r.status, 'unknown'))
    from stepquota.workflow_run_resumptions p
    left join stepquota.workflow_runs r on r.tenant = p.tenant and r.run_id = p.run_id
   where p.status = 'OPEN' and coalesce(r.status, '') not in ('RUNNING', 'WAITING')
  union all
  -- I5: a quota wait that was resolved left a resumption or a started step for each of its paths.
  select 'I5 no lost run', w.tenant, w.run_id, format('quota wait %s was resolved, but nothing goes on at %s', w.wait_id, w.node_path)
    from stepquota.workflow_run_waits w
    join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
   where w.wait_type = 'quota' and w.status = 'RESOLVED' and r.status in ('RUNNING', 'WAITING')
     and not exists (
       select 1 from stepquota.workflow_run_resumptions p where p.tenant = w.tenant and p.wait_id = w.wait_id)
     and not exists (
       select 1 from stepquota.workflow_run_steps s
        where s.tenant = w.tenant and s.run_id = w.run_id and s.node_path = any (w.node_paths)
          and s.ledger_month = r.ledger_month);
$verify_all$;

comment on function stepquota.verify_all() is
  'Checks the invariants: I1 exact, I3 counter = ledger, I5 no run is lost. A row for each violation: invariant, tenant, object, detail; no row when all holds. Reads all usage and runs.';

-- sql/cron.sql

-- Scheduling by pg_cron, where it is. Nothing here is needed for another scheduler: that one calls
-- stepquota.tick().
--
-- Invoker's rights throughout: pg_cron runs a job as the role that scheduled it, and a function owner
-- without login would make a job that fails for ever.

-- What is to be scheduled.
create or replace function stepquota.list_cron_jobs(p_schedule text)
returns table (job_name text, schedule text, command text)
language sql
immutable
as $list_cron_jobs$
  values ('stepquota:tick', p_schedule, 'call stepquota.tick()');
$list_cron_jobs$;

-- The statements that schedule the jobs by hand, for a pg_cron that lives in another database too.
create or replace function stepquota.cron_sql()
returns setof text
language sql
stable
set search_path = pg_catalog, pg_temp
as $cron_sql$
  -- Jobs of one role must have different names, or those of another database would be replaced.
  select format('select cron.schedule_in_database(%L, %L, %L, %L);', j.job_name || '@' || current_database(), j.schedule,
           j.command, current_database())
    from stepquota.list_cron_jobs('*/5 * * * *') j;
$cron_sql$;

-- Each obstacle has its own SQLSTATE and says what to run. Probed in an order in which no probe can
-- fail by itself: to_regclass would raise for a schema one may not use.
-- SQLSTATEs: WQ020, WQ021, WQ022, WQ023, WQ024.
create or replace function stepquota.check_cron(p_schedule text)
returns void
language plpgsql
stable
as $check_cron$
declare
  v_version text;
  v_cron_database text;
begin
  select e.extversion into v_version from pg_catalog.pg_extension e where e.extname = 'pg_cron';
  if not found then
    -- Readable only with pg_read_all_settings; without it we know less, not nothing.
    begin
      v_cron_database := pg_catalog.current_setting('cron.database_name', true);
    exception when insufficient_privilege then
      v_cron_database := null;
    end;
    if v_cron_database is not null and v_cron_database <> '' and v_cron_database <> pg_catalog.current_database() then
      raise exception using
        errcode = 'WQ022',
        message = 'pg_cron lives in another database of this server',
        detail = pg_catalog.format('It is in %L; this is %L.', v_cron_database, pg_catalog.current_database()),
        hint = pg_catalog.format('Connect to %s and run: %s', v_cron_database,
          (select pg_catalog.string_agg(s, ' ') from stepquota.cron_sql() s));
    end if;
    raise exception using
      errcode = 'WQ020',
      message = 'pg_cron is not installed in this database',
      detail = pg_catalog.format('Database %L has no extension pg_cron.', pg_catalog.current_database()),
      hint = 'With pg_cron in shared_preload_libraries, a superuser runs: create extension pg_cron; '
        || 'Without pg_cron, let any scheduler run: call stepquota.tick();';
  end if;
  if not pg_catalog.has_schema_privilege('cron', 'usage') then
    raise exception using
      errcode = 'WQ021',
      message = 'the role may not use pg_cron',
      detail = pg_catalog.format('Role %L has no USAGE on schema cron.', current_user),
      hint = pg_catalog.format('A superuser runs: grant usage on schema cron to %I;', current_user);
  end if;
  if not (select r.rolcanlogin from pg_catalog.pg_roles r where r.rolname = current_user) then
    raise exception using
      errcode = 'WQ024',
      message = 'the role that would run the jobs cannot log in',
      detail = pg_catalog.format('pg_cron would run them as %L.', current_user),
      hint = 'Call enable_cron as a role that can log in and has stepquota_operator.';
  end if;
  if p_schedule is null
     or not (p_schedule ~ '^\s*[1-5]?[0-9] seconds?\s*$'
             or pg_catalog.cardinality(pg_catalog.regexp_split_to_array(pg_catalog.btrim(p_schedule), '\s+')) = 5) then
    raise exception using
      errcode = 'WQ023',
      message = 'pg_cron does not know this schedule',
      detail = pg_catalog.format('p_schedule is %L.', p_schedule),
      hint = 'Five fields such as */5 * * * *, or with pg_cron 1.5 and newer ''30 seconds''.';
  end if;
  if p_schedule ~ 'second' and pg_catalog.string_to_array(pg_catalog.split_part(v_version, '-', 1), '.')::integer[] < array[1, 5] then
    raise exception using
      errcode = 'WQ023',
      message = 'this pg_cron is too old for a schedule in seconds',
      detail = pg_catalog.format('p_schedule is %L, pg_cron is %s; seconds need 1.5.', p_schedule, v_version),
      hint = 'Run: select * from stepquota.enable_cron(''* * * * *'');';
  end if;
end;
$check_cron$;

-- Schedules the jobs, or changes their schedule; a job that an operator has switched off stays off.
-- SQLSTATEs: WQ020, WQ021, WQ022, WQ023, WQ024.
create or replace function stepquota.enable_cron(p_schedule text default '*/5 * * * *')
returns table (job_name text, schedule text, command text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $enable_cron$
declare
  v_job record;
begin
  perform stepquota.check_cron(p_schedule);
  for v_job in select j.* from stepquota.list_cron_jobs(btrim(p_schedule)) j loop
    begin
      -- Dynamic, so that this function exists where pg_cron does not.
      execute format('select %I.schedule($1, $2, $3)', 'cron') using v_job.job_name, v_job.schedule, v_job.command;
    exception
      when insufficient_privilege then
        raise exception using
          errcode = 'WQ021',
          message = 'the role may not schedule jobs',
          detail = format('Role %L: %s.', current_user, sqlerrm),
          hint = format('A superuser runs: grant execute on function cron.schedule(text, text, text) to %I;', current_user);
      when invalid_parameter_value or internal_error then
        raise exception using
          errcode = 'WQ023',
          message = 'pg_cron does not know this schedule',
          detail = format('p_schedule is %L: %s.', p_schedule, sqlerrm),
          hint = 'Five fields such as */5 * * * *.';
    end;
    perform stepquota.record_scheduler_job(v_job.job_name, v_job.schedule, v_job.command, current_user::text);
    job_name := v_job.job_name;
    schedule := v_job.schedule;
    command := v_job.command;
    return next;
  end loop;
end;
$enable_cron$;

-- Removes our jobs and nobody else's. Where pg_cron is gone, they are gone with it.
create or replace function stepquota.disable_cron()
returns table (job_name text)
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $disable_cron$
declare
  v_has_cron boolean := exists (select 1 from pg_extension e where e.extname = 'pg_cron');
  v_job_id bigint;
begin
  if v_has_cron and has_schema_privilege('cron', 'usage') then
    for v_job_id, job_name in
      execute format(
        'select j.jobid, j.jobname::text from %I.job j where j.jobname = any ($1) '
        ' and j.username = current_user and j.database = current_database()', 'cron')
        using array(select j.job_name from stepquota.list_cron_jobs('') j)
    loop
      execute format('select %I.unschedule($1)', 'cron') using v_job_id;
      return next;
    end loop;
  end if;
  -- Another role's job goes on, and stays known.
  perform stepquota.record_scheduler_job(j.job_name, null, null, case when v_has_cron then current_user::text end)
     from stepquota.list_cron_jobs('') j;
end;
$disable_cron$;

-- For enable_cron and disable_cron, which run with their caller's rights: remembers a job, or forgets
-- it when the schedule is NULL, whoever scheduled it if the role is NULL too.
-- SQLSTATEs: WQ001.
create or replace function stepquota.record_scheduler_job(
  p_job_name text, p_schedule text, p_command text, p_scheduled_by text)
returns void
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $record_scheduler_job$
declare
  v_now timestamptz := stepquota._now();
begin
  perform stepquota._check_name('p_job_name', p_job_name);
  if p_schedule is null then
    delete from stepquota.scheduler_jobs
     where job_name = p_job_name and (p_scheduled_by is null or scheduled_by = p_scheduled_by);
    return;
  end if;
  perform stepquota._check_name('p_schedule', p_schedule);
  perform stepquota._check_name('p_command', p_command);
  perform stepquota._check_name('p_scheduled_by', p_scheduled_by);
  insert into stepquota.scheduler_jobs (job_name, schedule, command, scheduled_by, scheduled_at)
  values (p_job_name, p_schedule, p_command, p_scheduled_by, v_now)
  on conflict (job_name) do update
    set schedule = excluded.schedule, command = excluded.command,
        scheduled_by = excluded.scheduled_by, scheduled_at = excluded.scheduled_at;
end;
$record_scheduler_job$;

comment on function stepquota.list_cron_jobs(text) is 'For enable_cron: the jobs to schedule, as job_name, schedule, command.';
comment on function stepquota.check_cron(text) is 'For enable_cron: raises WQ020 to WQ024 unless pg_cron can run our jobs, as the calling role, by this schedule.';
comment on function stepquota.cron_sql() is
  'The statements that schedule our jobs, to run by hand in the database where pg_cron lives.';
comment on function stepquota.enable_cron(text) is
  'Schedules tick() with pg_cron, as the calling role; calling again changes the schedule. Answers job_name, schedule, command. WQ020 pg_cron is missing, WQ021 not granted, WQ022 in another database, WQ023 malformed schedule or pg_cron too old for it, WQ024 the role cannot log in.';
comment on function stepquota.disable_cron() is
  'Removes the jobs that enable_cron scheduled as the calling role; answers their names. Nothing happens where there are none.';
comment on function stepquota.record_scheduler_job(text, text, text, text) is
  'For enable_cron and disable_cron: remembers or forgets a job. WQ001 for a missing name.';

-- sql/status.sql

-- How is it wired, and is it alive? Cheap enough for every minute; verify_all() is the thorough one.

create or replace function stepquota.status()
returns table (item text, state text, detail text, hint text)
language plpgsql
volatile
-- Definer: callers have no right to the tables.
security definer
set search_path = pg_catalog, pg_temp
as $status$
declare
  v_now timestamptz := stepquota._now();
  v_policy stepquota.policy;
  v_job stepquota.scheduler_jobs;
  v_scan stepquota.resume_scans;
  v_missing text;
  v_count bigint;
  v_oldest timestamptz;
begin
  select p.* into v_policy from stepquota.policy p;

  item := 'version';
  state := 'ok';
  detail := format('stepquota %s on PostgreSQL %s', stepquota.version(), current_setting('server_version'));
  hint := null;
  return next;

  item := 'clock';
  if v_policy.allow_test_clock then
    state := 'warn';
    detail := format('the test clock is allowed; now is %s', stepquota._format_moment(v_now));
    hint := 'Outside tests: update stepquota.policy set allow_test_clock = false;';
  else
    state := 'ok';
    detail := 'the database''s clock decides';
    hint := null;
  end if;
  return next;

  item := 'roles';
  select string_agg(r.name, ', ') into v_missing
    from unnest(array['stepquota_runtime', 'stepquota_operator', 'stepquota_sync', 'stepquota_observer']) as r (name)
   where not exists (select 1 from pg_roles p where p.rolname = r.name);
  state := case when v_missing is null then 'ok' else 'info' end;
  detail := coalesce('missing: ' || v_missing, 'all four are there');
  hint := case when v_missing is not null
    then 'Optional. A role with CREATEROLE makes them; migrate again grants to them.' end;
  return next;

  item := 'scheduler';
  select j.* into v_job from stepquota.scheduler_jobs j order by j.job_name limit 1;
  select s.* into v_scan from stepquota.resume_scans s where s.finished_at is not null order by s.scan_id desc limit 1;
  if v_scan.scan_id is null then
    state := 'warn';
    detail := case when v_job.job_name is null then 'nothing is scheduled and no scan has run'
      else format('pg_cron runs %s at %L; no scan has run yet', v_job.job_name, v_job.schedule) end;
    hint := 'Schedule it: select * from stepquota.enable_cron(); or let any scheduler run: call stepquota.tick();';
  else
    state := case when v_now - v_scan.finished_at > interval '15 minutes' then 'warn' else 'ok' end;
    detail := format('%s; the last scan ended at %s and resumed %s runs',
      case when v_job.job_name is null then 'not by enable_cron'
        else format('pg_cron runs %s at %L as %s', v_job.job_name, v_job.schedule, v_job.scheduled_by) end,
      stepquota._format_moment(v_scan.finished_at), v_scan.runs_resumed);
    hint := case when state = 'warn' then 'No scan for over 15 minutes: look at cron.job_run_details, or call stepquota.tick() by hand.' end;
  end if;
  return next;

  item := 'last scan errors';
  v_count := coalesce(jsonb_array_length(v_scan.errors), 0);
  state := case when v_count > 0 then 'error' else 'ok' end;
  detail := case when v_count > 0 then format('%s tenants failed, first: %s', v_count, v_scan.errors #>> '{0,message}')
    else 'none' end;
  hint := case when v_count > 0
    then format('select errors from stepquota.resume_scans where scan_id = %s;', v_scan.scan_id) end;
  return next;

  item := 'ledger partitions';
  select string_agg(to_char(m.month, 'YYYY-MM'), ', ' order by m.month) into v_missing
    from generate_series(stepquota._ledger_month(v_now), stepquota._ledger_month(v_now) + interval '3 months',
           interval '1 month') as m (month)
   where to_regclass('stepquota.workflow_run_steps_' || to_char(m.month, 'YYYY_MM')) is null;
  state := case when v_missing is null then 'ok' else 'warn' end;
  detail := coalesce('missing: ' || v_missing, 'three months ahead are made');
  hint := case when v_missing is not null then 'Run: select stepquota.make_ledger_partitions(); tick() does it too.' end;
  return next;

  item := 'paused tenants';
  select count(*), min(t.due_at) into v_count, v_oldest from stepquota.paused_tenants t;
  state := case when v_oldest < v_now - interval '15 minutes' then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'none' else format('%s; the next is due at %s', v_count, stepquota._format_moment(v_oldest)) end;
  hint := case when state = 'warn' then 'The scan is behind: see scheduler.' end;
  return next;

  item := 'resumptions';
  select count(*), min(r.created_at) into v_count, v_oldest
    from stepquota.workflow_run_resumptions r where r.status = 'OPEN';
  state := case when v_oldest < v_now - interval '15 minutes' then 'warn' else 'ok' end;
  detail := case when v_count = 0 then 'all taken'
    else format('%s to be taken, the oldest since %s', v_count, stepquota._format_moment(v_oldest)) end;
  hint := case when state = 'warn'
    then 'No runtime takes them: do workers call claim_workflow_run_resumptions for their runtime?' end;
  return next;
end;
$status$;

comment on function stepquota.status() is
  'Wiring and health, a row an item: item, state (ok, info, warn, error), detail, hint (what to do; NULL when ok). Cheap; verify_all() checks the invariants.';

-- sql/grants.sql

-- Who may do what. The whole truth on every load: everything is taken from PUBLIC and from our four
-- roles, then given again, so that no grant of an earlier release survives. Grants to other roles are
-- the installer's and stay.

do $grants$
declare
  v_grants constant jsonb := $json${
    "stepquota_runtime": [
      "version", "reserve_workflow_step", "resolve_workflow_step_quota", "register_workflow_run",
      "start_workflow_step", "finish_workflow_step", "finish_workflow_run", "cancel_workflow_run",
      "open_workflow_run_wait", "resolve_workflow_run_wait", "claim_workflow_run_resumptions",
      "acknowledge_workflow_run_resumption", "workflow_run_quota_pause"],
    "stepquota_operator": [
      "version", "reserve_workflow_step", "resolve_workflow_step_quota", "register_workflow_run",
      "start_workflow_step", "finish_workflow_step", "finish_workflow_run", "cancel_workflow_run",
      "open_workflow_run_wait", "resolve_workflow_run_wait", "claim_workflow_run_resumptions",
      "acknowledge_workflow_run_resumption", "workflow_run_quota_pause",
      "explain_workflow_step_quota", "refresh_workflow_step_quota", "resume_workflow_run",
      "set_tenant_plan", "set_tier_limit", "set_policy", "map_stripe_customer",
      "reconcile_workflow_step_usage", "verify_all", "status",
      "resume_scan", "tick", "begin_resume_scan", "list_due_tenants", "resume_due_tenant",
      "finish_resume_scan", "get_scan_seconds", "check_batch_size", "resolve_due_waits",
      "make_ledger_partitions", "enable_cron", "disable_cron", "cron_sql", "record_scheduler_job",
      "check_cron", "list_cron_jobs"],
    "stepquota_sync": [
      "version", "apply_stripe_object", "map_stripe_customer", "status"],
    "stepquota_observer": [
      "version", "resolve_workflow_step_quota", "explain_workflow_step_quota", "workflow_run_quota_pause",
      "reconcile_workflow_step_usage", "verify_all", "status", "cron_sql", "list_cron_jobs"]
  }$json$;
  v_role text;
  v_routine regprocedure;
  v_type regtype;
  v_table regclass;
begin
  revoke all on schema stepquota from public;
  revoke all on all tables in schema stepquota from public;
  revoke all on all sequences in schema stepquota from public;
  revoke all on all routines in schema stepquota from public;
  for v_type in
    select t.oid from pg_catalog.pg_type t
     where t.typnamespace = 'stepquota'::pg_catalog.regnamespace and t.typtype = 'c'
       and exists (select 1 from pg_catalog.pg_class c where c.oid = t.typrelid and c.relkind = 'c')
  loop
    execute pg_catalog.format('revoke all on type %s from public', v_type);
  end loop;

  for v_role in
    select r.role from pg_catalog.jsonb_object_keys(v_grants) as r (role)
     where exists (select 1 from pg_catalog.pg_roles p where p.rolname = r.role)
     order by r.role
  loop
    execute pg_catalog.format('revoke all on all tables in schema stepquota from %I', v_role);
    execute pg_catalog.format('revoke all on all sequences in schema stepquota from %I', v_role);
    execute pg_catalog.format('revoke all on all routines in schema stepquota from %I', v_role);
    execute pg_catalog.format('grant usage on schema stepquota to %I', v_role);
    for v_routine in
      select p.oid from pg_catalog.pg_proc p
       where p.pronamespace = 'stepquota'::pg_catalog.regnamespace and v_grants -> v_role ? p.proname::text
       order by p.proname, p.oid
    loop
      execute pg_catalog.format('grant execute on routine %s to %I', v_routine, v_role);
    end loop;
    if v_role in ('stepquota_observer', 'stepquota_operator') then
      -- Partitions are read through their parent, and made between loads.
      for v_table in
        select c.oid from pg_catalog.pg_class c
         where c.relnamespace = 'stepquota'::pg_catalog.regnamespace and c.relkind in ('r', 'p', 'v')
           and not c.relispartition
         order by c.relname
      loop
        execute pg_catalog.format('grant select on table %s to %I', v_table, v_role);
      end loop;
    end if;
  end loop;
end;
$grants$;
