"""Tools to compare installations: dumps by pg_dump, and the embedded server's psql."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.databases import Database
from stepquota.server_files import embedded_binaries

Dump = Callable[[Database], str]
Psql = Callable[[Database, str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def dump() -> Dump:
    """All that pg_dump sees of a database: objects, comments, grants, owners, and rows.

    When which migration was applied differs from one installation to the next; it is left out.
    """

    def run(database: Database) -> str:
        completed = subprocess.run(
            [
                embedded_binaries().program("pg_dump"),
                "--inserts",
                "--exclude-table-data=stepquota_migrations.*",
                # Otherwise a random word.
                "--restrict-key=same",
                database.url,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return completed.stdout

    return run


@pytest.fixture
def psql() -> Psql:
    """Installs a script as the documentation says, and gives what psql said."""

    def run(database: Database, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *(embedded_binaries().program("psql"), "--no-psqlrc"),
                *("--set", "ON_ERROR_STOP=1", "--single-transaction", "--file=-"),
                database.url,
            ],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment says where stepquota or a database is."""
    for name in list(os.environ):
        if name.startswith(("PYTHON", "PG")) or name == "DATABASE_URL":
            monkeypatch.delenv(name)


def applied_migrations(database: Database) -> list[str]:
    """What the bookkeeping says, oldest first."""
    with database.connect() as connection:
        rows = connection.execute(
            "select migration_id from stepquota_migrations._stepquota_migration order by 1"
        )
        return [str(row[0]) for row in rows]


def repository() -> Path:
    """The root of the clone."""
    return Path(__file__).parent.parent.parent
