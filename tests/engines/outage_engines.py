"""Engines whose stepquota connects as a role of its own, so that its connections alone can be cut.

The role is an ordinary one: it has what the pages say. The engines' own connections stay.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol

import psycopg
from dbos import DBOS, DBOSClient
from psycopg.conninfo import make_conninfo

import stepquota.aio
from engines import absurd_engine, dbos_engine, procrastinate_engine
from engines.absurd_engine import AbsurdAdapter
from engines.dbos_engine import DbosAdapter
from engines.procrastinate_engine import ProcrastinateAdapter
from stepquota.dbos import Quota as DbosQuota
from stepquota.procrastinate import Quota as ProcrastinateQuota
from stepquota.testing import Adapter, Worker, WorkerProcess


class EngineAdapter(Adapter, Protocol):
    """An adapter that is closed."""

    def close(self) -> None: ...


def run_dbos(engine_url: str, own_url: str) -> None:
    system_url = dbos_engine.sqlalchemy_url(engine_url)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with DbosQuota(own_url) as quota:
        DBOS(config=dbos_engine.config(system_url, f"worker {os.getpid()}"))
        dbos_engine.make_workflow(engine_url, quota)
        DBOS.launch()
        DBOS.register_queue(dbos_engine.QUEUE, polling_interval_sec=0.1)
        client = DBOSClient(system_database_url=system_url)
        threading.Thread(target=quota.resume_workflows, args=[client], daemon=True).start()
        stopped.wait()
        os._exit(0)


def run_procrastinate(engine_url: str, own_url: str) -> None:
    asyncio.run(work_on_procrastinate(engine_url, own_url))


async def work_on_procrastinate(engine_url: str, own_url: str) -> None:
    quota = ProcrastinateQuota(own_url)
    app = procrastinate_engine.make_app(engine_url, quota)
    async with app.open_async(), quota, asyncio.TaskGroup() as tasks:
        resuming = tasks.create_task(quota.resume_jobs())
        await app.run_worker_async(
            concurrency=4, worker_middleware=[quota.middleware], fetch_job_polling_interval=0.2
        )
        resuming.cancel()


def run_and_cut_first(engine: str, engine_url: str, own_url: str) -> None:
    """The worker of an engine; its first acknowledgement of a resumption loses its connection."""
    cut_own_connection = "select pg_terminate_backend(pg_backend_pid())"
    acknowledge = stepquota.acknowledge_workflow_run_resumption
    acknowledge_async = stepquota.aio.acknowledge_workflow_run_resumption
    calls = iter(range(1000))

    def acknowledge_or_fail(connection: psycopg.Connection[Any], *given: Any) -> bool:
        if next(calls) == 0:
            connection.execute(cut_own_connection)
        return acknowledge(connection, *given)

    async def acknowledge_or_fail_async(
        connection: psycopg.AsyncConnection[Any], *given: Any
    ) -> bool:
        if next(calls) == 0:
            await connection.execute(cut_own_connection)
        return await acknowledge_async(connection, *given)

    stepquota.acknowledge_workflow_run_resumption = acknowledge_or_fail  # type: ignore[assignment]
    stepquota.aio.acknowledge_workflow_run_resumption = acknowledge_or_fail_async  # type: ignore[assignment]
    PROGRAMS[engine](engine_url, own_url)


PROGRAMS: dict[str, Callable[[str, str], None]] = {
    "absurd": absurd_engine.run_worker,
    "dbos": run_dbos,
    "procrastinate": run_procrastinate,
}
ADAPTERS: dict[str, Callable[[str], EngineAdapter]] = {
    "absurd": AbsurdAdapter,
    "dbos": DbosAdapter,
    "procrastinate": ProcrastinateAdapter,
}
# What the role needs beside stepquota_runtime.
RIGHTS = {
    "absurd": """
        grant usage on schema absurd to {role};
        grant all on all tables in schema absurd to {role};
    """,
    "dbos": "",
    # The adapter is there before the role: whoever comes later gets both.
    "procrastinate": """
        grant all on all tables in schema public to {role};
        grant all on all sequences in schema public to {role};
    """,
}


class Engine:
    """An engine, and the role that its stepquota connects as."""

    def __init__(self, name: str, database_url: str):
        self.name = name
        self.adapter = ADAPTERS[name](database_url)
        self._database_url = database_url
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self.role = f"metering_{self._connection.info.dbname}"
        self._run(f"create role {self.role} login in role stepquota_runtime")
        self._run(RIGHTS[name].format(role=self.role))
        self.own_url = make_conninfo(database_url, user=self.role)

    def close(self) -> None:
        self.adapter.close()
        self.go_away()
        self._run(f"drop owned by {self.role}")
        self._run(f"drop role {self.role}")
        self._connection.close()

    def start_worker(self) -> Worker:
        return WorkerProcess(PROGRAMS[self.name], self._database_url, self.own_url)

    def start_worker_that_is_cut(self) -> Worker:
        return WorkerProcess(run_and_cut_first, self.name, self._database_url, self.own_url)

    def cut(self) -> int:
        """Cut all connections of the role; answer how many there were."""
        return self._connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s",
            [self.role],
        ).rowcount

    def go_away(self) -> None:
        """Be a database that is away, for the role."""
        self._run(f"alter role {self.role} nologin")
        self.cut()

    def come_back(self) -> None:
        self._run(f"alter role {self.role} login")

    def _run(self, statement: str) -> None:
        self._connection.execute(statement.encode())
