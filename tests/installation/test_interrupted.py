"""An installer killed at every migration's boundary and inside it, and releases that meet."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest

from harness.databases import Database
from harness.servers import POSTGRES15
from stepquota import migrate as migrate_module
from stepquota._resources import migration_files, sql_files
from stepquota.migrate import _Backend, migrate
from stepquota.problems import Problem

from .conftest import Dump, applied_migrations

ALL_MIGRATIONS = [file.stem for file in migration_files()]


def in_a_child(work: Callable[[], object]) -> int:
    """Does it in a process of its own, and gives the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def migrate_and_die(url: str, migration: str, place: str) -> None:
    """Migrates up to a place in a migration."""
    current = ""
    apply_one, copy = _Backend.apply_one, _Backend.copy
    commit, log_migration = _Backend.commit, _Backend.log_migration

    def apply_one_(self: Any, applied: Any, **others: Any) -> None:
        nonlocal current
        current = applied.id
        apply_one(self, applied, **others)
        if place == "after it is recorded" and current == migration:
            die()

    def copy_(self: Any) -> Any:
        # The copy is the connection that migrates; the other one does the bookkeeping.
        made = copy(self)
        made.migrates = True
        return made

    def commit_(self: Any) -> None:
        if place == "inside" and current == migration and "migrates" in vars(self):
            die()
        commit(self)

    def log_migration_(self: Any, *arguments: Any, **others: Any) -> None:
        if place == "before it is recorded" and current == migration:
            die()
        log_migration(self, *arguments, **others)

    _Backend.apply_one, _Backend.copy = apply_one_, copy_
    _Backend.commit, _Backend.log_migration = commit_, log_migration_
    migrate(url)


PLACES = ("inside", "before it is recorded", "after it is recorded")


def test_killed_at_every_boundary_and_inside_every_migration(
    other_database: Database, database: Database, dump: Dump
) -> None:
    """Each installer comes one step further in the same database, and the last one to the end.

    Each migration one kind of kill, by turns and another one on the other server; all three with
    ``make test-faults``.
    """
    url = other_database.url
    for number, migration in enumerate(ALL_MIGRATIONS):
        turn = (number + (other_database.server.name == POSTGRES15)) % 3
        for place in PLACES if os.environ.get("STEPQUOTA_FAULTS") else PLACES[turn : turn + 1]:
            work = partial(migrate_and_die, url, migration, place)
            assert in_a_child(work) == signal.SIGKILL, (migration, place)
            done = number + (place == "after it is recorded")
            assert applied_migrations(other_database) == ALL_MIGRATIONS[:done], (migration, place)
    assert in_a_child(lambda: migrate(url)) == 0
    assert dump(other_database) == dump(database)


def test_killed_while_functions_are_loaded(database: Database, dump: Dump) -> None:
    """All or none of them: the last statement of the last file was done."""
    before = dump(database)

    def work() -> None:
        execute = psycopg.Connection.execute
        last = sql_files()[-1].read_bytes()

        def execute_and_die(self: Any, query: Any, *arguments: Any, **others: Any) -> Any:
            result = execute(self, query, *arguments, **others)
            if query == last:
                die()
            return result

        psycopg.Connection.execute = execute_and_die  # type: ignore[method-assign]
        migrate(database.url)

    assert in_a_child(work) == signal.SIGKILL
    assert dump(database) == before


def test_a_newer_release_is_not_overwritten(
    database: Database, dump: Dump, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dump(database)
    monkeypatch.setattr(migrate_module, "version", lambda _: "0.1.9")
    with pytest.raises(Problem, match=r"^stepquota [\d.]+ is installed here, which is newer"):
        migrate(database.url)
    assert dump(database) == before


def test_migrations_of_a_newer_release_are_noticed(database: Database) -> None:
    database.run(
        "insert into stepquota_migrations._stepquota_migration (migration_hash, migration_id)"
        " values ('x', 'stepquota_9999_of_later')"
    )
    with pytest.raises(Problem, match=r"^the migration stepquota_9999_of_later is installed here"):
        migrate(database.url)
