"""The conformance kit on DBOS, 200 workflows at once, transactions, and what asking costs."""

from __future__ import annotations

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import stepquota
from engines.dbos_engine import DbosAdapter, run_limited, run_measurement, run_transactions
from engines.many import Tell, report, run_dry_and_go_on, survive_kills
from stepquota.testing import Conformance


@pytest.fixture
def adapter(database_url: str) -> Iterator[DbosAdapter]:
    adapter = DbosAdapter(database_url)
    yield adapter
    adapter.close()


class TestDbos(Conformance):
    patience_seconds = 60.0


def test_two_hundred_workflows(tell: Tell, adapter: DbosAdapter, database_url: str) -> None:
    run_dry_and_go_on(tell, "DBOS", adapter, database_url)


def test_killed_workers_and_failures(tell: Tell, adapter: DbosAdapter, database_url: str) -> None:
    survive_kills(tell, "DBOS", adapter, database_url)


def run(target: Callable[..., None], adapter: DbosAdapter, *args: Any) -> int | None:
    """Run it in a process of its own; answer how that ended."""
    process = multiprocessing.get_context("spawn").Process(
        target=target, args=[adapter.database_url, adapter.own_url, *args]
    )
    process.start()
    process.join(60)
    return process.exitcode


def ledger(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    rows = connection.execute(
        "select split_part(node_path, '[', 1), attempt, status from stepquota.workflow_run_steps"
        " order by started_at"
    )
    return rows.fetchall()


@pytest.fixture
def payments(adapter: DbosAdapter, database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("create table payments (amount integer)")
        connection.execute("create table tries (amount integer)")
        yield connection


def test_a_transaction_that_fails_is_undone_and_counted(
    adapter: DbosAdapter, payments: psycopg.Connection[Any], tmp_path: Path
) -> None:
    assert run(run_transactions, adapter, False, str(tmp_path / "paid")) == 0
    assert (tmp_path / "paid").read_text() == "3"
    assert ledger(payments) == [
        ("pay", 1, "SUCCEEDED"),
        ("pay", 1, "RETRY_SCHEDULED"),
        ("pay", 2, "SUCCEEDED"),
    ]
    rows = payments.execute("select amount from payments order by 1").fetchall()
    assert rows == [(1,), (2,)]
    assert stepquota.verify_all(payments) == ()


def test_a_transaction_that_dies_leaves_nothing(
    adapter: DbosAdapter, payments: psycopg.Connection[Any], tmp_path: Path
) -> None:
    """Reservation, work and record are committed together, so all three are missing."""
    died = run(run_transactions, adapter, True, str(tmp_path / "paid"))
    assert died == -signal.SIGKILL
    assert ledger(payments) == [("pay", 1, "SUCCEEDED")]
    assert payments.execute("select amount from payments").fetchall() == [(1,)]
    # The same executor recovers its workflow when it is back.
    assert run(run_transactions, adapter, True, str(tmp_path / "paid")) == 0
    assert (tmp_path / "paid").read_text() == "3"
    assert ledger(payments) == [("pay", 1, "SUCCEEDED"), ("pay", 1, "SUCCEEDED")]
    rows = payments.execute("select amount from payments order by 1").fetchall()
    assert rows == [(1,), (2,)]


def test_a_workflow_with_a_timeout_is_refused(
    adapter: DbosAdapter, database_url: str, tmp_path: Path
) -> None:
    """DBOS would cancel it by it while it is paused."""
    assert run(run_limited, adapter, str(tmp_path / "said")) == 0
    said = json.loads((tmp_path / "said").read_text())
    assert said.pop("without") == "None"
    assert set(said) == {"whole", "steps_alone", "parent", "queued"}
    assert set(said.values()) == {"TimeLimited"}
    with psycopg.connect(database_url) as connection:
        assert ledger(connection) == [("metered", 1, "SUCCEEDED")]


def test_what_it_costs(tell: Tell, adapter: DbosAdapter, database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url) as connection:
        stepquota.set_tier_limit(connection, "solo", 100000)
    assert run(run_measurement, adapter, str(tmp_path / "seconds")) == 0
    report(tell, "DBOS", *json.loads((tmp_path / "seconds").read_text()))
