"""What is purged where tables are the application's: none of its rows, and all of stepquota's."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import stepquota
from harness.databases import Clock, Database
from stepquota import adoption
from stepquota.migrate import migrate

APRIL, AUGUST, DECEMBER = (f"2026-{month}-15T12:00:00Z" for month in ("04", "08", "12"))
LATER = "2027-04-15T12:00:00Z"
OLD_RUN = "b9b2a1f4-56c0-4c49-9c5e-0d2f5f0f7a11"
OLD_MONTH = "2000_01"


class Session:
    """A session with a clock, in a database whose first moment is in April."""

    def __init__(self, database: Database, connection: psycopg.Connection):
        self._clock = Clock(database)
        self.connection = connection
        self.go_to(APRIL)
        self.read("select stepquota.make_ledger_partitions()")

    def go_to(self, moment: str) -> None:
        self._clock.set(self.connection, moment)

    def read(self, query: str) -> list[tuple[object, ...]]:
        return self.connection.execute(query.encode()).fetchall()

    def run_steps(self, tenant: str, count: int, run: str = "") -> str:
        """Steps of a run, which is registered if it is not given."""
        if not run:
            run = str(uuid.uuid4())
            stepquota.register_workflow_run(self.connection, tenant, run)
        for number in range(count):
            path = f"{uuid.uuid4()}[{number}]"
            stepquota.start_workflow_step(self.connection, tenant, run, path)
            stepquota.finish_workflow_step(self.connection, tenant, run, path, 1, "SUCCEEDED")
        return run

    def pause(self, tenant: str, run: str) -> None:
        """Pause it by the quota, and have it resumed, so that there are a wait and a resumption."""
        stepquota.set_tier_limit(self.connection, "solo", 1)
        start = stepquota.start_workflow_step(self.connection, tenant, run, "paused")
        assert start.outcome == "quota_paused"
        stepquota.set_tier_limit(self.connection, "solo", 150)
        self.connection.execute("call stepquota.resume_scan()")
        stepquota.start_workflow_step(self.connection, tenant, run, "paused")
        stepquota.finish_workflow_step(self.connection, tenant, run, "paused", 1, "SUCCEEDED")

    def end(self, tenant: str, run: str) -> None:
        stepquota.finish_workflow_run(self.connection, tenant, run, "SUCCEEDED")

    def purge(self, kind: str) -> int:
        """Until nothing is left of a kind."""
        total = 0
        for _ in range(30):
            ((count,),) = self.read(f"select stepquota.purge_rows('{kind}', 1000)")
            assert isinstance(count, int)
            if count == 0:
                return total
            total += count
        raise AssertionError("it goes on for ever")

    def has_month(self, month: str) -> bool:
        name = f"stepquota.workflow_run_steps_{month}"
        return self.read(f"select to_regclass('{name}') is not null") == [(True,)]

    def count(self, table: str, run: str) -> int:
        ((count,),) = self.read(
            f"select count(*)::int from stepquota.{table} where run_id = '{run}'"
        )
        assert isinstance(count, int)
        return count

    def retention(self) -> tuple[object, ...]:
        (row,) = self.read("select state, detail from stepquota.status() where item = 'retention'")
        return row

    def check(self, tenant: str, expected: str, period: str = "2026-04-01Z") -> None:
        """Counted, purged, drift; and nothing is wrong anywhere."""
        assert self.read(
            "select concat_ws(' ', counter_used_count, purged_step_count, drift)"
            f"  from stepquota.reconcile_workflow_step_usage('{tenant}', '{period}')"
        ) == [(expected,)]
        assert stepquota.verify_all(self.connection) == ()


@pytest.fixture
def in_shop(shop: Database) -> Iterator[Session]:
    """Tenants and runs are the shop's."""
    with shop.connect(autocommit=True) as connection:
        yield Session(shop, connection)


@pytest.fixture
def in_adopted(adopted: Database) -> Iterator[Session]:
    """All is the application's."""
    with adopted.connect(autocommit=True) as connection:
        yield Session(adopted, connection)


def test_a_month_of_the_ledger_goes_when_the_shops_runs_of_it_have_ended(in_shop: Session) -> None:
    short, long = in_shop.run_steps("17", 3), in_shop.run_steps("18", 2)
    in_shop.end("17", short)
    in_shop.go_to(AUGUST)
    in_shop.purge("ledger_months")
    assert in_shop.has_month("2026_04")
    state, detail = in_shop.retention()
    assert state == "info"
    assert str(detail).startswith(
        "months kept since runs of theirs go on, or ended lately: 2026-04"
    )
    # Meanwhile what has ended goes step by step.
    assert in_shop.count("workflow_run_steps", short) == 3
    assert in_shop.purge("ended_runs") == 4
    assert in_shop.count("workflow_run_steps", short) == 0
    in_shop.check("17", "3 3 0")
    in_shop.check("18", "2 0 0")
    in_shop.end("18", long)
    in_shop.purge("ledger_months")
    assert in_shop.has_month("2026_04")
    in_shop.go_to(DECEMBER)
    assert in_shop.purge("ledger_months") >= 1
    assert not in_shop.has_month("2026_04")
    assert in_shop.retention() == ("ok", "no old month of the ledger is left")
    assert in_shop.purge("ended_runs") == 0
    in_shop.check("17", "3 3 0")
    in_shop.check("18", "2 2 0")
    # The runs are the shop's, and stay.
    assert in_shop.read("select count(*) from shop.workflow_runs") == [(3,)]


def test_runs_from_before_are_purged_one_by_one(in_shop: Session) -> None:
    in_shop.run_steps("17", 4, OLD_RUN)
    in_shop.go_to(DECEMBER)
    in_shop.purge("ledger_months")
    assert in_shop.purge("ended_runs") == 0
    assert in_shop.has_month(OLD_MONTH)
    assert in_shop.retention() == ("ok", "no old month of the ledger is left")
    in_shop.end("17", OLD_RUN)
    in_shop.go_to(LATER)
    in_shop.purge("ledger_months")
    assert in_shop.count("workflow_run_steps", OLD_RUN) == 4
    assert in_shop.purge("ended_runs") == 5
    assert in_shop.count("workflow_run_steps", OLD_RUN) == 0
    # Others may come to be in it.
    assert in_shop.has_month(OLD_MONTH)
    in_shop.check("17", "4 4 0")


def test_a_run_that_the_shop_inserts_is_of_its_month(in_shop: Session) -> None:
    in_shop.connection.execute(
        "insert into shop.workflow_runs (customer_id, id) values (17, %s)", [uuid.uuid4()]
    )
    assert in_shop.read(
        "select distinct ledger_month = date_trunc('month', now() at time zone 'UTC')::date"
        "  from shop.workflow_runs where ledger_month > '2000-01-01'"
    ) == [(True,)]


def test_waits_and_resumptions_go_with_runs_that_stay(in_shop: Session) -> None:
    run = in_shop.run_steps("17", 1)
    in_shop.pause("17", run)
    in_shop.end("17", run)
    counts = {"workflow_run_waits": 1, "workflow_run_resumptions": 1}
    assert {table: in_shop.count(table, run) for table in counts} == counts
    in_shop.go_to(AUGUST)
    in_shop.purge("ledger_months")
    in_shop.purge("ended_runs")
    assert {table: in_shop.count(table, run) for table in counts} == dict.fromkeys(counts, 0)
    assert in_shop.read(f"select state from shop.workflow_runs where id = '{run}'") == [("done",)]
    in_shop.check("17", "2 2 0")


def test_rows_of_runs_that_the_shop_has_deleted_go(in_shop: Session) -> None:
    gone, stays = in_shop.run_steps("17", 1), in_shop.run_steps("18", 1)
    in_shop.pause("17", gone)
    in_shop.end("17", gone)
    in_shop.connection.execute("delete from shop.workflow_runs where id = %s", [gone])
    assert in_shop.purge("ended_runs") == 0
    in_shop.check("17", "2 0 0")
    in_shop.go_to(AUGUST)
    in_shop.purge("ledger_months")
    in_shop.purge("ended_runs")
    for table in ("workflow_run_steps", "workflow_run_waits", "workflow_run_resumptions"):
        assert in_shop.count(table, gone) == 0, table
    in_shop.check("17", "2 2 0")
    assert in_shop.count("workflow_run_steps", stays) == 1


def test_with_all_tables_adopted_nothing_of_them_goes(in_adopted: Session) -> None:
    account = "00000000-0000-4000-8000-000000000001"
    run, long = in_adopted.run_steps(account, 1), in_adopted.run_steps(account, 1)
    old = str(uuid.uuid4())
    in_adopted.connection.execute(
        "insert into shop.executions (account_id, id, state, created_at, ledger_month)"
        " values (%s, %s, 'active', now(), '2000-01-01')",
        [account, old],
    )
    in_adopted.pause(account, run)
    in_adopted.end(account, run)
    tables = ("executions", "attempts", "waits", "log_lines")
    counting = "select " + ", ".join(f"(select count(*) from shop.{table})" for table in tables)
    before = in_adopted.read(counting)
    in_adopted.go_to(DECEMBER)
    in_adopted.purge("ledger_months")
    in_adopted.purge("ended_runs")
    in_adopted.purge("logs")
    assert in_adopted.read(counting) == before
    assert in_adopted.count("workflow_run_resumptions", run) == 0
    # The months that stepquota makes for itself are empty.
    assert in_adopted.retention() == ("ok", "no old month of the ledger is left")
    assert not in_adopted.has_month("2026_04")
    in_adopted.check(account, "3 0 0")
    assert in_adopted.read(f"select state from shop.executions where id = '{long}'") == [
        ("active",)
    ]


@pytest.fixture
def only_steps(database: Database, tmp_path: Path) -> Database:
    """The ledger alone is the application's."""
    database.run("""
        create schema shop;
        create table shop.steps (like stepquota.workflow_run_steps including defaults,
          primary key (tenant, run_id, node_path, attempt));""")
    file = tmp_path / "description.toml"
    file.write_text('[steps]\ntable = "shop.steps"\n', encoding="utf-8")
    with database.connect(autocommit=True) as connection:
        tables = adoption.resolve_tables(connection, adoption.read_description(file))
        assert adoption.preparation(connection, tables) == "\n"
    migrate(database.url, file)
    return database


def test_with_the_steps_adopted_they_stay_and_the_runs_go(only_steps: Database) -> None:
    with only_steps.connect(autocommit=True) as connection:
        session = Session(only_steps, connection)
        run = session.run_steps("acme", 3)
        session.end("acme", run)
        session.go_to(AUGUST)
        session.purge("ledger_months")
        session.purge("ended_runs")
        assert session.read("select count(*) from shop.steps") == [(3,)]
        assert session.count("workflow_runs", run) == 0
        session.check("acme", "3 0 0")


def test_the_month_of_old_runs_is_never_dropped(database: Database) -> None:
    old = adoption._DEFAULTS["workflow_runs", "ledger_month"]
    assert adoption._DEFAULTS["workflow_run_steps", "ledger_month"] == old
    with database.connect() as connection:
        listed = connection.execute(
            f"""select stepquota._make_ledger_partition({old}),
                       stepquota._make_ledger_partition(({old} + interval '1 month')::date);
                select l.month = {old}, l.month = ({old} + interval '1 month')::date
                  from stepquota._list_old_ledger_months(now()) l""".encode()
        )
        listed.nextset()
        assert listed.fetchall() == [(False, True)]
        connection.rollback()
