"""The server is killed with -9 under a load of pauses, resumes and claims, and started again.

STEPQUOTA_FAULTS=300 in front of pytest goes on with it for so many seconds a server; ``make
test-faults`` does that.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections import Counter
from typing import Any

import psycopg
import pytest

import stepquota
from faults.runtime import ACTS, LEASE, STATES, Gate, Worker
from harness.killable import KillableServer
from harness.servers import SERVERS, Unavailable
from stepquota.migrate import migrate

SECONDS = float(os.environ.get("STEPQUOTA_FAULTS", "0"))
TENANTS = ("acme", "globex", "initech")


class Load:
    """Threads that start runs, go on with them, raise limits and run the scan."""

    def __init__(self, url: str):
        self.gate = Gate()
        self.failures: list[BaseException] = []
        self.begun: set[tuple[str, str]] = set()
        self.is_beginning = True
        self.workers = [Worker(url, self.gate, seed) for seed in range(6)]
        self._url = url
        self._stopped = threading.Event()
        self._numbers = itertools.count()
        self._loops = [
            stepquota.resumptions(url, f"loop {n}", lease=LEASE, poll_seconds=0.1, max_runs=n)
            for n in (1, 3)
        ]
        works: list[Any] = [(self._begin, worker) for worker in self.workers[:4]]
        works += [
            (self._go_on, worker, loop)
            for worker, loop in zip(self.workers[4:], self._loops, strict=True)
        ]
        works += [(self._raise_limits,), (self._scan,)]
        self._threads = [
            threading.Thread(target=self._guarded, args=work, daemon=True) for work in works
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.is_beginning = False
        self._stopped.set()
        for loop in self._loops:
            loop.stop()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()

    def _guarded(self, work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.failures.append(error)
            raise

    def _begin(self, worker: Worker) -> None:
        while not self._stopped.wait(0.005):
            if self.is_beginning:
                run = (random.choice(TENANTS), f"r{next(self._numbers)}")
                self.begun.add(run)
                worker.begin(*run)
        worker.close()

    def _go_on(self, worker: Worker, loop: stepquota.Resumptions) -> None:
        with loop:
            for resumption in loop:
                # Now and then too late: somebody else has it by then.
                if random.random() < 0.1:
                    time.sleep(LEASE.total_seconds() * 1.1)
                worker.carry_out(resumption.tenant, resumption.run_id, resumption.delivery)
        worker.close()

    def _raise_limits(self) -> None:
        limits = dict.fromkeys(TENANTS, 10)
        while not self._stopped.wait(0.05):
            tenant = random.choice(TENANTS)
            limits[tenant] += 4
            self._operate(stepquota.set_tier_limit, tenant, limits[tenant])

    def _scan(self) -> None:
        while not self._stopped.wait(0.1):
            self._operate(stepquota.tick)

    def _operate(self, function: Any, *arguments: Any) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                function(connection, *arguments)
        except psycopg.OperationalError:
            time.sleep(0.05)


def states(url: str) -> dict[tuple[str, str], str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(STATES.encode()).fetchall()
    return {(tenant, run_id): state for tenant, run_id, state in rows}


@pytest.mark.parametrize("name", SERVERS)
def test_no_run_is_lost(name: str) -> None:
    try:
        server = KillableServer(name)
    except Unavailable as reason:
        pytest.skip(str(reason))
    with server:
        migrate(server.url)
        with psycopg.connect(server.url, autocommit=True) as operator:
            operator.execute(ACTS)
            for tenant in TENANTS:
                stepquota.set_tier_limit(operator, tenant, 10)
                stepquota.set_tenant_plan(operator, tenant, tenant)
        load = Load(server.url)
        seen: Counter[str] = Counter()
        until = time.monotonic() + SECONDS
        while True:
            time.sleep(1.5)
            server.kill()
            load.gate.close()
            server.start()
            found = states(server.url)
            seen.update(found.values())
            with_worker = {worker.at for worker in load.workers}
            lost = {run for run, state in found.items() if state == "lost"}
            lost |= {run for run, state in found.items() if state == "running"} - with_worker
            assert lost == set()
            load.gate.open()
            if time.monotonic() >= until:
                break
        time.sleep(0.5)
        load.is_beginning = False
        drain(server.url, load)
        load.stop()
        assert load.failures == []
        check_the_end(server.url, load)
    # All of it has happened, or nothing was tested.
    assert {"ended", "waiting"} <= set(seen)


def drain(url: str, load: Load) -> None:
    """With enough quota every run comes to its end."""
    with psycopg.connect(url, autocommit=True) as operator:
        for tenant in TENANTS:
            stepquota.set_tenant_plan(operator, tenant, "premium")
        until = time.monotonic() + 60
        while set(states(url).values()) != {"ended"} or any(w.at for w in load.workers):
            assert time.monotonic() < until, Counter(states(url).values())
            stepquota.tick(operator)
            time.sleep(0.1)


def check_the_end(url: str, load: Load) -> None:
    with psycopg.connect(url) as connection:
        assert stepquota.verify_all(connection) == ()
        runs = connection.execute(
            "select r.tenant, r.run_id, r.status,"
            "       (select count(*) from stepquota.workflow_run_steps s"
            "         where s.tenant = r.tenant and s.run_id = r.run_id)"
            "  from stepquota.workflow_runs r"
        ).fetchall()
        assert {run[:2] for run in runs} == load.begun
        assert {run[2:] for run in runs} == {("SUCCEEDED", 3)}
        acts = connection.execute(
            "select count(*), count(*) filter (where delivery is distinct from newest) from acts"
        ).fetchone()
        assert acts is not None
        assert acts[0] > 0
        assert acts[1] == 0, "somebody acted under a delivery that was not the newest"
        used = connection.execute(
            "select sum(used_count) from stepquota.workflow_step_usage_lanes"
        ).fetchone()
        assert used == (3 * len(runs),)
