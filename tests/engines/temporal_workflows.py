"""Workflows of the tests on Temporal, apart from the rest, since its sandbox imports them anew."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, is_cancelled_exception

import stepquota.temporal
from stepquota.testing import Event, ForEach, Work, read_script


@workflow.defn(name="script")
class ScriptWorkflow:
    """A script of the conformance kit."""

    @workflow.run
    async def run(self, nodes: list[dict[str, Any]]) -> None:
        for node in read_script(nodes):
            if isinstance(node, Work):
                await self.work(node.path, node.failures)
            elif isinstance(node, ForEach):
                async with stepquota.temporal.step("forEach", "forEach"):
                    for path in node.item_paths:
                        await self.work(path, 0)
            else:
                assert isinstance(node, Event)
                await stepquota.temporal.wait("event")

    async def work(self, path: str, failures: int) -> None:
        await workflow.execute_activity(
            "work",
            args=[path, failures],
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=8),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=10), backoff_coefficient=1
            ),
        )


SOON = timedelta(milliseconds=10)


@workflow.defn
class Tries:
    """One activity that may fail, with the timeouts that an application would give it."""

    @workflow.run
    async def run(self, failures: int, most: int) -> list[Any]:
        answer: list[Any] = await workflow.execute_activity(
            "flaky",
            failures,
            schedule_to_close_timeout=timedelta(seconds=10),
            start_to_close_timeout=timedelta(seconds=5),
            heartbeat_timeout=timedelta(seconds=2),
            retry_policy=RetryPolicy(
                initial_interval=SOON, backoff_coefficient=1, maximum_attempts=most
            ),
            result_type=list[Any],
        )
        return answer


@workflow.defn
class Branches:
    """Activities side by side."""

    @workflow.run
    async def run(self, count: int) -> int:
        answers = await asyncio.gather(*(_plain(f"branch {n}") for n in range(count)))
        return len(answers)


@workflow.defn
class Family:
    """A local activity, a child, and one more execution."""

    @workflow.run
    async def run(self, generations: int) -> str:
        await workflow.execute_local_activity(
            "thread", "local", start_to_close_timeout=timedelta(seconds=5)
        )
        await workflow.execute_child_workflow(Branches.run, 1)
        if generations > 1:
            workflow.continue_as_new(generations - 1)
        return "done"


@workflow.defn
class Gives:
    """Gives up an activity that rests, and goes on."""

    @workflow.init
    def __init__(self) -> None:
        self.is_enough = False

    @workflow.run
    async def run(self) -> str:
        at_once = workflow.start_activity(
            "plain", "never", start_to_close_timeout=timedelta(seconds=5)
        )
        at_once.cancel()
        await _plain("first")
        second = workflow.start_activity(
            "plain", "second", start_to_close_timeout=timedelta(seconds=5)
        )
        await workflow.wait_condition(lambda: self.is_enough)
        second.cancel()
        for handle in (second, at_once):
            if not await _is_cancelled(handle):
                return "not cancelled"
        return "went on"

    @workflow.signal
    def enough(self) -> None:
        self.is_enough = True


@workflow.defn
class GivesAsking:
    """Gives up an activity when it is told to, hears how that ended, and goes on."""

    @workflow.init
    def __init__(self) -> None:
        self.is_enough = False

    @workflow.run
    async def run(self) -> str:
        handle = workflow.start_activity(
            "plain",
            "asking",
            start_to_close_timeout=timedelta(seconds=60),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        await workflow.wait_condition(lambda: self.is_enough)
        handle.cancel()
        return "went on" if await _is_cancelled(handle) else "not cancelled"

    @workflow.signal
    def enough(self) -> None:
        self.is_enough = True


@workflow.defn
class Reacts:
    """Does its work in handlers, which may be called before it begins."""

    @workflow.init
    def __init__(self) -> None:
        self.done = 0

    @workflow.run
    async def run(self) -> int:
        await workflow.wait_condition(lambda: self.done == 2)
        return self.done

    @workflow.signal
    async def react(self) -> None:
        await _plain("signal")
        self.done += 1

    @workflow.update
    async def answer(self) -> str:
        word = await _plain("update")
        self.done += 1
        return word


@workflow.defn
class Explicit:
    """Counts by itself."""

    @workflow.run
    async def run(self, count: int) -> int:
        for _ in range(count):
            async with stepquota.temporal.step("lap", "loop"):
                await _plain("not counted")
        return count


@workflow.defn
class Dies:
    """An activity whose last attempt is over without a word, which the workflow can do without."""

    @workflow.run
    async def run(self) -> str:
        try:
            await workflow.execute_activity(
                "sleeps",
                start_to_close_timeout=timedelta(milliseconds=300),
                retry_policy=RetryPolicy(initial_interval=SOON, maximum_attempts=2),
            )
        except ActivityError:
            await _plain("instead")
        return "done"


@workflow.defn
class Measured:
    """So many activities, one after the other."""

    @workflow.run
    async def run(self, count: int) -> None:
        for _ in range(count):
            await _plain("measured")


async def _plain(word: str) -> str:
    answer: str = await workflow.execute_activity(
        "plain", word, start_to_close_timeout=timedelta(seconds=5), result_type=str
    )
    return answer


async def _is_cancelled(handle: workflow.ActivityHandle[Any]) -> bool:
    """How the activity ended."""
    try:
        await handle
    except (Exception, asyncio.CancelledError) as error:
        if not is_cancelled_exception(error):
            raise
        return True
    return False


WORKFLOWS = [Tries, Branches, Family, Gives, GivesAsking, Reacts, Explicit, Dies, Measured]
