"""The conformance kit on Temporal, and what is particular to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker

import stepquota
from engines.many import Tell, report, run_dry_and_go_on, survive_kills
from engines.temporal_engine import TemporalAdapter, start_server
from engines.temporal_workflows import Measured
from stepquota.temporal import Quota, tenant
from stepquota.testing import Conformance

ROUNDS, STEPS = 6, 50


@pytest.fixture
def adapter(database_url: str) -> Iterator[TemporalAdapter]:
    adapter = TemporalAdapter(database_url)
    yield adapter
    adapter.close()


class TestTemporal(Conformance):
    patience_seconds = 60.0


def test_two_hundred_workflows(tell: Tell, adapter: TemporalAdapter, database_url: str) -> None:
    run_dry_and_go_on(tell, "Temporal", adapter, database_url)


def test_killed_workers_and_failures(
    tell: Tell, adapter: TemporalAdapter, database_url: str
) -> None:
    survive_kills(tell, "Temporal", adapter, database_url)


def test_what_it_costs(tell: Tell, database_url: str) -> None:
    """Of a step as a workflow sees it, and of the activity alone, which is where it asks."""
    with psycopg.connect(database_url) as connection:
        stepquota.set_tier_limit(connection, "solo", 100000)
    without, with_quota = asyncio.run(measure(database_url))
    report(tell, "Temporal", without.steps, with_quota.steps)
    report(tell, "Temporal, the activity alone", without.activities, with_quota.activities)


@activity.defn
async def plain(word: str) -> str:
    return word


@dataclass
class Seconds:
    steps: list[float] = field(default_factory=list)
    activities: list[float] = field(default_factory=list)


async def measure(database_url: str) -> tuple[Seconds, Seconds]:
    """By the histories, without and with the plugin, which take turns."""
    sides = (Seconds(), Seconds())
    async with AsyncExitStack() as stack:
        environment = await stack.enter_async_context(await start_server())
        # One connection for both: what it is like decides how soon a workflow hears of an end.
        service = environment.client.service_client
        clients = [Client(service, plugins=plugins) for plugins in ([], [Quota(database_url)])]
        for queue, client in enumerate(clients):
            worker = Worker(client, task_queue=str(queue), workflows=[Measured], activities=[plain])
            await stack.enter_async_context(worker)
        for turn in range(ROUNDS):
            for queue, (client, side) in enumerate(zip(clients, sides, strict=True)):
                with tenant("acme"):
                    handle = await client.start_workflow(
                        Measured.run, STEPS, id=f"{queue}/{turn}", task_queue=str(queue)
                    )
                await handle.result()
                await add_seconds(handle, side)
    assert {len(side.activities) for side in sides} == {ROUNDS * STEPS}
    return sides


async def add_seconds(handle: WorkflowHandle[Any, Any], side: Seconds) -> None:
    at: dict[Any, list[datetime]] = {}
    for event in (await handle.fetch_history()).events:
        at.setdefault(event.event_type, []).append(event.event_time.ToDatetime())
    scheduled = at[EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED]
    side.steps += [(b - a).total_seconds() for a, b in pairwise(scheduled)]
    started = at[EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED]
    completed = at[EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED]
    side.activities += [(b - a).total_seconds() for a, b in zip(started, completed, strict=True)]
