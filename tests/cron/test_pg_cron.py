"""enable_cron and disable_cron with a real pg_cron, and what they say where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from harness.databases import Database
from harness.servers import CRON_DATABASE, Server

Connection = psycopg.Connection[Any]

# A server has one pg_cron and roles for all its databases: one worker runs all of this.
pytestmark = pytest.mark.xdist_group("pg_cron")

with_cron = pytest.mark.needs("pg_cron")

JOB, WATCH = "stepquota:tick", "stepquota:watch"
WATCHED = (WATCH, "* * * * *", "call stepquota.watch()")


def rows(connection: Connection, statement: str) -> list[Any]:
    return connection.execute(statement.encode()).fetchall()


@contextmanager
def roles(database: Database, *names: str) -> Iterator[None]:
    """Roles that can log in and are no superusers; gone after it, with their jobs."""

    def drop() -> None:
        for name in names:
            with database.connect(autocommit=True) as connection:
                if rows(connection, f"select from pg_roles where rolname = '{name}'"):
                    connection.execute(f"drop owned by {name}".encode())
                    connection.execute(f"drop role {name}".encode())

    drop()
    for name in names:
        database.run(f"create role {name} login in role stepquota_operator")
    try:
        yield
    finally:
        drop()


@contextmanager
def refused(connection: Connection, sqlstate: str) -> Iterator[Callable[[], psycopg.Error]]:
    """The statement inside is refused with that SQLSTATE, a detail and a hint."""
    caught: list[psycopg.Error] = []
    with pytest.raises(psycopg.Error) as info:
        yield lambda: caught[0]
    assert info.value.sqlstate == sqlstate, info.value
    assert info.value.diag.message_detail
    assert info.value.diag.message_hint
    caught.append(info.value)


def hint(error: psycopg.Error) -> str:
    return error.diag.message_hint or ""


def enable(connection: Connection, schedule: str | None = "* * * * *") -> Any:
    return connection.execute("select * from stepquota.enable_cron(%s)", [schedule]).fetchall()


# -- It works


@with_cron
def test_pg_cron_resumes_a_paused_run_as_a_role_that_is_no_superuser(
    cron_database: Database,
) -> None:
    with roles(cron_database, "stepquota_test_cron"):
        cron_database.run("grant usage on schema cron to stepquota_test_cron")
        with cron_database.connect(autocommit=True) as connection:
            for statement in (
                "select stepquota.set_policy('staleness', '1 second')",
                "select stepquota.set_tier_limit('solo', 1)",
                "select stepquota.register_workflow_run('acme', 'r')",
                "select stepquota.start_workflow_step('acme', 'r', 'one')",
                "select stepquota.finish_workflow_step('acme', 'r', 'one', 1, 'SUCCEEDED')",
                "select stepquota.start_workflow_step('acme', 'r', 'two')",
                # As somebody would in psql, telling nobody.
                "update stepquota.tiers set step_limit = 2 where tier = 'solo'",
            ):
                connection.execute(statement.encode())
            assert rows(connection, "select status from stepquota.workflow_runs") == [("WAITING",)]
            with cron_database.connect(role="stepquota_test_cron", autocommit=True) as scheduler:
                assert enable(scheduler) == [
                    (JOB, "* * * * *", "call stepquota.tick()"),
                    WATCHED,
                ]
            until = time.monotonic() + 100
            while time.monotonic() < until:
                if rows(connection, "select status from stepquota.workflow_runs") == [("RUNNING",)]:
                    break
                time.sleep(0.5)
            # Not its status: with workers of its own pg_cron reports no end before watch's.
            assert rows(connection, "select distinct username from cron.job_run_details") == [
                ("stepquota_test_cron",)
            ]
            claimed = rows(
                connection,
                "select run_id, node_paths from stepquota.claim_workflow_run_resumptions('w')",
            )
            assert claimed == [("r", ["two"])]
            assert rows(connection, "select details ->> 'by' from stepquota.workflow_run_logs") == [
                ("scan",)
            ]
            started = rows(
                connection,
                "select outcome, used_count from stepquota.start_workflow_step('acme', 'r', 'two')",
            )
            assert started == [("started", 2)]
            ((state, detail),) = rows(
                connection,
                "select state, detail from stepquota.status() where item = 'scheduler'",
            )
            assert state == "ok"
            assert "stepquota_test_cron" in detail
            # What becomes due between two minutes does not wait for the next one.
            connection.execute(
                "select stepquota.open_workflow_run_wait('acme', 'r', 'three', 'time',"
                " clock_timestamp() + interval '3 seconds')"
            )
            late = (
                "select resolved_at - due_at from stepquota.workflow_run_waits"
                " where node_path = 'three'"
            )
            until = time.monotonic() + 30
            while rows(connection, late) == [(None,)] and time.monotonic() < until:
                time.sleep(0.2)
            (((delay,),)) = rows(connection, late)
            assert timedelta() <= delay < timedelta(seconds=2)
            assert rows(connection, "select * from stepquota.verify_all()") == []


@with_cron
def test_enabling_again_changes_the_schedule_and_leaves_the_rest(cron_database: Database) -> None:
    jobs = "select jobid, schedule, command, active, database from cron.job order by command"
    with cron_database.connect(autocommit=True) as connection:
        assert enable(connection, "*/5 * * * *") == [
            (JOB, "*/5 * * * *", "call stepquota.tick()"),
            WATCHED,
        ]
        (job, *_), _watch = rows(connection, jobs)
        connection.execute("select cron.alter_job(%s, active => false)", [job])
        enable(connection, " 0 3 * * *  ")
        # A job that an operator has switched off stays off.
        assert (job, "0 3 * * *", "call stepquota.tick()", False, CRON_DATABASE) in rows(
            connection, jobs
        )
        assert rows(
            connection, "select schedule from stepquota.scheduler_jobs order by job_name"
        ) == [
            ("0 3 * * *",),
            ("* * * * *",),
        ]
        with connection.transaction() as transaction:
            enable(connection)
            raise psycopg.Rollback(transaction)
        assert rows(connection, jobs)[0][1] == "0 3 * * *"


@with_cron
def test_disabling_removes_our_job_and_nobody_elses(cron_database: Database) -> None:
    names = "select jobname, username::text, database from cron.job order by 1, 2"
    with (
        roles(cron_database, "stepquota_test_cron"),
        cron_database.connect(autocommit=True) as connection,
    ):
        cron_database.run("grant usage on schema cron to stepquota_test_cron")
        (((me,),)) = rows(connection, "select current_user::text")
        connection.execute("select cron.schedule('others', '* * * * *', 'select 1')")
        enable(connection)
        with cron_database.connect(role="stepquota_test_cron", autocommit=True) as other:
            # Each role has its own; two of them do no harm.
            enable(other)
            assert rows(other, "select * from stepquota.disable_cron()") == [(JOB,), (WATCH,)]
            assert rows(other, "select * from stepquota.disable_cron()") == []
            enable(other)
        # Jobs of the same names and role that are another database's.
        connection.execute(
            "update cron.job set database = 'postgres' where username = %s and jobname <> 'others'",
            [me],
        )
        assert rows(connection, "select * from stepquota.disable_cron()") == []
        connection.execute(
            "update cron.job set database = current_database() where jobname <> 'others'"
        )
        assert rows(connection, "select * from stepquota.disable_cron()") == [(JOB,), (WATCH,)]
        assert rows(connection, names) == [
            ("others", me, CRON_DATABASE),
            (JOB, "stepquota_test_cron", CRON_DATABASE),
            (WATCH, "stepquota_test_cron", CRON_DATABASE),
        ]
        # The other role's job goes on, and is still known.
        assert rows(connection, "select scheduled_by from stepquota.scheduler_jobs") == [
            ("stepquota_test_cron",),
            ("stepquota_test_cron",),
        ]
        connection.execute("select cron.unschedule('others')")
        connection.execute("delete from cron.job")


# -- It says what is in the way, and the statement that helps


def test_where_pg_cron_is_not_in_the_database(database: Database, server: Server) -> None:
    with database.connect(autocommit=True) as connection:
        if "pg_cron" not in server.capabilities:
            with refused(connection, "WQ020") as error:
                enable(connection)
            assert "create extension pg_cron" in hint(error())
            assert "call stepquota.tick()" in hint(error())
        else:
            with refused(connection, "WQ022") as error:
                enable(connection)
            assert CRON_DATABASE in (error().diag.message_detail or "")
        assert rows(connection, "select * from stepquota.disable_cron()") == []
        assert rows(connection, "select * from stepquota.scheduler_jobs") == []


@with_cron
def test_the_hint_for_another_database_works_there(
    database: Database, cron_database: Database
) -> None:
    with database.connect(autocommit=True) as connection:
        with refused(connection, "WQ022") as error:
            enable(connection)
        statements = [row[0] for row in rows(connection, "select * from stepquota.cron_sql()")]
    assert hint(error()).endswith(f"and run: {' '.join(statements)}")
    with cron_database.connect(autocommit=True) as connection:
        enable(connection)
        for statement in statements:
            connection.execute(statement.encode())
        scheduled = rows(
            connection, "select database, command, active from cron.job order by jobid"
        )
        assert scheduled == [
            (name, f"call stepquota.{procedure}()", True)
            for name in (CRON_DATABASE, database.name)
            for procedure in ("tick", "watch")
        ]
        assert rows(connection, "select * from stepquota.disable_cron()") == [(JOB,), (WATCH,)]
        assert rows(connection, "select database from cron.job") == [(database.name,)] * 2
        connection.execute("delete from cron.job")


@with_cron
def test_where_pg_cron_is_missing_the_hint_installs_it(cron_database: Database) -> None:
    with cron_database.connect(autocommit=True) as connection:
        connection.execute("drop extension pg_cron")
        with refused(connection, "WQ020") as error:
            enable(connection)
        assert "create extension pg_cron;" in hint(error())
        connection.execute("create extension pg_cron")
        assert len(enable(connection)) == 2


@with_cron
def test_where_the_role_has_no_right_the_hint_grants_it(cron_database: Database) -> None:
    with (
        roles(cron_database, "stepquota_test_cron"),
        cron_database.connect(autocommit=True) as superuser,
        cron_database.connect(role="stepquota_test_cron", autocommit=True) as connection,
    ):
        with refused(connection, "WQ021") as error:
            enable(connection)
        assert rows(connection, "select * from stepquota.disable_cron()") == []
        grant = hint(error()).partition("A superuser runs: ")[2]
        assert grant.startswith("grant usage on schema cron to")
        superuser.execute(grant.encode())
        superuser.execute("revoke execute on function cron.schedule(text, text, text) from public")
        with refused(connection, "WQ021") as error:
            enable(connection)
        grant = hint(error()).partition("A superuser runs: ")[2]
        assert grant.startswith("grant execute on function cron.schedule")
        superuser.execute(grant.encode())
        assert len(enable(connection)) == 2


@with_cron
@pytest.mark.parametrize(
    "schedule",
    [
        None,
        "",
        "every day",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "* * * * someday",
        "70 seconds",
    ],
)
def test_a_schedule_that_pg_cron_does_not_know(
    cron_database: Database, schedule: str | None
) -> None:
    with cron_database.connect(autocommit=True) as connection:
        with refused(connection, "WQ023"):
            enable(connection, schedule)
        assert rows(connection, "select * from cron.job") == []
        assert rows(connection, "select * from stepquota.scheduler_jobs") == []


@with_cron
def test_a_schedule_in_seconds_needs_a_newer_pg_cron(cron_database: Database) -> None:
    with cron_database.connect(autocommit=True) as connection:
        ((version,),) = rows(
            connection, "select extversion from pg_extension where extname = 'pg_cron'"
        )
        if tuple(map(int, version.split("-")[0].split(".")[:2])) >= (1, 5):
            assert len(enable(connection, "30 seconds")) == 1
        else:
            with refused(connection, "WQ023") as error:
                enable(connection, "30 seconds")
            assert version in (error().diag.message_detail or "")
            statement = hint(error()).removeprefix("Run: ")
            assert connection.execute(statement.encode()).fetchall()


@with_cron
def test_a_role_that_cannot_log_in(cron_database: Database) -> None:
    cron_database.run("grant usage on schema cron to stepquota_operator")
    with (
        cron_database.connect(role="stepquota_operator", autocommit=True) as connection,
        refused(connection, "WQ024") as error,
    ):
        enable(connection)
    assert "stepquota_operator" in hint(error())


# -- Its history


@with_cron
@pytest.mark.parametrize("guard", [True, False])
def test_purging_takes_the_history_of_our_own_job_only(
    cron_database: Database, guard: bool
) -> None:
    one, two = "stepquota_test_cron", "stepquota_test_cron_two"
    with roles(cron_database, one, two), cron_database.connect(autocommit=True) as superuser:
        superuser.execute(f"grant usage on schema cron to {one}, {two}".encode())
        for role in (one, two):
            superuser.execute(f"set session authorization {role}".encode())
            enable(superuser, "0 0 1 1 *")
            superuser.execute("select cron.schedule('theirs', '0 0 1 1 *', 'select 1')")
            superuser.execute("reset session authorization")
        superuser.execute("delete from cron.job_run_details")
        superuser.execute(
            """
            insert into cron.job_run_details
              (jobid, runid, database, username, command, status, start_time, end_time)
            select j.jobid, row_number() over (order by j.jobid, a.days), j.database, j.username,
                   j.command, 'succeeded', clock_timestamp() - a.days * interval '1 day',
                   clock_timestamp() - a.days * interval '1 day'
              from cron.job j, (values (1), (8), (30)) as a (days)
             where j.username = any (%s) and j.jobname = any (%s)
            """,
            [[one, two], [JOB, "theirs"]],
        )
        before = rows(superuser, "select count(*) from cron.job_run_details")[0][0]
        assert before == 12
        if not guard:
            # Broken on purpose: any job of the role.
            superuser.execute(
                "do $do$ begin execute replace(pg_get_functiondef("
                "'stepquota.purge_cron_history(integer)'::regprocedure),"
                " 'j.jobname = any ($1)', '$1 is not null'); end $do$"
            )
        superuser.execute(f"set session authorization {one}".encode())
        assert rows(superuser, "select stepquota.purge_cron_history(1)") == [(1,)]
        superuser.execute("call stepquota.purge()")
        superuser.execute("reset session authorization")
        left = rows(
            superuser,
            "select j.username::text, j.jobname::text, count(*) from cron.job_run_details d"
            " join cron.job j using (jobid) group by 1, 2 order by 1, 2",
        )
        superuser.execute("delete from cron.job_run_details")
    expected = [(one, JOB, 1), (one, "theirs", 3), (two, JOB, 3), (two, "theirs", 3)]
    assert (left == expected) == guard
