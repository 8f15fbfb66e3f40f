"""The fake's objects have the fields of recorded ones, version by version."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import pytest
import stripe

from harness.recordings import Object, recorded
from stepquota.demo.stripe_fake import StripeFake

from .conftest import client_of, get, subscribe

# Objects in objects whose fields nobody here reads, or that depend on the customer's doings.
UNREAD = {
    "automatic_tax",
    "payment_settings",
    "invoice_settings",
    "metadata",
    "cancellation_details",
}


def fields(shape: Any, path: str = "") -> dict[str, str]:
    """Every field by its path, with its type; of lists, the first element."""
    if isinstance(shape, list):
        return fields(shape[0], f"{path}[]") if shape else {}
    if not isinstance(shape, dict):
        return {}
    found: dict[str, str] = {}
    for key, value in shape.items():
        # Seconds and numbers alike are whole numbers; None may stand for anything.
        found[f"{path}.{key}"] = "any" if value is None else type(value).__name__
        if key not in UNREAD:
            found |= fields(value, f"{path}.{key}")
    return found


def assert_alike(made: Object, real: Object, *, besides: Set[str] = frozenset()) -> None:
    """All fields of the real object are there, and no others, and of the same types."""
    ours, theirs = fields(made), fields(real)
    assert ours.keys() - besides == theirs.keys() - besides
    for path in theirs.keys() - besides:
        assert "any" in (ours[path], theirs[path]) or ours[path] == theirs[path], path


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("subscription_active__2020-08-27", {}),
        ("subscription_active__2025-10-29.clover", {}),
        ("subscription_active__2026-03-25.dahlia", {}),
        ("subscription_trialing__2026-03-25.dahlia", {"trial_days": 15}),
        ("subscription_incomplete__2026-03-25.dahlia", {"status": "incomplete"}),
    ],
)
def test_subscriptions(fake: StripeFake, address: str, name: str, changes: Object) -> None:
    real = recorded(name)
    client = client_of(fake.api_key, address, name.rpartition("__")[2])
    made = get(client, f"/v1/subscriptions/{subscribe(fake, **changes)}")
    assert_alike(made, real)
    assert made["status"] == real["status"]
    start, end = (
        ("current_period_start", "current_period_end")
        if "current_period_start" in real
        else ("", "")
    )
    if start:
        assert made[end] - made[start] > 27 * 86_400


def test_a_trial_is_counted_from_its_end(fake: StripeFake, client: stripe.StripeClient) -> None:
    real = recorded("subscription_trialing__2026-03-25.dahlia")
    made = get(client, f"/v1/subscriptions/{subscribe(fake, trial_days=15)}")
    for shape in (made, real):
        item = shape["items"]["data"][0]
        assert shape["billing_cycle_anchor"] == shape["trial_end"] == item["current_period_end"]
        assert item["current_period_start"] == shape["trial_start"]


def test_a_canceled_one_keeps_its_period(fake: StripeFake, address: str) -> None:
    name = "subscription_canceled_while_trialing__2025-10-29.clover"
    real = recorded(name)
    client = client_of(fake.api_key, address, "2025-10-29.clover")
    id = subscribe(fake, trial_days=14)
    fake.cancel(id)
    made = get(client, f"/v1/subscriptions/{id}")
    assert_alike(made, real)
    for shape in (made, real):
        assert shape["canceled_at"] == shape["ended_at"]
        assert shape["items"]["data"][0]["current_period_end"] > shape["ended_at"]
        assert shape["cancellation_details"]["reason"] == "cancellation_requested"


def test_a_paused_collection(fake: StripeFake, address: str) -> None:
    real = recorded("subscription_active_pause_collection__2025-10-29.clover")
    id = subscribe(fake)
    fake.update_subscription(id, pause_collection={"behavior": "void", "resumes_at": 1_765_391_387})
    made = get(client_of(fake.api_key, address, "2025-10-29.clover"), f"/v1/subscriptions/{id}")
    assert_alike(made, real)
    assert made["status"] == real["status"] == "active"


def test_customers(fake: StripeFake, address: str) -> None:
    real = recorded("customer__2026-03-25.dahlia")
    id = fake.create_customer(name="Somebody", email="somebody@example.org").id
    made = get(client_of(fake.api_key, address, "2026-03-25.dahlia"), f"/v1/customers/{id}")
    # Not everything that Stripe keeps of a customer is there; nothing else is.
    assert fields(made).keys() <= fields(real).keys()
    assert {".id", ".metadata", ".created", ".livemode", ".test_clock"} <= fields(made).keys()


def test_prices_and_products(fake: StripeFake, address: str) -> None:
    client = client_of(fake.api_key, address, "2020-03-02")
    price = fake.create_price(fake.create_product().id)
    made = get(client, f"/v1/prices/{price.id}")
    assert_alike(made, recorded("djstripe_price_gold21323"))
    assert_alike(made, recorded("event_price.updated__2020-03-02")["data"]["object"])
    made = get(client, f"/v1/products/{price.product}")
    real = recorded("event_product.updated__2020-03-02")["data"]["object"]
    assert_alike(made, real, besides={".default_price", ".tax_code"})


@pytest.mark.parametrize("name", ["price.updated", "product.updated"])
def test_events(fake: StripeFake, address: str, name: str) -> None:
    real = recorded(f"event_{name}__2020-03-02")
    fake.event_version = "2020-03-02"
    product = fake.create_product()
    price = fake.create_price(product.id)
    fake.update_product(product.id, name="other")
    fake.update_price(price.id, metadata={"meta": "test"})
    client = client_of(fake.api_key, address)
    (made,) = get(client, "/v1/events", types=[name])["data"]
    assert made.keys() == real.keys()
    assert made["data"].keys() == real["data"].keys()
    assert made["api_version"] == real["api_version"]
    if name == "price.updated":
        assert made["data"]["previous_attributes"] == real["data"]["previous_attributes"]


def test_a_renewal_event(fake: StripeFake, address: str) -> None:
    real = recorded("event_customer.subscription.updated__2025-08-27.basil__renewal")
    fake.event_version = "2025-08-27.basil"
    fake.renew(subscribe(fake))
    (made,) = get(
        client_of(fake.api_key, address), "/v1/events", types=["customer.subscription.updated"]
    )["data"]
    assert_alike(made["data"]["object"], real["data"]["object"], besides=_mode(real))
    for event in (made, real):
        before = event["data"]["previous_attributes"]["items"]["data"][0]
        after = event["data"]["object"]["items"]["data"][0]
        assert before["current_period_end"] == after["current_period_start"]


def _mode(real: Object) -> set[str]:
    # The recorded subscription is of the classic billing mode.
    paths = fields(real["data"]["object"]).keys() | {".billing_mode.updated_at"}
    return {path for path in paths if path.startswith(".billing_mode")} | {
        ".billing_mode.flexible.proration_discounts"
    }


def test_a_missing_object(fake: StripeFake, client: stripe.StripeClient) -> None:
    real = recorded("error_404_resource_missing__2026-03-25.dahlia")
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.raw_request("get", "/v1/customers/cus_nobody")
    assert caught.value.http_status == real["http_status"]
    body: Any = caught.value.json_body
    ours, theirs = body["error"], real["body"]["error"]
    assert theirs.keys() - ours.keys() <= {"request_log_url"}
    for key in ("code", "type", "param", "doc_url"):
        assert ours[key] == theirs[key]
    assert ours["message"] == "No such customer: 'cus_nobody'"
