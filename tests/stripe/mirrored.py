"""What the mirror should say, taken from the fake's records, and what it says."""

from __future__ import annotations

from collections.abc import Set
from datetime import UTC, datetime
from typing import Any

import psycopg

from stepquota.demo.stripe_fake import StripeFake

Rows = dict[str, dict[str, tuple[Any, ...]]]

_QUERIES = {
    "products": "select id, metadata, name, active from stepquota.stripe_products",
    "prices": """
        select id, product_id, metadata, nickname, active, recurring_interval,
               recurring_interval_count
          from stepquota.stripe_prices""",
    "customers": """
        select id, metadata, metadata_tenant, is_on_test_clock from stepquota.stripe_customers""",
    "subscriptions": """
        select id, customer_id, status, metadata, billing_cycle_anchor, cancel_at,
               cancel_at_period_end, canceled_at, ended_at, trial_start, trial_end,
               pause_collection, is_on_test_clock
          from stepquota.stripe_subscriptions""",
    "items": """
        select id, subscription_id, price_id, current_period_start, current_period_end, metadata,
               quantity
          from stepquota.stripe_subscription_items""",
}


def read_mirror(connection: psycopg.Connection[Any]) -> Rows:
    """All that is not deleted, by type and id."""
    return {
        name: {
            row[0]: tuple(row[1:])
            for row in connection.execute(f"{query} where deleted_at is null".encode())
        }
        for name, query in _QUERIES.items()
    }


def read_fake(fake: StripeFake) -> Rows:
    """The same as it should be."""
    return {
        "products": {p.id: (p.metadata, p.name, p.active) for p in fake.products},
        "prices": {
            p.id: (
                p.product,
                p.metadata,
                p.nickname,
                p.active,
                p.interval,
                p.interval_count if p.interval else None,
            )
            for p in fake.prices
        },
        "customers": {
            c.id: (c.metadata, c.metadata.get("tenant"), c.test_clock is not None)
            for c in fake.customers
        },
        "subscriptions": {
            s.id: (
                s.customer,
                s.status,
                s.metadata,
                _moment(s.anchor),
                _moment(s.cancel_at),
                s.cancel_at_period_end,
                _moment(s.canceled_at),
                _moment(s.ended_at),
                _moment(s.trial_start),
                _moment(s.trial_end),
                s.pause_collection,
                s.test_clock is not None,
            )
            for s in fake.subscriptions
        },
        "items": {
            i.id: (
                i.subscription,
                i.price,
                _moment(i.start),
                _moment(i.end),
                i.metadata,
                i.quantity,
            )
            for i in fake.items.values()
        },
    }


def find_differences(
    connection: psycopg.Connection[Any],
    fake: StripeFake,
    hidden: Set[str] = frozenset(),
    only: Set[str] | None = None,
) -> list[str]:
    """Where the mirror says something else than the fake, in words.

    Args:
        connection: Where the mirror is.
        fake: What is right.
        hidden: Ids of objects of which the sync cannot know; it may.
        only: Ids of the objects that are compared; None for all.
    """
    mirror, right = read_mirror(connection), read_fake(fake)
    return [
        f"{name} {id}: the mirror has {mirror[name].get(id)}, right is {right[name].get(id)}"
        for name in right
        for id in sorted(mirror[name].keys() | right[name].keys())  # noqa: A001 - as Stripe calls it
        if (only is None or id in only)
        and mirror[name].get(id) != right[name].get(id)
        and not (id in hidden and id not in mirror[name])
    ]


def _moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
