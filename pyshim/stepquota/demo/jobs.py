"""What the demo's runtime keeps for itself: its jobs, one a run, and what finished steps answered.

A run belongs to the worker whose session holds the run's advisory lock. The lock goes with the
session, so the run of a worker that was killed is free at once, and a worker that has lost its
session can write nothing any more.

A job is ``ready`` when a worker may take it, ``parked`` while the run waits for anything, ``done``
at its end. It changes in the transaction in which stepquota pauses, resumes or ends the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

Connection = psycopg.Connection[Any]
State = Literal["ready", "parked", "done"]

RUNTIME = "stepquota-demo"

# Ready jobs that are looked at to find a free one: more than there are workers.
_LOOKED_AT = 16

_TABLES = """
    create schema stepquota_demo;
    create table stepquota_demo.jobs (
      tenant text not null,
      run_id text not null,
      position bigint generated always as identity,
      state text not null default 'ready' check (state in ('ready', 'parked', 'done')),
      worker text,
      primary key (tenant, run_id)
    );
    create table stepquota_demo.results (
      tenant text not null,
      run_id text not null,
      node_path text not null,
      output jsonb,
      primary key (tenant, run_id, node_path)
    );
    grant usage on schema stepquota_demo to stepquota_runtime, stepquota_observer;
    grant select, insert, update on all tables in schema stepquota_demo to stepquota_runtime;
    grant select on all tables in schema stepquota_demo to stepquota_observer;
"""


@dataclass(frozen=True)
class Job:
    """A run, as the runtime knows it."""

    tenant: str
    run_id: str


def make_tables(connection: Connection) -> None:
    """Make the runtime's own tables, in a schema of their own."""
    connection.execute(_TABLES)


def add_jobs(connection: Connection, jobs: Iterable[Job]) -> None:
    """Add ready jobs; they are taken in this order."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into stepquota_demo.jobs (tenant, run_id) values (%s, %s)",
            [(job.tenant, job.run_id) for job in jobs],
        )


def take_ready_job(connection: Connection, worker: str) -> Job | None:
    """Take a job that is ready and nobody's: new, or left by a worker that is gone."""
    rows = connection.execute(
        "select tenant, run_id from stepquota_demo.jobs where state = 'ready'"
        " order by position limit %s",
        [_LOOKED_AT],
    )
    for tenant, run_id in rows.fetchall():
        job = Job(tenant, run_id)
        if take_job(connection, job, worker):
            return job
    return None


def take_job(connection: Connection, job: Job, worker: str) -> bool:
    """Take this job, if it is ready and nobody else has it; give it back with ``release_job``."""
    locked = connection.execute(
        "select pg_try_advisory_lock(hashtextextended(%s || '/' || %s, 0))",
        [job.tenant, job.run_id],
    ).fetchone()
    if locked is None or not locked[0]:
        return False
    # Looked at again under the lock: its last owner may have parked it meanwhile.
    taken = connection.execute(
        "update stepquota_demo.jobs set worker = %s"
        " where tenant = %s and run_id = %s and state = 'ready'",
        [worker, job.tenant, job.run_id],
    )
    if taken.rowcount == 0:
        release_job(connection, job)
        return False
    return True


def release_job(connection: Connection, job: Job) -> None:
    """Give a job back: another worker may take it as soon as it is ready."""
    connection.execute(
        "select pg_advisory_unlock(hashtextextended(%s || '/' || %s, 0))",
        [job.tenant, job.run_id],
    )


def set_job_state(connection: Connection, job: Job, state: State) -> None:
    """Set a job's state, in the connection's transaction."""
    connection.execute(
        "update stepquota_demo.jobs set state = %s where tenant = %s and run_id = %s",
        [state, job.tenant, job.run_id],
    )


def store_result(connection: Connection, job: Job, node_path: str, output: object) -> None:
    """Keep what a step answered, for replays, in the connection's transaction."""
    connection.execute(
        "insert into stepquota_demo.results (tenant, run_id, node_path, output)"
        " values (%s, %s, %s, %s)",
        [job.tenant, job.run_id, node_path, Jsonb(output)],
    )


def find_result(connection: Connection, job: Job, node_path: str) -> Any:
    """What a finished step answered."""
    row = connection.execute(
        "select output from stepquota_demo.results"
        " where tenant = %s and run_id = %s and node_path = %s",
        [job.tenant, job.run_id, node_path],
    ).fetchone()
    if row is None:
        raise LookupError(f"no result is stored for {node_path} of run {job.run_id}")
    return row[0]
