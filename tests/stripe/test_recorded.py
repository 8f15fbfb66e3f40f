"""Objects that Stripe itself answered, of both generations of its API; where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from harness.recordings import list_recordings
from stepquota.stripe_sync.catch_up import read_event

FILES = list_recordings()

Object = dict[str, Any]


@pytest.fixture(autouse=True)
def _at_hand() -> None:
    if not FILES:
        pytest.skip("no recorded objects of Stripe")


def read(prefix: str) -> Iterator[tuple[str, Object]]:
    for file in FILES:
        if file.name.startswith(prefix):
            yield file.stem, json.loads(file.read_text(encoding="utf-8"))


def subscriptions() -> dict[str, Object]:
    found = dict(read("subscription_"))
    for name, event in read("event_customer.subscription"):
        found[name] = event["data"]["object"]
    return found


def moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def period(subscription: Object, item: Object) -> tuple[int, int]:
    holder = item if item.get("current_period_start") else subscription
    return holder["current_period_start"], holder["current_period_end"]


def of_older_generation(subscription: Object) -> Object:
    """The same with the period on the subscription."""
    first = subscription["items"]["data"][0]
    start, end = period(subscription, first)
    items = [
        {k: v for k, v in item.items() if not k.startswith("current_period")}
        for item in subscription["items"]["data"]
    ]
    return {
        **subscription,
        "current_period_start": start,
        "current_period_end": end,
        "items": {**subscription["items"], "data": items},
    }


COLUMNS = """
select s.status, s.customer_id, s.billing_cycle_anchor, s.cancel_at, s.cancel_at_period_end,
       s.canceled_at, s.ended_at, s.trial_start, s.trial_end, s.pause_collection, s.metadata,
       i.id, i.price_id, i.current_period_start, i.current_period_end, i.quantity,
       p.product_id, p.recurring_interval, p.recurring_interval_count
  from stepquota.stripe_subscriptions s
  join stepquota.stripe_subscription_items i on i.subscription_id = s.id
  join stepquota.stripe_prices p on p.id = i.price_id
 where s.id = %s
 order by i.id collate "C"
"""


def store(owner: psycopg.Connection, object_: Object) -> list[tuple[Any, ...]]:
    owner.execute("select stepquota.apply_stripe_object(%s, clock_timestamp())", [Jsonb(object_)])
    return owner.execute(COLUMNS, [object_["id"]]).fetchall()


def test_both_generations_give_the_same_columns(owner: psycopg.Connection) -> None:
    found = subscriptions()
    assert {"current_period_start" in s for s in found.values()} == {True, False}
    for name, subscription in found.items():
        rows = store(owner, subscription)
        customer = subscription["customer"]
        expected = [
            (
                subscription["status"],
                customer["id"] if isinstance(customer, dict) else customer,
                moment(subscription["billing_cycle_anchor"]),
                moment(subscription["cancel_at"]),
                subscription["cancel_at_period_end"],
                moment(subscription["canceled_at"]),
                moment(subscription["ended_at"]),
                moment(subscription["trial_start"]),
                moment(subscription["trial_end"]),
                subscription["pause_collection"],
                subscription["metadata"],
                item["id"],
                item["price"]["id"],
                *map(moment, period(subscription, item)),
                item.get("quantity"),
                item["price"]["product"],
                item["price"]["recurring"]["interval"],
                item["price"]["recurring"]["interval_count"],
            )
            for item in sorted(subscription["items"]["data"], key=lambda item: item["id"])
        ]
        assert rows == expected, name
        # As the other generation says it.
        if len(rows) == 1:
            assert store(owner, of_older_generation(subscription)) == rows, name


def test_the_presumed_period_is_stripes_own(owner: psycopg.Connection) -> None:
    compared = 0
    for name, subscription in subscriptions().items():
        if subscription["trial_end"] is not None:
            continue
        for item in subscription["items"]["data"]:
            start, end = period(subscription, item)
            recurring = item["price"]["recurring"]
            row = owner.execute(
                "select * from stepquota._billing_period(%s, %s, %s, %s)",
                [
                    moment(subscription["billing_cycle_anchor"]),
                    recurring["interval"],
                    recurring["interval_count"],
                    moment(start),
                ],
            ).fetchone()
            assert row == (moment(start), moment(end)), name
            compared += 1
    assert compared >= 5


def test_who_is_entitled(owner: psycopg.Connection) -> None:
    entitled = {}
    for name, subscription in subscriptions().items():
        store(owner, subscription)
        customer = subscription["customer"]
        customer_id = customer["id"] if isinstance(customer, dict) else customer
        owner.execute("select stepquota.map_stripe_customer(%s, %s)", [customer_id, name])
        start, _ = period(subscription, subscription["items"]["data"][0])
        row = owner.execute(
            "select disqualified_because is null from stepquota._list_quota_candidates(%s, %s)"
            " where subscription_id = %s",
            [name, moment(start), subscription["id"]],
        ).fetchone()
        assert row
        entitled[name.partition("__")[0]] = row[0]
    assert entitled == {
        "subscription_active": True,
        "subscription_active_pause_collection": True,
        "subscription_canceled_while_trialing": False,
        "subscription_incomplete": False,
        "subscription_trialing": True,
        "event_customer.subscription.created": True,
        "event_customer.subscription.updated": True,
    }


def test_other_objects_are_read(owner: psycopg.Connection) -> None:
    for _, object_ in [*read("customer__"), *read("djstripe_")]:
        store(owner, object_)
    counts = owner.execute(
        "select (select count(*) from stepquota.stripe_customers),"
        " (select count(*) from stepquota.stripe_prices),"
        " (select count(*) from stepquota.stripe_products)"
    ).fetchone()
    assert counts
    assert min(counts) >= 1
    for _, event in read("event_"):
        envelope = read_event(event)
        outcome = owner.execute(
            "select outcome from stepquota.record_stripe_events(%s, 'webhook')", [Jsonb([envelope])]
        ).fetchone()
        assert outcome == ("pending",)
    # Nothing of a person is anywhere in it.
    texts = {
        value
        for _, customer in read("customer__")
        for key, value in customer.items()
        if key in ("email", "name", "phone") and value
    }
    dump = str(owner.execute("select to_jsonb(c) from stepquota.stripe_customers c").fetchall())
    assert not [text for text in texts if text in dump]
