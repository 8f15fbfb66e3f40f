"""The program that measure j runs: one process whose tasks or threads reserve for one tenant.

    python -m bench.tasks URL KIND WORKERS SECONDS

KIND is ``reserver``, tasks that share a Reserver; ``threads``, the same with threads; or
``single``, tasks that each make calls of their own on a connection of their own. All statements are
prepared.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from statistics import median, quantiles

from psycopg_pool import AsyncConnectionPool

import stepquota
import stepquota.aio
from stepquota import calls
from stepquota.execution import carry_out_async

_TENANT = "hot"


def _report(took: list[float], seconds: float) -> None:
    print(
        json.dumps(
            {
                "transactions": len(took),
                "rate": len(took) / seconds,
                "median_ms": median(took) * 1000,
                "p99_ms": quantiles(took, n=100)[-1] * 1000,
            }
        )
    )


async def _use_tasks(reserve: Callable[[int], Awaitable[bool]], workers: int, seconds: int) -> None:
    took: list[float] = []
    clock = time.perf_counter

    async def work(number: int) -> None:
        now = clock()
        while now < end:
            before = now
            allowed = await reserve(number)
            now = clock()
            if not allowed:
                raise RuntimeError("a unit was denied")
            took.append(now - before)

    begin = clock()
    end = begin + seconds
    await asyncio.gather(*(work(number) for number in range(workers)))
    _report(took, clock() - begin)


async def _use_reserver(url: str, workers: int, seconds: int) -> None:
    async with stepquota.aio.Reserver(url, prepare=True) as reserver:

        async def reserve(_: int) -> bool:
            return (await reserver.reserve(_TENANT)).allowed

        await reserve(0)
        await _use_tasks(reserve, workers, seconds)


async def _use_single_calls(url: str, workers: int, seconds: int) -> None:
    async with AsyncConnectionPool(
        url, min_size=workers, max_size=workers, kwargs={"autocommit": True}, open=False
    ) as pool:
        await pool.wait()
        connections = [await pool.getconn() for _ in range(workers)]

        async def reserve(number: int) -> bool:
            call = calls.reserve_workflow_step(_TENANT)
            quota = await carry_out_async(connections[number], call, prepare=True)
            return bool(quota.allowed)

        # Each connection's statement is prepared, and its functions are compiled.
        for number in range(workers):
            await reserve(number)
        await _use_tasks(reserve, workers, seconds)
        for connection in connections:
            await pool.putconn(connection)


def _use_threads(url: str, workers: int, seconds: int) -> None:
    took: list[list[float]] = [[] for _ in range(workers)]
    clock = time.perf_counter

    def work(mine: list[float]) -> None:
        now = clock()
        while now < end:
            before = now
            if not reserver.reserve(_TENANT).allowed:
                raise RuntimeError("a unit was denied")
            now = clock()
            mine.append(now - before)

    with stepquota.Reserver(url, prepare=True) as reserver:
        reserver.reserve(_TENANT)
        threads = [threading.Thread(target=work, args=[mine]) for mine in took]
        begin = clock()
        end = begin + seconds
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        passed = clock() - begin
    _report([each for mine in took for each in mine], passed)


def _main() -> None:
    url, kind, workers, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if kind == "threads":
        _use_threads(url, workers, seconds)
    else:
        use = _use_reserver if kind == "reserver" else _use_single_calls
        asyncio.run(use(url, workers, seconds))


if __name__ == "__main__":
    _main()
