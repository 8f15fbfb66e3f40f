"""The demo's runtime: crash-safe by replay, and honest about what it counts."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest

import stepquota
from stepquota.demo.connections import connect
from stepquota.demo.jobs import (
    RUNTIME,
    Job,
    add_jobs,
    make_tables,
    release_job,
    set_job_state,
    take_job,
    take_ready_job,
)
from stepquota.demo.runner import Run, TryAgain
from stepquota.demo.workflow import STEPS_A_RUN, fulfil_order

JOB = Job("acme", "order-1")
Connection = psycopg.Connection[Any]


class Died(Exception):
    """The worker is gone."""


@pytest.fixture
def owner(database_url: str) -> Any:
    with connect(database_url, "owner") as connection:
        make_tables(connection)
        stepquota.register_workflow_run(connection, JOB.tenant, JOB.run_id, "fulfil_order", RUNTIME)
        add_jobs(connection, [JOB])
        yield connection


@pytest.fixture
def worker(owner: Connection, database_url: str) -> Any:
    with connect(database_url, "worker", "runtime") as connection:
        yield connection


def _state(owner: Connection) -> str:
    row = owner.execute(
        "select state from stepquota_demo.jobs where run_id = %s", [JOB.run_id]
    ).fetchone()
    assert row
    return str(row[0])


def _value(owner: Connection, query: Any) -> Any:
    row = owner.execute(query).fetchone()
    assert row
    return row[0]


def _wake(owner: Connection) -> None:
    """Whatever the run waits for, except quota, comes; without a worker to hear of it."""
    for wait_id, wait_type in owner.execute(
        "select wait_id, wait_type from stepquota.workflow_run_waits"
        " where status = 'WAITING' and wait_type <> 'quota'"
    ).fetchall():
        answer = {"human": {"by": "Ada"}, "event": {"carrier": "by road"}}.get(wait_type)
        stepquota.resolve_workflow_run_wait(owner, JOB.tenant, wait_id, answer)
    set_job_state(owner, JOB, "ready")


@pytest.mark.parametrize("moment", ["before a step", "after its work"])
def test_a_run_that_dies_at_each_of_its_steps_is_counted_as_any_other(
    owner: Connection, worker: Connection, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker dies once at each step, and what comes after replays it."""
    survived: set[tuple[str, int]] = set()

    def die_the_first_time(method: Any) -> Any:
        def die_or_go_on(run: Run, path: str, attempt: int, *others: Any) -> Any:
            if (path, attempt) not in survived:
                survived.add((path, attempt))
                raise Died
            return method(run, path, attempt, *others)

        return die_or_go_on

    name = "_start" if moment == "before a step" else "_finish"
    monkeypatch.setattr(Run, name, die_the_first_time(getattr(Run, name)))
    deaths = 0
    while _state(owner) != "done":
        assert take_job(worker, JOB, "worker")
        try:
            Run(worker, JOB).carry_out(fulfil_order)
        except Died:
            deaths += 1
        release_job(worker, JOB)
        if _state(owner) == "parked":
            _wake(owner)
    assert deaths == STEPS_A_RUN
    run = stepquota.register_workflow_run(owner, JOB.tenant, JOB.run_id, "fulfil_order", RUNTIME)
    assert run.status == "SUCCEEDED"
    quota = stepquota.resolve_workflow_step_quota(owner, JOB.tenant)
    assert quota.used_count == STEPS_A_RUN
    compared = stepquota.reconcile_workflow_step_usage(owner, JOB.tenant, quota.period_start)
    assert (compared.ledger_step_count, compared.drift) == (STEPS_A_RUN, 0)
    assert stepquota.verify_all(owner) == ()
    paths = owner.execute(
        "select node_path, attempt, step_type, status from stepquota.workflow_run_steps"
        " order by node_path, attempt"
    ).fetchall()
    assert paths == [
        ("root.steps[0]", 1, "action", "SUCCEEDED"),
        ("root.steps[1]", 1, "forEach", "SUCCEEDED"),
        ("root.steps[1].body[0].steps[0]", 1, "action", "SUCCEEDED"),
        ("root.steps[1].body[1].steps[0]", 1, "action", "SUCCEEDED"),
        ("root.steps[1].body[2].steps[0]", 1, "action", "SUCCEEDED"),
        ("root.steps[2]", 1, "action", "RETRY_SCHEDULED"),
        ("root.steps[2]", 2, "action", "SUCCEEDED"),
        ("root.steps[3]", 1, "human", "SUCCEEDED"),
        ("root.steps[4]", 1, "event", "SUCCEEDED"),
        ("root.steps[5]", 1, "action", "SUCCEEDED"),
    ]


def test_a_pause_and_the_parked_job_are_one_transaction(
    owner: Connection, worker: Connection
) -> None:
    stepquota.set_tier_limit(owner, "one", 1)
    stepquota.set_tenant_plan(owner, JOB.tenant, "one")
    assert take_job(worker, JOB, "worker")
    Run(worker, JOB).carry_out(fulfil_order)
    assert _state(owner) == "parked"
    pause = stepquota.workflow_run_quota_pause(owner, JOB.tenant, JOB.run_id)
    assert pause is not None
    assert pause.node_paths == ("root.steps[1]",)
    assert stepquota.resolve_workflow_step_quota(owner, JOB.tenant).used_count == 1


def test_a_worker_whose_resumption_went_to_another_writes_nothing_more(
    owner: Connection, worker: Connection
) -> None:
    stepquota.set_tier_limit(owner, "one", 1)
    stepquota.set_tenant_plan(owner, JOB.tenant, "one")
    assert take_job(worker, JOB, "worker")
    Run(worker, JOB).carry_out(fulfil_order)
    stepquota.set_tier_limit(owner, "one", 100)
    set_job_state(owner, JOB, "ready")
    lease = timedelta(microseconds=1)
    (late,) = stepquota.claim_workflow_run_resumptions(worker, "late", 1, lease, RUNTIME)
    (newer,) = stepquota.claim_workflow_run_resumptions(worker, "newer", 1, lease, RUNTIME)
    assert newer.delivery > late.delivery
    with pytest.raises(stepquota.StaleDelivery):
        Run(worker, JOB, late.delivery).carry_out(fulfil_order)
    assert stepquota.resolve_workflow_step_quota(owner, JOB.tenant).used_count == 1
    Run(worker, JOB, newer.delivery).carry_out(fulfil_order)
    assert stepquota.resolve_workflow_step_quota(owner, JOB.tenant).used_count > 1


def test_a_job_is_one_workers_until_its_session_ends(
    owner: Connection, worker: Connection, database_url: str
) -> None:
    with connect(database_url, "other", "runtime") as other:
        assert take_ready_job(other, "other") == JOB
        assert take_ready_job(worker, "worker") is None
    # The server ends a closed session a moment later.
    deadline = time.monotonic() + 10
    while (job := take_ready_job(worker, "worker")) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert job == JOB
    release_job(worker, JOB)
    set_job_state(owner, JOB, "parked")
    assert take_ready_job(worker, "worker") is None
    # A job that could not be taken is not left locked.
    assert _value(owner, "select count(*) from pg_locks where locktype = 'advisory'") == 0


def test_a_step_that_fails_on_its_last_try_fails_the_run(
    owner: Connection, worker: Connection
) -> None:
    def fail(_attempt: int) -> None:
        raise TryAgain("no answer")

    def program(run: Run) -> None:
        run.step("root.steps[0]", fail, tries=2)

    for _ in range(2):
        assert take_job(worker, JOB, "worker")
        Run(worker, JOB).carry_out(program)
        release_job(worker, JOB)
        if _state(owner) == "parked":
            _wake(owner)
    run = stepquota.register_workflow_run(owner, JOB.tenant, JOB.run_id, "fulfil_order", RUNTIME)
    assert run.status == "FAILED"
    assert _state(owner) == "done"
    assert stepquota.resolve_workflow_step_quota(owner, JOB.tenant).used_count == 2
