"""stepquota uninstall: nothing is left, and nothing of anybody else's is touched."""

from __future__ import annotations

import psycopg
import pytest

from harness.databases import Database
from stepquota.dump import dump_sql
from stepquota.migrate import migrate
from stepquota.problems import Problem
from stepquota.uninstall import describe, uninstall, uninstall_sql

from .conftest import Dump, Psql


def fill(database: Database) -> None:
    database.run(
        "select stepquota.set_tenant_plan('acme', 'solo');"
        " select stepquota.register_workflow_run('acme', 'r');"
        " select stepquota.start_workflow_step('acme', 'r', 'root')"
    )


@pytest.mark.parametrize("how", ["command", "psql"])
def test_nothing_is_left(other_database: Database, dump: Dump, psql: Psql, how: str) -> None:
    other_database.run("create table public.theirs (x integer); comment on table theirs is 'x'")
    before = dump(other_database)
    migrate(other_database.url)
    fill(other_database)
    if how == "psql":
        completed = psql(other_database, uninstall_sql())
        assert completed.returncode == 0, completed.stderr
    else:
        found = describe(other_database.url)
        assert (found.database, found.tenants, found.jobs) == (other_database.name, 1, ())
        assert uninstall(other_database.url) == found
    assert dump(other_database) == before
    # And it can be installed again.
    migrate(other_database.url)
    fill(other_database)


def test_roles_stay(database: Database) -> None:
    uninstall(database.url)
    with database.connect() as connection:
        assert connection.execute(
            "select count(*) from pg_roles where rolname like 'stepquota_%' and not rolcanlogin"
            " and rolname in ('stepquota_runtime', 'stepquota_operator', 'stepquota_sync',"
            " 'stepquota_observer')"
        ).fetchone() == (4,)


def test_it_is_not_there(other_database: Database, psql: Psql) -> None:
    with pytest.raises(Problem, match="stepquota is not installed in the database"):
        uninstall(other_database.url)
    assert "is not installed" in psql(other_database, uninstall_sql()).stderr


def test_a_part_of_it(other_database: Database, dump: Dump) -> None:
    """What an installation left behind that was broken off early."""
    before = dump(other_database)
    other_database.run("create schema stepquota_migrations")
    uninstall(other_database.url)
    assert dump(other_database) == before


def test_what_depends_on_it_is_named_and_stays(database: Database, dump: Dump) -> None:
    """All of it, and nothing of ours is taken for somebody else's."""
    database.speak_english()
    name = database.name
    theirs = {
        "create view public.v as select tenant from stepquota.tenants": "rule _RETURN on view v",
        "create materialized view public.m as select * from stepquota.status()": (
            "rule _RETURN on materialized view m"
        ),
        "create table public.a (tenant text references stepquota.tenants)": (
            "constraint a_tenant_fkey on table a"
        ),
        "create table public.b (x stepquota.workflow_step_quota)": "column x of table b",
        "create table public.c (x text default stepquota.version())": (
            "default value for column x of table c"
        ),
        "create table public.d () inherits (stepquota.tenants)": "table d",
        "create function public.f() returns setof stepquota.tenants language sql"
        " as 'select * from stepquota.tenants'": "function f()",
        f"create publication {name} for table stepquota.tenants": f"publication {name}",
        "create table stepquota.theirs (x integer);"
        " alter table stepquota.theirs owner to stepquota_observer": (
            "table stepquota.theirs, which belongs to stepquota_observer"
        ),
    }
    database.run("; ".join(theirs))
    before = dump(database)
    with pytest.raises(Problem) as caught:
        uninstall(database.url)
    what, _, named = caught.value.what.partition(": ")
    assert what == "other objects depend on stepquota, or are in its schemas"
    assert {found.replace("public.", "") for found in named.split("; ")} == set(theirs.values())
    assert "Drop or move them first" in caught.value.hint
    assert dump(database) == before


def test_an_owner_without_other_rights(other_database: Database) -> None:
    name = f"{other_database.name}_owner"
    other_database.run(
        f"create role \"{name}\" login password 'x';"
        f' grant create on database "{other_database.name}" to "{name}"'
    )
    url = psycopg.conninfo.make_conninfo(other_database.url, user=name, password="x")
    try:
        migrate(url)
        with pytest.raises(Problem):
            uninstall(psycopg.conninfo.make_conninfo(url, user="stepquota_observer"))
        uninstall(url)
        with other_database.connect() as connection:
            assert connection.execute(
                "select count(*) from pg_namespace where nspname like 'stepquota%'"
            ).fetchone() == (0,)
    finally:
        other_database.run(f'drop owned by "{name}" cascade; drop role "{name}"')


@pytest.mark.needs("pg_cron")
@pytest.mark.parametrize("how", ["command", "psql"])
def test_our_jobs_go_and_others_stay(cron_database: Database, psql: Psql, how: str) -> None:
    """Of every role, where a superuser does it; by their names, and of this database only."""
    names = ("stepquota_test_ops", "stepquota_test_other")
    with cron_database.connect(autocommit=True) as connection:
        for name in names:
            connection.execute(f"drop role if exists {name}".encode())
            connection.execute(f"create role {name} login in role stepquota_operator".encode())
            connection.execute(f"grant usage on schema cron to {name}".encode())
        try:
            for name in names:
                with cron_database.connect(role=name, autocommit=True) as ops:
                    ops.execute("select stepquota.enable_cron()")
                    ops.execute("select cron.schedule('theirs', '0 0 1 1 *', 'select 1')")
            connection.execute(
                "select cron.schedule_in_database('stepquota:tick', '0 0 1 1 *', 'select 2',"
                " 'postgres')"
            )
            # One who may not see the others' jobs cannot do it, and says so.
            if how == "command":
                refused_for_an_owner(cron_database, connection)
                found = uninstall(cron_database.url)
                assert found.jobs == ("stepquota:tick", "stepquota:watch")
                assert not found.needs_look_elsewhere
            else:
                psql(cron_database, uninstall_sql()).check_returncode()
            left = connection.execute(
                "select jobname, username, command from cron.job order by 1, 2"
            ).fetchall()
            superuser = connection.info.user
            assert left == [
                ("stepquota:tick", superuser, "select 2"),
                ("theirs", names[0], "select 1"),
                ("theirs", names[1], "select 1"),
            ]
        finally:
            # pg_cron runs nothing any more while a job's role is gone.
            connection.execute("select cron.unschedule(jobid) from cron.job")
            for name in names:
                connection.execute(f"drop owned by {name} cascade".encode())
                connection.execute(f"drop role {name}".encode())


def refused_for_an_owner(database: Database, connection: psycopg.Connection) -> None:
    connection.execute("drop role if exists stepquota_test_owner")
    connection.execute("create role stepquota_test_owner login password 'x'")
    connection.execute("grant usage on schema cron to stepquota_test_owner")
    for schema in ("stepquota", "stepquota_migrations"):
        connection.execute(f"alter schema {schema} owner to stepquota_test_owner".encode())
    connection.execute(
        "do $$ declare r record; begin for r in select c.oid::regclass as t from pg_class c"
        " where c.relnamespace::regnamespace::text like 'stepquota%'"
        "  and (c.relkind in ('r', 'p', 'v') or c.relname = 'workflow_run_deliveries')"
        " loop execute format('alter table %s owner to stepquota_test_owner', r.t); end loop;"
        " end $$"
    )
    url = psycopg.conninfo.make_conninfo(database.url, user="stepquota_test_owner", password="x")
    try:
        with pytest.raises(Problem, match=r"another role has scheduled jobs of stepquota: They"):
            uninstall(url)
        assert connection.execute("select count(*) > 3 from cron.job").fetchone() == (True,)
    finally:
        connection.execute("reassign owned by stepquota_test_owner to current_user")
        connection.execute("drop owned by stepquota_test_owner")
        connection.execute("drop role stepquota_test_owner")


def test_the_dumped_installation_goes_too(other_database: Database, dump: Dump, psql: Psql) -> None:
    before = dump(other_database)
    psql(other_database, dump_sql()).check_returncode()
    psql(other_database, uninstall_sql()).check_returncode()
    assert dump(other_database) == before
