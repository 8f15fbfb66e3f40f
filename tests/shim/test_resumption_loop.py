"""stepquota.resumptions and stepquota.aio.resumptions, on a real server."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

import stepquota
import stepquota.aio
from harness.databases import Database
from stepquota.delivery import Hand
from stepquota.results import WorkflowRunResumption

Got = list[tuple[str, float]]

LOOPS = """datname = current_database() and query ~ 'claim_workflow|listen'
  and pid <> pg_backend_pid()"""
COUNT = f"select count(*) from pg_stat_activity where {LOOPS}"
CUT = f"select count(pg_terminate_backend(pid)) from pg_stat_activity where {LOOPS}"
SHORT = timedelta(seconds=1)


@pytest.fixture
def operator(database: Database) -> Iterator[psycopg.Connection]:
    with database.connect(autocommit=True) as connection:
        stepquota.set_tier_limit(connection, "none", 1)
        yield connection


def pause(operator: psycopg.Connection, tenant: str, run_id: str = "r") -> None:
    """A run of a tenant that has used its one unit."""
    stepquota.set_tenant_plan(operator, tenant, "none")
    if stepquota.reserve_workflow_step(operator, tenant).allowed:
        assert not stepquota.reserve_workflow_step(operator, tenant).allowed
    stepquota.register_workflow_run(operator, tenant, run_id)
    start = stepquota.start_workflow_step(operator, tenant, run_id, "root")
    assert start.outcome == "quota_paused"


def upgrade(operator: psycopg.Connection, tenant: str) -> float:
    """Let its run go on; answer when that was committed."""
    stepquota.set_tenant_plan(operator, tenant, "pro")
    return time.monotonic()


@contextmanager
def worker(url: str, **arguments: Any) -> Iterator[tuple[Got, stepquota.Resumptions]]:
    """A loop in a thread that notes what it gets, and when, and enters it."""
    got: Got = []
    failures: list[BaseException] = []
    loop = stepquota.resumptions(url, "worker", **arguments)

    def work() -> None:
        try:
            with loop, psycopg.connect(url, autocommit=True) as connection:
                for resumption in loop:
                    got.append((resumption.tenant, time.monotonic()))
                    stepquota.start_workflow_step(
                        connection,
                        resumption.tenant,
                        resumption.run_id,
                        "root",
                        delivery=resumption.delivery,
                    )
        except psycopg.Error as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield got, loop
    finally:
        began = time.monotonic()
        loop.stop()
        thread.join(20)
        assert not thread.is_alive()
        assert time.monotonic() - began < 5
    assert failures == []


def has_come(got: Got, tenant: str) -> bool:
    return tenant in [known for known, _ in got]


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


def test_an_upgrade_is_heard_of(operator: psycopg.Connection, database_url: str) -> None:
    pause(operator, "acme")
    # It would poll after an hour.
    with worker(database_url, poll_seconds=3600) as (got, loop):
        wait_for(lambda: loop.is_listening)
        upgrade(operator, "acme")
        wait_for(lambda: got)
    assert [tenant for tenant, _ in got] == ["acme"]
    status = operator.execute("select status from stepquota.workflow_run_resumptions").fetchall()
    assert status == [("ACKNOWLEDGED",)]


def test_what_was_there_before_is_claimed_at_once(
    operator: psycopg.Connection, database_url: str
) -> None:
    pause(operator, "acme")
    upgrade(operator, "acme")
    with worker(database_url, poll_seconds=3600) as (got, _loop):
        wait_for(lambda: got)


def test_without_hints_it_polls(operator: psycopg.Connection, database_url: str) -> None:
    stepquota.set_policy(operator, "notify_resumptions", "false")
    pause(operator, "acme")
    with worker(database_url, poll_seconds=0.3) as (got, loop):
        wait_for(lambda: loop.is_listening)
        upgrade(operator, "acme")
        wait_for(lambda: got)
    with worker(database_url, poll_seconds=0.3, listen=False) as (got, loop):
        pause(operator, "globex")
        upgrade(operator, "globex")
        wait_for(lambda: got)
        assert not loop.is_listening


def test_it_outlives_its_connection(
    operator: psycopg.Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    pause(operator, "acme")
    caplog.set_level(logging.INFO, "stepquota")
    with worker(database_url, poll_seconds=3600) as (got, loop):
        for tenant in ("acme", "globex"):
            pause(operator, tenant, f"run of {tenant}")
            wait_for(lambda: loop.is_listening)
            assert operator.execute(CUT).fetchone() != (0,)
            wait_for(lambda: "trying again" in caplog.text)
            upgrade(operator, tenant)
            wait_for(partial(has_come, got, tenant))
            assert "can be claimed again" in caplog.text
            caplog.clear()


def test_what_no_other_connection_would_do_better_is_raised(
    operator: psycopg.Connection, database: Database
) -> None:
    del operator
    with (
        stepquota.resumptions(lambda: database.connect(role="stepquota_observer"), "w") as loop,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        next(loop)
    with (
        stepquota.resumptions(database.url, "w", max_runs=0) as loop,
        pytest.raises(stepquota.InvalidArgument),
    ):
        next(loop)
    with pytest.raises(ValueError, match="poll_seconds"):
        stepquota.resumptions(database.url, "w", poll_seconds=0)


def test_a_runtime_and_a_tenant_of_its_own(
    operator: psycopg.Connection, database: Database
) -> None:
    for tenant in ("acme", "globex"):
        pause(operator, tenant)
        upgrade(operator, tenant)
    runtime = lambda: database.connect(role="stepquota_runtime")  # noqa: E731
    with stepquota.resumptions(runtime, "w", tenant="globex", poll_seconds=0.1) as loop:
        assert next(loop).tenant == "globex"
        threading.Timer(0.3, loop.stop).start()
        assert list(loop) == []
    with stepquota.resumptions(runtime, "w", runtime="other", poll_seconds=0.1) as loop:
        threading.Timer(0.3, loop.stop).start()
        assert list(loop) == []


def test_a_lease_that_is_over_is_not_handed_out() -> None:
    hand = Hand()
    resumptions = [
        WorkflowRunResumption("acme", None, run, ("root",), 1, "quota", None, None)  # type: ignore[arg-type]
        for run in ("a", "b")
    ]
    hand.put(resumptions, 100.0, timedelta(seconds=10))
    first = hand.take(108.0)
    assert first is not None
    assert first.run_id == "a"
    # Less than a tenth of it is left.
    assert hand.take(109.5) is None
    assert hand.take(100.0) is None


def test_runs_held_back_too_long_are_delivered_again(
    operator: psycopg.Connection, database_url: str
) -> None:
    for tenant in ("a", "b"):
        pause(operator, tenant)
        upgrade(operator, tenant)
    with stepquota.resumptions(database_url, "w", max_runs=10, lease=SHORT) as loop:
        first = next(loop)
        time.sleep(1.1)  # and does not enter it
        again = [next(loop), next(loop)]
    assert {r.tenant for r in again} == {"a", "b"}
    assert all(r.delivery > first.delivery for r in again)


def test_asyncio(operator: psycopg.Connection, database_url: str) -> None:
    pause(operator, "acme")
    pause(operator, "globex")

    async def go_on() -> None:
        got = []

        async def work() -> None:
            async with stepquota.aio.resumptions(database_url, "w", poll_seconds=3600) as loop:
                loops.append(loop)
                async for resumption in loop:
                    got.append(resumption.tenant)

        async def wait_until(condition: Callable[[], object]) -> None:
            async with asyncio.timeout(20):
                while not condition():  # noqa: ASYNC110 - it is another thread's, or the server's
                    await asyncio.sleep(0.01)

        loops: list[stepquota.aio.Resumptions] = []
        task = asyncio.create_task(work())
        await wait_until(lambda: loops and loops[0].is_listening)
        upgrade(operator, "acme")
        await wait_until(lambda: got == ["acme"])
        operator.execute(CUT)
        upgrade(operator, "globex")
        await wait_until(lambda: got == ["acme", "globex"])
        loops[0].stop()
        async with asyncio.timeout(5):
            await task
        # And one that is cancelled.
        task = asyncio.create_task(work())
        await wait_until(lambda: len(loops) == 2 and loops[1].is_listening)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: operator.execute(COUNT).fetchone() == (0,))

    asyncio.run(go_on())
