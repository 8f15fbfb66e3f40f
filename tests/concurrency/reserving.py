"""A program with a Reserver and many threads or tasks, for tests with several processes.

It writes one byte for each unit that it received, so that whoever started it knows how many these
were, even when it is killed.

    python reserving.py URL KIND WORKERS REQUESTS
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading

import stepquota
import stepquota.aio


def use_threads(url: str, workers: int, requests: int) -> None:
    def work() -> None:
        for _ in range(requests // workers):
            if reserver.reserve("acme").allowed:
                os.write(1, b".")

    with stepquota.Reserver(url) as reserver:
        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def use_tasks(url: str, workers: int, requests: int) -> None:
    async def work() -> None:
        for _ in range(requests // workers):
            quota = await reserver.reserve("acme")
            if quota.allowed:
                os.write(1, b".")

    async with stepquota.aio.Reserver(url) as reserver:
        await asyncio.gather(*(work() for _ in range(workers)))


if __name__ == "__main__":
    url, kind, workers, requests = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if kind == "threads":
        use_threads(url, workers, requests)
    else:
        asyncio.run(use_tasks(url, workers, requests))
