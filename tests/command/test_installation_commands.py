"""stepquota uninstall, grant and revoke, and a command without libpq."""

from __future__ import annotations

import os
import subprocess
import sys

import psycopg
from psycopg.conninfo import conninfo_to_dict

from harness.databases import Database
from stepquota.uninstall import uninstall_sql


def stepquota(*arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "stepquota", *arguments],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
        input=answer,
        capture_output=True,
        text=True,
        check=False,
    )


def is_installed(database: Database) -> bool:
    with database.connect() as connection:
        row = connection.execute("select to_regnamespace('stepquota') is not null").fetchone()
    return row == (True,)


def test_uninstall_asks(database: Database) -> None:
    database.run("select stepquota.set_tenant_plan('acme', 'solo')")
    asked = stepquota("uninstall", database.url, answer="n\n")
    assert asked.returncode == 1
    assert f"This deletes stepquota from the database {database.name}: 1 tenants" in asked.stdout
    assert asked.stderr == "stepquota: nothing was done\n"
    # Nobody there to answer: nothing is done either.
    assert stepquota("uninstall", database.url).returncode == 1
    assert is_installed(database)
    done = stepquota("uninstall", database.url, answer="y\n")
    assert done.returncode == 0, done.stderr
    # Behind the question; a line about pg_cron in another database may follow.
    assert f"stepquota is gone from {database.name}\n" in done.stdout
    assert not is_installed(database)


def test_uninstall_without_asking(database: Database) -> None:
    done = stepquota("uninstall", "--yes", database.url)
    assert done.returncode == 0
    assert done.stdout.startswith(f"stepquota is gone from {database.name}\n")
    again = stepquota("uninstall", "--yes", database.url)
    assert again.returncode == 1
    assert f"stepquota is not installed in the database {database.name}" in again.stderr


def test_uninstall_as_sql() -> None:
    printed = stepquota("uninstall", "--dump-sql")
    assert (printed.returncode, printed.stdout) == (0, uninstall_sql())


def test_uninstall_says_what_depends_on_it(database: Database) -> None:
    database.speak_english()
    database.run("create view public.v as select * from stepquota.tenants")
    refused = stepquota("uninstall", "--yes", database.url)
    assert refused.returncode == 1
    assert "depend on stepquota, or are in its schemas: rule _RETURN on view " in refused.stderr
    assert "hint: Drop or move them first. Nothing was done." in refused.stderr


def test_grant_and_revoke(database: Database) -> None:
    role = f"{database.name}_worker"
    database.run(f'create role "{role}" login')
    try:
        given = stepquota("grant", role, "runtime", database.url)
        assert given.returncode == 0, given.stderr
        assert given.stdout == (
            f"{role} has the rights of a runtime in {database.name},"
            " as a member of stepquota_runtime\n"
        )
        with database.connect(role=role) as connection:
            connection.execute("select stepquota.reserve_workflow_step('acme')")
        taken = stepquota("revoke", role, "runtime", database.url)
        assert taken.stdout == (
            f"{role} no longer has the rights of a runtime in {database.name}\n"
        )
        again = stepquota("revoke", role, "runtime", database.url)
        assert again.returncode == 1
        assert again.stderr.startswith(f"stepquota: {role} had no rights of a runtime")
    finally:
        database.run(f'drop role "{role}"')


def test_grant_of_what_there_is_not(database: Database, other_database: Database) -> None:
    unknown = stepquota("grant", "nobody there", "runtime", database.url)
    assert unknown.returncode == 1
    assert "nobody there" in unknown.stderr
    assert "hint: Make it first: create role" in unknown.stderr
    wrong = stepquota("grant", "pg_monitor", "owner", database.url)
    assert wrong.returncode == 1
    assert "operator" in wrong.stderr
    missing = stepquota("grant", "pg_monitor", "runtime", other_database.url)
    assert "stepquota is not installed in the database" in missing.stderr


def test_grant_by_somebody_else(database: Database) -> None:
    role = f"{database.name}_operator"
    database.run(f"create role \"{role}\" login password 'x' in role stepquota_operator")
    try:
        owner = conninfo_to_dict(database.url)["user"]
        url = psycopg.conninfo.make_conninfo(database.url, user=role, password="x")
        refused = stepquota("grant", role, "runtime", url)
        assert refused.returncode == 1
        assert f"belongs to the role {owner}, and {role} is no member of it" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        database.run(f'drop role "{role}"')


def test_a_psycopg_without_libpq() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None; sys.argv = ['stepquota', 'status'];"
        " from stepquota_command import main; main()"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 1
    problem, hint = completed.stderr.splitlines()
    assert problem.startswith("stepquota: ")
    assert "psycopg" in problem
    assert "pip install 'stepquota[binary]'" in hint
