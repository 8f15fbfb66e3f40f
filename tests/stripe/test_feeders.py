"""The three feeders against a Stripe in memory: full sync, catch-up, working off."""

from __future__ import annotations

import psycopg

from stepquota.demo.stripe_fake import StripeFake
from stepquota.stripe_sync.api import StripeApi
from stepquota.stripe_sync.catch_up import catch_up
from stepquota.stripe_sync.full_sync import full_sync
from stepquota.stripe_sync.mirror import Mirror
from stepquota.stripe_sync.work import work_off_all

from .conftest import limit_of, subscribe


def test_a_full_sync_brings_limits(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme", "500")
    subscribe(fake, "globex", "unlimited")
    result = full_sync(mirror, api)
    assert result.is_complete
    assert {name: dict(counts) for name, counts in result.counts.items()} == {
        name: {"inserted": 2} for name in ("product", "price", "customer", "subscription")
    }
    assert (limit_of(owner, "acme"), limit_of(owner, "globex")) == (500, None)


def test_a_change_arrives_by_its_event(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme", "500")
    full_sync(mirror, api)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    fake.update_price("price_acme", metadata={"workflow_step_limit": "900"})
    assert limit_of(owner, "acme") == 500
    assert catch_up(mirror, api).new == 1
    done = work_off_all(mirror, api)
    assert (done.objects, done.events, done.failed) == (1, 1, 0)
    assert limit_of(owner, "acme") == 900
    assert catch_up(mirror, api).new == 0


def test_one_request_serves_all_events_of_an_object(
    fake: StripeFake, api: StripeApi, mirror: Mirror
) -> None:
    price = subscribe(fake, "acme") and "price_acme"
    full_sync(mirror, api)
    for limit in range(5):
        fake.update_price(price, metadata={"workflow_step_limit": f"10{limit}"})
    catch_up(mirror, api)
    fake.requests.clear()
    work_off_all(mirror, api)
    assert fake.requests["/v1/prices/price_acme"] == 1
