"""Thresholds with several connections: recorded once, by nobody who waits, never if undone."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest

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


def reached(connection: Connection) -> list[int]:
    """The percents recorded for acme, in order."""
    rows = connection.execute(
        "select (details ->> 'percent')::integer from stepquota.quota_events"
        " where tenant = 'acme' and event_type = 'quota_threshold_reached' order by 1"
    )
    return [row[0] for row in rows]


def take(connection: Connection, units: int) -> int:
    used = 0
    for _ in range(units):
        used = call(connection, "reserve_workflow_step", "acme")["used_count"]
    return used


def tick(connection: Connection) -> None:
    connection.execute("call stepquota.tick()")


def test_what_is_rolled_back_was_not_reached(connect: Connect) -> None:
    watcher, loser = connect(autocommit=True), connect()
    give_limit(watcher, "acme", 10)
    take(watcher, 4)
    assert take(loser, 2) == 6
    assert reached(loser) == [50]
    loser.rollback()
    assert reached(watcher) == []
    assert take(watcher, 1) == 5
    assert reached(watcher) == [50]


def waits_for_a_busy_row(database: Database) -> bool:
    """Whether who reaches half of the limit waits for the quota row; tick() records it if not."""
    watcher, busy = database.connect(autocommit=True), database.connect()
    with watcher, busy:
        give_limit(watcher, "acme", 10)
        take(watcher, 4)
        busy.execute("select from stepquota.workflow_step_quotas for no key update")
        with database.connect(autocommit=True) as caller:
            reservation = Background(caller, partial(take, units=2))
            is_blocked = reservation.wait_until_blocked(watcher)
            tick(watcher)  # The row is still busy: a note stays.
            assert reached(watcher) == []
            busy.rollback()
            assert reservation.result() == 6
        if not is_blocked:
            notes = "select count(*) from stepquota.workflow_step_alert_checks"
            assert value(watcher, notes) == 1
            tick(watcher)
            assert value(watcher, notes) == 0
        assert reached(watcher) == [50]
        assert violations(watcher) == []
    return is_blocked


def test_nobody_waits_to_record(database: Database) -> None:
    assert not waits_for_a_busy_row(database)


def test_who_took_the_row_by_waiting_would(database: Database) -> None:
    break_function(database, "_record_alerts", "for no key update skip locked", "for no key update")
    assert waits_for_a_busy_row(database)


def test_a_refusal_beside_a_busy_row_is_recorded_by_the_next_tick(connect: Connect) -> None:
    watcher, busy = connect(autocommit=True), connect()
    give_limit(watcher, "acme", 1)
    take(watcher, 1)
    busy.execute("select from stepquota.workflow_step_quotas for no key update")
    assert not call(watcher, "reserve_workflow_step", "acme")["allowed"]
    assert not call(watcher, "reserve_workflow_step", "acme")["allowed"]
    busy.rollback()
    count = "select count(*) from stepquota.quota_events where event_type = 'quota_exhausted'"
    assert value(watcher, count) == 0
    tick(watcher)
    assert value(watcher, count) == 1
    assert not call(watcher, "reserve_workflow_step", "acme")["allowed"]
    assert value(watcher, count) == 1


@pytest.mark.parametrize("level", ["read committed", "repeatable read"])
def test_each_is_recorded_once_however_many_reserve(database: Database, level: str) -> None:
    """Eight callers use up a limit that is split into lanes; one in ten gives its unit back."""
    limit = 3000
    with database.connect(autocommit=True) as watcher:
        give_limit(watcher, "acme", limit)

        def caller(connection: Connection) -> None:
            connection.execute(f"set default_transaction_isolation = '{level}'".encode())
            number = 0
            while True:
                number += 1
                try:
                    with connection.transaction() as transaction:
                        answer: dict[str, Any] = call(
                            connection, "reserve_workflow_steps", "acme", 10, True
                        )
                        call(connection, "reserve_workflow_step", "acme")
                        if number % 10 == 0:
                            raise psycopg.Rollback(transaction)
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                    continue
                if not answer["granted"]:
                    return

        at_once(database, [caller] * 8)
        tick(watcher)
        assert reached(watcher) == [50, 80, 90, 100]
        assert violations(watcher) == []
        for percent, threshold, used in watcher.execute(
            "select details -> 'percent', details -> 'threshold_count', details -> 'used_count'"
            " from stepquota.quota_events where event_type = 'quota_threshold_reached'"
        ):
            assert limit * percent // 100 == threshold <= used <= limit


def test_warnings_are_logged_once_and_not_with_every_denial(connect: Connect) -> None:
    connection = connect(autocommit=True)
    logged: list[tuple[str | None, str | None]] = []
    connection.add_notice_handler(
        lambda message: logged.append((message.message_primary, message.message_detail))
    )
    connection.execute("set client_min_messages = log")
    give_limit(connection, "acme", 1)
    take(connection, 20)
    ((message, detail),) = logged
    assert message == "stepquota: quota_exhausted of tenant 'acme'"
    assert '"effective_limit": 1' in str(detail)
