"""stepquota for DBOS: steps ask before each attempt, and workflows rest while there is no quota.

::

    quota = Quota("postgresql://...")

    @quota.step(max_attempts=3)
    def charge(amount: int) -> str: ...

    @DBOS.workflow()
    @quota.workflow
    def order(amount: int) -> str:
        return charge(amount)

Each attempt is a step of DBOS, and asks inside it. If it is refused, the step's record says so, and
the workflow waits by ``DBOS.recv``, durably and for as long as it takes, for the message that
``resume_workflows`` sends. See docs/dbos.md. Needs the extra ``dbos``.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

import psycopg
import sqlalchemy.exc
from dbos import DBOS, DBOSClient, SQLAlchemyDatasource
from dbos import error as errors
from dbos._context import get_local_dbos_context

import stepquota
from stepquota.delivery import logger
from stepquota.errors import RunEnded, StepAlreadyFinished
from stepquota.outages import LEASE, coming_again, make_pool, outlast
from stepquota.results import WorkflowRunResumption

__all__ = ["NoTenant", "Quota", "TimeLimited"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Longer than any billing period.
_NEVER_SECONDS = 10 * 366 * 86400.0

# How long a step's result waits for its finish to be told. Until DBOS has recorded it, the step is
# done again if the process dies.
_TELLING_SECONDS = 30.0

# What a step's record says; strings, so that every serializer can.
_RESTS = "stepquota: rests"
_DONE = "stepquota: done"
_FAILED = "stepquota: failed"

_Record = tuple[str, Any]
_Status = Literal["SUCCEEDED", "FAILED", "RETRY_SCHEDULED"]


class NoTenant(ValueError):
    """A workflow that asks has nobody to ask for."""


class TimeLimited(Exception):
    """A workflow has a timeout, by which DBOS would cancel it while it is paused."""


def _topic(node_path: str) -> str:
    return f"stepquota {node_path}"


class Quota:
    """The adapter. The run is the workflow, by its id; its places are the steps' names and numbers.

    Args:
        database_url: where stepquota is.
        find_tenant: answers the tenant, in a workflow; by default its authenticated user. It must
            answer the same each time the workflow is executed.
        runtime: the runtime of its runs.
        connections: how many connections it may have.
    """

    def __init__(
        self,
        database_url: str,
        find_tenant: Callable[[], str | None] = lambda: DBOS.authenticated_user,
        runtime: str = "dbos",
        connections: int = 4,
    ):
        self._database_url = database_url
        self._find_tenant = find_tenant
        self._runtime = runtime
        self._pool = make_pool(database_url, connections)
        self._loops: set[stepquota.Resumptions] = set()

    def __enter__(self) -> Self:
        self._pool.open()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for loop in self._loops:
            loop.stop()
        self._pool.close()

    def workflow(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """Ends the run when the workflow ends. It goes below ``@DBOS.workflow()``.

        The workflow raises ``TimeLimited``, and does nothing, if it has a timeout; and ``NoTenant``
        if it has no tenant.
        """
        _check_is_synchronous(function)

        @functools.wraps(function)
        def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            _check_has_no_timeout()
            self._key()
            try:
                result = function(*args, **kwargs)
            except errors.DBOSWorkflowCancelledError:
                raise  # it may be resumed; cancel_workflow has ended the run
            except Exception:
                DBOS.run_step({"name": "stepquota.finish"}, self._end, "FAILED")
                raise
            DBOS.run_step({"name": "stepquota.finish"}, self._end, "SUCCEEDED")
            return result

        return run

    def step(
        self,
        *,
        name: str | None = None,
        max_attempts: int = 1,
        interval_seconds: float = 1.0,
        backoff_rate: float = 2.0,
        step_type: str = "action",
    ) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
        """A step, in place of ``@DBOS.step``. Each attempt is a step of DBOS and counts.

        As any step of DBOS, what it does is done again if the process dies before its record is
        written. That is the same attempt, and is not counted again.

        Args:
            name: the step's name; by default the function's.
            max_attempts: how often it is tried.
            interval_seconds: how long after the first failure.
            backoff_rate: by how much longer after each further one.
            step_type: as for ``start_workflow_step``.
        """

        def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
            step_name = name or function.__name__
            _check_is_synchronous(function)

            @functools.wraps(function)
            def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
                path = self._draw_path(step_name)

                def attempt(number: int) -> _Record:
                    return self._attempt(
                        *(path, number, step_type, number == max_attempts),
                        lambda: function(*args, **kwargs),
                    )

                return self._try(
                    lambda number: DBOS.run_step({"name": step_name}, attempt, number),
                    *(path, max_attempts, interval_seconds, backoff_rate),
                )

            return call

        return decorate

    def transaction(
        self,
        datasource: SQLAlchemyDatasource,
        *,
        name: str | None = None,
        max_attempts: int = 1,
        interval_seconds: float = 1.0,
        backoff_rate: float = 2.0,
        isolation_level: Literal[
            "SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED"
        ] = "READ COMMITTED",
    ) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
        """A step whose work is a transaction of a datasource, in stepquota's own database.

        The reservation, what the function does by ``datasource.sql_session()`` and DBOS's record
        are committed together: the step is done once, and counted once. Of an attempt that fails,
        the function's work is undone, and the reservation stays.
        """

        def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
            step_name = name or function.__name__
            _check_is_synchronous(function)

            @functools.wraps(function)
            def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Any:
                path = self._draw_path(step_name)

                def attempt(number: int) -> _Record:
                    session = datasource.sql_session()
                    own = session.connection()
                    connection = own.connection.driver_connection
                    assert isinstance(connection, psycopg.Connection)
                    if not self._start(connection, path, number, "action"):
                        return _RESTS, None
                    status: _Status = "SUCCEEDED"
                    record: _Record
                    try:
                        with session.begin_nested():
                            record = _DONE, function(*args, **kwargs)
                    except Exception as error:
                        if own.invalidated:
                            # Nothing of it is left. DBOS does the transaction anew, here and where
                            # we find the connection lost, since it cannot be rolled back either.
                            raise
                        status = _failure(number == max_attempts)
                        record = _FAILED, error
                    self._finish(connection, path, number, status)
                    return record

                options: Any = {"name": step_name, "isolation_level": isolation_level}
                return self._try(
                    lambda number: datasource.run_tx_step(options, attempt, number),
                    *(path, max_attempts, interval_seconds, backoff_rate),
                )

            return call

        return decorate

    def wait(
        self,
        name: str,
        wait_type: Literal["event", "human", "retry", "time", "timeout"] = "event",
        due_at: datetime | None = None,
    ) -> Any:
        """Wait, in a workflow, until ``resolve_workflow_run_wait`` is called; counts once.

        Args:
            name: the step's name.
            wait_type: what for.
            due_at: when it resolves by itself; it must be the same in each execution.

        Returns:
            What it was resolved with.
        """
        path = self._draw_path(name)

        def open_wait(connection: psycopg.Connection[Any]) -> bool:
            if not self._start(connection, path, 1, wait_type):
                return False
            stepquota.open_workflow_run_wait(connection, *self._key(), path, wait_type, due_at)
            return True

        def enter(_: int) -> _Record:
            return (_DONE if self._outlast(open_wait, path, "entered") else _RESTS), None

        def leave() -> None:
            self._outlast(lambda c: self._finish(c, path, 1, "SUCCEEDED"), path, "left")

        self._try(lambda number: DBOS.run_step({"name": name}, enter, number), path, 1, 0, 1)
        payload = DBOS.recv(_topic(path), _NEVER_SECONDS)
        DBOS.run_step({"name": "stepquota.leave"}, leave)
        return payload

    def resume_workflows(self, client: DBOSClient, worker: str = "dbos") -> None:
        """Take resumptions and send their workflows their messages, until the quota is closed.

        Run it in a thread, or in a small process of its own. What fails is logged and done again,
        and a database that is away is waited for.

        Args:
            client: of the same system database.
            worker: who claims, for people.
        """
        self._pool.open()
        with stepquota.resumptions(
            self._database_url, worker, runtime=self._runtime, max_runs=100, lease=LEASE
        ) as loop:
            self._loops.add(loop)
            for resumption in loop:
                with coming_again(resumption, sqlalchemy.exc.DBAPIError):
                    self._resume(client, resumption)

    def _resume(self, client: DBOSClient, resumption: WorkflowRunResumption) -> None:
        for path in resumption.node_paths:
            try:
                client.send(
                    resumption.run_id,
                    resumption.payload,
                    _topic(path),
                    f"{resumption.resumption_id} {path}",
                )
            except errors.DBOSNonExistentWorkflowError:
                break
        with self._pool.connection() as connection:
            stepquota.acknowledge_workflow_run_resumption(
                connection, resumption.tenant, resumption.resumption_id
            )

    def cancel_workflow(self, client: DBOSClient, tenant: str, workflow_id: str) -> None:
        """Cancel a workflow in both. It cannot be resumed after that."""
        with self._pool.connection() as connection:
            stepquota.cancel_workflow_run(connection, tenant, workflow_id)
        client.cancel_workflow(workflow_id)

    def _key(self) -> tuple[str, str]:
        workflow_id, tenant = DBOS.workflow_id, self._find_tenant()
        if not (workflow_id and tenant):
            raise NoTenant(
                f"workflow {workflow_id} has no tenant: start it with an authenticated user, or "
                "give Quota a find_tenant"
            )
        return tenant, workflow_id

    @staticmethod
    def _draw_path(name: str) -> str:
        _check_has_no_timeout()
        # DBOS numbers what a workflow does in the same way each time it is executed.
        return f"{name}[{DBOS.reserve_step().step_id}]"

    @staticmethod
    def _try(
        attempt: Callable[[int], _Record],
        path: str,
        max_attempts: int,
        interval_seconds: float,
        backoff_rate: float,
    ) -> Any:
        number = 1
        while True:
            said, value = attempt(number)
            if said == _RESTS:
                DBOS.recv(_topic(path), _NEVER_SECONDS)
            elif said == _DONE:
                return value
            elif number == max_attempts:
                raise value
            else:
                if interval_seconds:
                    DBOS.sleep(interval_seconds * backoff_rate ** (number - 1))
                number += 1

    def _attempt(
        self,
        path: str,
        number: int,
        step_type: str,
        is_last: bool,
        function: Callable[[], Any],
    ) -> _Record:
        def start(connection: psycopg.Connection[Any]) -> bool:
            return self._start(connection, path, number, step_type)

        if not self._outlast(start, path, "started"):
            return _RESTS, None
        try:
            result = function()
        except Exception as error:
            self._tell(path, number, _failure(is_last))
            return _FAILED, error
        self._tell(path, number, "SUCCEEDED")
        return _DONE, result

    def _outlast(
        self,
        call: Callable[[psycopg.Connection[Any]], Result],
        path: str,
        done: str,
        seconds: float = math.inf,
    ) -> Result:
        return outlast(self._pool, call, f"{path} of workflow {DBOS.workflow_id}", done, seconds)

    def _tell(self, path: str, number: int, status: _Status) -> None:
        """Finish an attempt, or else say so: what has been done stays done."""

        def finish(connection: psycopg.Connection[Any]) -> None:
            self._finish(connection, path, number, status)

        try:
            self._outlast(finish, path, "finished", _TELLING_SECONDS)
        except psycopg.Error as error:
            logger.warning(
                "attempt %s of %s of workflow %s is %s, and stays STARTED: %s",
                *(number, path, DBOS.workflow_id, status, str(error).strip()),
            )

    def _start(
        self, connection: psycopg.Connection[Any], path: str, number: int, step_type: str
    ) -> bool:
        tenant, run_id = self._key()
        stepquota.register_workflow_run(connection, tenant, run_id, None, self._runtime)
        start = stepquota.start_workflow_step(connection, tenant, run_id, path, number, step_type)
        # One that has finished is here again since its record is missing: DBOS wants its result.
        return start.outcome not in ("quota_paused", "held")

    def _finish(
        self,
        connection: psycopg.Connection[Any],
        path: str,
        number: int,
        status: _Status,
    ) -> None:
        try:
            with connection.transaction():
                stepquota.finish_workflow_step(connection, *self._key(), path, number, status)
        except (RunEnded, StepAlreadyFinished):
            # It was cancelled meanwhile; or it is done again, and ends in another way now.
            pass

    def _end(self, status: Literal["SUCCEEDED", "FAILED"]) -> None:
        key = self._key()

        def end(connection: psycopg.Connection[Any]) -> None:
            # A workflow without a metered step is no run yet.
            stepquota.register_workflow_run(connection, *key, None, self._runtime)
            try:
                with connection.transaction():
                    stepquota.finish_workflow_run(connection, *key, status)
            except RunEnded:
                pass

        outlast(self._pool, end, f"workflow {key[1]}", "finished")


def _failure(is_last: bool) -> _Status:
    return "FAILED" if is_last else "RETRY_SCHEDULED"


def _check_has_no_timeout() -> None:
    # Its own, or its parent's. To ask DBOS.get_workflow_status would be a step of the workflow.
    context = get_local_dbos_context()
    if context and context.workflow_deadline_epoch_ms is not None:
        raise TimeLimited(
            f"workflow {DBOS.workflow_id} has a timeout, by which DBOS would cancel it while it "
            "waits for its tenant's quota: start it without one"
        )


def _check_is_synchronous(function: Callable[..., Any]) -> None:
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{function.__qualname__} is a coroutine function, which is not supported")
