"""The suite. It decides nothing about quota: it compares what counted with what was started."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, LiteralString

import psycopg
import pytest

import stepquota

from .adapter import Adapter, Attempt, Worker
from .bodies import SCHEMA
from .scripts import Event, ForEach, Script, Work

TENANT = "conformance"
TWO_STEPS: Script = (Work("root.steps[0]"), Work("root.steps[1]"))


class Bench:
    """What a test of the suite works with: the adapter, its workers, and the database."""

    def __init__(self, adapter: Adapter, database_url: str, patience_seconds: float):
        self.adapter = adapter
        self._patience_seconds = patience_seconds
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._connection.execute(SCHEMA.encode())
        self._workers: list[Worker] = []

    def close(self) -> None:
        """Stop the workers."""
        for worker in self._workers:
            worker.stop()
        self._connection.close()

    def start_worker(self) -> Worker:
        """Start a worker that is stopped when the test ends."""
        worker = self.adapter.start_worker()
        self._workers.append(worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """Kill a worker with SIGKILL."""
        self._workers.remove(worker)
        worker.kill()

    def set_limit(self, limit: int, tenant: str = TENANT) -> None:
        """Give the tenant a limit; what can go on is resumed."""
        with self._connection.transaction():
            stepquota.set_tier_limit(self._connection, f"tier of {tenant}", limit)
            stepquota.set_tenant_plan(self._connection, tenant, f"tier of {tenant}")

    def start(self, *run_ids: str, script: Script = TWO_STEPS, tenant: str = TENANT) -> None:
        """Hand runs to the engine."""
        for run_id in run_ids:
            self.adapter.start_run(tenant, run_id, script)

    def until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something; fail when it takes too long."""
        deadline = time.monotonic() + self._patience_seconds
        while not is_so():
            if time.monotonic() > deadline:
                pytest.fail(f"after {self._patience_seconds} seconds still not: {what}")
            time.sleep(0.05)

    def until_ended(self, *run_ids: str, tenant: str = TENANT, state: str = "succeeded") -> None:
        """Wait until the engine says that the runs have ended so, and stepquota does too."""

        def have_ended() -> bool:
            return all(self.adapter.state(tenant, run_id) == state for run_id in run_ids)

        self.until(f"{', '.join(run_ids[:3])}... {state} in the engine", have_ended)
        status = state.upper()
        self.until(
            f"{', '.join(run_ids[:3])}... {status} in stepquota",
            lambda: all(self.status(run_id, tenant) == status for run_id in run_ids),
        )

    def until_paused(self, *run_ids: str) -> None:
        """Wait until the runs are paused by their quota."""
        self.until(
            f"{', '.join(run_ids[:3])}... paused",
            lambda: all(
                self.status(run_id) == "WAITING"
                and stepquota.workflow_run_quota_pause(self._connection, TENANT, run_id) is not None
                for run_id in run_ids
            ),
        )

    def until_at_rest(self, *run_ids: str) -> None:
        """Wait until each of the runs has ended or is paused."""
        self.until(
            "all runs have ended or are paused",
            lambda: all(self.status(name) in ("WAITING", "SUCCEEDED") for name in run_ids),
        )

    def status(self, run_id: str, tenant: str = TENANT) -> str | None:
        """The run's status in stepquota; None if it is not registered."""
        rows = self.rows(
            "select status from stepquota.workflow_runs where tenant = %s and run_id = %s",
            tenant,
            run_id,
        )
        return str(rows[0][0]) if rows else None

    def touches(self, run_id: str) -> tuple[Any, ...]:
        """A value that changes when anybody asks for a step of the run: starting one locks it."""
        (row,) = self.rows(
            "select xmin::text, xmax::text, ctid::text from stepquota.workflow_runs"
            " where tenant = %s and run_id = %s",
            TENANT,
            run_id,
        )
        return row

    def ledger(self, tenant: str = TENANT) -> dict[Attempt, str]:
        """The status of each attempt that was counted."""
        rows = self.rows(
            "select run_id, node_path, attempt, status from stepquota.workflow_run_steps"
            " where tenant = %s",
            tenant,
        )
        return {Attempt(run_id, path, attempt): status for run_id, path, attempt, status in rows}

    def executions(self, *run_ids: str) -> Counter[tuple[str, str]]:
        """How often each step was executed, by run and path."""
        rows = self.rows(
            "select run_id, node_path from conformance.executions"
            " where cardinality(%s::text[]) = 0 or run_id = any (%s)",
            list(run_ids),
            list(run_ids),
        )
        return Counter((run_id, path) for run_id, path in rows)

    def used(self, tenant: str = TENANT) -> int:
        """Units that are used."""
        return stepquota.resolve_workflow_step_quota(self._connection, tenant).used_count

    def check_counted(self, count: int, tenant: str = TENANT) -> None:
        """Counter, ledger and the engine's history agree, and are this many."""
        ledger = self.ledger(tenant)
        history = list(self.adapter.attempts(tenant))
        assert Counter(history) == Counter(ledger.keys())
        assert (self.used(tenant), len(ledger)) == (count, count)
        assert stepquota.verify_all(self._connection) == ()

    def shut(self, run_id: str, path: str) -> None:
        """Have the step stay in its body until ``open`` is called."""
        self.rows("insert into conformance.gates values (%s, %s) returning 1", run_id, path)

    def open(self) -> None:
        """Open all gates."""
        self._connection.execute("delete from conformance.gates")

    def rows(self, statement: LiteralString, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the scratch database."""
        return self._connection.execute(statement, parameters).fetchall()

    def hold_units(self) -> psycopg.Connection[Any]:
        """A connection that holds the tenant's counters, so that reservations wait meanwhile."""
        other = psycopg.connect(self._connection.info.dsn, password=self._connection.info.password)
        other.execute(
            "select from stepquota.workflow_step_usage_lanes where tenant = %s for update",
            [TENANT],
        )
        return other

    def is_waited_for(self, holder: psycopg.Connection[Any]) -> bool:
        """Whether anybody waits for what the holder has locked."""
        return self.rows(
            "select exists (select from pg_stat_activity where %s = any (pg_blocking_pids(pid)))",
            holder.info.backend_pid,
        ) == [(True,)]

    def cut_off_waiting(self, holder: psycopg.Connection[Any]) -> int:
        """End the sessions that wait for the holder's lock; answer how many there were."""
        rows = self.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where %s = any (pg_blocking_pids(pid))",
            holder.info.backend_pid,
        )
        return len(rows)


class Conformance:
    """Derive from it, and give it the fixtures ``database_url`` and ``adapter``.

    ``database_url`` is a scratch database with stepquota just installed, whose role may read the
    tables and end sessions; each test wants a fresh one.

    Attributes:
        patience_seconds: how long anything may take.
        quiet_seconds: how long a paused run is watched for somebody who asks again.
        crowd: how many runs the tests with many have.
    """

    patience_seconds: ClassVar[float] = 30.0
    quiet_seconds: ClassVar[float] = 1.0
    crowd: ClassVar[int] = 12

    @pytest.fixture
    def bench(self, adapter: Adapter, database_url: str) -> Iterator[Bench]:
        """What the tests work with."""
        bench = Bench(adapter, database_url, self.patience_seconds)
        yield bench
        bench.close()

    def test_first_tries_count_once_each(self, bench: Bench) -> None:
        """Two steps, two units."""
        bench.set_limit(10)
        bench.start_worker()
        bench.start("r")
        bench.until_ended("r")
        bench.check_counted(2)
        assert set(bench.executions().values()) == {1}
        assert set(bench.ledger().values()) == {"SUCCEEDED"}

    def test_retries_count(self, bench: Bench) -> None:
        """A step that fails twice uses three units."""
        bench.set_limit(10)
        bench.start_worker()
        bench.start("r", script=(Work("root.steps[0]", failures=2), Work("root.steps[1]")))
        bench.until_ended("r")
        assert bench.executions() == {("r", "root.steps[0]"): 3, ("r", "root.steps[1]"): 1}
        bench.check_counted(4)
        statuses = Counter(bench.ledger().values())
        assert statuses["SUCCEEDED"] == 2
        assert statuses["FAILED"] + statuses["RETRY_SCHEDULED"] == 2

    def test_a_for_each_counts_itself_and_its_items(self, bench: Bench) -> None:
        """Three items, four units."""
        bench.set_limit(10)
        bench.start_worker()
        loop = ForEach("root.steps[0]", items=3)
        bench.start("r", script=(loop,))
        bench.until_ended("r")
        assert bench.executions() == {("r", path): 1 for path in loop.item_paths}
        bench.check_counted(4)

    def test_a_wait_counts_once_when_it_is_entered(self, bench: Bench) -> None:
        """Waiting for an event uses a unit, waking up uses none."""
        bench.set_limit(10)
        bench.start_worker()
        bench.start("r", script=(Event("root.steps[0]"), Work("root.steps[1]")))
        bench.until("the wait is entered", lambda: bench.status("r") == "WAITING")
        assert bench.used() == 1
        time.sleep(self.quiet_seconds)
        assert (bench.used(), bench.adapter.state(TENANT, "r")) == (1, "open")
        bench.adapter.send_event(TENANT, "r", "root.steps[0]")
        bench.until_ended("r")
        bench.check_counted(2)

    def test_a_used_up_quota_pauses_and_holds_no_worker(self, bench: Bench) -> None:
        """Paused runs stay open and at rest, and a worker goes on with another tenant's."""
        bench.set_limit(1)
        bench.set_limit(100, "other")
        bench.start_worker()
        names = [f"r{number}" for number in range(self.crowd)]
        bench.start(*names)
        bench.until_paused(*names[1:])
        bench.until_paused(names[0])
        before = {name: bench.touches(name) for name in names}
        bench.start("o", tenant="other")
        bench.until_ended("o", tenant="other")
        time.sleep(self.quiet_seconds)
        touched = [name for name in names if bench.touches(name) != before[name]]
        assert touched == [], "somebody asks again and again for the steps of paused runs"
        assert {bench.adapter.state(TENANT, name) for name in names} == {"open"}
        assert bench.executions(*names).total() == 1
        bench.check_counted(1)
        assert not {"FAILED", "CANCELED"} & set(bench.ledger().values())

    def test_paused_runs_go_on_when_there_is_quota(self, bench: Bench) -> None:
        """Some units bring some back, enough units bring all back; nothing is done twice."""
        bench.set_limit(3)
        bench.start_worker()
        names = [f"r{number}" for number in range(self.crowd)]
        bench.start(*names)
        bench.until("the units are used", lambda: bench.used() == 3)
        bench.until_at_rest(*names)
        bench.set_limit(5)
        bench.until("the new units are used", lambda: bench.used() == 5)
        bench.until_at_rest(*names)
        bench.set_limit(10 * self.crowd)
        bench.until_ended(*names)
        bench.check_counted(2 * self.crowd)
        assert set(bench.executions().values()) == {1}

    def test_a_resumption_without_a_worker_is_not_lost(self, bench: Bench) -> None:
        """What is resumed while nobody is there goes on when somebody comes."""
        bench.set_limit(1)
        worker = bench.start_worker()
        bench.start("r")
        bench.until_paused("r")
        bench.kill(worker)
        bench.set_limit(10)
        bench.start_worker()
        bench.until_ended("r")
        bench.check_counted(2)

    def test_a_crash_before_the_reservation_counts_nothing(self, bench: Bench) -> None:
        """A worker dies while its reservation is under way: the step is counted when it starts."""
        bench.set_limit(10)
        worker = bench.start_worker()
        bench.start("first")
        bench.until_ended("first")
        with bench.hold_units() as holder:
            bench.start("r")
            bench.until("the worker is at the step", lambda: bench.is_waited_for(holder))
            bench.kill(worker)
            bench.until("its sessions are gone", lambda: bench.cut_off_waiting(holder) == 0)
            assert bench.used() == 2
            holder.rollback()
        bench.start_worker()
        bench.until_ended("r")
        bench.check_counted(4)

    def test_a_crash_after_the_reservation_counts_what_was_started(self, bench: Bench) -> None:
        """A worker dies in a step: what the engine starts anew counts, what it repeats does not."""
        bench.set_limit(10)
        worker = bench.start_worker()
        bench.shut("r", "root.steps[0]")
        bench.start("r")
        bench.until("the step is executed", lambda: bool(bench.executions()))
        assert bench.used() == 1
        bench.kill(worker)
        bench.open()
        bench.start_worker()
        bench.until_ended("r")
        assert bench.executions()["r", "root.steps[1]"] == 1
        bench.check_counted(len(bench.ledger()))
        assert bench.used() <= bench.executions().total()

    def test_a_replay_counts_nothing(self, bench: Bench) -> None:
        """The engine looks again at a run that has ended, and at one that is paused."""
        bench.set_limit(2)
        bench.start_worker()
        bench.start("ended")
        bench.until_ended("ended")
        bench.start("paused")
        bench.until_paused("paused")
        executions = bench.executions()
        for run_id in ("ended", "paused"):
            bench.adapter.replay_run(TENANT, run_id)
        time.sleep(self.quiet_seconds)
        assert bench.executions() == executions
        bench.check_counted(2)
        bench.set_limit(10)
        bench.until_ended("paused")
        bench.check_counted(4)

    def test_a_cancelled_run_does_not_come_back(self, bench: Bench) -> None:
        """A paused run that is cancelled uses nothing of the next units."""
        bench.set_limit(1)
        bench.start_worker()
        bench.start("r")
        bench.until_paused("r")
        bench.adapter.cancel_run(TENANT, "r")
        bench.until_ended("r", state="canceled")
        bench.set_limit(10)
        bench.start("s")
        bench.until_ended("s")
        assert bench.executions("r") == {("r", "root.steps[0]"): 1}
        bench.check_counted(3)

    def test_two_workers_share_the_quota_exactly(self, bench: Bench) -> None:
        """Fewer units than steps: all of them are used, and after an upgrade all runs end."""
        limit = self.crowd // 2 + 1
        bench.set_limit(limit)
        for _ in range(2):
            bench.start_worker()
        names = [f"r{number}" for number in range(self.crowd)]
        bench.start(*names)
        bench.until("the units are used", lambda: bench.used() == limit)
        bench.until_at_rest(*names)
        bench.check_counted(limit)
        bench.set_limit(10 * self.crowd)
        bench.until_ended(*names)
        bench.check_counted(2 * self.crowd)
        assert set(bench.executions().values()) == {1}

    @staticmethod
    def _has_executed(bench: Bench, count: int) -> bool:
        return bench.executions().total() > count

    def test_failures_retries_and_kills_are_counted_exactly(self, bench: Bench) -> None:
        """Workers are killed again and again: every attempt counts, and nothing else."""
        limit = self.crowd
        bench.set_limit(limit)
        names = [f"r{number}" for number in range(self.crowd)]
        bench.start_worker()
        bench.start(*names, script=(Work("root.steps[0]", failures=1), Work("root.steps[1]")))
        kills = 3
        for kill in range(kills):
            worker = bench.start_worker()
            bench.until(
                "some more is executed",
                partial(self._has_executed, bench, kill * limit // 4),
            )
            bench.kill(worker)
        bench.set_limit(20 * self.crowd)
        bench.until_ended(*names)
        bench.check_counted(len(bench.ledger()))
        # A worker that dies in a step has it executed again, as the same attempt or the next one.
        # One that dies between start and body has started an attempt that was not executed.
        executions = bench.executions()
        unexecuted = len(bench.ledger()) - executions.total()
        assert len(bench.ledger()) >= 2 * self.crowd
        assert unexecuted <= kills * self.crowd
        assert all(executions[name, "root.steps[0]"] >= 2 for name in names)
