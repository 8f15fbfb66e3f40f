"""What locks migrate waits for, how it says who holds them, and that nobody queues behind it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harness.databases import Database
from stepquota import installing
from stepquota import migrate as migrate_module
from stepquota.migrate import migrate
from stepquota.problems import Problem

from .conftest import repository

# A migration as a later release may have one.
ALTER = "alter table stepquota.workflow_runs add column if not exists of_later text;\n"


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The next migration; its id."""
    for file in (repository() / "migrations").glob("*.sql"):
        (tmp_path / file.name).write_text(file.read_text())
    name = "stepquota_9001_of_later"
    (tmp_path / f"{name}.sql").write_text(ALTER)
    monkeypatch.setattr(migrate_module, "migrations_directory", lambda: tmp_path)
    monkeypatch.setattr(
        migrate_module,
        "migration_files",
        lambda: tuple(sorted(f for f in tmp_path.glob("*.sql") if "rollback" not in f.name)),
    )
    return name


def test_who_holds_the_lock_is_named(
    database: Database, later_release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "LOCK_PATIENCE_SECONDS", 1.5)
    with database.connect(application_name="a report") as reader:
        reader.execute("select count(*) from stepquota.workflow_runs")
        pid = reader.info.backend_pid
        with pytest.raises(Problem) as caught:
            migrate(database.url)
    assert caught.value.what.startswith(
        f"a lock was not to be had: migrations/{later_release}.sql: "
        f"held is stepquota.workflow_runs by process {pid} (role "
    )
    assert ", a report, idle in transaction since 20" in caught.value.what
    assert f"select pg_terminate_backend({pid});" in caught.value.hint
    # Nothing is half done, and it goes on from there.
    assert migrate(database.url).applied == (later_release,)


def test_it_goes_on_when_the_lock_is_free(database: Database, later_release: str) -> None:
    with database.connect() as reader:
        reader.execute("select count(*) from stepquota.workflow_runs")
        release = threading.Timer(1.5, reader.rollback)
        release.start()
        assert migrate(database.url).applied == (later_release,)
        release.join()


@pytest.mark.parametrize("lock_timeout", ["300ms", pytest.param("5s", id="too patient")])
def test_nobody_queues_behind_it_for_long(
    database: Database, later_release: str, monkeypatch: pytest.MonkeyPatch, lock_timeout: str
) -> None:
    """With the long timeout that is not ours the test sees the queue: it can fail."""
    monkeypatch.setattr(installing, "LOCK_TIMEOUT", lock_timeout)
    monkeypatch.setattr(installing, "LOCK_PATIENCE_SECONDS", 3.0)
    database.run("select stepquota.register_workflow_run('acme', 'r')")
    slowest = 0.0
    calls = 0
    with database.connect() as reader, database.connect(autocommit=True) as worker:
        reader.execute("select count(*) from stepquota.workflow_runs")
        problems: list[Problem] = []

        def upgrade() -> None:
            try:
                migrate(database.url)
            except Problem as problem:
                problems.append(problem)

        upgrading = threading.Thread(target=upgrade)
        upgrading.start()
        while upgrading.is_alive():
            begin = time.monotonic()
            worker.execute(f"select stepquota.start_workflow_step('acme', 'r', '{calls}')".encode())
            slowest = max(slowest, time.monotonic() - begin)
            calls += 1
        upgrading.join()
    assert "a lock was not to be had" in str(problems)
    if lock_timeout == "300ms":
        assert slowest < 1.5
        assert calls > 50
    else:
        assert slowest > 2.5


def test_a_prepared_transaction_is_named() -> None:
    blocker = installing._Blocker("stepquota.workflow_runs", 0, None, None, None, None)
    assert str(blocker) == "stepquota.workflow_runs by a prepared transaction"


def test_no_migration_sets_a_lock_timeout_of_its_own() -> None:
    """Whoever applies them says how long they wait, and tries again."""
    for file in (repository() / "migrations").glob("*.sql"):
        assert "lock_timeout" not in file.read_text(), file.name


def test_functions_are_loaded_beside_callers(database: Database) -> None:
    """Loading again takes no lock that a step waits for, or that an open transaction holds."""
    with database.connect() as client:
        client.execute("select stepquota.register_workflow_run('acme', 'r')")
        client.execute("select * from stepquota.start_workflow_step('acme', 'r', 'root')")
        begin = time.monotonic()
        assert migrate(database.url).applied == ()
        assert time.monotonic() - begin < 10
        client.execute("select * from stepquota.start_workflow_step('acme', 'r', 'root.next')")
        client.commit()
    with database.connect() as connection:
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
