"""What the API answers, asked for by the real library: lists, paging, expansion, errors."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import stripe

from stepquota.demo.stripe_fake import CURRENT_VERSION, StripeFake, serve

from .conftest import client_of, get, subscribe


def test_it_speaks_the_version_that_the_library_asks_for(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    answer = client.v1.products.list()
    assert answer.last_response is not None
    assert answer.last_response.headers["Stripe-Version"] == CURRENT_VERSION == stripe.api_version


def test_one_request_answers_a_subscription_with_all_that_belongs_to_it(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    id = subscribe(fake, "acme")
    subscription = client.v1.subscriptions.retrieve(
        id, {"expand": ["items.data.price.product", "customer"]}
    )
    assert isinstance(subscription.customer, stripe.Customer)
    assert subscription.customer.metadata is not None
    assert subscription.customer.metadata.to_dict() == {"tenant": "acme"}
    (item,) = subscription["items"].data
    assert isinstance(item.price.product, stripe.Product)
    assert item.price.product.name == "Workflows"
    assert item.current_period_end > item.current_period_start
    assert subscription.status == "active"


def test_without_expansion_there_are_ids(fake: StripeFake, client: stripe.StripeClient) -> None:
    shape = get(client, f"/v1/subscriptions/{subscribe(fake)}")
    assert shape["customer"] == next(iter(fake.customers)).id
    assert shape["items"]["data"][0]["price"]["product"] == next(iter(fake.products)).id


@pytest.mark.parametrize(
    ("path", "expand", "message"),
    [
        ("/v1/subscriptions/{id}", "items.data.price.nothing", "cannot be expanded"),
        ("/v1/subscriptions", "data.items.data.price.product", "more than 4 levels"),
        ("/v1/subscriptions", "customer", "cannot be expanded"),
        ("/v1/prices", "data.nothing", "cannot be expanded"),
    ],
)
def test_what_cannot_be_expanded(
    fake: StripeFake, client: stripe.StripeClient, path: str, expand: str, message: str
) -> None:
    path = path.format(id=subscribe(fake))
    with pytest.raises(stripe.InvalidRequestError, match=message) as caught:
        client.raw_request("get", path, expand=[expand])
    assert caught.value.http_status == 400


def test_lists_are_expanded_too(fake: StripeFake, client: stripe.StripeClient) -> None:
    subscribe(fake, "acme")
    (subscription,) = client.v1.subscriptions.list({"expand": ["data.customer"]}).data
    assert isinstance(subscription.customer, stripe.Customer)
    (price,) = client.v1.prices.list({"expand": ["data.product"]}).data
    assert isinstance(price.product, stripe.Product)


def test_lists_are_paged_from_the_newest_to_the_oldest(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    # All of them made in the same second, but for the oldest.
    old = fake.create_product(name="old")
    fake.advance(seconds=5)
    made = [old.id, *(fake.create_product().id for _ in range(249))]
    page = client.v1.products.list({"limit": 100})
    assert page.has_more
    assert [product.id for product in page.auto_paging_iter()] == made[::-1]
    assert fake.requests["/v1/products"] == 3
    assert len(client.v1.products.list().data) == 10
    before = client.v1.products.list({"limit": 2, "ending_before": made[0]})
    assert [product.id for product in before.data] == [made[2], made[1]]


def test_a_new_object_does_not_disturb_the_paging(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    made = [fake.create_product().id for _ in range(4)]
    first = get(client, "/v1/products", limit=2)
    fake.create_product()
    second = get(client, "/v1/products", limit=2, starting_after=first["data"][-1]["id"])
    listed = [product["id"] for product in first["data"] + second["data"]]
    assert listed == made[::-1]
    assert not second["has_more"]


def test_an_older_start_puts_an_object_in_its_place(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    newer = subscribe(fake, "newer")
    older = subscribe(fake, "older", start=fake.now() - 1000)
    listed = [subscription.id for subscription in client.v1.subscriptions.list().data]
    assert listed == [newer, older]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"limit": 101}, "limit"),
        ({"limit": 0}, "limit"),
        ({"starting_after": "prod_unknown"}, "starting_after"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_bad_parameters(
    fake: StripeFake, client: stripe.StripeClient, parameters: dict[str, Any], param: str
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.raw_request("get", "/v1/products", **parameters)
    assert (caught.value.http_status, caught.value.param) == (400, param)


def test_statuses(fake: StripeFake, client: stripe.StripeClient) -> None:
    active = subscribe(fake)
    canceled = subscribe(fake)
    fake.cancel(canceled)
    expired = subscribe(fake, status="incomplete_expired")

    def listed(**parameters: Any) -> set[str]:
        answer = get(client, "/v1/subscriptions", **parameters)
        return {subscription["id"] for subscription in answer["data"]}

    assert listed() == {active, expired}
    assert listed(status="all") == {active, canceled, expired}
    assert listed(status="ended") == {canceled, expired}
    assert listed(status="canceled") == {canceled}
    assert listed(status="active") == {active}


def test_filters(fake: StripeFake, client: stripe.StripeClient) -> None:
    first = subscribe(fake, "first")
    fake.advance(seconds=10)
    bound = fake.now()
    second = subscribe(fake, "second")
    record = fake.subscriptions.get(second)
    assert record is not None

    def listed(**parameters: Any) -> list[str]:
        answer = get(client, "/v1/subscriptions", **parameters)
        return [subscription["id"] for subscription in answer["data"]]

    assert listed(created={"gte": bound}) == [second]
    assert listed(created={"gt": bound - 1}) == [second]
    assert listed(created={"lt": bound}) == [first]
    assert listed(customer=record.customer) == [second]
    assert listed(price=record.items[0].price) == [second]
    fake.update_price(record.items[0].price, active=False)
    assert len(get(client, "/v1/prices", active="true")["data"]) == 1
    assert get(client, "/v1/subscriptions", price=record.items[0].price)["data"]


def test_items_beyond_the_tenth_are_on_further_pages(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    id = subscribe(fake, items=20)
    record = fake.subscriptions.get(id)
    assert record is not None
    made = [item.id for item in record.items]
    subscription = client.v1.subscriptions.retrieve(id)
    assert (len(subscription["items"].data), subscription["items"].has_more) == (10, True)
    assert [item.id for item in subscription["items"].auto_paging_iter()] == made
    listed = client.v1.subscription_items.list(
        {"subscription": id, "limit": 6, "expand": ["data.price.product"]}
    )
    assert [item.id for item in listed.auto_paging_iter()] == made
    assert isinstance(listed.data[0].price.product, stripe.Product)
    assert client.v1.subscription_items.retrieve(made[-1]).subscription == id


def test_what_is_on_a_test_clock_is_in_no_list(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    customer = fake.create_customer(test_clock="clock_1")
    price = fake.create_price(fake.create_product().id)
    id = fake.create_subscription(customer.id, [price.id]).id
    assert get(client, "/v1/subscriptions", status="all")["data"] == []
    assert get(client, "/v1/customers")["data"] == []
    assert len(get(client, "/v1/customers", test_clock="clock_1")["data"]) == 1
    assert get(client, f"/v1/subscriptions/{id}")["test_clock"] == "clock_1"
    assert get(client, "/v1/events")["data"][0]["type"] == "customer.subscription.created"


def test_deleted_objects(fake: StripeFake, client: stripe.StripeClient) -> None:
    id = subscribe(fake)
    subscription = fake.subscriptions.get(id)
    assert subscription is not None
    fake.delete_customer(subscription.customer)
    customer = client.v1.customers.retrieve(subscription.customer)
    assert customer.deleted
    assert get(client, f"/v1/customers/{customer.id}") == {
        "id": customer.id,
        "object": "customer",
        "deleted": True,
    }
    assert client.v1.customers.list().data == []
    # Its subscription is canceled, and stays.
    shape = get(client, f"/v1/subscriptions/{id}", expand=["customer"])
    assert shape["status"] == "canceled"
    assert shape["customer"]["deleted"] is True
    assert len(client.v1.subscriptions.list({"status": "all"}).data) == 1

    price = fake.create_price(fake.create_product().id)
    fake.delete_price(price.id)
    fake.delete_product(price.product)
    fake.vanish(id)
    for path in ("prices/" + price.id, "products/" + price.product, "subscriptions/" + id):
        with pytest.raises(stripe.InvalidRequestError) as caught:
            client.raw_request("get", f"/v1/{path}")
        error = caught.value
        assert (error.http_status, error.code, error.param) == (404, "resource_missing", "id")


def test_keys_and_accounts(fake: StripeFake) -> None:
    live = StripeFake("_".join(("sk", "live", "mine")), account="acct_mine", livemode=True)
    id = subscribe(fake)
    with serve(fake, live) as address:
        mine, other = client_of(fake.api_key, address), client_of(live.api_key, address)
        assert mine.v1.accounts.retrieve_current().id == "acct_mine"
        assert mine.v1.subscriptions.retrieve(id).livemode is False
        # The key of another mode knows nothing of it.
        assert other.v1.subscriptions.list().data == []
        with pytest.raises(stripe.InvalidRequestError) as caught:
            other.v1.subscriptions.retrieve(id)
        assert caught.value.code == "resource_missing"
        with pytest.raises(stripe.AuthenticationError, match="Invalid API Key"):
            client_of("sk_test_nobody", address).v1.products.list()


def test_refusals(fake: StripeFake, client: stripe.StripeClient) -> None:
    fake.faults.fail("/v1/products", 429, retry_after=2)
    with pytest.raises(stripe.RateLimitError) as limited:
        client.v1.products.list()
    assert limited.value.headers is not None
    assert limited.value.headers["Retry-After"] == "2"
    fake.faults.fail("/v1/products", 500, times=2)
    for _ in range(2):
        with pytest.raises(stripe.APIError):
            client.v1.products.list()
    fake.faults.fail("/v1/products", 403)
    with pytest.raises(stripe.PermissionError):
        client.v1.products.list()
    fake.faults.fail("/v1/products", 401)
    with pytest.raises(stripe.AuthenticationError):
        client.v1.products.list()
    fake.faults.break_off("/v1/products")
    with pytest.raises(stripe.APIConnectionError):
        client.v1.products.list()
    # Other paths are not concerned, and it is over.
    fake.faults.fail("/v1/prices", 500)
    assert client.v1.products.list().data == []


def test_the_library_tries_again_after_500_and_after_a_broken_connection(
    fake: StripeFake, address: str
) -> None:
    client = stripe.StripeClient(
        fake.api_key, base_addresses={"api": address}, max_network_retries=2
    )
    fake.faults.fail("/v1/products", 500)
    fake.faults.break_off("/v1/products")
    assert client.v1.products.list().data == []
    assert fake.requests["/v1/products"] == 3


def test_a_held_answer_is_as_old_as_its_making(
    fake: StripeFake, client: stripe.StripeClient
) -> None:
    id = subscribe(fake)
    answers: list[str] = []

    def ask() -> None:
        answers.append(client.v1.subscriptions.retrieve(id).metadata["state"])

    fake.update_subscription(id, metadata={"state": "old"})
    with fake.faults.hold("/v1/subscriptions/.*") as held:
        thread = threading.Thread(target=ask)
        thread.start()
        held.wait_until_made()
        fake.update_subscription(id, metadata={"state": "new"})
        ask()
        assert answers == ["new"]
    thread.join()
    assert answers == ["new", "old"]


def test_slow_answers(fake: StripeFake, client: stripe.StripeClient) -> None:
    fake.faults.slow("/v1/products", 0.2)
    began = time.monotonic()
    client.v1.products.list()
    assert time.monotonic() - began >= 0.2
    fake.faults.delay("/v1/products", 0.2)
    began = time.monotonic()
    client.v1.products.list()
    assert time.monotonic() - began >= 0.2
