"""Two connections and more in a chosen order, and functions broken on purpose."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from harness.databases import Database

Connection = psycopg.Connection[Any]

# The fixture ``connect``.
Connect = Callable[..., Connection]


def value(connection: Connection, query: str, *parameters: Any) -> Any:
    """The first column of the only row."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return row[0]


def call(connection: Connection, function: str, *parameters: Any) -> dict[str, Any]:
    """The only row that a function answers, by column."""
    places = ", ".join(["%s"] * len(parameters))
    cursor = connection.execute(
        f"select * from stepquota.{function}({places})".encode(), parameters or None
    )
    names = [column.name for column in cursor.description or []]
    row = cursor.fetchone()
    assert row is not None
    return dict(zip(names, row, strict=True))


def give_limit(connection: Connection, tenant: str, limit: int | None) -> None:
    """Give a tenant a limit of its own."""
    call(connection, "set_tier_limit", f"tier of {tenant}", limit)
    call(connection, "set_tenant_plan", tenant, f"tier of {tenant}")


def use_units(connection: Connection, tenant: str, units: int) -> None:
    """Use units in a run that has ended."""
    call(connection, "register_workflow_run", tenant, "user")
    for number in range(units):
        start = call(connection, "start_workflow_step", tenant, "user", f"root.steps[{number}]")
        assert start["outcome"] == "started"
    call(connection, "finish_workflow_run", tenant, "user", "SUCCEEDED")


def pause(connection: Connection, tenant: str, run_id: str) -> None:
    """Have a new run paused by quota at its first step."""
    call(connection, "register_workflow_run", tenant, run_id)
    start = call(connection, "start_workflow_step", tenant, run_id, "root.steps[0]")
    assert start["outcome"] == "quota_paused"


def violations(connection: Connection) -> list[Any]:
    """What verify_all finds."""
    return connection.execute("select * from stepquota.verify_all()").fetchall()


@dataclass
class Background:
    """Work on a connection of its own, in a thread.

    Attributes:
        connection: The connection that the work has.
        answer: What the work returned.
        error: What it raised.
    """

    connection: Connection
    work: Callable[[Connection], Any]
    answer: Any = None
    error: Exception | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self.work(self.connection)
        except psycopg.Error as error:
            self.error = error

    def wait_until_blocked(self, watcher: Connection, seconds: float = 10) -> bool:
        """Wait until the work waits for a lock, or is done; answer whether it waits."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._thread.is_alive():
            if value(
                watcher,
                "select count(*) from pg_stat_activity where pid = %s and wait_event_type = 'Lock'",
                self.connection.info.backend_pid,
            ):
                return True
            time.sleep(0.01)
        assert not self._thread.is_alive(), "the work neither waits for a lock nor ends"
        return False

    def result(self, seconds: float = 20) -> Any:
        """Wait for the answer; raise what the work raised."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the work does not end"
        if self.error:
            raise self.error
        return self.answer


def at_once(database: Database, works: Sequence[Callable[[Connection], Any]]) -> list[Any]:
    """Carry out works at the same moment, each on a connection of its own; answer what they did."""
    barrier = threading.Barrier(len(works))
    connections = [database.connect(autocommit=True) for _ in works]

    def start(work: Callable[[Connection], Any]) -> Callable[[Connection], Any]:
        def started(connection: Connection) -> Any:
            barrier.wait(20)
            return work(connection)

        return started

    try:
        running = [
            Background(connection, start(work))
            for connection, work in zip(connections, works, strict=True)
        ]
        return [background.result(60) for background in running]
    finally:
        for connection in connections:
            connection.close()


def break_function(database: Database, name: str, old: str, new: str) -> None:
    """Replace a text in an installed function that must be there exactly once."""
    with database.connect() as connection:
        break_function_over(connection, name, old, new)


def break_function_over(connection: Connection, name: str, old: str, new: str) -> None:
    """The same over a connection."""
    definition = value(
        connection,
        "select pg_get_functiondef(p.oid) from pg_proc p"
        " where p.pronamespace = 'stepquota'::regnamespace and p.proname = %s",
        name,
    )
    assert definition.count(old) == 1, f"{name} has not exactly one {old!r}"
    connection.execute(definition.replace(old, new).encode())
