"""The order of locks: run, then quota, then lane; and what several scans and workers do at once."""

from __future__ import annotations

import random
import time
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
    pause,
    use_units,
    value,
    violations,
)
from harness.databases import Database


def start(connection: Connection, run_id: str, path: str = "root") -> str:
    return str(call(connection, "start_workflow_step", "acme", run_id, path)["outcome"])


def prepare(connection: Connection, limit: int, paused_runs: int = 0) -> None:
    """Acme has used its limit, and has paused runs p0, p1 and so on."""
    give_limit(connection, "acme", limit)
    use_units(connection, "acme", limit)
    for number in range(paused_runs):
        pause(connection, "acme", f"p{number}")


def test_two_branches_refused_at_once_share_a_wait(connect: Connect) -> None:
    watcher, one, two = connect(autocommit=True), connect(), connect(autocommit=True)
    prepare(watcher, 1)
    call(watcher, "register_workflow_run", "acme", "r")
    first = call(one, "start_workflow_step", "acme", "r", "branch one")
    second = Background(two, lambda c: call(c, "start_workflow_step", "acme", "r", "branch two"))
    assert second.wait_until_blocked(watcher)
    one.commit()
    assert first["outcome"] == second.result()["outcome"] == "quota_paused"
    assert first["wait_id"] == second.result()["wait_id"]
    waits = watcher.execute("select node_paths from stepquota.workflow_run_waits").fetchall()
    assert waits == [(["branch one", "branch two"],)]
    assert violations(watcher) == []


def pausers_behind_a_refresh(database: Database) -> list[Any]:
    """Two runs are paused while somebody refreshes the quota: both wait for the quota row.

    Whoever has a share of it stays a moment, so that both have one before either wants more.
    """
    break_function(
        database, "_share_quota", "for share;", "for share; perform pg_catalog.pg_sleep(0.3);"
    )
    watcher, refresher, one, two = (
        database.connect(autocommit=a) for a in (True, False, True, True)
    )
    with watcher, refresher, one, two:
        prepare(watcher, 1)
        # The exhaustion is recorded, so that nobody needs the row for that.
        call(watcher, "reserve_workflow_step", "acme")
        for run_id in ("r", "s"):
            call(watcher, "register_workflow_run", "acme", run_id)
        refresher.execute("select from stepquota.workflow_step_quotas for no key update")
        pausers = [Background(one, partial(start, run_id="r"))]
        pausers.append(Background(two, partial(start, run_id="s")))
        for pauser in pausers:
            assert pauser.wait_until_blocked(watcher)
        call(refresher, "refresh_workflow_step_quota", "acme")
        # Both must refresh it again: what they share is older than the policy.
        call(refresher, "set_policy", "staleness", "1 millisecond")
        refresher.commit()
        answers = []
        for pauser in pausers:
            try:
                answers.append(pauser.result())
            except psycopg.errors.DeadlockDetected:
                answers.append("deadlock")
        return answers


def test_pausers_that_share_the_quota_row_never_wait_for_each_other(database: Database) -> None:
    assert pausers_behind_a_refresh(database) == ["quota_paused"] * 2


def test_pausers_that_kept_their_share_would_wait_for_each_other(database: Database) -> None:
    break_function(
        database,
        "_share_quota",
        "raise exception using errcode = 'WQ000', message = 'the share is given back';",
        "return stepquota._lock_and_refresh_quota(p_tenant, p_now);",
    )
    assert "deadlock" in pausers_behind_a_refresh(database)


def test_a_resume_by_hand_and_a_change_of_plan_wait_in_the_same_order(connect: Connect) -> None:
    watcher, operator, billing = connect(autocommit=True), connect(), connect(autocommit=True)
    prepare(watcher, 1, paused_runs=1)
    assert call(operator, "resume_workflow_run", "acme", "p0", "x")["reason"] == "quota_exhausted"
    # The operator has run and quota; the change waits for the quota and for no run.
    changed = Background(billing, lambda c: call(c, "set_tenant_plan", "acme", "pro"))
    assert changed.wait_until_blocked(watcher)
    assert start(operator, "p0", "root.steps[0]") == "quota_paused"
    operator.commit()
    assert changed.result()["effective_limit"] == 750
    assert value(watcher, "select status from stepquota.workflow_runs where run_id = 'p0'") == (
        "RUNNING"
    )
    assert violations(watcher) == []


def test_a_raise_passes_over_a_run_that_is_busy_and_leaves_it_due(connect: Connect) -> None:
    watcher, worker, billing = connect(autocommit=True), connect(), connect(autocommit=True)
    prepare(watcher, 1, paused_runs=2)
    worker.execute("select from stepquota.workflow_runs where run_id = 'p0' for no key update")
    billing.execute("set lock_timeout = '2s'")
    give_limit(billing, "acme", 10)
    states = dict(watcher.execute("select run_id, status from stepquota.workflow_runs").fetchall())
    assert (states["p0"], states["p1"]) == ("WAITING", "RUNNING")
    worker.rollback()
    watcher.execute("call stepquota.resume_scan()")
    assert value(watcher, "select status from stepquota.workflow_runs where run_id = 'p0'") == (
        "RUNNING"
    )


def test_three_scans_and_two_operators_at_once(database: Database, connect: Connect) -> None:
    """No wait is resolved twice, and no unit is given twice."""
    watcher = connect(autocommit=True)
    prepare(watcher, 2, paused_runs=30)
    for number in range(3):
        tenant = f"other {number}"
        give_limit(watcher, tenant, 1)
        use_units(watcher, tenant, 1)
        for run in range(10):
            pause(watcher, tenant, f"r{run}")
    watcher.execute("update stepquota.tiers set step_limit = 12 where tier = 'tier of acme'")
    watcher.execute("update stepquota.tiers set step_limit = 5 where tier like 'tier of other%'")
    watcher.execute("update stepquota.policy set epoch = epoch + 1")
    watcher.execute("update stepquota.paused_tenants set due_at = clock_timestamp()")

    def scan(connection: Connection) -> int:
        connection.execute("call stepquota.resume_scan(3)")
        return 0

    def operate(connection: Connection, first: int) -> int:
        resumed = 0
        for number in range(first, 30, 2):
            try:
                answer = call(connection, "resume_workflow_run", "acme", f"p{number}", "x")
                resumed += answer["resumed"]
            except psycopg.Error as error:
                if error.sqlstate != "WQ003":
                    raise
        return resumed

    at_once(database, [scan, scan, scan, partial(operate, first=0), partial(operate, first=1)])
    given = dict(
        watcher.execute(
            "select tenant, count(*) from stepquota.workflow_run_resumptions group by 1"
        ).fetchall()
    )
    assert given == {"acme": 10, "other 0": 4, "other 1": 4, "other 2": 4}
    assert (
        value(
            watcher,
            "select count(*) - count(distinct wait_id) from stepquota.workflow_run_resumptions",
        )
        == 0
    )
    assert value(watcher, "select count(*) from stepquota.workflow_run_logs") == 22
    assert violations(watcher) == []


def claimed_by_workers(database: Database, at_a_time: int) -> list[Any]:
    """The runs that several workers were handed within one lease."""
    with database.connect(autocommit=True) as connection:
        for number in range(4):
            tenant = f"t{number}"
            give_limit(connection, tenant, 1)
            use_units(connection, tenant, 1)
            for run in range(25):
                pause(connection, tenant, f"r{run}")
            give_limit(connection, tenant, 100)

    def work(connection: Connection, name: str) -> list[Any]:
        runs: list[Any] = []
        for _ in range(200 // at_a_time):
            with connection.transaction():
                runs += connection.execute(
                    "select tenant, run_id from"
                    " stepquota.claim_workflow_run_resumptions(%s, %s, '10 minutes')",
                    [name, at_a_time],
                ).fetchall()
                time.sleep(0.002)
        return runs

    answers = at_once(database, [partial(work, name=f"worker {number}") for number in range(5)])
    return [run for runs in answers for run in runs]


@pytest.mark.parametrize("at_a_time", [1, 5])
def test_no_run_is_claimed_twice_in_its_lease(database: Database, at_a_time: int) -> None:
    runs = claimed_by_workers(database, at_a_time)
    assert len(runs) == len(set(runs)) == 100


def test_claiming_without_a_lock_would_be_seen(database: Database) -> None:
    break_function(database, "_claim_of_tenant", "for no key update skip locked", "")
    runs = claimed_by_workers(database, at_a_time=1)
    assert len(runs) > len(set(runs))


def test_a_claim_cannot_slip_between_the_check_of_a_delivery_and_the_start(
    connect: Connect,
) -> None:
    watcher, late, worker = connect(autocommit=True), connect(autocommit=True), connect()
    prepare(watcher, 1, paused_runs=1)
    give_limit(watcher, "acme", 5)
    first = call(watcher, "claim_workflow_run_resumptions", "one", 1, "1 millisecond")["delivery"]
    time.sleep(0.01)
    second = call(worker, "claim_workflow_run_resumptions", "two")["delivery"]
    # The newer claim is not committed: who has the older delivery must wait for it.
    started = Background(
        late,
        lambda c: call(c, "start_workflow_step", "acme", "p0", "root.steps[0]", 1, "action", first),
    )
    assert started.wait_until_blocked(watcher)
    worker.commit()
    with pytest.raises(psycopg.Error) as caught:
        started.result()
    assert caught.value.sqlstate == "WQ007"
    assert second > first
    assert value(watcher, "select count(*) from stepquota.workflow_run_steps") == 1


def test_everything_at_once(database: Database, connect: Connect) -> None:
    """All operations at random, each in its own transaction: no deadlock, no violation."""
    tenants = ["a", "b", "c"]
    with connect(autocommit=True) as connection:
        call(connection, "set_policy", "staleness", "5 milliseconds")
        call(connection, "set_policy", "at_once_tenants", "1")
        for tenant in tenants:
            give_limit(connection, tenant, 20)
            for run in range(4):
                call(connection, "register_workflow_run", tenant, f"r{run}")
    until = time.monotonic() + 4
    misuse = {"WQ002", "WQ003", "WQ004", "WQ005", "WQ006", "WQ007", "WQ008", "WQ009", "WQ011"}

    def work(connection: Connection, seed: int) -> int:
        chance = random.Random(seed)
        done = 0
        while time.monotonic() < until:
            tenant, run = chance.choice(tenants), f"r{chance.randrange(4)}"
            path = f"root.steps[{chance.randrange(30)}]"
            operation: tuple[Any, ...] = chance.choice(
                [
                    *[("start_workflow_step", tenant, run, path)] * 8,
                    *[("finish_workflow_step", tenant, run, path, 1, "SUCCEEDED")] * 5,
                    *[("reserve_workflow_step", tenant)] * 2,
                    ("open_workflow_run_wait", tenant, run, path, "event"),
                    ("resume_workflow_run", tenant, run, "x"),
                    ("refresh_workflow_step_quota", tenant),
                    ("set_tier_limit", f"tier of {tenant}", chance.randrange(10, 200)),
                    ("set_policy", "renewal_grace", f"{chance.randrange(50)} hours"),
                    ("set_tenant_plan", tenant, chance.choice(["solo", f"tier of {tenant}"])),
                    ("map_stripe_customer", "cus_1", tenant),
                    ("begin_resume_scan",),
                    ("resume_due_tenant", tenant, 3),
                    ("claim_workflow_run_resumptions", f"w{seed}", 3, "1 millisecond"),
                    ("resolve_due_waits", 10),
                ]
            )
            try:
                with connection.transaction() as transaction:
                    connection.execute(
                        f"select * from stepquota.{operation[0]}"
                        f"({', '.join(['%s'] * (len(operation) - 1))})".encode(),
                        operation[1:],
                    )
                    if chance.random() < 0.15:
                        raise psycopg.Rollback(transaction)
                done += 1
            except psycopg.Error as error:
                if error.sqlstate not in misuse:
                    raise
        return done

    assert sum(at_once(database, [partial(work, seed=seed) for seed in range(6)])) > 100
    with connect(autocommit=True) as connection:
        assert violations(connection) == []
