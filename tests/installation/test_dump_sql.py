"""stepquota migrate --dump-sql: one file that psql installs, the same as migrate installs."""

from __future__ import annotations

import pytest

from harness.databases import Database
from stepquota import bookkeeping
from stepquota._resources import migration_files
from stepquota.dump import dump_sql
from stepquota.migrate import migrate

from .conftest import Dump, Psql, applied_migrations

ALL_MIGRATIONS = [file.stem for file in migration_files()]


def test_it_installs_what_migrate_installs(
    database: Database, other_database: Database, dump: Dump, psql: Psql
) -> None:
    completed = psql(other_database, dump_sql())
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    assert applied_migrations(other_database) == ALL_MIGRATIONS
    assert dump(other_database) == dump(database)


def test_migrate_goes_on_from_there(other_database: Database, dump: Dump, psql: Psql) -> None:
    psql(other_database, dump_sql()).check_returncode()
    before = dump(other_database)
    assert migrate(other_database.url).applied == ()
    assert dump(other_database) == before


def test_over_an_existing_installation_it_changes_nothing(
    database: Database, dump: Dump, psql: Psql
) -> None:
    database.run("select stepquota.set_tier_limit('solo', 77)")
    before = dump(database)
    psql(database, dump_sql()).check_returncode()
    assert dump(database) == before


def test_it_applies_only_what_is_missing(database: Database, dump: Dump, psql: Psql) -> None:
    before = dump(database)
    database.run(
        "delete from stepquota_migrations._stepquota_migration"
        f" where migration_id = '{ALL_MIGRATIONS[-1]}'"
    )
    psql(database, dump_sql()).check_returncode()
    assert applied_migrations(database) == ALL_MIGRATIONS
    with database.connect() as connection:
        logged = connection.execute(
            "select migration_id from stepquota_migrations._yoyo_log"
            " where comment = 'by the dumped SQL'"
        ).fetchall()
    assert logged == [(ALL_MIGRATIONS[-1],)]
    assert dump(database) == before


def test_a_failure_leaves_nothing_behind(other_database: Database, dump: Dump, psql: Psql) -> None:
    before = dump(other_database)
    assert psql(other_database, dump_sql() + "\nselect 1 / 0;\n").returncode != 0
    assert dump(other_database) == before


def test_an_old_server_is_refused_before_anything_is_done(
    other_database: Database, psql: Psql
) -> None:
    script = dump_sql().replace("< 150000", "< 990000")
    completed = psql(other_database, script)
    assert completed.returncode != 0
    assert "stepquota needs PostgreSQL 15 or later" in completed.stderr


def test_a_newer_release_is_not_overwritten(database: Database, psql: Psql) -> None:
    database.run(
        "insert into stepquota_migrations._stepquota_migration (migration_hash, migration_id)"
        " values ('x', 'stepquota_9999_of_later')"
    )
    completed = psql(database, dump_sql())
    assert "a newer release than stepquota" in completed.stderr


def test_it_holds_off_other_installers(other_database: Database, psql: Psql) -> None:
    with other_database.connect() as connection:
        connection.execute(bookkeeping.LOCK_OUT_OTHERS.encode())
        completed = psql(other_database, dump_sql())
    assert "canceling statement due to lock timeout" in completed.stderr


@pytest.mark.parametrize("word", ["\\set", "\\echo", "begin;", "commit;"])
def test_it_is_plain_sql_inside_one_transaction(word: str) -> None:
    assert not [line for line in dump_sql().splitlines() if line.lower().startswith(word)]
