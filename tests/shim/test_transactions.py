"""The caller's transaction is the caller's: nothing commits, everything rolls back with it."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.pq import TransactionStatus

import stepquota
import stepquota.aio

TABLES = (
    "quota_events",
    "workflow_run_logs",
    "workflow_run_resumptions",
    "workflow_run_steps",
    "workflow_run_waits",
    "workflow_runs",
    "workflow_step_quotas",
    "workflow_step_usage_lanes",
    "workflow_step_usage_periods",
    "paused_tenants",
    "tenants",
)


def count_rows(connection: psycopg.Connection) -> dict[str, int]:
    counts = {}
    for table in TABLES:
        ((count,),) = connection.execute(f"select count(*) from stepquota.{table}".encode())
        counts[table] = count
    return counts


def use_everything(connection: psycopg.Connection) -> None:
    """Pause a run, resume it by a new limit, enter it, end it; leave another one paused."""
    stepquota.set_tier_limit(connection, "tiny", 1)
    stepquota.set_tenant_plan(connection, "acme", "tiny")
    stepquota.register_workflow_run(connection, "acme", "r")
    assert stepquota.start_workflow_step(connection, "acme", "r", "root[0]").execute
    stepquota.finish_workflow_step(connection, "acme", "r", "root[0]", 1, "SUCCEEDED")
    paused = stepquota.start_workflow_step(connection, "acme", "r", "root[1]")
    assert paused.outcome == "quota_paused"
    stepquota.set_tier_limit(connection, "tiny", 2)
    stepquota.refresh_workflow_step_quota(connection, "acme")
    (resumption,) = stepquota.claim_workflow_run_resumptions(connection, "worker")
    again = stepquota.start_workflow_step(
        connection, "acme", "r", "root[1]", delivery=resumption.delivery
    )
    assert again.outcome == "started"
    stepquota.finish_workflow_run(connection, "acme", "r", "SUCCEEDED")
    stepquota.register_workflow_run(connection, "acme", "s")
    assert stepquota.start_workflow_step(connection, "acme", "s", "root").outcome == "quota_paused"


def test_a_rollback_takes_everything_back(connection: psycopg.Connection) -> None:
    before = count_rows(connection)
    connection.rollback()
    use_everything(connection)
    during = count_rows(connection)
    assert all(during[table] > before[table] for table in TABLES)
    connection.rollback()
    assert count_rows(connection) == before


def test_nothing_is_committed_until_the_caller_commits(
    connection: psycopg.Connection, autocommit: psycopg.Connection
) -> None:
    before = count_rows(autocommit)
    use_everything(connection)
    assert connection.info.transaction_status == TransactionStatus.INTRANS
    assert count_rows(autocommit) == before
    connection.commit()
    assert count_rows(autocommit)["workflow_run_steps"] == 2


def test_in_autocommit_mode_each_call_is_its_own_transaction(
    autocommit: psycopg.Connection, connection: psycopg.Connection
) -> None:
    stepquota.reserve_workflow_step(autocommit, "acme")
    assert autocommit.info.transaction_status == TransactionStatus.IDLE
    assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 1


def test_a_transaction_block_of_an_autocommit_connection_is_respected(
    autocommit: psycopg.Connection,
) -> None:
    with pytest.raises(ZeroDivisionError), autocommit.transaction():  # noqa: PT012
        stepquota.reserve_workflow_step(autocommit, "acme")
        raise ZeroDivisionError
    with autocommit.transaction(), autocommit.transaction(force_rollback=True):
        stepquota.reserve_workflow_step(autocommit, "acme")
    assert stepquota.resolve_workflow_step_quota(autocommit, "acme").used_count == 0


def test_the_callers_isolation_level_is_kept(connection: psycopg.Connection) -> None:
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    stepquota.reserve_workflow_step(connection, "acme")
    level = connection.execute("show transaction_isolation").fetchone()
    assert level == ("serializable",)


def test_a_denial_leaves_the_transaction_in_order(connection: psycopg.Connection) -> None:
    stepquota.set_tier_limit(connection, "solo", 1)
    stepquota.refresh_workflow_step_quota(connection, "acme")
    assert stepquota.reserve_workflow_step(connection, "acme").allowed
    denied = stepquota.reserve_workflow_step(connection, "acme")
    assert (denied.allowed, denied.used_count, denied.remaining) == (False, 1, 0)
    connection.execute("create table public.hosts_own (id integer)")
    connection.commit()
    assert connection.execute("select count(*) from public.hosts_own").fetchone() == (0,)


def test_asyncio_commits_nothing_either(database_url: str, autocommit: psycopg.Connection) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            await stepquota.aio.reserve_workflow_step(connection, "acme")
            assert connection.info.transaction_status == TransactionStatus.INTRANS
            await connection.rollback()
            assert count_rows(autocommit)["workflow_step_usage_lanes"] == 0
            await stepquota.aio.reserve_workflow_step(connection, "acme")
            await connection.commit()
            assert count_rows(autocommit)["workflow_step_usage_lanes"] == 1

    asyncio.run(check())


# -- Procedures commit as they go


def test_procedures_run_on_an_autocommit_connection(autocommit: psycopg.Connection) -> None:
    assert stepquota.resume_scan(autocommit) is None
    assert stepquota.resume_scan(autocommit, batch_size=5) is None
    assert stepquota.tick(autocommit) is None
    finished = "select count(*) from stepquota.resume_scans where finished_at is not null"
    assert autocommit.execute(finished.encode()).fetchone() == (3,)
    with pytest.raises(stepquota.InvalidArgument):
        stepquota.resume_scan(autocommit, 0)


@pytest.mark.parametrize("procedure", [stepquota.resume_scan, stepquota.tick])
def test_procedures_refuse_a_connection_that_is_not_in_autocommit_mode(
    connection: psycopg.Connection, procedure: object
) -> None:
    assert callable(procedure)
    stepquota.reserve_workflow_step(connection, "acme")
    with pytest.raises(psycopg.ProgrammingError, match=r"commits as it goes.*autocommit mode"):
        procedure(connection)
    connection.commit()  # what the caller did before is not lost
    assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 1


def test_procedures_refuse_a_transaction_and_a_pipeline(autocommit: psycopg.Connection) -> None:
    with autocommit.transaction():
        stepquota.reserve_workflow_step(autocommit, "acme")
        with pytest.raises(psycopg.ProgrammingError, match=r"commits as it goes.*in a transaction"):
            stepquota.tick(autocommit)
    with autocommit.pipeline(), pytest.raises(psycopg.ProgrammingError, match="in pipeline mode"):
        stepquota.resume_scan(autocommit)
    assert stepquota.resolve_workflow_step_quota(autocommit, "acme").used_count == 1


def test_procedures_of_asyncio_run_and_refuse_alike(database_url: str) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(
            database_url, autocommit=True
        ) as connection:
            await stepquota.aio.tick(connection)
            async with connection.transaction():
                with pytest.raises(psycopg.ProgrammingError, match="in a transaction"):
                    await stepquota.aio.tick(connection)
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            with pytest.raises(psycopg.ProgrammingError, match="autocommit mode"):
                await stepquota.aio.resume_scan(connection)

    asyncio.run(check())
