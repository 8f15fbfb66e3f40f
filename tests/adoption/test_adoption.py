"""stepquota adopt: that its file is by the application's keys, and complete.

That it works is what tests/acceptance shows, where one of the flavours runs on adopted tables.
"""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

import stepquota
from acceptance.adopted import DESCRIPTION
from harness.databases import Database
from stepquota import adoption
from stepquota._resources import sql_directory
from stepquota.cli import app
from stepquota.host_columns import HOST_COLUMNS
from stepquota.migrate import migrate
from stepquota.problems import Problem

ACCOUNT = "00000000-0000-4000-8000-000000000001"

# 300 accounts, one of them with most of the runs.
MANY_ROWS = """
insert into shop.accounts (id) select md5(n::text)::uuid from generate_series(1, 300) n;
insert into shop.executions (account_id, id, state, position, created_at, closed_at, ledger_month)
select md5((greatest(n, 2000) - 1999)::text)::uuid, md5(n::text)::uuid,
       case n % 3 when 0 then 'active' when 1 then 'parked' else 'done' end::shop.execution_state,
       'before', now(), case n % 3 when 2 then now() end, date '2026-04-01'
  from generate_series(1, 2299) n;
insert into shop.attempts
  (account_id, execution_id, node, try, state, ended_at, period_start, ledger_month)
select account_id, id, 'node ' || n, 1, 'ok', now(), timestamptz '2026-04-01 00:00:00Z',
       ledger_month
  from shop.executions, generate_series(1, 5) n;
insert into shop.waits (account_id, execution_id, node, kind, state, closed_at, reason, node_paths)
select e.account_id, e.id, k.kind, k.kind,
       case when e.state = 'parked' and k.kind = 'quota' then 'open' else 'closed' end, now(),
       case k.kind when 'quota' then 'quota' end, '{a}'
  from shop.executions e, (values ('quota'), ('event'), ('human')) k (kind) where e.state <> 'done';
insert into shop.log_lines (account_id, execution_id, line)
select account_id, id, 'a line' from shop.executions;
analyze;
"""


def test_each_statement_goes_by_a_key(adopted: Database) -> None:
    adopted.run(MANY_ROWS)
    result = CliRunner().invoke(app, ["adopt", "--explain", str(DESCRIPTION), adopted.url])
    assert result.exit_code == 0, result.output
    with adopted.connect(autocommit=True) as connection:
        connection.execute("set search_path = pg_catalog")
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        plans = adoption.explain(connection, tables, adoption.render(tables))
    ways: dict[str, set[str]] = {}
    for plan in plans:
        ways.setdefault(plan.function, set()).add(plan.way)
    expected = {
        "_host_find_tenant": {"accounts_pkey"},
        "_host_is_tenant_held": {"accounts_pkey"},
        "_host_find_run": {"executions_pkey"},
        "_host_lock_run": {"executions_pkey"},
        "_host_set_run": {"executions_pkey"},
        "_host_find_step": {"attempts_pkey"},
        "_host_finish_step": {"attempts_pkey"},
        "_host_find_wait": {"waits_pkey"},
        "_host_find_quota_wait": {"stepquota_waits_one_open_quota_wait_a_run"},
        "_host_lock_queued_runs_if_free": {"stepquota_waits_quota_queue", "executions_pkey"},
    }
    assert {name: ways[name] for name in expected} == expected
    # Every function that touches a table is looked at.
    touching = set()
    for match in adoption.FUNCTION.finditer(adoption.render(tables)):
        if re.search(r"(from|join|update) shop\.", match["body"]):
            touching.add(match["name"])
    assert touching == set(ways)
    assert len(ways) > 40


def test_a_statement_without_an_index_is_complained_of(adopted: Database) -> None:
    adopted.run(MANY_ROWS)
    adopted.run("alter table shop.waits drop constraint waits_pkey")
    adopted.run(
        "drop index shop.stepquota_waits_run, shop.stepquota_waits_one_open_quota_wait_a_run"
    )
    result = CliRunner().invoke(app, ["adopt", "--explain", str(DESCRIPTION), adopted.url])
    assert isinstance(result.exception, Problem)
    assert "read a whole table" in result.exception.what


def test_tables_that_are_known_to_be_tiny_are_judged_as_if_they_were_large(
    adopted: Database,
) -> None:
    adopted.run("analyze shop.executions, shop.attempts, shop.waits, shop.accounts, shop.log_lines")
    result = CliRunner().invoke(app, ["adopt", "--explain", str(DESCRIPTION), adopted.url])
    assert result.exit_code == 0, result.output
    assert "stepquota_waits_one_open" in result.output  # by its name at the application
    adopted.run(
        "alter table shop.waits drop constraint waits_pkey;"
        "drop index shop.stepquota_waits_run, shop.stepquota_waits_one_open_quota_wait_a_run"
    )
    result = CliRunner().invoke(app, ["adopt", "--explain", str(DESCRIPTION), adopted.url])
    assert isinstance(result.exception, Problem)
    with adopted.connect() as connection:
        assert connection.execute("select to_regclass('pg_temp.waits')").fetchone() == (None,)


def test_nothing_of_the_other_files_touches_stepquotas_own(adopted: Database) -> None:
    """What reads the tables outside of host.sql, such as a view, is rewritten as well."""
    with adopted.connect(autocommit=True) as connection:
        connection.execute("set search_path = pg_catalog")
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
    names = "|".join(adoption.HOST_TABLES.values())
    reached = re.compile(rf"\b(from|join|update|into)\s+(stepquota\.(?:{names}))\b(?!')")
    found = {
        (file.name, match[2])
        for file in sql_directory().glob("*.sql")
        if file.name != "host.sql"
        for text in [adoption.render_other(tables, file.read_text(encoding="utf-8"))]
        for match in reached.finditer(re.sub(r"--[^\n]*", "", text))
    }
    assert found == set()


def test_a_view_is_rewritten(adopted: Database) -> None:
    view = """create or replace view stepquota.waiting as
select w.tenant, w.run_id, r.workflow, r.status
  from stepquota.workflow_run_waits w
  join stepquota.workflow_runs r on r.tenant = w.tenant and r.run_id = w.run_id
  left join stepquota.paused_tenants p on p.tenant = w.tenant
 where w.status = 'WAITING';
"""
    with adopted.connect(autocommit=True) as connection:
        connection.execute(view.encode())
        connection.execute("set search_path = pg_catalog")
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        # It takes the place of the other one, so that its columns have the same names and types.
        connection.execute(adoption.render_other(tables, view).encode())
        stepquota.set_tier_limit(connection, "solo", 1)
        stepquota.register_workflow_run(connection, ACCOUNT, ACCOUNT, "flow")
        for path in ("a", "b"):
            stepquota.start_workflow_step(connection, ACCOUNT, ACCOUNT, path)
            if path == "a":
                stepquota.finish_workflow_step(connection, ACCOUNT, ACCOUNT, "a", 1, "SUCCEEDED")
        rows = connection.execute("select * from stepquota.waiting").fetchall()
        assert rows == [(ACCOUNT, ACCOUNT, "flow", "WAITING")]
        # So are the functions that read the tables elsewhere than in host.sql.
        connection.execute("select stepquota.summarize_tenants()")
        (listed,) = stepquota.list_tenants(connection, only="paused", sort="paused")
        assert (listed.tenant, listed.paused_runs) == (ACCOUNT, 1)


def test_the_file_names_no_table_of_stepquotas(adopted: Database) -> None:
    result = CliRunner().invoke(app, ["adopt", str(DESCRIPTION), adopted.url])
    assert result.exit_code == 0, result.output
    tables = "|".join(adoption.HOST_TABLES.values())
    reached = re.findall(rf"\b(?:from|join|update|into) stepquota\.(?:{tables})\b.*", result.output)
    assert reached == []


def test_migrating_without_the_description_is_refused(adopted: Database) -> None:
    with pytest.raises(Problem, match="uses tables of an application's") as raised:
        migrate(adopted.url)
    assert "--adopt" in raised.value.hint
    migrate(adopted.url, DESCRIPTION)
    with adopted.connect() as connection:
        assert connection.execute("select stepquota._host_origin()").fetchone() == ("adopted",)


def test_without_the_description_nothing_is_changed(adopted: Database) -> None:
    adopted.run("delete from stepquota_migrations._stepquota_migration")
    with pytest.raises(Problem, match="uses tables of an application's"):
        migrate(adopted.url)
    with adopted.connect() as connection:
        assert connection.execute(
            "select count(*) from stepquota_migrations._stepquota_migration"
        ).fetchone() == (0,)


def test_a_description_of_nothing_is_refused(adopted: Database, tmp_path: Path) -> None:
    file = tmp_path / "description.toml"
    file.write_text("", encoding="utf-8")
    with pytest.raises(Problem, match="names no table"):
        migrate(adopted.url, file)


def test_the_columns_that_are_written_down_are_those_of_the_database(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("set search_path = pg_catalog, pg_temp")
        for table, columns in HOST_COLUMNS.items():
            rows = connection.execute(
                "select attname::text, format_type(atttypid, null) from pg_attribute"
                " where attrelid = %s::regclass and attnum > 0 and not attisdropped"
                " order by attnum",
                [f"stepquota.{table}"],
            ).fetchall()
            assert list(columns.items()) == rows, table
    assert list(HOST_COLUMNS) == list(adoption.HOST_TABLES.values())


def test_what_was_there_before_stays_and_is_not_counted(adopted: Database) -> None:
    with adopted.connect(autocommit=True) as connection:
        assert stepquota.verify_all(connection) == ()
        quota = stepquota.resolve_workflow_step_quota(connection, ACCOUNT)
        assert quota.used_count == 0
        stepquota.import_workflow_step_usage(
            connection, ACCOUNT, quota.period_start, 40, "what the old meter said"
        )
        quota = stepquota.resolve_workflow_step_quota(connection, ACCOUNT)
        assert quota.used_count == 40
        reconciled = stepquota.reconcile_workflow_step_usage(
            connection, ACCOUNT, quota.period_start
        )
        assert reconciled.drift == 0
        stepquota.register_workflow_run(connection, ACCOUNT, ACCOUNT)
        start = stepquota.start_workflow_step(connection, ACCOUNT, ACCOUNT, "root")
        assert (start.outcome, start.used_count) == ("started", 41)
        row = connection.execute(
            "select state, cost, period_start is not null from shop.attempts where node = 'root'"
        ).fetchone()
        assert row == ("begun", 0, True)
        assert stepquota.verify_all(connection) == ()
        assert connection.execute("select count(*) from stepquota.workflow_runs").fetchone() == (0,)


def test_what_is_no_key_is_found_nowhere_and_written_nowhere(adopted: Database) -> None:
    with adopted.connect(autocommit=True) as connection:
        assert stepquota.resolve_workflow_step_quota(connection, "no uuid").tier == "solo"
        with pytest.raises(stepquota.UnknownRun):
            stepquota.start_workflow_step(connection, ACCOUNT, ACCOUNT.upper(), "root")
        with pytest.raises(psycopg.errors.NotNullViolation):
            stepquota.register_workflow_run(connection, "no uuid", ACCOUNT)


def test_old_data_of_the_application_is_not_purged(adopted: Database) -> None:
    adopted.run(MANY_ROWS)
    count = "select (select count(*) from shop.executions), (select count(*) from shop.attempts)"
    with adopted.connect(autocommit=True) as connection:
        before = connection.execute(count).fetchone()
        stepquota.set_policy(connection, "ended_runs_kept_for", "1 day")
        connection.execute("update shop.executions set closed_at = now() - interval '1 year'")
        stepquota.purge(connection)
        assert connection.execute(count).fetchone() == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (('table = "shop.waits"', 'table = "shop.nothing"'), "no table shop.nothing"),
        (('payload = "data"', 'payload = "dta"'), "no column dta"),
        (('payload = "data"', 'pay = "data"'), "says something of pay"),
        (("[logs]", "[loggs]"), "names loggs"),
        (('wait_id = "id"', 'wait_id = "note"'), "note is text"),
        (("[tenants]", "tenants"), "cannot be read"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(
    adopted: Database, tmp_path: Path, change: tuple[str, str], complaint: str
) -> None:
    file = tmp_path / "description.toml"
    file.write_text(DESCRIPTION.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    result = CliRunner().invoke(app, ["adopt", str(file), adopted.url])
    assert isinstance(result.exception, Problem), result.output
    assert complaint in result.exception.what
