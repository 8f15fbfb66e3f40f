"""Installing and upgrading stepquota in a database.

The migrations that the database has not had are applied by yoyo, each in a transaction of its own.
Then all functions are loaded in one transaction, every time: loading them again changes nothing.
"""

from __future__ import annotations

import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI

from . import adoption, bookkeeping
from ._resources import migration_files, migrations_directory, sql_files
from .database_url import Parameters, one_line, read_database_url
from .installing import (
    REFUSE_EXTENSION,
    SCHEMA,
    SEARCH_PATH,
    open_session,
    own_name,
    patiently,
    place_of,
    prepare_session,
)
from .problems import Problem

# How long an installer waits for another one to finish.
OTHER_INSTALLER_TIMEOUT = "120s"
# How long looking for violated invariants before an upgrade may take, and how many are told.
VERIFICATION_TIMEOUT = "60s"
TOLD_VIOLATIONS = 20


@dataclass(frozen=True)
class Migrated:
    """What ``migrate`` has done.

    Attributes:
        database: The name of the database.
        server_version: Of the server, for instance ``15.18``.
        applied: The migrations applied now, oldest first; those applied before are not in it.
        loaded: How many files of functions were loaded.
        violations: What verify_all() found before an upgrade, a line each; it stops none.
    """

    database: str
    server_version: str
    applied: tuple[str, ...]
    loaded: int
    violations: tuple[str, ...] = ()


def migrate(database_url: str, description: Path | None = None) -> Migrated:
    """Install stepquota in a database, or bring it up to this release.

    Safe to call again, by several at once, and after an installation that was broken off.
    It needs a connection of its own to the server, not one through a pooler in transaction mode.

    Args:
        database_url: In any form that libpq reads.
        description: Of the tables that an application has, if stepquota is to use those; see
            stepquota.adoption.

    Raises:
        Problem: The server cannot be reached or is too old, a right is missing, or a file failed;
            or stepquota is an extension there; or the database uses an application's tables and no
            description was given.
    """
    parameters = own_name(read_database_url(database_url))
    with open_session(parameters) as others, open_session(parameters) as own:
        role, database = own.info.user, own.info.dbname
        try:
            with others.transaction():
                lock_out_other_installers(others)
                _refuse_an_extension(own)
                _refuse_what_is_not_ours(own)
                tables = _find_tables(own, description)
                own.execute(bookkeeping.CREATE_SCHEMA.encode())
                _refuse_a_newer_release(own)
                applied, violations = _apply_migrations(parameters, own)
                loaded = patiently(parameters, lambda: _load_functions(own, tables))
        except errors.InsufficientPrivilege as error:
            raise Problem(
                f"the role {role} lacks a right: {place_of(error)}{one_line(error, parameters)}",
                f"it must own the schemas {SCHEMA} and {bookkeeping.SCHEMA}, or be allowed: "
                f'grant create on database "{database}" to "{role}"',
            ) from error
        except psycopg.Error as error:
            raise Problem(
                f"the installation failed: {place_of(error)}{one_line(error, parameters)}",
                "nothing is half done; run it again when the cause is gone",
            ) from error
        server = own.info.server_version
    release = f"{server // 10000}.{server % 10000}"
    return Migrated(database, release, applied, loaded, violations)


class _Backend(PostgresqlPsycopgBackend):  # type: ignore[misc] # yoyo is not typed
    """yoyo's, on libpq's parameters, with a session that no setting of the role disturbs."""

    @classmethod
    def open(cls, parameters: Parameters) -> _Backend:
        uri = DatabaseURI(
            scheme="postgresql+psycopg",
            username=None,
            password=None,
            hostname=None,
            port=None,
            database=None,
            args={**parameters, "schema": bookkeeping.SCHEMA},
        )
        backend = cls(uri, bookkeeping.TABLE)
        backend.init_database()
        # Other installers are held off, so a lock row is that of one that was killed.
        backend.break_lock()
        return backend

    def init_connection(self, connection: psycopg.Connection) -> None:
        prepare_session(connection)
        super().init_connection(connection)

    def get_log_data(self, migration: Any = None, operation: str = "apply") -> dict[str, Any]:
        # yoyo asks the operating system for the user, who has no name in many containers.
        return {
            "id": str(uuid.uuid4()),
            "migration_id": migration and migration.id,
            "migration_hash": migration and migration.hash,
            "username": self.connection.info.user,
            "hostname": socket.gethostname(),
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def lock_out_other_installers(connection: psycopg.Connection) -> None:
    """Hold off other installers until the connection's transaction ends.

    Raises:
        Problem: One is at work, and goes on for longer than is waited for.
    """
    # By a lock of the transaction: a session's lock would stay behind at a pooler.
    connection.execute(f"set local lock_timeout = '{OTHER_INSTALLER_TIMEOUT}'".encode())
    try:
        connection.execute(bookkeeping.LOCK_OUT_OTHERS.encode())
    except errors.LockNotAvailable as error:
        raise Problem(
            "another installer is at work in this database",
            "nothing was done; run it again when the other one has ended",
        ) from error


def _refuse_an_extension(connection: psycopg.Connection) -> None:
    try:
        connection.execute(REFUSE_EXTENSION.encode())
    except errors.ObjectNotInPrerequisiteState as error:
        message = error.diag.message_primary or str(error)
        raise Problem(message, error.diag.message_hint or "") from error


def _refuse_what_is_not_ours(connection: psycopg.Connection) -> None:
    """A schema of our name that somebody else has filled stays as it is.

    An installation that was broken off has the bookkeeping's schema, which is made first; one that
    was restored without it has the function version.
    """
    found = connection.execute(
        """
        select pg_catalog.array_agg(c.oid::pg_catalog.regclass::text order by c.relname)
          from pg_catalog.pg_class c
         where c.relnamespace = pg_catalog.to_regnamespace(%(ours)s) and c.relkind not in ('i', 't')
           and pg_catalog.to_regnamespace(%(record)s) is null
           and pg_catalog.to_regprocedure('stepquota.version()') is null
        """,
        {"ours": SCHEMA, "record": bookkeeping.SCHEMA},
    ).fetchone()
    if found and found[0]:
        raise Problem(
            f"the schema {SCHEMA} holds what is not of stepquota's making: {', '.join(found[0])}",
            "rename or drop that schema, or take another database",
        )


def _refuse_a_newer_release(connection: psycopg.Connection) -> None:
    """Old functions over new tables would be worse than an error."""
    if connection.execute(
        "select pg_catalog.to_regprocedure('stepquota.version()') is null"
    ).fetchone() != (True,):
        ((installed,),) = connection.execute("select stepquota.version()")
        if _numbers(installed) > _numbers(version("stepquota")):
            raise _newer(f"stepquota {installed}")
    if connection.execute(
        "select pg_catalog.to_regclass(%s) is null", [f"{bookkeeping.SCHEMA}.{bookkeeping.TABLE}"]
    ).fetchone() != (True,):
        rows = connection.execute(
            f"select migration_id from {bookkeeping.SCHEMA}.{bookkeeping.TABLE} order by 1".encode()
        )
        unknown = {row[0] for row in rows} - {file.stem for file in migration_files()}
        if unknown:
            raise _newer(f"the migration {max(unknown)}")


def _newer(what: str) -> Problem:
    return Problem(
        f"{what} is installed here, which is newer than this stepquota {version('stepquota')}",
        "upgrade the Python package; an older release is not installed over a newer one",
    )


def _numbers(release: str) -> list[int]:
    return [int(number) for number in release.split(".")]


def _apply_migrations(
    parameters: Parameters, own: psycopg.Connection
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The migrations applied, and what was found wrong before the first of them."""
    applied: list[str] = []
    violations: tuple[str, ...] = ()
    with _Backend.open(parameters) as backend:
        for migration in backend.to_apply(read_migrations(str(migrations_directory()))):
            if not applied:
                violations = _find_violations(own)
            patiently(parameters, partial(_apply, backend, migration))
            applied.append(migration.id)
    return tuple(applied), violations


def _find_violations(connection: psycopg.Connection) -> tuple[str, ...]:
    """What the installed release finds wrong; nothing where none is installed.

    An upgrade goes on all the same: no migration relies on what is verified, and the release may
    bring the cure. But nobody should take the upgrade for the cause.
    """
    known = connection.execute("select to_regprocedure('stepquota.verify_all()')").fetchone()
    if known in (None, (None,)):
        return ()
    try:
        with connection.transaction():
            connection.execute(f"set local statement_timeout = '{VERIFICATION_TIMEOUT}'".encode())
            rows = connection.execute(
                "select concat_ws(', ', v.invariant, v.tenant, v.object, v.detail)"
                "  from stepquota.verify_all() v limit %s",
                [TOLD_VIOLATIONS],
            ).fetchall()
    except psycopg.Error as error:
        # An installation that was broken off has functions that do not fit its tables.
        return (f"verify_all() did not end: {error.diag.message_primary or error}",)
    return tuple(str(line) for (line,) in rows)


def _apply(backend: _Backend, migration: Any) -> None:
    try:
        backend.apply_one(migration)
    except psycopg.Error as error:
        error.add_note(f"migrations/{Path(migration.path).name}")
        raise


def _load_functions(connection: psycopg.Connection, tables: adoption.Tables) -> int:
    files = sql_files()
    with connection.transaction():
        connection.execute(f"set local search_path = {SEARCH_PATH}".encode())
        for file in files:
            text = adoption.render_file(tables, file)
            try:
                connection.execute(text.encode())
            except psycopg.Error as error:
                position = int(error.diag.statement_position or 1)
                line = text.count("\n", 0, position - 1) + 1
                error.add_note(f"sql/{file.name}, line {line}")
                raise
        if last := adoption.month_of_old_runs(tables):
            connection.execute(last.encode())
    return len(files)


def _find_tables(connection: psycopg.Connection, description: Path | None) -> adoption.Tables:
    """The application's tables that are to be used, looked at before anything is changed."""
    if description is None:
        _check_host_is_own(connection)
        return {}
    tables = adoption.resolve_tables(connection, adoption.read_description(description))
    adoption.check_columns(tables)
    return tables


def _check_host_is_own(connection: psycopg.Connection) -> None:
    if connection.execute("select to_regproc('stepquota._host_origin')::text").fetchone() == (
        None,
    ):
        return
    if connection.execute("select stepquota._host_origin()").fetchone() == ("adopted",):
        raise Problem(
            "stepquota uses tables of an application's in this database",
            "give their description: stepquota migrate --adopt FILE",
        )
