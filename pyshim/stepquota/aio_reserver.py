"""stepquota.aio.Reserver: units for many tasks, taken from the database together."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg
from psycopg import AsyncConnection, IsolationLevel

from .arguments import Key, convert_key
from .batching import (
    Batch,
    Line,
    Lines,
    ReserverClosed,
    Taken,
    check_sizes,
    describe_holder,
    explain_missing_pool,
)
from .errors import BatchClosed, UnknownBatch
from .execution import carry_out_async
from .results import WorkflowStepQuota, WorkflowStepsQuota

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

__all__ = ["Reserver"]

_Future = asyncio.Future[WorkflowStepQuota]


class Reserver:
    """Takes units for many tasks of one event loop: those who ask at once share one call.

    It works on connections of its own and **commits** what it takes: a unit is not part of any
    transaction of the caller's, and does not come back with a rollback. Everything else is as with
    ``reserve_workflow_step``, and as exact: units go to tasks in the order in which they asked,
    and who gets none gets the denial.

    While a call for a tenant is on its way, requests for that tenant queue up, and go together in
    the next one. Nobody waits for a timer. Tenants do not wait for each other, as long as there are
    connections.

        async with stepquota.aio.Reserver("postgresql://...") as reserver:
            quota = await reserver.reserve("acme")
            if quota.allowed:
                ...

    Close it, best by ``async with``, or its last batches are found open later. It belongs to the
    event loop that it is first used in.
    """

    def __init__(
        self,
        source: str | AsyncConnectionPool[Any],
        *,
        connections: int = 4,
        batch_size: int = 1000,
        prepare: bool = False,
        name: str | None = None,
    ):
        """Make it; nothing is connected yet.

        Args:
            source: where the database is, as psycopg takes it; or a pool, which stays the caller's.
            connections: how many calls may be on their way at once, each for another tenant.
            batch_size: how many units one call may take.
            prepare: whether the call is a prepared statement, which is faster. Not through a
                PgBouncer in transaction mode that does not support them.
            name: who this is, for people who find a batch open.

        Raises:
            ImportError: the package psycopg-pool is not installed.
        """
        check_sizes(connections, batch_size)
        try:
            from psycopg_pool import AsyncConnectionPool
        except ImportError:
            raise explain_missing_pool() from None
        if isinstance(source, str):
            self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
                source,
                min_size=1,
                max_size=connections,
                kwargs={"autocommit": True},
                open=False,
                name="stepquota-reserver",
            )
        elif isinstance(source, AsyncConnectionPool):
            self._pool = source
        else:
            raise TypeError(
                "stepquota.aio.Reserver takes a conninfo str or a psycopg_pool.AsyncConnectionPool,"
                f" not {type(source).__name__}: {source!r}"
            )
        self._owns_pool = isinstance(source, str)
        self._connections = connections
        self._batch_size = batch_size
        self._prepares = prepare
        self._holder = describe_holder(name)
        self._lines: Lines[_Future] = Lines()
        self._ready: deque[Line[_Future]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._working = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._use_loop()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def reserve(self, tenant: Key, timeout: float | None = None) -> WorkflowStepQuota:  # noqa: ASYNC109
        """Take one unit of the tenant's quota, if there is one, and commit it.

        Args:
            tenant: the tenant.
            timeout: how many seconds to wait; None is for as long as it takes.

        Returns:
            The quota. ``used_count`` contains the unit when ``allowed``.

        Raises:
            TimeoutError: it took longer. No unit is used.
            ReserverClosed: the Reserver was closed.
            ReservationLost: the connection was lost, and no other could be had.
            InvalidArgument: the tenant is None, empty or longer than 255 bytes.
            psycopg.Error: any other error of the call, for each who shared it.
        """
        if timeout is not None:
            async with asyncio.timeout(timeout):
                return await self.reserve(tenant)
        loop = self._loop
        if loop is None or self._is_closed or loop is not asyncio.get_running_loop():
            loop = self._use_loop()
        line = self._lines.get(tenant if type(tenant) is str else convert_key("tenant", tenant))
        future: _Future = loop.create_future()
        line.waiting.append(future)
        if not line.is_busy:
            line.is_busy = True
            self._ready.append(line)
            self._hire(loop)
        try:
            return await future
        except asyncio.CancelledError:
            # Cancelled after the answer was given and before it was received.
            if future.done() and not future.cancelled() and not future.exception():
                line.take_back(future.result())
            raise

    async def close(self) -> None:
        """Serve those who wait, close all batches, and take no more requests.

        A pool that was passed in stays open. Safe to call again.
        """
        loop = self._use_loop(may_be_closed=True)
        self._is_closed = True
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._workers or self._lines.seconds_to_closing() is not None:
            if not self._workers:
                self._hire(loop)
            await asyncio.wait(self._workers)
        if self._owns_pool:
            await self._pool.close()

    def _use_loop(self, may_be_closed: bool = False) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise ReserverClosed(
                "this Reserver belongs to another event loop; make one in each loop, and in each "
                "process after forking"
            )
        if self._is_closed and not may_be_closed:
            raise ReserverClosed("the Reserver is closed")
        return loop

    def _hire(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._working < self._connections:
            self._working += 1
            worker = loop.create_task(self._work(), name="stepquota-reserver")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        lease = _Lease(self._pool)
        is_working = True
        try:
            while is_working:
                if closing := self._lines.take_closing(self._is_closed and not self._ready):
                    await self._close_batches(lease, *closing)
                elif self._ready:
                    await self._serve(lease, self._ready.popleft())
                else:
                    is_working = False
        finally:
            # Before anything is awaited, or a new line could count on this worker.
            self._working -= 1
            self._wait_for_closing()
            await lease.give_up()

    def _wait_for_closing(self) -> None:
        seconds = self._lines.seconds_to_closing()
        if seconds is not None and not self._timer and not self._is_closed and self._loop:
            self._timer = self._loop.call_later(seconds, self._close_idle)

    def _close_idle(self) -> None:
        self._timer = None
        if self._loop:
            self._hire(self._loop)

    async def _serve(self, lease: _Lease, line: Line[_Future]) -> None:
        try:
            batch = line.make_batch(self._batch_size)
            if batch:
                await self._carry_out(lease, batch)
                # Who was answered and asks again at once is part of the next call.
                await asyncio.sleep(0)
        finally:
            if line.waiting:
                self._ready.append(line)
            else:
                self._lines.rest(line)

    async def _carry_out(self, lease: _Lease, batch: Batch[_Future]) -> None:
        try:
            while True:
                connection = await lease.connection()
                try:
                    answer = await self._call(connection, batch)
                except psycopg.Error as error:
                    is_lost = connection.closed
                    if is_lost:
                        await lease.lose()
                    if not batch.is_to_be_repeated(error, is_lost):
                        raise
                else:
                    batch.hand_out(answer)
                    return
        except BaseException as error:
            batch.fail(error)
            if not isinstance(error, Exception):
                raise

    async def _call(
        self, connection: AsyncConnection[Any], batch: Batch[_Future]
    ) -> WorkflowStepsQuota:
        request = batch.make_call(self._holder)
        if not batch.conflicts:
            answer = await carry_out_async(connection, request, self._prepares)
        else:
            # The default level is a stricter one: there, two could go on like that for ever.
            level = connection.isolation_level
            await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
            try:
                async with connection.transaction():
                    answer = await carry_out_async(connection, request, self._prepares)
            finally:
                if not connection.closed:
                    await connection.set_isolation_level(level)
        return cast(WorkflowStepsQuota, answer)

    async def _close_batches(
        self, lease: _Lease, line: Line[_Future], batches: list[Taken]
    ) -> None:
        failed = list(batches)
        try:
            for taken in batches:
                connection = await lease.connection()
                try:
                    await carry_out_async(connection, taken.make_call(line.tenant))
                except (UnknownBatch, BatchClosed):
                    pass  # there was none, or an operator was quicker
                except psycopg.Error:
                    if connection.closed:
                        await lease.lose()
                    continue
                failed.remove(taken)
        except psycopg.Error:
            pass  # there is no connection now
        finally:
            self._lines.finish_closing(line, batches, failed)


class _Lease:
    """A connection of the pool in autocommit mode, for as long as there is something to do."""

    def __init__(self, pool: AsyncConnectionPool[Any]):
        self._pool = pool
        self._connection: AsyncConnection[Any] | None = None
        self._was_autocommit = True

    async def connection(self) -> AsyncConnection[Any]:
        if self._connection is None:
            await self._pool.open()
            self._connection = await self._pool.getconn()
            self._was_autocommit = self._connection.autocommit
            if not self._was_autocommit:
                await self._connection.set_autocommit(True)
        return self._connection

    async def lose(self) -> None:
        """Its connection is broken, and others of the pool may be."""
        await self.give_up()
        await self._pool.check()

    async def give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            if not self._was_autocommit and not connection.closed:
                await connection.set_autocommit(False)
            await self._pool.putconn(connection)
