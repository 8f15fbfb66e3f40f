"""Installing, using and taking out where the database is not as one would like it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import sql

from harness.databases import Database, empty_database
from harness.servers import Server
from stepquota import bookkeeping
from stepquota.dump import dump_sql
from stepquota.migrate import migrate
from stepquota.problems import Problem
from stepquota.uninstall import uninstall

from .conftest import Dump, Psql

SETTINGS = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "check_function_bodies": "off",
    "client_encoding": "latin1",
    "client_min_messages": "debug1",
    "DateStyle": "German",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "escape_string_warning": "off",
    "extra_float_digits": "0",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "50ms",
    "IntervalStyle": "sql_standard",
    "lock_timeout": "1ms",
    "plpgsql.extra_errors": "all",
    "plpgsql.extra_warnings": "all",
    "plpgsql.variable_conflict": "use_column",
    "quote_all_identifiers": "on",
    "row_security": "off",
    "search_path": "information_schema",
    "standard_conforming_strings": "off",
    "statement_timeout": "50ms",
    "TimeZone": "Pacific/Chatham",
    "transform_null_equals": "on",
    "xmloption": "document",
}
# What would stand in the way of the test itself once it is installed.
OF_INSTALLERS = {
    *("default_transaction_read_only", "statement_timeout", "lock_timeout"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout"),
}

# A tenant runs dry, another one does not, an operator helps, the scheduler comes by.
USE = """
select stepquota.set_tier_limit('solo', 2);
select stepquota.register_workflow_run('dry', 'r');
select stepquota.register_workflow_run('wet', 'r');
select stepquota.start_workflow_step('dry', 'r', 'a');
select stepquota.start_workflow_step('wet', 'r', 'a');
select stepquota.finish_workflow_step('dry', 'r', 'a', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'b');
select stepquota.finish_workflow_step('dry', 'r', 'b', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'c');
select stepquota.explain_workflow_step_quota('dry');
select stepquota.apply_stripe_object('{"object": "price", "id": "p", "metadata": {"workflow_step_limit": " 7 "}}', clock_timestamp());
select stepquota.set_policy('staleness', '1 second');
call stepquota.tick();
select stepquota.set_tier_limit('solo', 3);
select stepquota.claim_workflow_run_resumptions('w');
select stepquota.start_workflow_step('dry', 'r', 'c');
select stepquota.reconcile_workflow_step_usage('dry', period_start)
  from stepquota.workflow_step_usage_periods where tenant = 'dry';
select stepquota.forecast_workflow_step_usage('dry');
select stepquota.claim_quota_events('c');
call stepquota.tick();
"""  # noqa: E501


def use(database: Database) -> None:
    """The usual calls, and that all is as it must be."""
    with database.connect(autocommit=True, client_encoding="utf8") as connection:
        for statement in USE.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode())
        assert connection.execute(
            "select tenant, used_count from stepquota.workflow_step_usage_lanes order by tenant"
        ).fetchall() == [("dry", 3), ("wet", 1)]
        assert connection.execute(
            "select tenant, status from stepquota.workflow_runs order by tenant"
        ).fetchall() == [("dry", "RUNNING"), ("wet", "RUNNING")]
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
        assert (
            connection.execute(
                "select item, detail from stepquota.status() where state = 'error'"
            ).fetchall()
            == []
        )


def set_(database: Database, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        place = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
        statement = sql.SQL("alter database {} set {} = {}").format(
            sql.Identifier(database.name), place, sql.Literal(value)
        )
        database.server.run(statement.as_string())


@pytest.mark.parametrize("how", ["migrate", "dump"])
def test_settings(
    other_database: Database, database: Database, dump: Dump, psql: Psql, how: str
) -> None:
    """The same is installed, and it works the same, whatever the database's settings are."""
    set_(other_database, SETTINGS)
    if how == "migrate":
        migrate(other_database.url)
    else:
        # psql's own connection would be ended before it comes to the script.
        other_database.server.run(f'alter database "{other_database.name}" reset statement_timeout')
        psql(other_database, dump_sql()).check_returncode()
    other_database.server.run(f'alter database "{other_database.name}" reset all')
    assert dump(other_database) == dump(database)
    set_(other_database, {k: v for k, v in SETTINGS.items() if k not in OF_INSTALLERS})
    use(other_database)


def test_settings_would_disturb(other_database: Database) -> None:
    """The test above can fail: without our own settings the installation does."""
    set_(other_database, {"default_transaction_read_only": "on"})
    with (
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
        other_database.connect() as connection,
    ):
        connection.execute(bookkeeping.CREATE_SCHEMA.encode())


@contextmanager
def encoded(server: Server, options: str) -> Iterator[Database]:
    database = empty_database(server)
    database.drop()
    server.run(f'create database "{database.name}" template template0 {options}')
    yield database
    database.drop()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_encodings(server: Server, encoding: str) -> None:
    with encoded(server, f"encoding '{encoding}' lc_collate 'C' lc_ctype 'C'") as database:
        migrate(database.url)
        assert migrate(database.url).applied == ()
        use(database)


@pytest.mark.needs("plpgsql_check")
def test_collations_of_icu(server: Server) -> None:
    """What is sorted here and there is sorted alike. The embedded server has no ICU."""
    options = "encoding 'UTF8' locale_provider icu icu_locale 'de-u-kn-true' locale 'C'"
    with encoded(server, options) as database:
        migrate(database.url)
        use(database)


def test_junk_in_public(other_database: Database, database: Database, dump: Dump) -> None:
    """As from template1: names of ours and of PostgreSQL's, and a search_path that finds them."""
    other_database.run(
        """
        create table public.policy (x integer);
        create table public.tenants (x integer);
        create table public.pg_namespace (x integer);
        create domain public.text as integer;
        create function public.clock_timestamp() returns timestamptz language sql
          as 'select timestamptz ''1999-01-01''';
        create function public.count(anyelement) returns bigint language sql as 'select -1::bigint';
        create function public.ne(text, text) returns boolean language sql as 'select false';
        create operator public.<> (leftarg = pg_catalog.text, rightarg = pg_catalog.text,
          function = public.ne);
        """.replace("ne(text, text)", "ne(pg_catalog.text, pg_catalog.text)")
    )
    set_(other_database, {"search_path": "public, pg_catalog"})
    migrate(other_database.url)
    other_database.run(
        f'alter database "{other_database.name}" reset all; drop schema public cascade;'
        " create schema public; grant usage on schema public to public;"
    )
    use(other_database)
    # The schema public itself, its owner and comment, was made anew.
    other, ours = (
        [line for line in dump(d).splitlines() if "stepquota" in line and "COPY" not in line]
        for d in (migrated_anew(other_database), database)
    )
    assert other == ours


def migrated_anew(database: Database) -> Database:
    database.run("drop schema stepquota cascade; drop schema stepquota_migrations cascade")
    migrate(database.url)
    return database


def test_default_privileges_give_nothing_to_anybody(database: Database) -> None:
    database.run(
        """
        drop schema stepquota cascade; drop schema stepquota_migrations cascade;
        alter default privileges grant all on tables to public;
        alter default privileges grant all on sequences to public;
        alter default privileges grant all on functions to public;
        alter default privileges grant all on types to public;
        alter default privileges grant all on schemas to public;
        """
    )
    migrate(database.url)
    # The months that are made later belong to somebody, too.
    database.run("drop table stepquota.workflow_run_steps_" + third_month(database))
    database.run("select stepquota.make_ledger_partitions()")
    use(database)
    with database.connect() as connection:
        reached = connection.execute(
            """
            select 'schema', nspname from pg_namespace n, aclexplode(n.nspacl) a
             where nspname like 'stepquota%' and a.grantee = 0
            union all
            select 'relation', c.oid::regclass::text from pg_class c, aclexplode(c.relacl) a
             where c.relnamespace::regnamespace::text like 'stepquota%' and a.grantee = 0
            union all
            select 'routine', p.oid::regprocedure::text from pg_proc p, aclexplode(p.proacl) a
             where p.pronamespace::regnamespace::text like 'stepquota%' and a.grantee = 0
            """
        ).fetchall()
    assert reached == []


def third_month(database: Database) -> str:
    with database.connect() as connection:
        ((name,),) = connection.execute(
            "select to_char(date_trunc('month', now() at time zone 'utc') + interval '3 months',"
            " 'YYYY_MM')"
        )
    return str(name)


@contextmanager
def installer(database: Database, rights: str = "") -> Iterator[str]:
    """A role that may create schemas in the database and no more; gives the URL for it."""
    name = f"{database.name}_installer"
    database.run(f"create role \"{name}\" login password 'x' {rights}")
    database.run(f'grant create on database "{database.name}" to "{name}"')
    yield psycopg.conninfo.make_conninfo(database.url, user=name, password="x")
    database.run(f'drop owned by "{name}" cascade; drop role "{name}"')


@pytest.mark.parametrize("rights", ["", "createrole", "noinherit"])
def test_no_superuser(other_database: Database, rights: str) -> None:
    """Installed, used, upgraded and taken out by a role that may do little."""
    with installer(other_database, rights) as url:
        migrate(url)
        assert migrate(url).applied == ()
        as_installer = Database(other_database.name, url, other_database.server)
        use(as_installer)


def test_no_roles(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the four roles are not there, and may not be made, all goes to roles of the owner's."""
    database = empty_database(server)
    worker = f"{database.name}_worker"
    without = dump_sql()
    for role in ("runtime", "operator", "sync", "observer"):
        # Roles are the whole server's, and other tests have made them: others are asked for.
        without = without.replace(f"stepquota_{role}", f"absent_{role}")
    without = without.replace("'stepquota_' || p_rights", "'absent_' || p_rights").replace(
        "'stepquota_' || g.rights", "'absent_' || g.rights"
    )
    try:
        with installer(database) as url:
            database.run(f"create role \"{worker}\" login password 'x'")
            with psycopg.connect(url) as connection:
                connection.execute(without.encode())
            with psycopg.connect(url) as connection:
                given = connection.execute("select stepquota.grant_role(%s, 'runtime')", [worker])
                assert given.fetchone() == ("direct",)
                state = connection.execute(
                    "select state, detail from stepquota.status() where item = 'roles'"
                ).fetchone()
                assert state is not None
                assert state[0] == "info"
                assert "missing: absent_runtime" in state[1]
            of_worker = psycopg.conninfo.make_conninfo(url, user=worker)
            with psycopg.connect(of_worker) as connection:
                connection.execute("select stepquota.register_workflow_run('acme', 'r')")
                started = connection.execute(
                    "select outcome from stepquota.start_workflow_step('acme', 'r', 'root')"
                ).fetchone()
                assert started == ("started",)
            with (
                psycopg.connect(of_worker) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute("select stepquota.set_policy('staleness', '1 second')")
            # Loading again gives it again.
            with psycopg.connect(url) as connection:
                connection.execute(without.encode())
            with psycopg.connect(of_worker) as connection:
                connection.execute("select stepquota.reserve_workflow_step('acme')")
            with psycopg.connect(url) as connection:
                taken = connection.execute("select stepquota.revoke_role(%s, 'runtime')", [worker])
                assert taken.fetchone() == (True,)
            with (
                psycopg.connect(of_worker) as connection,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                connection.execute("select stepquota.reserve_workflow_step('acme')")
    finally:
        database.drop()
        server.run(f'drop role if exists "{worker}"')


def test_a_schema_of_somebody_else(other_database: Database) -> None:
    with installer(other_database) as url:
        other_database.run("create schema stepquota")
        with pytest.raises(Problem, match=r"^the schema stepquota belongs to the role \w+, and"):
            migrate(url)
        other_database.run(
            f'alter schema stepquota owner to "{other_database.name}_installer"; '
            "create table stepquota.policy (theirs text); create view stepquota.a as select 1 as x"
        )
        with pytest.raises(Problem) as caught:
            migrate(url)
        assert caught.value.what == (
            "the schema stepquota holds what is not of stepquota's making: "
            "stepquota.a, stepquota.policy"
        )
        with other_database.connect() as connection:
            assert connection.execute(
                "select to_regnamespace('stepquota_migrations'), count(*) from stepquota.policy"
            ).fetchone() == (None, 0)


def test_an_empty_schema_that_the_database_administrator_made(
    other_database: Database, database: Database, dump: Dump
) -> None:
    """For a role that may not even create schemas."""
    with installer(other_database) as url:
        name = f"{other_database.name}_installer"
        other_database.run(
            f'revoke create on database "{other_database.name}" from "{name}";'
            f' create schema stepquota authorization "{name}";'
            f' create schema stepquota_migrations authorization "{name}"'
        )
        migrate(url)
        use(Database(other_database.name, url, other_database.server))


def test_a_part_of_an_installation(
    other_database: Database, database: Database, dump: Dump
) -> None:
    """Whatever is missing of it is made again."""
    migrate(other_database.url)
    other_database.run(
        """
        delete from stepquota_migrations._stepquota_migration;
        drop table stepquota.scheduler_jobs, stepquota.purge_state;
        drop function stepquota.version();
        drop index stepquota.quota_events_created_at_idx;
        """
    )
    migrate(other_database.url)
    assert dump(other_database) == dump(database)


def test_restored_without_the_record(
    other_database: Database, database: Database, dump: Dump
) -> None:
    """As after pg_dump --schema=stepquota."""
    migrate(other_database.url)
    other_database.run("drop schema stepquota_migrations cascade")
    migrate(other_database.url)
    assert dump(other_database) == dump(database)


@pytest.mark.needs("pg_cron")
def test_pg_cron_that_the_installer_may_not_use(cron_database: Database) -> None:
    """All goes as it does without pg_cron, and what stands in the way is said."""
    uninstall(cron_database.url)
    with installer(cron_database) as url:
        migrate(url)
        as_installer = Database(cron_database.name, url, cron_database.server)
        use(as_installer)
        with (
            as_installer.connect() as connection,
            pytest.raises(psycopg.errors.DatabaseError) as caught,
        ):
            connection.execute("select stepquota.enable_cron()")
        assert caught.value.sqlstate == "WQ021"
        with as_installer.connect(autocommit=True) as connection:
            assert connection.execute("select * from stepquota.disable_cron()").fetchall() == []
            connection.execute("call stepquota.purge()")
        uninstall(url)
