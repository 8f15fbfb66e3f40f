"""Installing and upgrading stepquota in a database.

The migrations that the database has not had are applied by yoyo, each in a transaction of its own.
Then all functions are loaded in one transaction, every time: loading them again changes nothing.
"""

from __future__ import annotations

import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors
from yoyo import read_migrations
from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend
from yoyo.connections import DatabaseURI

from . import adoption, bookkeeping
from ._resources import migrations_directory, sql_files
from .database_url import Parameters, connect, one_line, read_database_url
from .problems import Problem

# How long one statement waits for a lock that the application holds, before the whole file is
# rolled back. Everybody who comes after the waiting statement waits too, so it is short.
LOCK_TIMEOUT = "5s"
# How long an installer waits for another one to finish.
OTHER_INSTALLER_TIMEOUT = "120s"


@dataclass(frozen=True)
class Migrated:
    """What ``migrate`` has done.

    Attributes:
        database: The name of the database.
        server_version: Of the server, for instance ``15.18``.
        applied: The migrations applied now, oldest first; those applied before are not in it.
        loaded: How many files of functions were loaded.
    """

    database: str
    server_version: str
    applied: tuple[str, ...]
    loaded: int


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
            or the database uses an application's tables and no description was given.
    """
    parameters = read_database_url(database_url)
    with connect(parameters) as others, connect(parameters, autocommit=True) as own:
        role, database = own.info.user, own.info.dbname
        try:
            _lock_out_other_installers(others)
            own.execute(bookkeeping.CREATE_SCHEMA.encode())
            applied = _apply_migrations(parameters)
            loaded = _load_functions(own, description)
        except errors.InsufficientPrivilege as error:
            raise Problem(
                f"the role {role} lacks a right: {_place(error)}{one_line(error, parameters)}",
                f"it must own the schemas stepquota and {bookkeeping.SCHEMA}, or be allowed: "
                f'grant create on database "{database}" to "{role}"',
            ) from error
        except errors.LockNotAvailable as error:
            raise Problem(
                f"a lock was not to be had: {_place(error)}{one_line(error, parameters)}",
                "nothing is half done; run it again when the database is less busy",
            ) from error
        except psycopg.Error as error:
            raise Problem(
                f"the installation failed: {_place(error)}{one_line(error, parameters)}",
                "nothing is half done; run it again when the cause is gone",
            ) from error
        version = own.info.server_version
    return Migrated(database, f"{version // 10000}.{version % 10000}", applied, loaded)


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
        super().init_connection(connection)
        connection.execute("set statement_timeout = 0")
        connection.execute("set idle_in_transaction_session_timeout = 0")
        connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'".encode())
        connection.execute("set client_min_messages = warning")

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


def _lock_out_other_installers(connection: psycopg.Connection) -> None:
    # By a lock of this connection's transaction, which is left open meanwhile: a session's lock
    # would stay behind at a pooler.
    connection.execute("set local idle_in_transaction_session_timeout = 0")
    connection.execute("set local statement_timeout = 0")
    connection.execute(f"set local lock_timeout = '{OTHER_INSTALLER_TIMEOUT}'".encode())
    try:
        connection.execute(bookkeeping.LOCK_OUT_OTHERS.encode())
    except errors.LockNotAvailable as error:
        error.add_note("another installer is at work")
        raise


def _apply_migrations(parameters: Parameters) -> tuple[str, ...]:
    applied = []
    with _Backend.open(parameters) as backend:
        for migration in backend.to_apply(read_migrations(str(migrations_directory()))):
            try:
                backend.apply_one(migration)
            except psycopg.Error as error:
                error.add_note(f"migrations/{Path(migration.path).name}")
                raise
            applied.append(migration.id)
    return tuple(applied)


def _load_functions(connection: psycopg.Connection, description: Path | None) -> int:
    files = sql_files()
    with connection.transaction():
        connection.execute(function_settings().encode())
        tables: adoption.Tables = {}
        if description is None:
            _check_host_is_own(connection)
        else:
            tables = adoption.resolve_tables(connection, adoption.read_description(description))
            adoption.check_columns(tables)
        for file in files:
            text = file.read_text(encoding="utf-8")
            if tables and file.name == "host.sql":
                text = adoption.render(tables)
            elif tables:
                text = adoption.render_other(tables, text)
            try:
                connection.execute(text.encode())
            except psycopg.Error as error:
                position = int(error.diag.statement_position or 1)
                line = text.count("\n", 0, position - 1) + 1
                error.add_note(f"sql/{file.name}, line {line}")
                raise
    return len(files)


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


def function_settings() -> str:
    """Settings of the transaction in which the functions are loaded.

    The search_path finds nothing of ours: a name that is not qualified shows at once.
    """
    return (
        "set local search_path = pg_catalog, pg_temp;\n"
        "set local client_min_messages = warning;\n"
        "set local statement_timeout = 0;\n"
        "set local idle_in_transaction_session_timeout = 0;\n"
        f"set local lock_timeout = '{LOCK_TIMEOUT}';\n"
    )


def _place(error: BaseException) -> str:
    notes = getattr(error, "__notes__", [])
    return "".join(f"{note}: " for note in notes)
