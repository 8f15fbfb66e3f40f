"""What callers under REPEATABLE READ and SERIALIZABLE see, as docs/integration.md says it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import IsolationLevel

from concurrency.races import (
    Background,
    Connect,
    Connection,
    break_function,
    call,
    give_limit,
    value,
    violations,
)
from concurrency.test_lanes import LANES, reserve, split
from harness.databases import Database

LEVELS = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def old(request: pytest.FixtureRequest, connect: Connect) -> Connection:
    """A connection of the level; ``look`` takes its snapshot."""
    connection = connect()
    connection.isolation_level = request.param
    return connection


def look(connection: Connection) -> None:
    value(connection, "select count(*) from pg_class")


def sees_a_conflict(connection: Connection) -> bool:
    try:
        reserve(connection)
    except psycopg.errors.SerializationFailure:
        return True
    finally:
        connection.rollback()
    return False


@pytest.mark.parametrize("commits", [True, False])
def test_who_waits_gets_the_unit_or_an_error(
    connect: Connect, old: Connection, commits: bool
) -> None:
    watcher, holder = connect(autocommit=True), connect()
    give_limit(watcher, "acme", 5)
    assert reserve(holder)
    waiting = Background(old, reserve)
    assert waiting.wait_until_blocked(watcher)
    if commits:
        holder.commit()
        with pytest.raises(psycopg.errors.SerializationFailure):
            waiting.result()
        old.rollback()
        assert reserve(old)
    else:
        holder.rollback()
        assert waiting.result() is True
    old.commit()
    assert call(watcher, "resolve_workflow_step_quota", "acme")["used_count"] == 1 + commits
    assert violations(watcher) == []


def another_home(connect: Connect, connection: Connection) -> Connection:
    """A connection whose process has another home lane."""
    while True:
        other = connect(autocommit=True)
        if (other.info.backend_pid - connection.info.backend_pid) % 64:
            return other


def test_in_many_lanes_an_old_snapshot_meets_nobody(connect: Connect, old: Connection) -> None:
    watcher = connect(autocommit=True)
    split(watcher, 20_000)
    look(old)
    assert reserve(another_home(connect, old))
    assert reserve(old)
    old.commit()
    assert call(watcher, "resolve_workflow_step_quota", "acme")["used_count"] == 2


def test_without_home_lanes_it_would(database: Database, connect: Connect, old: Connection) -> None:
    for function in ("reserve_workflow_step", "_take_unit_elsewhere"):
        break_function(database, function, "pg_backend_pid()", "0")
    split(connect(autocommit=True), 20_000)
    look(old)
    assert reserve(another_home(connect, old))
    assert sees_a_conflict(old)


def test_a_limit_that_was_changed_since_is_a_conflict(connect: Connect, old: Connection) -> None:
    other = connect(autocommit=True)
    for before, after in ((5, 9), (9, 3), (3, 1), (1, 4), (4, None), (None, 6)):
        give_limit(other, "acme", before)
        look(old)
        give_limit(other, "acme", after)
        assert sees_a_conflict(old), f"{before} to {after}"
        assert reserve(old) is True
        old.rollback()


def test_a_denial_is_one_of_the_snapshot(connect: Connect, old: Connection) -> None:
    other = connect(autocommit=True)
    give_limit(other, "acme", 1)
    assert reserve(other)
    assert not reserve(other)
    look(old)
    give_limit(other, "acme", 2)
    assert reserve(old) is False
    # A start is denied by nothing but the present.
    old.rollback()
    give_limit(other, "acme", 1)
    call(other, "register_workflow_run", "acme", "r")
    look(old)
    give_limit(other, "acme", 2)
    with pytest.raises(psycopg.errors.SerializationFailure):
        call(old, "start_workflow_step", "acme", "r", "root")
    old.rollback()
    assert call(old, "start_workflow_step", "acme", "r", "root")["outcome"] == "started"
    old.commit()
    assert violations(other) == []


def test_nobody_splits_a_lane(connect: Connect, old: Connection) -> None:
    """It would make others fail, who have read the quota row."""
    watcher, holder = connect(autocommit=True), connect()
    give_limit(watcher, "acme", 10_000)
    assert reserve(holder)
    waiting = Background(old, reserve)
    assert waiting.wait_until_blocked(watcher)
    holder.rollback()
    assert waiting.result()
    old.commit()
    assert value(watcher, LANES) == 1


def test_tenants_are_no_conflict_for_each_other(connect: Connect, old: Connection) -> None:
    other = connect()
    other.isolation_level = old.isolation_level
    setter = connect(autocommit=True)
    for tenant in ("acme", "globex"):
        give_limit(setter, tenant, 50)
        call(setter, "register_workflow_run", tenant, "r")
    for number in range(20):
        for connection, tenant in ((old, "acme"), (other, "globex")):
            start = call(connection, "start_workflow_step", tenant, "r", f"root[{number}]")
            assert start["outcome"] == "started"
        old.commit()
        other.commit()
    assert violations(setter) == []
