"""I1: exactly as many as the limit, whatever happens at once."""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

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


def reserve(connection: Connection) -> bool:
    return bool(call(connection, "reserve_workflow_step", "acme")["allowed"])


def reserve_patiently(connection: Connection, level: IsolationLevel) -> bool:
    """Reserve in a transaction of that level, again where it could not be serialised."""
    connection.isolation_level = level
    for _ in range(200):
        try:
            with connection.transaction():
                return reserve(connection)
        except psycopg.errors.SerializationFailure:
            time.sleep(random.uniform(0, 0.01))
    raise AssertionError("it was never serialised")


@pytest.mark.parametrize("level", list(IsolationLevel)[1:], ids=lambda level: level.name)
def test_twelve_at_once_with_a_limit_of_three(
    database: Database, connect: Connect, level: IsolationLevel
) -> None:
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", 3)
        answers = at_once(database, [partial(reserve_patiently, level=level)] * 12)
        assert sorted(answers) == [False] * 9 + [True] * 3
        assert call(connection, "resolve_workflow_step_quota", "acme")["used_count"] == 3
        assert violations(connection) == []


def test_twelve_first_reservations_of_a_new_tenant(database: Database, connect: Connect) -> None:
    """Nobody has made the quota row, the period or the lane yet."""
    with connect(autocommit=True) as connection:
        call(connection, "set_tier_limit", "solo", 3)
        answers = at_once(database, [reserve] * 12)
        assert sorted(answers) == [False] * 9 + [True] * 3
        assert violations(connection) == []


def test_unlimited_four_at_once(database: Database, connect: Connect) -> None:
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", None)
        assert at_once(database, [reserve] * 4) == [True] * 4
        assert call(connection, "resolve_workflow_step_quota", "acme")["used_count"] == 4


def test_twelve_runs_start_at_once_with_a_limit_of_three(
    database: Database, connect: Connect
) -> None:
    def start(connection: Connection, number: int) -> Any:
        return call(connection, "start_workflow_step", "acme", f"r{number}", "root")["outcome"]

    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", 3)
        for number in range(12):
            call(connection, "register_workflow_run", "acme", f"r{number}")
        answers = at_once(database, [partial(start, number=number) for number in range(12)])
        assert sorted(answers) == ["quota_paused"] * 9 + ["started"] * 3
        assert value(connection, "select count(*) from stepquota.workflow_run_steps") == 3
        assert violations(connection) == []


def committed_of_random_aborts(database: Database, limit: int) -> tuple[int, int, int]:
    """How many reservations were committed, denied, and are counted."""

    def work(connection: Connection, seed: int) -> tuple[int, int]:
        chance = random.Random(seed)
        committed = denied = 0
        for _ in range(30):
            with connection.transaction() as transaction:
                allowed = reserve(connection)
                time.sleep(chance.uniform(0, 0.003))
                if allowed and chance.random() < 0.4:
                    raise psycopg.Rollback(transaction)
                committed += allowed
                denied += not allowed
        return committed, denied

    with database.connect(autocommit=True) as connection:
        give_limit(connection, "acme", limit)
        answers = at_once(database, [partial(work, seed=seed) for seed in range(6)])
        used = call(connection, "resolve_workflow_step_quota", "acme")["used_count"]
    return sum(a for a, _ in answers), sum(d for _, d in answers), used


@pytest.mark.parametrize("limit", [60, 1000])
def test_any_mix_of_commits_and_aborts(database: Database, limit: int) -> None:
    committed, denied, used = committed_of_random_aborts(database, limit)
    assert committed == used <= limit
    # Who was denied saw every unit committed.
    assert denied == 0 or used == limit
    assert (denied > 0) == (limit == 60)


def test_a_guard_that_is_missing_would_be_seen(database: Database, connect: Connect) -> None:
    guard = "and (l.allowance is null or l.used_count < l.allowance)"
    break_function(database, "reserve_workflow_step", guard, "")
    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", 2)
        assert [reserve(connection) for _ in range(3)] == [True] * 3
        assert violations(connection) != []


def test_no_denial_while_the_last_unit_is_undecided(connect: Connect) -> None:
    """Its holder may abort: the next one waits, and gets it."""
    watcher, holder, other = connect(autocommit=True), connect(), connect(autocommit=True)
    give_limit(watcher, "acme", 1)
    assert reserve(holder)
    waiting = Background(other, reserve)
    assert waiting.wait_until_blocked(watcher)
    holder.rollback()
    assert waiting.result() is True
    waiting = Background(holder, reserve)
    assert waiting.result() is False


def test_waiting_obeys_lock_timeout(connect: Connect) -> None:
    watcher, holder, other = connect(autocommit=True), connect(), connect(autocommit=True)
    give_limit(watcher, "acme", 1)
    assert reserve(holder)
    other.execute("set lock_timeout = '200ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        reserve(other)
    holder.commit()
    assert reserve(other) is False


@pytest.mark.parametrize(
    "level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE], ids=lambda x: x.name
)
def test_an_old_snapshot_gets_an_error_and_never_a_false_answer(
    connect: Connect, level: IsolationLevel
) -> None:
    old, other = connect(), connect(autocommit=True)
    give_limit(other, "acme", 2)
    reserve(other)
    old.isolation_level = level
    value(old, "select count(*) from stepquota.workflow_step_usage_lanes")
    assert reserve(other)
    # One unit is free in the old snapshot, and none in truth.
    with pytest.raises(psycopg.errors.SerializationFailure):
        reserve(old)
    old.rollback()
    assert reserve(old) is False
    old.rollback()

    # A pause is never written from an old snapshot: the raise would not see it.
    call(other, "register_workflow_run", "acme", "r")
    value(old, "select count(*) from stepquota.workflow_step_usage_lanes")
    give_limit(other, "acme", 3)
    with pytest.raises(psycopg.errors.SerializationFailure):
        call(old, "start_workflow_step", "acme", "r", "root")
    old.rollback()
    assert call(old, "start_workflow_step", "acme", "r", "root")["outcome"] == "started"
    old.commit()
    assert violations(other) == []


def test_a_refresh_that_stays_open_stops_nobody_who_has_a_unit(connect: Connect) -> None:
    holder, other = connect(), connect(autocommit=True)
    give_limit(other, "acme", 2)
    call(other, "set_policy", "staleness", "1 millisecond")
    assert reserve(other)
    call(holder, "refresh_workflow_step_quota", "acme")
    other.execute("set statement_timeout = '5s'")
    time.sleep(0.01)
    assert reserve(other)
    # The last unit is gone: a denial must wait for who may be raising the limit.
    watcher = connect(autocommit=True)
    denied = Background(other, reserve)
    assert denied.wait_until_blocked(watcher)
    holder.execute("update stepquota.tiers set step_limit = 3 where tier = 'tier of acme'")
    call(holder, "refresh_workflow_step_quota", "acme")
    holder.commit()
    assert denied.result() is True


def test_a_new_tenants_first_answer_is_not_older_than_what_is_stored(connect: Connect) -> None:
    """Both find no quota row; the later one must not write what it had read before it waited."""
    watcher, sync, reader = connect(autocommit=True), connect(), connect(autocommit=True)
    call(sync, "set_tier_limit", "gold", 1200)
    call(sync, "set_tenant_plan", "acme", "gold")
    resolved = Background(
        reader, lambda c: call(c, "resolve_workflow_step_quota", "acme")["effective_limit"]
    )
    assert resolved.wait_until_blocked(watcher)
    sync.commit()
    assert resolved.result() == 1200
    assert value(watcher, "select effective_limit from stepquota.workflow_step_quotas") == 1200
    assert violations(watcher) == []


def test_limits_that_change_under_load(database: Database, connect: Connect) -> None:
    """Lowered and raised at random: never more used than the highest limit, and no violation."""
    stop = threading.Event()

    def work(connection: Connection) -> int:
        committed = 0
        while not stop.is_set():
            committed += reserve(connection)
        return committed

    def change(connection: Connection) -> int:
        for limit in [40, 200, 80, 300, 20, 120, 400, 150]:
            give_limit(connection, "acme", limit)
            time.sleep(0.1)
        stop.set()
        return 0

    with connect(autocommit=True) as connection:
        give_limit(connection, "acme", 40)
        committed = sum(at_once(database, [work] * 3 + [change]))
        quota = call(connection, "resolve_workflow_step_quota", "acme")
        assert quota["used_count"] == committed <= 400
        assert violations(connection) == []
