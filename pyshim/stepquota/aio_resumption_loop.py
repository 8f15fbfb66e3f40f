"""stepquota.aio.resumptions: the loop of a worker that goes on with resumed runs, for asyncio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .arguments import Key
from .delivery import (
    ASK_FOR_BACKEND,
    GLANCE_SECONDS,
    LISTEN,
    Hand,
    Patience,
    Wishes,
    is_passing,
    logger,
)
from .execution import carry_out_async
from .results import WorkflowRunResumption

__all__ = ["Resumptions", "resumptions"]


def resumptions(
    source: str | Callable[[], Awaitable[AsyncConnection[Any]]],
    worker: str,
    *,
    runtime: str = "default",
    tenant: Key | None = None,
    max_runs: int = 1,
    lease: timedelta = timedelta(minutes=1),
    poll_seconds: float = 1.0,
    listen: bool = True,
) -> Resumptions:
    """Claim runs to go on with, one after the other, for as long as the worker lives.

    It works on a connection of its own and **commits** each claim before it hands the run out::

        async with stepquota.aio.resumptions("postgresql://...", "worker-1") as loop:
            async for resumption in loop:
                await go_on(resumption.tenant, resumption.run_id, resumption.delivery)

    It looks for resumptions every ``poll_seconds``, and at once when it hears of new ones, where
    the connection allows it to listen: behind a pooler, which it notices, it only polls. When the
    connection is lost, or the server is not there, it says so in the log ``stepquota`` and tries
    again, after 0.1 seconds at first and 5 at most; it never gives up.

    Args:
        source: where the database is, as psycopg takes it; or a coroutine
            function that makes a connection.
        worker: who claims, for people.
        runtime: the program family that asks.
        tenant: only this tenant's runs; None is all tenants'.
        max_runs: how many are claimed at once, from 1 to 10000. More than 1 saves round trips, and
            keeps runs from other workers that wait here for their turn.
        lease: until when a claimed run must have entered its paths again, at most a day. It is not
            made longer. A run whose turn comes when hardly anything of its lease is left is not
            handed out: it is delivered again.
        poll_seconds: how often to look without having heard anything.
        listen: whether to listen where that is possible.

    Returns:
        The loop, to iterate over in one task. It may be cancelled, and closes its connection then.

    Raises:
        ValueError: poll_seconds is not above 0.
        InvalidArgument: when it is iterated over: a name is None, empty or too long, or a number is
            out of range.
        psycopg.Error: when it is iterated over: what no other connection would do better, such as a
            right that is missing.
    """
    wishes = Wishes(worker, runtime, tenant, max_runs, lease, poll_seconds, listen)
    return Resumptions(source, wishes)


class Resumptions(AsyncIterator[WorkflowRunResumption]):
    """What ``stepquota.aio.resumptions`` returns: an iterator that can be closed."""

    def __init__(self, source: str | Callable[[], Awaitable[AsyncConnection[Any]]], wishes: Wishes):
        self._source = source
        self._wishes = wishes
        self._connection: AsyncConnection[Any] | None = None
        self._is_listening = False
        self._hand = Hand()
        self._patience = Patience()
        self._stopped = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        await self._disconnect()

    async def __anext__(self) -> WorkflowRunResumption:
        while not self._stopped.is_set():
            if resumption := self._hand.take(time.monotonic()):
                return resumption
            try:
                connection = await self._connect()
                asked_at = time.monotonic()
                claimed = await carry_out_async(connection, self._wishes.claim())
                self._patience.after_success()
                self._hand.put(claimed, asked_at, self._wishes.lease)
                if not claimed:
                    await self._wait(connection)
            except psycopg.Error as error:
                await self._disconnect()
                if not is_passing(error):
                    raise
                await self._pause(self._patience.after_failure(error))
        await self._disconnect()
        raise StopAsyncIteration

    @property
    def is_listening(self) -> bool:
        """Whether it hears of new resumptions now; otherwise it only polls."""
        return self._is_listening

    def stop(self) -> None:
        """End the loop: the iteration stops within a quarter of a second, or when it is asked next.

        For the event loop's own thread and its handlers of signals. Runs that were claimed and not
        handed out are delivered again when their lease ends.
        """
        self._stopped.set()

    async def _connect(self) -> AsyncConnection[Any]:
        if self._connection and not self._connection.closed:
            return self._connection
        await self._disconnect()
        if isinstance(self._source, str):
            connection: AsyncConnection[Any] = await AsyncConnection.connect(
                self._source, autocommit=True
            )
        else:
            connection = await self._source()
        self._connection = connection
        if not connection.autocommit:
            await connection.set_autocommit(True)
        if self._wishes.listens:
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(ASK_FOR_BACKEND, prepare=False)
                backend = await cursor.fetchone()
                if backend == (connection.info.backend_pid,):
                    await cursor.execute(LISTEN, prepare=False)
                    self._is_listening = True
                else:
                    logger.info("there is a pooler before the server: polling for resumptions")
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._is_listening = False
        if connection:
            await connection.close()

    async def _wait(self, connection: AsyncConnection[Any]) -> None:
        until = time.monotonic() + self._wishes.poll_seconds
        while not self._stopped.is_set() and (left := until - time.monotonic()) > 0:
            if not self._is_listening:
                await self._pause(left)
                return
            # Also what was heard while it claimed.
            async for _ in connection.notifies(timeout=min(left, GLANCE_SECONDS), stop_after=1):
                return

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
