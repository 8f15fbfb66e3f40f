-- Alerts: what events there are, each recorded once; handed out to consumers; and the count at which a
-- tenant's next threshold is reached.

create table if not exists stepquota.quota_event_types (
  event_type text not null,
  level text not null,
  is_once_a_period boolean not null,
  description text not null,
  details jsonb not null,
  constraint quota_event_types_pkey primary key (event_type),
  constraint quota_event_types_level_is_known check (level in ('info', 'warning', 'error')),
  constraint quota_event_types_details_is_object check (jsonb_typeof(details) = 'object')
);

alter table stepquota.quota_events add column if not exists once_key text;
-- What was recorded before there were consumers is before the first position, and handed out to nobody.
alter table stepquota.quota_events add column if not exists position bigint default 0;
alter table stepquota.quota_events alter column position drop default;

create unique index if not exists quota_events_once
  on stepquota.quota_events (tenant, once_key) where once_key is not null;
-- Few rows: those that nobody has put in order yet.
create index if not exists quota_events_without_position
  on stepquota.quota_events (event_id) where position is null;
create index if not exists quota_events_position
  on stepquota.quota_events (position) where position > 0;

create table if not exists stepquota.quota_event_order (
  only_row boolean not null default true,
  last_position bigint not null default 0,
  constraint quota_event_order_pkey primary key (only_row),
  constraint quota_event_order_is_one_row check (only_row)
);

insert into stepquota.quota_event_order (only_row) values (true) on conflict (only_row) do nothing;

create table if not exists stepquota.quota_event_consumers (
  consumer text not null,
  event_types text[],
  start_at timestamptz not null,
  position bigint not null,
  created_at timestamptz not null,
  claimed_at timestamptz not null,
  constraint quota_event_consumers_pkey primary key (consumer),
  constraint quota_event_consumers_consumer_is_named check (consumer <> '')
);

create table if not exists stepquota.quota_event_claims (
  consumer text not null,
  event_id bigint not null,
  position bigint not null,
  delivery integer not null,
  leased_until timestamptz not null,
  constraint quota_event_claims_pkey primary key (consumer, event_id),
  constraint quota_event_claims_delivery_is_positive check (delivery > 0)
);

create index if not exists quota_event_claims_leases
  on stepquota.quota_event_claims (consumer, leased_until);

alter table stepquota.workflow_step_quotas add column if not exists alert_at_count bigint;
create index if not exists workflow_step_quotas_many_lanes
  on stepquota.workflow_step_quotas (tenant) where lane_count > 1;
alter table stepquota.workflow_step_usage_periods
  add column if not exists alerted_percent integer not null default 0,
  add column if not exists alert_generation integer not null default 1;

-- No key of a tenant alone: whoever notes something here waits for nobody.
create table if not exists stepquota.workflow_step_alert_checks (
  tenant text not null,
  check_id bigint generated always as identity,
  is_denial boolean not null,
  noted_at timestamptz not null,
  constraint workflow_step_alert_checks_pkey primary key (tenant, check_id)
);

alter table stepquota.policy
  add column if not exists alert_percents integer[] not null default '{50,80,90,100}';

do $add_constraints$
begin
  if not exists (select 1 from pg_catalog.pg_constraint c where c.conname = 'policy_alert_percents_are_in_range') then
    alter table stepquota.policy add constraint policy_alert_percents_are_in_range check (
      cardinality(alert_percents) <= 100 and array_position(alert_percents, null) is null
      and 1 <= all (alert_percents) and 1000 >= all (alert_percents));
  end if;
end;
$add_constraints$;

comment on table stepquota.quota_event_types is
  'The types of events, filled by sql/event_types.sql. A type once written stays: there may be events of it.';
comment on column stepquota.quota_event_types.event_type is 'The type.';
comment on column stepquota.quota_event_types.level is 'info, warning or error. The last two also go to the server''s log.';
comment on column stepquota.quota_event_types.is_once_a_period is 'Whether a tenant has at most one in a period, by quota_events.once_key.';
comment on column stepquota.quota_event_types.description is 'What happened.';
comment on column stepquota.quota_event_types.details is
  'The fields of quota_events.details, each with its type: text, integer, boolean, moment, uuid, array, object or any; "or null" where it may be null. A field whose name ends in ? may be missing.';
comment on column stepquota.quota_events.once_key is
  'What makes the event the only one of its kind, unique for a tenant; NULL for what may be repeated.';
comment on column stepquota.quota_events.position is
  'Its place in the order in which events are handed out, given after it was committed. NULL until then; 0 for events of before there were consumers.';
comment on table stepquota.quota_event_order is 'One row: the last position given to an event.';
comment on column stepquota.quota_event_order.only_row is 'Always true: the key of the one row.';
comment on column stepquota.quota_event_order.last_position is 'The last position.';
comment on table stepquota.quota_event_consumers is 'Who events are handed out to, each independent of the others.';
comment on column stepquota.quota_event_consumers.consumer is 'Its name.';
comment on column stepquota.quota_event_consumers.event_types is 'The types that it wants; NULL is all.';
comment on column stepquota.quota_event_consumers.start_at is 'Events of before this moment are not for it.';
comment on column stepquota.quota_event_consumers.position is 'The last position that it has got, or that was passed over since it is not for it.';
comment on column stepquota.quota_event_consumers.created_at is 'When it claimed for the first time.';
comment on column stepquota.quota_event_consumers.claimed_at is 'When it claimed last.';
comment on table stepquota.quota_event_claims is 'Events handed out to a consumer and not acknowledged yet.';
comment on column stepquota.quota_event_claims.consumer is 'The consumer.';
comment on column stepquota.quota_event_claims.event_id is 'The event.';
comment on column stepquota.quota_event_claims.position is 'The event''s position.';
comment on column stepquota.quota_event_claims.delivery is 'How many times it was handed out, from 1.';
comment on column stepquota.quota_event_claims.leased_until is 'From when on it is handed out again.';
comment on column stepquota.workflow_step_quotas.alert_at_count is
  'Units used at which the next threshold of policy.alert_percents is reached; NULL if there is no further one.';
comment on column stepquota.workflow_step_usage_periods.alerted_percent is
  'The greatest threshold that was recorded as reached and is still in force; 0 for none.';
comment on column stepquota.workflow_step_usage_periods.alert_generation is
  'Raised when the limit is raised within the period: then higher thresholds, and the exhaustion, are recorded again.';
comment on table stepquota.workflow_step_alert_checks is
  'Tenants whose quota row was busy when something of them was to be recorded: the next tick looks at them.';
comment on column stepquota.workflow_step_alert_checks.tenant is 'The tenant.';
comment on column stepquota.workflow_step_alert_checks.check_id is 'Number of the note.';
comment on column stepquota.workflow_step_alert_checks.is_denial is 'Whether a step was refused; else a threshold was reached.';
comment on column stepquota.workflow_step_alert_checks.noted_at is 'When it was noted.';
comment on column stepquota.policy.alert_percents is
  'At which percents of a limit, from 1 to 1000, quota_threshold_reached is recorded; an empty array for none.';
