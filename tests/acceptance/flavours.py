"""One way to drive both flavours of the shim, so that each acceptance test is written once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import psycopg
import pytest

import stepquota
import stepquota.aio

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Notice:
    """A message of the server that is no error."""

    severity: str | None
    message: str | None
    detail: str | None


class Notices(list[Notice]):
    """The messages so far."""

    def add(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Keep a message: what psycopg hands over is gone after its handler."""
        self.append(
            Notice(
                diagnostic.severity_nonlocalized,
                diagnostic.message_primary,
                diagnostic.message_detail,
            )
        )

    def take(self) -> list[Notice]:
        """The messages since the last time."""
        said = list(self)
        self.clear()
        return said


class Driver(Protocol):
    """A connection of one flavour."""

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the shim."""

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Rows:
        """Run a statement of the test's own."""

    def transaction(self, *, rollback: bool = False) -> Any:
        """A transaction around what is called in it."""

    notices: Notices

    def close(self) -> None:
        """Close the connection."""


class SynchronousDriver:
    """stepquota, on a psycopg.Connection."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.notices = Notices()
        self.connection.add_notice_handler(self.notices.add)

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(stepquota, function)(self.connection, *args, **kwargs)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Rows:
        cursor = self.connection.execute(statement.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        with self.connection.transaction(force_rollback=rollback):
            yield

    def close(self) -> None:
        self.connection.close()


class AsynchronousDriver:
    """stepquota.aio, on a psycopg.AsyncConnection in an event loop of its own."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.connection = self.runner.run(psycopg.AsyncConnection.connect(url, autocommit=True))
        self.notices = Notices()
        self.connection.add_notice_handler(self.notices.add)

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        return self.runner.run(getattr(stepquota.aio, function)(self.connection, *args, **kwargs))

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Rows:
        return self.runner.run(self._execute(statement, parameters))

    async def _execute(self, statement: str, parameters: Sequence[Any]) -> Rows:
        cursor = await self.connection.execute(statement.encode(), parameters or None)
        return await cursor.fetchall() if cursor.description else []

    @contextmanager
    def transaction(self, *, rollback: bool = False) -> Iterator[None]:
        block = self.connection.transaction(force_rollback=rollback)
        self.runner.run(block.__aenter__())
        try:
            yield
        except BaseException as error:
            self.runner.run(block.__aexit__(type(error), error, error.__traceback__))
            raise
        else:
            self.runner.run(block.__aexit__(None, None, None))

    def close(self) -> None:
        self.runner.run(self.connection.close())
        self.runner.close()


# For tests that drive processes of both flavours at once, whatever prepares them.
ONCE = pytest.mark.parametrize("quota", ["sync"], indirect=True)

DRIVERS: dict[str, Callable[[str], Driver]] = {
    "sync": SynchronousDriver,
    "asyncio": AsynchronousDriver,
}


class Quota:
    """A database with a test clock, and the shim's functions as methods.

    ``quota.tick()`` is ``stepquota.tick(connection)``, or the same of ``stepquota.aio``.
    """

    def __init__(self, url: str, flavour: str) -> None:
        self.url = url
        self.driver = DRIVERS[flavour](url)
        self.execute = self.driver.execute
        self.transaction = self.driver.transaction
        self.notices = self.driver.notices.take
        self.close = self.driver.close
        self._fetches = 0
        self.execute("update stepquota.policy set allow_test_clock = true")
        self.at("2026-04-15T12:00:00Z")

    def __getattr__(self, function: str) -> Callable[..., Any]:
        if function not in stepquota.aio.__all__:
            raise AttributeError(function)
        return partial(self.driver.call, function)

    def at(self, moment: str | datetime) -> None:
        """Set the test clock of this connection."""
        self.now = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        self.execute("select set_config('stepquota.now', %s, false)", [self.now.isoformat()])

    def apply(self, *objects: dict[str, Any]) -> None:
        """Write objects to the Stripe mirror, each as if it was fetched after the one before."""
        for answer in objects:
            self._fetches += 1
            fetched_at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._fetches)
            self.apply_stripe_object(answer, fetched_at)

    def set_limit(self, tenant: str, limit: int | None) -> None:
        """Give a tenant a limit of its own, by a tier of its own."""
        self.set_tier_limit(f"tier of {tenant}", limit)
        self.set_tenant_plan(tenant, f"tier of {tenant}")

    def events(self, event_type: str, tenant: str) -> list[dict[str, Any]]:
        """Level, run and details of the recorded events of a type, oldest first."""
        rows = self.execute(
            "select jsonb_build_object('level', level, 'run_id', run_id) || details"
            " from stepquota.quota_events where event_type = %s and tenant = %s order by event_id",
            [event_type, tenant],
        )
        return [details for (details,) in rows]

    def ledger(self, tenant: str) -> Rows:
        """Paths, attempts and statuses of the tenant's ledger, in order."""
        return self.execute(
            "select node_path, attempt, status from stepquota.workflow_run_steps"
            " where tenant = %s order by node_path, attempt",
            [tenant],
        )

    def run(self, tenant: str, run_id: str) -> tuple[Any, ...]:
        """Status and node path of a run."""
        (row,) = self.execute(
            "select status, node_path from stepquota.workflow_runs"
            " where tenant = %s and run_id = %s",
            [tenant, run_id],
        )
        return row

    def open_waits(self, tenant: str) -> Rows:
        """Run, type and paths of the tenant's open waits."""
        return self.execute(
            "select run_id, wait_type, node_paths from stepquota.workflow_run_waits"
            " where tenant = %s and status = 'WAITING' order by run_id, wait_type",
            [tenant],
        )

    def used(self, tenant: str) -> int:
        """Units that the tenant's counters say are used, over all periods."""
        ((used,),) = self.execute(
            "select coalesce(sum(used_count), 0)::bigint from stepquota.workflow_step_usage_lanes"
            " where tenant = %s",
            [tenant],
        )
        return int(used)


PROLOGUE = """
import asyncio, sys, time
import psycopg, stepquota, stepquota.aio
url, program = sys.argv[1:]
def wait_for_the_others():
    print("ready", flush=True)
    sys.stdin.readline()
exec(program)
"""


def run_at_once(url: str, programs: Sequence[str], now: str) -> list[str]:
    """Run Python programs at the same moment, each in a process of its own; answer what they print.

    A program finds ``url`` and calls ``wait_for_the_others()`` once it is connected.
    """
    url = psycopg.conninfo.make_conninfo(url, options=f"-c stepquota.now={now}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROLOGUE, url, program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in programs
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready == "ready\n", process.communicate(timeout=10)[1]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = []
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert process.returncode == 0, err
            answers.append(out.strip())
        return answers
    finally:
        for process in processes:
            process.kill()
            process.wait()
