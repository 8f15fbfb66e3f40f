"""Connections that are cut, and a database that is away, fail no run and end no resumer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from engines.outage_engines import PROGRAMS, Engine
from stepquota.testing import Script, Work, Worker
from stepquota.testing.conformance import TENANT, Bench

PATHS = [f"root.steps[{number}]" for number in range(3)]
THREE_STEPS: Script = tuple(Work(path) for path in PATHS)


@pytest.fixture(params=sorted(PROGRAMS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engine(name: str, database_url: str) -> Iterator[Engine]:
    engine = Engine(name, database_url)
    yield engine
    engine.close()


@pytest.fixture
def bench(engine: Engine, database_url: str) -> Iterator[Bench]:
    bench = Bench(engine.adapter, database_url, 60)
    yield bench
    bench.close()


@pytest.fixture
def start(bench: Bench) -> Iterator[Callable[[Callable[[], Worker]], Worker]]:
    """Starts workers that are stopped when the test ends."""
    workers: list[Worker] = []

    def start(program: Callable[[], Worker]) -> Worker:
        workers.append(program())
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


Start = Callable[[Callable[[], Worker]], Worker]


def until_in_step(bench: Bench, path: str, *names: str) -> None:
    bench.until(
        f"{path} is executed", lambda: all((name, path) in bench.executions() for name in names)
    )


def rest_after_two(bench: Bench) -> None:
    """The run's second step is done by a resumption, and its third one waits for quota."""
    bench.set_limit(1)
    bench.start("r", script=THREE_STEPS)
    bench.until_paused("r")
    bench.set_limit(2)
    bench.until("the second step is done", lambda: bench.used() == 2)
    bench.until_paused("r")


def check_done_once(bench: Bench, *names: str) -> None:
    bench.until_ended(*names)
    bench.check_counted(3 * len(names))
    assert bench.executions() == {(name, path): 1 for name in names for path in PATHS}
    assert set(bench.ledger().values()) == {"SUCCEEDED"}


def test_cut_connections_fail_no_step(engine: Engine, bench: Bench, start: Start) -> None:
    """Those in the pool are stale when steps end, and again when the next ones start."""
    names = ["r", "s", "t"]
    bench.set_limit(10)
    start(engine.start_worker)
    for path in PATHS[:2]:
        for name in names:
            bench.shut(name, path)
    bench.start(*names, script=THREE_STEPS)
    for path in PATHS[:2]:
        until_in_step(bench, path, *names)
        assert engine.cut() >= 2
        bench.rows("delete from conformance.gates where node_path = %s returning 1", path)
    check_done_once(bench, *names)


def test_runs_are_resumed_after_an_outage(engine: Engine, bench: Bench, start: Start) -> None:
    start(engine.start_worker)
    # What resumes them has connections after that.
    rest_after_two(bench)
    engine.go_away()
    time.sleep(1)
    bench.set_limit(10)
    time.sleep(1)
    engine.come_back()
    check_done_once(bench, "r")


def test_a_resumption_that_could_not_be_acknowledged_comes_again(
    engine: Engine, bench: Bench, start: Start
) -> None:
    start(engine.start_worker_that_is_cut)
    rest_after_two(bench)
    # Whoever resumes has failed once, and is still there.
    bench.set_limit(10)
    check_done_once(bench, "r")


# Absurd tries the task again, as docs/absurd.md says.
@pytest.mark.parametrize("name", ["dbos", "procrastinate"])
def test_a_step_waits_while_the_database_is_away(
    engine: Engine, bench: Bench, start: Start
) -> None:
    """It goes away while a step is under way, for longer than a pool tries to connect."""
    bench.set_limit(10)
    start(engine.start_worker)
    bench.shut("r", PATHS[0])
    bench.start("r", script=THREE_STEPS)
    until_in_step(bench, PATHS[0], "r")
    engine.go_away()
    bench.open()
    time.sleep(14)
    assert engine.adapter.state(TENANT, "r") == "open"
    engine.come_back()
    check_done_once(bench, "r")
