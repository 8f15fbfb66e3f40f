"""Waiting on Temporal: retries, timeouts, replay, cancelling, and what is refused at the start."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.testing import ActivityEnvironment, WorkflowEnvironment
from temporalio.worker import Replayer, Worker

import stepquota
from engines.temporal_engine import Loop, program, start_server
from engines.temporal_workflows import (
    WORKFLOWS,
    Branches,
    Dies,
    Explicit,
    Family,
    Gives,
    GivesAsking,
    Reacts,
    Tries,
)
from stepquota.temporal import Quota, tenant
from stepquota.temporal.agreement import Ticket

TENANT = "acme"
Rows = list[tuple[Any, ...]]


@activity.defn
async def flaky(failures: int) -> list[Any]:
    """Fails so many times; answers what it sees of its attempts."""
    info = activity.info()
    activity.heartbeat(info.attempt)
    if info.attempt <= failures:
        raise ApplicationError(f"attempt {info.attempt}")
    return [info.attempt, list(info.heartbeat_details)]


@activity.defn
async def plain(word: str) -> str:
    return word


@activity.defn
def thread(word: str) -> str:
    return word


@activity.defn
async def sleeps() -> None:
    await asyncio.sleep(30)


class Bench:
    """Workers in this process, and the database."""

    def __init__(self, address: str, database_url: str):
        self.address = address
        self.database_url = database_url
        self.url_of_runtime = make_conninfo(database_url, options="-c role=stepquota_runtime")
        self.queue = str(uuid.uuid4())
        self.connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)

    def set_limit(self, limit: int) -> None:
        with self.connection.transaction():
            stepquota.set_tier_limit(self.connection, "tier", limit)
            stepquota.set_tenant_plan(self.connection, TENANT, "tier")

    def rows(self, statement: Any) -> Rows:
        return self.connection.execute(statement).fetchall()

    def steps(self) -> Rows:
        return self.rows(
            "select node_path, attempt, status from stepquota.workflow_run_steps"
            " order by started_at, node_path, attempt"
        )

    def statuses(self) -> list[str]:
        rows = self.rows("select status from stepquota.workflow_runs order by registered_at")
        return [status for (status,) in rows]

    def used(self) -> int:
        return stepquota.resolve_workflow_step_quota(self.connection, TENANT).used_count

    def is_waited_for(self, holder: psycopg.Connection[Any]) -> bool:
        """Whether anybody waits for what the holder has locked."""
        waiting = "select from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
        return self.connection.execute(waiting, [holder.info.backend_pid]).rowcount > 0

    def check(self, used: int) -> None:
        assert (self.used(), len(self.steps())) == (used, used)
        assert stepquota.verify_all(self.connection) == ()

    async def until(self, is_so: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, (self.statuses(), self.steps())
            await asyncio.sleep(0.05)

    async def until_paused(self) -> None:
        await self.until(lambda: "WAITING" in self.statuses())

    @asynccontextmanager
    async def worker(
        self,
        client: Client | None = None,
        quota: dict[str, Any] | None = None,
        dispatches: bool = True,
        **options: Any,
    ) -> AsyncIterator[Client]:
        """A worker and a dispatcher; and a client that names the tenant."""
        plugin = Quota(self.url_of_runtime, **(quota or {}))
        if client is None:
            client = await Client.connect(self.address, plugins=[plugin])
        else:
            client = Client(client.service_client, plugins=[plugin])
        resuming = asyncio.create_task(plugin.resume_workflows(client)) if dispatches else None
        with ThreadPoolExecutor(4) as threads:
            given: dict[str, Any] = {
                "workflows": WORKFLOWS,
                "activities": [flaky, plain, thread, sleeps],
            } | options
            async with Worker(client, task_queue=self.queue, activity_executor=threads, **given):
                yield client
        if resuming:
            assert not resuming.done(), resuming
            resuming.cancel()

    async def start(
        self, client: Client, run: Any, *args: Any, **options: Any
    ) -> WorkflowHandle[Any, Any]:
        """For the tenant."""
        options = {"id": str(uuid.uuid4()), "task_queue": self.queue} | options
        with tenant(TENANT):
            return await client.start_workflow(run, args=args, **options)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    loop = Loop()
    environment = loop.call(start_server())
    yield environment.client.service_client.config.target_host
    loop.call(environment.shutdown())
    loop.stop()


@pytest.fixture
def bench(address: str, database_url: str) -> Iterator[Bench]:
    bench = Bench(address, database_url)
    yield bench
    bench.connection.close()


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 90))


async def failure(handle: WorkflowHandle[Any, Any]) -> BaseException:
    with pytest.raises(WorkflowFailureError) as raised:
        await handle.result()
    return raised.value.cause


async def count_events(handle: WorkflowHandle[Any, Any]) -> int:
    return len((await handle.fetch_history()).events)


async def until_event(handle: WorkflowHandle[Any, Any], kind: Any, count: int = 1) -> None:
    async def has_event() -> None:
        while [e.event_type for e in (await handle.fetch_history()).events].count(kind) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    await asyncio.wait_for(has_event(), 20)


# -- Retries


def test_a_refused_retry_uses_up_nothing_of_the_retry_policy(bench: Bench) -> None:
    """Refused at its third attempt of three, the activity still has it; and sees its heartbeats."""

    async def test() -> None:
        bench.set_limit(2)
        async with bench.worker() as client:
            handle = await bench.start(client, Tries.run, 2, 3)
            await bench.until_paused()
            await asyncio.sleep(1)  # it learns of it
            events = await count_events(handle)
            await asyncio.sleep(2)
            assert await count_events(handle) == events, "somebody asks again and again"
            bench.check(2)
            bench.set_limit(10)
            assert await handle.result() == [3, [2]]
        path = "flaky[1]"
        assert bench.steps() == [
            (path, 1, "RETRY_SCHEDULED"),
            (path, 2, "RETRY_SCHEDULED"),
            (path, 3, "SUCCEEDED"),
        ]
        assert bench.statuses() == ["SUCCEEDED"]
        bench.check(3)

    run(test())


def test_a_retry_policy_ends_where_it_would_have(bench: Bench) -> None:
    """Each of four attempts is refused first: four are made, no more, and all count."""

    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            handle = await bench.start(client, Tries.run, 100, 4)
            for used in (1, 2, 3):
                await bench.until(lambda used=used: bench.used() == used)  # type: ignore[misc]
                await bench.until_paused()
                bench.set_limit(used + 1)
            error = await failure(handle)
        assert isinstance(error, ActivityError)
        assert isinstance(error.cause, ApplicationError)
        assert error.cause.message == "attempt 4"
        assert [(step[1], step[2]) for step in bench.steps()] == [
            (1, "RETRY_SCHEDULED"),
            (2, "RETRY_SCHEDULED"),
            (3, "RETRY_SCHEDULED"),
            (4, "FAILED"),
        ]
        assert bench.statuses() == ["FAILED"]
        bench.check(4)

    run(test())


def test_the_last_attempt_of_a_dead_activity_is_finished(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            handle = await bench.start(client, Dies.run)
            assert await handle.result() == "done"
        assert bench.steps() == [
            ("sleeps[1]", 1, "RETRY_SCHEDULED"),
            ("sleeps[1]", 2, "FAILED"),
            ("plain[1]", 1, "SUCCEEDED"),
        ]

    run(test())


def test_an_attempt_that_never_asked_hides_no_dead_one(bench: Bench) -> None:
    """A worker dies in the first attempt, and one in the second before it could ask."""

    async def test() -> None:
        bench.set_limit(10)
        ticket = Ticket(TENANT, "r", "work[1]")
        async with Quota(bench.url_of_runtime) as quota:
            for attempt in (1, 3):
                asked = ActivityEnvironment().run(quota.start_attempt, ticket, attempt, attempt > 1)
                assert await asked == "started"
        assert bench.steps() == [("work[1]", 1, "RETRY_SCHEDULED"), ("work[1]", 3, "STARTED")]
        bench.check(2)

    run(test())


# -- Waiting


def test_a_database_that_is_away_uses_up_no_attempt(bench: Bench) -> None:
    """One attempt is all that the activity has, and the database is not there when it asks."""

    async def test() -> None:
        bench.set_limit(10)
        name = bench.connection.info.dbname
        with psycopg.connect(bench.database_url, dbname="postgres", autocommit=True) as other:

            def allow(is_so: str) -> None:
                other.execute(f"alter database {name} allow_connections {is_so}".encode())

            async with bench.worker(dispatches=False) as client:
                bench.connection.close()
                allow("false")
                other.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                    [name],
                )
                handle = await bench.start(client, Tries.run, 0, 1)
                await asyncio.sleep(4)
                allow("true")
                bench.connection = psycopg.connect(bench.database_url, autocommit=True)
                assert await handle.result() == [1, []]
        bench.check(1)

    run(test())


def test_asking_outlasts_a_heartbeat_timeout(bench: Bench) -> None:
    """The counter is locked for longer than an attempt may go without a heartbeat, or may take."""

    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            await (await bench.start(client, Branches.run, 1)).result()
            with psycopg.connect(bench.database_url) as other:
                other.execute("select from stepquota.workflow_step_usage_lanes for update")
                handle = await bench.start(client, Tries.run, 0, 1)
                await asyncio.sleep(6)
            assert await handle.result() == [1, []]
        bench.check(2)

    run(test())


def test_branches_rest_side_by_side(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(2)
        async with bench.worker() as client:
            handle = await bench.start(client, Branches.run, 6)
            await bench.until_paused()
            bench.check(2)
            (wait,) = bench.rows(
                "select cardinality(node_paths) from stepquota.workflow_run_waits"
                " where status = 'WAITING'"
            )
            assert wait == (4,)
            bench.set_limit(4)
            await bench.until(lambda: bench.used() == 4)
            await bench.until_paused()
            bench.set_limit(10)
            assert await handle.result() == 6
        bench.check(6)

    run(test())


def test_no_timeout_ends_a_run_that_waits_a_billing_period(bench: Bench, database_url: str) -> None:
    """300 days pass on a server whose time can be skipped."""

    async def test() -> None:
        bench.set_limit(1)
        async with (
            await WorkflowEnvironment.start_time_skipping(
                test_server_existing_path=program("temporal-test-server")
            ) as environment,
            bench.worker(environment.client) as client,
        ):
            handle = await bench.start(client, Tries.run, 1, 2)
            await bench.until_paused()
            before = await environment.get_current_time()
            await environment.sleep(timedelta(days=300))
            assert await environment.get_current_time() - before > timedelta(days=299)
            bench.check(1)
            bench.set_limit(10)
            await bench.until(lambda: "SUCCEEDED" in bench.statuses())
            assert (await handle.result())[0] == 2
        bench.check(2)

    run(test())


def test_a_resumption_that_comes_before_the_refusal_is_kept(bench: Bench) -> None:
    """The workflow's worker is away until both are in its history."""

    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker(workflows=[], dispatches=False):
            async with bench.worker(activities=[], dispatches=False) as client:
                handle = await bench.start(client, Branches.run, 2)
                await bench.until(lambda: bench.used() == 1)
            await bench.until_paused()
            resuming = Quota(bench.url_of_runtime)
            task = asyncio.create_task(resuming.resume_workflows(client))
            bench.set_limit(10)
            signaled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
            await until_event(handle, signaled)
            task.cancel()
            async with bench.worker(activities=[], dispatches=False):
                assert await handle.result() == 2
        bench.check(2)

    run(test())


# -- Replay


def test_a_paused_and_resumed_workflow_replays(bench: Bench) -> None:
    """From its history, and by a worker that remembers nothing between two tasks."""

    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker(max_cached_workflows=0) as client:
            handle = await bench.start(client, Tries.run, 2, 3)
            other = await bench.start(client, Branches.run, 3)
            await bench.until(lambda: bench.statuses() == ["WAITING"] * 2)
            bench.set_limit(3)
            await bench.until(lambda: bench.used() == 3)
            await bench.until_paused()
            bench.set_limit(10)
            assert (await handle.result())[0] == 3
            assert await other.result() == 3
        bench.check(6)
        for done in (handle, other):
            history = await done.fetch_history()
            kinds = [event.event_type for event in history.events]
            assert EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED in kinds
            plugin = Quota("nowhere")
            await Replayer(workflows=WORKFLOWS, plugins=[plugin]).replay_workflow(history)
            plugin = Quota("nowhere", is_metered=lambda _: False)
            with pytest.raises(Exception, match=r"(?i)nondeterminism|failed decoding"):
                await Replayer(workflows=WORKFLOWS, plugins=[plugin]).replay_workflow(history)

    run(test())


def test_what_ran_before_the_plugin_came_goes_on_without_it(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(0 + 1)
        client = await Client.connect(bench.address)
        async with Worker(client, task_queue=bench.queue, workflows=WORKFLOWS, activities=[plain]):
            handle = await client.start_workflow(Gives.run, id=bench.queue, task_queue=bench.queue)
            await until_event(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, 2)
        async with bench.worker():
            await handle.signal(Gives.enough)
            assert await handle.result() == "not cancelled"
        assert bench.statuses() == []

    run(test())


# -- Cancelling


def test_a_workflow_is_cancelled_while_it_rests(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            handle = await bench.start(client, Branches.run, 2)
            await bench.until_paused()
            await handle.cancel()
            assert isinstance(await failure(handle), CancelledError)
            assert bench.statuses() == ["CANCELED"]
            assert bench.rows("select status from stepquota.workflow_run_waits") == [("CANCELED",)]
            bench.set_limit(10)
            await bench.start(client, Branches.run, 1)
            await bench.until(lambda: bench.statuses() == ["CANCELED", "SUCCEEDED"])
        bench.check(2)

    run(test())


def test_an_activity_is_cancelled_while_it_rests(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            handle = await bench.start(client, Gives.run)
            await bench.until_paused()
            await handle.signal(Gives.enough)
            assert await handle.result() == "went on"
        assert bench.statuses() == ["SUCCEEDED"]
        bench.check(1)

    run(test())


def test_a_cancellation_is_not_lost_in_a_refusal(bench: Bench) -> None:
    """An activity is cancelled while it asks, and the refusal is the answer to both."""

    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            await (await bench.start(client, Branches.run, 1)).result()
            with psycopg.connect(bench.database_url) as other:
                # Refusals cannot be written meanwhile.
                other.execute("lock table stepquota.workflow_run_waits in share mode")
                handle = await bench.start(client, GivesAsking.run)
                await bench.until(lambda: bench.is_waited_for(other))
                await handle.signal(GivesAsking.enough)
                await until_event(handle, EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED)
                assert bench.is_waited_for(other)
            assert await asyncio.wait_for(handle.result(), 20) == "went on"
            # It was refused, and not cancelled before it could be.
            kinds = [event.event_type for event in (await handle.fetch_history()).events]
            assert EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED in kinds
        assert bench.statuses() == ["SUCCEEDED"] * 2
        assert bench.rows("select status from stepquota.workflow_run_waits") == [("CANCELED",)]
        bench.check(1)

    run(test())


def test_a_workflow_that_was_terminated_is_cancelled_when_its_turn_comes(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            handle = await bench.start(client, Branches.run, 2)
            await bench.until_paused()
            await handle.terminate()
            bench.set_limit(2)
            await bench.until(lambda: bench.statuses() == ["CANCELED"])
            last = await bench.start(client, Branches.run, 1)
            await last.result()
        bench.check(2)

    run(test())


# -- Runs and tenants


def test_children_and_later_executions_are_runs_of_the_same_tenant(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker() as client:
            handle = await bench.start(client, Family.run, 2)
            await bench.until_paused()
            bench.set_limit(10)
            assert await handle.result() == "done"
        runs = bench.rows("select tenant, workflow, status from stepquota.workflow_runs")
        assert sorted(runs) == [
            *[(TENANT, "Branches", "SUCCEEDED")] * 2,
            *[(TENANT, "Family", "SUCCEEDED")] * 2,
        ]
        assert sorted(step[0] for step in bench.steps()) == [
            *["plain[1]"] * 2,
            *["thread[1]"] * 2,
        ]
        bench.check(4)

    run(test())


def test_an_id_may_be_used_again(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            for _ in range(2):
                handle = await bench.start(client, Branches.run, 1, id=f"order/{bench.queue}")
                await handle.result()
        (first, second) = bench.rows("select run_id from stepquota.workflow_runs")
        assert first != second
        assert str(first[0]).startswith(f"order/{bench.queue}/")
        bench.check(2)

    run(test())


def test_an_execution_that_was_reset_is_another_run(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            handle = await bench.start(client, Branches.run, 1)
            await handle.result()
            events = (await handle.fetch_history()).events
            completed = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
            await client.workflow_service.reset_workflow_execution(
                ResetWorkflowExecutionRequest(
                    namespace=client.namespace,
                    workflow_execution=WorkflowExecution(workflow_id=handle.id),
                    workflow_task_finish_event_id=next(
                        event.event_id for event in events if event.event_type == completed
                    ),
                    request_id=str(uuid.uuid4()),
                )
            )
            await client.get_workflow_handle(handle.id).result()
        assert bench.statuses() == ["SUCCEEDED"] * 2
        bench.check(2)

    run(test())


def test_the_tenant_may_come_from_the_workflow_id(bench: Bench) -> None:
    """And workflows without one are not metered."""

    def find_tenant(info: Any) -> str | None:
        name: str = info.workflow_id.partition("/")[0]
        return name if name != "nobody" else None

    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker(quota={"find_tenant": find_tenant}) as client:
            for name in (TENANT, "nobody"):
                await client.execute_workflow(
                    Branches.run, 1, id=f"{name}/{bench.queue}", task_queue=bench.queue
                )
        bench.check(1)

    run(test())


def test_what_handlers_do_before_the_workflow_begins_counts(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            handle = await bench.start(client, Reacts.run, start_signal="react")
            assert await handle.execute_update(Reacts.answer) == "update"
            assert await handle.result() == 2
            start = WithStartWorkflowOperation(
                Reacts.run,
                id=f"updated/{bench.queue}",
                task_queue=bench.queue,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            )
            with tenant(TENANT):
                word = await client.execute_update_with_start_workflow(
                    Reacts.answer, start_workflow_operation=start
                )
            assert word == "update"
            other = await start.workflow_handle()
            await other.signal(Reacts.react)
            await other.result()
        assert bench.statuses() == ["SUCCEEDED"] * 2
        bench.check(4)

    run(test())


def test_a_tenant_that_cannot_be_fails_the_workflow(bench: Bench) -> None:
    async def test() -> None:
        async with bench.worker(quota={"find_tenant": lambda _: "x" * 10000}) as client:
            error = await failure(await bench.start(client, Branches.run, 1))
        assert isinstance(error, ActivityError)
        assert isinstance(error.cause, ApplicationError)
        assert error.cause.type == "InvalidArgument"

    run(test())


def test_a_schedule_names_the_tenant(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker() as client:
            action = ScheduleActionStartWorkflow(
                Branches.run, 1, id=f"scheduled/{bench.queue}", task_queue=bench.queue
            )
            with tenant(TENANT):
                schedule = await client.create_schedule(
                    bench.queue,
                    Schedule(action=action, spec=ScheduleSpec()),
                    trigger_immediately=True,
                )
            await bench.until(lambda: bench.statuses() == ["SUCCEEDED"])
            await schedule.delete()
        bench.check(1)

    run(test())


def test_steps_may_be_counted_by_the_workflow_itself(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(1)
        async with bench.worker(quota={"is_metered": lambda _: False}) as client:
            handle = await bench.start(client, Explicit.run, 3)
            await bench.until_paused()
            bench.set_limit(10)
            assert await handle.result() == 3
        assert bench.steps() == [(f"lap[{n}]", 1, "SUCCEEDED") for n in (1, 2, 3)]
        bench.check(3)

    run(test())


# -- What is refused at the start


@pytest.mark.parametrize(
    ("options", "quota", "type_", "message"),
    [
        (
            {"execution_timeout": timedelta(days=31)},
            {},
            "TimeoutTooShort",
            "a execution_timeout of 31 days, 0:00:00, which would end it while it waits for quota: "
            "start it without one, or with one of at least 400 days, 0:00:00",
        ),
        ({"run_timeout": timedelta(hours=1)}, {}, "TimeoutTooShort", "a run_timeout of 1:00:00"),
        ({"args": [2]}, {"run_ids": "workflow"}, "SecondExecution", "leave run_ids of Quota at"),
        ({}, {"find_tenant": None}, "NoTenant", "start it by a client that has the plugin"),
    ],
)
def test_a_workflow_that_could_not_wait_is_refused(
    bench: Bench, options: dict[str, Any], quota: dict[str, Any], type_: str, message: str
) -> None:
    async def test() -> None:
        bench.set_limit(10)
        is_named = quota.pop("find_tenant", True)
        async with bench.worker(quota=quota) as client:
            starter = client if is_named else await Client.connect(bench.address)
            handle = await bench.start(starter, Family.run, *options.pop("args", [1]), **options)
            error = await failure(client.get_workflow_handle(handle.id))
            history = await client.get_workflow_handle(handle.id).fetch_history()
        assert isinstance(error, ApplicationError)
        assert error.type == type_
        assert message in error.message
        if type_ == "TimeoutTooShort":
            assert bench.statuses() == []
        # Replay refuses it too, also when it would not be refused now.
        plugin = Quota("nowhere", lambda _: TENANT, longest_wait=timedelta(0))
        await Replayer(workflows=WORKFLOWS, plugins=[plugin]).replay_workflow(history)

    run(test())


def test_a_timeout_that_is_long_enough_is_accepted(bench: Bench) -> None:
    async def test() -> None:
        bench.set_limit(10)
        async with bench.worker(quota={"longest_wait": timedelta(days=31)}) as client:
            handle = await bench.start(
                client, Branches.run, 1, execution_timeout=timedelta(days=31)
            )
            assert await handle.result() == 1

    run(test())
