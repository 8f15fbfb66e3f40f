"""The events that changes make, their listing, and their delivery as webhooks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import stripe
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from stepquota.demo.stripe_fake import Courier, Mishaps, StripeFake

from .conftest import get, subscribe

SECRET = "whsec_fake"
OLD_VERSION = "2020-08-27"


def types_of(client: stripe.StripeClient, **parameters: Any) -> list[str]:
    """The types of the events, the oldest first."""
    return [event["type"] for event in get(client, "/v1/events", limit=100, **parameters)["data"]][
        ::-1
    ]


def test_every_change_makes_its_event(fake: StripeFake, client: stripe.StripeClient) -> None:
    product = fake.create_product()
    price = fake.create_price(product.id)
    customer = fake.create_customer(metadata={"tenant": "acme"})
    id = fake.create_subscription(customer.id, [price.id], trial_days=14).id
    fake.update_product(product.id, metadata={"workflow_step_limit": "5"})
    fake.update_price(price.id, metadata={"workflow_step_limit": "6"})
    fake.update_price(price.id, metadata={"workflow_step_limit": "6"})  # no change, no event
    fake.update_customer(customer.id, metadata={"tenant": None})
    fake.renew(id)
    item = fake.add_item(id, price.id)
    fake.change_item(item.id, quantity=3)
    fake.remove_item(item.id)
    fake.pause(id)
    fake.resume(id)
    fake.cancel(id, at_period_end=True)
    fake.delete_customer(customer.id)
    updated = "customer.subscription.updated"
    assert types_of(client) == [
        *("product.created", "price.created", "customer.created"),
        *("customer.subscription.created", "product.updated", "price.updated", "customer.updated"),
        *(updated, updated, updated, updated),
        *(updated, "customer.subscription.paused", updated, "customer.subscription.resumed"),
        *(updated, "customer.subscription.deleted", "customer.deleted"),
    ]
    with fake.losing_events():
        fake.update_product(product.id, name="silent")
    assert types_of(client)[-1] == "customer.deleted"


def test_an_event_shows_what_was_then(fake: StripeFake, client: stripe.StripeClient) -> None:
    price = fake.create_price(fake.create_product().id, metadata={"a": "1", "b": "1"})
    fake.update_price(price.id, metadata={"a": "2"})
    fake.update_price(price.id, metadata={"a": "3"})
    # All of the same second, and the newest first all the same.
    last, first = get(client, "/v1/events", types=["price.updated"])["data"]
    assert first["data"]["object"]["metadata"] == {"a": "2", "b": "1"}
    assert first["data"]["previous_attributes"] == {"metadata": {"a": "1"}}
    assert last["data"]["object"]["metadata"] == {"a": "3", "b": "1"}
    assert isinstance(first["created"], int)
    assert client.v1.events.retrieve(first["id"]).type == "price.updated"


def test_a_renewal(fake: StripeFake, client: stripe.StripeClient) -> None:
    january_31 = 1_769_851_800  # 2026-01-31T09:30:00Z
    id = subscribe(fake, start=january_31)
    ends = []
    for _ in range(3):
        shape = get(client, f"/v1/subscriptions/{id}")
        ends.append(
            time.strftime("%m-%d", time.gmtime(shape["items"]["data"][0]["current_period_end"]))
        )
        fake.renew(id)
    assert ends == ["02-28", "03-31", "04-30"]
    event = get(client, "/v1/events", limit=1)["data"][0]
    assert event["data"]["previous_attributes"].keys() == {"items"}


def test_filters_and_age(fake: StripeFake, client: stripe.StripeClient) -> None:
    fake.create_product()
    id = next(iter(get(client, "/v1/events")["data"]))["id"]
    fake.advance(days=20)
    bound = fake.now()
    fake.create_customer()
    assert types_of(client, created={"gte": bound}) == ["customer.created"]
    assert types_of(client, types=["product.*"]) == ["product.created"]
    assert types_of(client, types=["product.created", "customer.created"]) == types_of(client)
    fake.advance(days=11)
    assert types_of(client) == ["customer.created"]
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.events.retrieve(id)
    assert caught.value.code == "resource_missing"
    with pytest.raises(stripe.InvalidRequestError):
        get(client, "/v1/events", types=["product.created"] * 21)


def test_events_are_of_the_account_s_version(client: stripe.StripeClient, fake: StripeFake) -> None:
    fake.event_version = OLD_VERSION
    id = subscribe(fake)
    event = get(client, "/v1/events")["data"][0]
    assert event["api_version"] == OLD_VERSION
    shape = event["data"]["object"]
    # Whatever version the request asks for.
    assert "current_period_end" in shape
    assert "current_period_end" not in shape["items"]["data"][0]
    assert "current_period_end" not in get(client, f"/v1/subscriptions/{id}")


@pytest.fixture
def received(httpserver: HTTPServer) -> list[Request]:
    """What the endpoint at /hook received, all of it correctly signed."""
    requests: list[Request] = []

    def receive(request: Request) -> Response:
        stripe.WebhookSignature.verify_header(
            request.get_data(as_text=True), request.headers["Stripe-Signature"], SECRET, 300
        )
        requests.append(request)
        return Response(status=200)

    httpserver.expect_request("/hook", method="POST").respond_with_handler(receive)
    return requests


def ids(requests: list[Request]) -> list[str]:
    return [json.loads(request.get_data())["id"] for request in requests]


def test_webhooks_are_signed(
    fake: StripeFake, httpserver: HTTPServer, received: list[Request], client: stripe.StripeClient
) -> None:
    fake.add_endpoint(httpserver.url_for("/hook"), SECRET, api_version=OLD_VERSION)
    id = subscribe(fake)
    deliveries = Courier(fake).deliver()
    assert [delivery.status for delivery in deliveries] == [200] * 4
    assert ids(received) == [event["id"] for event in get(client, "/v1/events")["data"]][::-1]
    body, header = received[-1].get_data(), received[-1].headers["Stripe-Signature"]
    event = client.construct_event(body, header, SECRET)
    assert event.api_version == OLD_VERSION
    assert event.data.object["id"] == id
    assert "current_period_end" in event.data.object
    with pytest.raises(stripe.SignatureVerificationError):
        client.construct_event(body, header, "whsec_other")
    assert Courier(fake).deliver() == []


def test_thin_events(
    fake: StripeFake, httpserver: HTTPServer, received: list[Request], client: stripe.StripeClient
) -> None:
    fake.add_endpoint(httpserver.url_for("/hook"), SECRET, is_thin=True)
    price = fake.create_price(fake.create_product().id)
    fake.emit(
        "v2.core.health.event_generation_failure.resolved", "account", "acct", is_thin_only=True
    )
    Courier(fake).deliver()
    body, header = received[1].get_data(), received[1].headers["Stripe-Signature"]
    notification: Any = client.parse_event_notification(body, header, SECRET)
    assert notification.type == "v1.price.created"
    assert notification.fetch_related_object().id == price.id
    assert json.loads(body)["snapshot_event"] == client.v1.events.list().data[0].id
    with pytest.raises(ValueError, match="notification"):
        client.construct_event(body, header, SECRET)
    assert json.loads(received[2].get_data())["type"].startswith("v2.core.health")
    # The API has only those of its own version.
    assert len(client.v1.events.list().data) == 2


def test_what_is_not_taken_is_sent_again(fake: StripeFake, httpserver: HTTPServer) -> None:
    fake.add_endpoint(httpserver.url_for("/hook"), SECRET)
    fake.create_product()
    httpserver.expect_ordered_request("/hook").respond_with_data(status=503)
    httpserver.expect_ordered_request("/hook").respond_with_data(status=200)
    courier = Courier(fake)
    assert [delivery.status for delivery in courier.deliver()] == [503]
    assert [delivery.status for delivery in courier.deliver()] == [200]
    assert courier.deliver() == []
    fake.create_product()
    httpserver.stop()
    assert [delivery.status for delivery in courier.deliver()] == [0]


Sent = Callable[..., list[str]]


@pytest.fixture
def sent(fake: StripeFake) -> Sent:
    """Ids of what is sent of a hundred events, by the numbers of the events."""
    endpoint = fake.add_endpoint("http://nowhere/hook", SECRET)
    products = [fake.create_product() for _ in range(100)]
    waiting = list(endpoint.waiting)

    def send(seed: int = 1, **mishaps: Any) -> list[str]:
        endpoint.waiting = list(waiting)
        numbers = []

        def post(_url: str, body: bytes, _headers: Any) -> int:
            numbers.append(json.loads(body)["data"]["object"]["id"])
            return 200

        Courier(fake, Mishaps(**mishaps), seed, post).deliver()
        return numbers

    assert send() == [product.id for product in products]
    return send


def test_drops(sent: Sent) -> None:
    numbers = sent(drop=0.3)
    assert 50 < len(numbers) < 90
    assert numbers == sorted(numbers)


def test_duplicates(sent: Sent) -> None:
    numbers = sent(duplicate=0.3)
    assert 110 < len(numbers) < 150
    assert len(set(numbers)) == 100


def test_delays(fake: StripeFake, sent: Sent) -> None:
    numbers = sent(delay=0.3)
    (endpoint,) = fake.endpoints
    assert len(numbers) + len(endpoint.waiting) == 100
    assert endpoint.waiting


def test_shuffles(sent: Sent) -> None:
    numbers = sent(shuffle=True)
    assert sorted(numbers) == sent()
    assert numbers != sent()


def test_a_seed_repeats_its_mishaps(sent: Sent) -> None:
    everything = {"drop": 0.2, "duplicate": 0.2, "delay": 0.2, "shuffle": True}
    assert sent(seed=5, **everything) == sent(seed=5, **everything)
    assert sent(seed=5, **everything) != sent(seed=6, **everything)
