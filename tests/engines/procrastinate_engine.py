"""procrastinate as the conformance kit drives it: a run is jobs with one lock, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from typing import Any

import psycopg
from procrastinate import App, JobContext, PsycopgConnector, RetryStrategy
from psycopg.types.json import Jsonb

import stepquota
from engines.evidence import Evidence
from stepquota.procrastinate import PARKED_UNTIL, Quota
from stepquota.testing import (
    Attempt,
    Event,
    ForEach,
    RunState,
    Script,
    Work,
    Worker,
    WorkerProcess,
    perform,
)

HEARTBEAT_SECONDS = 0.3
STALLED_SECONDS = 1.5


def make_app(database_url: str, quota: Quota | None = None) -> App:
    app = App(connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=4))

    @app.task(name="work", pass_context=True, retry=RetryStrategy(max_attempts=30))
    def work(context: JobContext, /, run_id: str, node_path: str, failures: int, **_: Any) -> None:
        perform(database_url, run_id, node_path, context.job.attempts + 1, failures)

    @app.task(name="event", pass_context=True, retry=RetryStrategy(max_attempts=30))
    async def event(context: JobContext, /, **_: Any) -> None:
        assert quota
        await quota.wait(context)

    @app.task(name="forEach", retry=RetryStrategy(max_attempts=30))
    def for_each(**_: Any) -> None:
        pass

    return app


async def work(database_url: str) -> None:
    quota = Quota(database_url)
    app = make_app(database_url, quota)
    async with app.open_async(), quota:

        async def retry_stalled() -> None:
            while True:
                await quota.retry_stalled_jobs(app, STALLED_SECONDS)
                await asyncio.sleep(0.2)

        helpers = [asyncio.create_task(quota.resume_jobs()), asyncio.create_task(retry_stalled())]
        await app.run_worker_async(
            concurrency=4,
            worker_middleware=[quota.middleware],
            update_heartbeat_interval=HEARTBEAT_SECONDS,
            stalled_worker_timeout=STALLED_SECONDS,
            fetch_job_polling_interval=0.2,
        )
        for helper in helpers:
            helper.cancel()


def run_worker(database_url: str) -> None:
    asyncio.run(work(database_url))


def jobs_of(script: Script) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in script:
        if isinstance(node, Work):
            yield "work", {"node_path": node.path, "failures": node.failures}
        elif isinstance(node, ForEach):
            yield "forEach", {"node_path": node.path, "step_type": "forEach"}
            for path in node.item_paths:
                yield "work", {"node_path": path, "failures": 0}
        else:
            assert isinstance(node, Event)
            yield "event", {"node_path": node.path, "step_type": "event"}


class ProcrastinateAdapter:
    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._evidence = Evidence(self._connection)
        asyncio.run(self._prepare())

    async def _prepare(self) -> None:
        app = make_app(self._database_url)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            async with Quota(self._database_url):
                pass

    def close(self) -> None:
        self._connection.close()

    def start_worker(self) -> Worker:
        return WorkerProcess(run_worker, self._database_url)

    def start_run(self, tenant: str, run_id: str, script: Script) -> None:
        jobs = list(jobs_of(script))
        with self._connection.transaction():
            for place, (task, given) in enumerate(jobs, 1):
                given |= {"tenant": tenant, "run_id": run_id, "ends_run": place == len(jobs)}
                self._connection.execute(
                    "select procrastinate_defer_jobs_v1(array[row("
                    "'default', %s, 0, %s, null, %s, null)::procrastinate_job_to_defer_v1])",
                    [task, run_id, Jsonb(given)],
                )

    def send_event(self, tenant: str, run_id: str, path: str) -> None:
        with self._connection.transaction():
            wait = stepquota.open_workflow_run_wait(self._connection, tenant, run_id, path, "event")
            stepquota.resolve_workflow_run_wait(self._connection, tenant, wait.wait_id)

    def cancel_run(self, tenant: str, run_id: str) -> None:
        async def cancel() -> None:
            async with Quota(self._database_url) as quota:
                await quota.cancel_run(tenant, run_id)

        asyncio.run(cancel())
        self._connection.execute(
            "select procrastinate_cancel_job_v1(id, false, false) from procrastinate_jobs"
            " where lock = %s and status = 'todo'",
            [run_id],
        )

    def replay_run(self, tenant: str, run_id: str) -> None:
        """Deliver the run's jobs once more: those that have ended, and one that rests."""
        self._connection.execute(
            """
            update procrastinate_jobs
               set status = 'todo', scheduled_at = null, attempts = attempts - 1
             where args ->> 'tenant' = %s and lock = %s
               and (status in ('succeeded', 'failed') or scheduled_at = %s)
            """,
            [tenant, run_id, PARKED_UNTIL],
        )

    def state(self, tenant: str, run_id: str) -> RunState:
        rows = self._connection.execute(
            "select status::text from procrastinate_jobs"
            " where args ->> 'tenant' = %s and lock = %s",
            [tenant, run_id],
        ).fetchall()
        states = {status for (status,) in rows}
        if states == {"succeeded"}:
            return "succeeded"
        if "cancelled" in states:
            return "canceled"
        return "failed" if "failed" in states else "open"

    def attempts(self, tenant: str) -> Collection[Attempt]:
        """By the jobs' own numbers.

        Attempts that are over count as they are, those of killed workers too, for their number is
        given back if they had not started. Only for the attempt that a worker has taken and not
        ended there must be evidence: it may not have asked yet, or be on its way to rest.

        A job that rests had that counted as an attempt by procrastinate. One that waits for an
        event has started.
        """
        rows = self._connection.execute(
            """
            select j.lock, j.args ->> 'node_path', a.attempt, a.attempt > j.attempts
              from procrastinate_jobs j
             cross join lateral generate_series(1,
                   j.attempts + case
                     when j.status = 'doing' then 1
                     when j.scheduled_at = %s and j.args ->> 'step_type' is distinct from 'event'
                     then -1 else 0 end) a (attempt)
             where j.args ->> 'tenant' = %s
            """,
            [PARKED_UNTIL, tenant],
        ).fetchall()
        taken = [(Attempt(*key), is_under_way) for *key, is_under_way in rows]
        return [
            attempt
            for attempt, is_under_way in taken
            if not is_under_way or self._evidence.shows(tenant, attempt, attempt.node_path)
        ]
