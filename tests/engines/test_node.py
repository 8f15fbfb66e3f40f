"""examples/node: installed from npm, checked by TypeScript, and run against the server."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

import stepquota
from engines.many import Tell, check_silence, report, track_functions, watch
from harness.databases import Database

EXAMPLE = Path(__file__).parents[2] / "examples" / "node"
STEPS = 3
ROUNDS, MEASURED_STEPS = 6, 51

# What the worker's steps would be without stepquota: these two statements in another way.
UNMETERED = {
    r"await client\.query\([^;]*start_workflow_step[^;]*;": (
        "{ rows: [{ outcome: 'started', step_id: crypto.randomUUID(), used_count: '0' }] };"
    ),
    r"await pool\.query\([^;]*finish_workflow_step[^;]*;": "",
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("node") / "worker"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=folder, check=True
    )
    return folder


@pytest.fixture
def unmetered(package: Path) -> str:
    """A program beside the worker's, whose steps do not ask."""
    program = (package / "worker.js").read_text()
    for metered, plain in UNMETERED.items():
        program, found = re.subn(metered, plain, program)
        assert found == 1, f"the example has changed: {metered}"
    (package / "unmetered.js").write_text(program)
    return "unmetered.js"


class Start(Protocol):
    def __call__(self, program: str = "worker.js") -> subprocess.Popen[str]: ...


@pytest.fixture
def start(package: Path, database: Database) -> Iterator[Start]:
    """Starts workers."""
    workers = []

    def start_(program: str = "worker.js") -> subprocess.Popen[str]:
        with psycopg.connect(database.url) as connection:
            info = connection.info
            url = f"postgresql://{info.user}@/{info.dbname}?host={info.host}"
        worker = subprocess.Popen(
            ["node", program],
            cwd=package,
            env={"DATABASE_URL": url, "PATH": "/usr/local/bin:/usr/bin:/bin"},
            text=True,
        )
        workers.append(worker)
        return worker

    yield start_
    for worker in workers:
        worker.kill()
        worker.wait()


def until(is_so: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def value(connection: psycopg.Connection[Any], statement: str) -> Any:
    row = connection.execute(statement.encode()).fetchone()
    assert row
    return row[0]


def set_limit(connection: psycopg.Connection[Any], limit: int) -> None:
    stepquota.set_tier_limit(connection, "node", limit)
    stepquota.set_tenant_plan(connection, "acme", "node")


def queue(connection: psycopg.Connection[Any], count: int) -> None:
    connection.execute((EXAMPLE / "schema.sql").read_bytes())
    connection.execute(
        "insert into jobs (tenant, run_id, steps) select 'acme', 'run-' || n, %s"
        " from generate_series(1, %s) n",
        [STEPS, count],
    )


def counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    rows = connection.execute("select state, count(*) from jobs group by state")
    return dict(rows.fetchall())


def test_it_is_typed(package: Path) -> None:
    done = subprocess.run(["npm", "run", "check"], cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_jobs_pause_and_go_on(database: Database, start: Start) -> None:
    with database.connect(autocommit=True) as connection:
        set_limit(connection, 10)
        queue(connection, 8)
        workers = [start(), start()]
        until(lambda: value(connection, "select count(*) from effects") == 10)
        until(lambda: set(counts(connection)) <= {"paused", "done"})
        assert counts(connection).get("done", 0) <= 3
        set_limit(connection, 1000)
        until(lambda: counts(connection) == {"done": 8})
        assert value(connection, "select count(*) from effects") == 8 * STEPS
        assert value(connection, "select count(*) from stepquota.workflow_run_steps") == 8 * STEPS
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 8 * STEPS
        assert stepquota.verify_all(connection) == ()
        for worker in workers:
            worker.terminate()
            assert worker.wait(10) == 0


def test_killed_workers_lose_nothing(database: Database, start: Start) -> None:
    with database.connect(autocommit=True) as connection:
        set_limit(connection, 1000)
        queue(connection, 30)
        workers = [start(), start()]
        for number, worker in enumerate(workers):
            until(lambda n=number: value(connection, "select count(*) from effects") > 15 * n + 5)  # type: ignore[misc]
            worker.kill()
            worker.wait()
        start()
        until(lambda: counts(connection) == {"done": 30})
        assert value(connection, "select count(*) from effects") == 30 * STEPS
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 30 * STEPS
        assert stepquota.verify_all(connection) == ()


def test_two_hundred_jobs(database: Database, start: Start, tell: Tell) -> None:
    """A tenant runs dry among 200 jobs, and workers are killed before that, in it and after it."""
    track_functions(database.url)
    with database.connect(autocommit=True) as connection:
        set_limit(connection, 300)
        queue(connection, 0)
        workers = [start(), start()]
        idle = watch(database.url)

        def kill_one() -> None:
            worker = workers.pop(0)
            worker.kill()
            worker.wait()
            workers.append(start())

        queue(connection, 200)
        for effects in (80, 200):
            until(lambda n=effects: value(connection, "select count(*) from effects") >= n)  # type: ignore[misc]
            kill_one()
        until(lambda: value(connection, "select count(*) from effects") == 300)
        until(lambda: set(counts(connection)) <= {"paused", "done"})
        paused = counts(connection)["paused"]
        assert paused >= 100
        kill_one()
        check_silence(tell, "Node", paused, idle, watch(database.url))
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 300
        set_limit(connection, 10000)
        until(lambda: value(connection, "select count(*) from effects") >= 420)
        kill_one()
        until(lambda: counts(connection) == {"done": 200})
        # What was done and what was counted are the same attempts.
        assert value(connection, "select count(*) from stepquota.workflow_run_steps") == 600
        assert (
            value(
                connection,
                "select count(*) from effects e join stepquota.workflow_run_steps s"
                " on s.step_id = e.step_id and s.attempt = 1 and s.status = 'SUCCEEDED'",
            )
            == value(connection, "select count(*) from effects")
            == 600
        )
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 600
        assert stepquota.verify_all(connection) == ()


def test_what_it_costs(database: Database, start: Start, unmetered: str, tell: Tell) -> None:
    """Of a step as the worker goes through it: from what one does to what the next one does."""
    programs = (unmetered, "worker.js")
    sides: tuple[list[float], list[float]] = ([], [])
    with database.connect(autocommit=True) as connection:
        set_limit(connection, 100000)
        queue(connection, 0)
        connection.execute(
            "alter table effects add done_at timestamptz not null default clock_timestamp()"
        )
        # By turns, so that both meet the same machine.
        for turn in range(ROUNDS):
            for program, side in zip(programs, sides, strict=True):
                side += durations(connection, start, program, f"{program} {turn}")
        rows = connection.execute("select distinct run_id from stepquota.workflow_run_steps")
        assert {run_id for (run_id,) in rows} == {f"worker.js {turn}" for turn in range(ROUNDS)}
    assert {len(side) for side in sides} == {ROUNDS * (MEASURED_STEPS - 1)}
    report(tell, "Node", *sides)


def durations(
    connection: psycopg.Connection[Any], start: Start, program: str, run_id: str
) -> list[float]:
    """Seconds between the steps of a job that a worker of its own carries out."""
    connection.execute("truncate effects")
    connection.execute("insert into jobs values ('acme', %s, %s)", [run_id, MEASURED_STEPS])
    worker = start(program)
    until(lambda: set(counts(connection)) == {"done"})
    worker.terminate()
    assert worker.wait(10) == 0
    rows = connection.execute("select done_at from effects order by 1").fetchall()
    assert len(rows) == MEASURED_STEPS
    return [(after - before).total_seconds() for (before,), (after,) in pairwise(rows)]
