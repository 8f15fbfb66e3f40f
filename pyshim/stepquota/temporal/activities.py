"""The activity's side: each attempt asks before it is executed, and finishes its step."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeVar

import psycopg
from temporalio import activity
from temporalio.api.common.v1 import Payload
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError, is_cancelled_exception
from temporalio.worker import (
    ActivityInboundInterceptor,
    ActivityOutboundInterceptor,
    ExecuteActivityInput,
)

from stepquota.errors import StepquotaError
from stepquota.results import StepOutcome

from .agreement import Refused, Ticket

logger = logging.getLogger("stepquota")

Result = TypeVar("Result")

_LONGEST_ASKING = 20.0
FinalStatus = Literal["SUCCEEDED", "FAILED", "RETRY_SCHEDULED", "CANCELED"]


class Book(Protocol):
    """Where attempts are written down: ``Quota``."""

    async def start_attempt(self, ticket: Ticket, attempt: int, is_retry: bool) -> StepOutcome: ...  # noqa: D102

    async def finish_attempt(self, ticket: Ticket, attempt: int, status: FinalStatus) -> None: ...  # noqa: D102

    converter: DataConverter


class Inbound(ActivityInboundInterceptor):
    """Asks, executes, finishes."""

    def __init__(self, next: ActivityInboundInterceptor, book: Book):  # noqa: A002
        super().__init__(next)
        self._book = book

    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        """As the base class."""
        self._outbound = _Outbound(outbound)
        super().init(self._outbound)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        """As the base class."""
        ticket = Ticket.read(input.headers)
        if ticket is None:
            return await super().execute_activity(input)
        info = activity.info()
        attempt = ticket.attempts_before + info.attempt
        outcome = await self._ask(ticket, attempt, info)
        if outcome not in ("started", "already_started", "already_finished"):
            elapsed = info.started_time - info.scheduled_time
            details = ticket.heartbeat_details
            if info.heartbeat_details:
                encoded = await self._book.converter.encode(info.heartbeat_details)
                details = [base64.b64encode(p.SerializeToString()).decode() for p in encoded]
            return Refused(outcome, info.attempt, elapsed.total_seconds(), details).result()
        await self._show_whole_story(ticket, info)
        try:
            result = await super().execute_activity(input)
        except (Exception, asyncio.CancelledError) as error:
            await self._book.finish_attempt(ticket, attempt, _status_after(error, info))
            raise
        await self._book.finish_attempt(ticket, attempt, "SUCCEEDED")
        return result

    async def _ask(self, ticket: Ticket, attempt: int, info: activity.Info) -> Any:
        asking = self._book.start_attempt(ticket, attempt, is_retry=info.attempt > 1)
        try:
            async with asyncio.timeout(_patience(info)):
                return await _with_heartbeats(asking, info)
        except StepquotaError as error:
            raise as_application_error(error) from error
        except (psycopg.Error, TimeoutError) as error:
            logger.warning(
                "activity %s of run %s could not ask, and will again: %s",
                *(info.activity_type, ticket.run_id, str(error).strip() or "no answer in time"),
            )
            return "unreachable"

    async def _show_whole_story(self, ticket: Ticket, info: activity.Info) -> None:
        """The activity sees its attempts, and their heartbeats, as if it had never rested."""
        details = info.heartbeat_details
        if ticket.heartbeat_details and not details:
            payloads = [Payload.FromString(base64.b64decode(d)) for d in ticket.heartbeat_details]
            details = await self._book.converter.decode(payloads)
        self._outbound.shown = replace(
            info, attempt=ticket.attempts_before + info.attempt, heartbeat_details=details
        )


class _Outbound(ActivityOutboundInterceptor):
    shown: activity.Info | None = None

    def info(self) -> activity.Info:
        return self.shown or super().info()


def _patience(info: activity.Info) -> float:
    """How many seconds asking may take; Temporal's timeout runs meanwhile."""
    timeout = info.start_to_close_timeout or info.schedule_to_close_timeout
    return min(timeout.total_seconds() / 2, _LONGEST_ASKING) if timeout else _LONGEST_ASKING


def as_application_error(error: StepquotaError) -> ApplicationError:
    """An error that trying again would not mend."""
    return ApplicationError(
        f"{error.message}: {error.detail} {error.hint}",
        type=type(error).__name__,
        non_retryable=True,
    )


async def _with_heartbeats(asking: Awaitable[Result], info: activity.Info) -> Result:
    """Asking may take longer than an activity may go without a heartbeat."""
    if info.is_local or not info.heartbeat_timeout:
        return await asking

    async def beat(pause: timedelta) -> None:
        while True:
            await asyncio.sleep(pause.total_seconds())
            activity.heartbeat(*info.heartbeat_details)

    beating = asyncio.create_task(beat(info.heartbeat_timeout / 3))
    try:
        return await asking
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating


def _status_after(error: BaseException, info: activity.Info) -> FinalStatus:
    if is_cancelled_exception(error):
        details = activity.cancellation_details()
        # Not by its workflow: the worker stops, or the server did not hear of it for too long.
        return "CANCELED" if details and details.cancel_requested else "RETRY_SCHEDULED"
    policy = info.retry_policy
    name = type(error).__name__
    if isinstance(error, ApplicationError):
        if error.non_retryable:
            return "FAILED"
        name = error.type or name
    if policy and (
        name in (policy.non_retryable_error_types or ()) or info.attempt == policy.maximum_attempts
    ):
        return "FAILED"
    return "RETRY_SCHEDULED"
