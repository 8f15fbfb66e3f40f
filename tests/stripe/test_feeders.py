"""The three feeders against a Stripe in memory: full sync, catch-up, working off."""

from __future__ import annotations

import psycopg
import pytest

from stepquota.demo.stripe_fake import StripeFake, serve
from stepquota.problems import Problem
from stepquota.secret import Secret
from stepquota.stripe_sync.api import StripeApi, StripeRefused, StripeUnavailable
from stepquota.stripe_sync.catch_up import catch_up
from stepquota.stripe_sync.full_sync import Progress, full_sync
from stepquota.stripe_sync.mirror import Mirror
from stepquota.stripe_sync.settings import ApiSettings
from stepquota.stripe_sync.work import open_mirror, work_off, work_off_all

from .conftest import MakeMirror, limit_of, mirror_rows, subscribe


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


def test_what_no_event_told_is_found_by_a_full_sync(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    for tenant in ("acme", "globex", "initech"):
        subscribe(fake, tenant)
    full_sync(mirror, api)
    with fake.losing_events():
        fake.update_price("price_acme", metadata={"workflow_step_limit": "900"})
        fake.vanish("sub_globex")
        fake.delete_customer("cus_initech")
    result = full_sync(mirror, api)
    assert result.counts["price"] == {"updated": 1, "unchanged": 2}
    assert result.counts["subscription"]["deleted"] == 1
    assert result.counts["customer"]["deleted"] == 1
    assert limit_of(owner, "acme") == 900
    assert limit_of(owner, "globex") == 150
    rows = mirror_rows(owner)
    assert set(rows["subscriptions"]) == {"sub_acme", "sub_initech"}
    assert set(rows["customers"]) == {"cus_acme", "cus_globex"}


def test_a_second_full_sync_writes_nothing(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    for tenant in ("acme", "globex"):
        subscribe(fake, tenant)
    full_sync(mirror, api)

    def versions() -> list[tuple[object, ...]]:
        return [
            row
            for table in ("products", "prices", "customers", "subscriptions", "subscription_items")
            for row in owner.execute(
                f"select id, ctid::text from stepquota.stripe_{table} order by id".encode()
            )
        ] + owner.execute(
            "select tenant, ctid::text from stepquota.workflow_step_quotas"
        ).fetchall()

    before = versions()
    full_sync(mirror, api)
    assert versions() == before


def test_subscriptions_with_many_items_are_whole(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    for number in range(14):
        extra = fake.create_price("prod_acme", metadata={"workflow_step_limit": str(number)})
        fake.add_item("sub_acme", extra.id)
    full_sync(mirror, api)
    assert len(mirror_rows(owner)["subscription_items"]) == 15
    removed = fake.subscriptions.get("sub_acme").items[12].id  # type: ignore[union-attr]
    fake.remove_item(removed)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    assert removed not in mirror_rows(owner)["subscription_items"]
    assert len(mirror_rows(owner)["subscription_items"]) == 14


def test_a_stopped_full_sync_goes_on(
    fake: StripeFake, api: StripeApi, mirror: Mirror, make_mirror: MakeMirror
) -> None:
    with fake.losing_events():
        for number in range(250):
            fake.create_customer(id=f"cus_{number}")
    seen: list[Progress] = []
    stopped = full_sync(
        mirror, api, on_progress=seen.append, should_stop=lambda: seen[-1].listed == 100
    )
    assert not stopped.is_complete
    fake.requests.clear()
    # Another process; the first one has let go.
    other = make_mirror()
    assert full_sync(other, api, on_progress=seen.append).is_complete
    assert fake.requests["/v1/products"] == 0
    assert fake.requests["/v1/customers"] == 2 + 8  # and to guess how many there are
    assert [(p.object_type, p.listed) for p in seen if p.object_type == "customer"] == [
        ("customer", 100),
        ("customer", 200),
        ("customer", 250),
    ]


def test_how_many_there_are_is_guessed_by_when_they_were_made(
    fake: StripeFake, api: StripeApi, mirror: Mirror
) -> None:
    with fake.losing_events():
        fake.advance(days=-300)
        for number in range(300):
            fake.create_customer(id=f"cus_{number}")
            fake.advance(days=1)
    seen: list[Progress] = []
    full_sync(mirror, api, on_progress=seen.append)
    guesses = [p.total for p in seen if p.object_type == "customer"]
    assert len(guesses) == 3
    assert guesses[-1] == 300
    assert all(guess and abs(guess - 300) < 30 for guess in guesses)
    # The next time it is known.
    seen.clear()
    full_sync(mirror, api, on_progress=seen.append)
    assert [p.total for p in seen if p.object_type == "customer"] == [300, 300, 300]


def test_a_page_whose_start_is_gone_begins_the_listing_anew(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    with fake.losing_events():
        for number in range(150):
            fake.create_customer(id=f"cus_{number}")
    seen: list[Progress] = []
    full_sync(mirror, api, on_progress=seen.append, should_stop=lambda: seen[-1].listed == 100)
    fake.delete_customer("cus_50")  # the last one on the page
    assert full_sync(mirror, api).is_complete
    assert len(mirror_rows(owner)["customers"]) == 149


def test_only_one_full_sync_runs(
    fake: StripeFake, api: StripeApi, mirror: Mirror, make_mirror: MakeMirror
) -> None:
    mirror.begin_sync(from_start=False)
    with pytest.raises(Problem, match="another full sync is running"):
        full_sync(make_mirror(), api)


def test_another_account_or_mode_is_refused_and_deletes_nothing(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    full_sync(mirror, api)
    before = mirror_rows(owner)
    others = [
        StripeFake("sk_test_other", account="acct_other"),
        StripeFake("_".join(("sk", "live", "other")), account="acct_fake", livemode=True),
    ]
    with serve(*others) as address:
        for other in others:
            livemode = other.livemode
            stranger = StripeApi(ApiSettings(Secret(other.api_key), livemode, address))
            with pytest.raises(Problem, match="belongs to another Stripe account or mode"):
                open_mirror(mirror, stranger)
            # One that may not say whose it is sees nothing of the mirror.
            other.faults.fail("/v1/account", 403, times=None)
            with pytest.raises(Problem, match="sees none of 4 objects"):
                open_mirror(mirror, stranger)
            stranger.close()
    assert mirror_rows(owner) == before


def test_a_key_that_may_not_say_whose_it_is(
    fake: StripeFake, api: StripeApi, make_mirror: MakeMirror
) -> None:
    fake.faults.fail("/v1/account", 403, times=None)
    mirror = make_mirror()
    open_mirror(mirror, api)
    subscribe(fake, "acme")
    assert full_sync(mirror, api).is_complete
    open_mirror(mirror, api)
    fake.faults.clear()
    open_mirror(mirror, api)


def test_too_much_missing_stops_before_anything_is_deleted(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    with fake.losing_events():
        for number in range(40):
            fake.create_customer(id=f"cus_{number}")
        full_sync(mirror, api)
        for number in range(21):
            fake.delete_customer(f"cus_{number}")
    with pytest.raises(Problem, match="21 of 40 customers"):
        full_sync(mirror, api)
    assert len(mirror_rows(owner)["customers"]) == 40
    assert full_sync(mirror, api, force=True).counts["customer"]["deleted"] == 21
    assert len(mirror_rows(owner)["customers"]) == 19


def test_objects_on_test_clocks_are_asked_for_before_they_count_as_gone(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    clocked = fake.create_customer(id="cus_clock", test_clock="clock_1")
    fake.create_subscription(clocked.id, ["price_acme"], id="sub_clock")
    catch_up(mirror, api)
    work_off_all(mirror, api)
    result = full_sync(mirror, api)
    assert result.is_complete
    assert "deleted" not in result.counts["subscription"]
    assert "sub_clock" in mirror_rows(owner)["subscriptions"]


# -- What goes wrong while working off


def pending(owner: psycopg.Connection) -> list[tuple[str, int, str | None]]:
    return owner.execute(
        "select status, attempts, last_error from stepquota.stripe_events where status <> 'ignored'"
        " order by id"
    ).fetchall()


@pytest.fixture
def changed(fake: StripeFake, api: StripeApi, mirror: Mirror) -> StripeFake:
    """A mirror that is up to date but for one change of a price, whose event is stored."""
    subscribe(fake, "acme", "500")
    full_sync(mirror, api)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    fake.update_price("price_acme", metadata={"workflow_step_limit": "900"})
    catch_up(mirror, api)
    return fake


def test_429_is_waited_out(
    changed: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    changed.faults.fail("/v1/prices/.*", 429, retry_after=1)
    assert work_off(mirror, api).events == 1
    assert limit_of(owner, "acme") == 900


@pytest.mark.parametrize("status", [429, 500, 0])
def test_a_stripe_that_cannot_answer_costs_no_attempt(
    changed: StripeFake,
    settings: ApiSettings,
    mirror: Mirror,
    owner: psycopg.Connection,
    status: int,
) -> None:
    if status:
        changed.faults.fail("/v1/prices/.*", status, times=None)
    else:
        changed.faults.break_off("/v1/prices/.*", times=None)
    hurried = StripeApi(settings, patience=0, timeout=(1, 1))
    with pytest.raises(StripeUnavailable):
        work_off(mirror, hurried)
    ((state, attempts, error),) = pending(owner)[-1:]
    assert (state, attempts) == ("pending", 0)
    assert error
    changed.faults.clear()
    owner.execute("update stepquota.stripe_events set next_attempt_at = clock_timestamp()")
    assert work_off(mirror, hurried).events == 1
    hurried.close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_without_rights_costs_no_attempt_and_deletes_nothing(
    changed: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection, status: int
) -> None:
    before = mirror_rows(owner)
    changed.faults.fail("/v1/prices.*", status, times=None)
    with pytest.raises(StripeRefused, match=str(status)):
        work_off(mirror, api)
    with pytest.raises(StripeRefused):
        full_sync(mirror, api, from_start=True)
    assert pending(owner)[-1][:2] == ("pending", 0)
    assert mirror_rows(owner) == before


def test_what_is_gone_between_event_and_question_is_deleted(
    changed: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    changed.faults.fail("/v1/prices/.*", 404)
    done = work_off(mirror, api)
    assert (done.events, done.failed) == (1, 0)
    assert mirror_rows(owner)["prices"] == {}
    # A late update of it does not bring it back; its limit is the tier's, and that is reported.
    changed.update_price("price_acme", metadata={"workflow_step_limit": "901"})
    catch_up(mirror, api)
    work_off_all(mirror, api)
    assert mirror_rows(owner)["prices"] == {}
    assert limit_of(owner, "acme") == 150
    problems = owner.execute("select problem, object_id from stepquota.check_stripe()").fetchall()
    assert ("price is missing", "price_acme") in problems


def test_an_answer_that_cannot_be_read_is_tried_eight_times(
    changed: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    changed.update_subscription("sub_acme", status="")
    catch_up(mirror, api)
    for _ in range(8):
        work_off(mirror, api)
        owner.execute("update stepquota.stripe_events set next_attempt_at = clock_timestamp()")
    dead = [row for row in pending(owner) if row[0] == "dead"]
    assert len(dead) == 1
    assert dead[0][1] == 8
    assert "status must be" in (dead[0][2] or "")
    # What was stored stays in force.
    assert limit_of(owner, "acme") == 900
    assert mirror_rows(owner)["subscriptions"]["sub_acme"][1] == "active"
    changed.update_subscription("sub_acme", status="active")
    assert owner.execute("select stepquota.requeue_stripe_events()").fetchone() == (1,)
    catch_up(mirror, api)
    work_off_all(mirror, api)
    assert not [row for row in pending(owner) if row[0] != "done"]


def test_catching_up_overlaps_and_survives_being_stopped(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    full_sync(mirror, api)
    for number in range(150):  # all in few seconds, on two pages
        fake.update_price("price_acme", metadata={"workflow_step_limit": str(number + 1)})
    catch_up(mirror, api, should_stop=lambda: True)
    mark = "select value from stepquota.stripe_sync_state where name in ('catch_up')"
    assert owner.execute(mark).fetchone() is None
    assert catch_up(mirror, api).new >= 50
    assert owner.execute(mark).fetchone() is not None
    # An event of a second that was read already is found all the same.
    fake.update_price("price_acme", metadata={"workflow_step_limit": "1000"})
    assert catch_up(mirror, api).new == 1
    work_off_all(mirror, api)
    assert limit_of(owner, "acme") == 1000


def test_with_an_old_mark_events_are_not_enough(
    fake: StripeFake, api: StripeApi, mirror: Mirror, owner: psycopg.Connection
) -> None:
    full_sync(mirror, api)
    assert not catch_up(mirror, api).needs_full_sync
    owner.execute(
        "update stepquota.stripe_sync_state set value = jsonb_build_object("
        "'created', clock_timestamp() - interval '31 days') where name = 'events_cursor'"
    )
    assert catch_up(mirror, api).needs_full_sync
