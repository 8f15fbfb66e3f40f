"""A fake of Stripe's API, and the real library as its client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import stripe

from stepquota.demo.stripe_fake import StripeFake, serve

Object = dict[str, Any]


@pytest.fixture
def fake() -> StripeFake:
    return StripeFake("sk_test_mine", account="acct_mine")


@pytest.fixture
def address(fake: StripeFake) -> Iterator[str]:
    with serve(fake) as address:
        yield address


@pytest.fixture
def client(fake: StripeFake, address: str) -> stripe.StripeClient:
    return client_of(fake.api_key, address)


def client_of(api_key: str, address: str, version: str | None = None) -> stripe.StripeClient:
    return stripe.StripeClient(
        api_key,
        stripe_version=version,
        base_addresses={"api": address},
        max_network_retries=0,
    )


def get(client: stripe.StripeClient, path: str, **parameters: Any) -> Object:
    """An answer as it came, without the library's types around it."""
    answer: Object = json.loads(client.raw_request("get", path, **parameters).body)
    return answer


def subscribe(fake: StripeFake, tenant: str = "acme", *, items: int = 1, **changes: Any) -> str:
    """A subscription with all that belongs to it; answers its id."""
    customer = fake.create_customer(metadata={"tenant": tenant})
    prices = [fake.create_price(fake.create_product().id).id for _ in range(items)]
    return fake.create_subscription(customer.id, prices, **changes).id
