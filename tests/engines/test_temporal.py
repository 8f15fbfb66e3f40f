"""The conformance kit on Temporal, and what is particular to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import psycopg
import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client
from temporalio.worker import Worker

import stepquota
from engines.many import report, run_dry_and_go_on
from engines.temporal_engine import TemporalAdapter, start_server
from engines.temporal_workflows import Measured
from stepquota.temporal import Quota, tenant
from stepquota.testing import Conformance
from stepquota.testing.conformance import Bench


@pytest.fixture
def adapter(database_url: str) -> Iterator[TemporalAdapter]:
    adapter = TemporalAdapter(database_url)
    yield adapter
    adapter.close()


class TestTemporal(Conformance):
    patience_seconds = 60.0


def test_two_hundred_workflows(adapter: TemporalAdapter, database_url: str) -> None:
    run_dry_and_go_on(adapter, database_url)


class _Crowded(Conformance):
    patience_seconds = 120.0
    crowd = 50


def test_failures_retries_and_kills_of_many(adapter: TemporalAdapter, database_url: str) -> None:
    with closing(Bench(adapter, database_url, _Crowded.patience_seconds)) as bench:
        _Crowded().test_failures_retries_and_kills_are_counted_exactly(bench)


def test_what_it_costs(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        stepquota.set_tier_limit(connection, "solo", 100000)
    without, with_quota = asyncio.run(measure(database_url, 200))
    report("Temporal", without, with_quota)


@activity.defn
async def plain(word: str) -> str:
    return word


async def measure(database_url: str, count: int) -> list[list[float]]:
    """Seconds from one activity to the next, without and with the plugin, by the histories."""
    found = []
    async with await start_server() as environment:
        address = environment.client.service_client.config.target_host
        for plugins in ([], [Quota(database_url)]):
            client = await Client.connect(address, plugins=plugins)
            queue = f"measured {plugins}"
            with tenant("acme"):
                async with Worker(
                    client, task_queue=queue, workflows=[Measured], activities=[plain]
                ):
                    handle = await client.start_workflow(
                        Measured.run, count + 1, id=queue, task_queue=queue
                    )
                    await handle.result()
            scheduled = [
                event.event_time.ToDatetime()
                for event in (await handle.fetch_history()).events
                if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
            ]
            found.append([(b - a).total_seconds() for a, b in pairwise(scheduled)])
    assert [len(seconds) for seconds in found] == [count, count]
    return found
