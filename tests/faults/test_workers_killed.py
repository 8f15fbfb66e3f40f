"""A worker is killed with -9 at a bad moment: its run goes on, and is counted once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

import stepquota
from concurrency.races import Connect, call, give_limit, pause, use_units, value, violations
from harness.databases import Database

LEASE = timedelta(seconds=1)
STEP = "root.steps[0]"

# The hand-over, stored durably by a runtime that keeps a queue of its own.
INBOX = "create table inbox (tenant text, run_id text, primary key (tenant, run_id))"

Moment = Callable[[str], None]


def work(url: str, killed_at: str) -> None:
    """Claim one run and go on with it, to the moment at which this process is killed."""

    def moment(name: str) -> None:
        if name == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with (
        stepquota.resumptions(url, "doomed", lease=LEASE, poll_seconds=0.05) as loop,
        psycopg.connect(url) as connection,
    ):
        resumption = next(loop)
        moment("after claiming")
        if killed_at == "before acknowledging":
            with connection.transaction():
                connection.execute(
                    "insert into inbox values (%s, %s)", [resumption.tenant, resumption.run_id]
                )
            moment("before acknowledging")
        with connection.transaction():
            stepquota.start_workflow_step(
                connection, resumption.tenant, resumption.run_id, STEP, delivery=resumption.delivery
            )
            moment("before its start is committed")
        moment("after starting")


def kill_a_worker(database: Database, connection: psycopg.Connection[Any], killed_at: str) -> int:
    """Have a worker claim the paused run and die; answer the delivery number it had."""
    connection.execute(INBOX)
    give_limit(connection, "acme", 1)
    use_units(connection, "acme", 1)
    pause(connection, "acme", "r")
    give_limit(connection, "acme", 2)
    process = multiprocessing.get_context("fork").Process(
        target=work, args=[database.url, killed_at]
    )
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    # What the server had not committed by then is undone.
    until = time.monotonic() + 10
    while value(
        connection,
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and backend_type = 'client backend'"
        "   and pid <> pg_backend_pid()",
    ):
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(value(connection, "select max(delivery) from stepquota.workflow_run_resumptions"))


@pytest.mark.parametrize(
    "killed_at", ["after claiming", "before its start is committed", "before acknowledging"]
)
def test_what_was_not_entered_is_delivered_again(
    database: Database, connect: Connect, killed_at: str
) -> None:
    connection = connect(autocommit=True)
    dead = kill_a_worker(database, connection, killed_at)
    assert value(connection, "select count(*) from stepquota.workflow_run_steps") == 1
    with stepquota.resumptions(database.url, "heir", poll_seconds=0.05) as loop:
        resumption = next(loop)
    assert (resumption.run_id, resumption.delivery > dead) == ("r", True)
    # Had the dead one only been slow, it could do nothing any more.
    with pytest.raises(stepquota.StaleDelivery):
        stepquota.start_workflow_step(connection, "acme", "r", STEP, delivery=dead)
    if killed_at == "before acknowledging":
        assert value(connection, "select run_id from inbox") == "r"
        assert stepquota.acknowledge_workflow_run_resumption(
            connection, "acme", resumption.resumption_id
        )
    go_to_the_end(connection, resumption.delivery, "started")


def test_what_was_entered_is_not_delivered_again(database: Database, connect: Connect) -> None:
    connection = connect(autocommit=True)
    kill_a_worker(database, connection, "after starting")
    time.sleep(LEASE.total_seconds() * 1.1)
    assert stepquota.claim_workflow_run_resumptions(connection, "heir") == ()
    status = value(connection, "select status from stepquota.workflow_runs where run_id = 'r'")
    assert status == "RUNNING"
    # Its runtime runs the workflow again, as after any death.
    go_to_the_end(connection, None, "already_started")


def go_to_the_end(connection: psycopg.Connection[Any], delivery: int | None, outcome: str) -> None:
    start = stepquota.start_workflow_step(connection, "acme", "r", STEP, delivery=delivery)
    assert (start.outcome, start.used_count) == (outcome, 2)
    stepquota.finish_workflow_step(connection, "acme", "r", STEP, 1, "SUCCEEDED", delivery=delivery)
    run = stepquota.finish_workflow_run(connection, "acme", "r", "SUCCEEDED", delivery=delivery)
    assert run.status == "SUCCEEDED"
    assert call(connection, "resolve_workflow_step_quota", "acme")["used_count"] == 2
    assert value(connection, "select count(*) from stepquota.workflow_run_steps") == 2
    assert stepquota.claim_workflow_run_resumptions(connection, "nobody") == ()
    assert violations(connection) == []
