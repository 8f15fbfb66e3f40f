"""A worker process of the demo: it goes on with resumed runs, and takes new ones.

It has no more rights than ``stepquota_runtime``, and keeps nothing in memory that matters: it may
be killed at any moment.
"""

from __future__ import annotations

from datetime import timedelta

import psycopg

from .. import claim_workflow_run_resumptions
from ..errors import RunEnded, StaleDelivery
from .connections import connect
from .jobs import (
    RUNTIME,
    Connection,
    Job,
    release_job,
    set_job_state,
    take_job,
    take_ready_job,
)
from .lifeline import Lifeline, run_until_cut
from .runner import Run
from .workflow import fulfil_order

CHANNEL = "stepquota_resumption"

# How long a worker that heard no notification waits before it looks for itself.
_POLL_SECONDS = 0.25
# A resumption that its worker has not re-entered by then is delivered to another one.
_LEASE = timedelta(seconds=10)


def main(lifeline: Lifeline) -> None:
    """Work until the lifeline is cut."""
    task = lifeline.read_task()
    name = task["name"]
    with connect(task["database_url"], name, "runtime") as connection:
        # A notification is only a hint. One that came with the answer of a query is remembered.
        heard: list[psycopg.Notify] = []
        connection.add_notify_handler(heard.append)
        connection.execute(f"listen {CHANNEL}".encode())
        while True:
            lifeline.check()
            heard.clear()
            if not (_go_on(connection, name, lifeline) or _begin(connection, name, lifeline)):
                lifeline.wait(0 if heard else _POLL_SECONDS, connection.fileno())


def _go_on(connection: Connection, name: str, lifeline: Lifeline) -> bool:
    """Go on with a run that was resumed, if there is one."""
    # In one transaction: the run is claimed, and its job is ready for whoever comes if we die now.
    with connection.transaction():
        claimed = claim_workflow_run_resumptions(connection, name, 1, _LEASE, RUNTIME)
        for resumption in claimed:
            set_job_state(connection, Job(resumption.tenant, resumption.run_id), "ready")
    for resumption in claimed:
        job = Job(resumption.tenant, resumption.run_id)
        if take_job(connection, job, name):
            _carry_out(connection, job, lifeline, resumption.delivery)
    return bool(claimed)


def _begin(connection: Connection, name: str, lifeline: Lifeline) -> bool:
    """Begin a new run, or go on with one whose worker is gone, if there is one."""
    job = take_ready_job(connection, name)
    if job:
        _carry_out(connection, job, lifeline)
    return job is not None


def _carry_out(
    connection: Connection, job: Job, lifeline: Lifeline, delivery: int | None = None
) -> None:
    try:
        Run(connection, job, delivery, lifeline.check).carry_out(fulfil_order)
    except StaleDelivery:
        # Another worker has the run by now.
        pass
    except RunEnded:
        set_job_state(connection, job, "done")
    finally:
        if not connection.broken:
            release_job(connection, job)


if __name__ == "__main__":
    run_until_cut(main)
