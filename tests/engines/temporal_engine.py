"""Temporal as the conformance kit drives it: a run is a workflow of activities, by its id."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from temporalio import activity
from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

import stepquota
from engines.evidence import Evidence
from engines.temporal_workflows import ScriptWorkflow
from stepquota.temporal import Quota, tenant
from stepquota.temporal.agreement import SIGNAL, Refused, Ticket, read_json
from stepquota.testing import (
    Attempt,
    ForEach,
    RunState,
    Script,
    Work,
    WorkerProcess,
    perform,
    write_script,
)

QUEUE = "scripts"
SLOTS = 20
Result = TypeVar("Result")


def program(name: str) -> str:
    """Of the environment that the tests run in."""
    return str(Path(sys.executable).parent / name)


@asynccontextmanager
async def heartbeats() -> AsyncIterator[None]:
    """So that the death of a worker is noticed soon."""

    async def beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(0.5)

    beating = asyncio.create_task(beat())
    yield
    beating.cancel()


async def work(database_url: str, address: str) -> None:
    @activity.defn(name="work")
    async def do(path: str, failures: int) -> None:
        info = activity.info()
        async with heartbeats():
            await asyncio.to_thread(
                perform, database_url, str(info.workflow_id), path, info.attempt, failures
            )

    quota = Quota(database_url, run_ids="workflow")
    client = await Client.connect(address, plugins=[quota])
    resuming = asyncio.create_task(quota.resume_workflows(client))
    await Worker(
        client,
        task_queue=QUEUE,
        workflows=[ScriptWorkflow],
        activities=[do],
        max_concurrent_activities=SLOTS,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=1),
    ).run()
    resuming.cancel()


def run_worker(database_url: str, address: str) -> None:
    asyncio.run(work(database_url, address))


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


async def start_server(*plugins: Quota) -> WorkflowEnvironment:
    return await WorkflowEnvironment.start_local(
        dev_server_existing_path=program("temporal"),
        dev_server_log_level="error",
        plugins=plugins,
    )


class TemporalAdapter:
    """With a server of its own."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self._scripts: dict[tuple[str, str], Script] = {}
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._evidence = Evidence(self._connection)
        self._loop = Loop()
        self.call = self._loop.call
        self._quota = Quota(database_url, run_ids="workflow")
        self._environment = self.call(start_server(self._quota))
        self.client = self._environment.client
        self.address = self.client.service_client.config.target_host

    def close(self) -> None:
        self.call(self._environment.shutdown())
        self._loop.stop()
        self._connection.close()

    def start_worker(self) -> WorkerProcess:
        return WorkerProcess(run_worker, self.database_url, self.address)

    def start_run(self, tenant_name: str, run_id: str, script: Script) -> None:
        async def start() -> None:
            with tenant(tenant_name):
                await self.client.start_workflow(
                    "script",
                    write_script(script),
                    id=run_id,
                    task_queue=QUEUE,
                    task_timeout=timedelta(seconds=5),
                )

        self._scripts[tenant_name, run_id] = script
        self.call(start())

    def send_event(self, tenant_name: str, run_id: str, path: str) -> None:
        rows = self._connection.execute(
            "select wait_id from stepquota.workflow_run_waits"
            " where tenant = %s and run_id = %s and wait_type = 'event' and status = 'WAITING'",
            [tenant_name, run_id],
        )
        ((wait_id,),) = rows.fetchall()
        stepquota.resolve_workflow_run_wait(self._connection, tenant_name, wait_id, {"path": path})

    def handle(self, run_id: str) -> WorkflowHandle[Any, Any]:
        return self.client.get_workflow_handle(run_id)

    def cancel_run(self, tenant_name: str, run_id: str) -> None:
        self.call(self.handle(run_id).cancel())

    def replay_run(self, tenant_name: str, run_id: str) -> None:
        """Replay it here, and have a worker look at it once more if it is open."""

        async def replay() -> None:
            history = await self.handle(run_id).fetch_history()
            await Replayer(workflows=[ScriptWorkflow], plugins=[self._quota]).replay_workflow(
                history
            )
            with suppress(RPCError):  # it has ended
                await self.handle(run_id).signal(SIGNAL, args=["quota", ["work[1]"], None])

        self.call(replay())

    def state(self, tenant_name: str, run_id: str) -> RunState:
        status = self.call(self.handle(run_id).describe()).status
        states: dict[WorkflowExecutionStatus | None, RunState] = {
            WorkflowExecutionStatus.COMPLETED: "succeeded",
            WorkflowExecutionStatus.FAILED: "failed",
            WorkflowExecutionStatus.TIMED_OUT: "failed",
            WorkflowExecutionStatus.CANCELED: "canceled",
            WorkflowExecutionStatus.TERMINATED: "canceled",
        }
        return states.get(status, "open")

    def attempts(self, tenant_name: str) -> Collection[Attempt]:
        """By the histories, and the activities that are pending.

        Temporal starts an attempt when a worker takes it. A worker that is killed, or too slow, may
        not have got to ask by its timeout, and Temporal does not know: for an attempt that timed
        out, or is under way, there must be evidence. One that completed or failed counts as it is.
        """
        found = list[Attempt]()
        for (name, run_id), script in self._scripts.items():
            if name != tenant_name:
                continue
            for attempt, path_if_unsure in self._attempts(run_id, script):
                if path_if_unsure is None or self._evidence.shows(
                    tenant_name, attempt, path_if_unsure
                ):
                    found.append(attempt)
        return found

    def _attempts(self, run_id: str, script: Script) -> Iterator[tuple[Attempt, str | None]]:
        """The attempts that Temporal started, and the script's path of those that may not have."""
        history = self.call(self.handle(run_id).fetch_history()).events
        described = self.call(self.handle(run_id).describe()).raw_description
        by_themselves = (node for node in script if not isinstance(node, Work))
        activities: dict[int, _Activity] = {}
        pending = {a.activity_id: a for a in described.pending_activities}
        for event in history:
            if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                asked = event.activity_task_scheduled_event_attributes
                ticket = Ticket.read(asked.header.fields)
                assert ticket
                activity_ = _Activity(ticket, read_json(asked.input.payloads[0]))
                activities[event.event_id] = activity_
                if now := pending.get(asked.activity_id):
                    is_started = now.state in (
                        PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
                        PendingActivityState.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED,
                    )
                    activity_.started = now.attempt - (not is_started)
            elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
                began = event.activity_task_started_event_attributes
                activity_ = activities[began.scheduled_event_id]
                activity_.started = began.attempt
                if not began.last_failure.HasField("timeout_failure_info"):
                    activity_.sure.add(began.attempt - 1)
            elif event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
                done = event.activity_task_completed_event_attributes
                activity_ = activities[done.scheduled_event_id]
                if Refused.read(done.result.payloads[0]):
                    activity_.started -= 1
                else:
                    activity_.sure.add(activity_.started)
            elif _is_start_by_itself(event):
                name = "forEach" if isinstance(next(by_themselves), ForEach) else "event"
                yield Attempt(run_id, f"{name}[1]", 1), None
        for activity_ in activities.values():
            ticket = activity_.ticket
            for number in range(1, activity_.started + 1):
                attempt = Attempt(run_id, ticket.node_path, ticket.attempts_before + number)
                yield attempt, None if number in activity_.sure else activity_.path


@dataclass
class _Activity:
    """One that was scheduled.

    Attributes:
        ticket: what came along with it.
        path: in the script.
        started: the number of its last attempt.
        sure: attempts that ended otherwise than by a timeout.
    """

    ticket: Ticket
    path: str
    started: int = 0
    sure: set[int] = field(default_factory=set)


def _is_start_by_itself(event: HistoryEvent) -> bool:
    """Whether the marker is of a local activity of the adapter that started a step."""
    details = event.marker_recorded_event_attributes.details
    if "data" not in details or "result" not in details:
        return False
    what = read_json(details["data"].payloads[0])["activity_type"]
    return bool(what == "stepquota_start" and read_json(details["result"].payloads[0]) == "started")
