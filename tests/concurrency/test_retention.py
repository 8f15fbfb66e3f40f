"""Purging beside clients: it waits for nobody for long, and what it undoes is undone whole."""

from __future__ import annotations

import time

import psycopg
import pytest

from concurrency.races import Connect, break_function, call, use_units, value, violations
from harness.databases import Clock, Database

_PURGED = "select coalesce(sum(purged_step_count), 0) from stepquota.workflow_step_usage_periods"
_MONTH = "select to_regclass('stepquota.workflow_run_steps_2026_01') is not null"


def test_a_month_is_not_dropped_while_somebody_uses_the_ledger(
    database: Database, connect: Connect, clock: Clock
) -> None:
    purger, user = connect(autocommit=True), connect()
    clock.set(purger, "2026-01-15Z")
    use_units(purger, "acme", 3)
    clock.set(purger, "2026-06-15Z")
    clock.set(user, "2026-06-15Z")
    call(user, "register_workflow_run", "acme", "r")
    call(user, "start_workflow_step", "acme", "r", "root")
    started = time.monotonic()
    assert value(purger, "select stepquota.purge_rows('ledger_months')") == 0
    assert time.monotonic() - started < 2
    # Nothing of it is left: neither the count nor a half-dropped month.
    assert value(purger, _MONTH)
    assert value(purger, _PURGED) == 0
    assert violations(purger) == []
    retention = "select state from stepquota.status() where item = 'retention'"
    assert value(purger, retention) == "warn"
    user.commit()
    # Not at once again: each attempt keeps everybody waiting for a moment.
    assert value(purger, "select stepquota.purge_rows('ledger_months')") == 0
    clock.set(purger, "2026-06-15T00:10:01Z")
    assert value(purger, "select stepquota.purge_rows('ledger_months')") == 1
    assert (value(purger, _MONTH), value(purger, _PURGED)) == (False, 3)
    assert value(purger, retention) == "ok"
    assert violations(purger) == []


def test_dropping_that_waits_for_ever_is_noticed(
    database: Database, connect: Connect, clock: Clock
) -> None:
    """The same with the lock_timeout taken out: it would keep everybody waiting."""
    break_function(database, "_drop_ledger_month", "SET lock_timeout TO '300ms'", "")
    purger, user = connect(autocommit=True), connect()
    clock.set(purger, "2026-01-15Z")
    use_units(purger, "acme", 3)
    clock.set(purger, "2026-06-15Z")
    user.execute("select count(*) from stepquota.workflow_run_steps")
    purger.execute("set statement_timeout = '2s'")
    started = time.monotonic()
    with pytest.raises(psycopg.errors.QueryCanceled):
        purger.execute("select stepquota.purge_rows('ledger_months')")
    assert time.monotonic() - started > 1.9


def test_one_purges_at_a_time(connect: Connect, clock: Clock) -> None:
    first, second = connect(), connect(autocommit=True)
    clock.set(second, "2026-01-15Z")
    use_units(second, "acme", 3)
    for connection in (first, second):
        clock.set(connection, "2026-06-15Z")
    first.commit()
    assert value(first, "select stepquota.purge_rows('ledger_months')") == 1
    second.execute("set lock_timeout = '2s'")
    assert value(second, "select stepquota.purge_rows('logs')") == 0
    assert value(second, "select stepquota.purge_rows('ended_runs')") == 0
    first.commit()
    assert value(second, "select stepquota.purge_rows('ended_runs')") == 1
    assert value(second, _PURGED) == 3


def test_a_busy_run_is_passed_over(connect: Connect, clock: Clock) -> None:
    purger, user = connect(autocommit=True), connect()
    clock.set(purger, "2026-01-15Z")
    use_units(purger, "acme", 1)
    call(purger, "register_workflow_run", "acme", "lives on")
    clock.set(purger, "2026-06-15Z")
    user.execute("select from stepquota.workflow_runs where run_id = 'user' for no key update")
    purger.execute("set lock_timeout = '2s'")
    assert value(purger, "select stepquota.purge_rows('ended_runs')") == 0
    user.rollback()
    assert value(purger, "select stepquota.purge_rows('ended_runs')") == 2
    assert violations(purger) == []
