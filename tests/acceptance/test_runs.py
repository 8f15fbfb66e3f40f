"""What counts, what pauses a run, and what a repeated call answers."""

from __future__ import annotations

import pytest

import stepquota
from acceptance.flavours import ONCE, Quota, run_at_once

APRIL_15 = "2026-04-15T12:00:00Z"


def step(quota: Quota, path: str, attempt: int = 1, status: str = "SUCCEEDED", **kind: str) -> None:
    """Start and finish one attempt of run r of acme."""
    start = quota.start_workflow_step("acme", "r", path, attempt, **kind)
    assert start.outcome == "started", start
    quota.finish_workflow_step("acme", "r", path, attempt, status)


def test_a_run_of_two_steps_with_one_unit(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r", "two steps")
    step(quota, "root.steps[0]")
    paused = quota.start_workflow_step("acme", "r", "root.steps[1]")
    assert (paused.outcome, paused.execute, paused.allowed) == ("quota_paused", False, False)
    assert (paused.used_count, paused.effective_limit, paused.remaining) == (1, 1, 0)
    assert (paused.step_id, paused.step_status) == (None, None)
    assert quota.run("acme", "r") == ("WAITING", "root.steps[1]")
    assert quota.open_waits("acme") == [("r", "quota", ["root.steps[1]"])]
    assert quota.ledger("acme") == [("root.steps[0]", 1, "SUCCEEDED")]
    assert quota.execute(
        "select count(*) from stepquota.workflow_runs where error is not null"
    ) == [(0,)]

    again = quota.start_workflow_step("acme", "r", "root.steps[1]")
    assert (again.outcome, again.wait_id) == ("quota_paused", paused.wait_id)
    assert quota.open_waits("acme") == [("r", "quota", ["root.steps[1]"])]
    assert quota.execute("select count(*) from stepquota.workflow_run_waits") == [(1,)]
    assert quota.used("acme") == 1
    assert len(quota.events("run_paused", "acme")) == 1
    assert quota.verify_all() == ()


def test_a_failed_attempt_and_its_retry_count_twice(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]", 1, "RETRY_SCHEDULED")
    step(quota, "root.steps[0]", 2)
    assert quota.used("acme") == 2
    assert quota.ledger("acme") == [
        ("root.steps[0]", 1, "RETRY_SCHEDULED"),
        ("root.steps[0]", 2, "SUCCEEDED"),
    ]


def test_a_for_each_counts_itself_and_every_item(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    assert quota.start_workflow_step("acme", "r", "root.steps[0]", step_type="forEach").execute
    for number in range(3):
        step(quota, f"root.steps[0].body[{number}].steps[0]")
    quota.finish_workflow_step("acme", "r", "root.steps[0]", 1, "SUCCEEDED")
    assert quota.used("acme") == 4
    assert [path for path, _, _ in quota.ledger("acme")] == [
        "root.steps[0]",
        "root.steps[0].body[0].steps[0]",
        "root.steps[0].body[1].steps[0]",
        "root.steps[0].body[2].steps[0]",
    ]


def test_a_repeated_call_counts_nothing(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    first = quota.start_workflow_step("acme", "r", "root.steps[0]")
    again = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (again.outcome, again.execute) == ("already_started", True)
    assert (again.step_id, again.period_start) == (first.step_id, first.period_start)
    assert (again.used_count, again.step_status) == (1, "STARTED")
    finished = quota.finish_workflow_step("acme", "r", "root.steps[0]", 1, "SUCCEEDED")
    assert finished.step_id == first.step_id
    assert finished == quota.finish_workflow_step("acme", "r", "root.steps[0]", 1, "SUCCEEDED")
    after = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (after.outcome, after.execute) == ("already_finished", False)
    assert (after.step_id, after.step_status) == (first.step_id, "SUCCEEDED")
    assert quota.used("acme") == 1


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "RETRY_SCHEDULED", "CANCELED"])
def test_a_finished_attempt_answers_its_status(quota: Quota, status: str) -> None:
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]", 1, status)
    after = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (after.outcome, after.step_status) == ("already_finished", status)
    other = "FAILED" if status == "SUCCEEDED" else "SUCCEEDED"
    with pytest.raises(stepquota.StepAlreadyFinished):
        quota.finish_workflow_step("acme", "r", "root.steps[0]", 1, other)


def test_an_event_wait_counts_once_at_entry(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    entered = quota.start_workflow_step("acme", "r", "root.steps[0]", step_type="event")
    assert (entered.outcome, quota.used("acme")) == ("started", 1)
    wait = quota.open_workflow_run_wait("acme", "r", "root.steps[0]", "event", None, {"on": "paid"})
    assert (wait.wait_type, wait.status) == ("event", "WAITING")
    assert quota.run("acme", "r") == ("WAITING", "root.steps[0]")
    assert wait == quota.open_workflow_run_wait("acme", "r", "root.steps[0]", "event")

    resolved = quota.resolve_workflow_run_wait("acme", wait.wait_id, {"amount": 5})
    assert (resolved.status, resolved.payload) == ("RESOLVED", {"amount": 5})
    assert quota.run("acme", "r") == ("RUNNING", "root.steps[0]")
    (resumption,) = quota.claim_workflow_run_resumptions("worker")
    assert (resumption.run_id, resumption.node_paths) == ("r", ("root.steps[0]",))
    assert (resumption.wait_type, resumption.payload) == ("event", {"amount": 5})
    woken = quota.start_workflow_step(
        "acme", "r", "root.steps[0]", step_type="event", delivery=resumption.delivery
    )
    assert (woken.outcome, woken.step_id) == ("already_started", entered.step_id)
    assert quota.used("acme") == 1
    assert quota.claim_workflow_run_resumptions("worker") == ()
    step_row = quota.finish_workflow_step("acme", "r", "root.steps[0]", 1, "SUCCEEDED")
    assert step_row.step_id == entered.step_id
    assert quota.used("acme") == 1


def test_a_due_time_wait_is_resolved_by_the_tick(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    quota.start_workflow_step("acme", "r", "root.steps[0]", step_type="time")
    due = quota.now.replace(hour=13)
    quota.open_workflow_run_wait("acme", "r", "root.steps[0]", "time", due)
    quota.tick()
    assert quota.run("acme", "r")[0] == "WAITING"
    quota.at(due)
    quota.tick()
    assert quota.run("acme", "r")[0] == "RUNNING"
    assert quota.used("acme") == 1


BRANCH = """
with psycopg.connect(url) as connection:
    wait_for_the_others()
    for attempt in range(5):
        with connection.transaction():
            answer = stepquota.start_workflow_step(connection, "acme", "r", {path!r})
            time.sleep(0.02)
    print(answer.outcome, answer.wait_id)
"""

BRANCH_ASYNCIO = """
async def main():
    async with await psycopg.AsyncConnection.connect(url) as connection:
        wait_for_the_others()
        for attempt in range(5):
            async with connection.transaction():
                answer = await stepquota.aio.start_workflow_step(connection, "acme", "r", {path!r})
                await asyncio.sleep(0.02)
        print(answer.outcome, answer.wait_id)
asyncio.run(main())
"""


@ONCE
def test_two_branches_refused_at_once_share_one_wait(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]")
    paths = ["root.steps[1].branches[0]", "root.steps[1].branches[1]"]
    answers = run_at_once(
        quota.url,
        [BRANCH.format(path=paths[0]), BRANCH_ASYNCIO.format(path=paths[1])],
        APRIL_15,
    )
    ((wait_id, waiting),) = quota.execute(
        "select wait_id::text, node_paths from stepquota.workflow_run_waits"
    )
    assert answers == [f"quota_paused {wait_id}"] * 2
    assert sorted(waiting) == paths
    assert quota.used("acme") == 1
    assert quota.verify_all() == ()


def test_a_branch_that_works_keeps_the_run_running(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    assert quota.start_workflow_step("acme", "r", "root.branches[0]").execute
    paused = quota.start_workflow_step("acme", "r", "root.branches[1]")
    assert paused.outcome == "quota_paused"
    assert quota.run("acme", "r")[0] == "RUNNING"
    quota.finish_workflow_step("acme", "r", "root.branches[0]", 1, "SUCCEEDED")
    assert quota.run("acme", "r")[0] == "WAITING"


def test_branches_are_resumed_together_and_enter_one_by_one(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]")
    for path in ("a", "b"):
        quota.start_workflow_step("acme", "r", path)
    quota.set_limit("acme", 3)
    (resumption,) = quota.claim_workflow_run_resumptions("worker")
    assert resumption.node_paths == ("a", "b")
    for path in resumption.node_paths:
        status = "select status from stepquota.workflow_run_resumptions"
        assert quota.execute(status) == [("OPEN",)]
        assert quota.start_workflow_step("acme", "r", path, delivery=resumption.delivery).execute
    assert quota.execute(status) == [("ACKNOWLEDGED",)]
    assert (quota.open_waits("acme"), quota.used("acme")) == ([], 3)
    assert quota.verify_all() == ()


def test_a_waiting_run_with_a_free_unit_starts(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]")
    assert quota.start_workflow_step("acme", "r", "root.steps[1]").outcome == "quota_paused"
    # A unit that nobody was told of: the tier's row is edited by hand.
    quota.execute("update stepquota.tiers set step_limit = 2 where tier = 'tier of acme'")
    quota.at(quota.now.replace(minute=1))
    assert quota.run("acme", "r")[0] == "WAITING"
    started = quota.start_workflow_step("acme", "r", "root.steps[1]")
    assert (started.outcome, started.used_count) == ("started", 2)
    assert quota.run("acme", "r") == ("RUNNING", "root.steps[1]")
    assert quota.open_waits("acme") == []


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "CANCELED"])
def test_on_an_ended_run_starting_is_an_error(quota: Quota, status: str) -> None:
    quota.register_workflow_run("acme", "r")
    if status == "CANCELED":
        quota.cancel_workflow_run("acme", "r")
    else:
        quota.finish_workflow_run("acme", "r", status)
    with pytest.raises(stepquota.RunEnded) as caught:
        quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert status in (caught.value.detail or "")
    assert caught.value.hint
    assert quota.used("acme") == 0


def test_ending_a_paused_run_closes_its_wait(quota: Quota) -> None:
    quota.set_tier_limit("solo", 1)
    for run_id in ("r", "s"):
        quota.register_workflow_run("acme", run_id)
    step(quota, "root.steps[0]")
    for run_id in ("r", "s"):
        assert quota.start_workflow_step("acme", run_id, "root.x").outcome == "quota_paused"
    quota.cancel_workflow_run("acme", "r")
    quota.finish_workflow_run("acme", "s", "FAILED", {"message": "given up"})
    assert quota.open_waits("acme") == []
    quota.set_tier_limit("solo", 100)
    quota.resume_scan()
    assert quota.claim_workflow_run_resumptions("worker") == ()
    assert quota.used("acme") == 1


def test_a_suspended_tenants_runs_are_held(quota: Quota) -> None:
    quota.set_tenant_plan("acme", "solo")
    quota.register_workflow_run("acme", "r")
    quota.execute("update stepquota.tenants set suspended_at = now()")
    held = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (held.outcome, held.execute, held.step_id) == ("held", False, None)
    assert quota.used("acme") == 0


def test_a_worker_that_lost_its_lease_cannot_act(quota: Quota) -> None:
    quota.set_limit("acme", 1)
    quota.register_workflow_run("acme", "r")
    step(quota, "root.steps[0]")
    quota.start_workflow_step("acme", "r", "root.steps[1]")
    quota.set_limit("acme", 3)
    (first,) = quota.claim_workflow_run_resumptions("one")
    assert quota.claim_workflow_run_resumptions("two") == ()
    quota.at(first.leased_until)
    (second,) = quota.claim_workflow_run_resumptions("two")
    assert second.resumption_id == first.resumption_id
    assert second.delivery > first.delivery
    with pytest.raises(stepquota.StaleDelivery):
        quota.start_workflow_step("acme", "r", "root.steps[1]", delivery=first.delivery)
    assert quota.start_workflow_step("acme", "r", "root.steps[1]", delivery=second.delivery).execute
    with pytest.raises(stepquota.StaleDelivery):
        quota.finish_workflow_step(
            "acme", "r", "root.steps[1]", 1, "FAILED", delivery=first.delivery
        )
    with pytest.raises(stepquota.StaleDelivery):
        quota.finish_workflow_run("acme", "r", "FAILED", delivery=first.delivery)
    finished = quota.finish_workflow_step(
        "acme", "r", "root.steps[1]", 1, "SUCCEEDED", delivery=second.delivery
    )
    assert finished.status == "SUCCEEDED"
    assert quota.used("acme") == 2


def test_runtimes_claim_only_their_own(quota: Quota) -> None:
    quota.set_tier_limit("solo", 1)
    for runtime in ("python", "node"):
        quota.register_workflow_run("acme", runtime, None, runtime)
    quota.start_workflow_step("acme", "python", "root.steps[0]")
    for runtime in ("python", "node"):
        quota.start_workflow_step("acme", runtime, "root.steps[1]")
    quota.set_tier_limit("solo", 10)
    quota.resume_scan()
    assert quota.claim_workflow_run_resumptions("worker") == ()
    for runtime in ("python", "node"):
        (claimed,) = quota.claim_workflow_run_resumptions("worker", runtime=runtime)
        assert claimed.run_id == runtime
    with pytest.raises(stepquota.RunRegisteredDifferently):
        quota.register_workflow_run("acme", "python", None, "node")
