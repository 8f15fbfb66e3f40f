"""Databases of a test's own, cloned from templates that are made once a server."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from stepquota.migrate import migrate

from .servers import POSTGRES15, Server, ServerPool, Unavailable

_PGTAP = Path("/usr/share/postgresql/15/extension/pgtap.sql")
_HELPERS = Path(__file__).parent / "helpers.sql"

# The process id keeps apart the workers that share the server of STEPQUOTA_TEST_DATABASE_URL.
_PREFIX = f"stepquota_test_{os.getpid()}"
_numbers = itertools.count(1)
_templates: dict[tuple[Server, str], str | Exception] = {}


@dataclass(frozen=True)
class Database:
    """A database that is dropped when its test ends.

    Attributes:
        name: The database's name.
        url: Its URL, for a superuser.
        server: The server it is on.
    """

    name: str
    url: str
    server: Server

    def connect(self, *, role: str | None = None, **arguments: Any) -> psycopg.Connection[Any]:
        """A new connection.

        Args:
            role: A role to set from the start, for instance ``stepquota_runtime``.
            arguments: As for ``psycopg.connect``, for instance ``autocommit=True``.
        """
        if role:
            arguments["options"] = f"{arguments.get('options', '')} -c role={role}".strip()
        return psycopg.connect(self.url, **arguments)

    def run(self, statement: str) -> None:
        """Carry out statements on a connection of their own and commit."""
        with self.connect(autocommit=True) as connection:
            connection.execute(statement.encode())

    def speak_english(self) -> None:
        """Have new sessions get PostgreSQL's own words as they are, for tests that compare them."""
        self.run(f"alter database \"{self.name}\" set lc_messages = 'C'")

    def drop(self) -> None:
        """Drop it, cutting all connections to it."""
        name = sql.Identifier(self.name).as_string()
        self.server.run(f"drop database if exists {name} with (force)")


class Clock:
    """The test clock of a database, which is allowed there from now on.

    A moment is a datetime with a time zone or a text such as ``2026-04-15T10:10:10Z``.
    """

    def __init__(self, database: Database):
        self._database = database
        database.run("update stepquota.policy set allow_test_clock = true")

    def set(self, connection: psycopg.Connection[Any], moment: datetime | str) -> None:
        """Set the clock of one session, now and in its later transactions.

        Outside autocommit it begins a transaction, and a rollback undoes it: call it first and
        commit.
        """
        connection.execute("select set_config('stepquota.now', %s, false)", [str(moment)])

    def set_everywhere(self, moment: datetime | str) -> None:
        """Set the clock of every session that connects to the database from now on."""
        self._alter(f"set stepquota.now = {sql.Literal(str(moment)).as_string()}")

    def unset_everywhere(self) -> None:
        """Sessions that connect from now on have the real time."""
        self._alter("reset stepquota.now")

    def _alter(self, change: str) -> None:
        name = sql.Identifier(self._database.name).as_string()
        self._database.server.run(f"alter database {name} {change}")


def empty_database(server: Server, name: str | None = None) -> Database:
    """A new database with nothing in it.

    Args:
        server: Where.
        name: Its name, if that matters; one that exists is dropped.
    """
    return _create(server, name or f"{_PREFIX}_{next(_numbers)}", "template0")


def migrated_database(server: Server, name: str | None = None) -> Database:
    """A new database in which stepquota has just been installed.

    Args:
        server: Where.
        name: Its name, if that matters; one that exists is dropped.
    """
    template = _template(server, "migrated")
    return _create(server, name or f"{_PREFIX}_{next(_numbers)}", template)


def prepared_database(server: Server, kind: str, prepare: Callable[[str], None]) -> Database:
    """The same with what a function has done to it, once for all that ask for this kind.

    Args:
        server: Where.
        kind: A word for what is done.
        prepare: Does it, by the URL of a migrated database.
    """
    key = (server, kind)
    if key not in _templates:
        database = _create(server, f"{_PREFIX}_{kind}", _template(server, "migrated"))
        _templates[key] = database.name
        prepare(database.url)
    return _create(server, f"{_PREFIX}_{next(_numbers)}", _template(server, kind))


def tap_database(server: Server, pool: ServerPool) -> Database:
    """The same with pgTAP in the schema ``tap`` and the test clock allowed.

    Raises:
        Unavailable: pgTAP cannot be had.
    """
    template = _template(server, "tap", pool)
    return _create(server, f"{_PREFIX}_{next(_numbers)}", template)


def drop_templates(server: Server) -> None:
    """Drop the templates made on a server."""
    for key in [key for key in _templates if key[0] == server]:
        name = _templates.pop(key)
        if isinstance(name, str):
            server.run(f"drop database {sql.Identifier(name).as_string()} with (force)")


def _template(server: Server, kind: str, pool: ServerPool | None = None) -> str:
    key = (server, kind)
    if key not in _templates:
        try:
            _templates[key] = _make_template(server, kind, pool)
        except Exception as error:
            # It would fail again for every test.
            _templates[key] = error
    template = _templates[key]
    if isinstance(template, Exception):
        raise template
    return template


def _make_template(server: Server, kind: str, pool: ServerPool | None) -> str:
    name = f"{_PREFIX}_{kind}"
    if pool is None:
        migrate(_create(server, name, "template0").url)
    else:
        _prepare_for_tap(_create(server, name, _template(server, "migrated")), pool)
    return name


def _create(server: Server, name: str, template: str) -> Database:
    new, old = sql.Identifier(name).as_string(), sql.Identifier(template).as_string()
    server.run(f"drop database if exists {new} with (force)")
    # Where nothing waits for the disk, copying files is three times as fast as logging pages.
    strategy = "wal_log" if server.is_durable else "file_copy"
    server.run(f"create database {new} template {old} strategy {strategy}")
    return Database(name, server.url(name), server)


def _prepare_for_tap(database: Database, pool: ServerPool) -> None:
    with database.connect() as connection:
        connection.execute("create schema tap")
        # pgTAP is plain SQL, and so loads where the extension's files are not.
        connection.execute("set local search_path = tap")
        connection.execute(_read_pgtap(pool))
        connection.execute(_HELPERS.read_bytes())
        connection.execute("grant usage on schema tap to public")
        connection.execute("update stepquota.policy set allow_test_clock = true")


def _read_pgtap(pool: ServerPool) -> bytes:
    if _PGTAP.exists():
        return _PGTAP.read_bytes()
    # A container has it, and a superuser may read it there.
    with psycopg.connect(pool.get(POSTGRES15).url("postgres")) as connection:
        found = connection.execute(
            """
            select pg_read_binary_file(
              c.setting || '/extension/pgtap--' || e.default_version || '.sql')
            from pg_config c, pg_available_extensions e
            where c.name = 'SHAREDIR' and e.name = 'pgtap'
            """
        ).fetchone()
    if found is None:
        raise Unavailable(
            "pgTAP is not installed; on Debian 12: apt-get install postgresql-15-pgtap"
        )
    return bytes(found[0])
