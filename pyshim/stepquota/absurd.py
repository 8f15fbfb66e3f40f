"""stepquota for Absurd: steps ask before they start, and tasks sleep while there is no quota.

::

    quota = Quota("postgresql://...")
    app = Absurd("postgresql://...", hooks=quota.hooks)

    with quota:
        threading.Thread(target=quota.resume_tasks, daemon=True).start()
        app.start_worker()

    app.spawn("order", {"amount": 17}, headers={"tenant": "acme"})

Nothing in a task changes. Absurd tries a task again as a whole, and passes over steps that have a
checkpoint: attempt n of a step is the one in attempt n of its task. A step that is refused has its
task await an event, written together with the pause. It holds no worker and uses up no attempt.
``resume_tasks`` emits that event. See docs/absurd.md. Needs the extra ``absurd``.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, LiteralString, Self

import psycopg
from absurd_sdk import (
    AbsurdHooks,
    AsyncTaskContext,
    CancelledTask,
    FailedTask,
    SpawnOptions,
    StepHandle,
    SuspendTask,
    TaskContext,
)
from absurd_sdk import TimeoutError as TimedOut
from psycopg import sql
from psycopg.rows import tuple_row

import stepquota
from stepquota.errors import RunEnded, StepAlreadyFinished, UnknownRun, WaitNotResolvable
from stepquota.outages import LEASE, Pool, coming_again, make_pool
from stepquota.results import WorkflowRunResumption

__all__ = ["Quota", "Run", "TimeLimited", "describe_task"]

# The events that tasks await while they are paused begin so. A task's checkpoint of this name says
# whose it is, and which steps had been started and not finished when the last one was started.
_PREFIX = "stepquota"

# Refused if the claim is lost, and longer from now on: the wait for a unit must not cost it.
_HOLD_CLAIM = "select absurd.extend_claim(%s, %s, %s)"
_SAVE = "select absurd.set_task_checkpoint_state(%s, %s, %s, %s, %s, %s)"
_FIND_SAVED = "select state from absurd.get_task_checkpoint_state(%s, %s, %s)"
_AWAIT = "select should_suspend from absurd.await_event(%s, %s, %s, %s, %s)"
_EMIT = "select absurd.emit_event(%s, %s, %s)"
# An event happens but once in Absurd, and a step may be paused again.
_UNEMIT = "delete from absurd.{events} where event_name = %s"
_CANCEL = "select absurd.cancel_task(%s, %s)"
_LOST = {"AB001": CancelledTask, "AB002": FailedTask}
_TIME_LIMIT = "select cancellation ->> 'max_duration' from absurd.{tasks} where task_id = %s"
# The checkpoint also says that a task's run has been ended, so that each is looked at once.
_LIST_ENDED = """
select t.task_id, t.state, c.state
  from absurd.{tasks} t
  join absurd.{checkpoints} c on c.task_id = t.task_id and c.checkpoint_name = %s
 where t.state in ('failed', 'cancelled') and not c.state ? 'ended'
 limit %s
   for update of c skip locked
"""
_MARK_ENDED = """
update absurd.{checkpoints}
   set state = state || '{{"ended": true}}'
 where task_id = any (%s) and checkpoint_name = %s
"""
_ENDED_AT_ONCE = 100

Context = TaskContext | AsyncTaskContext
WaitType = Literal["event", "human", "retry", "time", "timeout"]
_Entered = dict[str, Any]
_Status = Literal["SUCCEEDED", "FAILED", "RETRY_SCHEDULED"]


class TimeLimited(Exception):
    """A metered task has a ``max_duration``, which Absurd would cancel it by while it is paused."""


@dataclass(frozen=True)
class Run:
    """What a task is to stepquota.

    Attributes:
        tenant: whose quota it is.
        run_id: the run.
    """

    tenant: str
    run_id: str


def describe_task(context: Context) -> Run | None:
    """A run by the task's headers ``tenant`` and ``run_id``.

    Without ``run_id`` it is the task's id. Without ``tenant`` the task is not metered.
    """
    headers = context.headers
    if not headers.get("tenant"):
        return None
    return Run(str(headers["tenant"]), str(headers.get("run_id") or context.task_id))


class Quota:
    """The adapter. A run is a task; its places are the names of the task's checkpoints.

    Args:
        database_url: where stepquota and Absurd are, the same database for both.
        queue: the queue of the tasks.
        describe: what a task is to stepquota; None for tasks that are not metered. It must answer
            the same each time the task is executed, and another run for each task.
        runtime: the runtime of its runs; by default one for each queue.
        connections: how many connections it may have.
    """

    def __init__(
        self,
        database_url: str,
        queue: str = "default",
        describe: Callable[[Context], Run | None] = describe_task,
        runtime: str | None = None,
        connections: int = 4,
    ):
        self._database_url = database_url
        self._queue = queue
        self._describe = describe
        self._runtime = runtime or f"absurd {queue}"
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

    @property
    def hooks(self) -> AbsurdHooks:
        """For ``Absurd`` and ``AsyncAbsurd``."""
        return {"before_spawn": self.before_spawn, "wrap_task_execution": self.wrap_task_execution}

    def before_spawn(self, task_name: str, params: Any, options: SpawnOptions) -> SpawnOptions:
        """The hook: refuses a tenant's task that has a ``max_duration``.

        Raises:
            TimeLimited: it has.
        """
        del params
        headers = options.get("headers") or {}
        if "max_duration" in (options.get("cancellation") or {}) and headers.get("tenant"):
            raise TimeLimited(_explain_time_limit(task_name))
        return options

    def wrap_task_execution(self, context: Context, execute: Callable[[], Any]) -> Any:
        """The hook: has the task's steps and waits ask, and ends its run with it.

        Raises:
            TimeLimited: the task has a ``max_duration``. Nothing of it is started.
        """
        run = self._describe(context)
        if run is None:
            return execute()
        if context._queue_name != self._queue:
            raise ValueError(f"the task is of queue {context._queue_name}, not of {self._queue}")
        execution = _Execution(self._pool, context, run, self._runtime)
        if isinstance(context, AsyncTaskContext):
            return self._execute_async(context, execution, execute)
        execution.enter()
        _Metered(context, execution)
        try:
            result = execute()
            execution.end(has_failed=False)
        except (SuspendTask, FailedTask):
            raise
        except CancelledTask:
            execution.cancel()
            raise
        except Exception:
            execution.end(has_failed=True)
            raise
        return result

    async def _execute_async(
        self,
        context: AsyncTaskContext,
        execution: _Execution,
        execute: Callable[[], Awaitable[Any]],
    ) -> Any:
        await asyncio.to_thread(execution.enter)
        _AsyncMetered(context, execution)
        try:
            result = await execute()
            await asyncio.to_thread(execution.end, has_failed=False)
        except (SuspendTask, FailedTask):
            raise
        except CancelledTask:
            await asyncio.to_thread(execution.cancel)
            raise
        except Exception:
            await asyncio.to_thread(execution.end, has_failed=True)
            raise
        return result

    def wait(
        self,
        context: TaskContext,
        name: str,
        wait_type: WaitType = "event",
        due_at: datetime | None = None,
    ) -> Any:
        """Wait, in a metered task, until ``resolve_workflow_run_wait`` is called; counts once.

        Args:
            context: the task's.
            name: the step's name.
            wait_type: what for.
            due_at: when it resolves by itself.

        Returns:
            What it was resolved with.
        """
        return _metered(context).wait(name, wait_type, due_at)

    async def wait_async(
        self,
        context: AsyncTaskContext,
        name: str,
        wait_type: WaitType = "event",
        due_at: datetime | None = None,
    ) -> Any:
        """The same in a coroutine."""
        return await _metered(context).wait(name, wait_type, due_at)

    def resume_tasks(self, worker: str = "absurd") -> None:
        """Take resumptions and emit the events that their tasks await, until the quota is closed.

        Run it in a thread, or in a small process of its own. One for a queue is enough. What fails
        is logged and done again, and a database that is away is waited for.

        Args:
            worker: who claims, for people.
        """
        self._pool.open()
        with stepquota.resumptions(
            self._database_url, worker, runtime=self._runtime, max_runs=100, lease=LEASE
        ) as loop:
            self._loops.add(loop)
            for resumption in loop:
                with coming_again(resumption):
                    self._resume(resumption)

    def _resume(self, resumption: WorkflowRunResumption) -> None:
        with self._pool.connection() as connection:
            # Whoever acknowledges it wakes the task, or is the task.
            if not stepquota.acknowledge_workflow_run_resumption(
                connection, resumption.tenant, resumption.resumption_id
            ):
                return
            payload = json.dumps(resumption.payload)
            for path in resumption.node_paths:
                event = _name_event(resumption.tenant, resumption.run_id, path)
                connection.execute(_EMIT, [self._queue, event, payload])
                connection.execute(_on(self._queue, _UNEMIT), [event])

    def cancel_task(self, task_id: str) -> None:
        """Cancel a task in both."""
        with self._pool.connection() as connection:
            connection.execute(_CANCEL, [self._queue, task_id])
            for (saved,) in _rows(connection, _FIND_SAVED, [self._queue, task_id, _PREFIX]):
                _end_run(connection, Run(saved["tenant"], saved["run_id"]), "cancelled")

    def end_runs(self) -> int:
        """End the runs of tasks that Absurd ended alone: cancelled, or dead in the last attempt.

        Such a run counts nothing more; it only looks as if it went on. Call it now and then, before
        Absurd's own cleanup deletes the tasks.

        Returns:
            How many tasks have failed or been cancelled since it was called last.
        """
        count = 0
        while True:
            with self._pool.connection() as connection:
                listed = _rows(connection, _on(self._queue, _LIST_ENDED), [_PREFIX, _ENDED_AT_ONCE])
                for _, state, saved in listed:
                    run = Run(saved["tenant"], saved["run_id"])
                    with connection.transaction():
                        for path, attempt in saved["open"]:
                            _finish(connection, run, path, attempt, "FAILED")
                        _end_run(connection, run, state)
                tasks = [task for task, _, _ in listed]
                connection.execute(_on(self._queue, _MARK_ENDED), [tasks, _PREFIX])
            count += len(listed)
            if len(listed) < _ENDED_AT_ONCE:
                return count


class _Execution:
    """One execution of a task, as the database sees it: in it nothing of the SDK is called."""

    def __init__(
        self,
        pool: Pool,
        context: Context,
        run: Run,
        runtime: str,
    ):
        # The SDK has no other way to ask for these. The extra says with which releases it goes.
        claimed = context._task
        self._queue = context._queue_name
        self._task_id = str(context.task_id)
        self._claim_seconds = context._claim_timeout
        self._absurd_run_id = claimed["run_id"]
        self._attempt = claimed["attempt"]
        self._most_attempts = claimed["max_attempts"]
        self._pool = pool
        self._run = run
        self._runtime = runtime
        # What this execution has started and not finished; and what those before it had, and died.
        self._open: list[str] = []
        saved: Any = context._checkpoint_cache.get(_PREFIX)
        self._is_first = saved is None
        self._left_behind = [tuple(step) for step in saved["open"]] if saved else []

    def enter(self) -> None:
        """Register the run.

        Raises:
            TimeLimited: the task has a ``max_duration``.
            CancelledTask: the run was cancelled; now the task is too.
        """
        with self._transaction() as connection:
            limit = _rows(connection, _on(self._queue, _TIME_LIMIT), [self._task_id])
            if limit != [(None,)]:
                raise TimeLimited(_explain_time_limit(self._task_id))
            status = stepquota.register_workflow_run(
                connection, self._run.tenant, self._run.run_id, None, self._runtime
            ).status
            if status == "CANCELED":
                connection.execute(_CANCEL, [self._queue, self._task_id])
            elif self._is_first:
                self._save_open(connection, [])
        self._is_first = False
        if status == "CANCELED":
            raise CancelledTask

    def start(
        self,
        path: str,
        step_type: str,
        then: Callable[[psycopg.Connection[Any]], None] = lambda _: None,
    ) -> None:
        """Ask for a step. With a pause Absurd's wait for its end is committed.

        Args:
            path: the step.
            step_type: as for ``start_workflow_step``.
            then: what else is to be committed with its start.

        Raises:
            SuspendTask: it was refused, and the task awaits its resumption.
            CancelledTask: the task was cancelled, here or there.
            FailedTask: another worker has the task.
            ValueError: another task has this run, and has done this attempt.
        """
        for number in itertools.count():
            try:
                with self._transaction() as connection:
                    self._hold_claim(connection)
                    self._close_left_behind(connection)
                    start = stepquota.start_workflow_step(
                        connection, *self._key, path, self._attempt, step_type
                    )
                    if start.outcome == "already_finished":
                        raise ValueError(f"run {self._run.run_id} has two tasks: both do {path}")
                    is_refused = start.outcome in ("quota_paused", "held")
                    if is_refused:
                        name = f"{_PREFIX}:{start.wait_id}:{number}"
                        is_asleep = self._await(connection, path, name)
                    else:
                        self._save_open(connection, [*self._open, path])
                        then(connection)
            except RunEnded:
                self.enter()
                raise
            self._left_behind = []
            if not is_refused:
                self._open.append(path)
                return
            if is_asleep:
                raise SuspendTask
            # Somebody else had emitted the event: it is taken back, and the step asks again.

    def finish(self, path: str, value: Any) -> None:
        """Write the step's checkpoint, and finish the step with it."""
        with self._transaction() as connection:
            self._save(connection, path, value, self._claim_seconds)
            _finish(connection, self._run, path, self._attempt, "SUCCEEDED")
        self._forget(path)

    def enter_wait(self, path: str, wait_type: WaitType, due_at: datetime | None) -> _Entered:
        """Ask for a wait's step, and open the wait with it.

        Returns:
            Which attempt and wait it is; that is in Absurd too, for the executions to come.

        Raises:
            SuspendTask: as start.
            CancelledTask: as start.
            FailedTask: as start.
        """
        entered: _Entered = {}

        def open_wait(connection: psycopg.Connection[Any]) -> None:
            wait = stepquota.open_workflow_run_wait(connection, *self._key, path, wait_type, due_at)
            entered.update(attempt=self._attempt, wait_id=str(wait.wait_id))
            self._save(connection, f"{path} entered", entered)

        self.start(path, wait_type, open_wait)
        return entered

    def leave_wait(self, path: str, entered: _Entered) -> None:
        """The wait is over: resolve it, and finish its step."""
        attempt = entered["attempt"]
        with self._transaction() as connection:
            with (
                contextlib.suppress(RunEnded, WaitNotResolvable),
                connection.transaction(),
            ):
                stepquota.resolve_workflow_run_wait(
                    connection, self._run.tenant, entered["wait_id"]
                )
                # Enters the path again, for that has resumed it.
                stepquota.start_workflow_step(connection, *self._key, path, attempt)
            _finish(connection, self._run, path, attempt, "SUCCEEDED")
            self._save(connection, f"{path} left", None)
        self._forget(path)

    def end(self, *, has_failed: bool) -> None:
        """Finish what is still open, and the run if the task has ended."""
        is_last = self._most_attempts is not None and self._attempt >= self._most_attempts
        status: _Status = "FAILED" if is_last or not has_failed else "RETRY_SCHEDULED"
        with self._transaction() as connection:
            self._hold_claim(connection)
            self._close_left_behind(connection)
            for path in self._open:
                _finish(connection, self._run, path, self._attempt, status)
            if is_last or not has_failed:
                _end_run(connection, self._run, "failed" if has_failed else "completed")

    def cancel(self) -> None:
        """The task was cancelled in Absurd: cancel the run."""
        with self._pool.connection() as connection:
            _end_run(connection, self._run, "cancelled")

    def name_event(self, path: str) -> str:
        """The event that ``resume_tasks`` emits for a path of this run."""
        return _name_event(*self._key, path)

    @property
    def _key(self) -> tuple[str, str]:
        return self._run.tenant, self._run.run_id

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except psycopg.Error as error:
            if lost := _LOST.get(error.sqlstate or ""):
                raise lost from error
            raise

    def _hold_claim(self, connection: psycopg.Connection[Any]) -> None:
        if self._claim_seconds > 0:
            given = [self._queue, self._absurd_run_id, self._claim_seconds]
            connection.execute(_HOLD_CLAIM, given)

    def _await(self, connection: psycopg.Connection[Any], path: str, name: str) -> bool:
        event = self.name_event(path)
        given = [self._queue, self._task_id, self._absurd_run_id, name, event]
        is_asleep = _rows(connection, _AWAIT, given) == [(True,)]
        if not is_asleep:
            connection.execute(_on(self._queue, _UNEMIT), [event])
        return is_asleep

    def _save_open(self, connection: psycopg.Connection[Any], paths: list[str]) -> None:
        whose = {"tenant": self._run.tenant, "run_id": self._run.run_id}
        opened = [(path, self._attempt) for path in paths]
        self._save(connection, _PREFIX, {**whose, "open": opened})

    def _save(
        self,
        connection: psycopg.Connection[Any],
        name: str,
        value: Any,
        claim_seconds: int | None = None,
    ) -> None:
        given = [self._queue, self._task_id, name, json.dumps(value)]
        connection.execute(_SAVE, [*given, self._absurd_run_id, claim_seconds])

    def _forget(self, path: str) -> None:
        if path in self._open:
            self._open.remove(path)

    def _close_left_behind(self, connection: psycopg.Connection[Any]) -> None:
        for path, attempt in self._left_behind:
            if attempt < self._attempt:
                _finish(connection, self._run, path, attempt, "RETRY_SCHEDULED")


class _Metered:
    """Puts the asking into the methods of a task's context."""

    def __init__(self, context: TaskContext, execution: _Execution):
        self._context = context
        self._execution = execution
        self._begin_step = context.begin_step
        self._await_event = context.await_event
        self._sleep_until = context.sleep_until
        _put_into(context, self)

    def begin_step(self, name: str) -> StepHandle:
        handle = self._begin_step(name)
        if not handle.done:
            self._execution.start(handle.checkpoint_name, "action")
        return handle

    def complete_step(self, handle: StepHandle, value: Any) -> Any:
        if handle.done:
            return handle.state
        self._execution.finish(handle.checkpoint_name, value)
        return value

    def await_event(
        self, event_name: str, step_name: str | None = None, timeout: int | None = None
    ) -> Any:
        with _looking_ahead(self._context):
            path = self._begin_step(step_name or f"$awaitEvent:{event_name}").checkpoint_name
        entered = self._enter(path, "event", None)
        try:
            payload = self._await_event(event_name, step_name, timeout)
        except TimedOut:
            self._leave(path, entered)
            raise
        self._leave(path, entered)
        return payload

    def sleep_until(self, step_name: str, wake_at: datetime | float) -> None:
        with _looking_ahead(self._context):
            path = self._begin_step(step_name).checkpoint_name
        entered = self._enter(path, "time", _moment(wake_at))
        self._sleep_until(step_name, wake_at)
        self._leave(path, entered)

    def wait(self, name: str, wait_type: WaitType, due_at: datetime | None) -> Any:
        with _looking_ahead(self._context):
            path = self._begin_step(name).checkpoint_name
        entered = self._enter(path, wait_type, due_at)
        payload = self._await_event(self._execution.name_event(path), name)
        self._leave(path, entered)
        return payload

    def _enter(self, path: str, wait_type: WaitType, due_at: datetime | None) -> Any:
        handle = self._begin_step(f"{path} entered")
        if handle.done:
            return handle.state
        return self._execution.enter_wait(path, wait_type, due_at)

    def _leave(self, path: str, entered: Any) -> None:
        if not self._begin_step(f"{path} left").done:
            self._execution.leave_wait(path, entered)


class _AsyncMetered:
    """The same for a coroutine's context; what waits for the database waits in a thread."""

    def __init__(self, context: AsyncTaskContext, execution: _Execution):
        self._context = context
        self._execution = execution
        self._begin_step = context.begin_step
        self._await_event = context.await_event
        self._sleep_until = context.sleep_until
        _put_into(context, self)

    async def begin_step(self, name: str) -> StepHandle:
        handle = await self._begin_step(name)
        if not handle.done:
            await asyncio.to_thread(self._execution.start, handle.checkpoint_name, "action")
        return handle

    async def complete_step(self, handle: StepHandle, value: Any) -> Any:
        if handle.done:
            return handle.state
        await asyncio.to_thread(self._execution.finish, handle.checkpoint_name, value)
        return value

    async def await_event(
        self,
        event_name: str,
        step_name: str | None = None,
        timeout: int | None = None,  # noqa: ASYNC109 - the SDK's
    ) -> Any:
        with _looking_ahead(self._context):
            handle = await self._begin_step(step_name or f"$awaitEvent:{event_name}")
        path = handle.checkpoint_name
        entered = await self._enter(path, "event", None)
        try:
            payload = await self._await_event(event_name, step_name, timeout)
        except TimedOut:
            await self._leave(path, entered)
            raise
        await self._leave(path, entered)
        return payload

    async def sleep_until(self, step_name: str, wake_at: datetime | float) -> None:
        with _looking_ahead(self._context):
            path = (await self._begin_step(step_name)).checkpoint_name
        entered = await self._enter(path, "time", _moment(wake_at))
        await self._sleep_until(step_name, wake_at)
        await self._leave(path, entered)

    async def wait(self, name: str, wait_type: WaitType, due_at: datetime | None) -> Any:
        with _looking_ahead(self._context):
            path = (await self._begin_step(name)).checkpoint_name
        entered = await self._enter(path, wait_type, due_at)
        payload = await self._await_event(self._execution.name_event(path), name)
        await self._leave(path, entered)
        return payload

    async def _enter(self, path: str, wait_type: WaitType, due_at: datetime | None) -> Any:
        handle = await self._begin_step(f"{path} entered")
        if handle.done:
            return handle.state
        return await asyncio.to_thread(self._execution.enter_wait, path, wait_type, due_at)

    async def _leave(self, path: str, entered: Any) -> None:
        if not (await self._begin_step(f"{path} left")).done:
            await asyncio.to_thread(self._execution.leave_wait, path, entered)


def _put_into(context: Context, metered: _Metered | _AsyncMetered) -> None:
    # step() and sleep_for() call these.
    for name in ("begin_step", "complete_step", "await_event", "sleep_until"):
        setattr(context, name, getattr(metered, name))
    context.__dict__["stepquota"] = metered


def _metered(context: Context) -> Any:
    assert "stepquota" in context.__dict__, "the task is not metered"
    return context.__dict__["stepquota"]


@contextlib.contextmanager
def _looking_ahead(context: Context) -> Iterator[None]:
    """In it, the numbers that are drawn for repeated names are the ones to be drawn after it."""
    drawn = dict(context._step_name_counter)
    yield
    context._step_name_counter.clear()
    context._step_name_counter.update(drawn)


def _moment(given: datetime | float) -> datetime:
    return given if isinstance(given, datetime) else datetime.fromtimestamp(given, UTC)


def _explain_time_limit(task: str) -> str:
    return (
        f"the task {task} has a max_duration, by which Absurd would cancel it while it waits for "
        "its tenant's quota: spawn it without one, or without a tenant"
    )


def _name_event(tenant: str, run_id: str, path: str) -> str:
    return f"{_PREFIX}:{json.dumps([tenant, run_id, path])}"


def _on(queue: str, statement: LiteralString) -> sql.Composed:
    """A statement on Absurd's own tables of a queue."""
    prefixes = {"tasks": "t_", "runs": "r_", "checkpoints": "c_", "events": "e_"}
    tables = {name: sql.Identifier(prefix + queue) for name, prefix in prefixes.items()}
    return sql.SQL(statement).format(**tables)


def _rows(
    connection: psycopg.Connection[Any], statement: LiteralString | sql.Composed, given: list[Any]
) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(statement, given).fetchall()


def _finish(
    connection: psycopg.Connection[Any], run: Run, path: str, attempt: int, status: _Status
) -> None:
    # It was cancelled meanwhile; or it had finished before the worker died.
    with contextlib.suppress(RunEnded, StepAlreadyFinished), connection.transaction():
        stepquota.finish_workflow_step(connection, run.tenant, run.run_id, path, attempt, status)


def _end_run(connection: psycopg.Connection[Any], run: Run, state: str) -> None:
    """End the run as its task has ended, if it has not."""
    with contextlib.suppress(RunEnded, UnknownRun), connection.transaction():
        if state == "cancelled":
            stepquota.cancel_workflow_run(connection, run.tenant, run.run_id)
        else:
            status: Literal["SUCCEEDED", "FAILED"] = "FAILED" if state == "failed" else "SUCCEEDED"
            stepquota.finish_workflow_run(connection, run.tenant, run.run_id, status)
