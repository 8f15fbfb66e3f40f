"""Events that commit late, consumers that share, consumers at once: nothing is missed."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest

from concurrency.races import Background, Connect, Connection, at_once, break_function, call, value
from harness.databases import Database


def record(connection: Connection, tenant: str) -> None:
    call(connection, "set_tenant_plan", tenant, "pro")


def claim(connection: Connection, consumer: str, limit: int = 100) -> list[tuple[str, int]]:
    return connection.execute(
        "select tenant, event_id from stepquota.claim_quota_events(%s, %s,"
        " p_event_types => '{plan_changed}', p_start_at => '-infinity')",
        [consumer, limit],
    ).fetchall()


def tenants(claimed: list[tuple[str, int]]) -> list[str]:
    return [tenant for tenant, _ in claimed]


def commit_late(connect: Connect) -> list[str]:
    """An event with the smaller number is committed after the one with the greater was claimed."""
    watcher, late, early = connect(autocommit=True), connect(), connect(autocommit=True)
    record(late, "late")
    record(early, "early")
    claimed = claim(watcher, "mailer")
    assert tenants(claimed) == ["early"]
    late.commit()
    number = value(
        watcher,
        "select event_id from stepquota.quota_events"
        " where tenant = 'late' and event_type = 'plan_changed'",
    )
    assert number < claimed[0][1]
    return tenants(claim(watcher, "mailer"))


def test_an_event_that_commits_late_is_not_missed(connect: Connect) -> None:
    assert commit_late(connect) == ["late"]
    # They come in the order in which they were committed.
    assert tenants(claim(connect(), "from the first on")) == ["early", "late"]


def test_with_their_numbers_for_an_order_it_would_be(database: Database, connect: Connect) -> None:
    break_function(
        database,
        "_order_events",
        "row_number() over (order by u.event_id)",
        "u.event_id - v_last_position",
    )
    break_function(
        database,
        "_order_events",
        "v_last_position + v_count",
        "(select max(e.event_id) from stepquota.quota_events e)",
    )
    assert commit_late(connect) == []


def test_who_does_not_commit_a_claim_keeps_nobody_waiting(connect: Connect) -> None:
    idle, other = connect(), connect(autocommit=True)
    record(other, "one")
    assert tenants(claim(other, "other")) == ["one"]
    record(other, "two")
    assert tenants(claim(idle, "idle")) == ["one", "two"]
    # The order of two is not committed: it comes later, and nobody waits for it.
    assert claim(other, "other") == []
    idle.rollback()
    assert tenants(claim(other, "other")) == ["two"]
    # Rolled back, so it has got nothing.
    assert tenants(claim(idle, "idle")) == ["one", "two"]


def test_two_of_a_consumer_wait_for_each_other_and_share(connect: Connect) -> None:
    watcher, one, two = connect(autocommit=True), connect(), connect(autocommit=True)
    for tenant in ("a", "b", "c"):
        record(watcher, tenant)
    assert claim(watcher, "mailer", 1)
    assert tenants(claim(one, "mailer", 1)) == ["b"]
    second = Background(two, partial(claim, consumer="mailer"))
    assert second.wait_until_blocked(watcher)
    one.commit()
    assert tenants(second.result()) == ["c"]


def test_each_consumer_gets_every_event_once(database: Database, connect: Connect) -> None:
    """Two processes of two consumers each, while four connections record and sometimes give up."""
    events = 40

    def recorder(number: int, connection: Connection) -> int:
        for event in range(events):
            with connection.transaction() as transaction:
                record(connection, f"{number}-{event}")
                if event % 5 == 0:
                    raise psycopg.Rollback(transaction)
        return 0

    def consumer(name: str, connection: Connection) -> list[str]:
        got: list[str] = []
        misses = 0
        while misses < 200:
            claimed = claim(connection, name, 7)
            call(connection, "acknowledge_quota_events", name, [event for _, event in claimed])
            got += tenants(claimed)
            done = value(
                connection,
                "select count(*) from stepquota.quota_events where event_type = 'plan_changed'",
            )
            misses = 0 if claimed or done < 4 * events * 4 // 5 else misses + 100
        return got

    works: list[Any] = [partial(recorder, number) for number in range(4)]
    works += [partial(consumer, name) for name in ("x", "x", "y", "y")]
    answers = at_once(database, works)
    everything = {f"{n}-{e}" for n in range(4) for e in range(events) if e % 5}
    connection = connect(autocommit=True)
    for name, (one, two) in (("x", answers[4:6]), ("y", answers[6:8])):
        # Both may have ended while the order of the last events was not committed.
        got = one + two + tenants(claim(connection, name))
        assert len(got) == len(everything)
        assert set(got) == everything


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_at_other_isolation_levels_it_is_tried_again(connect: Connect, level: str) -> None:
    watcher, reader = connect(autocommit=True), connect()
    record(watcher, "one")
    reader.execute(f"set transaction isolation level {level}".encode())
    reader.execute("select 1")
    record(watcher, "two")
    assert tenants(claim(watcher, "other")) == ["one", "two"]
    with pytest.raises(psycopg.errors.SerializationFailure):
        claim(reader, "mailer")
    reader.rollback()
    assert tenants(claim(reader, "mailer")) == ["one", "two"]
