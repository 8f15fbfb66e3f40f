"""Where it is written down which migrations a database has had.

yoyo keeps its tables in a schema of ours, so that an application that uses yoyo itself is not
disturbed. The same tables are made here in SQL for the file that psql installs.
"""

from __future__ import annotations

SCHEMA = "stepquota_migrations"
TABLE = "_stepquota_migration"

CREATE_SCHEMA = f"""\
do $create_schema$
begin
  -- "if not exists" asks for the right to create it even where it exists.
  if pg_catalog.to_regnamespace('{SCHEMA}') is null then
    create schema {SCHEMA};
    comment on schema {SCHEMA} is 'Which migrations of stepquota this database has had.';
  elsif not pg_catalog.has_schema_privilege('{SCHEMA}', 'create') then
    -- yoyo would only find that a table does not exist.
    raise insufficient_privilege using message = 'permission denied for schema {SCHEMA}';
  end if;
end;
$create_schema$;
"""

LOCK_OUT_OTHERS = """\
do $lock_out_others$
begin
  perform pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('stepquota migrate', 0));
end;
$lock_out_others$;
"""
"""Holds off other installers until the transaction ends."""

# As yoyo 9 makes them, in the version that it calls 2.
CREATE_TABLES = f"""\
create table if not exists {SCHEMA}.{TABLE} (
  migration_hash varchar(64),
  migration_id varchar(255),
  applied_at_utc timestamp,
  primary key (migration_hash)
);
create table if not exists {SCHEMA}._yoyo_log (
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
create table if not exists {SCHEMA}._yoyo_version (
  version int not null primary key,
  installed_at_utc timestamp
);
create table if not exists {SCHEMA}.yoyo_lock (
  locked int default 1,
  ctime timestamp,
  pid int not null,
  primary key (locked)
);
insert into {SCHEMA}._yoyo_version (version, installed_at_utc)
values (2, pg_catalog.clock_timestamp() at time zone 'utc')
on conflict (version) do nothing;
"""
