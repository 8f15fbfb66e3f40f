"""Quota: the adapter as a plugin for clients and workers, and the dispatcher of resumptions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Client,
    CreateScheduleInput,
    OutboundInterceptor,
    ScheduleActionStartWorkflow,
    ScheduleHandle,
    StartWorkflowInput,
    StartWorkflowUpdateWithStartInput,
    WorkflowHandle,
    WorkflowUpdateHandle,
)
from temporalio.client import Interceptor as ClientInterceptor
from temporalio.converter import DataConverter
from temporalio.plugin import SimplePlugin
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import (
    ActivityInboundInterceptor,
    Interceptor,
    Worker,
    WorkerConfig,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowRunner,
)
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import stepquota.aio
from stepquota.delivery import logger
from stepquota.errors import (
    RunEnded,
    StepAlreadyFinished,
    StepquotaError,
    UnknownRun,
    UnknownStep,
)
from stepquota.outages import LEASE, AsyncPool, coming_again, make_async_pool
from stepquota.results import StepOutcome, WorkflowRunResumption

from . import activities, workflows
from .agreement import OWN_ACTIVITIES, SIGNAL, TENANT_HEADER, Ticket, write_json

# Longer than any billing period.
LONGEST_WAIT = timedelta(days=400)

_tenant: ContextVar[str] = ContextVar("stepquota tenant")

Connection = psycopg.AsyncConnection[Any]
Result = TypeVar("Result")


@contextmanager
def tenant(name: str) -> Iterator[None]:
    """Workflows that are started in the block, by a client with the plugin, are this tenant's."""
    token = _tenant.set(name)
    try:
        yield
    finally:
        _tenant.reset(token)


class Quota(SimplePlugin):
    """The adapter: a plugin for workers, and for clients that name the tenant.

    A worker opens its connections while it runs; elsewhere it is to be entered by ``async with``.

    Args:
        database_url: where stepquota is.
        find_tenant: answers a workflow's tenant, or None if it is not metered; in the workflow, so
            it must answer the same each time. By default the one that the client named.
        is_metered: whether activities of this name count; all do by default.
        run_ids: with ``execution`` a run is an execution, ``workflow id/run id``; with ``workflow``
            it is the workflow's id, which must be executed only once then.
        longest_wait: how long a run may wait for quota; timeouts of workflows that are shorter are
            refused.
        runtime: the runtime of its runs.
        connections: how many connections it may have.
    """

    def __init__(
        self,
        database_url: str,
        find_tenant: Callable[[workflow.Info], str | None] = workflows.tenant_of_header,
        *,
        is_metered: Callable[[str], bool] = lambda _: True,
        run_ids: workflows.RunIds = "execution",
        longest_wait: timedelta = LONGEST_WAIT,
        runtime: str = "temporal",
        connections: int = 4,
    ):
        self._database_url = database_url
        self._run_ids = run_ids
        self._runtime = runtime
        self._connections = connections
        self._pool: AsyncPool | None = None
        self._users = 0
        self.converter = DataConverter.default
        settings = workflows.Settings(find_tenant, is_metered, run_ids, longest_wait)
        super().__init__(
            "stepquota",
            interceptors=[_NamesTenant(), _Meters(self, settings)],
            activities=[self._start_by_itself, self._finish_by_itself, self._end],
            workflow_runner=_pass_through,
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """As the base class."""
        self.converter = config["client"].data_converter
        if not config.get("activities"):
            # It would be handed those of other workers of its queue, since it has ours now.
            config["no_remote_activities"] = True
        return super().configure_worker(config)

    async def run_worker(self, worker: Worker, next: Callable[[Worker], Awaitable[None]]) -> None:  # noqa: A002
        """As the base class."""
        async with self:
            await next(worker)

    async def __aenter__(self) -> Self:
        if self._pool is None:
            self._pool = make_async_pool(self._database_url, self._connections, autocommit=True)
            await self._pool.open()
        self._users += 1
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1
        if not self._users and self._pool:
            pool, self._pool = self._pool, None
            await pool.close()

    async def start_attempt(self, ticket: Ticket, attempt: int, is_retry: bool) -> StepOutcome:
        """Ask for an attempt of an activity.

        Args:
            ticket: what the activity is.
            attempt: the attempt.
            is_retry: whether Temporal has executed an attempt before it, which is over then.

        Raises:
            StepquotaError: the run has ended, or a name is not acceptable.
            psycopg.Error: the database is not there, or did not answer.
        """
        key = (ticket.tenant, ticket.run_id)
        workflow_type = activity.info().workflow_type

        async def register(connection: Connection) -> None:
            await stepquota.aio.register_workflow_run(
                connection, *key, workflow_type, self._runtime
            )

        async def start(connection: Connection) -> StepOutcome:
            if not ticket.is_registered:
                await register(connection)
            step = (*key, ticket.node_path, attempt)
            try:
                return (await stepquota.aio.start_workflow_step(connection, *step)).outcome
            except UnknownRun:  # the execution was reset: it goes on as another run
                await register(connection)
                return (await stepquota.aio.start_workflow_step(connection, *step)).outcome

        async def finish_last(connection: Connection) -> None:
            # Its worker may have died in it. Workers of attempts after it may have died before they
            # could ask; the last one that asked has finished those before it.
            for number in range(attempt - 1, 0, -1):
                if await self._finish(connection, ticket, number, "RETRY_SCHEDULED"):
                    return

        if is_retry:
            await self._try_twice(finish_last)
        return await self._try_twice(start)

    async def finish_attempt(
        self, ticket: Ticket, attempt: int, status: activities.FinalStatus
    ) -> None:
        """Finish an attempt of an activity; what has been done stays done if that fails."""
        try:
            await self._try_twice(lambda c: self._finish(c, ticket, attempt, status))
        except psycopg.Error as error:
            logger.warning(
                "attempt %s of %s of run %s is %s, and stays STARTED: %s",
                *(attempt, ticket.node_path, ticket.run_id, status, str(error).strip()),
            )

    @staticmethod
    async def _finish(
        connection: Connection, ticket: Ticket, attempt: int, status: activities.FinalStatus
    ) -> bool:
        """Whether there is such an attempt."""
        key = (ticket.tenant, ticket.run_id, ticket.node_path, attempt)
        try:
            await stepquota.aio.finish_workflow_step(connection, *key, status)
        except (UnknownRun, UnknownStep):
            return False
        except (RunEnded, StepAlreadyFinished):
            pass
        return True

    @activity.defn(name=f"{OWN_ACTIVITIES}start")
    async def _start_by_itself(
        self,
        tenant: str,
        run_id: str,
        node_path: str,
        step_type: str,
        wait_type: workflows.AwaitedType | None,
        due_at: str | None,
    ) -> str:
        workflow_type = activity.info().workflow_type

        async def start(connection: Connection) -> str:
            async with connection.transaction():
                await stepquota.aio.register_workflow_run(
                    connection, tenant, run_id, workflow_type, self._runtime
                )
                answer = await stepquota.aio.start_workflow_step(
                    connection, tenant, run_id, node_path, 1, step_type
                )
                if answer.outcome in ("quota_paused", "held"):
                    return answer.outcome
                if wait_type:
                    await stepquota.aio.open_workflow_run_wait(
                        connection,
                        *(tenant, run_id, node_path, wait_type),
                        datetime.fromisoformat(due_at) if due_at else None,
                    )
                return "started"

        try:
            return await self._try_twice(start)
        except StepquotaError as error:
            raise activities.as_application_error(error) from error

    @activity.defn(name=f"{OWN_ACTIVITIES}finish")
    async def _finish_by_itself(
        self, tenant: str, run_id: str, node_path: str, attempt: int, status: workflows.EndStatus
    ) -> None:
        ticket = Ticket(tenant, run_id, node_path)

        async def finish(connection: Connection) -> None:
            number = attempt
            while await self._finish(connection, ticket, number, status):
                number += 1

        await self._tell(finish)

    @activity.defn(name=f"{OWN_ACTIVITIES}end")
    async def _end(self, tenant: str, run_id: str, status: workflows.EndStatus) -> None:
        async def end(connection: Connection) -> None:
            with suppress(UnknownRun, RunEnded):
                if status == "CANCELED":
                    await stepquota.aio.cancel_workflow_run(connection, tenant, run_id)
                else:
                    await stepquota.aio.finish_workflow_run(connection, tenant, run_id, status)

        await self._tell(end)

    async def _tell(self, call: Callable[[Connection], Awaitable[None]]) -> None:
        """What stepquota refuses now it would refuse later: the workflow can end all the same."""
        try:
            await self._try_twice(call)
        except StepquotaError as error:
            logger.warning("%s: %s %s", error.message, error.detail, error.hint)

    async def _try_twice(self, call: Callable[[Connection], Awaitable[Result]]) -> Result:
        """All of it may be done twice; a connection of the pool may be gone without its knowing."""
        assert self._pool, "enter Quota by `async with`, or let a worker run"
        try:
            async with self._pool.connection() as connection:
                return await call(connection)
        except psycopg.OperationalError:
            async with self._pool.connection() as connection:
                return await call(connection)

    async def resume_workflows(self, client: Client, worker: str = "temporal") -> None:
        """Take resumptions and signal the workflows that rest for them; for ever.

        Run it in a task of a worker's process, or in a small process of its own, as
        ``python -m stepquota.temporal`` does.

        Args:
            client: of the namespace of the workflows; its data converter must be theirs.
            worker: who claims, for people.
        """
        async with (
            self,
            stepquota.aio.resumptions(
                self._database_url, worker, runtime=self._runtime, max_runs=100, lease=LEASE
            ) as loop,
        ):
            async for resumption in loop:
                with coming_again(resumption, RPCError):
                    await self._resume(client, resumption)

    async def _resume(self, client: Client, resumption: WorkflowRunResumption) -> None:
        handle = self._handle(client, resumption.run_id)
        try:
            await handle.signal(
                SIGNAL,
                args=[resumption.wait_type, list(resumption.node_paths), resumption.payload],
            )
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            # It was terminated, or ended by a timeout, without a word. Not found either: perhaps
            # this is another namespace, so nothing is done about it.
            await handle.describe()
            with suppress(RunEnded):
                await self._try_twice(
                    lambda connection: stepquota.aio.cancel_workflow_run(
                        connection, resumption.tenant, resumption.run_id
                    )
                )
        else:
            await self._try_twice(
                lambda connection: stepquota.aio.acknowledge_workflow_run_resumption(
                    connection, resumption.tenant, resumption.resumption_id
                )
            )

    def _handle(self, client: Client, run_id: str) -> WorkflowHandle[Any, Any]:
        if self._run_ids == "workflow":
            return client.get_workflow_handle(run_id)
        workflow_id, _, execution = run_id.rpartition("/")
        return client.get_workflow_handle(workflow_id, run_id=execution)


class _NamesTenant(ClientInterceptor):
    def intercept_client(self, next: OutboundInterceptor) -> OutboundInterceptor:  # noqa: A002
        return _NamingOutbound(next)


class _NamingOutbound(OutboundInterceptor):
    async def start_workflow(self, input: StartWorkflowInput) -> WorkflowHandle[Any, Any]:  # noqa: A002
        input.headers = _with_tenant(input.headers)
        return await super().start_workflow(input)

    async def create_schedule(self, input: CreateScheduleInput) -> ScheduleHandle:  # noqa: A002
        action = input.schedule.action
        if isinstance(action, ScheduleActionStartWorkflow):
            action.headers = _with_tenant(action.headers or {})
        return await super().create_schedule(input)

    async def start_update_with_start_workflow(
        self,
        input: StartWorkflowUpdateWithStartInput,  # noqa: A002
    ) -> WorkflowUpdateHandle[Any]:
        starts = input.start_workflow_input
        starts.headers = _with_tenant(starts.headers)
        return await super().start_update_with_start_workflow(input)


def _with_tenant(headers: Mapping[str, Payload]) -> Mapping[str, Payload]:
    name = _tenant.get(None)
    return {**headers, TENANT_HEADER: write_json(name)} if name is not None else headers


class _Meters(Interceptor):
    def __init__(self, quota: Quota, settings: workflows.Settings):
        self._quota = quota
        self._settings = settings

    def intercept_activity(
        self,
        next: ActivityInboundInterceptor,  # noqa: A002
    ) -> ActivityInboundInterceptor:
        return activities.Inbound(next, self._quota)

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002
    ) -> type[WorkflowInboundInterceptor]:
        return type("Inbound", (workflows.Inbound,), {"settings": self._settings})


def _pass_through(runner: WorkflowRunner | None) -> WorkflowRunner:
    """Workflows may import us; what they import has no state."""
    assert runner
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    return replace(runner, restrictions=runner.restrictions.with_passthrough_modules("stepquota"))
