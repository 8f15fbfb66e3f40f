"""Objects of the shape that Stripe's API answers, made for the tests.

Both generations of subscriptions: since 2025-03-31.basil the billing period is on the items, before
that it was on the subscription. Fields that stepquota does not read are there as Stripe has them.
"""

# ruff: noqa: A002 - parameters are called as Stripe calls the fields

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

Object = dict[str, Any]
Metadata = dict[str, Any]
Generation = Literal["items", "subscription"]

APRIL = (datetime(2026, 4, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
LONG_AGO = datetime(2025, 1, 31, 9, 30, tzinfo=UTC)


def seconds(moment: datetime | None) -> int | None:
    """Stripe's way to write a moment."""
    return None if moment is None else int(moment.timestamp())


def limit(value: Any) -> Metadata:
    """Metadata with a limit in it."""
    return {"workflow_step_limit": value}


def product(id: str, metadata: Metadata | None = None, **changes: Any) -> Object:
    """A product."""
    return {
        "id": id,
        "object": "product",
        "active": True,
        "created": seconds(LONG_AGO),
        "default_price": None,
        "description": None,
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": metadata or {},
        "name": f"Plan {id}",
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": None,
        "updated": seconds(LONG_AGO),
        "url": None,
        **changes,
    }


def price(
    id: str,
    product: str | Object,
    metadata: Metadata | None = None,
    interval: str | None = "month",
    interval_count: int = 1,
    **changes: Any,
) -> Object:
    """A price; its product is an id, or an object where the answer was expanded."""
    recurring = interval and {
        "interval": interval,
        "interval_count": interval_count,
        "meter": None,
        "trial_period_days": None,
        "usage_type": "licensed",
    }
    return {
        "id": id,
        "object": "price",
        "active": True,
        "billing_scheme": "per_unit",
        "created": seconds(LONG_AGO),
        "currency": "eur",
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": None,
        "metadata": metadata or {},
        "nickname": None,
        "product": product,
        "recurring": recurring,
        "tax_behavior": "unspecified",
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if recurring else "one_time",
        "unit_amount": 4900,
        "unit_amount_decimal": "4900",
        **changes,
    }


def customer(id: str, tenant: str | None = None, **changes: Any) -> Object:
    """A customer; its metadata names the tenant."""
    return {
        "id": id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": seconds(LONG_AGO),
        "currency": "eur",
        "delinquent": False,
        "description": None,
        "email": "billing@example.org",
        "invoice_prefix": "ABCDEF01",
        "livemode": False,
        "metadata": {} if tenant is None else {"tenant": tenant},
        "name": "Example Ltd",
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
        **changes,
    }


def item(
    id: str,
    price: Object,
    period: tuple[datetime, datetime] = APRIL,
    created: datetime = LONG_AGO,
    **changes: Any,
) -> Object:
    """An item of a subscription, as since basil. The deprecated plan repeats the price."""
    return {
        "id": id,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": seconds(created),
        "current_period_start": seconds(period[0]),
        "current_period_end": seconds(period[1]),
        "discounts": [],
        "metadata": {},
        "plan": {
            "id": price["id"],
            "object": "plan",
            "active": True,
            "amount": 4900,
            "currency": "eur",
            "interval": (price["recurring"] or {}).get("interval"),
            "metadata": {},
            "product": price["product"]["id"]
            if isinstance(price["product"], dict)
            else price["product"],
        },
        "price": price,
        "quantity": 3,
        "tax_rates": [],
        **changes,
    }


def subscription(
    id: str,
    customer: str | Object,
    items: list[Object],
    status: str = "active",
    generation: Generation = "items",
    anchor: datetime | None = None,
    metadata: Metadata | None = None,
    **changes: Any,
) -> Object:
    """A subscription. Of the older generation, all its items share the period of the first.

    Args:
        anchor: what periods are counted from; by default the start of the first item's period.
        changes: moments may be given as datetimes.
    """
    start, end = items[0]["current_period_start"], items[0]["current_period_end"]
    period: Object = {}
    if generation == "subscription":
        period = {"current_period_start": start, "current_period_end": end}
        items = [
            {k: v for k, v in i.items() if k not in ("current_period_start", "current_period_end")}
            for i in items
        ]
    changes = {k: seconds(v) if isinstance(v, datetime) else v for k, v in changes.items()}
    return {
        "id": id,
        "object": "subscription",
        "application": None,
        "billing_cycle_anchor": seconds(anchor) or start,
        "billing_mode": {"type": "flexible"} if generation == "items" else {"type": "classic"},
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "collection_method": "charge_automatically",
        "created": seconds(LONG_AGO),
        "currency": "eur",
        "customer": customer,
        "days_until_due": None,
        "default_payment_method": None,
        "discounts": [],
        "ended_at": None,
        **period,
        "items": {
            "object": "list",
            "data": [{**i, "subscription": id} for i in items],
            "has_more": False,
            "total_count": len(items),
            "url": f"/v1/subscription_items?subscription={id}",
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": metadata or {},
        "next_pending_invoice_item_invoice": None,
        "pause_collection": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": seconds(LONG_AGO),
        "status": status,
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_start": None,
        **changes,
    }


def deleted(object: Object) -> Object:
    """What Stripe answers for an object that is gone."""
    return {"id": object["id"], "object": object["object"], "deleted": True}


def plan_of(
    tenant: str,
    *,
    price_metadata: Metadata | None = None,
    product_metadata: Metadata | None = None,
    name: str = "main",
    period: tuple[datetime, datetime] = APRIL,
    **changes: Any,
) -> Object:
    """A whole subscription of one item, expanded as the sync asks for it, with ids of its own."""
    key = f"{tenant}_{name}"
    return subscription(
        f"sub_{key}",
        customer(f"cus_{tenant}", tenant),
        [
            item(
                f"si_{key}",
                price(f"price_{key}", product(f"prod_{key}", product_metadata), price_metadata),
                period,
            )
        ],
        **changes,
    )
