"""The conformance kit on procrastinate, 200 runs at once, and what asking costs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import chain
from unittest.mock import AsyncMock

import psycopg
import pytest
from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Job

from engines.many import Tell, report, run_dry_and_go_on, survive_kills
from engines.procrastinate_engine import ProcrastinateAdapter, make_app
from stepquota.procrastinate import Quota
from stepquota.testing import Conformance, Work


@pytest.fixture
def adapter(database_url: str) -> Iterator[ProcrastinateAdapter]:
    adapter = ProcrastinateAdapter(database_url)
    yield adapter
    adapter.close()


class TestProcrastinate(Conformance):
    pass


def test_two_hundred_runs(tell: Tell, adapter: ProcrastinateAdapter, database_url: str) -> None:
    run_dry_and_go_on(tell, "procrastinate", adapter, database_url)


def test_killed_workers_and_failures(
    tell: Tell, adapter: ProcrastinateAdapter, database_url: str
) -> None:
    survive_kills(tell, "procrastinate", adapter, database_url)


def test_a_dead_workers_job_is_put_back_once(
    adapter: ProcrastinateAdapter, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two look for jobs of dead workers, and the slower one meets a job that a live one has."""
    adapter.start_run("acme", "r", (Work("root.steps[0]"),))

    async def test() -> None:
        app = make_app(database_url)
        manager = app.job_manager
        async with app.open_async(), Quota(database_url) as quota:

            async def fetch() -> Job:
                """As a new worker."""
                job = await manager.fetch_job(None, await manager.register_worker())
                assert job
                return job

            dead = await fetch()
            with psycopg.connect(database_url) as connection:
                connection.execute(
                    "update procrastinate_workers set last_heartbeat = now() - interval '1 hour'"
                )
            listed = list(await manager.get_stalled_jobs())
            assert [job.id for job in listed] == [dead.id]
            assert await quota.retry_stalled_jobs(app) == 1
            alive = await fetch()
            # It had not started, so nothing but its worker has changed.
            assert (alive.id, alive.attempts) == (dead.id, dead.attempts)
            monkeypatch.setattr(manager, "get_stalled_jobs", AsyncMock(return_value=listed))
            assert await quota.retry_stalled_jobs(app) == 0
            (now,) = await manager.list_jobs_async()
            assert (now.status, now.worker_id) == ("doing", alive.worker_id)

    asyncio.run(test())


def test_a_job_that_is_not_metered_is_left_alone(
    adapter: ProcrastinateAdapter, database_url: str
) -> None:
    durations(database_url, 3, "")
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select count(*) from stepquota.workflow_runs").fetchone()
    assert row == (0,)


def test_what_it_costs(tell: Tell, adapter: ProcrastinateAdapter, database_url: str) -> None:
    # By turns, so that both meet the same machine.
    parts = [
        (durations(database_url, 60, ""), durations(database_url, 60, "acme")) for _ in range(5)
    ]
    report(tell, "procrastinate", *(list(chain(*seconds)) for seconds in zip(*parts, strict=True)))


def durations(database_url: str, count: int, tenant: str) -> list[float]:
    """Seconds from start to end of so many jobs, as procrastinate recorded them."""
    app = App(connector=PsycopgConnector(conninfo=database_url))

    @app.task(name="nothing")
    async def nothing(tenant: str) -> None:
        pass

    async def work() -> None:
        async with app.open_async(), Quota(database_url) as quota:
            for _ in range(count):
                await nothing.defer_async(tenant=tenant)
            await app.run_worker_async(wait=False, worker_middleware=[quota.middleware])

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select stepquota.set_tier_limit('solo', 100000)")
        connection.execute("delete from procrastinate_jobs")
        asyncio.run(work())
        rows = connection.execute(
            "select extract(epoch from max(at) filter (where type = 'succeeded')"
            "                        - max(at) filter (where type = 'started'))::float8"
            "  from procrastinate_events group by job_id"
        ).fetchall()
    assert len(rows) == count
    return [seconds for (seconds,) in rows]
