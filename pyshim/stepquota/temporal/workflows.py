"""The workflow's side: activities carry a ticket, and one that was refused rests until a signal."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, NoReturn, TypeVar, cast

from temporalio import workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    TimeoutError,  # noqa: A004
    is_cancelled_exception,
)
from temporalio.worker import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleSignalInput,
    HandleUpdateInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartLocalActivityInput,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from .agreement import OWN_ACTIVITIES, SIGNAL, TENANT_HEADER, Refused, Ticket, read_json, write_json

RunIds = Literal["execution", "workflow"]
EndStatus = Literal["SUCCEEDED", "FAILED", "CANCELED"]
AwaitedType = Literal["event", "human", "retry", "time", "timeout"]

_ActivityInput = TypeVar("_ActivityInput", StartActivityInput, StartLocalActivityInput)

# What is told to stepquota must arrive, so there is no end to trying.
_OWN_OPTIONS: workflow.LocalActivityConfig = {
    "start_to_close_timeout": timedelta(seconds=30),
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=10)
    ),
}
_LONGEST_PAUSE_SECONDS = 300

# Marks in histories: that the plugin was there from the start, and that it refused the workflow.
_METERED = "stepquota"
_REFUSED = "stepquota refused"


def tenant_of_header(info: workflow.Info) -> str:
    """The tenant that the client named by ``stepquota.temporal.tenant``."""
    payload = info.headers.get(TENANT_HEADER)
    if payload is None:
        raise ApplicationError(
            f"workflow {info.workflow_id} has no tenant: start it by a client that has the plugin, "
            "in `with stepquota.temporal.tenant(...)`, or give Quota a find_tenant, which answers "
            "None for workflows that are not metered",
            type="NoTenant",
            non_retryable=True,
        )
    return str(read_json(payload))


@dataclass(frozen=True)
class Settings:
    """What ``Quota`` was given for workflows; see there."""

    find_tenant: Callable[[workflow.Info], str | None]
    is_metered: Callable[[str], bool]
    run_ids: RunIds
    longest_wait: timedelta


class Metering:
    """What one execution of a workflow knows of its own metering."""

    def __init__(self, tenant: str, run_id: str):
        self.tenant = tenant
        self.run_id = run_id
        self.has_asked = False
        self.is_registered = False
        self._visits: Counter[str] = Counter()
        # Payloads of resumptions that were not used yet.
        self._resumed: dict[tuple[str, bool], Any] = {}

    def resume(self, wait_type: str, node_paths: list[str], payload: Any = None) -> None:
        """The handler of the signal. It may come early, or twice."""
        for path in node_paths:
            self._resumed[path, wait_type == "quota"] = payload

    def draw_path(self, name: str) -> str:
        """A path for the next visit of what has this name: the same in each replay."""
        self.has_asked = True
        self._visits[name] += 1
        return f"{name}[{self._visits[name]}]"

    async def until_resumed(self, path: str, is_quota: bool = True) -> Any:
        """Wait, for as long as it takes, for the resumption of a path; answer its payload."""
        await workflow.wait_condition(lambda: (path, is_quota) in self._resumed)
        return self._resumed.pop((path, is_quota))

    async def start(
        self, path: str, step_type: str, wait: AwaitedType | None, due_at: datetime | None
    ) -> None:
        """Start a step by itself, and open its wait; rest first if that is refused."""
        due = due_at.isoformat() if due_at else None
        while await self._tell("start", path, step_type, wait, due) != "started":
            await self.until_resumed(path)

    async def finish(self, path: str, attempt: int, status: EndStatus) -> None:
        """Finish a step from this attempt on, as far as it has started and not finished."""
        await self._tell("finish", path, attempt, status)

    async def end(self, status: EndStatus) -> None:
        """End the run, if there is one."""
        if self.has_asked:
            await self._tell("end", status)

    async def _tell(self, what: str, *args: Any) -> Any:
        return await workflow.execute_local_activity(
            f"{OWN_ACTIVITIES}{what}", args=[self.tenant, self.run_id, *args], **_OWN_OPTIONS
        )


def current_metering() -> Metering | None:
    """That of the workflow that is running; None if it is not metered."""
    handler = workflow.get_signal_handler(SIGNAL)
    return cast(Metering | None, getattr(handler, "__self__", None))


@asynccontextmanager
async def step(name: str, step_type: str = "action") -> AsyncIterator[None]:
    """In a workflow: count what is in the block as one step, and rest before it while it must.

    For what is no activity: a loop, a child workflow, work of the workflow itself. In a workflow
    that is not metered it does nothing.

    Args:
        name: what it is; a number is added.
        step_type: as for ``start_workflow_step``.
    """
    metering = current_metering()
    if metering is None:
        yield
        return
    path = metering.draw_path(name)
    await metering.start(path, step_type, None, None)
    try:
        yield
    except (Exception, asyncio.CancelledError) as error:
        if is_cancelled_exception(error):
            await metering.finish(path, 1, "CANCELED")
        elif workflow.is_failure_exception(error):
            await metering.finish(path, 1, "FAILED")
        raise
    await metering.finish(path, 1, "SUCCEEDED")


async def wait(name: str, wait_type: AwaitedType = "event", due_at: datetime | None = None) -> Any:
    """In a metered workflow: wait until ``resolve_workflow_run_wait`` is called; counts once.

    Args:
        name: what for; a number is added.
        wait_type: as for ``open_workflow_run_wait``.
        due_at: when it resolves by itself, with a time zone.

    Returns:
        What it was resolved with.
    """
    metering = current_metering()
    if metering is None:
        raise ApplicationError("the workflow is not metered", type="NoTenant", non_retryable=True)
    path = metering.draw_path(name)
    await metering.start(path, wait_type, wait_type, due_at)
    payload = await metering.until_resumed(path, is_quota=False)
    await metering.finish(path, 1, "SUCCEEDED")
    return payload


class Inbound(WorkflowInboundInterceptor):
    """Finds the tenant, refuses what could not wait, and ends the run."""

    settings: Settings
    metering: Metering | None = None
    _has_begun = False
    _refusal: ApplicationError | None = None

    def init(self, outbound: WorkflowOutboundInterceptor) -> None:
        """As the base class."""
        super().init(_Outbound(outbound, self))

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002
        """As the base class."""
        self._begin()
        if self._refusal:
            raise self._refusal
        metering = self.metering
        if metering is None:
            return await super().execute_workflow(input)
        try:
            result = await super().execute_workflow(input)
        except workflow.ContinueAsNewError:
            await metering.end("SUCCEEDED")
            raise
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled_exception(error):
                await metering.end("CANCELED")
            elif workflow.is_failure_exception(error):
                await metering.end("FAILED")
            raise
        await metering.end("SUCCEEDED")
        return result

    async def handle_signal(self, input: HandleSignalInput) -> None:  # noqa: A002
        """As the base class. A signal may come before the workflow begins."""
        self._begin()
        await super().handle_signal(input)

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:  # noqa: A002
        """As the base class. An update may come before the workflow begins."""
        self._begin()
        return await super().handle_update_handler(input)

    def _begin(self) -> None:
        """Decide once, in the first workflow task, whether the workflow is metered or refused.

        Replay decides as its history says, whatever has been set up in another way since. What was
        running before the plugin came goes on without it.
        """
        if self._has_begun:
            return
        self._has_begun = True
        if not workflow.patched(_METERED):
            return
        info = workflow.info()
        tenant, refusal = None, None
        try:
            tenant = self.settings.find_tenant(info)
            if tenant is not None:
                self._check(info)
        except ApplicationError as error:
            refusal = error
        if workflow.unsafe.is_replaying():
            if workflow.patched(_REFUSED):
                self._refusal = refusal or ApplicationError("it was refused", non_retryable=True)
                return
            if refusal and tenant is None:
                raise RuntimeError("the workflow had a tenant, and has none now") from refusal
        elif refusal:
            workflow.patched(_REFUSED)
            self._refusal = refusal
            return
        if tenant is not None:
            is_one = self.settings.run_ids == "workflow"
            run_id = info.workflow_id if is_one else f"{info.workflow_id}/{info.run_id}"
            self.metering = Metering(tenant, run_id)
            workflow.set_signal_handler(SIGNAL, self.metering.resume)

    def _check(self, info: workflow.Info) -> None:
        for name, timeout in (
            ("execution_timeout", info.execution_timeout),
            ("run_timeout", info.run_timeout),
        ):
            if timeout and timeout < self.settings.longest_wait:
                raise ApplicationError(
                    f"workflow {info.workflow_id} has a {name} of {timeout}, which would end it "
                    f"while it waits for quota: start it without one, or with one of at least "
                    f"{self.settings.longest_wait} (longest_wait of Quota)",
                    type="TimeoutTooShort",
                    non_retryable=True,
                )
        if self.settings.run_ids == "workflow" and (
            info.continued_run_id or info.attempt > 1 or info.cron_schedule
        ):
            raise ApplicationError(
                f"workflow {info.workflow_id} is executed more than once under its id, by a retry "
                "policy, a cron schedule or continue-as-new: leave run_ids of Quota at 'execution'",
                type="SecondExecution",
                non_retryable=True,
            )


class _Outbound(WorkflowOutboundInterceptor):
    def __init__(self, next: WorkflowOutboundInterceptor, inbound: Inbound):  # noqa: A002
        super().__init__(next)
        self._inbound = inbound

    def start_activity(
        self,
        input: StartActivityInput,  # noqa: A002
    ) -> workflow.ActivityHandle[Any]:
        return self._meter(input, self.next.start_activity)

    def start_local_activity(
        self,
        input: StartLocalActivityInput,  # noqa: A002
    ) -> workflow.ActivityHandle[Any]:
        return self._meter(input, self.next.start_local_activity)

    async def start_child_workflow(
        self,
        input: StartChildWorkflowInput,  # noqa: A002
    ) -> workflow.ChildWorkflowHandle[Any, Any]:
        self._name_tenant(input)
        return await self.next.start_child_workflow(input)

    def continue_as_new(self, input: ContinueAsNewInput) -> NoReturn:  # noqa: A002
        self._name_tenant(input)
        self.next.continue_as_new(input)

    def _name_tenant(self, starts: StartChildWorkflowInput | ContinueAsNewInput) -> None:
        if self._inbound.metering:
            tenant = write_json(self._inbound.metering.tenant)
            starts.headers = {TENANT_HEADER: tenant, **starts.headers}

    def _meter(
        self,
        asked: _ActivityInput,
        start: Callable[[_ActivityInput], workflow.ActivityHandle[Any]],
    ) -> workflow.ActivityHandle[Any]:
        metering = self._inbound.metering
        if (
            metering is None
            or asked.activity.startswith(OWN_ACTIVITIES)
            or not self._inbound.settings.is_metered(asked.activity)
        ):
            return start(asked)
        ticket = Ticket(
            metering.tenant,
            metering.run_id,
            metering.draw_path(asked.activity),
            is_registered=metering.is_registered,
        )
        # In this call, so that the order of commands is that of an activity without metering.
        first = start(_with_ticket(asked, ticket))
        task = asyncio.create_task(_carry_through(metering, asked, start, ticket, first))
        # One that is cancelled before it begins never gets to see it.
        task.add_done_callback(lambda _: None if first.done() else first.cancel())
        return cast(workflow.ActivityHandle[Any], task)


def _with_ticket(asked: _ActivityInput, ticket: Ticket) -> _ActivityInput:
    return replace(asked, headers={**asked.headers, **ticket.header()}, ret_type=RawValue)


async def _carry_through(
    metering: Metering,
    asked: _ActivityInput,
    start: Callable[[_ActivityInput], workflow.ActivityHandle[Any]],
    ticket: Ticket,
    handle: workflow.ActivityHandle[Any],
) -> Any:
    spent, pauses = timedelta(), 0
    while True:
        try:
            result = await handle
        except ActivityError as error:
            if isinstance(error.cause, TimeoutError):
                # Nobody else knows that its last attempt is over.
                await metering.finish(ticket.node_path, ticket.attempts_before + 1, "FAILED")
            raise
        refused = Refused.read(result.payload)
        if refused is None:
            metering.is_registered = True
            types = [asked.ret_type] if asked.ret_type else None
            return workflow.payload_converter().from_payloads([result.payload], types)[0]
        if (task := asyncio.current_task()) and task.cancelling():
            # The refusal was faster than the cancellation, and has swallowed it.
            raise asyncio.CancelledError
        if refused.outcome == "unreachable":
            await workflow.sleep(min(2**pauses, _LONGEST_PAUSE_SECONDS))
            pauses += 1
        else:
            metering.is_registered = True
            await metering.until_resumed(ticket.node_path)
        spent += timedelta(seconds=refused.seconds)
        ticket = replace(
            ticket,
            attempts_before=ticket.attempts_before + refused.attempt - 1,
            is_registered=metering.is_registered,
            heartbeat_details=refused.heartbeat_details,
        )
        rest = replace(
            asked,
            retry_policy=remaining_policy(asked.retry_policy, ticket.attempts_before),
            schedule_to_close_timeout=_remaining_time(asked.schedule_to_close_timeout, spent),
        )
        handle = start(_with_ticket(rest, ticket))


def remaining_policy(policy: RetryPolicy | None, attempts: int) -> RetryPolicy | None:
    """What is left of a retry policy after so many attempts."""
    if not attempts:
        return policy
    policy = policy or RetryPolicy()
    longest = policy.maximum_interval or 100 * policy.initial_interval
    try:
        interval = min(policy.initial_interval * policy.backoff_coefficient**attempts, longest)
    except OverflowError:
        interval = longest
    return replace(
        policy,
        initial_interval=interval,
        maximum_interval=longest,
        maximum_attempts=policy.maximum_attempts and policy.maximum_attempts - attempts,
    )


def _remaining_time(timeout: timedelta | None, spent: timedelta) -> timedelta | None:
    # The attempt that was refused had begun in time.
    return timeout and max(timeout - spent, timedelta(milliseconds=1))
