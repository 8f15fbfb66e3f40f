"""stepquota migrate --dump-sql where stepquota uses an application's tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from acceptance.adopted import DESCRIPTION, HERE, adopt
from harness.databases import Database, prepared_database
from harness.servers import Server
from stepquota import adoption
from stepquota.cli import app
from stepquota.dump import dump_sql
from stepquota.migrate import migrate
from stepquota.problems import Problem

from .conftest import Dump, Psql, applied_migrations

ORIGIN = "select stepquota._host_origin()"


@pytest.fixture
def adopted(server: Server) -> Iterator[Database]:
    database = prepared_database(server, "adopted", adopt)
    yield database
    database.drop()


def made_for(database: Database) -> str:
    result = CliRunner().invoke(
        app, ["migrate", "--dump-sql", "--adopt", str(DESCRIPTION), database.url]
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def make_tables(database: Database) -> None:
    with database.connect(autocommit=True) as connection:
        connection.execute((HERE / "adopted.sql").read_bytes())
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        connection.execute(adoption.preparation(connection, tables).encode())


def test_sql_without_the_tables_is_refused_and_changes_nothing(
    adopted: Database, dump: Dump, psql: Psql
) -> None:
    # There would be something to change.
    adopted.run(
        "create or replace function stepquota.version() returns text language sql as 'select null'"
    )
    adopted.run("delete from stepquota_migrations._stepquota_migration")
    before = dump(adopted)
    completed = psql(adopted, dump_sql())
    assert completed.returncode != 0
    assert (
        f"stepquota uses tables of an application's in the database {adopted.name}"
        in completed.stderr
    )
    assert "Nothing was changed" in completed.stderr
    assert "stepquota migrate --dump-sql --adopt FILE DATABASE_URL" in completed.stderr
    assert dump(adopted) == before
    assert applied_migrations(adopted) == []
    with adopted.connect() as connection:
        assert connection.execute(ORIGIN).fetchone() == ("adopted",)


def test_sql_for_the_tables_changes_nothing_where_they_are_used(
    adopted: Database, dump: Dump, psql: Psql
) -> None:
    before = dump(adopted)
    completed = psql(adopted, made_for(adopted))
    assert (completed.returncode, completed.stderr) == (0, "")
    assert dump(adopted) == before


def test_sql_for_the_tables_installs_what_migrate_installs(
    database: Database, other_database: Database, dump: Dump, psql: Psql
) -> None:
    make_tables(database)
    migrate(database.url, DESCRIPTION)
    make_tables(other_database)
    # Nothing is installed there yet, and nothing by looking.
    script = made_for(other_database)
    with other_database.connect() as connection:
        assert connection.execute("select to_regnamespace('stepquota')").fetchone() == (None,)
    completed = psql(other_database, script)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert schema_of(dump(other_database)) == schema_of(dump(database))
    assert migrate(other_database.url, DESCRIPTION).applied == ()


def schema_of(dumped: str) -> list[str]:
    """Without rows of the application's, in which there are moments and ids of their making."""
    return [line for line in dumped.splitlines() if not line.startswith("INSERT INTO shop.")]


def test_an_older_installation_is_upgraded(adopted: Database, dump: Dump, psql: Psql) -> None:
    before = dump(adopted)
    last = applied_migrations(adopted)[-1]
    adopted.run(
        "delete from stepquota_migrations._stepquota_migration"
        f" where migration_id = '{last}'; drop view stepquota.recent_events"
    )
    psql(adopted, made_for(adopted)).check_returncode()
    assert applied_migrations(adopted)[-1] == last
    assert sorted(dump(adopted).splitlines()) == sorted(before.splitlines())


def test_a_table_that_is_not_prepared_is_complained_of(other_database: Database) -> None:
    other_database.run((HERE / "adopted.sql").read_text(encoding="utf-8"))
    result = CliRunner().invoke(
        app, ["migrate", "--dump-sql", "--adopt", str(DESCRIPTION), other_database.url]
    )
    assert isinstance(result.exception, Problem)
    assert "columns are missing" in result.exception.what
    assert result.stdout == ""


def test_it_says_that_it_needs_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    result = CliRunner().invoke(app, ["migrate", "--dump-sql", "--adopt", str(DESCRIPTION)])
    assert isinstance(result.exception, Problem)
    assert "there is no database URL" in result.exception.what


def test_where_the_tables_are_not_it_fails_with_nothing_done(
    adopted: Database, other_database: Database, dump: Dump, psql: Psql
) -> None:
    before = dump(other_database)
    completed = psql(other_database, made_for(adopted))
    assert completed.returncode != 0
    assert "shop" in completed.stderr
    assert dump(other_database) == before
