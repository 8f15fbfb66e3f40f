"""Reserver in several processes, killed, cut off and recovered: no unit too many, none lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

import psycopg
import pytest

import stepquota
import stepquota.aio
from concurrency.races import (
    Background,
    Connect,
    Connection,
    at_once,
    break_function,
    call,
    give_limit,
    value,
    violations,
)
from harness.databases import Database
from harness.pgbouncer import PgBouncer
from harness.servers import Unavailable
from stepquota.migrate import migrate
from stepquota.server import LocalServer

PROGRAM = Path(__file__).with_name("reserving.py")
USED = "select coalesce(sum(used_count), 0)::int from stepquota.workflow_step_usage_lanes"


def start(
    url: str, kind: str, workers: int, requests: int, output: IO[bytes] | int = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start the program; see there."""
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), url, kind, str(workers), str(requests)],
        stdout=output,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def received(processes: list[subprocess.Popen[bytes]]) -> int:
    """How many units processes received until they ended."""
    units = 0
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, b"")
        units += len(output)
    return units


@pytest.mark.parametrize("limit", [1, 60, 3000, 20_000])
def test_processes_with_many_threads_and_tasks_take_exactly_the_limit(
    database: Database, connect: Connect, limit: int
) -> None:
    demand = limit // 2 + 100
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", limit)
        processes = [start(database.url, "tasks", 32, demand) for _ in range(2)]
        processes += [start(database.url, "threads", 8, demand) for _ in range(2)]
        # And somebody who asks alone.
        singles = sum(
            call(connection, "reserve_workflow_step", "acme")["allowed"] for _ in range(100)
        )
        assert received(processes) + singles == limit
        assert value(connection, USED) == limit
        assert violations(connection) == []
        assert not value(
            connection,
            "select count(*) from stepquota.workflow_step_batches"
            " where closed_at is null or handed_out_count < granted_count",
        )


def test_less_demand_than_the_limit(database: Database, connect: Connect) -> None:
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", 5000)
        processes = [start(database.url, kind, 10, 1000) for kind in ("tasks", "threads")]
        assert received(processes) == value(connection, USED) == 2000


@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_a_killed_process_leaves_at_most_one_batch(
    database: Database, connect: Connect, tmp_path: Path, kind: str
) -> None:
    chance = random.Random(kind)
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", None)
        for attempt in range(3):
            before = value(connection, USED)
            output = tmp_path / f"received {attempt}"
            with output.open("wb") as file:
                process = start(database.url, kind, 20, 1_000_000, file)
            until = time.monotonic() + 30
            while not output.stat().st_size and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            wait_for_servers_side(connection)
            counted = value(connection, USED) - before
            left = connection.execute(
                "select batch_id, granted_count, is_overdue"
                " from stepquota.list_open_workflow_step_batches()"
            ).fetchall()
            assert len(left) <= 1
            unaccounted = counted - output.stat().st_size
            assert 0 <= unaccounted <= 20
            # A thread may be slow to write down what it received of the batch before.
            if kind == "tasks":
                assert unaccounted <= sum(granted for _, granted, _ in left)
            for batch_id, granted, is_overdue in left:
                assert not is_overdue
                # What an operator does who found out how many steps were started.
                handed_out = max(granted - unaccounted, 0)
                call(connection, "close_workflow_step_batch", "acme", batch_id, handed_out)
                if kind == "tasks":
                    assert value(connection, USED) - before == output.stat().st_size
        assert violations(connection) == []


def wait_for_servers_side(connection: Connection) -> None:
    """Wait until the server has noticed that a client is gone."""
    query = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    until = time.monotonic() + 30
    while value(connection, query):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_batch_left_open_is_found(database: Database, connect: Connect) -> None:
    with connect(autocommit=True) as connection:
        call(connection, "set_policy", "batch_open_for", "10 milliseconds")
        call(connection, "open_workflow_step_batch", "acme", uuid4(), 3, "one that died")
        time.sleep(0.05)
        (found,) = stepquota.list_open_workflow_step_batches(connection)
        assert found.is_overdue
        items = {item.item: item for item in stepquota.status(connection)}
        assert items["open batches"].state == "warn"
        connection.execute("call stepquota.tick()")
        events = "select count(*) from stepquota.quota_events where event_type = 'batch_left_open'"
        assert value(connection, events) == 1
        stepquota.close_workflow_step_batch(connection, "acme", found.batch_id, 0)
        assert value(connection, USED) == 0


# -- The functions, at once


def test_the_same_batch_at_the_same_time(connect: Connect) -> None:
    """A call whose connection was lost is still under way when it is repeated."""
    first, second, watcher = connect(), connect(autocommit=True), connect(autocommit=True)
    batch_id = uuid4()
    # Two lanes' worth, so that the second call does not simply wait for the first one's lane.
    give_limit(watcher, "acme", 10_000)
    value(watcher, "select stepquota._fan_out_lane(q.tenant, q.period_start, 0)::text"
                   " from stepquota.workflow_step_quotas q")  # fmt: skip

    def open_batch(connection: Connection) -> int:
        answer = call(connection, "open_workflow_step_batch", "acme", batch_id, 5, "me")
        return int(answer["granted"])

    assert open_batch(first) == 5
    again = Background(second, open_batch)
    assert again.wait_until_blocked(watcher)
    first.commit()
    with pytest.raises(psycopg.errors.SerializationFailure, match="opened by another call"):
        again.result()
    assert open_batch(second) == 5
    assert value(watcher, USED) == 5


def counts_of_a_mixed_load(
    database: Database, limit: int | None, seconds: float
) -> tuple[int, int]:
    """Units received, and units counted, of batches not all handed out, singles, and raises."""
    end = time.monotonic() + seconds

    def work(connection: Connection, seed: int) -> int:
        chance = random.Random(seed)
        units = 0
        closes: tuple[list[UUID], list[int]] = ([], [])
        while time.monotonic() < end:
            if chance.random() < 0.5:
                units += call(connection, "reserve_workflow_step", "acme")["allowed"]
                continue
            batch_id = uuid4()
            answer = call(connection, "open_workflow_step_batch", "acme", batch_id,
                          chance.choice([1, 20, 200]), "me", *closes)  # fmt: skip
            handed_out = chance.randint(0, answer["granted"])
            units += handed_out
            closes = ([batch_id], [handed_out]) if answer["granted"] else ([], [])
        for batch_id, handed_out in zip(*closes, strict=True):
            call(connection, "close_workflow_step_batch", "acme", batch_id, handed_out)
        return units

    with database.connect(autocommit=True) as connection:
        give_limit(connection, "acme", limit)
        units = sum(at_once(database, [partial(work, seed=seed) for seed in range(6)]))
        assert violations(connection) == []
        return units, value(connection, USED)


@pytest.mark.parametrize("limit", [300, 5000, None])
def test_units_given_back_during_a_load(database: Database, limit: int | None) -> None:
    units, counted = counts_of_a_mixed_load(database, limit, 3)
    assert units == counted
    assert limit is None or counted <= limit


def test_a_period_that_is_not_looked_at_would_be_seen(database: Database, connect: Connect) -> None:
    """Units of a period that is over must not come back."""
    break_function(database, "_return_units", "v_quota.period_start <> p_period_start", "false")
    with connect(autocommit=True) as connection:
        connection.execute("update stepquota.policy set allow_test_clock = true")
        connection.execute("set stepquota.now = '2026-04-15Z'")
        batch_id = uuid4()
        call(connection, "open_workflow_step_batch", "acme", batch_id, 5, "me")
        connection.execute("set stepquota.now = '2026-05-15Z'")
        call(connection, "close_workflow_step_batch", "acme", batch_id, 2)
        assert value(connection, USED) == 2


def test_lanes_that_are_not_dealt_anew_would_be_seen(database: Database) -> None:
    break_function(
        database,
        "_return_units",
        "perform stepquota._deal_lanes(p_tenant,",
        "perform concat(p_tenant,",
    )
    with database.connect(autocommit=True) as connection:
        give_limit(connection, "acme", 10)
        batch_id = uuid4()
        call(connection, "open_workflow_step_batch", "acme", batch_id, 10, "me")
        give_limit(connection, "acme", 4)
        call(connection, "close_workflow_step_batch", "acme", batch_id, 0)
        assert violations(connection) != []


# -- Between program and server


def test_through_pgbouncer(database: Database, connect: Connect) -> None:
    try:
        with PgBouncer(database.url) as pool, connect(autocommit=True) as connection:
            give_limit(connection, "acme", 1500)
            processes = [start(pool.url, kind, 16, 1000) for kind in ("tasks", "threads")]
            assert received(processes) == value(connection, USED) == 1500
            assert violations(connection) == []
    except Unavailable as reason:
        pytest.skip(str(reason))


def crash(url: str) -> None:
    """Have the server lose a process, upon which it ends all others and recovers."""
    with suppress(psycopg.OperationalError), psycopg.connect(url) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)
        connection.execute("select 1")


def connect_again(url: str) -> psycopg.Connection[Any]:
    """Connect to a server that may still be recovering."""
    until = time.monotonic() + 60
    while True:
        try:
            return psycopg.connect(url, autocommit=True)
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_a_server_that_crashes_and_recovers() -> None:
    with LocalServer(settings={"fsync": "off"}) as server:
        url = server.url()
        migrate(url)
        with psycopg.connect(url, autocommit=True) as connection:
            give_limit(connection, "acme", None)
        units: list[int] = []
        lost: list[Exception] = []
        stop = threading.Event()

        def ask(reserver: stepquota.Reserver) -> None:
            while not stop.is_set():
                try:
                    units.append(reserver.reserve("acme").allowed)
                except psycopg.OperationalError as error:
                    lost.append(error)

        async def ask_in_tasks() -> None:
            async with stepquota.aio.Reserver(url) as reserver:

                async def ask_in_task() -> None:
                    while not stop.is_set():
                        try:
                            quota = await reserver.reserve("acme")
                            units.append(quota.allowed)
                        except psycopg.OperationalError as error:
                            lost.append(error)

                await asyncio.gather(*(ask_in_task() for _ in range(10)))

        with stepquota.Reserver(url) as reserver:
            threads = [threading.Thread(target=ask, args=[reserver]) for _ in range(10)]
            threads.append(threading.Thread(target=lambda: asyncio.run(ask_in_tasks())))
            for thread in threads:
                thread.start()
            for _ in range(3):
                time.sleep(0.3)
                crash(url)
                before = len(units)
                until = time.monotonic() + 60
                while len(units) < before + 200:
                    assert time.monotonic() < until, lost[-3:]
                    time.sleep(0.05)
            stop.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
        with connect_again(url) as connection:
            # What was lost on the way was given back when the server was there again.
            assert value(connection, USED) == sum(units)
            assert violations(connection) == []
            assert stepquota.list_open_workflow_step_batches(connection) == ()
