"""How a call is carried out on the caller's connection, inside its transaction, in both flavours.

Nothing here commits, begins a transaction or changes a setting. A connection that is not in
autocommit mode begins its transaction with the first statement, as psycopg always does.
"""

import inspect
import json
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.postgres import register_default_adapters
from psycopg.pq import Format, PipelineStatus, TransactionStatus
from psycopg.types.array import ArrayBinaryLoader, register_all_arrays
from psycopg.types.datetime import TimestamptzBinaryLoader

from .calls import Call
from .errors import StepquotaError

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")


def synchronous(
    build: Callable[Parameters, Call[Answer]],
) -> Callable[Concatenate[Connection[Any], Parameters], Answer]:
    """The function that carries out a call on a psycopg.Connection."""

    @wraps(build)
    def call(
        connection: Connection[Any], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Any:
        return carry_out(connection, build(*args, **kwargs))

    _sign(call, build, Connection, "stepquota")
    return call


def asynchronous(
    build: Callable[Parameters, Call[Answer]],
) -> Callable[Concatenate[AsyncConnection[Any], Parameters], Coroutine[Any, Any, Answer]]:
    """The coroutine function that carries out a call on a psycopg.AsyncConnection."""

    @wraps(build)
    async def call(
        connection: AsyncConnection[Any], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Any:
        return await carry_out_async(connection, build(*args, **kwargs))

    _sign(call, build, AsyncConnection, "stepquota.aio")
    return call


# Statements are not prepared unless that is asked for: through a PgBouncer in transaction mode the
# next one may reach another server process, and a prepared one would break when an upgrade changes
# what it answers. Results are asked for in binary form, which no DateStyle changes.


def carry_out(connection: Connection[Any], request: Call[Answer], prepare: bool = False) -> Any:
    """Carry out a call; it answers an Answer, or None for a procedure."""
    _check_connection(connection, Connection, request)
    try:
        with _Cursor(connection, row_factory=request.make_row) as cursor:
            cursor.execute(request.statement, request.parameters, prepare=prepare, binary=True)
            return request.make_answer and request.make_answer(cursor.fetchall())
    except psycopg.Error as error:
        if translated := _translate(error, connection):
            raise translated from error
        raise


async def carry_out_async(
    connection: AsyncConnection[Any], request: Call[Answer], prepare: bool = False
) -> Any:
    """The same for asyncio."""
    _check_connection(connection, AsyncConnection, request)
    try:
        async with _AsyncCursor(connection, row_factory=request.make_row) as cursor:
            await cursor.execute(
                request.statement, request.parameters, prepare=prepare, binary=True
            )
            return request.make_answer and request.make_answer(await cursor.fetchall())
    except psycopg.Error as error:
        if translated := _translate(error, connection):
            raise translated from error
        raise


class _UtcLoader(TimestamptzBinaryLoader):
    """Reads moments as UTC: in the session's zone, differences over a clock change are wrong."""

    def __init__(self, oid: int, context: AdaptContext | None = None):
        super().__init__(oid, None)


class _JsonLoader(Loader):
    """Reads JSON in the session's encoding, which need not be UTF-8."""

    format = Format.BINARY

    def __init__(self, oid: int, context: AdaptContext | None = None):
        super().__init__(oid, context)
        self._encoding = self.connection.info.encoding if self.connection else "utf-8"

    def load(self, data: Buffer) -> Any:
        # The first byte is the version of the binary form.
        return json.loads(bytes(data)[1:].decode(self._encoding))


class _TupleLoader(ArrayBinaryLoader):
    """Reads arrays as tuples, since the results are frozen."""

    def load(self, data: Buffer) -> Any:
        return tuple(super().load(data))


def _make_adapters() -> AdaptersMap:
    # psycopg's own conversions, untouched by what the application has registered for its connection
    # or for the process: the results' types are promised.
    adapters = AdaptersMap(types=psycopg.adapters.types)
    register_default_adapters(adapters)
    register_all_arrays(adapters)
    adapters.register_loader("timestamptz", _UtcLoader)
    adapters.register_loader("jsonb", _JsonLoader)
    adapters.register_loader(adapters.types["text"].array_oid, _TupleLoader)
    return adapters


_ADAPTERS = _make_adapters()


class _Cursor(Cursor[Any]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


class _AsyncCursor(AsyncCursor[Any]):
    @property
    def adapters(self) -> AdaptersMap:
        return _ADAPTERS


def _check_connection(
    connection: Connection[Any] | AsyncConnection[Any], expected: type[Any], request: Call[Any]
) -> None:
    if not isinstance(connection, expected):
        module = "stepquota" if expected is Connection else "stepquota.aio"
        raise TypeError(
            f"{module}.{request.function} takes a psycopg.{expected.__name__}, "
            f"not {type(connection).__name__}: {connection!r}"
        )
    if request.make_answer is None and (obstacle := _obstacle_to_commits(connection)):
        raise psycopg.ProgrammingError(
            f"{request.function} commits as it goes, and the connection {obstacle}"
        )


def _obstacle_to_commits(connection: Connection[Any] | AsyncConnection[Any]) -> str | None:
    if connection.closed:
        return None  # psycopg says so better
    if not connection.autocommit:
        return "is not in autocommit mode; use one made by psycopg.connect(..., autocommit=True)"
    if connection.pgconn.pipeline_status != PipelineStatus.OFF:
        return "is in pipeline mode; leave its pipeline() block first"
    if connection.info.transaction_status != TransactionStatus.IDLE:
        return "is in a transaction; call it outside transaction() blocks"
    return None


def _translate(
    error: psycopg.Error, connection: Connection[Any] | AsyncConnection[Any]
) -> StepquotaError | None:
    sqlstate = error.sqlstate or ""
    if not sqlstate.startswith("WQ"):
        return None
    class_ = StepquotaError.by_sqlstate.get(sqlstate, StepquotaError)
    return class_(str(error), info=error.pgresult, encoding=connection.info.encoding)


def _sign(
    call: Callable[..., Any], build: Callable[..., Any], connection: type[Any], module: str
) -> None:
    # What help() and editors show: the connection, then the parameters, and the answer of the call.
    signature = inspect.signature(build)
    (answer,) = get_args(signature.return_annotation)
    first = inspect.Parameter(
        "connection", inspect.Parameter.POSITIONAL_ONLY, annotation=connection
    )
    signature = signature.replace(
        parameters=[first, *signature.parameters.values()], return_annotation=answer
    )
    del call.__dict__["__wrapped__"]
    call.__dict__["__signature__"] = signature
    call.__module__ = module
    call.__annotations__ = {
        **{name: parameter.annotation for name, parameter in signature.parameters.items()},
        "return": answer,
    }
