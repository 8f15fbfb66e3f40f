"""Clients in processes of their own that take units of one tenant, and write down what they took.

What a client has taken is a row of its own in the same transaction. So what was committed is known
exactly, also of a client that was killed, or that never heard the answer to its commit.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import psycopg
from psycopg import IsolationLevel

from concurrency.races import call, value

# Starting an interpreter for each would take longer than the load.
_PROCESSES = multiprocessing.get_context("fork")

NOTES = """
create table taken (client integer, units integer);
create table denied (client integer);
"""
TAKEN = "select coalesce(sum(units), 0)::integer from taken"


@dataclass(frozen=True)
class Load:
    """What each client does.

    Attributes:
        wanted: Units it takes before it ends.
        ends_when_denied: Whether it also ends when it is denied a single unit.
        batches: The share of reservations that are batches.
        reservations: How many there are in a transaction.
        undone: The share of transactions, and of their savepoints, that are rolled back.
        level: The isolation level.
        prepare_threshold: As for ``psycopg.connect``.
    """

    wanted: int = 1_000_000
    ends_when_denied: bool = True
    batches: float = 0
    reservations: int = 1
    undone: float = 0.2
    level: IsolationLevel = IsolationLevel.READ_COMMITTED
    prepare_threshold: int | None = 5


class Client:
    """One client; a connection that is lost is made again."""

    def __init__(self, url: str, load: Load, number: int):
        self._url = url
        self._load = load
        self._number = number
        self._chance = random.Random(number)
        # Two in one transaction may meet two others; one by itself never.
        self._conflicts: tuple[type[psycopg.Error], ...] = (psycopg.errors.SerializationFailure,)
        if load.reservations > 1:
            self._conflicts += (psycopg.errors.DeadlockDetected,)

    def run(self) -> None:
        """Until it has what it wants, or is denied."""
        taken, is_denied = 0, False
        while taken < self._load.wanted and not is_denied:
            try:
                with psycopg.connect(
                    self._url, autocommit=True, prepare_threshold=self._load.prepare_threshold
                ) as connection:
                    connection.isolation_level = self._load.level
                    while taken < self._load.wanted and not is_denied:
                        units, is_denied = self._transact(connection)
                        is_denied = is_denied and self._load.ends_when_denied
                        taken += units
            except psycopg.Rollback:
                pass  # the connection was lost during a rollback
            except psycopg.OperationalError as error:
                if error.sqlstate not in (None, "57P01"):
                    raise

    def _transact(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        """Units committed, and whether a single one was denied in what was committed."""
        units, is_denied = 0, False
        try:
            with connection.transaction() as transaction:
                for _ in range(self._load.reservations):
                    more, is_denied_now = self._reserve(connection)
                    units, is_denied = units + more, is_denied or is_denied_now
                if units:
                    connection.execute("insert into taken values (%s, %s)", [self._number, units])
                if is_denied:
                    connection.execute("insert into denied values (%s)", [self._number])
                if self._chance.random() < self._load.undone:
                    units, is_denied = 0, False
                    raise psycopg.Rollback(transaction)
        except self._conflicts:
            time.sleep(self._chance.uniform(0, 0.01))
            return 0, False
        return units, is_denied

    def _reserve(self, connection: psycopg.Connection[Any]) -> tuple[int, bool]:
        units, is_denied = 0, False
        with connection.transaction() as savepoint:
            if self._chance.random() < self._load.batches:
                steps, partly = self._chance.choice([2, 30, 200]), self._chance.random() < 0.5
                units = call(connection, "reserve_workflow_steps", "acme", steps, partly)["granted"]
                assert units in (0, steps) or partly
            else:
                units = int(call(connection, "reserve_workflow_step", "acme")["allowed"])
                is_denied = units == 0
            if self._chance.random() < self._load.undone:
                units = 0
                raise psycopg.Rollback(savepoint)
        return units, is_denied


def _run_client(url: str, load: Load, number: int) -> None:
    Client(url, load, number).run()


@contextmanager
def clients(url: str, load: Load, count: int) -> Iterator[list[BaseProcess]]:
    """Starts clients; at the end they are killed, if they have not ended by themselves."""
    processes: list[BaseProcess] = [
        _PROCESSES.Process(target=_run_client, args=(url, load, number), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_for(processes: Sequence[BaseProcess], seconds: float = 60) -> None:
    """Waits until they have ended, all well."""
    until = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    assert [process.exitcode for process in processes] == [0] * len(processes)


def check_exact(connection: psycopg.Connection[Any]) -> int:
    """What is counted is what was committed; answers how many units that is."""
    taken = int(value(connection, TAKEN))
    assert call(connection, "resolve_workflow_step_quota", "acme")["used_count"] == taken
    assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
    return taken
