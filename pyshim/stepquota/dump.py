"""The whole installation as one SQL file, for those who install with psql."""

from __future__ import annotations

from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from . import bookkeeping
from ._resources import migration_files, sql_files
from .database_url import OLDEST_SERVER
from .migrate import function_settings

_HEADER = """\
-- stepquota {version}, all of it. Install it, or upgrade an older installation, with
--
--   psql --set ON_ERROR_STOP=1 --single-transaction --file=FILE "$DATABASE_URL"
--
-- Running it again changes nothing, and a later "stepquota migrate" goes on from here.

"""

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


def dump_sql() -> str:
    """One SQL script that installs what ``migrate`` installs, bookkeeping included.

    Migrations that the database has had already are passed over, as ``migrate`` does.
    """
    parts = [
        _HEADER.format(version=version("stepquota")),
        function_settings(),
        _REFUSE_OLD_SERVER,
        bookkeeping.LOCK_OUT_OTHERS,
        bookkeeping.CREATE_SCHEMA,
        bookkeeping.CREATE_TABLES,
        *(_once(file) for file in migration_files()),
        *(f"-- sql/{file.name}\n\n{file.read_text(encoding='utf-8')}" for file in sql_files()),
    ]
    return "\n".join(parts)


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
