"""Absurd as the conformance kit drives it: a run is a task whose checkpoints are the script's."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg
from absurd_sdk import Absurd, AsyncAbsurd, AsyncTaskContext, TaskContext
from absurd_sdk import TimeoutError as TimedOut
from absurdctl import BUNDLED_SCHEMA_SQL

import stepquota
from stepquota.absurd import Quota
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
    read_script,
    write_script,
)

CLAIM_SECONDS = 4


def install(database_url: str) -> None:
    """Put the engine into the database."""
    with psycopg.connect(database_url) as connection:
        connection.execute(BUNDLED_SCHEMA_SQL.encode())
        connection.execute("select absurd.create_queue('default')")


def make_app(database_url: str, quota: Quota) -> Absurd:
    app = Absurd(database_url, hooks=quota.hooks)

    @app.register_task("script", default_max_attempts=40)
    def script(nodes: list[dict[str, Any]], context: TaskContext) -> None:
        for node in read_script(nodes):
            if isinstance(node, Work):
                work(context, node)
            elif isinstance(node, ForEach):
                context.step(node.path, lambda: None)
                for path in node.item_paths:
                    work(context, Work(path))
            else:
                assert isinstance(node, Event)
                quota.wait(context, node.path)

    def work(context: TaskContext, node: Work) -> None:
        run_id, attempt = str(context.headers["run_id"]), context._task["attempt"]
        context.step(
            node.path,
            lambda: perform(database_url, run_id, node.path, attempt, node.failures),
        )

    return app


def make_async_app(database_url: str, quota: Quota) -> AsyncAbsurd:
    app = AsyncAbsurd(database_url, hooks=quota.hooks)

    @app.register_task("script", default_max_attempts=40)
    async def script(nodes: list[dict[str, Any]], context: AsyncTaskContext) -> None:
        for node in read_script(nodes):
            if isinstance(node, Work):
                await work(context, node)
            elif isinstance(node, ForEach):
                await context.step(node.path, nothing)
                for path in node.item_paths:
                    await work(context, Work(path))
            else:
                assert isinstance(node, Event)
                await quota.wait_async(context, node.path)

    async def nothing() -> None:
        pass

    async def work(context: AsyncTaskContext, node: Work) -> None:
        run_id, attempt = str(context.headers["run_id"]), context._task["attempt"]
        given = (database_url, run_id, node.path, attempt, node.failures)
        await context.step(node.path, lambda: asyncio.to_thread(perform, *given))

    return app


def run_async_worker(database_url: str) -> None:
    with Quota(database_url) as quota:
        app = make_async_app(database_url, quota)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        threading.Thread(target=quota.resume_tasks, daemon=True).start()
        work = app.start_worker(claim_timeout=CLAIM_SECONDS, concurrency=4, poll_interval=0.1)
        asyncio.run(work)


def run_worker(database_url: str, quota_url: str | None = None) -> None:
    with Quota(quota_url or database_url) as quota:
        app = make_app(database_url, quota)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        threading.Thread(target=quota.resume_tasks, daemon=True).start()
        app.start_worker(claim_timeout=CLAIM_SECONDS, concurrency=4, poll_interval=0.1)


def make_odd_app(database_url: str, quota: Quota) -> Absurd:
    """Tasks that do what the kit's scripts do not."""
    app = Absurd(database_url, hooks=quota.hooks)

    @app.register_task("waits")
    def waits(given: dict[str, Any], context: TaskContext) -> Any:
        context.step("before", lambda: None)
        payload = context.await_event(given["event"], timeout=given.get("timeout"))
        context.sleep_for("nap", 0.5)
        context.step("after", lambda: None)
        return payload

    @app.register_task("times out")
    def times_out(given: None, context: TaskContext) -> str:
        try:
            context.await_event("never", timeout=1)
        except TimedOut:
            return "timed out"
        return "came"

    @app.register_task("limited", default_cancellation={"max_duration": 3600})
    def limited(given: None, context: TaskContext) -> None:
        context.step("never", lambda: None)

    @app.register_task("stays", default_max_attempts=1)
    def stays(given: None, context: TaskContext) -> None:
        context.step("stays", lambda: time.sleep(60))

    @app.register_task("loses its claim")
    def loses_its_claim(given: None, context: TaskContext) -> None:
        context.step("a", lambda: None)
        is_first = context._task["attempt"] == 1
        if is_first:
            time.sleep(3)
        context.step("b", lambda: time.sleep(0 if is_first else 1.7))

    @app.register_task("is slow")
    def is_slow(given: None, context: TaskContext) -> None:
        context.step("a", lambda: time.sleep(1.5))
        context.step("b", lambda: None)

    @app.register_task("is told")
    def is_told(given: None, context: TaskContext) -> Any:
        context.step("before", lambda: None)
        return quota.wait(context, "told")

    @app.register_task("repeats")
    def repeats(given: None, context: TaskContext) -> None:
        for _ in range(3):
            context.step("again", lambda: None)

    return app


def run_odd_worker(database_url: str) -> None:
    with Quota(database_url) as quota:
        app = make_odd_app(database_url, quota)
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        threading.Thread(target=quota.resume_tasks, daemon=True).start()
        app.start_worker(claim_timeout=2, concurrency=2, poll_interval=0.1)


class AbsurdAdapter:
    def __init__(self, database_url: str, program: Callable[[str], None] = run_worker) -> None:
        self._database_url = database_url
        self._program = program
        install(database_url)
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._quota = Quota(database_url).__enter__()
        self._app = make_app(database_url, self._quota)

    def close(self) -> None:
        self._app.close()
        self._quota.__exit__(None, None, None)
        self._connection.close()

    def start_worker(self) -> Worker:
        return WorkerProcess(self._program, self._database_url)

    def start_run(self, tenant: str, run_id: str, script: Script) -> None:
        self._app.spawn(
            "script",
            write_script(script),
            headers={"tenant": tenant, "run_id": run_id},
            retry_strategy={"kind": "fixed", "base_seconds": 0},
        )

    def _task(self, tenant: str, run_id: str) -> str:
        row = self._connection.execute(
            "select task_id::text from absurd.t_default"
            " where headers ->> 'tenant' = %s and headers ->> 'run_id' = %s",
            [tenant, run_id],
        ).fetchone()
        assert row
        return str(row[0])

    def send_event(self, tenant: str, run_id: str, path: str) -> None:
        with self._connection.transaction():
            wait = stepquota.open_workflow_run_wait(self._connection, tenant, run_id, path, "event")
            stepquota.resolve_workflow_run_wait(self._connection, tenant, wait.wait_id)

    def cancel_run(self, tenant: str, run_id: str) -> None:
        self._quota.cancel_task(self._task(tenant, run_id))

    def replay_run(self, tenant: str, run_id: str) -> None:
        """Have a worker execute the task again, also when it has ended."""
        for table in ("r_default", "t_default"):
            self._connection.execute(
                f"update absurd.{table} set state = 'pending'"
                f"{', available_at = now()' if table == 'r_default' else ''}"
                " where task_id = %s and state in ('completed', 'sleeping')".encode(),
                [self._task(tenant, run_id)],
            )

    def state(self, tenant: str, run_id: str) -> RunState:
        row = self._connection.execute(
            "select state from absurd.t_default where task_id = %s", [self._task(tenant, run_id)]
        ).fetchone()
        assert row
        states: dict[str, RunState] = {
            "completed": "succeeded",
            "failed": "failed",
            "cancelled": "canceled",
        }
        return states.get(row[0], "open")

    def attempts(self, tenant: str) -> Collection[Attempt]:
        """By Absurd's checkpoints, claims and waits alone.

        A checkpoint is of the attempt that wrote it. A claim that was made longer since the attempt
        began, and since its last checkpoint, was so by the start of the step that comes next.
        """
        tasks = self._connection.execute(
            "select task_id, headers ->> 'run_id', params from absurd.t_default"
            " where headers ->> 'tenant' = %s",
            [tenant],
        ).fetchall()
        return [attempt for task in tasks for attempt in self._attempts(*task)]

    def _attempts(self, task_id: Any, run_id: str, params: Any) -> Iterator[Attempt]:
        rows = self._connection.execute(
            "select c.checkpoint_name, r.attempt from absurd.c_default c"
            "  join absurd.r_default r on r.run_id = c.owner_run_id where c.task_id = %s",
            [task_id],
        )
        done: dict[str, int] = dict(rows.fetchall())
        paths = [path for node in read_script(params) for path in paths_of(node)]
        for path in paths:
            if path in done:
                yield Attempt(run_id, path, done[path])
        runs = self._connection.execute(_UNFINISHED, [CLAIM_SECONDS, task_id])
        for attempt, has_started, waits_at in runs:
            behind = [path for path in paths if done.get(path, attempt + 1) > attempt]
            if waits_at in behind:
                yield Attempt(run_id, waits_at, attempt)
            elif has_started and behind:
                yield Attempt(run_id, behind[0], attempt)


_UNFINISHED = """
select r.attempt,
       r.claim_expires_at - make_interval(secs => %s) <> all (
         select c.updated_at from absurd.c_default c where c.owner_run_id = r.run_id
         union all select r.started_at),
       (select min(w.step_name) from absurd.w_default w where w.run_id = r.run_id)
  from absurd.r_default r
 where r.task_id = %s and r.state <> 'completed'
"""


def paths_of(node: Any) -> Iterator[str]:
    yield node.path
    if isinstance(node, ForEach):
        yield from node.item_paths
