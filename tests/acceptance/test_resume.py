"""Paused runs go on: by hand, with the scan, at once with an upgrade; never past the quota."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import stepquota
from acceptance.flavours import Quota
from acceptance.stripe_objects import APRIL, limit, plan_of, price, product


def use_up(quota: Quota, tenant: str, limit_: int) -> None:
    """Give the tenant a limit and use all of it, in a run of its own."""
    quota.set_limit(tenant, limit_)
    quota.register_workflow_run(tenant, "user")
    for number in range(limit_):
        assert quota.start_workflow_step(tenant, "user", f"root.steps[{number}]").execute
    quota.finish_workflow_run(tenant, "user", "SUCCEEDED")


def pause(quota: Quota, tenant: str, run_id: str) -> None:
    """Register a run and have it paused at its first step."""
    quota.register_workflow_run(tenant, run_id)
    paused = quota.start_workflow_step(tenant, run_id, "root.steps[0]")
    assert paused.outcome == "quota_paused"


def raise_limit_unnoticed(quota: Quota, tenant: str, limit_: int) -> None:
    """Change the tier's row as in psql, which tells nobody, and let its quota grow stale."""
    quota.execute(
        "update stepquota.tiers set step_limit = %s where tier = %s",
        [limit_, f"tier of {tenant}"],
    )
    quota.at(quota.now.replace(minute=quota.now.minute + 1))


def resumed_runs(quota: Quota) -> list[str]:
    """The runs that the run logs say were resumed, in that order."""
    rows = quota.execute(
        "select run_id from stepquota.workflow_run_logs where message = 'resumed' order by log_id"
    )
    return [run_id for (run_id,) in rows]


# -- By hand


def test_a_manual_resume_lets_the_step_reserve_again(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    raise_limit_unnoticed(quota, "acme", 2)
    answer = quota.resume_workflow_run("acme", "r", "customer called")
    assert (answer.resumed, answer.reason) == (True, "resumed")
    assert (answer.used_count, answer.effective_limit) == (1, 2)
    assert answer.resumption_id is not None
    assert quota.used("acme") == 1
    assert quota.run("acme", "r") == ("RUNNING", "root.steps[0]")
    assert quota.open_waits("acme") == []
    (event,) = quota.events("run_resumed", "acme")
    assert (event["run_id"], event["reason"]) == ("r", "customer called")

    (resumption,) = quota.claim_workflow_run_resumptions("worker")
    assert resumption.resumption_id == answer.resumption_id
    started = quota.start_workflow_step("acme", "r", "root.steps[0]", delivery=resumption.delivery)
    assert (started.outcome, started.used_count) == ("started", 2)


def test_a_manual_resume_bypasses_nothing(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    raise_limit_unnoticed(quota, "acme", 2)
    assert quota.resume_workflow_run("acme", "r", "please").resumed
    # Another run takes the unit before the runtime is back at the step.
    assert quota.reserve_workflow_step("acme").allowed
    paused = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (paused.outcome, paused.used_count) == ("quota_paused", 2)
    assert quota.run("acme", "r")[0] == "WAITING"


def test_a_manual_resume_of_an_exhausted_tenant_is_an_answer(quota: Quota) -> None:
    use_up(quota, "acme", 10)
    pause(quota, "acme", "r")
    answer = quota.resume_workflow_run("acme", "r", "please")
    assert answer == stepquota.WorkflowRunResume(
        resumed=False,
        reason="quota_exhausted",
        used_count=10,
        effective_limit=10,
        period_start=APRIL[0],
        period_end=APRIL[1],
        period_source="fallback_calendar",
        limit_source="tier_default",
        resumption_id=None,
    )
    assert quota.run("acme", "r") == ("WAITING", "root.steps[0]")
    assert quota.claim_workflow_run_resumptions("worker") == ()


def test_units_promised_to_others_are_no_capacity(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    for run_id in ("r", "s"):
        pause(quota, "acme", run_id)
    raise_limit_unnoticed(quota, "acme", 2)
    assert quota.resume_workflow_run("acme", "s", "first").resumed
    answer = quota.resume_workflow_run("acme", "r", "second")
    assert (answer.resumed, answer.reason) == (False, "no_capacity")
    assert (answer.used_count, answer.effective_limit) == (1, 2)


def test_a_suspended_tenants_run_is_held(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    raise_limit_unnoticed(quota, "acme", 2)
    quota.execute("update stepquota.tenants set suspended_at = now()")
    answer = quota.resume_workflow_run("acme", "r", "please")
    assert (answer.resumed, answer.reason) == (False, "held")


def test_each_misuse_of_the_manual_resume_is_an_error_of_its_own(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "paused")
    quota.register_workflow_run("acme", "running")
    quota.set_limit("rich", 5)
    for run_id in ("event", "stale"):
        quota.register_workflow_run("rich", run_id)
        quota.start_workflow_step("rich", run_id, "root.steps[0]", step_type="event")
    quota.open_workflow_run_wait("rich", "event", "root.steps[0]", "event")
    quota.set_limit("rich", 2)
    assert quota.start_workflow_step("rich", "stale", "root.a").outcome == "quota_paused"
    quota.open_workflow_run_wait("rich", "stale", "root.steps[0]", "event")
    assert quota.run("rich", "stale") == ("WAITING", "root.steps[0]")

    misuses = [
        ("rich", "paused", stepquota.UnknownRun),
        ("acme", "running", stepquota.RunNotWaiting),
        ("rich", "event", stepquota.RunNotQuotaPaused),
        ("rich", "stale", stepquota.StalePause),
        ("acme", "user", stepquota.RunEnded),
    ]
    sqlstates = set()
    for tenant, run_id, expected in misuses:
        with pytest.raises(expected) as caught:
            quota.resume_workflow_run(tenant, run_id, "please")
        sqlstates.add(caught.value.sqlstate)
        assert run_id in (caught.value.detail or "")
        assert caught.value.hint
    assert len(sqlstates) == len(misuses)
    assert resumed_runs(quota) == []


# -- With the scan


def test_the_scan_resumes_only_who_has_units(quota: Quota) -> None:
    use_up(quota, "a", 1)
    pause(quota, "a", "run of a")
    use_up(quota, "b", 2)
    pause(quota, "b", "run of b")
    raise_limit_unnoticed(quota, "b", 5)
    for tenant, used in (("a", 1), ("b", 2)):
        assert quota.resolve_workflow_step_quota(tenant).used_count == used
    quota.resume_scan()
    assert quota.run("a", "run of a")[0] == "WAITING"
    assert quota.run("b", "run of b")[0] == "RUNNING"
    assert resumed_runs(quota) == ["run of b"]
    quota.resume_scan()
    assert resumed_runs(quota) == ["run of b"]
    (claimed,) = quota.claim_workflow_run_resumptions("worker")
    assert (claimed.tenant, claimed.run_id) == ("b", "run of b")
    assert (quota.used("a"), quota.used("b")) == (1, 2)
    assert quota.verify_all() == ()


def test_old_waits_of_an_exhausted_tenant_delay_nobody(quota: Quota) -> None:
    use_up(quota, "poor", 1)
    for number in range(120):
        pause(quota, "poor", f"poor {number}")
    use_up(quota, "rich", 1)
    for number in range(5):
        quota.at(quota.now.replace(hour=13, minute=number))
        pause(quota, "rich", f"rich {number}")
    raise_limit_unnoticed(quota, "rich", 100)
    quota.resume_scan()
    assert resumed_runs(quota) == [f"rich {number}" for number in range(5)]
    assert len(quota.open_waits("poor")) == 120


def test_the_scan_hands_out_no_more_than_there_is_oldest_first(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    for number in range(4):
        quota.at(quota.now.replace(second=number))
        pause(quota, "acme", f"r{number}")
    raise_limit_unnoticed(quota, "acme", 3)
    quota.resume_scan()
    assert resumed_runs(quota) == ["r0", "r1"]
    quota.resume_scan()
    assert resumed_runs(quota) == ["r0", "r1"]


def test_a_new_period_resumes_what_the_old_one_paused(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    quota.at(APRIL[1])
    quota.resume_scan()
    assert resumed_runs(quota) == ["r"]
    started = quota.start_workflow_step("acme", "r", "root.steps[0]")
    assert (started.outcome, started.used_count) == ("started", 1)
    assert started.period_start == APRIL[1]


def test_the_tick_does_the_scans_work(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    raise_limit_unnoticed(quota, "acme", 2)
    quota.tick()
    assert resumed_runs(quota) == ["r"]


def test_the_scan_commits_what_it_did(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    raise_limit_unnoticed(quota, "acme", 2)
    quota.resume_scan(batch_size=1)
    ((resumed, finished),) = quota.execute(
        "select runs_resumed, finished_at is not null from stepquota.resume_scans"
    )
    assert (resumed, finished) == (1, True)


# -- At once


def test_a_better_plan_resumes_at_once(quota: Quota) -> None:
    quota.set_tier_limit("solo", 1)
    quota.set_tenant_plan("acme", "solo")
    quota.register_workflow_run("acme", "user")
    quota.start_workflow_step("acme", "user", "root.steps[0]")
    pause(quota, "acme", "r")
    answer = quota.set_tenant_plan("acme", "pro")
    assert (answer.tier, answer.effective_limit, answer.used_count) == ("pro", 750, 1)
    assert resumed_runs(quota) == ["r"]
    assert quota.workflow_run_quota_pause("acme", "r") is None


def test_a_better_price_resumes_at_once(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("1")))
    quota.register_workflow_run("acme", "user")
    quota.start_workflow_step("acme", "user", "root.steps[0]")
    pause(quota, "acme", "r")
    quota.apply(price("price_acme_main", product("prod_acme_main"), limit("2")))
    assert resumed_runs(quota) == ["r"]
    with quota.transaction(rollback=True):
        quota.apply(price("price_acme_main", product("prod_acme_main"), limit("1")))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 2


def test_a_higher_tier_limit_resumes(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    change = quota.set_tier_limit("tier of acme", 2)
    assert change == stepquota.TierLimitChange("tier of acme", 2, 1, True)
    assert resumed_runs(quota) == ["r"]
    assert not quota.set_tier_limit("tier of acme", 2).changed


def test_a_refresh_resumes(quota: Quota) -> None:
    use_up(quota, "acme", 1)
    pause(quota, "acme", "r")
    quota.execute("update stepquota.tiers set step_limit = null where tier = 'tier of acme'")
    answer = quota.refresh_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.allowed) == (None, True)
    assert resumed_runs(quota) == ["r"]


# -- Why a run is paused


def test_the_pause_says_why_and_what_unblocks_it(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("2")))
    quota.register_workflow_run("acme", "r")
    for number in range(2):
        quota.start_workflow_step("acme", "r", f"root.steps[{number}]")
        quota.finish_workflow_step("acme", "r", f"root.steps[{number}]", 1, "SUCCEEDED")
    assert quota.workflow_run_quota_pause("acme", "r") is None
    since = datetime(2026, 4, 16, 8, tzinfo=UTC)
    quota.at(since)
    paused = quota.start_workflow_step("acme", "r", "root.steps[2]")
    quota.at("2026-04-17T00:00:00Z")
    shown = quota.workflow_run_quota_pause("acme", "r")
    assert shown == stepquota.WorkflowRunQuotaPause(
        reason="quota",
        period_start=APRIL[0],
        period_end=APRIL[1],
        used_count=2,
        effective_limit=2,
        period_source="stripe_subscription",
        limit_source="stripe_price_metadata",
        paused_since=since,
        wait_id=paused.wait_id,
        node_paths=("root.steps[2]",),
        unblocked_by=shown.unblocked_by,
        unblocks_at=APRIL[1],
        reasons=("quota",),
        unblocked_by_each=(shown.unblocked_by,),
    )
    assert shown.unblocked_by
    quota.apply(price("price_acme_main", product("prod_acme_main"), limit("3")))
    assert quota.workflow_run_quota_pause("acme", "r") is None
    with pytest.raises(stepquota.UnknownRun):
        quota.workflow_run_quota_pause("other", "r")
