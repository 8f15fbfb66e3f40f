"""DBOS: transactions whose connection is lost, workflows without a tenant, and the page."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import stepquota
from engines.dbos_engine import DbosAdapter
from engines.dbos_programs import run_cut_transactions, run_page, run_without_tenant

PAGE = Path(__file__).parents[2] / "docs" / "dbos.md"

Run = Callable[..., Any]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Run]:
    """Runs a program in a process of its own; answers what it wrote."""
    adapter = DbosAdapter(database_url)

    def run(program: Callable[..., None], *args: Any) -> Any:
        results = tmp_path / "results"
        process = multiprocessing.get_context("spawn").Process(
            target=program, args=[adapter.database_url, database_url, *args, str(results)]
        )
        process.start()
        process.join(60)
        process.kill()
        assert process.exitcode == 0
        return json.loads(results.read_text())

    yield run
    adapter.close()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_a_transaction_whose_connection_is_lost_is_done_anew(
    run: Run, connection: psycopg.Connection[Any]
) -> None:
    """Nothing of it was left: it is the same attempt, and is counted once."""
    connection.execute("create table payments (amount integer)")
    paid, tries, starts = run(run_cut_transactions)
    (first, cut, *others) = paid
    assert (first, others) == (1, [2, 3, 4])
    assert cut >= 1
    assert (tries, starts) == ([1, 2, 2, 3, 3, 3, 4], 7)
    rows = connection.execute("select amount from payments order by 1").fetchall()
    assert rows == [(1,), (2,), (3,), (4,)]
    steps = connection.execute("select attempt, status from stepquota.workflow_run_steps")
    assert steps.fetchall() == [(1, "SUCCEEDED")] * 4
    assert stepquota.verify_all(connection) == ()


def test_a_workflow_without_a_tenant_fails_before_it_does_anything(
    run: Run, connection: psycopg.Connection[Any]
) -> None:
    said, done = run(run_without_tenant)
    assert "has no tenant: start it with an authenticated user" in said
    assert done == []
    assert connection.execute("select from stepquota.workflow_runs").rowcount == 0


def test_the_page_works(run: Run, connection: psycopg.Connection[Any]) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert run(run_page, program) == ["charged 100", "charged 100"]
    assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 2
    assert stepquota.verify_all(connection) == ()
