"""Which period and which limit a tenant has, and how that is explained."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from acceptance.flavours import Quota
from acceptance.stripe_objects import (
    APRIL,
    customer,
    deleted,
    item,
    limit,
    plan_of,
    price,
    product,
    subscription,
)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc, arg-type]


def verdicts(quota: Quota, tenant: str) -> dict[tuple[str, str | None], str]:
    """What the explanation says of each object."""
    lines = quota.explain_workflow_step_quota(tenant)
    assert [line.position for line in lines] == list(range(1, len(lines) + 1))
    assert all(line.reason for line in lines)
    found = {(line.object_type, line.object_id): line.verdict for line in lines}
    assert len(found) == len(lines)
    return found


def reasons(quota: Quota, tenant: str) -> dict[str | None, str]:
    """Why, for each item."""
    return {
        line.object_id: line.reason
        for line in quota.explain_workflow_step_quota(tenant)
        if line.object_type == "subscription_item"
    }


# -- The period


@pytest.mark.parametrize("generation", ["items", "subscription"])
def test_the_period_is_the_subscriptions(quota: Quota, generation: Any) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("1200"), generation=generation))
    quota.at("2026-04-15T00:00:00Z")
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.period_start, answer.period_end) == APRIL
    assert answer.period_source == "stripe_subscription"
    assert answer.stripe_subscription_id == "sub_acme_main"
    assert (answer.effective_limit, answer.limit_source) == (1200, "stripe_price_metadata")
    assert (answer.allowed, answer.used_count, answer.remaining) == (True, 0, 1200)
    assert answer.granted_units == 0
    assert verdicts(quota, "acme") == {
        ("subscription_item", "si_acme_main"): "won",
        ("price", "price_acme_main"): "won",
        ("product", "prod_acme_main"): "lost",
        ("calendar_month", None): "lost",
        ("tier", "solo"): "lost",
        ("usage", "acme"): "info",
    }


def test_without_a_subscription_the_calendar_month_and_the_tier(quota: Quota) -> None:
    quota.at("2026-04-15T10:10:10Z")
    quota.set_tenant_plan("acme", "solo")
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.period_start, answer.period_end) == APRIL
    assert answer.period_source == "fallback_calendar"
    assert answer.stripe_subscription_id is None
    assert (answer.tier, answer.effective_limit) == ("solo", 150)
    assert answer.limit_source == "tier_default"
    assert verdicts(quota, "acme") == {
        ("calendar_month", None): "won",
        ("tier", "solo"): "won",
        ("usage", "acme"): "info",
    }


@pytest.mark.parametrize(
    ("now", "start", "end"),
    [
        ("2026-04-01T00:00:00Z", utc(2026, 4, 1), utc(2026, 5, 1)),
        ("2026-04-30T23:59:59.999999Z", utc(2026, 4, 1), utc(2026, 5, 1)),
        ("2026-05-01T00:00:00Z", utc(2026, 5, 1), utc(2026, 6, 1)),
        ("2026-05-01T01:30:00+02:00", utc(2026, 4, 1), utc(2026, 5, 1)),
        ("2026-12-31T23:59:59Z", utc(2026, 12, 1), utc(2027, 1, 1)),
        ("2027-01-01T00:00:00Z", utc(2027, 1, 1), utc(2027, 2, 1)),
        ("2028-02-29T12:00:00Z", utc(2028, 2, 1), utc(2028, 3, 1)),
        ("2027-02-28T23:59:59Z", utc(2027, 2, 1), utc(2027, 3, 1)),
    ],
)
def test_calendar_months_are_half_open_and_utc(
    quota: Quota, now: str, start: datetime, end: datetime
) -> None:
    quota.execute("set timezone = 'Pacific/Auckland'")
    quota.at(now)
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.period_start, answer.period_end) == (start, end)
    assert answer.period_source == "fallback_calendar"


@pytest.mark.parametrize(
    ("now", "source"),
    [
        ("2026-03-31T23:59:59.999999Z", "fallback_calendar"),
        ("2026-04-01T00:00:00Z", "stripe_subscription"),
        ("2026-04-30T23:59:59.999999Z", "stripe_subscription"),
        ("2026-05-01T00:00:00Z", "presumed_renewal"),
    ],
)
def test_the_start_is_in_and_the_end_is_out(quota: Quota, now: str, source: str) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("7")))
    quota.at(now)
    answer = quota.resolve_workflow_step_quota("acme")
    assert answer.period_source == source
    found = verdicts(quota, "acme")
    on_the_calendar = source == "fallback_calendar"
    assert found["subscription_item", "si_acme_main"] == ("lost" if on_the_calendar else "won")
    assert found["calendar_month", None] == ("won" if on_the_calendar else "lost")
    assert found["tier", "solo"] == ("won" if on_the_calendar else "lost")
    if source == "presumed_renewal":
        assert "presumed" in reasons(quota, "acme")["si_acme_main"]
        assert (answer.period_start, answer.period_end) == (utc(2026, 5, 1), utc(2026, 6, 1))
        assert answer.effective_limit == 7


@pytest.mark.parametrize(
    "ending",
    [
        {"cancel_at_period_end": True, "cancel_at": APRIL[1]},
        {"cancel_at_period_end": True},
        {"cancel_at": APRIL[1]},
    ],
)
def test_without_a_renewal_the_end_is_followed_by_the_calendar(
    quota: Quota, ending: dict[str, Any]
) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("7"), **ending))
    quota.at(APRIL[1] - timedelta(microseconds=1))
    assert quota.resolve_workflow_step_quota("acme").period_source == "stripe_subscription"
    quota.at(APRIL[1])
    answer = quota.resolve_workflow_step_quota("acme")
    assert answer.period_source == "fallback_calendar"
    assert (answer.period_start, answer.period_end) == (utc(2026, 5, 1), utc(2026, 6, 1))
    assert (answer.effective_limit, answer.limit_source) == (150, "tier_default")


@pytest.mark.parametrize(
    ("anchor", "period", "now", "presumed"),
    [
        (
            utc(2026, 1, 31, 9),
            (utc(2026, 11, 30, 9), utc(2026, 12, 31, 9)),
            "2026-12-31T09:00:00Z",
            (utc(2026, 12, 31, 9), utc(2027, 1, 31, 9)),
        ),
        (
            utc(2027, 8, 31, 9),
            (utc(2027, 12, 31, 9), utc(2028, 1, 31, 9)),
            "2028-01-31T10:00:00Z",
            (utc(2028, 1, 31, 9), utc(2028, 2, 29, 9)),
        ),
        (
            utc(2027, 8, 31, 9),
            (utc(2028, 1, 31, 9), utc(2028, 2, 29, 9)),
            "2028-03-02T09:00:00Z",
            (utc(2028, 2, 29, 9), utc(2028, 3, 31, 9)),
        ),
    ],
    ids=["December", "into a leap February", "out of a leap February"],
)
def test_a_renewal_is_presumed_from_the_anchor(
    quota: Quota,
    anchor: datetime,
    period: tuple[datetime, datetime],
    now: str,
    presumed: tuple[datetime, datetime],
) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("7"), period=period, anchor=anchor))
    quota.at(now)
    answer = quota.resolve_workflow_step_quota("acme")
    assert answer.period_source == "presumed_renewal"
    assert (answer.period_start, answer.period_end) == presumed


def test_a_renewal_is_presumed_only_for_the_grace(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("7")))
    quota.at(APRIL[1] + timedelta(hours=72) - timedelta(microseconds=1))
    assert quota.resolve_workflow_step_quota("acme").period_source == "presumed_renewal"
    quota.at(APRIL[1] + timedelta(hours=72))
    assert quota.resolve_workflow_step_quota("acme").period_source == "fallback_calendar"


def test_the_renewal_that_arrives_continues_what_was_presumed(quota: Quota) -> None:
    may = (utc(2026, 5, 1), utc(2026, 6, 1))
    quota.apply(plan_of("acme", price_metadata=limit("7")))
    quota.at("2026-05-01T00:00:10Z")
    assert quota.reserve_workflow_step("acme").used_count == 1
    quota.apply(plan_of("acme", price_metadata=limit("7"), period=may, anchor=APRIL[0]))
    answer = quota.reserve_workflow_step("acme")
    assert (answer.period_source, answer.period_start) == ("stripe_subscription", may[0])
    assert answer.used_count == 2


# -- The limit


def test_the_price_goes_before_the_product(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("1200"), product_metadata=limit("5000")))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.limit_source) == (1200, "stripe_price_metadata")
    found = verdicts(quota, "acme")
    assert found["price", "price_acme_main"] == "won"
    assert found["product", "prod_acme_main"] == "lost"


def test_an_invalid_price_leaves_it_to_the_product(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("invalid"), product_metadata=limit("5000")))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.limit_source) == (5000, "stripe_product_metadata")
    found = verdicts(quota, "acme")
    assert found["price", "price_acme_main"] == "lost"
    assert found["product", "prod_acme_main"] == "won"


def test_an_unlimited_product(quota: Quota) -> None:
    quota.apply(plan_of("acme", product_metadata=limit("unlimited")))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.remaining) == (None, None)
    assert (answer.limit_source, answer.allowed) == ("unlimited_metadata", True)
    assert verdicts(quota, "acme")["product", "prod_acme_main"] == "won"


ABSENT: Any = object()

# The value in metadata, and the limit that it gives: None is unlimited.
VALID: list[tuple[Any, int | None]] = [
    ("1", 1),
    ("1200", 1200),
    ("007", 7),
    (" 12 ", 12),
    ("\t12\r\n", 12),
    ("\v12\f", 12),
    ("2147483647", 2147483647),
    ("2147483648", 2147483648),
    ("9007199254740993", 9007199254740993),
    ("999999999999999999", 999999999999999999),
    ("000000000000000001", 1),
    (12, 12),
    (2147483648, 2147483648),
    ("unlimited", None),
    ("UNLIMITED", None),
    (" Unlimited\n", None),
]

INVALID: list[Any] = [
    "0", "000", "-1", "+1", "1.5", "1.0", "1,000", "1 000", "1e3", "0x10", "1_000", "", " ", "\n",
    "12a", "a12", "invalid", "none", "null", "nan", "inf", "unlimited!", "un limited",
    "0000000000000000001", "1000000000000000000", "\u0661\u0662", "\uff11\uff12", "12\n13", "12;",
    0, -5, 1.5, True, False, {"steps": 12}, [12],
]  # fmt: skip


def text_of(value: Any) -> str:
    """A value as ->> reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return '{"steps": 12}'
    return str(value)


def test_every_valid_limit(quota: Quota) -> None:
    for number, (value, expected) in enumerate(VALID):
        for tenant, place, plan in [
            (f"a{number}", "price", plan_of(f"a{number}", price_metadata=limit(value))),
            (f"b{number}", "product", plan_of(f"b{number}", product_metadata=limit(value))),
        ]:
            quota.apply(plan)
            answer = quota.resolve_workflow_step_quota(tenant)
            source = "unlimited_metadata" if expected is None else f"stripe_{place}_metadata"
            assert (value, answer.effective_limit, answer.limit_source) == (value, expected, source)
            assert quota.events("limit_metadata_invalid", tenant) == [], value
            won = {
                kind for (kind, _), verdict in verdicts(quota, tenant).items() if verdict == "won"
            }
            assert won == {"subscription_item", place}


def test_every_invalid_limit_is_reported_and_passed_over(quota: Quota) -> None:
    for number, value in enumerate(INVALID):
        tenant = f"t{number}"
        quota.apply(plan_of(tenant, price_metadata=limit(value), product_metadata=limit("77")))
        answer = quota.resolve_workflow_step_quota(tenant)
        assert (value, answer.effective_limit) == (value, 77)
        assert answer.limit_source == "stripe_product_metadata"
        (event,) = quota.events("limit_metadata_invalid", tenant)
        assert event["level"] == "warning"
        assert event["object_id"] == f"price_{tenant}_main"
        assert event["value"] == text_of(value)

        tenant = f"u{number}"
        quota.apply(plan_of(tenant, product_metadata=limit(value)))
        answer = quota.resolve_workflow_step_quota(tenant)
        assert (value, answer.effective_limit) == (value, 150)
        assert answer.limit_source == "tier_default"
        (event,) = quota.events("limit_metadata_invalid", tenant)
        assert event["object_id"] == f"prod_{tenant}_main"


@pytest.mark.parametrize("metadata", [{}, {"workflow_step_limit": None}, {"other": "12"}])
def test_an_absent_limit_is_no_invalid_one(quota: Quota, metadata: dict[str, Any]) -> None:
    quota.apply(plan_of("acme", price_metadata=metadata, product_metadata=metadata))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.limit_source) == (150, "tier_default")
    assert answer.period_source == "stripe_subscription"
    assert quota.events("limit_metadata_invalid", "acme") == []


def test_zero_blocks_where_policy_says_so(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("0"), product_metadata=limit("77")))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 77
    assert quota.set_policy("zero_limit_blocks", "true").changed
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.limit_source) == (0, "stripe_price_metadata")
    assert not quota.reserve_workflow_step("acme").allowed


def test_tiers(quota: Quota) -> None:
    for plan, tier, expected in [
        ("solo", "solo", 150),
        ("pro", "pro", 750),
        ("premium", "premium", 10000),
        (None, "solo", 150),
    ]:
        answer = quota.set_tenant_plan("acme", plan)
        assert (answer.tier, answer.effective_limit) == (tier, expected), plan
        assert answer.limit_source == "tier_default"


@pytest.mark.parametrize("plan", ["nosuch", "", None])
def test_an_unknown_or_missing_plan_gets_the_default_tier_and_is_reported(
    quota: Quota, plan: str | None
) -> None:
    # As an application writes that has its own table of tenants; set_tenant_plan refuses it.
    quota.execute("insert into stepquota.tenants (tenant, plan) values ('acme', %s)", [plan])
    for _ in range(2):
        answer = quota.resolve_workflow_step_quota("acme")
        assert (answer.tier, answer.effective_limit) == ("solo", 150)
        quota.refresh_workflow_step_quota("acme")
    (event,) = quota.events("plan_unknown", "acme")
    assert event["plan"] == plan
    assert event["level"] == "warning"
    quota.set_policy("default_tier", "premium")
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 10000


def test_archived_prices_and_products_still_give_limits(quota: Quota) -> None:
    archived = price("price_1", product("prod_1", active=False), limit("9"), active=False)
    quota.apply(subscription("sub_1", customer("cus_1", "acme"), [item("si_1", archived)]))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 9


def test_quantity_never_multiplies(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("9")))
    ((quantity,),) = quota.execute("select quantity from stepquota.stripe_subscription_items")
    assert quantity == 3
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 9


# -- The choice between subscriptions and items

STATUSES = ("trialing", "active", "past_due", "unpaid")


@pytest.mark.parametrize(("better", "worse"), list(combinations(STATUSES, 2)))
def test_statuses_are_preferred_in_order(quota: Quota, better: str, worse: str) -> None:
    # The worse one is newer, has the greater limit and the lower id.
    newer = (utc(2026, 4, 10), utc(2026, 5, 10))
    quota.apply(
        plan_of("acme", name="z", status=better, price_metadata=limit("5")),
        plan_of("acme", name="a", status=worse, price_metadata=limit("500"), period=newer),
    )
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.stripe_subscription_id, answer.effective_limit) == ("sub_acme_z", 5)
    found = verdicts(quota, "acme")
    assert found["subscription_item", "si_acme_z"] == "won"
    assert found["subscription_item", "si_acme_a"] == "lost"


@pytest.mark.parametrize("status", STATUSES)
def test_each_qualifying_status_qualifies(quota: Quota, status: str) -> None:
    quota.apply(plan_of("acme", status=status, price_metadata=limit("5")))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 5


def test_among_equals_a_valid_limit_then_the_newest_start_then_the_id(quota: Quota) -> None:
    newer = (utc(2026, 4, 10), utc(2026, 5, 10))
    quota.apply(
        plan_of("acme", name="b", price_metadata=limit("5")),
        plan_of("acme", name="a", price_metadata=limit("no"), period=newer),
    )
    assert quota.resolve_workflow_step_quota("acme").stripe_subscription_id == "sub_acme_b"
    quota.apply(plan_of("acme", name="c", price_metadata=limit("6"), period=newer))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.stripe_subscription_id, answer.effective_limit) == ("sub_acme_c", 6)
    assert (answer.period_start, answer.period_end) == newer
    quota.apply(plan_of("acme", name="bb", price_metadata=limit("4"), period=newer))
    assert quota.resolve_workflow_step_quota("acme").stripe_subscription_id == "sub_acme_bb"
    found = verdicts(quota, "acme")
    assert [name for (kind, name), verdict in found.items() if verdict == "won"] == [
        "si_acme_bb",
        "price_acme_bb",
    ]


DISQUALIFIED: dict[str, tuple[dict[str, Any], str]] = {
    "canceled": ({"status": "canceled"}, "status canceled"),
    "incomplete": ({"status": "incomplete"}, "status incomplete"),
    "incomplete_expired": ({"status": "incomplete_expired"}, "status incomplete_expired"),
    "paused": ({"status": "paused"}, "status paused"),
    "a status yet unknown": ({"status": "frozen"}, "status frozen"),
    "ended": ({"ended_at": utc(2026, 4, 15)}, "ended"),
    "ended just now": ({"ended_at": utc(2026, 4, 15, 12)}, "ended"),
    "to be cancelled earlier": ({"cancel_at": utc(2026, 4, 15, 12)}, "due to end"),
    "not started": ({"period": (utc(2026, 4, 16), utc(2026, 5, 16))}, "starts only"),
    "long over": ({"period": (utc(2026, 2, 1), utc(2026, 3, 1))}, "no renewal"),
}


@pytest.mark.parametrize("case", DISQUALIFIED)
def test_subscriptions_that_do_not_qualify(quota: Quota, case: str) -> None:
    changes, reason = DISQUALIFIED[case]
    quota.apply(plan_of("acme", price_metadata=limit("5"), **changes))
    answer = quota.resolve_workflow_step_quota("acme")
    assert answer.period_source == "fallback_calendar"
    assert (answer.effective_limit, answer.limit_source) == (150, "tier_default")
    found = verdicts(quota, "acme")
    assert found["subscription_item", "si_acme_main"] == "lost"
    assert found["calendar_month", None] == "won"
    assert reason in reasons(quota, "acme")["si_acme_main"]


@pytest.mark.parametrize(
    "changes", [{"ended_at": utc(2026, 4, 15, 13)}, {"cancel_at": utc(2026, 4, 15, 13)}]
)
def test_an_end_ahead_qualifies_until_it_comes(quota: Quota, changes: dict[str, Any]) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("5"), **changes))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 5
    quota.at("2026-04-15T13:00:00Z")
    assert quota.resolve_workflow_step_quota("acme").period_source == "fallback_calendar"


@pytest.mark.parametrize("bound", ["current_period_start", "current_period_end"])
def test_a_missing_bound_does_not_qualify(quota: Quota, bound: str) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("5")))
    quota.execute(f"update stepquota.stripe_subscription_items set {bound} = null")
    answer = quota.refresh_workflow_step_quota("acme")
    assert answer.period_source == "fallback_calendar"
    assert "missing" in reasons(quota, "acme")["si_acme_main"]


def test_a_deleted_subscription_does_not_qualify(quota: Quota) -> None:
    plan = plan_of("acme", price_metadata=limit("5"))
    quota.apply(plan)
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 5
    quota.apply(deleted(plan))
    assert quota.resolve_workflow_step_quota("acme").period_source == "fallback_calendar"


def items_of(*limits: Any, **changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Items si_0, si_1 ... whose prices have these limits."""
    return [
        item(
            f"si_{n}",
            price(f"price_{n}", product(f"prod_{n}"), {} if value is ABSENT else limit(value)),
            **changes.get(f"si_{n}", {}),
        )
        for n, value in enumerate(limits)
    ]


@pytest.mark.parametrize(
    ("items", "winner", "expected"),
    [
        (items_of(ABSENT, "5"), "si_1", 5),
        (items_of("no", "5", ABSENT), "si_1", 5),
        (items_of("5", "2147483648", "70"), "si_1", 2147483648),
        (items_of("5", "unlimited", "70"), "si_1", None),
        (items_of("5", "5", si_1={"created": utc(2024, 1, 1)}), "si_1", 5),
        (items_of("5", "5"), "si_0", 5),
        (items_of(ABSENT, ABSENT, si_1={"period": (APRIL[0], utc(2026, 4, 20))}), "si_1", 150),
    ],
    ids=[
        "the one with a limit",
        "the one with a valid limit",
        "the greatest limit",
        "unlimited above all",
        "the oldest item",
        "the lowest id",
        "without any limit the earliest end",
    ],
)
def test_one_item_gives_period_and_limit(
    quota: Quota, items: list[dict[str, Any]], winner: str, expected: int | None
) -> None:
    quota.apply(subscription("sub_1", customer("cus_1", "acme"), items))
    answer = quota.resolve_workflow_step_quota("acme")
    assert answer.effective_limit == expected
    found = verdicts(quota, "acme")
    assert {
        name: verdict for (kind, name), verdict in found.items() if kind == "subscription_item"
    } == {i["id"]: "won" if i["id"] == winner else "lost" for i in items}


def test_period_and_limit_come_from_the_same_item(quota: Quota) -> None:
    year = (utc(2026, 1, 1), utc(2027, 1, 1))
    items = items_of("5", "9", si_1={"period": year})
    quota.apply(subscription("sub_1", customer("cus_1", "acme"), items))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.period_start, answer.period_end) == (9, *year)


# -- Whose subscription


def test_the_applications_word_goes_before_metadata(quota: Quota) -> None:
    quota.apply(plan_of("acme", price_metadata=limit("5")))
    changes = quota.map_stripe_customer("cus_acme", "other")
    assert [(c.object_id, c.action) for c in changes] == [("cus_acme", "inserted")]
    assert quota.resolve_workflow_step_quota("acme").period_source == "fallback_calendar"
    assert quota.resolve_workflow_step_quota("other").effective_limit == 5


def test_the_subscriptions_metadata_names_the_tenant_if_nothing_else_does(quota: Quota) -> None:
    items = items_of("5")
    quota.apply(
        subscription("sub_1", customer("cus_1"), items, metadata={"tenant": "acme"}),
    )
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 5
    quota.apply(customer("cus_1", "other"))
    assert quota.resolve_workflow_step_quota("acme").effective_limit == 150
    assert quota.resolve_workflow_step_quota("other").effective_limit == 5


def test_objects_arrive_in_any_order_and_unexpanded(quota: Quota) -> None:
    plan = subscription("sub_1", "cus_1", [item("si_1", price("price_1", "prod_1"))])
    quota.apply(plan, price("price_1", "prod_1"))
    assert quota.resolve_workflow_step_quota("acme").period_source == "fallback_calendar"
    quota.apply(customer("cus_1", "acme"))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.period_source, answer.limit_source) == ("stripe_subscription", "tier_default")
    quota.apply(product("prod_1", limit("11")))
    answer = quota.resolve_workflow_step_quota("acme")
    assert (answer.effective_limit, answer.limit_source) == (11, "stripe_product_metadata")
