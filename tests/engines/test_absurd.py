"""The conformance kit on Absurd, 200 tasks at once, its own waits, and what asking costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import psycopg
import pytest
from absurd_sdk import Absurd, RetryStrategy, TaskContext

import stepquota
from engines.absurd_engine import (
    AbsurdAdapter,
    install,
    make_odd_app,
    run_async_worker,
    run_odd_worker,
)
from engines.many import Tell, report, run_dry_and_go_on, survive_kills
from stepquota.absurd import Quota, TimeLimited
from stepquota.results import WorkflowRunResumption
from stepquota.testing import Conformance, WorkerProcess


@pytest.fixture
def adapter(database_url: str) -> Iterator[AbsurdAdapter]:
    adapter = AbsurdAdapter(database_url)
    yield adapter
    adapter.close()


class TestAbsurd(Conformance):
    patience_seconds = 60.0


class TestAsyncAbsurd(Conformance):
    patience_seconds = 60.0

    @pytest.fixture
    def adapter(self, database_url: str) -> Iterator[AbsurdAdapter]:
        adapter = AbsurdAdapter(database_url, run_async_worker)
        yield adapter
        adapter.close()


def test_two_hundred_tasks(tell: Tell, adapter: AbsurdAdapter, database_url: str) -> None:
    run_dry_and_go_on(tell, "Absurd", adapter, database_url)


def test_killed_workers_and_failures(tell: Tell, adapter: AbsurdAdapter, database_url: str) -> None:
    survive_kills(tell, "Absurd", adapter, database_url)


class Odd:
    """Tasks of ``make_odd_app``, spawned from here and carried out by a worker process."""

    def __init__(self, database_url: str):
        install(database_url)
        self.url = database_url
        self.connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self.quota = Quota(database_url).__enter__()
        self.app: Absurd = make_odd_app(database_url, self.quota)
        self.worker = WorkerProcess(run_odd_worker, database_url)

    def close(self) -> None:
        self.worker.stop()
        self.app.close()
        self.quota.__exit__(None, None, None)
        self.connection.close()

    def set_limit(self, limit: int) -> None:
        stepquota.set_tier_limit(self.connection, "odd", limit)
        stepquota.set_tenant_plan(self.connection, "acme", "odd")

    def spawn(self, task: str, params: Any = None) -> str:
        at_once: RetryStrategy = {"kind": "fixed", "base_seconds": 0}
        spawned = self.app.spawn(task, params, headers={"tenant": "acme"}, retry_strategy=at_once)
        return spawned["task_id"]

    def run(self, task_id: str) -> str | None:
        """The status of the task's run."""
        row = self.connection.execute(
            "select status from stepquota.workflow_runs where tenant = 'acme' and run_id = %s",
            [str(task_id)],
        ).fetchone()
        return row[0] if row else None

    def ledger(self) -> list[tuple[Any, ...]]:
        return self.connection.execute(
            "select node_path, attempt, step_type, status from stepquota.workflow_run_steps"
            " where tenant = 'acme' order by started_at"
        ).fetchall()

    def state(self, task_id: str) -> str:
        snapshot = self.app.fetch_task_result(task_id)
        assert snapshot
        return snapshot.state

    def claim(self) -> WorkflowRunResumption:
        (resumption,) = stepquota.claim_workflow_run_resumptions(
            self.connection, "test", runtime="absurd default"
        )
        return resumption


def until(is_so: Callable[[], bool], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def odd(database_url: str) -> Iterator[Odd]:
    odd = Odd(database_url)
    odd.set_limit(100)
    yield odd
    odd.close()


def test_events_and_sleep_of_absurd_count_once(odd: Odd) -> None:
    odd.set_limit(1)
    task = odd.spawn("waits", {"event": "paid"})
    # The wait itself is refused at first.
    until(lambda: odd.run(task) == "WAITING")
    assert [step[0] for step in odd.ledger()] == ["before"]
    odd.set_limit(3)
    until(lambda: odd.run(task) == "WAITING" and len(odd.ledger()) == 2)
    odd.app.emit_event("paid", {"amount": 17})
    # It sleeps, and then its last step is refused.
    until(lambda: len(odd.ledger()) == 3)
    until(lambda: stepquota.workflow_run_quota_pause(odd.connection, "acme", task) is not None)
    odd.set_limit(100)
    until(lambda: odd.state(task) == "completed")
    assert odd.app.fetch_task_result(task).result == {"amount": 17}  # type: ignore[union-attr]
    assert odd.ledger() == [
        ("before", 1, "action", "SUCCEEDED"),
        ("$awaitEvent:paid", 1, "event", "SUCCEEDED"),
        ("nap", 1, "time", "SUCCEEDED"),
        ("after", 1, "action", "SUCCEEDED"),
    ]
    until(lambda: odd.run(task) == "SUCCEEDED")
    assert stepquota.verify_all(odd.connection) == ()


def test_an_event_that_times_out_is_a_wait_that_ended(odd: Odd) -> None:
    task = odd.spawn("times out")
    until(lambda: odd.state(task) == "completed")
    assert odd.app.fetch_task_result(task).result == "timed out"  # type: ignore[union-attr]
    assert odd.ledger() == [("$awaitEvent:never", 1, "event", "SUCCEEDED")]


def test_repeated_names_are_numbered_as_absurd_does(odd: Odd) -> None:
    task = odd.spawn("repeats")
    until(lambda: odd.state(task) == "completed")
    assert [step[0] for step in odd.ledger()] == ["again", "again#2", "again#3"]


def test_a_task_with_a_time_limit_is_refused(odd: Odd) -> None:
    """Absurd would cancel it by it while it is paused."""
    with pytest.raises(TimeLimited):
        odd.app.spawn(
            "repeats", None, headers={"tenant": "acme"}, cancellation={"max_duration": 60}
        )
    # By the task's own default it is seen when it begins.
    task = odd.spawn("limited")
    query = "select failure_reason ->> 'name' from absurd.r_default where task_id = %s"
    until(lambda: odd.connection.execute(query, [task]).fetchone() == ("TimeLimited",))
    assert odd.ledger() == []
    # Nobody's tasks may have one.
    other = odd.app.spawn("repeats", None, cancellation={"max_duration": 60})["task_id"]
    until(lambda: odd.state(other) == "completed")
    assert odd.ledger() == []


def test_runs_of_tasks_that_absurd_ended_alone_are_ended(odd: Odd) -> None:
    dead = odd.spawn("stays")
    until(lambda: len(odd.ledger()) == 1)
    odd.worker.kill()
    odd.worker = WorkerProcess(run_odd_worker, odd.url)
    until(lambda: odd.state(dead) == "failed")
    odd.set_limit(1)
    paused = odd.spawn("repeats")
    until(lambda: odd.run(paused) == "WAITING")
    odd.app.cancel_task(paused)
    assert [odd.run(task) for task in (dead, paused)] == ["RUNNING", "WAITING"]
    odd.quota.end_runs()
    assert [odd.run(task) for task in (dead, paused)] == ["FAILED", "CANCELED"]
    assert odd.ledger() == [("stays", 1, "action", "FAILED")]
    odd.quota.end_runs()
    assert stepquota.verify_all(odd.connection) == ()


def test_a_run_that_is_cancelled_cancels_its_task(odd: Odd) -> None:
    odd.set_limit(1)
    task = odd.spawn("repeats")
    until(lambda: odd.run(task) == "WAITING")
    odd.worker.kill()
    stepquota.cancel_workflow_run(odd.connection, "acme", task)
    odd.connection.execute("update absurd.r_default set available_at = now()")
    odd.worker = WorkerProcess(run_odd_worker, odd.url)
    until(lambda: odd.state(task) == "cancelled")
    assert len(odd.ledger()) == 1


def test_waiting_for_a_unit_costs_no_claim(odd: Odd) -> None:
    first = odd.spawn("repeats")
    until(lambda: odd.state(first) == "completed")
    with psycopg.connect(odd.url) as holder:
        holder.execute("select from stepquota.workflow_step_usage_lanes for update")
        second = odd.spawn("repeats")
        waiting = "select from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
        pid = holder.info.backend_pid
        until(lambda: odd.connection.execute(waiting, [pid]).rowcount == 1)
        # Claims are for two seconds.
        time.sleep(4)
        holder.rollback()
    until(lambda: odd.state(second) == "completed")
    assert {step[1] for step in odd.ledger()} == {1}


def test_a_worker_that_lost_its_claim_starts_nothing(odd: Odd) -> None:
    task = odd.spawn("loses its claim")
    until(lambda: odd.state(task) == "completed")
    assert [step[:2] for step in odd.ledger()] == [("a", 1), ("b", 2)]


def test_a_task_that_is_cancelled_at_work_cancels_its_run(odd: Odd) -> None:
    task = odd.spawn("is slow")
    until(lambda: len(odd.ledger()) == 1)
    odd.app.cancel_task(task)
    until(lambda: odd.run(task) == "CANCELED")
    assert odd.ledger() == [("a", 1, "action", "CANCELED")]


def test_two_tasks_of_one_run_are_refused(odd: Odd) -> None:
    headers: dict[str, Any] = {"tenant": "acme", "run_id": "r"}
    first = odd.app.spawn("repeats", None, headers=headers)["task_id"]
    until(lambda: odd.state(first) == "completed")
    second = odd.app.spawn("repeats", None, headers=headers, max_attempts=1)["task_id"]
    until(lambda: odd.state(second) == "failed")
    assert "has two tasks" in str(odd.app.fetch_task_result(second).failure)  # type: ignore[union-attr]
    assert len(odd.ledger()) == 3


@pytest.fixture
def alone(odd: Odd) -> Odd:
    """Without the worker: tasks are carried out, and resumptions taken, by the test itself."""
    odd.worker.kill()
    return odd


def test_a_step_may_be_refused_again(alone: Odd) -> None:
    alone.set_limit(1)
    task = alone.spawn("repeats")
    alone.app.work_batch()
    for limit in (2, 3):
        alone.set_limit(limit)
        resumption = alone.claim()
        # Somebody else is faster.
        assert stepquota.reserve_workflow_step(alone.connection, "acme").allowed
        alone.quota._resume(resumption)
        assert alone.state(task) == "pending"
        alone.app.work_batch()
        assert alone.state(task) == "sleeping"
    alone.set_limit(100)
    alone.quota._resume(alone.claim())
    alone.app.work_batch()
    assert alone.state(task) == "completed"
    assert [step[:2] for step in alone.ledger()] == [("again", 1), ("again#2", 1), ("again#3", 1)]


def test_an_event_that_a_stranger_emitted_wakes_once(alone: Odd) -> None:
    alone.set_limit(1)
    task = alone.spawn("repeats")
    alone.app.emit_event(f'stepquota:["acme", "{task}", "again#2"]')
    for _ in range(2):
        alone.app.work_batch()
        assert alone.state(task) == "sleeping"
        assert [step[0] for step in alone.ledger()] == ["again"]
        alone.app.emit_event(f'stepquota:["acme", "{task}", "again#2"]')
        assert alone.state(task) == "pending"


def test_a_wait_that_was_refused_waits_when_it_is_resumed(alone: Odd) -> None:
    alone.set_limit(1)
    task = alone.spawn("is told")
    alone.app.work_batch()
    alone.set_limit(100)
    alone.quota._resume(alone.claim())
    alone.app.work_batch()
    assert [step[0] for step in alone.ledger()] == ["before", "told"]
    assert (alone.state(task), alone.run(task)) == ("sleeping", "WAITING")


def test_a_resumption_that_comes_late_wakes_nobody(alone: Odd) -> None:
    """The task has gone on meanwhile, and waits at the same place for something else."""
    alone.set_limit(1)
    task = alone.spawn("is told")
    alone.app.work_batch()
    alone.set_limit(100)
    late = alone.claim()
    alone.connection.execute(
        "update absurd.r_default set state = 'pending', available_at = now(), wake_event = null"
    )
    alone.app.work_batch()
    assert [step[0] for step in alone.ledger()] == ["before", "told"]
    alone.quota._resume(late)
    alone.app.work_batch()
    assert alone.state(task) == "sleeping"
    (wait,) = alone.connection.execute(
        "select wait_id from stepquota.workflow_run_waits where status = 'WAITING'"
    ).fetchall()
    stepquota.resolve_workflow_run_wait(alone.connection, "acme", wait[0], "now")
    alone.quota._resume(alone.claim())
    alone.app.work_batch()
    assert alone.app.fetch_task_result(task).result == "now"  # type: ignore[union-attr]
    assert alone.run(task) == "SUCCEEDED"


def test_what_it_costs(tell: Tell, database_url: str) -> None:
    install(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        stepquota.set_tier_limit(connection, "solo", 100000)
    with Quota(database_url) as quota:
        # By turns, so that both meet the same machine.
        parts = [
            (durations(database_url, quota, {}), durations(database_url, quota, ACME))
            for _ in range(10)
        ]
    report(tell, "Absurd", *(list(chain(*seconds)) for seconds in zip(*parts, strict=True)))


ACME = {"tenant": "acme"}


def durations(database_url: str, quota: Quota, headers: dict[str, Any]) -> list[float]:
    """Seconds of each of the 30 steps of a task."""
    seconds: list[float] = []
    app = Absurd(database_url, hooks=quota.hooks)

    @app.register_task("measured")
    def measured(given: None, context: TaskContext) -> None:
        for number in range(30):
            before = time.perf_counter()
            context.step(f"step {number}", lambda: None)
            seconds.append(time.perf_counter() - before)

    app.spawn("measured", None, headers=headers)
    app.work_batch()
    app.close()
    assert len(seconds) == 30
    return seconds
