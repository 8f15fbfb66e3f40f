"""stepquota as an extension: made, updated, dumped and restored with its rows.

On PostgreSQL 18 alone, which finds extensions outside its own folders (extension_control_path).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from harness.databases import Database, empty_database
from harness.servers import EMBEDDED18
from harness.tap import POOL
from stepquota import extension
from stepquota._resources import migration_files, sql_files
from stepquota.server_files import embedded_binaries

OLDER = "0.1.9"
# Made with the months when they are attached.
_MADE_ALREADY = re.compile(r"CONSTRAINT stepquota workflow_run_steps_\d+_\d+ ")

USAGE = """
    select stepquota.set_policy('staleness', '1 minute');
    select stepquota.set_tier_limit('pro', 801);
    select stepquota.set_tier_limit('one', 1);
    select stepquota.set_tenant_plan('acme', 'one');
    select stepquota.register_workflow_run('acme', 'r');
    select stepquota.start_workflow_step('acme', 'r', 'a');
    select stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED');
    select stepquota.start_workflow_step('acme', 'r', 'b');
    select stepquota.register_workflow_run('globex', 'r');
    select stepquota.start_workflow_steps('globex', 'r', '{a,b,c}');
    """


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the server may read, with the extension in it, and an older release."""
    made = Path(tempfile.mkdtemp(prefix="stepquota_extension_", dir="/tmp"))
    target = made / "extension"
    extension.write_extension(target, version("stepquota"), older=[OLDER])
    older = [f for f in (*migration_files(), *sql_files()) if not is_new(f)]
    text = extension.script(OLDER, older)
    (target / f"stepquota--{OLDER}.sql").write_text(text, encoding="utf-8")
    for path in (made, *made.rglob("*")):
        path.chmod(0o755)
    yield made
    shutil.rmtree(made)


def is_new(file: Path) -> bool:
    """Whether the pretended older release has not had the file."""
    return file.name in ("views.sql", "metrics.sql") or "_0025_" in file.name


@pytest.fixture
def databases(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[Database, Database]]:
    """Two empty databases that find the extension."""
    server = request.config.stash[POOL].get(EMBEDDED18)
    found = []
    for _ in range(2):
        database = empty_database(server)
        server.run(
            f"alter database \"{database.name}\" set extension_control_path = '$system:{folder}'"
        )
        found.append(database)
    yield found[0], found[1]
    for database in found:
        database.drop()


def read(database: Database, query: str) -> list[Any]:
    with database.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def rows_of_all_tables(database: Database) -> dict[str, list[Any]]:
    tables = read(
        database,
        "select c.oid::regclass::text from pg_class c"
        " where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')"
        " and not c.relispartition order by 1",
    )
    return {name: sorted(read(database, f"select t::text from {name} t")) for (name,) in tables}


def run(program: str, *arguments: str | Path) -> str:
    completed = subprocess.run(
        [embedded_binaries().program(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_it_is_dumped_and_restored_with_its_rows(
    databases: tuple[Database, Database], tmp_path: Path
) -> None:
    database, other = databases
    database.run("create extension stepquota")
    database.run(USAGE)
    database.run("call stepquota.tick()")
    dump, entries = tmp_path / "dump", tmp_path / "entries"
    run("pg_dump", "--format=custom", f"--file={dump}", database.url)
    listed = run("pg_restore", "--list", dump).splitlines()
    kept = [line for line in listed if not _MADE_ALREADY.search(line)]
    assert 0 < len(listed) - len(kept) < 10
    entries.write_text("\n".join(kept) + "\n")
    run(
        "pg_restore",
        "--exit-on-error",
        f"--use-list={entries}",
        f"--dbname={other.url}",
        dump,
    )
    before, after = rows_of_all_tables(database), rows_of_all_tables(other)
    assert before == after
    assert len(before["stepquota.workflow_run_steps"]) == 4
    assert before["stepquota.policy"]
    assert read(other, "select * from stepquota.verify_all()") == []
    # It goes on: identities do not begin anew, and the paused run comes back.
    other.run("select stepquota.set_tier_limit('one', 5)")
    assert read(other, "select run_id from stepquota.claim_workflow_run_resumptions('w')") == [
        ("r",)
    ]


def test_an_older_release_is_updated_where_it_stands(
    databases: tuple[Database, Database],
) -> None:
    database, fresh = databases
    database.run(f"create extension stepquota version '{OLDER}'")
    database.run(USAGE)
    assert read(database, "select to_regclass('stepquota.tenant_usage')") == [(None,)]
    database.run("alter extension stepquota update")
    assert read(database, "select extversion from pg_extension where extname = 'stepquota'") == [
        (version("stepquota"),)
    ]
    assert read(database, "select * from stepquota.verify_all()") == []
    usage = "select used_count from stepquota.tenant_usage order by tenant"
    assert read(database, usage) == [(1,), (3,)]
    fresh.run("create extension stepquota")
    members = """
        select pg_describe_object(classid, objid, 0) from pg_depend
         where refclassid = 'pg_extension'::regclass and deptype = 'e'
           and refobjid = (select oid from pg_extension where extname = 'stepquota') order by 1"""
    assert read(database, members) == read(fresh, members)
    dumped = """
        select c.relname from pg_extension e, unnest(e.extconfig) as t (oid)
          join pg_class c on c.oid = t.oid where e.extname = 'stepquota' order by 1"""
    assert read(database, dumped) == read(fresh, dumped)


def test_every_table_and_sequence_is_dumped(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    database.run("create extension stepquota")
    assert read(
        database,
        """
        select c.relname from pg_class c
         where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'S')
           and not c.relispartition
           and c.oid <> all ((
             select e.extconfig from pg_extension e where e.extname = 'stepquota')::oid[])
        """,
    ) == [("quota_event_types",)]
    database.run("drop extension stepquota cascade")
    assert read(database, "select to_regnamespace('stepquota')") == [(None,)]


def test_a_role_that_is_no_superuser_may_make_it(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    name = database.name
    database.run(f'create role "{name}"; grant create on database "{name}" to "{name}"')
    try:
        with database.connect(role=name, autocommit=True) as connection:
            connection.execute("create extension stepquota")
            connection.execute("select stepquota.set_tenant_plan('acme', 'pro')")
    finally:
        database.run(f'drop owned by "{name}" cascade; drop role "{name}"')
