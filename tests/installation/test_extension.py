"""stepquota as an extension: made, packed, updated, dumped and restored with its rows.

On PostgreSQL 18 alone, which finds extensions outside its own folders (extension_control_path).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest

from acceptance.adopted import DESCRIPTION, HERE
from harness.databases import Database, empty_database
from harness.servers import EMBEDDED18
from harness.tap import POOL
from stepquota import adoption, extension
from stepquota._resources import migration_files, sql_files
from stepquota.dump import dump_sql
from stepquota.migrate import migrate
from stepquota.problems import Problem
from stepquota.server_files import embedded_binaries
from stepquota.uninstall import uninstall, uninstall_sql

from .conftest import Psql, repository

OLDER = "0.1.9"

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


def restoring() -> list[str]:
    """The commands of the page that dump and restore, which are run here as they stand."""
    page = (repository() / "docs/how-to/back-up-and-restore.md").read_text(encoding="utf-8")
    block = page.partition("## An extension")[2].partition("```sh\n")[2].partition("```")[0]
    return block.replace("\\\n", "").splitlines()


def test_it_is_dumped_and_restored_with_its_rows(
    databases: tuple[Database, Database], tmp_path: Path
) -> None:
    database, other = databases
    database.run("create extension stepquota")
    database.run(USAGE)
    database.run("call stepquota.tick()")
    for line in restoring():
        shell(line, tmp_path, DATABASE_URL=database.url, OTHER_URL=other.url)
    listed = (tmp_path / "entries").read_text().splitlines()
    assert len(listed) > 20
    before, after = rows_of_all_tables(database), rows_of_all_tables(other)
    assert before == after
    assert len(before["stepquota.workflow_run_steps"]) == 4
    assert before["stepquota.policy"]
    assert read(other, "select * from stepquota.verify_all()") == []
    # What was left out is there: the keys of the months were made with the months.
    assert read(database, KEYS) == read(other, KEYS) != []
    # It goes on: identities do not begin anew, and the paused run comes back.
    other.run("select stepquota.set_tier_limit('one', 5)")
    assert read(other, "select run_id from stepquota.claim_workflow_run_resumptions('w')") == [
        ("r",)
    ]


KEYS = """
    select c.conrelid::regclass::text, pg_get_constraintdef(c.oid)
      from pg_constraint c join pg_class t on t.oid = c.conrelid
     where t.relispartition and c.contype = 'p' order by 1"""


def shell(command: str, folder: Path, **variables: str) -> None:
    """Run a line as a reader would, with the programs of the server's release."""
    programs = Path(embedded_binaries().program("pg_dump")).parent
    completed = subprocess.run(
        ["sh", "-c", f"PATH={shlex.quote(str(programs))}:$PATH; {command}"],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, f"{command}: {completed.stderr}"


def test_without_the_list_the_keys_are_errors_and_all_the_rest_is_there(
    databases: tuple[Database, Database], tmp_path: Path
) -> None:
    # What the list is for, and what a restore without it comes to.
    database, other = databases
    database.run("create extension stepquota")
    database.run(USAGE)
    dump = tmp_path / "dump"
    run("pg_dump", "--format=custom", f"--file={dump}", database.url)
    restored = subprocess.run(
        [embedded_binaries().program("pg_restore"), f"--dbname={other.url}", dump],
        capture_output=True,
        text=True,
        check=False,
    )
    errors = re.findall(r"could not execute query: ERROR: (.*)", restored.stderr)
    assert errors
    assert all(
        re.match(r' *multiple primary keys for table "workflow_run_steps_', e) for e in errors
    )
    assert rows_of_all_tables(database) == rows_of_all_tables(other)
    assert read(database, KEYS) == read(other, KEYS) != []
    assert read(other, "select * from stepquota.verify_all()") == []


def test_nothing_else_installs_over_it_or_takes_it_out(
    databases: tuple[Database, Database], psql: Psql
) -> None:
    database, _ = databases
    database.run("create extension stepquota")
    database.run(USAGE)
    before = rows_of_all_tables(database)
    with pytest.raises(Problem) as refused:
        migrate(database.url)
    assert refused.value.what == (
        f"stepquota is an extension in the database {database.name}, and is not installed over it"
    )
    assert refused.value.hint.endswith("alter extension stepquota update")
    with pytest.raises(Problem) as stays:
        uninstall(database.url)
    assert stays.value.hint.endswith("drop extension stepquota cascade.")
    for script in (dump_sql(), uninstall_sql()):
        completed = psql(database, script)
        assert completed.returncode != 0
        assert "stepquota is an extension in the database" in completed.stderr
        assert "extension stepquota" in completed.stderr
    assert rows_of_all_tables(database) == before
    assert read(database, "select to_regnamespace('stepquota_migrations')") == [(None,)]


def test_it_is_not_made_over_an_installation(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    migrate(database.url)
    database.run(USAGE)
    before = rows_of_all_tables(database)
    with pytest.raises(psycopg.Error, match="is not a member of extension"):
        database.run("create extension stepquota")
    assert rows_of_all_tables(database) == before


def test_the_distribution_for_pgxn_installs(tmp_path: Path) -> None:
    release = version("stepquota")
    file = tmp_path / f"stepquota-{release}.zip"
    extension.write_pgxn(file, release)
    zipfile.ZipFile(file).extractall(tmp_path)
    unpacked = tmp_path / f"stepquota-{release}"
    # All in the one folder that is named after it.
    assert {path.parts[0] for path in map(Path, zipfile.ZipFile(file).namelist())} == {
        unpacked.name
    }
    check_for_pgxn(json.loads((unpacked / "META.json").read_text()), unpacked)
    assert "stepquota authors" in (unpacked / "LICENSE").read_text()
    config = embedded_binaries().program("pg_config")
    made = subprocess.run(
        ["make", "install", f"PG_CONFIG={config}", f"DESTDIR={tmp_path / 'root'}"],
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    extension.write_extension(tmp_path / "same", release)
    installed = {path.name: path for path in (tmp_path / "root").rglob("stepquota*")}
    written = {path.name: path for path in (tmp_path / "same").iterdir()}
    assert {n: p.read_text() for n, p in installed.items()} == {
        n: p.read_text() for n, p in written.items()
    }


_SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+)?")


def check_for_pgxn(meta: dict[str, Any], folder: Path) -> None:
    """The rules of version 1.0.0 of PGXN's specification, as far as they concern us."""
    required = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
    optional = {"description", "generated_by", "tags", "no_index", "prereqs", "release_status"}
    assert required <= set(meta) <= required | optional | {"resources"}
    for key in ("name", "version", "abstract", "maintainer", "license"):
        assert isinstance(meta[key], str), key
        assert meta[key].strip() == meta[key] != "", key
    term = re.compile(r"[^\s/\\\x00-\x1f]{2,}")
    assert term.fullmatch(meta["name"])
    assert _SEMANTIC.fullmatch(meta["version"])
    assert meta["release_status"] in ("stable", "testing", "unstable")
    assert meta["license"] == "postgresql"
    assert meta["meta-spec"]["version"] == "1.0.0"
    for name, provided in meta["provides"].items():
        assert term.fullmatch(name)
        assert _SEMANTIC.fullmatch(provided["version"])
        assert (folder / provided["file"]).is_file()
    assert all(isinstance(tag, str) and 0 < len(tag) < 256 for tag in meta["tags"])
    for name, needed in meta["prereqs"]["runtime"]["requires"].items():
        assert term.fullmatch(name)
        assert needed == 0 or _SEMANTIC.fullmatch(needed)


def test_the_script_for_pg_tle_has_the_extension(
    databases: tuple[Database, Database], folder: Path, tmp_path: Path
) -> None:
    # There is no pg_tle to be had here: a function of its signature takes the script in its place.
    database, other = databases
    file = tmp_path / "pg_tle.sql"
    extension.write_pg_tle(file, version("stepquota"))
    database.run("""
        create schema pgtle;
        create table pgtle.installed (name text, version text, description text, ext text);
        create function pgtle.install_extension(
          name text, version text, description text, ext text,
          requires text[] default null, schema text default null)
        returns boolean language sql begin atomic
          insert into pgtle.installed values (name, version, description, ext) returning true;
        end;""")
    run("psql", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", f"--file={file}", database.url)
    ((name, release, text),) = read(database, "select name, version, ext from pgtle.installed")
    assert (name, release) == ("stepquota", version("stepquota"))
    lines = extension.script(release, (*migration_files(), *sql_files())).splitlines()
    assert text.split("\n")[1:-1] == [line for line in lines if not line.startswith("\\echo")]
    # Read by another, it makes the extension.
    as_pg_tle = folder / "extension" / "stepquota--9.9.9.sql"
    as_pg_tle.write_text(text, encoding="utf-8")
    as_pg_tle.chmod(0o755)
    other.run(
        "create extension stepquota version '9.9.9'; select stepquota.set_tenant_plan('a', 'pro')"
    )
    assert read(other, "select * from stepquota.verify_all()") == []


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


def test_an_update_does_not_undo_an_adoption(databases: tuple[Database, Database]) -> None:
    database, _ = databases
    database.run(f"create extension stepquota version '{OLDER}'")
    with database.connect(autocommit=True) as connection:
        connection.execute((HERE / "adopted.sql").read_bytes())
        connection.execute("set search_path = pg_catalog")
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        connection.execute(adoption.preparation(connection, tables).encode())
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        connection.execute(adoption.render(tables).encode())
        with pytest.raises(psycopg.Error, match="uses tables of an application's") as refused:
            connection.execute("alter extension stepquota update")
        assert refused.value.diag.message_hint is not None
        allow, update, _ = refused.value.diag.message_hint.partition(": ")[2].split("; ")
        assert read(
            database, "select extversion from pg_extension where extname = 'stepquota'"
        ) == [(OLDER,)]
        with connection.transaction():
            connection.execute(allow.encode())
            connection.execute(update.encode())
            connection.execute(adoption.render_all(tables).encode())
    assert read(database, "select stepquota._host_origin()") == [("adopted",)]
    assert read(database, "select to_regclass('stepquota.tenant_usage') is null") == [(False,)]
    assert read(database, "select * from stepquota.verify_all()") == []


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
