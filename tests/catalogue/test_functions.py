"""What the server says of the installed functions."""

from __future__ import annotations

from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from harness.databases import Database, tap_database
from harness.servers import Server
from harness.tap import POOL, run_script

_TAP_FILES = Path(__file__).parent.parent / "sql"


@pytest.mark.needs("plpgsql_check")
def test_plpgsql_check_finds_nothing(database: Database) -> None:
    database.run("create extension plpgsql_check")
    with database.connect() as connection:
        findings = connection.execute(
            """
            select p.oid::regprocedure::text, c.lineno, c.level, c.message
              from pg_proc p
              join pg_language l on l.oid = p.prolang and l.lanname = 'plpgsql'
             cross join lateral plpgsql_check_function_tb(p.oid,
               extra_warnings => true, performance_warnings => false,
               security_warnings => true) c
             where p.pronamespace = 'stepquota'::regnamespace
               -- Dynamic statements, whose parameters and names are quoted by format().
               and c.level <> 'notice'
             order by 1, 2
            """
        ).fetchall()
    assert findings == [], "\n".join(map(str, findings))


@pytest.mark.slow
@pytest.mark.needs("plpgsql_check")
def test_every_function_and_every_event_type_is_reached_by_a_pgtap_file(
    server: Server, pytestconfig: pytest.Config
) -> None:
    """As the server counted it; functions in SQL may be inlined and are not counted.

    That the events are as they are declared is part of running a file.
    """
    files = sorted(_TAP_FILES.rglob("*.sql"))
    # Those that leave something behind get a database each; one is enough for all the others.
    lasting = [[file] for file in files if "-- transaction: none" in file.read_text()]
    passing = [file for file in files if [file] not in lasting]
    called: set[str] = set()
    written: set[str] = set()
    for group in (passing, *lasting):
        database = tap_database(server, pytestconfig.stash[POOL])
        try:
            for path in group:
                with database.connect(autocommit=True) as connection:
                    result = run_script(connection, path)
                assert result.failures == [], path
                written |= result.event_types
            with database.connect() as connection:
                called |= read_column(
                    connection,
                    "select funcname from pg_stat_user_functions where schemaname = 'stepquota'",
                )
                existing = read_column(
                    connection,
                    """
                    select p.proname from pg_proc p join pg_language l on l.oid = p.prolang
                     where p.pronamespace = 'stepquota'::regnamespace and l.lanname = 'plpgsql'
                    """,
                )
                declared = read_column(
                    connection, "select event_type from stepquota.quota_event_types"
                )
        finally:
            database.drop()
    assert existing - called == set()
    assert declared - written == set()


def read_column(connection: psycopg.Connection, query: LiteralString) -> set[str]:
    return {row[0] for row in connection.execute(query)}
