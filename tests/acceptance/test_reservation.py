"""Units are taken exactly, by any number of callers at once, inside the caller's transaction."""

from __future__ import annotations

import json

import pytest

from acceptance.flavours import ONCE, Quota, run_at_once

APRIL_15 = "2026-04-15T12:00:00Z"

SYNC = """
with psycopg.connect(url) as connection:
    wait_for_the_others()
    answer = stepquota.reserve_workflow_step(connection, "acme")
    time.sleep({pause})
    connection.{end}()
    print(answer.allowed)
"""

ASYNCIO = """
async def main():
    async with await psycopg.AsyncConnection.connect(url) as connection:
        wait_for_the_others()
        answer = await stepquota.aio.reserve_workflow_step(connection, "acme")
        await asyncio.sleep({pause})
        await connection.{end}()
        print(answer.allowed)
asyncio.run(main())
"""


def programs(count: int, end: str = "commit") -> list[str]:
    """Reservations in both flavours by turns, each holding its unit for a moment."""
    return [(ASYNCIO if n % 2 else SYNC).format(pause=0.05, end=end) for n in range(count)]


def test_limit_two(quota: Quota) -> None:
    quota.set_limit("acme", 2)
    answers = [quota.reserve_workflow_step("acme") for _ in range(3)]
    assert [answer.allowed for answer in answers] == [True, True, False]
    assert [answer.used_count for answer in answers] == [1, 2, 2]
    assert [answer.remaining for answer in answers] == [1, 0, 0]
    assert all(answer.effective_limit == 2 for answer in answers)
    assert quota.used("acme") == 2


@ONCE
def test_limit_three_with_twelve_at_once(quota: Quota) -> None:
    quota.set_limit("acme", 3)
    answers = run_at_once(quota.url, programs(12), APRIL_15)
    assert sorted(answers) == ["False"] * 9 + ["True"] * 3
    assert quota.used("acme") == 3
    assert quota.verify_all() == ()


@ONCE
def test_limit_three_at_once_for_a_tenant_that_nobody_knew(quota: Quota) -> None:
    quota.set_tier_limit("solo", 3)
    answers = run_at_once(quota.url, programs(12), APRIL_15)
    assert sorted(answers) == ["False"] * 9 + ["True"] * 3
    assert quota.used("acme") == 3


@ONCE
def test_unlimited_with_four_at_once(quota: Quota) -> None:
    quota.set_limit("acme", None)
    assert run_at_once(quota.url, programs(4), APRIL_15) == ["True"] * 4
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.used_count, answer.effective_limit, answer.remaining) == (4, None, None)
    assert answer.allowed


@ONCE
def test_units_that_are_rolled_back_are_there_for_those_who_wait(quota: Quota) -> None:
    quota.set_limit("acme", 3)
    answers = run_at_once(quota.url, programs(6, "rollback") + programs(6), APRIL_15)
    assert answers[6:].count("True") == 3
    assert quota.used("acme") == 3


@ONCE
def test_waiting_ends_with_the_lock_timeout_and_never_in_a_denial(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    impatient = """
with psycopg.connect(url, options="-c lock_timeout=200 -c stepquota.now=2026-04-15T12:00:00Z") as c:
    wait_for_the_others()
    try:
        print(stepquota.reserve_workflow_step(c, "acme").allowed)
    except psycopg.errors.LockNotAvailable as error:
        print(error.sqlstate)
"""
    with quota.transaction(rollback=True):
        assert quota.reserve_workflow_step("acme").allowed
        assert run_at_once(quota.url, [impatient], APRIL_15) == ["55P03"]
    assert quota.used("acme") == 0


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_every_isolation_level_is_served(quota: Quota, isolation: str) -> None:
    quota.set_limit("acme", 2)
    for expected in (True, True, False):
        with quota.transaction():
            quota.execute(f"set transaction isolation level {isolation}")
            assert quota.reserve_workflow_step("acme").allowed is expected
    assert quota.used("acme") == 2


def test_the_caller_rolls_back(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    with quota.transaction(rollback=True):
        start = quota.start_workflow_step("acme", "r", "root.steps[0]")
        assert (start.outcome, start.used_count) == ("started", 1)
        assert quota.start_workflow_step("acme", "r", "root.steps[1]").outcome == "quota_paused"
        assert quota.open_waits("acme")
    assert quota.used("acme") == 0
    assert quota.ledger("acme") == []
    assert quota.open_waits("acme") == []
    assert quota.run("acme", "r") == ("RUNNING", None)
    assert quota.events("run_paused", "acme") == []
    assert quota.execute("select from stepquota.paused_tenants") == []
    with quota.transaction(rollback=True):
        assert quota.reserve_workflow_step("acme").allowed
    assert quota.used("acme") == 0


def test_each_reservation_sends_one_debug_message(quota: Quota) -> None:
    quota.set_limit("acme", 2)
    quota.resolve_workflow_step_quota("acme")
    quota.execute("set client_min_messages = debug1")
    quota.notices()
    quota.reserve_workflow_step("acme")
    (notice,) = [n for n in quota.notices() if n.message == "workflow step reserved"]
    assert notice.severity == "DEBUG"
    detail = json.loads(notice.detail or "")
    assert (detail["tenant"], detail["used_count"], detail["effective_limit"]) == ("acme", 1, 2)
    assert quota.execute(
        "select count(*) from stepquota.quota_events where event_type like '%reserv%'"
    ) == [(0,)]
