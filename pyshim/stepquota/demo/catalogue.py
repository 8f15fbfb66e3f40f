"""The tenants of the demo, and what the demo's Stripe account has of them.

One tenant for each way in which a quota comes about.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from .stripe_fake import StripeFake

LIMIT_KEY = "workflow_step_limit"

# What globex buys later on.
LARGER_PRICE_LIMIT = "1200"
_SUBSCRIBED = timedelta(days=10)


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
    """

    name: str
    plan: str
    runs: int
    about: str
    price_limit: str | None = None
    product_limit: str | None = None
    is_subscriber: bool = True


TENANTS = (
    Tenant(
        "acme", "solo", 20, "no subscription: plan solo, by calendar month", is_subscriber=False
    ),
    Tenant("globex", "pro", 16, "limit in the price's metadata", price_limit="120"),
    Tenant("initech", "pro", 12, "limit in the product's metadata", product_limit="90"),
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


def fill(stripe: StripeFake) -> int:
    """Put a product, a price, a customer and a subscription of each subscriber into the account.

    Returns:
        How many objects there are.
    """
    for tenant in TENANTS:
        if not tenant.is_subscriber:
            continue
        stripe.create_product(
            id=f"prod_{tenant.name}",
            name=f"Workflows for {tenant.name}",
            metadata=_limit(tenant.product_limit),
        )
        _create_price(stripe, tenant, "first", tenant.price_limit)
        stripe.create_customer(id=f"cus_{tenant.name}", metadata={"tenant": tenant.name})
        stripe.create_subscription(
            f"cus_{tenant.name}",
            [_name_price(tenant, "first")],
            id=_name_subscription(tenant),
            start=stripe.now() - int(_SUBSCRIBED.total_seconds()),
        )
    shelves = (stripe.products, stripe.prices, stripe.customers, stripe.subscriptions)
    return sum(len(shelf) for shelf in shelves)


def sell_larger_price(stripe: StripeFake, tenant: Tenant) -> None:
    """Change the tenant's subscription to a larger price; its period stays as it was."""
    price = _create_price(stripe, tenant, "larger", LARGER_PRICE_LIMIT)
    subscription = stripe.subscriptions.get(_name_subscription(tenant))
    assert subscription is not None
    stripe.change_item(subscription.items[0].id, price=price)


def _create_price(stripe: StripeFake, tenant: Tenant, name: str, limit: str | None) -> str:
    return stripe.create_price(
        f"prod_{tenant.name}", id=_name_price(tenant, name), metadata=_limit(limit)
    ).id


def _name_price(tenant: Tenant, name: str) -> str:
    return f"price_{tenant.name}_{name}"


def _name_subscription(tenant: Tenant) -> str:
    return f"sub_{tenant.name}"


def _limit(value: str | None) -> dict[str, str]:
    return {} if value is None else {LIMIT_KEY: value}
