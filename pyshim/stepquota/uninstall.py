"""Taking stepquota out of a database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import errors

from .database_url import one_line, read_database_url
from .installing import SCHEMA, open_session, own_name, patiently, settings_sql
from .migrate import lock_out_other_installers
from .problems import Problem

_SCRIPT = Path(__file__).parent / "uninstall.sql"
_TRANSACTION = "set transaction isolation level read committed, read write, not deferrable;\n"
_HEADER = """\
-- Takes stepquota out of a database, with all runs, steps and usage. Run it with
--
--   psql --set ON_ERROR_STOP=1 --single-transaction --file=FILE "$DATABASE_URL"

"""


@dataclass(frozen=True)
class Uninstalled:
    """What ``uninstall`` has taken out, or would.

    Attributes:
        database: The name of the database.
        tenants: How many tenants it knew.
        runs: How many runs, about.
        jobs: The jobs of pg_cron that it had scheduled.
        needs_look_elsewhere: pg_cron lives in another database of the server: jobs that somebody
            scheduled there by ``cron_sql`` cannot be reached from here.
    """

    database: str
    tenants: int
    runs: int
    jobs: tuple[str, ...]
    needs_look_elsewhere: bool


def uninstall_sql() -> str:
    """One SQL script that does what ``uninstall`` does, for psql."""
    return "\n".join(
        [
            _HEADER + _TRANSACTION,
            settings_sql(is_local=True, lock_timeout="2s"),
            _SCRIPT.read_text(encoding="utf-8"),
        ]
    )


def describe(database_url: str) -> Uninstalled:
    """What would be taken out.

    Args:
        database_url: In any form that libpq reads.

    Raises:
        Problem: The server cannot be reached, or stepquota is not there.
    """
    parameters = own_name(read_database_url(database_url))
    with open_session(parameters, as_owner=False) as connection:
        return _describe(connection)


def uninstall(database_url: str) -> Uninstalled:
    """Remove the jobs of pg_cron and drop both schemas, in one transaction; roles stay.

    Args:
        database_url: In any form that libpq reads; of the owner or a superuser.

    Raises:
        Problem: The server cannot be reached, stepquota is not there, something of somebody else's
            depends on it, a job is another role's, or a lock was not to be had. Nothing was done.
    """
    parameters = own_name(read_database_url(database_url))
    # Not as the owner: a superuser may remove everybody's jobs.
    with (
        open_session(parameters, as_owner=False) as others,
        open_session(parameters, as_owner=False) as own,
    ):
        try:
            with others.transaction():
                lock_out_other_installers(others)
                described = _describe(own)
                patiently(parameters, lambda: _drop(own))
        except psycopg.Error as error:
            detail = f": {error.diag.message_detail}" if error.diag.message_detail else ""
            raise Problem(
                f"{one_line(error, parameters)}{detail}",
                error.diag.message_hint or "nothing was done",
            ) from error
    return described


def _drop(connection: psycopg.Connection) -> None:
    with connection.transaction():
        connection.execute(_SCRIPT.read_bytes())


def _describe(connection: psycopg.Connection) -> Uninstalled:
    database = connection.info.dbname
    try:
        with connection.transaction():
            ((tenants,),) = connection.execute(f"select count(*) from {SCHEMA}.tenants".encode())
            ((runs,),) = connection.execute(
                f"select greatest(c.reltuples, 0)::bigint from pg_class c"
                f" where c.oid = '{SCHEMA}.workflow_runs'::regclass".encode()
            )
            jobs = connection.execute(
                f"select job_name from {SCHEMA}.scheduler_jobs order by 1".encode()
            ).fetchall()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        # Of an installation that was broken off; the script finds out whether there is any.
        return Uninstalled(database, 0, 0, (), needs_look_elsewhere=False)
    return Uninstalled(
        database, tenants, runs, tuple(job for (job,) in jobs), _has_cron_elsewhere(connection)
    )


def _has_cron_elsewhere(connection: psycopg.Connection) -> bool:
    try:
        ((elsewhere,),) = connection.execute(
            "select nullif(current_setting('cron.database_name', true), '') <> current_database()"
        )
    except errors.InsufficientPrivilege:
        return False
    return bool(elsewhere)
