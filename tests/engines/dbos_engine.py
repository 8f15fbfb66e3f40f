"""DBOS as the conformance kit drives it: workers take workflows from a queue."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from dbos import (
    DBOS,
    DBOSClient,
    DBOSConfig,
    DBOSContextSetAuth,
    SetWorkflowID,
    SetWorkflowTimeout,
    SQLAlchemyDatasource,
    run_dbos_database_migrations,
)

import stepquota
from stepquota.dbos import Quota, TimeLimited
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

QUEUE = "scripts"
VERSION = "1"


def make_workflow(database_url: str, quota: Quota) -> Callable[..., Any]:
    """Registers the workflow."""

    @quota.step(max_attempts=20, interval_seconds=0.01, backoff_rate=1)
    def work(path: str, failures: int) -> None:
        perform(database_url, str(DBOS.workflow_id), path, 0, failures)

    @quota.step(step_type="forEach")
    def for_each() -> None:
        pass

    @DBOS.workflow(name="script", max_recovery_attempts=1000)
    @quota.workflow
    def script(nodes: list[dict[str, Any]]) -> None:
        for node in read_script(nodes):
            if isinstance(node, Work):
                work(node.path, node.failures)
            elif isinstance(node, ForEach):
                for_each()
                for path in node.item_paths:
                    work(path, 0)
            else:
                assert isinstance(node, Event)
                quota.wait("event")

    return script


def sqlalchemy_url(database_url: str) -> str:
    with psycopg.connect(database_url) as connection:
        info = connection.info
        return f"postgresql+psycopg://{info.user}@/{info.dbname}?host={info.host}&port={info.port}"


def config(database_url: str, executor_id: str) -> DBOSConfig:
    return {
        "name": "conformance",
        "system_database_url": database_url,
        "executor_id": executor_id,
        "application_version": VERSION,
        "run_migrations": True,
        "log_level": "ERROR",
    }


def run_worker(database_url: str, own_url: str) -> None:
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with Quota(own_url, connections=8) as quota:
        DBOS(config=config(database_url, f"worker {os.getpid()}"))
        make_workflow(own_url, quota)
        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=0.1)
        client = DBOSClient(system_database_url=database_url)
        threading.Thread(target=quota.resume_workflows, args=[client], daemon=True).start()
        stopped.wait()
        os._exit(0)  # workflows that rest are gone on with by others


class _Worker:
    """A worker whose workflows are recovered when it is gone, as DBOS Conductor would have it."""

    def __init__(self, adapter: DbosAdapter):
        self._adapter = adapter
        self._process = WorkerProcess(run_worker, adapter.database_url, adapter.own_url)
        self._pid = self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._adapter.recover(f"worker {self._pid}")

    def stop(self) -> None:
        self._process.kill()


class DbosAdapter:
    def __init__(self, database_url: str) -> None:
        self.own_url = database_url
        self.database_url = sqlalchemy_url(database_url)
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        run_dbos_database_migrations(system_database_url=self.database_url)
        self._client = DBOSClient(system_database_url=self.database_url)
        self._quota = Quota(database_url).__enter__()

    def close(self) -> None:
        self._quota.__exit__(None, None, None)
        self._client.destroy()
        self._connection.close()

    def start_worker(self) -> Worker:
        return _Worker(self)

    def recover(self, executor_id: str) -> None:
        """Put the workflows of a dead worker back into the queue."""
        self._connection.execute(
            "update dbos.workflow_status set status = 'ENQUEUED', queue_name = %s,"
            " owner_xid = null, started_at_epoch_ms = null"
            " where executor_id = %s and status = 'PENDING'",
            [QUEUE, executor_id],
        )

    def start_run(self, tenant: str, run_id: str, script: Script) -> None:
        self._client.enqueue(
            {
                "queue_name": QUEUE,
                "workflow_name": "script",
                "workflow_id": run_id,
                "app_version": VERSION,
                "authenticated_user": tenant,
            },
            write_script(script),
        )

    def send_event(self, tenant: str, run_id: str, path: str) -> None:
        rows = self._connection.execute(
            "select wait_id from stepquota.workflow_run_waits"
            " where tenant = %s and run_id = %s and wait_type = 'event' and status = 'WAITING'",
            [tenant, run_id],
        )
        ((wait_id,),) = rows.fetchall()
        stepquota.resolve_workflow_run_wait(self._connection, tenant, wait_id, {"path": path})

    def cancel_run(self, tenant: str, run_id: str) -> None:
        self._quota.cancel_workflow(self._client, tenant, run_id)

    def replay_run(self, tenant: str, run_id: str) -> None:
        """Have a worker execute the workflow again, as recovery does, also when it has ended."""
        self._connection.execute(
            "update dbos.workflow_status set status = 'ENQUEUED', queue_name = %s,"
            " owner_xid = null, started_at_epoch_ms = null where workflow_uuid = %s",
            [QUEUE, run_id],
        )

    def state(self, tenant: str, run_id: str) -> RunState:
        row = self._connection.execute(
            "select status from dbos.workflow_status where workflow_uuid = %s", [run_id]
        ).fetchone()
        assert row
        states: dict[str, RunState] = {
            "SUCCESS": "succeeded",
            "ERROR": "failed",
            "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
            "CANCELLED": "canceled",
        }
        return states.get(row[0], "open")

    def attempts(self, tenant: str) -> Collection[Attempt]:
        """By the recorded steps of the workflows, and the one that each is at."""
        rows = self._connection.execute(
            "select workflow_uuid from dbos.workflow_status where authenticated_user = %s", [tenant]
        )
        return [attempt for (run_id,) in rows for attempt in self._attempts(run_id)]

    def _attempts(self, run_id: str) -> Iterator[Attempt]:
        path, number = "", 0
        for step in self._client.list_workflow_steps(run_id):
            if step["function_name"] not in ("work", "for_each", "event"):
                continue
            if not path:
                # The number before the first attempt's was drawn for the path.
                path, number = f"{step['function_name']}[{step['function_id'] - 1}]", 1
            assert step["output"], step
            said = step["output"][0]
            if said == "stepquota: rests":
                continue
            yield Attempt(run_id, path, number)
            if said == "stepquota: failed":
                number += 1
            else:
                path = ""


def run_transactions(database_url: str, own_url: str, dies: bool, results: str) -> None:
    """A workflow of two transactions; the second one fails once, or kills the process once."""
    datasource = SQLAlchemyDatasource.create(database_url)
    with Quota(own_url) as quota:
        DBOS(config=config(database_url, "transactions"))

        @quota.transaction(datasource, max_attempts=3, interval_seconds=0)
        def pay(amount: int) -> int:
            session = datasource.sql_session()
            session.execute(sqlalchemy.text(f"insert into payments values ({amount})"))
            with psycopg.connect(own_url) as connection:
                connection.execute("insert into tries values (%s)", [amount])
                count = "select count(*) from tries where amount = %s"
                row = connection.execute(count, [amount]).fetchone()
            if amount == 2 and row == (1,):
                if dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("no money")
            return amount

        @DBOS.workflow(name="payments")
        @quota.workflow
        def payments() -> int:
            return pay(1) + pay(2)

        DBOS.launch()
        with SetWorkflowID("payments"), DBOSContextSetAuth("conformance", []):
            paid = DBOS.start_workflow(payments).get_result()
        Path(results).write_text(str(paid))
        os._exit(0)


def run_measurement(database_url: str, own_url: str, results: str) -> None:
    """Seconds of 300 steps of DBOS, and of as many that ask, as JSON."""
    with Quota(own_url) as quota:
        DBOS(config=config(database_url, "measurement"))

        @DBOS.step()
        def plain() -> None:
            pass

        @quota.step()
        def metered() -> None:
            pass

        @DBOS.workflow(name="measurement")
        @quota.workflow
        def measurement() -> list[list[float]]:
            # By turns, so that both meet the same machine.
            without: list[float] = []
            with_quota: list[float] = []
            for _ in range(300):
                for function, seconds in ((plain, without), (metered, with_quota)):
                    before = time.perf_counter()
                    function()
                    seconds.append(time.perf_counter() - before)
            return [without, with_quota]

        DBOS.launch()
        with DBOSContextSetAuth("conformance", []):
            answer = DBOS.start_workflow(measurement).get_result()
        Path(results).write_text(json.dumps(answer))
        os._exit(0)


def run_limited(database_url: str, own_url: str, results: str) -> None:
    """Workflows with a timeout of an hour; what each of them ended with, as JSON."""
    with Quota(own_url) as quota:
        DBOS(config=config(database_url, "limited"))

        @quota.step()
        def metered() -> None:
            pass

        @DBOS.workflow(name="whole")
        @quota.workflow
        def whole() -> None:
            metered()

        @DBOS.workflow(name="steps alone")
        def steps_alone() -> None:
            metered()

        @DBOS.workflow(name="parent")
        def parent() -> None:
            whole()

        DBOS.launch()
        DBOS.register_queue(QUEUE, polling_interval_sec=0.1)
        said = {}
        with DBOSContextSetAuth("conformance", []):
            for function in (whole, steps_alone, parent):
                with SetWorkflowTimeout(3600):
                    handle = DBOS.start_workflow(function)
                try:
                    said[function.__name__] = str(handle.get_result())
                except TimeLimited as error:
                    said[function.__name__] = type(error).__name__
            with SetWorkflowTimeout(3600):
                queued = DBOS.enqueue_workflow(QUEUE, whole)
            try:
                said["queued"] = str(queued.get_result())
            except TimeLimited as error:
                said["queued"] = type(error).__name__
            said["without"] = str(DBOS.start_workflow(whole).get_result())
        Path(results).write_text(json.dumps(said))
        os._exit(0)
