"""Fixtures of all tests: servers, and databases of a test's own.

A test that asks for ``server``, directly or through another fixture, runs once on every server:
``postgres15``, which has pg_cron and plpgsql_check, and ``embedded18``. Marked with
``@pytest.mark.needs("pg_cron")`` it runs only where that extension is, which is no skip.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.databases import Clock, Database, drop_templates, empty_database, migrated_database
from harness.servers import (
    CAPABILITIES,
    CRON_DATABASE,
    EMBEDDED18,
    POSTGRES15,
    SERVERS,
    Server,
    ServerPool,
    Unavailable,
)
from harness.tap import POOL, TapFile
from harness.totals import TotalsPlugin

_TAP_FILES = Path(__file__).parent / "sql"

Connect = Callable[..., psycopg.Connection[Any]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[POOL] = ServerPool()
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(TotalsPlugin(config))


def pytest_unconfigure(config: pytest.Config) -> None:
    pool = config.stash[POOL]
    for server in pool.started():
        drop_templates(server)
    pool.close()


def pytest_itemcollected(item: pytest.Item) -> None:
    # A server has but one database for pg_cron, and workers may share the server.
    if "cron_database" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group("pg_cron"))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix == ".sql" and file_path.is_relative_to(_TAP_FILES):
        return TapFile.from_parent(parent, path=file_path)
    return None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        needs = _needs(metafunc.definition)
        names = [name for name in SERVERS if needs <= CAPABILITIES[name]]
        metafunc.parametrize("server", names, indirect=True, scope="session")


def _needs(item: pytest.Item) -> set[str]:
    return {capability for mark in item.iter_markers("needs") for capability in mark.args}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long and hardly depends on the server runs on both with make test-engines only.

    So does what is marked as slow.

    And the tests whose jobs pg_cron really runs are the first of those with its database: once that
    has been dropped and made again, it may be minutes until it runs anything.
    """
    items.sort(key=lambda item: item.path.name != "test_pg_cron.py")
    if os.environ.get("STEPQUOTA_RUNTIMES"):
        return
    elsewhere = [
        item
        for item in items
        if item.get_closest_marker("slow")
        or (POSTGRES15 in item.name and _is_for_the_newest(item))
        or (EMBEDDED18 in item.name and item.path.name in _ON_THE_OLDEST)
    ]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in set(elsewhere)]


# Where pg_cron is, since some of them need it.
_ON_THE_OLDEST = ("test_hostile_places.py", "test_interrupted.py", "test_releases_beside.py")


def _is_for_the_newest(item: pytest.Item) -> bool:
    folder = item.path.parent.name
    if folder in ("conformance", "adoption", "demo", "page", "security"):
        return True
    return "[adopted-" in item.name


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """A running server, see ``harness.servers.Server``; it is shared by all tests."""
    try:
        return request.config.stash[POOL].get(request.param)
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def _check_needs(request: pytest.FixtureRequest) -> None:
    if "server" not in request.fixturenames:
        return
    server: Server = request.getfixturevalue("server")
    request.node.user_properties.append(("server", str(server)))
    if missing := _needs(request.node) - server.capabilities:
        pytest.skip(f"{', '.join(sorted(missing))} is not installed on {server.name}")


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A database of the test's own, with stepquota just installed; a superuser's.

    Policy is as a fresh installation has it, so the test clock is not allowed: see ``clock``.
    """
    database = migrated_database(server)
    yield database
    database.drop()


@pytest.fixture
def other_database(server: Server) -> Iterator[Database]:
    """An empty database of the test's own, in which nothing is installed."""
    database = empty_database(server)
    yield database
    database.drop()


@pytest.fixture
def database_url(database: Database) -> str:
    """The URL of ``database``."""
    return database.url


@pytest.fixture
def dsn(database: Database) -> str:
    """The same as ``database_url``."""
    return database.url


@pytest.fixture
def connect(database: Database) -> Iterator[Connect]:
    """Makes connections to ``database`` that are closed when the test ends.

    ``connect()`` begins a transaction with its first statement, as psycopg does;
    ``connect(autocommit=True)``; ``connect(role="stepquota_runtime")`` sets that role from the
    start; other arguments are those of ``psycopg.connect``.
    """
    with ExitStack() as stack:

        def connect_(**arguments: Any) -> psycopg.Connection[Any]:
            connection = database.connect(**arguments)
            stack.callback(connection.close)
            return connection

        yield connect_


@pytest.fixture
def clock(database: Database) -> Clock:
    """The test clock of ``database``; asking for it allows it (policy.allow_test_clock).

    ``clock.set(connection, "2026-04-15T10:10:10Z")`` for one session,
    ``clock.set_everywhere(...)`` for all that connect later, other processes included.
    """
    return Clock(database)


@pytest.fixture
def cron_database(server: Server) -> Iterator[Database]:
    """A migrated database with the extension pg_cron, which runs its jobs for real.

    For tests marked ``needs("pg_cron")``. A server has but one such database.
    """
    database = migrated_database(server, CRON_DATABASE)
    database.run("create extension pg_cron")
    yield database
    database.drop()
