"""The whole installation as one SQL file, for those who install with psql."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from . import adoption, bookkeeping
from ._resources import migration_files, sql_files
from .database_url import OLDEST_SERVER
from .installing import (
    REFUSE_EXTENSION,
    SEARCH_PATH,
    become_owner_sql,
    refuse_adopted_sql,
    settings_sql,
)

_HEADER = """\
-- stepquota {version}, all of it. Install it, or upgrade an older installation, with
--
--   psql --set ON_ERROR_STOP=1 --single-transaction --file=FILE "$DATABASE_URL"
--
-- Running it again changes nothing, and a later "stepquota migrate{option}" goes on from here.

"""

_FOR_TABLES = """\
-- It is for tables of an application's, as they were in the database that it was made with:
-- {tables}.

"""

_REFUSE_ADOPTED = refuse_adopted_sql(
    "Make the SQL with their description: stepquota migrate --dump-sql --adopt FILE DATABASE_URL"
)

# Whatever the role's or the database's settings are; before anything is read.
_TRANSACTION = "set transaction isolation level read committed, read write, not deferrable;\n"

# psql does not try again, so it waits for longer than migrate, and everybody behind it.
_LOCK_TIMEOUT = "2s"

_REFUSE_OLD_SERVER = f"""\
do $refuse_old_server$
begin
  if pg_catalog.current_setting('server_version_num')::integer < {OLDEST_SERVER}0000 then
    raise exception using
      errcode = 'feature_not_supported',
      message = 'stepquota needs PostgreSQL {OLDEST_SERVER} or later',
      detail = 'The server is ' || pg_catalog.current_setting('server_version') || '.';
  end if;
end;
$refuse_old_server$;
"""


def dump_sql(tables: adoption.Tables | None = None) -> str:
    """One SQL script that installs what ``migrate`` installs, bookkeeping included.

    Migrations that the database has had already are passed over, as ``migrate`` does.

    Args:
        tables: Those of an application that are used in place of stepquota's own. Without any, the
            script refuses a database that uses such.
    """
    tables = tables or {}
    parts = [
        _HEADER.format(version=version("stepquota"), option=" --adopt FILE" if tables else ""),
        _FOR_TABLES.format(tables=", ".join(t.name for t in tables.values())) if tables else "",
        _TRANSACTION,
        settings_sql(is_local=True, lock_timeout=_LOCK_TIMEOUT),
        f"set local search_path = {SEARCH_PATH};\n",
        _REFUSE_OLD_SERVER,
        REFUSE_EXTENSION,
        become_owner_sql(is_local=True),
        bookkeeping.LOCK_OUT_OTHERS,
        "" if tables else _REFUSE_ADOPTED,
        bookkeeping.CREATE_SCHEMA,
        bookkeeping.CREATE_TABLES,
        _refuse_newer_release(),
        *(_once(file) for file in migration_files()),
        *(f"-- sql/{file.name}\n\n{adoption.render_file(tables, file)}" for file in sql_files()),
        adoption.month_of_old_runs(tables),
    ]
    return "\n".join(parts)


def _refuse_newer_release() -> str:
    release = version("stepquota")
    known = ", ".join(f"'{file.stem}'" for file in migration_files())
    return f"""\
do $refuse_newer_release$
declare
  v_unknown text;
begin
  select pg_catalog.max(m.migration_id) into v_unknown
    from {bookkeeping.SCHEMA}.{bookkeeping.TABLE} m
   where m.migration_id not in ({known});
  if v_unknown is not null then
    raise exception using
      errcode = 'object_not_in_prerequisite_state',
      message = 'a newer release than stepquota {release} is installed here',
      detail = 'The migration ' || v_unknown || ' was applied.';
  end if;
end;
$refuse_newer_release$;
"""


def _once(file: Path) -> str:
    body = file.read_text(encoding="utf-8").rstrip()
    quote = f"${file.stem}$"
    return f"""\
-- migrations/{file.name}

do $apply_once$
begin
  if exists (
    select from {bookkeeping.SCHEMA}.{bookkeeping.TABLE} m
    where m.migration_hash = '{sha256(file.stem.encode()).hexdigest()}'
  ) then
    return;
  end if;
  execute {quote}
{body}
{quote};
  insert into {bookkeeping.SCHEMA}.{bookkeeping.TABLE}
    (migration_hash, migration_id, applied_at_utc)
  values
    ('{sha256(file.stem.encode()).hexdigest()}', '{file.stem}',
     pg_catalog.clock_timestamp() at time zone 'utc');
  insert into {bookkeeping.SCHEMA}._yoyo_log
    (id, migration_hash, migration_id, operation, username, comment, created_at_utc)
  values
    (pg_catalog.gen_random_uuid(), '{sha256(file.stem.encode()).hexdigest()}', '{file.stem}',
     'apply', current_user, 'by the dumped SQL',
     pg_catalog.clock_timestamp() at time zone 'utc');
end;
$apply_once$;
"""
