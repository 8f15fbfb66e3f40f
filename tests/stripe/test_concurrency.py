"""Several workers and a full sync on one object, with answers that come late."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import psycopg

from stepquota.demo.stripe_fake import StripeFake
from stepquota.stripe_sync.api import StripeApi
from stepquota.stripe_sync.catch_up import catch_up
from stepquota.stripe_sync.full_sync import full_sync
from stepquota.stripe_sync.mirror import Mirror
from stepquota.stripe_sync.settings import ApiSettings
from stepquota.stripe_sync.work import work_off, work_off_all

from .conftest import MakeMirror, limit_of, mirror_rows, subscribe, wait_until


def test_a_late_answer_brings_no_removed_item_back(
    fake: StripeFake,
    api: StripeApi,
    settings: ApiSettings,
    mirror: Mirror,
    make_mirror: MakeMirror,
    owner: psycopg.Connection,
) -> None:
    subscribe(fake, "acme", "500")
    full_sync(mirror, api)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    bigger = fake.create_price("prod_acme", metadata={"workflow_step_limit": "9000"})
    item = fake.add_item("sub_acme", bigger.id)
    catch_up(mirror, api)
    late = make_mirror()
    with (
        ThreadPoolExecutor(1) as pool,
        fake.faults.hold("/v1/subscriptions/sub_acme") as held,
    ):
        slow_api = StripeApi(settings)
        slow = pool.submit(work_off, late, slow_api)
        held.wait_until_made()
        # Its answer is made, with the item in it. Now the item goes.
        fake.remove_item(item.id)
        catch_up(mirror, api)
        work_off_all(mirror, api)
        assert limit_of(owner, "acme") == 500
        held.release()
        slow.result()
    slow_api.close()
    assert limit_of(owner, "acme") == 500
    assert item.id not in mirror_rows(owner)["subscription_items"]


def test_a_late_answer_does_not_pass_a_listing_that_found_nothing_changed(
    fake: StripeFake,
    api: StripeApi,
    settings: ApiSettings,
    mirror: Mirror,
    make_mirror: MakeMirror,
    owner: psycopg.Connection,
) -> None:
    subscribe(fake, "acme", "500")
    full_sync(mirror, api)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    fake.update_subscription("sub_acme", status="canceled")
    catch_up(mirror, api)
    with (
        ThreadPoolExecutor(1) as pool,
        fake.faults.hold("/v1/subscriptions/sub_acme") as held,
    ):
        slow_api = StripeApi(settings)
        slow = pool.submit(work_off, make_mirror(), slow_api)
        held.wait_until_made()
        # The answer says canceled. Stripe takes it back, and says so to nobody.
        with fake.losing_events():
            fake.update_subscription("sub_acme", status="active")
        result = full_sync(mirror, api, from_start=True)
        assert result.counts["subscription"] == {"unchanged": 1}
        held.release()
        slow.result()
    slow_api.close()
    assert mirror_rows(owner)["subscriptions"]["sub_acme"][1] == "active"


def test_workers_and_a_full_sync_end_with_the_newest_state(
    fake: StripeFake,
    api: StripeApi,
    settings: ApiSettings,
    mirror: Mirror,
    make_mirror: MakeMirror,
    owner: psycopg.Connection,
) -> None:
    chance = random.Random(7)
    subscribe(fake, "acme", "500")
    full_sync(mirror, api)
    catch_up(mirror, api)

    def drain(client: StripeApi, own: Mirror) -> None:
        for _ in range(30):
            work_off(own, client, 2)

    def sync(client: StripeApi, own: Mirror) -> None:
        for _ in range(4):
            full_sync(own, client, from_start=True)

    clients = [StripeApi(settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(drain, client, make_mirror()) for client in clients[:3]]
        running.append(pool.submit(sync, clients[3], make_mirror()))
        for number in range(25):
            # Answers are made at once and come up to 50 ms later.
            fake.faults.delay("/v1/subscriptions.*", chance.random() / 20)
            fake.update_subscription(
                "sub_acme",
                status=chance.choice(["active", "past_due", "trialing"]),
                metadata={"number": str(number)},
            )
            catch_up(mirror, api)
        for run in running:
            run.result()
    owner.execute("update stepquota.stripe_events set next_attempt_at = clock_timestamp()")
    work_off_all(mirror, api)
    subscription = fake.subscriptions.get("sub_acme")
    assert subscription
    metadata, status, *_ = mirror_rows(owner)["subscriptions"]["sub_acme"]
    assert (status, metadata) == (subscription.status, {"number": "24"})
    for client in clients:
        client.close()


def test_opposite_orders_do_not_deadlock(
    fake: StripeFake, api: StripeApi, mirror: Mirror, make_mirror: MakeMirror
) -> None:
    product = fake.create_product()
    prices = [fake.create_price(product.id, id=f"price_{n}").id for n in range(6)]
    customer = fake.create_customer(metadata={"tenant": "acme"})
    forth = fake.create_subscription(customer.id, prices).id
    back = fake.create_subscription(customer.id, prices[::-1]).id

    def write(own: Mirror, subscription: str) -> None:
        object_ = api.retrieve("subscription", subscription)
        for number in range(150):
            for item in object_["items"]["data"]:
                # Each answer says something else of every price.
                item["price"]["metadata"] = {"number": f"{subscription} {number}"}
            own.apply(object_, own.read_clock())

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(write, make_mirror(), name) for name in (forth, back)]
        for run in running:
            run.result()


def test_a_worker_that_dies_leaves_its_events(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    catch_up(mirror, api)
    assert mirror.claim(100)  # and never heard of again
    assert work_off_all(mirror, api).events == 0
    owner.execute(
        "update stepquota.stripe_events set next_attempt_at = clock_timestamp()"
        " where status = 'pending'"
    )
    wait_until(lambda: work_off_all(mirror, api).events > 0)
    assert limit_of(owner, "acme") == 500
