"""Each rule by which lanes stay exact has a test that fails without it.

``WITHOUT_IT`` names them, here and elsewhere, and for each what is broken on purpose.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from acceptance.stripe_objects import limit, plan_of
from concurrency import test_exactness, test_lanes
from concurrency.load import NOTES, Load, check_exact, clients
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
from harness.databases import Database

NOW = datetime.now(UTC).replace(microsecond=0)
HERE = (NOW - timedelta(days=10), NOW + timedelta(days=20))
THERE = (NOW - timedelta(days=5), NOW + timedelta(days=25))

FREE_LANES = """
select count(*)
  from (select 1 from stepquota.workflow_step_usage_lanes l
         where l.tenant = 'acme' for no key update skip locked) free
"""


def reserve(connection: Connection) -> bool:
    return bool(call(connection, "reserve_workflow_step", "acme")["allowed"])


def wait_until_blocked_by_another(
    watcher: Connection, waiting: Connection, before: Connection
) -> None:
    """Wait until somebody waits, and no more for whom it waited before."""
    until = time.monotonic() + 10
    blockers = [before.info.backend_pid]
    while not blockers or before.info.backend_pid in blockers:
        assert time.monotonic() < until, "it does not wait for another"
        time.sleep(0.01)
        blockers = value(watcher, "select pg_blocking_pids(%s)", waiting.info.backend_pid)


def tell_stripe(
    connection: Connection,
    period: tuple[datetime, datetime],
    age: timedelta = timedelta(),
    steps: int = 10,
) -> str:
    """The subscription of acme with a period; answers what was done with it."""
    plan = plan_of("acme", price_metadata=limit(steps), period=period)
    fetched_at = value(connection, "select clock_timestamp()") - age
    rows = connection.execute(
        "select action from stepquota.apply_stripe_object(%s, %s)", [json.dumps(plan), fetched_at]
    ).fetchall()
    return str(rows[-1][0])


def test_who_waited_for_a_lane_in_vain_does_not_keep_it(
    database: Database, connect: Connect
) -> None:
    """PostgreSQL keeps the lock of a row whose condition turned out false after the wait."""
    watcher, one, two = connect(autocommit=True), connect(), connect()
    waiter = connect(autocommit=True)
    # Who reaches a percent that is recorded has the quota row until it commits: none are here.
    watcher.execute("update stepquota.policy set alert_percents = '{}'")
    give_limit(watcher, "acme", 1)
    assert reserve(one)
    # The raise finds the lane busy, and makes another.
    give_limit(watcher, "acme", 2)
    assert reserve(two)
    waiting = Background(waiter, reserve)
    assert waiting.wait_until_blocked(watcher)
    one.commit()
    wait_until_blocked_by_another(watcher, waiter, one)
    assert value(watcher, FREE_LANES) == 1
    two.commit()
    assert waiting.result() is False


def test_who_met_another_in_the_moment_after_the_wait_does_not_keep_the_lane(
    connect: Connect,
) -> None:
    """The lane was free a moment ago, and is taken by who uses it up."""
    watcher, one, other = connect(autocommit=True), connect(), connect()
    give_limit(watcher, "acme", 1)
    assert reserve(one)
    start = value(watcher, "select period_start from stepquota.workflow_step_usage_periods")
    take = "select own_count from stepquota._take_unit_from_lane('acme', %s, 0, 1, true, now())"
    waiting = Background(other, lambda c: value(c, take, start))
    assert waiting.wait_until_blocked(watcher)
    one.commit()
    assert waiting.result() is None
    # The transaction of the one who waited is still open.
    assert value(watcher, FREE_LANES) == 1


def test_two_batches_over_short_lanes_take_turns(database: Database, connect: Connect) -> None:
    """Each needs several lanes, and would get them from another end if it were not for the gate."""
    watcher, one, two = connect(autocommit=True), connect(), connect()
    up, down = connect(autocommit=True), connect(autocommit=True)
    up.execute("set test.direction = '1'")
    down.execute("set test.direction = '-1'")
    # Who reaches a percent that is recorded has the quota row until it commits: none are here.
    watcher.execute("update stepquota.policy set alert_percents = '{}'")
    give_limit(watcher, "acme", 3)
    assert reserve(one)
    give_limit(watcher, "acme", 6)
    assert reserve(two)
    batches = []
    for connection in (up, down):
        batches.append(
            Background(connection, lambda c: call(c, "reserve_workflow_steps", "acme", 3, True))
        )
        assert batches[-1].wait_until_blocked(watcher)
    one.commit()
    wait_until_blocked_by_another(watcher, up, one)
    two.commit()
    assert [batch.result()["granted"] for batch in batches] == [3, 1]
    assert violations(watcher) == []


def test_the_next_period_is_open_while_somebody_opens_it(
    database: Database, connect: Connect
) -> None:
    """Its lane was made ahead, so nobody need wait for the quota row."""
    opener, other = connect(), connect(autocommit=True)
    other.execute("update stepquota.policy set allow_test_clock = true")
    other.execute("set stepquota.now = '2026-04-30T23:30:00Z'")
    give_limit(other, "acme", 100)
    assert reserve(other)
    for connection in (opener, other):
        connection.execute("set stepquota.now = '2026-05-01T00:00:00Z'")
    opener.execute("select stepquota.refresh_workflow_step_quota('acme')")
    other.execute("set lock_timeout = '1s'")
    assert call(other, "reserve_workflow_step", "acme")["used_count"] == 1
    opener.commit()
    assert call(other, "reserve_workflow_step", "acme")["used_count"] == 2
    assert violations(other) == []


def test_a_carry_while_a_denial_is_read(database: Database, connect: Connect) -> None:
    """The lanes of the period that was left are used up; there are units where usage went."""
    watcher, sync, other = connect(autocommit=True), connect(), connect(autocommit=True)
    tell_stripe(watcher, HERE)
    call(watcher, "reserve_workflow_steps", "acme", 5)
    tell_stripe(sync, THERE)
    waiting = Background(other, lambda c: call(c, "reserve_workflow_step", "acme"))
    assert waiting.wait_until_blocked(watcher)
    sync.commit()
    answer = waiting.result()
    assert (answer["allowed"], answer["used_count"], answer["period_start"]) == (True, 6, THERE[0])
    assert violations(watcher) == []


def test_bounds_that_move_there_and_back_under_load(database: Database, connect: Connect) -> None:
    """What is used goes along each time, with units that are being taken meanwhile."""
    database.run(NOTES)
    connection = connect(autocommit=True)
    tell_stripe(connection, HERE, steps=20_000)
    with clients(database.url, Load(wanted=40), 6) as processes:
        while any(process.is_alive() for process in processes):
            for period in (THERE, HERE):
                tell_stripe(connection, period, steps=20_000)
                time.sleep(0.02)
    assert check_exact(connection) == 6 * 40


def test_a_webhook_twice_at_once_and_late(database: Database, connect: Connect) -> None:
    """The second changes nothing; nor does one that was asked for before the first."""
    watcher, first, second = connect(autocommit=True), connect(), connect(autocommit=True)
    tell_stripe(watcher, HERE, age=timedelta(hours=2))
    call(watcher, "reserve_workflow_steps", "acme", 4)
    assert tell_stripe(first, THERE) == "updated"
    again = Background(second, lambda c: tell_stripe(c, THERE))
    assert again.wait_until_blocked(watcher)
    first.commit()
    assert again.result() in ("unchanged", "updated")
    assert reserve(watcher)
    for period, action in ((THERE, "unchanged"), (HERE, "stale")):
        age = timedelta(hours=1) if action == "stale" else timedelta()
        assert tell_stripe(watcher, period, age) == action
        quota = call(watcher, "resolve_workflow_step_quota", "acme")
        assert (quota["used_count"], quota["period_start"]) == (5, THERE[0])
    assert violations(watcher) == []


Broken = tuple[str, str, str]

_GATE: list[Broken] = [
    ("_lock_and_refresh_quota", "q.tenant = p_tenant for no key update", "q.tenant = p_tenant"),
    ("_refresh_quota", "p_tenant for no key update;\n  v_resolved", "p_tenant;\n  v_resolved"),
]

WITHOUT_IT: dict[str, tuple[Callable[..., None], list[Broken]]] = {
    "a waiter whose recheck fails": (
        test_who_waited_for_a_lane_in_vain_does_not_keep_it,
        [
            (
                "_wait_for_lane",
                "raise exception using errcode = 'WQ000', message = 'the lock is given back';",
                "",
            )
        ],
    ),
    "a waiter who meets another": (
        test_who_met_another_in_the_moment_after_the_wait_does_not_keep_the_lane,
        [
            (
                "_take_unit_from_lane",
                "raise exception using errcode = 'WQ000', message = 'the lane does not serve';",
                "",
            )
        ],
    ),
    "a limit lowered during an open split": (
        test_lanes.test_a_limit_lowered_during_an_open_split,
        [*_GATE, ("_deal_lanes", "order by l.lane\n      for no key update", "order by l.lane")],
    ),
    "two batches over short lanes": (
        test_two_batches_over_short_lanes_take_turns,
        [
            (
                "_take_units",
                "where q.tenant = p_tenant for no key update;",
                "where q.tenant = p_tenant;",
            ),
            (
                "_take_units_from_lanes",
                "order by l.tenant, l.period_start, l.lane\n",
                "order by l.lane * current_setting('test.direction', true)::integer\n",
            ),
        ],
    ),
    "a refresh by a transaction that stays open": (
        test_exactness.test_a_refresh_that_stays_open_stops_nobody_who_has_a_unit,
        [("_find_quota", "for no key update skip locked", "for no key update")],
    ),
    "the next period made ahead": (
        test_the_next_period_is_open_while_somebody_opens_it,
        [("_refresh_quota", "if p_now >= v_new.period_end - interval '1 hour'", "if false")],
    ),
    "a carry while a denial is read": (
        test_a_carry_while_a_denial_is_read,
        [
            # By the long way: the short one does not deny, it starts over with the quota of then.
            ("reserve_workflow_step", "if v_used_count is null and v_lane_count = 1", "if false"),
            ("_take_unit_elsewhere", "if v_version is distinct from v_quota.version", "if false"),
        ],
    ),
    "bounds moving there and back": (
        test_bounds_that_move_there_and_back_under_load,
        [
            (
                "_carry_usage",
                "perform stepquota._deal_lanes(p_old.tenant, p_old.period_start, 0);",
                "",
            )
        ],
    ),
    "a webhook twice": (
        test_a_webhook_twice_at_once_and_late,
        [
            ("_apply_stripe_objects", "action not in ('stale', 'unchanged')", "action <> 'stale'"),
            ("_refresh_quota", "v_old.period_start <> v_new.period_start;", "true;"),
            (
                "_carry_usage",
                "- (stepquota._sum_usage(p_new.tenant, p_new.period_start) - coalesce(v_known, 0))",
                "",
            ),
        ],
    ),
    "a webhook late": (
        test_a_webhook_twice_at_once_and_late,
        [
            (
                "_judge_stripe_answer",
                "(p_before ->> 'fetched_at')::timestamptz >",
                "'-infinity' >",
            )
        ],
    ),
}


@pytest.mark.parametrize("rule", WITHOUT_IT)
def test_without_the_rule_its_test_fails(database: Database, connect: Connect, rule: str) -> None:
    test, broken = WITHOUT_IT[rule]
    for function, old, new in broken:
        break_function(database, function, old, new)
    arguments = {"database": database, "connect": connect}
    wanted = test.__annotations__.keys() - {"return"}
    with pytest.raises((AssertionError, psycopg.Error)):
        test(**{name: arguments[name] for name in wanted})
