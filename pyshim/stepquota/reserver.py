"""stepquota.Reserver: units for many threads, taken from the database together."""

from __future__ import annotations

import logging
import os
import threading
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import psycopg
from psycopg import Connection, IsolationLevel

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
from .execution import carry_out
from .results import WorkflowStepQuota, WorkflowStepsQuota

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

__all__ = ["Reserver"]

_logger = logging.getLogger("stepquota")


class Reserver:
    """Takes units for many threads of one process: those who ask at once share one call.

    It works on connections of its own and **commits** what it takes: a unit is not part of any
    transaction of the caller's, and does not come back with a rollback. Everything else is as with
    ``reserve_workflow_step``, and as exact: units go to threads in the order in which they asked,
    and who gets none gets the denial.

    While a call for a tenant is on its way, requests for that tenant queue up, and go together in
    the next one. Nobody waits for a timer. Tenants do not wait for each other, as long as there are
    connections.

        with stepquota.Reserver("postgresql://...") as reserver:
            quota = reserver.reserve("acme")
            if quota.allowed:
                ...

    Close it, best by ``with``, or its last batches are found open later. It belongs to the process
    that made it: make one in each process after forking.
    """

    def __init__(
        self,
        source: str | ConnectionPool[Any],
        *,
        connections: int = 4,
        batch_size: int = 1000,
        prepare: bool = False,
        name: str | None = None,
    ):
        """Make it, with a thread for each connection; nothing is connected yet.

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
            from psycopg_pool import ConnectionPool
        except ImportError:
            raise explain_missing_pool() from None
        if isinstance(source, str):
            self._pool: ConnectionPool[Any] = ConnectionPool(
                source,
                min_size=1,
                max_size=connections,
                kwargs={"autocommit": True},
                open=False,
                name="stepquota-reserver",
            )
        elif isinstance(source, ConnectionPool):
            self._pool = source
        else:
            raise TypeError(
                "stepquota.Reserver takes a conninfo str or a psycopg_pool.ConnectionPool, "
                f"not {type(source).__name__}: {source!r}"
            )
        self._owns_pool = isinstance(source, str)
        self._batch_size = batch_size
        self._prepares = prepare
        self._holder = describe_holder(name)
        self._process = os.getpid()
        self._lines: Lines[_Waiter] = Lines()
        # Held for moments only: what the lines know of batches, and who of two is first, the answer
        # or the waiter that gives up.
        self._lock = threading.Lock()
        # Lines in which somebody may wait while no call is on its way. None makes a worker look up.
        self._ready: SimpleQueue[Line[_Waiter] | None] = SimpleQueue()
        self._is_closed = False
        self._workers = [
            threading.Thread(target=self._work, name=f"stepquota-reserver-{n}", daemon=True)
            for n in range(connections)
        ]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def reserve(self, tenant: Key, timeout: float | None = None) -> WorkflowStepQuota:
        """Take one unit of the tenant's quota, if there is one, and commit it.

        Args:
            tenant: the tenant.
            timeout: how many seconds to wait; None is for as long as it takes.

        Returns:
            The quota. ``used_count`` contains the unit when ``allowed``.

        Raises:
            TimeoutError: it took longer. No unit is used.
            ReserverClosed: the Reserver was closed, or the process is a fork of its own.
            ReservationLost: the connection was lost, and no other could be had.
            InvalidArgument: the tenant is None, empty or longer than 255 bytes.
            psycopg.Error: any other error of the call, for each who shared it.
        """
        if os.getpid() != self._process:
            raise ReserverClosed(
                "this Reserver belongs to the process that this one was forked from; make one in "
                "each process after forking"
            )
        if self._is_closed:
            raise ReserverClosed("the Reserver is closed")
        line = self._lines.get(convert_key("tenant", tenant))
        waiter = _Waiter()
        # Nothing is locked here: an interrupt may come between any two of these statements, and
        # must leave nothing behind that others could stumble over.
        try:
            line.waiting.append(waiter)
            if not line.is_busy:
                self._ready.put(line)
            # Closed since it was looked at above: the workers may be gone already.
            is_answered = waiter.wait(0 if self._is_closed else timeout)
        except BaseException:
            self._leave(waiter, line)
            raise
        if not is_answered and not self._give_up(waiter):
            if self._is_closed and timeout is None:
                raise ReserverClosed("the Reserver is closed")
            raise TimeoutError(f"no answer within {timeout} s")
        return waiter.answer()

    def close(self) -> None:
        """Serve those who wait, close all batches, and take no more requests.

        A pool that was passed in stays open. Safe to call again.
        """
        if os.getpid() != self._process:
            return
        self._is_closed = True
        self._ready.put(None)
        for worker in self._workers:
            worker.join()
        if self._owns_pool:
            self._pool.close()

    def _give_up(self, waiter: _Waiter) -> bool:
        """Let a waiter wait no more; answers whether it was answered before."""
        with self._lock:
            if not waiter.done():
                waiter.is_gone = True
            return not waiter.is_gone

    def _leave(self, waiter: _Waiter, line: Line[_Waiter]) -> None:
        if self._give_up(waiter) and waiter.quota:
            with self._lock:
                line.take_back(waiter.quota)

    # What follows is the workers'.

    def _work(self) -> None:
        lease = _Lease(self._pool)
        is_working = True
        while is_working:
            try:
                is_working = self._do_next(lease)
            except Exception:
                # Nobody else could tell, and whoever waits would wait for ever without this thread.
                _logger.exception("a worker of a Reserver goes on after an error")

    def _do_next(self, lease: _Lease) -> bool:
        """Do what comes next, waiting for it; answers whether there will be more to do."""
        with self._lock:
            closing = self._lines.take_closing(self._is_closed and self._ready.empty())
        if closing:
            self._close_batches(lease, *closing)
            return True
        try:
            line = self._ready.get_nowait()
        except Empty:
            lease.give_up()
            if self._is_closed:
                self._ready.put(None)  # the others may sleep
                return False
            with self._lock:
                seconds = self._lines.seconds_to_closing()
            try:
                line = self._ready.get(timeout=seconds)
            except Empty:
                return True
        if line:
            self._serve(lease, line)
        return True

    def _serve(self, lease: _Lease, line: Line[_Waiter]) -> None:
        with self._lock:
            if line.is_busy:
                return
            line.is_busy = True
            batch = line.make_batch(self._batch_size)
        try:
            if batch:
                self._carry_out(lease, batch)
        finally:
            with self._lock:
                self._lines.rest(line)
            if line.waiting:
                self._ready.put(line)

    def _carry_out(self, lease: _Lease, batch: Batch[_Waiter]) -> None:
        try:
            while True:
                connection = lease.connection()
                try:
                    answer = self._call(connection, batch)
                except psycopg.Error as error:
                    is_lost = connection.closed
                    if is_lost:
                        lease.lose()
                    if not batch.is_to_be_repeated(error, is_lost):
                        raise
                else:
                    with self._lock:
                        batch.hand_out(answer)
                    return
        except BaseException as error:
            with self._lock:
                batch.fail(error)

    def _call(self, connection: Connection[Any], batch: Batch[_Waiter]) -> WorkflowStepsQuota:
        request = batch.make_call(self._holder)
        if not batch.conflicts:
            answer = carry_out(connection, request, self._prepares)
        else:
            # The default level is a stricter one: there, two could go on like that for ever.
            level = connection.isolation_level
            connection.isolation_level = IsolationLevel.READ_COMMITTED
            try:
                with connection.transaction():
                    answer = carry_out(connection, request, self._prepares)
            finally:
                if not connection.closed:
                    connection.isolation_level = level
        return cast(WorkflowStepsQuota, answer)

    def _close_batches(self, lease: _Lease, line: Line[_Waiter], batches: list[Taken]) -> None:
        failed = list(batches)
        try:
            for taken in batches:
                connection = lease.connection()
                try:
                    carry_out(connection, taken.make_call(line.tenant))
                except (UnknownBatch, BatchClosed):
                    pass  # there was none, or an operator was quicker
                except psycopg.Error:
                    if connection.closed:
                        lease.lose()
                    continue
                failed.remove(taken)
        except psycopg.Error:
            pass  # there is no connection now
        finally:
            with self._lock:
                self._lines.finish_closing(line, batches, failed)


class _Waiter:
    """A thread that asked for one unit."""

    __slots__ = ("_answered", "_error", "is_gone", "quota")

    def __init__(self) -> None:
        # A lock that is free as soon as there is an answer: a Condition takes ten times as long.
        self._answered = threading.Lock()
        self._answered.acquire()
        self._error: BaseException | None = None
        self.is_gone = False
        self.quota: WorkflowStepQuota | None = None

    def done(self) -> bool:
        return self.is_gone or self.quota is not None or self._error is not None

    def set_result(self, result: WorkflowStepQuota, /) -> None:
        self.quota = result
        self._answered.release()

    def set_exception(self, exception: BaseException, /) -> None:
        self._error = exception
        self._answered.release()

    def wait(self, timeout: float | None) -> bool:
        if timeout is None:
            return self._answered.acquire()
        return self._answered.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))

    def answer(self) -> WorkflowStepQuota:
        if self._error:
            raise self._error
        assert self.quota
        return self.quota


class _Lease:
    """A connection of the pool in autocommit mode, for as long as there is something to do."""

    def __init__(self, pool: ConnectionPool[Any]):
        self._pool = pool
        self._connection: Connection[Any] | None = None
        self._was_autocommit = True

    def connection(self) -> Connection[Any]:
        if self._connection is None:
            self._pool.open()
            self._connection = self._pool.getconn()
            self._was_autocommit = self._connection.autocommit
            if not self._was_autocommit:
                self._connection.autocommit = True
        return self._connection

    def lose(self) -> None:
        """Its connection is broken, and others of the pool may be."""
        self.give_up()
        self._pool.check()

    def give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection:
            if not self._was_autocommit and not connection.closed:
                connection.autocommit = False
            self._pool.putconn(connection)
