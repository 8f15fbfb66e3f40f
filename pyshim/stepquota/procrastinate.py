"""stepquota for procrastinate: jobs ask before each attempt, and rest while there is no quota.

A worker gets the middleware, and one task of any process takes the resumptions::

    quota = Quota("postgresql://...")
    async with app.open_async(), quota, asyncio.TaskGroup() as tasks:
        resuming = tasks.create_task(quota.resume_jobs())
        await app.run_worker_async(worker_middleware=[quota.middleware])
        resuming.cancel()

Jobs are described by their arguments ``tenant``, ``run_id`` and ``node_path``, or by a function of
yours; a job without a tenant is not metered. Attempt n of a job is attempt n of its step. A job
that is refused goes back into the queue, for a moment that never comes, and comes back under its
old number of attempts: it holds no worker, uses up no retry, and nobody asks again until the tenant
is resumed. See docs/procrastinate.md. Needs the extra ``procrastinate``.

``python -m stepquota.procrastinate`` prints what makes the table that the adapter needs.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self

import psycopg
from procrastinate import App, BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.jobs import Job
from procrastinate.worker import Worker
from psycopg.rows import tuple_row

import stepquota.aio
from stepquota.delivery import logger
from stepquota.errors import RunEnded, StepAlreadyFinished, UnknownRun, UnknownStep
from stepquota.outages import coming_again, make_async_pool, outlast_async
from stepquota.results import WorkflowRunResumption, WorkflowRunWait, WorkflowStepStart

__all__ = [
    "PARKED_UNTIL",
    "SETUP",
    "AlreadyFailed",
    "NotSetUp",
    "Paused",
    "Quota",
    "Step",
    "describe_job",
]

# Jobs that rest are scheduled for then.
PARKED_UNTIL = datetime(9999, 1, 1, tzinfo=UTC)

# Until when a resumption that came before its job rests is delivered again.
_LEASE = timedelta(seconds=2)
_STOPPING_SECONDS = 5.0

SETUP = """\
-- Which job rests for which step. It is written with the refusal, so that a resumption finds it.
create table if not exists stepquota_parked_jobs (
  tenant text not null,
  run_id text not null,
  node_path text not null,
  job_id bigint not null,
  primary key (tenant, run_id, node_path)
);

-- Whoever works on procrastinate's jobs works on these.
do $$
declare
  v_role text;
begin
  for v_role in
    select distinct case a.grantee when 0 then 'public' else a.grantee::regrole::text end
      from pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a
     where c.oid = 'procrastinate_jobs'::regclass and a.privilege_type = 'UPDATE'
  loop
    execute 'grant select, insert, update, delete on stepquota_parked_jobs to ' || v_role;
  end loop;
end
$$;
"""
_IS_SET_UP = """
select bool_and(coalesce(has_table_privilege(to_regclass('stepquota_parked_jobs'), p), false))
  from unnest(array['select', 'insert', 'update', 'delete']) p
"""
_PARK = """
insert into stepquota_parked_jobs (tenant, run_id, node_path, job_id)
values (%(tenant)s, %(run_id)s, %(node_path)s, %(job_id)s)
on conflict (tenant, run_id, node_path) do update set job_id = excluded.job_id
"""
_FIND_PARKED = """
select p.node_path, j.id, j.queue_name, j.status::text, j.scheduled_at = %(parked_until)s
  from stepquota_parked_jobs p
  join procrastinate_jobs j on j.id = p.job_id
 where p.tenant = %(tenant)s and p.run_id = %(run_id)s and p.node_path = any (%(node_paths)s)
   for update of p, j
"""
# The attempt that was refused did not start, so the job's number of attempts is what it was.
_UNPARK = """
update procrastinate_jobs
   set scheduled_at = null, attempts = attempts - 1
 where id = %s and status = 'todo' and scheduled_at = %s
"""
# procrastinate notifies its workers of new jobs only; otherwise this one would be seen at the next
# polling.
_NOTIFY = """
select pg_notify(channel, json_build_object('type', 'job_inserted', 'job_id', %(job_id)s)::text)
  from unnest(array['procrastinate_queue_v1#' || %(queue)s, 'procrastinate_any_queue_v1']) channel
"""
_FORGET = (
    "delete from stepquota_parked_jobs where tenant = %s and run_id = %s and node_path = any (%s)"
)
# Whether the job is still where the list had it. Others look for jobs of dead workers too: one of
# them may have put it back, and a live worker may have it and be doing it.
_TAKE_STALLED = """
select from procrastinate_jobs j
 where j.id = %(job_id)s and j.status = 'doing' and j.attempts = %(attempts)s
   and j.worker_id is not distinct from %(worker_id)s
   and not exists (
     select from procrastinate_workers w
      where w.id = j.worker_id and w.last_heartbeat >= now() - %(silence)s)
   for update of j skip locked
"""
_RETRY = "select procrastinate_retry_job_v2(%s, now(), null, null, null)"
_SAME_ATTEMPT = "update procrastinate_jobs set attempts = attempts - 1 where id = %s"
_CANCEL = "select procrastinate_cancel_job_v1(job_id, false, false) from stepquota_parked_jobs"


@dataclass(frozen=True)
class Step:
    """What a job is to stepquota.

    Attributes:
        tenant: whose quota it is.
        run_id: the run; several jobs may be of one.
        node_path: its place in the run.
        step_type: as for ``start_workflow_step``.
        ends_run: whether the run has ended when this job has.
    """

    tenant: str
    run_id: str
    node_path: str
    step_type: str = "action"
    ends_run: bool = True


def describe_job(job: Job) -> Step | None:
    """A step by the arguments ``tenant``, ``run_id``, ``node_path`` and ``ends_run`` of the job.

    Without ``run_id`` the job is a run of its own, without ``node_path`` its place is the task's
    name. Without ``tenant`` it is not metered.
    """
    given = job.task_kwargs
    if not given.get("tenant"):
        return None
    return Step(
        tenant=str(given["tenant"]),
        run_id=str(given.get("run_id") or f"procrastinate job {job.id}"),
        node_path=str(given.get("node_path") or job.task_name),
        step_type=str(given.get("step_type") or "action"),
        ends_run=bool(given.get("ends_run", True)),
    )


class Paused(Exception):
    """The job rests. It is no failure; procrastinate's log calls it a retry."""


class AlreadyFailed(Exception):
    """The attempt had failed for good before the worker died."""


class NotSetUp(Exception):
    """The table stepquota_parked_jobs is missing, or the role has not the rights that it needs."""


class _RetryAtOnce(Exception):
    """The attempt had failed and was to be retried when the worker died."""


class _Strategy(BaseRetryStrategy):
    """A task's own strategy, and resting beside it."""

    def __init__(self, own: BaseRetryStrategy | None):
        self._own = own

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, Paused):
            return RetryDecision(retry_at=PARKED_UNTIL)
        if isinstance(exception, _RetryAtOnce):
            return RetryDecision()
        if isinstance(exception, AlreadyFailed | RunEnded) or self._own is None:
            return None
        retry = self._own.get_retry_exception(exception, job)
        return retry.retry_decision if retry else None


class Quota:
    """The adapter.

    Args:
        database_url: where stepquota and procrastinate are, the same database for both.
        describe: what a job is to stepquota; None for jobs that are not metered.
        runtime: the runtime of its runs.
        connections: how many connections it may have.
    """

    def __init__(
        self,
        database_url: str,
        describe: Callable[[Job], Step | None] = describe_job,
        runtime: str = "procrastinate",
        connections: int = 4,
    ):
        self._database_url = database_url
        self._describe = describe
        self._runtime = runtime
        self._pool = make_async_pool(database_url, connections)
        self._loops: set[stepquota.aio.Resumptions] = set()

    async def __aenter__(self) -> Self:
        await self._pool.open()
        try:
            if not await self._is_set_up():
                await self._set_up()
        except BaseException:
            await self._pool.close()
            raise
        return self

    async def _is_set_up(self) -> bool:
        async with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.row_factory = tuple_row
            await cursor.execute(_IS_SET_UP)
            row = await cursor.fetchone()
        return row == (True,)

    async def _set_up(self) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute(SETUP.encode())
        except psycopg.Error as error:
            # Somebody else may have made it at the same time.
            if not await self._is_set_up():
                raise NotSetUp(
                    "this role cannot make the table stepquota_parked_jobs or use the one there "
                    f"is ({str(error).strip()}): have its owner run what `python -m "
                    "stepquota.procrastinate` prints"
                ) from error

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for loop in self._loops:
            loop.stop()
        await self._pool.close()

    async def middleware(
        self, call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Worker
    ) -> Any:
        """The worker middleware: asks before the job's attempt, and finishes it."""
        del worker
        job = context.job
        step = self._describe(job)
        if step is None:
            return await call_next()
        task = context.app.tasks[job.task_name]
        if not isinstance(task.retry_strategy, _Strategy):
            task.retry_strategy = _Strategy(task.retry_strategy)
        if not await self._start(step, job):
            return None
        try:
            answer = await call_next()
        except Paused:
            raise
        except BaseException as error:
            retry = task.get_retry_exception(error, job)
            # A worker that is to stop does not wait for a database that is away.
            seconds = math.inf if isinstance(error, Exception) else _STOPPING_SECONDS
            await self._finish(step, job, "RETRY_SCHEDULED" if retry else "FAILED", seconds)
            raise
        await self._finish(step, job, "SUCCEEDED")
        return answer

    async def _start(self, step: Step, job: Job) -> bool:
        async def ask(connection: psycopg.AsyncConnection[Any]) -> WorkflowStepStart:
            key = (step.tenant, step.run_id)
            await stepquota.aio.register_workflow_run(connection, *key, None, self._runtime)
            start = await stepquota.aio.start_workflow_step(
                connection, *key, step.node_path, job.attempts + 1, step.step_type
            )
            if start.outcome in ("quota_paused", "held"):
                await self._park(connection, step, job)
            return start

        start = await outlast_async(self._pool, ask, _name(step), "started")
        if start.outcome in ("quota_paused", "held"):
            raise Paused(f"{start.outcome} at {step.node_path}")
        if start.outcome == "already_finished" and start.step_status != "SUCCEEDED":
            raise _RetryAtOnce if start.step_status == "RETRY_SCHEDULED" else AlreadyFailed
        return start.execute

    @staticmethod
    async def _park(connection: psycopg.AsyncConnection[Any], step: Step, job: Job) -> None:
        keys = {"tenant": step.tenant, "run_id": step.run_id, "node_path": step.node_path}
        await connection.execute(_PARK, {**keys, "job_id": job.id})

    async def _finish(self, step: Step, job: Job, status: Any, seconds: float = math.inf) -> None:
        async def finish(connection: psycopg.AsyncConnection[Any]) -> None:
            key = (step.tenant, step.run_id)
            try:
                await stepquota.aio.finish_workflow_step(
                    connection, *key, step.node_path, job.attempts + 1, status
                )
                if status == "FAILED" or (status == "SUCCEEDED" and step.ends_run):
                    await stepquota.aio.finish_workflow_run(connection, *key, status)
            except RunEnded:
                # It was cancelled meanwhile, with the step.
                await connection.rollback()

        await outlast_async(self._pool, finish, _name(step), "finished", seconds)

    async def wait(
        self,
        context: JobContext,
        wait_type: Literal["event", "human", "retry", "time", "timeout"] = "event",
        due_at: datetime | None = None,
    ) -> WorkflowRunWait:
        """Let the job rest until its wait is resolved; then it is executed again, to this call.

        The job's ``step_type`` should be the same as ``wait_type``. Whoever lets the event happen
        calls ``resolve_workflow_run_wait``.

        Returns:
            The resolved wait, with its payload.

        Raises:
            Paused: to be let through.
        """
        step = self._describe(context.job)
        assert step, "the job is not metered"

        async def enter(connection: psycopg.AsyncConnection[Any]) -> WorkflowRunWait:
            wait = await stepquota.aio.open_workflow_run_wait(
                connection, step.tenant, step.run_id, step.node_path, wait_type, due_at
            )
            if wait.status == "WAITING":
                await self._park(connection, step, context.job)
            return wait

        wait = await outlast_async(self._pool, enter, _name(step), "entered")
        if wait.status == "WAITING":
            raise Paused(f"{wait_type} at {step.node_path}")
        return wait

    async def resume_jobs(self, worker: str = "procrastinate") -> None:
        """Take resumptions and put the jobs that rest for them back, until the quota is closed.

        What fails is logged and done again, and a database that is away is waited for.

        Args:
            worker: who claims, for people.
        """
        await self._pool.open()
        async with stepquota.aio.resumptions(
            self._database_url, worker, runtime=self._runtime, max_runs=100, lease=_LEASE
        ) as loop:
            self._loops.add(loop)
            async for resumption in loop:
                with coming_again(resumption):
                    await self._resume(resumption)

    async def _resume(self, resumption: WorkflowRunResumption) -> None:
        keys = {
            "tenant": resumption.tenant,
            "run_id": resumption.run_id,
            "node_paths": list(resumption.node_paths),
            "parked_until": PARKED_UNTIL,
        }
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(_FIND_PARKED, keys)
            gone = []
            for path, job_id, queue, status, is_parked in await cursor.fetchall():
                if status == "todo" and is_parked:
                    await connection.execute(_UNPARK, [job_id, PARKED_UNTIL])
                    await connection.execute(_NOTIFY, {"job_id": job_id, "queue": queue})
                elif status == "doing":
                    # On its way to rest: the resumption comes again.
                    logger.debug("job %s does not rest yet", job_id)
                    return
                gone.append(path)
            await connection.execute(_FORGET, [resumption.tenant, resumption.run_id, gone])
            await stepquota.aio.acknowledge_workflow_run_resumption(
                connection, resumption.tenant, resumption.resumption_id
            )

    async def cancel_run(self, tenant: str, run_id: str) -> None:
        """Cancel the run and its jobs that rest. Other jobs of it are the caller's to cancel."""
        async with self._pool.connection() as connection:
            await stepquota.aio.cancel_workflow_run(connection, tenant, run_id)
            of_run = " where tenant = %s and run_id = %s"
            await connection.execute(f"{_CANCEL}{of_run}".encode(), [tenant, run_id])
            await connection.execute(
                f"delete from stepquota_parked_jobs{of_run}".encode(), [tenant, run_id]
            )

    async def retry_stalled_jobs(self, app: App, seconds_since_heartbeat: float = 30) -> int:
        """Put the jobs of dead workers back into the queue.

        An attempt that had started is over, and the job gets its next one; one that had not, or
        that had finished, keeps its number. Call it from a periodic task, where you would call
        procrastinate's ``retry_job`` for each of its stalled jobs. Several may call it at once.

        Returns:
            How many there were.
        """
        count = 0
        for job in await app.job_manager.get_stalled_jobs(
            seconds_since_heartbeat=seconds_since_heartbeat
        ):
            step = self._describe(job)
            given = {
                "job_id": job.id,
                "attempts": job.attempts,
                "worker_id": job.worker_id,
                "silence": timedelta(seconds=seconds_since_heartbeat),
            }
            async with self._pool.connection() as connection:
                if (await connection.execute(_TAKE_STALLED, given)).rowcount == 0:
                    continue  # somebody else was faster
                is_over = step is None or await self._is_over(connection, step, job)
                await connection.execute(_RETRY, [job.id])
                if not is_over:
                    await connection.execute(_SAME_ATTEMPT, [job.id])
            count += 1
        return count

    @staticmethod
    async def _is_over(connection: psycopg.AsyncConnection[Any], step: Step, job: Job) -> bool:
        try:
            async with connection.transaction():
                await stepquota.aio.finish_workflow_step(
                    connection,
                    step.tenant,
                    step.run_id,
                    step.node_path,
                    job.attempts + 1,
                    "RETRY_SCHEDULED",
                )
        except (RunEnded, StepAlreadyFinished, UnknownRun, UnknownStep):
            return False
        return True


def _name(step: Step) -> str:
    return f"{step.node_path} of run {step.run_id}"


if __name__ == "__main__":
    print(SETUP, end="")
