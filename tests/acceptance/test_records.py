"""What is recorded, what is reconciled, and what bad input leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import stepquota
from acceptance.flavours import Quota
from acceptance.stripe_objects import APRIL, customer, limit, plan_of


def test_an_invalid_limit_and_an_exhaustion_are_recorded_once(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("invalid"), product_metadata=limit("1")))
    quota.execute("set client_min_messages = debug1")
    quota.notices()
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 1
    answers = [quota.reserve_workflow_step("acme").allowed for _ in range(2)]
    assert answers == [True, False]
    reserved = [n for n in quota.notices() if n.message == "workflow step reserved"]
    assert len(reserved) == 1
    (invalid,) = quota.events("limit_metadata_invalid", "acme")
    assert invalid["level"] == "warning"
    assert (invalid["object_id"], invalid["value"]) == ("price_acme_main", "invalid")
    (exhausted,) = quota.events("quota_exhausted", "acme")
    assert exhausted["level"] == "warning"
    assert (exhausted["used_count"], exhausted["effective_limit"]) == (1, 1)
    for _ in range(3):
        quota.reserve_workflow_step("acme")
        quota.refresh_workflow_step_quota("acme")
    assert len(quota.events("limit_metadata_invalid", "acme")) == 1
    assert len(quota.events("quota_exhausted", "acme")) == 1
    # The next period is another chance.
    quota.at("2026-05-01T00:00:00Z")
    assert quota.reserve_workflow_step("acme").allowed
    assert not quota.reserve_workflow_step("acme").allowed
    assert len(quota.events("limit_metadata_invalid", "acme")) == 2
    assert len(quota.events("quota_exhausted", "acme")) == 2


def test_a_fallback_period_is_recorded_once(quota: Quota) -> None:
    for _ in range(2):
        quota.reserve_workflow_step("acme")
        quota.refresh_workflow_step_quota("acme")
    ((event_type, number),) = quota.execute(
        "select event_type, count(*) from stepquota.quota_events"
        " where tenant = 'acme' and event_type like '%fallback%' group by 1"
    )
    assert number == 1
    (event,) = quota.events(event_type, "acme")
    assert datetime.fromisoformat(event["period_start"]) == APRIL[0]


def test_counter_five_and_ledger_three_is_drift_two(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    for number in range(3):
        quota.start_workflow_step("acme", "r", f"root.steps[{number}]")
    balanced = quota.reconcile_workflow_step_usage("acme", APRIL[0])
    assert balanced == stepquota.WorkflowStepUsageReconciliation(
        tenant="acme",
        period_start=APRIL[0],
        period_end=APRIL[1],
        counter_used_count=3,
        ledger_step_count=3,
        drift=0,
        unledgered_count=0,
        purged_step_count=0,
        registered_ledgers=None,
        registered_step_count=None,
    )
    assert quota.verify_all() == ()
    quota.execute("update stepquota.workflow_step_usage_lanes set used_count = 5")
    drifted = quota.reconcile_workflow_step_usage("acme", APRIL[0])
    assert (drifted.counter_used_count, drifted.ledger_step_count) == (5, 3)
    assert (drifted.drift, drifted.unledgered_count) == (2, 0)
    (violation,) = quota.verify_all()
    assert violation.tenant == "acme"
    assert "I3" in violation.invariant


def test_units_of_callers_with_their_own_ledger_are_told_apart(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    quota.start_workflow_step("acme", "r", "root.steps[0]")
    quota.reserve_workflow_step("acme")
    report = quota.reconcile_workflow_step_usage("acme", APRIL[0])
    assert (report.counter_used_count, report.ledger_step_count) == (2, 1)
    assert (report.drift, report.unledgered_count) == (1, 1)
    assert quota.verify_all() == ()


def test_settings_are_audited(quota: Quota) -> None:
    assert quota.set_policy("staleness", "1 minute").changed
    assert not quota.set_policy("staleness", "60 seconds").changed
    quota.set_tier_limit("pro", 800)
    recorded = quota.execute(
        "select event_type, details from stepquota.quota_events where tenant = '' order by event_id"
    )
    assert len(recorded) == 2
    assert "staleness" in str(recorded[0])
    assert "750" in str(recorded[1])
    assert "800" in str(recorded[1])


def test_the_test_clock_needs_the_owners_consent(quota: Quota) -> None:
    quota.at("2030-02-03T04:05:06Z")
    run = quota.register_workflow_run("acme", "r")
    assert run.registered_at == quota.now
    quota.execute("update stepquota.policy set allow_test_clock = false")
    run = quota.register_workflow_run("acme", "s")
    ((difference,),) = quota.execute(
        "select extract(epoch from clock_timestamp() - %s::timestamptz)::integer",
        [run.registered_at],
    )
    assert 0 <= difference < 60


LONG = "x" * 2000
SOME = UUID(int=1)
APRIL_1 = APRIL[0]

BAD: list[tuple[str, type[stepquota.StepquotaError], Callable[[Quota], Any]]] = [
    *(
        (f"{name}: {kind} tenant", stepquota.InvalidArgument, lambda q, n=name, a=args, t=tenant: q
         .__getattr__(n)(t, *a))
        for name, args in {
            "reserve_workflow_step": (),
            "resolve_workflow_step_quota": (),
            "refresh_workflow_step_quota": (),
            "explain_workflow_step_quota": (),
            "register_workflow_run": ("r",),
            "start_workflow_step": ("r", "p"),
            "finish_workflow_step": ("r", "p", 1, "SUCCEEDED"),
            "finish_workflow_run": ("r", "SUCCEEDED"),
            "cancel_workflow_run": ("r",),
            "open_workflow_run_wait": ("r", "p", "event"),
            "resolve_workflow_run_wait": (SOME,),
            "resume_workflow_run": ("r", "why"),
            "acknowledge_workflow_run_resumption": (SOME,),
            "workflow_run_quota_pause": ("r",),
            "reconcile_workflow_step_usage": (APRIL_1,),
            "set_tenant_plan": ("pro",),
        }.items()
        for kind, tenant in (("no", None), ("an empty", ""), ("a long", LONG))
    ),
    *(
        (f"{name}: {kind} run id", stepquota.InvalidArgument, lambda q, n=name, a=args, r=run: q
         .__getattr__(n)("acme", r, *a))
        for name, args in {
            "register_workflow_run": (),
            "start_workflow_step": ("p",),
            "finish_workflow_step": ("p", 1, "SUCCEEDED"),
            "finish_workflow_run": ("SUCCEEDED",),
            "cancel_workflow_run": (),
            "open_workflow_run_wait": ("p", "event"),
            "resume_workflow_run": ("why",),
            "workflow_run_quota_pause": (),
        }.items()
        for kind, run in (("no", None), ("an empty", ""), ("a long", LONG))
    ),
    *(
        (f"{name}: an unknown run", stepquota.UnknownRun, lambda q, n=name, a=args: q
         .__getattr__(n)("acme", "nobody", *a))
        for name, args in {
            "start_workflow_step": ("p",),
            "finish_workflow_step": ("p", 1, "SUCCEEDED"),
            "finish_workflow_run": ("SUCCEEDED",),
            "cancel_workflow_run": (),
            "open_workflow_run_wait": ("p", "event"),
            "resume_workflow_run": ("why",),
            "workflow_run_quota_pause": (),
        }.items()
    ),
    ("register: an empty workflow", stepquota.InvalidArgument,
     lambda q: q.register_workflow_run("acme", "s", "")),
    ("register: no runtime", stepquota.InvalidArgument,
     lambda q: q.register_workflow_run("acme", "s", None, None)),
    ("register: an empty runtime", stepquota.InvalidArgument,
     lambda q: q.register_workflow_run("acme", "s", None, "")),
    ("register: another workflow", stepquota.RunRegisteredDifferently,
     lambda q: q.register_workflow_run("acme", "r", "another")),
    ("start: no path", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", None)),
    ("start: an empty path", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", "")),
    ("start: a long path", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", LONG)),
    ("start: attempt 0", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", "p", 0)),
    ("start: attempt -1", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", "p", -1)),
    ("start: no attempt", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", "p", None)),
    ("start: no step type", stepquota.InvalidArgument,
     lambda q: q.start_workflow_step("acme", "r", "p", 1, None)),
    ("start: a delivery that never was", stepquota.StaleDelivery,
     lambda q: q.start_workflow_step("acme", "r", "p", 1, "action", 99)),
    ("finish step: an unknown status", stepquota.InvalidArgument,
     lambda q: q.finish_workflow_step("acme", "r", "p", 1, "DONE")),
    ("finish step: STARTED", stepquota.InvalidArgument,
     lambda q: q.finish_workflow_step("acme", "r", "p", 1, "STARTED")),
    ("finish step: no status", stepquota.InvalidArgument,
     lambda q: q.finish_workflow_step("acme", "r", "p", 1, None)),
    ("finish step: never started", stepquota.UnknownStep,
     lambda q: q.finish_workflow_step("acme", "r", "p", 1, "FAILED")),
    ("finish run: an unknown status", stepquota.InvalidArgument,
     lambda q: q.finish_workflow_run("acme", "r", "WAITING")),
    ("wait: an unknown type", stepquota.InvalidArgument,
     lambda q: q.open_workflow_run_wait("acme", "r", "p", "coffee")),
    ("wait: a quota wait", stepquota.InvalidArgument,
     lambda q: q.open_workflow_run_wait("acme", "r", "p", "quota")),
    ("wait: a time that never comes", stepquota.InvalidArgument,
     lambda q: q.open_workflow_run_wait("acme", "r", "p", "time")),
    ("resolve: no wait", stepquota.InvalidArgument,
     lambda q: q.resolve_workflow_run_wait("acme", None)),
    ("resolve: an unknown wait", stepquota.UnknownWait,
     lambda q: q.resolve_workflow_run_wait("acme", SOME)),
    ("acknowledge: no resumption", stepquota.InvalidArgument,
     lambda q: q.acknowledge_workflow_run_resumption("acme", None)),
    ("acknowledge: an unknown resumption", stepquota.UnknownResumption,
     lambda q: q.acknowledge_workflow_run_resumption("acme", SOME)),
    ("claim: no worker", stepquota.InvalidArgument,
     lambda q: q.claim_workflow_run_resumptions(None)),
    ("claim: no runs", stepquota.InvalidArgument,
     lambda q: q.claim_workflow_run_resumptions("w", 0)),
    ("claim: an empty tenant", stepquota.InvalidArgument,
     lambda q: q.claim_workflow_run_resumptions("w", tenant="")),
    ("claim: no lease", stepquota.InvalidArgument,
     lambda q: q.claim_workflow_run_resumptions("w", lease=None)),
    ("scan: a batch of none", stepquota.InvalidArgument, lambda q: q.resume_scan(0)),
    ("scan: a negative batch", stepquota.InvalidArgument, lambda q: q.resume_scan(-5)),
    ("scan: no batch", stepquota.InvalidArgument, lambda q: q.resume_scan(None)),
    ("reconcile: no period", stepquota.InvalidArgument,
     lambda q: q.reconcile_workflow_step_usage("acme", None)),
    ("reconcile: an unknown period", stepquota.UnknownPeriod,
     lambda q: q.reconcile_workflow_step_usage("acme", datetime(2020, 1, 1, tzinfo=UTC))),
    ("plan: an empty plan", stepquota.InvalidArgument, lambda q: q.set_tenant_plan("acme", "")),
    ("plan: an unknown tier", stepquota.InvalidArgument,
     lambda q: q.set_tenant_plan("acme", "nosuch")),
    ("tier: no tier", stepquota.InvalidArgument, lambda q: q.set_tier_limit(None, 5)),
    ("tier: limit 0", stepquota.InvalidArgument, lambda q: q.set_tier_limit("solo", 0)),
    ("tier: a negative limit", stepquota.InvalidArgument, lambda q: q.set_tier_limit("solo", -1)),
    ("policy: unknown", stepquota.UnknownPolicy, lambda q: q.set_policy("nosuch", "1")),
    ("policy: no name", stepquota.StepquotaError, lambda q: q.set_policy(None, "1")),
    ("policy: not an operator's", stepquota.StepquotaError,
     lambda q: q.set_policy("allow_test_clock", "false")),
    ("policy: not to be set", stepquota.StepquotaError, lambda q: q.set_policy("epoch", "9")),
    ("policy: no interval", stepquota.InvalidPolicyValue,
     lambda q: q.set_policy("staleness", "soon")),
    ("policy: out of range", stepquota.InvalidPolicyValue,
     lambda q: q.set_policy("scan_seconds", "0")),
    ("policy: no value", stepquota.StepquotaError, lambda q: q.set_policy("staleness", None)),
    ("policy: an unknown tier", stepquota.StepquotaError,
     lambda q: q.set_policy("default_tier", "nosuch")),
    ("stripe: no object", stepquota.StepquotaError,
     lambda q: q.apply_stripe_object(None, APRIL_1)),
    ("stripe: no moment", stepquota.InvalidArgument,
     lambda q: q.apply_stripe_object(customer("cus_9", "acme"), None)),
    ("stripe: a text", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object("{", APRIL_1)),
    ("stripe: a list", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object([], APRIL_1)),
    ("stripe: nothing in it", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object({}, APRIL_1)),
    ("stripe: no id", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object({**customer("cus_9"), "id": None}, APRIL_1)),
    ("stripe: metadata is no object", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object({**customer("cus_9"), "metadata": "x"}, APRIL_1)),
    ("stripe: an invoice", stepquota.UnsupportedStripeObject,
     lambda q: q.apply_stripe_object({"id": "in_1", "object": "invoice"}, APRIL_1)),
    ("stripe: a subscription without items", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object({**plan_of("acme"), "items": None}, APRIL_1)),
    ("stripe: a period nowhere", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object(without_period(), APRIL_1)),
    ("stripe: a period backwards", stepquota.MalformedStripeObject,
     lambda q: q.apply_stripe_object(plan_of("acme", period=(APRIL[1], APRIL[0])), APRIL_1)),
    ("map: no customer", stepquota.InvalidArgument, lambda q: q.map_stripe_customer(None, "acme")),
    ("map: no tenant", stepquota.InvalidArgument, lambda q: q.map_stripe_customer("cus_1", "")),
]  # fmt: skip


def without_period() -> dict[str, Any]:
    plan = plan_of("acme")
    for entry in plan["items"]["data"]:
        del entry["current_period_start"], entry["current_period_end"]
    return plan


def everything(quota: Quota) -> list[Any]:
    """A number that differs if any row of any table does."""
    tables = quota.execute(
        "select c.relname from pg_class c where c.relnamespace = 'stepquota'::regnamespace"
        " and c.relkind in ('r', 'p') and not c.relispartition order by 1"
    )
    return [
        (
            table,
            *quota.execute(
                f"select md5(string_agg(t::text, '' order by t::text)) from stepquota.{table} t"
            ),
        )
        for (table,) in tables
    ]


def test_bad_input_is_an_error_that_says_what_to_do_and_writes_nothing(quota: Quota) -> None:
    quota.register_workflow_run("acme", "r")
    quota.resolve_workflow_step_quota("acme")
    before = everything(quota)
    wrong = []
    for name, expected, call in BAD:
        try:
            call(quota)
        except stepquota.StepquotaError as error:
            if not isinstance(error, expected):
                wrong.append(f"{name}: {error.sqlstate} {error.message}")
            elif not (error.message and error.detail and error.hint):
                wrong.append(f"{name}: no detail or hint: {error}")
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
        else:
            wrong.append(f"{name}: no error")
    assert wrong == []
    assert everything(quota) == before
