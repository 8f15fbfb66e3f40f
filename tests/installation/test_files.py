"""What files in migrations/ and sql/ must be like so that yoyo, psql and psycopg agree on them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
import sqlparse
from yoyo import read_migrations

from harness.databases import Database
from stepquota import bookkeeping
from stepquota._resources import migration_files, migrations_directory, sql_directory, sql_files
from stepquota.migrate import _Backend, migrate

from .conftest import Dump, repository

MIGRATIONS = migration_files()
ROLLBACKS = sorted(migrations_directory().glob("*.rollback.sql"))
ALL_FILES = [*MIGRATIONS, *ROLLBACKS, *sql_files()]

STATEMENTS = re.compile(
    r"(alter|comment on|create|delete from|do|drop|grant|insert into|revoke|set local|update)\b"
)


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_every_file_is_in_the_load_order() -> None:
    assert sorted(sql_files()) == sorted(sql_directory().glob("*.sql"))


def test_every_migration_is_ours_and_has_its_rollback() -> None:
    for file in MIGRATIONS:
        assert re.fullmatch(r"stepquota_\d{4}_[a-z0-9_]+", file.stem)
    assert [f"{file.stem}.rollback.sql" for file in MIGRATIONS] == [file.name for file in ROLLBACKS]


@pytest.mark.parametrize("path", ALL_FILES, ids=name)
def test_it_splits_into_whole_statements(path: Path) -> None:
    """yoyo splits files by sqlparse, which a nested comment or a psql command leads astray."""
    text = path.read_text(encoding="utf-8")
    assert not text.startswith("\ufeff")
    assert "\r" not in text
    assert "/*" not in text
    assert not re.search(r"^\\", text, re.MULTILINE)
    for piece in sqlparse.split(text):
        statement = sqlparse.format(piece, strip_comments=True).strip()
        if statement:
            assert STATEMENTS.match(statement), f"{name(path)}: {statement[:60]}"


@pytest.mark.parametrize("path", MIGRATIONS, ids=name)
def test_a_migration_schedules_nothing(path: Path) -> None:
    assert not re.search(r"\bcron\.", path.read_text(encoding="utf-8"))


def test_each_migration_is_safe_to_run_again(database: Database, dump: Dump) -> None:
    before = dump(database)
    for file in MIGRATIONS:
        database.run(file.read_text(encoding="utf-8"))
    assert dump(database) == before


def test_rollbacks_leave_nothing_and_migrations_can_be_applied_again(
    database: Database, dump: Dump
) -> None:
    before = dump(database)
    _drop_functions(database)
    parameters = psycopg.conninfo.conninfo_to_dict(database.url)
    with _Backend.open(parameters) as backend:
        backend.rollback_migrations(
            backend.to_rollback(read_migrations(str(migrations_directory())))
        )
    with database.connect() as connection:
        left = connection.execute(
            "select to_regnamespace('stepquota'), count(*)"
            f" from {bookkeeping.SCHEMA}.{bookkeeping.TABLE}"
        ).fetchone()
    assert left == (None, 0)
    migrate(database.url)
    assert dump(database) == before


def _drop_functions(database: Database) -> None:
    with database.connect() as connection:
        routines = connection.execute(
            "select oid::regprocedure::text, prokind from pg_proc"
            " where pronamespace = 'stepquota'::regnamespace"
        ).fetchall()
        for routine, kind in routines:
            word = "procedure" if kind == "p" else "function"
            connection.execute(f"drop {word} if exists {routine} cascade".encode())


def test_the_version_is_the_same_everywhere(database: Database) -> None:
    with database.connect() as connection:
        installed = connection.execute("select stepquota.version()").fetchone()
    assert installed == (version("stepquota"),)
    changelog = (repository() / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{version('stepquota')}]" in changelog
