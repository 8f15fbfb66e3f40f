"""Taking over an old counter, by the statements of the page, while workers raise both counters."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

import stepquota
from harness.databases import Clock, Database
from harness.pages import Page, Psql, psql_session

MONTH = "2026-04-01"
CUSTOMERS = range(100, 112)
WORKERS = 4


@dataclass
class Workers:
    """Threads that take a step and raise the shop's own counter, a transaction each."""

    database: Database
    runs: dict[int, str]
    errors: list[BaseException] = field(default_factory=list)
    steps: int = 0

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """They work while the block is run, and one step or more each before it."""
        ended = threading.Event()
        threads = [
            threading.Thread(target=self._work, args=[number, ended]) for number in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        try:
            self.wait_for_steps(WORKERS * 5)
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join(30)
        assert self.errors == []

    def wait_for_steps(self, count: int) -> None:
        """Until so many more have been taken."""
        until, patience = self.steps + count, time.monotonic() + 60
        while self.steps < until and not self.errors:
            assert time.monotonic() < patience, "no steps are taken"
            time.sleep(0.01)

    def _work(self, number: int, ended: threading.Event) -> None:
        chance = random.Random(number)
        try:
            with self.database.connect() as connection:
                while not ended.is_set():
                    self._take_step(connection, chance, f"worker {number}, {uuid.uuid4()}")
                    self.steps += 1
        except BaseException as error:
            self.errors.append(error)

    def _take_step(
        self, connection: psycopg.Connection, chance: random.Random, node_path: str
    ) -> None:
        customer = chance.choice(CUSTOMERS)
        with connection.transaction():
            # One way for each customer, or two workers could wait for one another.
            raised_first = customer % 2 == 0
            if raised_first:
                self._raise_old_counter(connection, customer)
            start = stepquota.start_workflow_step(
                connection, str(customer), self.runs[customer], node_path
            )
            assert start.outcome == "started"
            if not raised_first:
                self._raise_old_counter(connection, customer)

    @staticmethod
    def _raise_old_counter(connection: psycopg.Connection, customer: int) -> None:
        connection.execute(
            "update shop.step_counters set used = used + 1 where customer_id = %s and month = %s",
            [customer, MONTH],
        )


@pytest.fixture
def workers(shop: Database) -> Workers:
    """Customers with runs, whose first steps were counted by the shop alone."""
    Clock(shop).set_everywhere("2026-04-15T12:00:00Z")
    shop.run("select stepquota.make_ledger_partitions()")
    runs = {customer: str(uuid.uuid4()) for customer in CUSTOMERS}
    with shop.connect() as connection:
        stepquota.set_policy(connection, "enforcement", "shadow")
        # Many have used nothing before.
        connection.execute("delete from shop.step_counters")
        for customer, run in runs.items():
            connection.execute("insert into shop.customers values (%s, 'pro')", [customer])
            connection.execute(
                "insert into shop.step_counters values (%s, %s, %s)",
                [customer, MONTH, customer % 3 * 50],
            )
            stepquota.register_workflow_run(connection, str(customer), run)
    return Workers(shop, runs)


def blocks_of(page: Page, first: str, last: str) -> list[str]:
    """The page's statements between two of its headings."""
    text = page.text.partition(first)[2].partition(last)[0]
    return [b.text for b in page.blocks if b.language == "sql" and b.text in text]


def run(psql: Psql, statements: str) -> str:
    printed = psql.run(statements)
    assert "ERROR" not in printed, printed
    return printed


def differences(connection: psycopg.Connection, comparison: str) -> list[tuple[object, ...]]:
    rows = connection.execute(comparison.encode()).fetchall()
    assert len(rows) == len(CUSTOMERS)
    return [row for row in rows if row[1] != row[2]]


def test_it_is_exact_while_workers_go_on(page: Page, shop: Database, workers: Workers) -> None:
    opening, reading, importing = blocks_of(page, "**3. Import the rest.**", "**4. Compare.**")
    (comparing,) = blocks_of(page, "**4. Compare.**", "**5. Enforce.**")
    comparison = comparing.partition(";")[0]
    with ExitStack() as stack:
        connection = stack.enter_context(shop.connect(autocommit=True))
        psql = stack.enter_context(psql_session(shop.url))
        stack.enter_context(workers.at_work())
        for _ in range(5):
            run(psql, opening)
            assert "(0 rows)" in run(psql, reading)
            workers.wait_for_steps(20)  # between reading and importing no moment matters
            run(psql, importing)
            for _ in range(3):
                assert differences(connection, comparison) == []
                workers.wait_for_steps(5)
            run(psql, "drop table used_before;")
    with shop.connect(autocommit=True) as connection:
        assert differences(connection, comparison) == []
        imported = connection.execute(
            "select tenant::int % 3 * 50 = imported_count, count(*)"
            "  from stepquota.workflow_step_usage_periods where tenant::int >= 100 group by 1"
        ).fetchall()
        assert imported == [(True, len(CUSTOMERS))]
        for customer in CUSTOMERS:
            quota = stepquota.resolve_workflow_step_quota(connection, str(customer))
            compared = stepquota.reconcile_workflow_step_usage(
                connection, str(customer), quota.period_start
            )
            assert compared.drift == 0
        assert stepquota.verify_all(connection) == ()


def test_a_tenant_that_the_old_counter_has_less_of_is_shown_and_stops_no_other(
    page: Page, shop: Database, workers: Workers
) -> None:
    opening, reading, importing = blocks_of(page, "**3. Import the rest.**", "**4. Compare.**")
    with shop.connect(autocommit=True) as connection, psql_session(shop.url) as psql:
        first = CUSTOMERS[2]
        assert first % 3 == 0
        # A worker that does not raise the old counter.
        stepquota.start_workflow_step(connection, str(first), workers.runs[first], "alone")
        run(psql, opening)
        assert f" {first}    |   -1" in run(psql, reading)
        run(psql, importing)
        counts = [
            stepquota.resolve_workflow_step_quota(connection, str(customer)).used_count
            for customer in (first, first + 1)
        ]
        assert counts == [1, 50]


def test_what_the_view_counts_by_is_read_at_the_statements_moment(shop: Database) -> None:
    """A function that is volatile would see what is committed while the statement runs."""
    with shop.connect() as connection:
        rows = connection.execute("""
            select p.proname, p.provolatile from pg_proc p
             where p.pronamespace = 'stepquota'::regnamespace and p.proname in (
               'clock', 'current_epoch', 'peek_workflow_step_quota', '_peek_quota',
               '_resolve_quota')""").fetchall()
    assert {volatility for _, volatility in rows} == {"s"}
    assert len(rows) == 5
