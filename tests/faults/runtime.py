"""A small runtime that carries runs out, whatever happens to the server meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg

import stepquota

STEPS = ("root.steps[0]", "root.steps[1]", "root.steps[2]")

# Each act of a worker with a delivery number, and the newest delivery of that moment; written in
# the transaction of the act, while nobody can claim.
ACTS = "create table acts (tenant text, run_id text, delivery bigint, newest bigint)"
_ACT = """
insert into acts
select r.tenant, r.run_id, %(delivery)s, r.delivery from stepquota.workflow_run_resumptions r
 where r.tenant = %(tenant)s and r.run_id = %(run_id)s and %(delivery)s = any (r.deliveries)
"""

# In what state each run is; a run that is none of these is lost.
STATES = """
select r.tenant, r.run_id,
       case when r.status not in ('RUNNING', 'WAITING') then 'ended'
            when exists (
              select from stepquota.workflow_run_resumptions p
               where p.tenant = r.tenant and p.run_id = r.run_id and p.status = 'OPEN')
            then 'claimable'
            when r.status = 'WAITING' and (
              select count(*) = 1 from stepquota.workflow_run_waits w
               where w.tenant = r.tenant and w.run_id = r.run_id and w.status = 'WAITING')
            then 'waiting'
            when r.status = 'RUNNING' then 'running'
            else 'lost' end
  from stepquota.workflow_runs r
"""


class Gate:
    """Lets workers through, or holds them back between two transactions and says when all are."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._inside = 0
        self._lock = threading.Condition()

    @contextmanager
    def passed(self) -> Iterator[None]:
        """A transaction of a worker."""
        while True:
            self._open.wait()
            with self._lock:
                if self._open.is_set():
                    self._inside += 1
                    break
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                self._lock.notify_all()

    def close(self) -> None:
        """Hold everybody back; returns when nobody is inside."""
        with self._lock:
            self._open.clear()
            assert self._lock.wait_for(lambda: self._inside == 0, 30)

    def open(self) -> None:
        """Let everybody through."""
        with self._lock:
            self._open.set()


class Worker:
    """One worker; a connection that is lost is made again, and what it was at is done again."""

    def __init__(self, url: str, gate: Gate, seed: int):
        self.at: tuple[str, str] | None = None
        self.refused = 0
        self._url = url
        self._gate = gate
        self._connection: psycopg.Connection[Any] | None = None
        self._random = random.Random(seed)

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def begin(self, tenant: str, run_id: str) -> None:
        """Register a run and carry it out until it ends or is paused."""
        self.at = (tenant, run_id)
        self._until_it_is_answered(stepquota.register_workflow_run, tenant, run_id)
        self.carry_out(tenant, run_id)

    def carry_out(self, tenant: str, run_id: str, delivery: int | None = None) -> None:
        """Carry a run out, from wherever it stands, until it ends, is paused, or is another's."""
        self.at = (tenant, run_id)
        try:
            for path in STEPS:
                start = self._act(
                    stepquota.start_workflow_step, tenant, run_id, path, delivery=delivery
                )
                if start.outcome == "already_finished":
                    continue
                if not start.execute:
                    return
                time.sleep(self._random.random() * 0.01)
                self._act(
                    *(stepquota.finish_workflow_step, tenant, run_id, path, 1, "SUCCEEDED"),
                    delivery=delivery,
                )
            self._act(
                *(stepquota.finish_workflow_run, tenant, run_id, "SUCCEEDED"), delivery=delivery
            )
        except (stepquota.StaleDelivery, stepquota.RunEnded):
            self.refused += 1
        finally:
            self.at = None

    def _act(self, function: Any, tenant: str, run_id: str, *arguments: Any, **named: Any) -> Any:
        return self._until_it_is_answered(function, tenant, run_id, *arguments, **named)

    def _until_it_is_answered(
        self, function: Any, tenant: str, run_id: str, *arguments: Any, **named: Any
    ) -> Any:
        while True:
            try:
                with self._gate.passed():
                    if self._connection is None or self._connection.closed:
                        self._connection = psycopg.connect(self._url)
                    with self._connection.transaction():
                        answer = function(self._connection, tenant, run_id, *arguments, **named)
                        if delivery := named.get("delivery"):
                            keys = {"tenant": tenant, "run_id": run_id, "delivery": delivery}
                            self._connection.execute(_ACT, keys)
                    return answer
            except psycopg.OperationalError:
                time.sleep(0.05)


LEASE = timedelta(seconds=0.5)
