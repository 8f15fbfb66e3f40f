"""The tenants of the demo, and the objects that Stripe's API would answer about them.

One tenant for each way in which a quota comes about. The shapes are Stripe's; fields that
stepquota does not read are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from .. import apply_stripe_object, resolve_workflow_step_quota

StripeObject = dict[str, Any]

LIMIT_KEY = "workflow_step_limit"

# What globex buys later on.
LARGER_PRICE_LIMIT = "1200"
_PERIOD_BEGAN = timedelta(days=10)
_PERIOD_LASTS = timedelta(days=30)


@dataclass(frozen=True)
class Tenant:
    """A tenant of the demo.

    Attributes:
        name: The tenant.
        plan: Its tier.
        runs: How many runs it starts.
        about: How its quota comes about, for people.
        price_limit: The limit in the metadata of its price.
        product_limit: The limit in the metadata of its product.
        is_subscriber: Whether it has a subscription.
        has_old_shape: Whether its subscription is shaped as by Stripe's API before 2025-03-31,
            with the period on the subscription and not on its items.
    """

    name: str
    plan: str
    runs: int
    about: str
    price_limit: str | None = None
    product_limit: str | None = None
    is_subscriber: bool = True
    has_old_shape: bool = False


TENANTS = (
    Tenant(
        "acme", "solo", 20, "no subscription: plan solo, by calendar month", is_subscriber=False
    ),
    Tenant("globex", "pro", 16, "limit in the price's metadata", price_limit="120"),
    Tenant(
        "initech",
        "pro",
        12,
        "limit in the product's metadata",
        product_limit="90",
        has_old_shape=True,
    ),
    Tenant("hooli", "pro", 15, 'its price says "unlimited"', price_limit="unlimited"),
    Tenant(
        "umbrella", "solo", 12, 'its price says "1,000", which is no number', price_limit="1,000"
    ),
)


def add_tenants(connection: psycopg.Connection[Any]) -> None:
    """Add the tenants with their plans: as the application does, which owns this table."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into stepquota.tenants (tenant, plan) values (%s, %s)",
            [(tenant.name, tenant.plan) for tenant in TENANTS],
        )


def load_catalogue(connection: psycopg.Connection[Any]) -> int:
    """Apply every object about every tenant, in the connection's transaction.

    Returns:
        How many objects there were.
    """
    now = _read_clock(connection)
    count = 0
    for tenant in TENANTS:
        if not tenant.is_subscriber:
            continue
        price = _price(tenant.name, "first", tenant.price_limit)
        for stripe_object in (
            _product(tenant.name, tenant.product_limit),
            price,
            _customer(tenant.name),
            _subscription(tenant, price, now - _PERIOD_BEGAN),
        ):
            apply_stripe_object(connection, stripe_object, now)
            count += 1
    return count


def sell_larger_price(connection: psycopg.Connection[Any], tenant: Tenant) -> None:
    """Apply what Stripe answers after the tenant has changed to a larger price.

    Its period stays as it was, as when a price is changed in the middle of a period.
    """
    now = _read_clock(connection)
    period_start = resolve_workflow_step_quota(connection, tenant.name).period_start
    price = _price(tenant.name, "larger", LARGER_PRICE_LIMIT)
    apply_stripe_object(connection, price, now)
    apply_stripe_object(connection, _subscription(tenant, price, period_start), now)


def _read_clock(connection: psycopg.Connection[Any]) -> datetime:
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


def _limit(value: str | None) -> dict[str, str]:
    return {} if value is None else {LIMIT_KEY: value}


def _product(tenant: str, limit: str | None) -> StripeObject:
    return {
        "id": f"prod_{tenant}",
        "object": "product",
        "active": True,
        "livemode": False,
        "metadata": _limit(limit),
        "name": f"Workflows for {tenant}",
    }


def _price(tenant: str, name: str, limit: str | None) -> StripeObject:
    return {
        "id": f"price_{tenant}_{name}",
        "object": "price",
        "active": True,
        "currency": "eur",
        "livemode": False,
        "metadata": _limit(limit),
        "product": f"prod_{tenant}",
        "recurring": {"interval": "month", "interval_count": 1},
        "type": "recurring",
        "unit_amount": 4900,
    }


def _customer(tenant: str) -> StripeObject:
    return {
        "id": f"cus_{tenant}",
        "object": "customer",
        "livemode": False,
        "metadata": {"tenant": tenant},
    }


def _subscription(tenant: Tenant, price: StripeObject, start: datetime) -> StripeObject:
    period = {
        "current_period_start": int(start.timestamp()),
        "current_period_end": int((start + _PERIOD_LASTS).timestamp()),
    }
    item = {
        "id": f"si_{tenant.name}",
        "object": "subscription_item",
        "metadata": {},
        "price": price,
        "quantity": 1,
        **({} if tenant.has_old_shape else period),
    }
    return {
        "id": f"sub_{tenant.name}",
        "object": "subscription",
        "billing_cycle_anchor": int(start.timestamp()),
        "cancel_at_period_end": False,
        "customer": f"cus_{tenant.name}",
        "items": {"object": "list", "data": [item], "has_more": False},
        "livemode": False,
        "metadata": {},
        "status": "active",
        **(period if tenant.has_old_shape else {}),
    }
