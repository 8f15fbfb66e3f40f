"""Reconciling and repairing while clients reserve: no false alarm, nothing lost.

Each guard is broken once on purpose, and the test must see it.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg

from concurrency.races import (
    Background,
    Connect,
    Connection,
    break_function,
    call,
    give_limit,
    use_units,
    value,
    violations,
)
from harness.databases import Database

_PERIOD = "date_trunc('month', clock_timestamp(), 'UTC')"


def repair(connection: Connection) -> tuple[int, int]:
    """Repair the present period of acme; answer the counts before and after."""
    row = connection.execute(
        "select used_count_before, used_count_after"
        f" from stepquota.repair_workflow_step_usage('acme', {_PERIOD}, false, 'test')".encode()
    ).fetchone()
    assert row is not None
    return row[0], row[1]


# -- A step that is between its unit and its commit


def repair_during_a_step(database: Database) -> list[Any]:
    """A step is not committed when the repair begins; answer what is wrong at the end."""
    watcher, stepper, repairer = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, stepper, repairer:
        give_limit(watcher, "acme", 100)
        use_units(watcher, "acme", 3)
        call(watcher, "register_workflow_run", "acme", "r")
        watcher.execute("update stepquota.workflow_step_usage_lanes set used_count = 7")
        call(stepper, "start_workflow_step", "acme", "r", "root")
        background = Background(repairer, repair)
        assert background.wait_until_blocked(watcher)
        stepper.commit()
        background.result()
        return violations(watcher)


def test_repair_waits_for_steps_that_are_not_committed(database: Database) -> None:
    assert repair_during_a_step(database) == []


def test_repair_that_does_not_wait_loses_a_step(database: Database) -> None:
    break_function(
        database,
        "repair_workflow_step_usage",
        "order by u.tenant, u.period_start, u.lane\n        for no key update",
        "order by u.tenant, u.period_start, u.lane",
    )
    assert [row[0] for row in repair_during_a_step(database)] == ["I3 conserved"]


# -- Load


def reserve_until(stop: threading.Event, database: Database, number: int) -> None:
    """Steps, batches and units with a ledger elsewhere, some rolled back."""
    chance = random.Random(number)
    with database.connect() as connection:
        call(connection, "register_workflow_run", "acme", f"run {number}")
        connection.commit()
        step = 0
        while not stop.is_set():
            step += 1
            kind = chance.random()
            if kind < 0.6:
                call(connection, "start_workflow_step", "acme", f"run {number}", f"s{step}")
            elif kind < 0.8:
                connection.execute(
                    "select * from stepquota.start_workflow_steps(%s, %s, %s)",
                    ["acme", f"run {number}", [f"b{step}.{n}" for n in range(20)]],
                )
            else:
                call(connection, "reserve_workflow_step", "acme")
            connection.rollback() if chance.random() < 0.2 else connection.commit()


def look_under_load(database: Database, seconds: float) -> tuple[int, int, int]:
    """Reconcile and repair while clients reserve; answer looks, findings and repairs that acted."""
    stop = threading.Event()
    with database.connect(autocommit=True) as connection:
        give_limit(connection, "acme", 10_000_000)
        use_units(connection, "acme", 1)
        threads = [
            threading.Thread(target=reserve_until, args=(stop, database, number))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        looks = acted = 0
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                value(connection, "select stepquota.reconcile_tenant('acme')")
                before, after = repair(connection)
                acted += before != after
                looks += 1
        finally:
            stop.set()
            for thread in threads:
                thread.join(20)
        findings = value(connection, "select count(*) from stepquota.reconciliation_findings")
        assert value(connection, "select count(*) from stepquota.workflow_run_steps") > 50
        if not findings:
            assert violations(connection) == []
    return looks, findings, acted


def test_no_false_alarm_while_clients_reserve(database: Database) -> None:
    looks, findings, acted = look_under_load(database, 3)
    assert looks > 5
    assert (findings, acted) == (0, 0)


def test_a_comparison_in_two_snapshots_gives_false_alarms(database: Database) -> None:
    # Volatile, so that each of its statements has a snapshot of its own.
    database.run(
        """
        create or replace function stepquota._host_summarize_steps(
          p_tenant text, p_period_starts timestamptz[])
        returns table (
          period_start timestamptz, step_count bigint,
          duplicate_count bigint, misplaced_count bigint)
        language plpgsql volatile as $$
        begin
          perform pg_sleep(0.1);
          return query
            select s.period_start, count(*), 0::bigint, 0::bigint
              from stepquota.workflow_run_steps s where s.tenant = p_tenant group by 1;
        end $$
        """
    )
    database.run("alter function stepquota._compare_usage volatile")
    assert look_under_load(database, 2)[1] > 0


# -- The scan over all tenants


def test_reconcile_all_goes_on_where_it_stopped(database: Database, connect: Connect) -> None:
    connection = connect(autocommit=True)
    for number in range(30):
        use_units(connection, f"tenant {number:02}", 1)
    connection.execute(
        "update stepquota.workflow_step_usage_lanes set used_count = 3 where tenant = 'tenant 29'"
    )
    # A look takes so long that a call is over before all are looked at.
    break_function(
        database,
        "reconcile_tenant",
        "v_ledgers := stepquota._find_readable_ledgers();",
        "perform pg_sleep(0.06); v_ledgers := '{}';",
    )
    connection.execute("select stepquota.set_policy('maintenance_seconds', '1')")
    done = "select count(*) from stepquota.reconciled_tenants where reconciled_at > '-infinity'"
    connection.execute("call stepquota.reconcile_all()")
    first = value(connection, done)
    assert 5 < first < 25
    connection.execute("call stepquota.reconcile_all()")
    connection.execute("call stepquota.reconcile_all()")
    assert value(connection, done) == 30
    assert connection.execute(
        "select tenant, class, units from stepquota.reconciliation_findings"
    ).fetchall() == [("tenant 29", "counter_ahead", 2)]
    # Nobody is due any more, until a day is over.
    started = time.monotonic()
    connection.execute("call stepquota.reconcile_all()")
    assert time.monotonic() - started < 0.5


def test_a_busy_tenant_is_passed_over(database: Database, connect: Connect) -> None:
    connection, other = connect(autocommit=True), connect()
    for tenant in ("acme", "globex"):
        use_units(connection, tenant, 1)
    connection.execute("call stepquota.reconcile_all(true)")
    other.execute(
        "select from stepquota.reconciled_tenants where tenant = 'acme' for no key update"
    )
    connection.execute(
        "update stepquota.reconciled_tenants set reconciled_at = '-infinity' where tenant <> 'acme'"
    )
    connection.execute("set lock_timeout = '2s'")
    connection.execute("call stepquota.reconcile_all(true)")
    other.rollback()
    assert value(connection, "select stepquota.reconcile_tenant('acme')") == 0


def test_nobody_waits_for_a_dry_run(connect: Connect) -> None:
    watcher, other = connect(autocommit=True), connect()
    use_units(watcher, "acme", 2)
    other.execute(f"select * from stepquota.repair_workflow_step_usage('acme', {_PERIOD})".encode())
    other.execute("select stepquota.reconcile_tenant('acme')")
    watcher.execute("set lock_timeout = '1s'")
    assert call(watcher, "reserve_workflow_step", "acme")["allowed"]
    other.rollback()


def test_a_registered_ledger_that_is_locked_is_passed_over(
    database: Database, connect: Connect
) -> None:
    connection, other = connect(autocommit=True), connect()
    database.run("create table charges (tenant text, at timestamptz)")
    connection.execute(
        "select stepquota.register_ledger('c', 'public.charges', 'tenant', null, 'at')"
    )
    call(connection, "reserve_workflow_step", "acme")
    other.execute("lock table charges")
    assert value(connection, "select stepquota.reconcile_tenant('acme')") == 0
    other.rollback()
    assert value(connection, "select stepquota.reconcile_tenant('acme')") == 1


def test_who_only_reads_may_reconcile(connect: Connect) -> None:
    connection = connect(autocommit=True)
    use_units(connection, "acme", 2)
    connection.execute("update stepquota.workflow_step_usage_lanes set used_count = 3")
    observer = connect(role="stepquota_observer")
    observer.execute("set transaction read only")
    assert call_reconcile(observer) == 1
    try:
        observer.execute(f"select stepquota.repair_workflow_step_usage('acme', {_PERIOD})".encode())
    except psycopg.errors.InsufficientPrivilege:
        pass
    else:
        raise AssertionError("an observer may not repair")


def call_reconcile(connection: Connection) -> int:
    """The drift of the present period of acme."""
    drift = value(
        connection,
        f"select drift from stepquota.reconcile_workflow_step_usage('acme', {_PERIOD})",
    )
    return int(drift)
