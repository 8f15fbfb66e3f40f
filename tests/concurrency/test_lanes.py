"""Lanes: many rows, one limit. Each rule of sql/lanes.sql at once from several connections."""

from __future__ import annotations

import random
import threading
import time
from functools import partial

import psycopg

from concurrency.races import (
    Background,
    Connect,
    Connection,
    at_once,
    call,
    give_limit,
    value,
    violations,
)
from harness.databases import Database

LANES = "select count(*) from stepquota.workflow_step_usage_lanes where tenant = 'acme'"


def reserve(connection: Connection) -> bool:
    return bool(call(connection, "reserve_workflow_step", "acme")["allowed"])


def split(connection: Connection, limit: int) -> None:
    """Give the tenant a limit, and its period as many lanes as that is worth."""
    give_limit(connection, "acme", limit)
    value(
        connection,
        "select stepquota._fan_out_lane(q.tenant, q.period_start, 0)::text"
        " from stepquota.workflow_step_quotas q where q.tenant = 'acme'",
    )


def committed_of_a_mixed_load(database: Database, limit: int, seconds: float) -> tuple[int, int]:
    """Units committed, and units counted, of singles, batches and aborts at random."""
    end = time.monotonic() + seconds

    def work(connection: Connection, seed: int) -> int:
        chance = random.Random(seed)
        committed = 0
        while time.monotonic() < end:
            with connection.transaction() as transaction:
                if chance.random() < 0.2:
                    steps, partly = chance.choice([2, 17, 100]), chance.random() < 0.5
                    taken = call(connection, "reserve_workflow_steps", "acme", steps, partly)
                    units = taken["granted"]
                    assert units in (0, steps) or partly
                else:
                    units = int(reserve(connection))
                if chance.random() < 0.1:
                    raise psycopg.Rollback(transaction)
                committed += units
        return committed

    with database.connect(autocommit=True) as connection:
        split(connection, limit)
        committed = sum(at_once(database, [partial(work, seed=seed) for seed in range(6)]))
        used = call(connection, "resolve_workflow_step_quota", "acme")["used_count"]
        if used <= limit:
            assert violations(connection) == []
    return committed, used


def test_a_mixed_load_takes_exactly_the_limit(database: Database) -> None:
    assert committed_of_a_mixed_load(database, 2000, 4) == (2000, 2000)


def meet(first: Connection, second: Connection, watcher: Connection) -> None:
    """The first takes a unit, and the second waits for the lane until that is committed."""
    assert reserve(first)
    waiting = Background(second, reserve)
    assert waiting.wait_until_blocked(watcher)
    first.commit()
    assert waiting.result()


def test_callers_that_meet_often_split_the_lane(database: Database, connect: Connect) -> None:
    first, second, watcher = connect(), connect(autocommit=True), connect(autocommit=True)
    # One moment, so that a slow machine does not make it longer than a second.
    watcher.execute("update stepquota.policy set allow_test_clock = true")
    for connection in (first, second):
        connection.execute("select set_config('stepquota.now', clock_timestamp()::text, false)")
        connection.commit()
    give_limit(watcher, "acme", 10_000)
    for _ in range(7):
        meet(first, second, watcher)
        assert value(watcher, LANES) == 1
    meet(first, second, watcher)
    assert value(watcher, LANES) == 64
    # Now one that holds its lane open stops nobody.
    assert reserve(first)
    second.execute("set statement_timeout = '5s'")
    assert all(reserve(second) for _ in range(20))
    first.commit()
    assert violations(watcher) == []


def test_callers_that_meet_now_and_then_do_not(database: Database, connect: Connect) -> None:
    first, second, watcher = connect(), connect(autocommit=True), connect(autocommit=True)
    watcher.execute("update stepquota.policy set allow_test_clock = true")
    give_limit(watcher, "acme", 10_000)
    for n in range(10):
        for connection in (first, second):
            connection.execute(
                "select set_config('stepquota.now',"
                " (clock_timestamp() + %s * interval '2 s')::text, false)",
                [n],
            )
            connection.commit()
        meet(first, second, watcher)
    assert value(watcher, LANES) == 1
    assert violations(watcher) == []


def test_a_small_limit_is_not_worth_splitting(connect: Connect) -> None:
    watcher = connect(autocommit=True)
    split(watcher, 1000)
    assert value(watcher, LANES) == 1


def test_a_limit_lowered_during_an_open_split(connect: Connect) -> None:
    """The split's lanes are not visible yet: lowering waits for it, and finds them all."""
    splitter, lowering = connect(), connect(autocommit=True)
    watcher = connect(autocommit=True)
    give_limit(watcher, "acme", 10_000)
    splitter.execute(
        "select stepquota._fan_out_lane(q.tenant, q.period_start, 0)"
        " from stepquota.workflow_step_quotas q where q.tenant = 'acme'"
    )
    lowered = Background(lowering, lambda c: give_limit(c, "acme", 80))
    assert lowered.wait_until_blocked(watcher)
    splitter.commit()
    lowered.result()
    assert violations(watcher) == []
    granted = call(watcher, "reserve_workflow_steps", "acme", 10_000, True)["granted"]
    assert granted == 80


def test_a_raise_waits_for_no_lane(connect: Connect) -> None:
    holder, other = connect(), connect(autocommit=True)
    # Who reaches a percent that is recorded has the quota row until it commits.
    other.execute("update stepquota.policy set alert_percents = '{}'")
    give_limit(other, "acme", 1)
    assert reserve(holder)
    other.execute("set statement_timeout = '5s'")
    give_limit(other, "acme", 2)
    assert reserve(other)
    holder.commit()
    assert not reserve(other)
    assert violations(other) == []


def test_two_batches_over_short_lanes_do_not_wait_for_each_other(database: Database) -> None:
    def take(connection: Connection) -> int:
        return sum(
            int(call(connection, "reserve_workflow_steps", "acme", 700, False)["granted"])
            for _ in range(5)
        )

    with database.connect(autocommit=True) as connection:
        split(connection, 64 * 64)
        assert value(connection, LANES) == 64
        granted = sum(at_once(database, [take] * 4))
        assert granted == 64 * 64 // 700 * 700
        assert violations(connection) == []


def test_the_next_period_is_open_to_all_at_once(database: Database, connect: Connect) -> None:
    """Its lane was made ahead: the one that opens the period holds up nobody."""
    opener, other = connect(), connect(autocommit=True)
    other.execute("update stepquota.policy set allow_test_clock = true")
    for connection in (opener, other):
        connection.execute("set stepquota.now = '2026-04-30T23:30:00Z'")
    opener.commit()
    give_limit(other, "acme", 100)
    assert reserve(other)
    for connection in (opener, other):
        connection.execute("set stepquota.now = '2026-05-01T00:00:00Z'")
    assert reserve(opener)
    # Only the lane is waited for; the quota row, which the opener holds too, is not.
    watcher = connect(autocommit=True)
    waiting = Background(other, lambda c: call(c, "reserve_workflow_step", "acme"))
    assert waiting.wait_until_blocked(watcher)
    opener.commit()
    answer = waiting.result()
    assert answer["allowed"]
    assert answer["used_count"] == 2
    assert violations(other) == []


def test_limits_that_change_under_a_mixed_load(database: Database, connect: Connect) -> None:
    stop = threading.Event()

    def work(connection: Connection) -> int:
        committed = 0
        while not stop.is_set():
            committed += reserve(connection)
        return committed

    def change(connection: Connection) -> int:
        for limit in [5000, 9000, 4200, None, 20_000, 100, 15_000]:
            give_limit(connection, "acme", limit)
            time.sleep(0.3)
        stop.set()
        return 0

    with connect(autocommit=True) as connection:
        split(connection, 5000)
        committed = sum(at_once(database, [work, work, work, change]))
        assert call(connection, "resolve_workflow_step_quota", "acme")["used_count"] == committed
        assert violations(connection) == []
