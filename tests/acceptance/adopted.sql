-- An application that had tables of its own before stepquota: uuid keys, foreign keys, columns that
-- stepquota does not know, and words of its own.

create schema shop;

create type shop.execution_state as enum ('queued', 'active', 'parked', 'done', 'broken', 'stopped');

create table shop.accounts (
  id uuid primary key,
  plan_name text,
  blocked_at timestamptz,
  made_at timestamptz not null default now(),
  region text not null default 'eu',
  "order" integer not null default 1
);

create table shop.executions (
  account_id uuid not null references shop.accounts,
  id uuid not null,
  definition varchar(200),
  engine varchar(80) not null default 'default',
  state shop.execution_state not null default 'queued',
  position text,
  failure jsonb,
  created_at timestamptz not null,
  closed_at timestamptz,
  priority smallint not null default 5,
  primary key (account_id, id)
);

create table shop.attempts (
  account_id uuid not null,
  execution_id uuid not null,
  node text not null,
  try integer not null,
  step uuid not null default gen_random_uuid(),
  kind text not null default 'action',
  state text not null default 'begun'
    check (state in ('begun', 'ok', 'error', 'again', 'stopped')),
  problem jsonb,
  begun_at timestamptz not null default now(),
  ended_at timestamptz,
  cost numeric not null default 0,
  primary key (account_id, execution_id, node, try),
  foreign key (account_id, execution_id) references shop.executions
);

create table shop.waits (
  account_id uuid not null,
  id uuid not null default gen_random_uuid(),
  execution_id uuid not null,
  node text not null,
  kind text not null,
  state text not null default 'open' check (state in ('open', 'closed', 'dropped')),
  until timestamptz,
  opened_at timestamptz not null default now(),
  closed_at timestamptz,
  data jsonb,
  note text not null default '',
  primary key (account_id, id),
  foreign key (account_id, execution_id) references shop.executions
);

create table shop.log_lines (
  id bigint generated always as identity primary key,
  account_id uuid not null,
  execution_id uuid not null,
  severity text not null default 'info',
  line text not null,
  at timestamptz not null default now(),
  host text not null default '?',
  foreign key (account_id, execution_id) references shop.executions
);

-- What was there before.
insert into shop.accounts (id) values ('00000000-0000-4000-8000-000000000001');
insert into shop.executions (account_id, id, state, created_at, closed_at)
values ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002', 'done', now(), now());
insert into shop.attempts (account_id, execution_id, node, try, state, ended_at)
values ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002', 'a', 1, 'ok', now());
