"""What the adapters share: their database may be away for a while, and that fails no run.

Connections that died in the pool are noticed before they are handed out. What must be said waits
until the database is there. A resumption that could not be handed over comes again when its lease
ends. Needs psycopg_pool, which each adapter's extra brings.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed

from .delivery import Patience, is_passing, logger
from .results import WorkflowRunResumption

Pool = ConnectionPool[Connection[Any]]
AsyncPool = AsyncConnectionPool[AsyncConnection[Any]]
Result = TypeVar("Result")

# Until when a resumption is delivered again that could not be handed over.
LEASE = timedelta(seconds=20)

# How long a call waits for a connection. The pool itself would try again after pauses that double
# for minutes; so it gives up, and each call has it begin anew.
CONNECTING_SECONDS = 10.0


def make_pool(database_url: str, connections: int) -> Pool:
    """A pool to be opened, which hands out no connection that the server has dropped."""
    return ConnectionPool(
        database_url,
        min_size=1,
        max_size=connections,
        timeout=CONNECTING_SECONDS,
        reconnect_timeout=CONNECTING_SECONDS,
        check=ConnectionPool.check_connection,
        open=False,
    )


def make_async_pool(database_url: str, connections: int, *, autocommit: bool = False) -> AsyncPool:
    """The same for asyncio."""
    return AsyncConnectionPool(
        database_url,
        min_size=1,
        max_size=connections,
        timeout=CONNECTING_SECONDS,
        reconnect_timeout=CONNECTING_SECONDS,
        check=AsyncConnectionPool.check_connection,
        kwargs={"autocommit": autocommit},
        open=False,
    )


def outlast(
    pool: Pool,
    call: Callable[[Connection[Any]], Result],
    what: str,
    done: str,
    seconds: float = math.inf,
) -> Result:
    """Call in a transaction; again and again while the database is away.

    Args:
        pool: where connections come from.
        call: it may be carried out several times, also after a commit whose answer was lost.
        what: what cannot be done meanwhile, for the log.
        done: the verb of it.
        seconds: for how long; the last error is raised then.
    """
    patience, until = Patience(what, done), time.monotonic() + seconds
    while True:
        try:
            with pool.connection() as connection:
                result = call(connection)
        except psycopg.Error as error:
            if _is_final(error, until):
                raise
            time.sleep(patience.after_failure(error))
        else:
            patience.after_success()
            return result


async def outlast_async(
    pool: AsyncPool,
    call: Callable[[AsyncConnection[Any]], Awaitable[Result]],
    what: str,
    done: str,
    seconds: float = math.inf,
) -> Result:
    """The same for asyncio."""
    patience, until = Patience(what, done), time.monotonic() + seconds
    while True:
        try:
            async with pool.connection() as connection:
                result = await call(connection)
        except psycopg.Error as error:
            if _is_final(error, until):
                raise
            await asyncio.sleep(patience.after_failure(error))
        else:
            patience.after_success()
            return result


def _is_final(error: psycopg.Error, until: float) -> bool:
    return not is_passing(error) or isinstance(error, PoolClosed) or time.monotonic() > until


@contextmanager
def coming_again(resumption: WorkflowRunResumption, *expected: type[Exception]) -> Iterator[None]:
    """What fails in the block is logged: the end of its lease brings the resumption back.

    Args:
        resumption: what is handed over in the block.
        expected: errors beside the database's that need no traceback.
    """
    try:
        yield
    except Exception as error:
        logger.warning(
            "run %s of tenant %s could not be resumed, and will be again: %s",
            *(resumption.run_id, resumption.tenant, str(error).strip()),
            exc_info=not isinstance(error, (psycopg.Error, *expected)),
        )
