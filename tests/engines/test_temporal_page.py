"""What docs/temporal.md shows works, with a dispatcher in a process of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

import stepquota
from engines.temporal_engine import start_server

PAGE = Path(__file__).parents[2] / "docs" / "temporal.md"


def test_the_examples_work(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflows, program, steps = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    body = "".join(f"        {line}\n" for line in steps.splitlines() if line[:4] != "from")
    laps = f"""
from temporalio import workflow
from stepquota.temporal import step, wait

@workflow.defn
class Laps:
    @workflow.run
    async def run(self):
{body}        return answer
"""
    (tmp_path / "orders.py").write_text(workflows)
    (tmp_path / "laps.py").write_text(laps)
    monkeypatch.syspath_prepend(str(tmp_path))
    asyncio.run(asyncio.wait_for(try_it(database_url, program), 60))


async def try_it(database_url: str, program: str) -> None:
    import laps  # type: ignore[import-not-found]

    async with await start_server() as environment:
        address = environment.client.service_client.config.target_host
        # It is to take the resumptions in the place of the worker.
        program = program.replace("localhost:7233", address)
        program = program.replace("quota.resume_workflows(client)", "asyncio.sleep(0)")
        program = program.replace("[Order]", "[Order, Laps]")
        page: dict[str, Any] = {"Laps": laps.Laps}
        exec(program, page)
        dispatcher = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "stepquota.temporal", database_url),
            env=os.environ | {"TEMPORAL_ADDRESS": address},
        )
        working = asyncio.create_task(page["work"](database_url))
        try:
            await use(page, database_url)
        finally:
            dispatcher.terminate()
            await dispatcher.wait()
            working.cancel()
            await asyncio.wait([working])


async def use(page: dict[str, Any], database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def set_limit(limit: int) -> None:
            stepquota.set_tier_limit(connection, "solo", limit)

        async def until(statement: Any) -> Any:
            while (row := connection.execute(statement).fetchone()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            return row[0]

        set_limit(1)
        first = await page["start"](database_url, "order/1")
        assert await first.result() == "charged 100"
        second = await page["start"](database_url, "order/2")
        await until("select 1 from stepquota.workflow_runs where status = 'WAITING'")
        set_limit(4)
        assert await second.result() == "charged 100"

        client = first._client
        with page["tenant"]("acme"):
            third = await client.start_workflow(page["Laps"].run, id="laps", task_queue="orders")
        waits = "select wait_id from stepquota.workflow_run_waits where wait_type = 'human'"
        stepquota.resolve_workflow_run_wait(connection, "acme", await until(waits), {"by": "me"})
        assert await third.result() == {"by": "me"}
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 4
        assert stepquota.verify_all(connection) == ()
