"""Workflows of the tests on Temporal, apart from the rest, since its sandbox imports them anew."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy

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
            heartbeat_timeout=timedelta(seconds=3),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(milliseconds=10), backoff_coefficient=1
            ),
        )
