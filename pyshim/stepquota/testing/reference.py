"""A small engine in plain SQL and Python, with stepquota in it: the adapter to read first.

Its queue is a table beside stepquota's. So each start of a step, the pause and the engine's own
record of it are one transaction, and neither can be without the other.
"""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

import stepquota

from .adapter import Attempt, RunState, Worker, WorkerProcess
from .bodies import StepFailed, perform
from .scripts import Event, ForEach, Node, Script, Work, read_script, write_script

SCHEMA = """
create schema if not exists reference;
create table if not exists reference.runs (
  tenant text not null,
  run_id text not null,
  script jsonb not null,
  state text not null default 'ready'
    check (state in ('ready', 'running', 'paused', 'succeeded', 'failed', 'canceled')),
  delivery bigint,
  worker uuid,
  leased_until timestamptz,
  primary key (tenant, run_id)
);
create index if not exists runs_todo_idx on reference.runs (state)
  where state in ('ready', 'running');
create table if not exists reference.attempts (
  tenant text not null,
  run_id text not null,
  node_path text not null,
  attempt integer not null,
  status text not null default 'STARTED',
  primary key (tenant, run_id, node_path, attempt)
);
create table if not exists reference.events (
  tenant text not null,
  run_id text not null,
  node_path text not null,
  primary key (tenant, run_id, node_path)
);
"""

LEASE_SECONDS = 1.5
MOST_ATTEMPTS = 20

# The next run that is ready, or whose worker has died.
_TAKE = """
update reference.runs r
   set state = 'running', worker = %(worker)s, leased_until = clock_timestamp() + %(lease)s
  from (select n.tenant, n.run_id from reference.runs n
         where n.state = 'ready' or n.state = 'running' and n.leased_until < clock_timestamp()
         limit 1
           for update skip locked) n
 where r.tenant = n.tenant and r.run_id = n.run_id
returning r.tenant, r.run_id, r.script, r.delivery
"""
_PROLONG = """
update reference.runs set leased_until = clock_timestamp() + %(lease)s
 where worker = %(worker)s and state = 'running'
"""
# A run that was cancelled, or that another worker has, is not ours to change.
_LET_GO = """
update reference.runs set state = %(state)s, worker = null, delivery = null
 where tenant = %(tenant)s and run_id = %(run_id)s and state = 'running' and worker = %(worker)s
"""
_FIND_ATTEMPT = """
select attempt, status from reference.attempts
 where tenant = %s and run_id = %s and node_path = %s order by attempt desc limit 1
"""


class LetGo(Exception):
    """The worker is to let go of its run, which is paused or somebody else's now."""


class ReferenceWorker:
    """The loop of a worker: takes runs, carries them out, and hears of resumptions.

    Args:
        database_url: where stepquota and the queue are.
    """

    def __init__(self, database_url: str):
        self.database_url = database_url
        self.name = uuid.uuid4()
        self.connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self.stopped = threading.Event()

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self.stopped.set())
        for loop in (self.take_resumptions, self.prolong_lease):
            threading.Thread(target=loop, daemon=True).start()
        keys = {"worker": self.name, "lease": f"{LEASE_SECONDS} seconds"}
        while not self.stopped.is_set():
            row = self.connection.execute(_TAKE, keys).fetchone()
            if row is None:
                self.stopped.wait(0.05)
                continue
            tenant, run_id, script, delivery = row
            try:
                self.carry_out(tenant, run_id, read_script(script), delivery)
            except (LetGo, stepquota.RunEnded, stepquota.StaleDelivery):
                continue

    def prolong_lease(self) -> None:
        """Keep the run for as long as this process lives."""
        keys = {"worker": self.name, "lease": f"{LEASE_SECONDS} seconds"}
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            while not self.stopped.wait(LEASE_SECONDS / 3):
                connection.execute(_PROLONG, keys)

    def take_resumptions(self) -> None:
        """Put resumed runs back into the queue."""
        with (
            psycopg.connect(self.database_url) as connection,
            stepquota.resumptions(
                self.database_url, str(self.name), runtime="reference", max_runs=100
            ) as loop,
        ):
            for resumption in loop:
                self.hand_over(connection, resumption)

    def hand_over(
        self, connection: psycopg.Connection[Any], resumption: stepquota.WorkflowRunResumption
    ) -> None:
        """Store that the run is to go on, and say so, in one transaction."""
        with connection.transaction():
            connection.execute(
                "update reference.runs set state = 'ready', delivery = %s"
                " where tenant = %s and run_id = %s and state = 'paused'",
                [resumption.delivery, resumption.tenant, resumption.run_id],
            )
            stepquota.acknowledge_workflow_run_resumption(
                connection, resumption.tenant, resumption.resumption_id
            )

    def carry_out(self, tenant: str, run_id: str, script: Script, delivery: int | None) -> None:
        """Carry the run out from its beginning, passing over what is done."""
        with self.connection.transaction():
            stepquota.register_workflow_run(self.connection, tenant, run_id, None, "reference")
        for node in script:
            if isinstance(node, Work):
                self.do(tenant, run_id, node)
            elif isinstance(node, ForEach):
                self.for_each(tenant, run_id, node)
            else:
                self.wait_for(tenant, run_id, node)
        with self.connection.transaction():
            stepquota.finish_workflow_run(self.connection, tenant, run_id, "SUCCEEDED")
            self.let_go(tenant, run_id, "succeeded")

    def do(self, tenant: str, run_id: str, node: Work) -> None:
        """A step with its retries."""
        for _ in range(MOST_ATTEMPTS):
            attempt = self.start(tenant, run_id, node.path, "action")
            if attempt is None:
                return
            try:
                perform(self.database_url, run_id, node.path, attempt, node.failures)
            except StepFailed:
                self.finish(tenant, run_id, node.path, attempt, "RETRY_SCHEDULED")
            else:
                self.finish(tenant, run_id, node.path, attempt, "SUCCEEDED")
                return
        with self.connection.transaction():
            stepquota.finish_workflow_run(self.connection, tenant, run_id, "FAILED")
            self.let_go(tenant, run_id, "failed")
        raise LetGo

    def for_each(self, tenant: str, run_id: str, node: ForEach) -> None:
        """A step of its own, and one for each item."""
        attempt = self.start(tenant, run_id, node.path, "forEach")
        for path in node.item_paths:
            self.do(tenant, run_id, Work(path))
        if attempt is not None:
            self.finish(tenant, run_id, node.path, attempt, "SUCCEEDED")

    def wait_for(self, tenant: str, run_id: str, node: Event) -> None:
        """Let go of the run until the event is there."""
        attempt = self.start(tenant, run_id, node.path, "event")
        if attempt is None:
            return
        keys = [tenant, run_id, node.path]
        with self.connection.transaction():
            wait = stepquota.open_workflow_run_wait(
                self.connection, tenant, run_id, node.path, "event"
            )
            if wait.status == "WAITING":
                self.let_go(tenant, run_id, "paused")
        if wait.status == "WAITING":
            raise LetGo
        seen = self.connection.execute(
            "select from reference.events where tenant = %s and run_id = %s and node_path = %s",
            keys,
        )
        assert seen.rowcount == 1
        self.finish(tenant, run_id, node.path, attempt, "SUCCEEDED")

    def next_attempt(self, tenant: str, run_id: str, path: str) -> int | None:
        """The attempt that the step is at; None if it is done."""
        row = self.connection.execute(_FIND_ATTEMPT, [tenant, run_id, path]).fetchone()
        if row is None:
            return 1
        attempt, status = row
        if status == "SUCCEEDED":
            return None
        return int(attempt) if status == "STARTED" else int(attempt) + 1

    def start(self, tenant: str, run_id: str, path: str, step_type: str) -> int | None:
        """Start the attempt that is next, or let go of the run where it stands.

        The attempt, or the pause, and the engine's own record of it are committed together.

        Returns:
            The attempt to execute; None if the step is done.

        Raises:
            LetGo: the run is paused.
        """
        attempt = self.next_attempt(tenant, run_id, path)
        if attempt is None:
            return None
        with self.connection.transaction():
            start = stepquota.start_workflow_step(
                self.connection, tenant, run_id, path, attempt, step_type
            )
            if start.execute:
                self.connection.execute(
                    "insert into reference.attempts (tenant, run_id, node_path, attempt)"
                    " values (%s, %s, %s, %s) on conflict do nothing",
                    [tenant, run_id, path, attempt],
                )
            else:
                self.let_go(tenant, run_id, "paused")
        if not start.execute:
            raise LetGo
        return attempt

    def finish(self, tenant: str, run_id: str, path: str, attempt: int, status: Any) -> None:
        """Finish the attempt here and there."""
        with self.connection.transaction():
            stepquota.finish_workflow_step(self.connection, tenant, run_id, path, attempt, status)
            self.connection.execute(
                "update reference.attempts set status = %s"
                " where tenant = %s and run_id = %s and node_path = %s and attempt = %s",
                [status, tenant, run_id, path, attempt],
            )

    def let_go(self, tenant: str, run_id: str, state: str) -> None:
        """Set the run's state in the queue, in the caller's transaction."""
        keys = {"tenant": tenant, "run_id": run_id, "state": state, "worker": self.name}
        self.connection.execute(_LET_GO, keys)


def run_worker(worker_class: type[ReferenceWorker], database_url: str) -> None:
    """The program of a worker process."""
    worker_class(database_url).run()


class ReferenceAdapter:
    """The engine as the kit drives it.

    Args:
        database_url: where stepquota is; the queue is made beside it.
        worker_class: the workers.
    """

    def __init__(self, database_url: str, worker_class: type[ReferenceWorker] = ReferenceWorker):
        self._database_url = database_url
        self._worker_class = worker_class
        self._connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._connection.execute(SCHEMA.encode())

    def close(self) -> None:
        """Close its connection."""
        self._connection.close()

    def start_worker(self) -> Worker:
        """Start one more worker process."""
        return WorkerProcess(run_worker, self._worker_class, self._database_url)

    def start_run(self, tenant: str, run_id: str, script: tuple[Node, ...]) -> None:
        """Put the run into the queue."""
        self._connection.execute(
            "insert into reference.runs (tenant, run_id, script) values (%s, %s, %s)",
            [tenant, run_id, Jsonb(write_script(script))],
        )

    def send_event(self, tenant: str, run_id: str, path: str) -> None:
        """Store the event and resolve the wait for it."""
        with self._connection.transaction():
            self._connection.execute(
                "insert into reference.events values (%s, %s, %s)", [tenant, run_id, path]
            )
            wait = stepquota.open_workflow_run_wait(self._connection, tenant, run_id, path, "event")
            stepquota.resolve_workflow_run_wait(self._connection, tenant, wait.wait_id)

    def cancel_run(self, tenant: str, run_id: str) -> None:
        """Cancel here and there, in one transaction."""
        with self._connection.transaction():
            stepquota.cancel_workflow_run(self._connection, tenant, run_id)
            self._connection.execute(
                "update reference.runs set state = 'canceled' where tenant = %s and run_id = %s",
                [tenant, run_id],
            )

    def replay_run(self, tenant: str, run_id: str) -> None:
        """Have a worker take the run once more, whatever its state is."""
        before = self.state(tenant, run_id)
        self._connection.execute(
            "update reference.runs set state = 'ready' where tenant = %s and run_id = %s",
            [tenant, run_id],
        )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self._is_queued(tenant, run_id):
            time.sleep(0.02)
        if before != "open":
            self._connection.execute(
                "update reference.runs set state = %s where tenant = %s and run_id = %s",
                [before, tenant, run_id],
            )

    def _is_queued(self, tenant: str, run_id: str) -> bool:
        cursor = self._connection.execute(
            "select from reference.runs where tenant = %s and run_id = %s and state = 'ready'",
            [tenant, run_id],
        )
        return cursor.rowcount > 0

    def state(self, tenant: str, run_id: str) -> RunState:
        """What the queue says."""
        row = self._connection.execute(
            "select case when state in ('ready', 'running', 'paused') then 'open' else state end"
            "  from reference.runs where tenant = %s and run_id = %s",
            [tenant, run_id],
        ).fetchone()
        assert row
        state: RunState = row[0]
        return state

    def attempts(self, tenant: str) -> Collection[Attempt]:
        """The queue's own record."""
        rows = self._connection.execute(
            "select run_id, node_path, attempt from reference.attempts where tenant = %s", [tenant]
        )
        return [Attempt(*row) for row in rows]
