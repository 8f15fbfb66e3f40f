"""Random histories of an account of Stripe, and of a sync to which everything happens."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import stripe
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from harness.databases import Database
from histories.steps import Step, next_steps, step
from stepquota.demo.stripe_fake import CURRENT_VERSION, Courier, Held, Mishaps, StripeFake
from stepquota.errors import StripeSyncRunning
from stepquota.problems import Problem
from stepquota.stripe_sync.api import StripeApi, StripeUnavailable
from stepquota.stripe_sync.catch_up import catch_up, read_event
from stepquota.stripe_sync.full_sync import full_sync
from stepquota.stripe_sync.mirror import Mirror, Source
from stepquota.stripe_sync.settings import ApiSettings
from stepquota.stripe_sync.work import open_mirror, work_off, work_off_all

from .fragile import Killed, connect_fragile
from .mirrored import find_differences, read_mirror

TENANTS = ("acme", "globex", "initech")
SECRET = "whsec_histories"
LISTS = "/v1/(products|prices|customers|subscriptions)"

# The library itself tries three times.
OFTEN_ENOUGH = 3

# A lease that is over, or a wait: as if time had passed.
END_OF_EVENT_LEASES = """
update stepquota.stripe_events set next_attempt_at = '-infinity' where status = 'pending'
"""
END_OF_SYNC_LEASE = """
update stepquota.stripe_sync_state set value = value - 'leased_until'
 where name = 'full_sync_running'
"""
STORED_QUOTAS = """
select tenant, period_start, period_end, step_limit, period_source, limit_source,
       stripe_subscription_id
  from stepquota.workflow_step_quotas
 order by tenant
"""

which = st.integers(0, 9)
seeds = st.integers(0, 2**16)
limits = st.sampled_from(["5", "50", "unlimited", "1,000", None])
tenants = st.sampled_from([*TENANTS, None])
kinds = st.sampled_from(["price", "price", "item", "item", "customer", "unused price"])
often = st.sampled_from([0.0, 0.0, 0.3])
# Statements until the process is killed; None: it is not.
lives = st.one_of(st.none(), st.none(), st.integers(0, 12))
troubles = st.lists(
    st.sampled_from([(429, 1), (500, 1), (500, OFTEN_ENOUGH), ("broken", OFTEN_ENOUGH)]), max_size=2
)


@dataclass(slots=True)
class Bench:
    """What all histories of a test share."""

    database: Database
    connection: psycopg.Connection[Any]
    fake: StripeFake
    settings: ApiSettings

    def open_api(self) -> StripeApi:
        """A client that waits for nothing."""
        return StripeApi(self.settings, patience=0)


@dataclass(slots=True)
class Delayed:
    """A process that waits for an answer, which was made when it asked."""

    held: Held
    thread: threading.Thread


class Account(RuleBasedStateMachine):
    """What the owner of an account does, and what happens to the sync of it.

    At the end, and now and then before, the mirror must say what the fake says.
    """

    def __init__(self, bench: Bench):
        super().__init__()
        self.bench = bench
        self.fake = bench.fake
        self.delayed: dict[str, Delayed] = {}
        self.errors: list[BaseException] = []
        # Something happened of which there is no event, or no longer.
        self.is_silent = False
        # No list has what is on a test clock, so without an event nobody hears of it.
        self.hidden: set[str] = set()
        bench.connection.execute("call histories.clear()")
        bench.fake.clear()
        self.api = bench.open_api()
        self.mirror = Mirror(bench.connection)
        open_mirror(self.mirror, self.api)

    @initialize(
        is_thin=st.booleans(),
        version=st.sampled_from([CURRENT_VERSION, "2020-08-27"]),
        seed=seeds,
        may_be_silent=st.booleans(),
    )
    def begin(self, is_thin: bool, version: str, seed: int, may_be_silent: bool) -> None:
        self.may_be_silent = may_be_silent
        self.fake.event_version = version
        self.fake.add_endpoint("http://sync", SECRET, api_version=version, is_thin=is_thin)
        self.courier = Courier(self.fake, seed=seed, post=self.receive)
        for number, tenant in enumerate(TENANTS):
            self.bench.connection.execute(
                "select * from stepquota.refresh_workflow_step_quota(%s)", [tenant]
            )
            self.create_customer(tenant, on_clock=False)
            self.create_price("5", "month")
            self.subscribe(number, [number], days_ago=3, trial=False)

    @rule(data=st.data())
    def do(self, data: st.DataObject) -> None:
        drawn: Step = data.draw(next_steps(self))
        name, arguments = drawn
        note(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
        getattr(self, name)(**arguments)

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for delayed in self.delayed.values():
                delayed.held.release()
                delayed.thread.join()
            self.api.close()

    # The account --------------------------------------------------------------------------------

    def pick(self, shelf: Any, number: int) -> str:
        """One of the objects, of a few the same again and again."""
        ids = sorted(record.id for record in shelf)
        chosen: str = ids[number % len(ids)]
        return chosen

    def has_live_subscriptions(self) -> bool:
        return any(s.status != "canceled" for s in self.fake.subscriptions)

    def pick_live(self, number: int) -> str:
        return self.pick([s for s in self.fake.subscriptions if s.status != "canceled"], number)

    @step(tenant=tenants, on_clock=st.booleans())
    def create_customer(self, tenant: str | None, on_clock: bool) -> None:
        self.fake.create_customer(
            metadata={"tenant": tenant} if tenant else {}, test_clock="clock" if on_clock else None
        )

    @step(limit=limits, interval=st.sampled_from(["month", "month", "year", None]))
    def create_price(self, limit: str | None, interval: str | None) -> None:
        metadata = {"workflow_step_limit": limit} if limit else {}
        product = self.fake.create_product(metadata=metadata)
        self.fake.create_price(product.id, interval=interval)

    @step(often=2, price=which, limit=limits)
    def change_price(self, price: int, limit: str | None) -> None:
        if self.fake.prices:
            self.fake.update_price(
                self.pick(self.fake.prices, price), metadata={"workflow_step_limit": limit}
            )

    @step(product=which, limit=limits, active=st.booleans())
    def change_product(self, product: int, limit: str | None, active: bool) -> None:
        if self.fake.products:
            self.fake.update_product(
                self.pick(self.fake.products, product),
                metadata={"workflow_step_limit": limit},
                active=active,
            )

    @step(price=which)
    def delete_price(self, price: int) -> None:
        unused = {p.id for p in self.fake.prices} - {i.price for i in self.fake.items.values()}
        if unused:
            id = sorted(unused)[price % len(unused)]  # noqa: A001 - as Stripe calls it
            record = self.fake.find_price(id)
            self.fake.delete_price(id)
            self.fake.delete_product(record.product)

    @step(customer=which, tenant=tenants)
    def change_customer(self, customer: int, tenant: str | None) -> None:
        if self.fake.customers:
            self.fake.update_customer(
                self.pick(self.fake.customers, customer), metadata={"tenant": tenant}
            )

    @step(customer=which)
    def delete_customer(self, customer: int) -> None:
        if self.fake.customers:
            self.fake.delete_customer(self.pick(self.fake.customers, customer))

    @step(
        often=2,
        customer=which,
        prices=st.lists(which, min_size=1, max_size=3),
        days_ago=st.sampled_from([0, 3, 40]),
        trial=st.booleans(),
    )
    def subscribe(self, customer: int, prices: list[int], days_ago: int, trial: bool) -> None:
        recurring = [p for p in self.fake.prices if p.interval]
        if recurring and self.fake.customers:
            self.fake.create_subscription(
                self.pick(self.fake.customers, customer),
                [self.pick(recurring, number) for number in prices],
                start=self.fake.now() - days_ago * 86_400,
                trial_days=50 if trial else 0,
            )

    @step(often=2, when=has_live_subscriptions, number=which, change=st.integers(0, 7), price=which)
    def change_subscription(self, number: int, change: int, price: int) -> None:
        fake, id = self.fake, self.pick_live(number)  # noqa: A001
        record = fake.subscriptions.get(id)
        assert record is not None
        recurring = [p for p in fake.prices if p.interval]
        if change == 0:
            fake.renew(id)
        elif change == 1:
            fake.add_item(id, self.pick(recurring, price), quantity=2)
        elif change == 2:
            fake.change_item(
                record.items[price % len(record.items)].id, price=self.pick(recurring, price)
            )
        elif change == 3 and len(record.items) > 1:
            fake.remove_item(record.items[price % len(record.items)].id)
        elif change == 4:
            status = ["active", "past_due", "unpaid", "incomplete", "paused"][price % 5]
            fake.update_subscription(id, status=status)
        elif change == 5:
            pause = {"behavior": "void", "resumes_at": None} if price % 2 else None
            fake.update_subscription(id, pause_collection=pause)
        elif change == 6:
            fake.update_subscription(id, metadata={"tenant": [*TENANTS, None][price % 4]})
        else:
            fake.cancel(id, at_period_end=price % 2 == 0)

    @step(often=2, first=which, second=which)
    def change_back_and_forth(self, first: int, second: int) -> None:
        """Several changes of one object in one second, the last one back to what it was."""
        if self.fake.prices:
            id = self.pick(self.fake.prices, first)  # noqa: A001
            before = self.fake.find_price(id).metadata.get("workflow_step_limit")
            self.fake.update_price(id, metadata={"workflow_step_limit": str(second + 60)})
            self.fake.update_price(id, metadata={"workflow_step_limit": before})

    @step(when=lambda self: self.may_be_silent, number=which, limit=limits)
    def change_without_event(self, number: int, limit: str | None) -> None:
        self.is_silent = True
        with self.fake.losing_events():
            self.change_price(number, limit)
            if self.has_live_subscriptions():
                self.fake.renew(self.pick_live(number))

    @step(when=lambda self: self.may_be_silent, number=which)
    def vanish(self, number: int) -> None:
        if self.fake.subscriptions:
            self.is_silent = True
            self.fake.vanish(self.pick(self.fake.subscriptions, number))

    # The sync -----------------------------------------------------------------------------------

    def receive(self, _url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """The endpoint, without HTTP."""
        stripe.WebhookSignature.verify_header(
            body.decode(), headers["Stripe-Signature"], SECRET, 300
        )
        event = json.loads(body)
        source: Source = "webhook" if event["object"] == "event" else "thin"
        self.mirror.record([read_event(event)], source)
        return 200

    @step(often=3, drop=often, duplicate=often, delay=often, shuffle=st.booleans())
    def deliver(self, drop: float, duplicate: float, delay: float, shuffle: bool) -> None:
        self.courier.mishaps = Mishaps(drop, duplicate, delay, shuffle)
        self.courier.deliver()

    @step()
    def lose_webhooks(self) -> None:
        self.courier.lose()

    @step(when=lambda self: self.may_be_silent)
    def forget_events(self) -> None:
        self.is_silent = True
        self.fake.forget_events()
        self.hidden |= self.find_unlisted()

    @step(often=4, life=lives, troubles=troubles, most=st.sampled_from([1, 3, 20]))
    def work(self, life: int | None, troubles: list[Any], most: int) -> None:
        with self.in_trouble("/v1/.*", troubles):
            self.run(life, lambda mirror, api: work_off(mirror, api, most))

    @step(often=2, life=lives, troubles=troubles)
    def catch_up(self, life: int | None, troubles: list[Any]) -> None:
        with self.in_trouble("/v1/events", troubles):
            self.run(life, catch_up)

    @step(often=2, life=lives, troubles=troubles, pages=st.sampled_from([1, 3, 99]))
    def sync(self, life: int | None, troubles: list[Any], pages: int) -> None:
        left = iter(range(pages))

        def should_stop() -> bool:
            return next(left, None) is None

        def full(mirror: Mirror, api: StripeApi) -> None:
            full_sync(mirror, api, should_stop=should_stop)

        with self.in_trouble("/v1/.*", troubles):
            self.run(life and life * 3, full)

    @step(often=2)
    def time_passes(self) -> None:
        self.bench.connection.execute(END_OF_EVENT_LEASES.encode())
        self.bench.connection.execute(END_OF_SYNC_LEASE.encode())

    @step(when=lambda self: "work" not in self.delayed, most=st.sampled_from([1, 3, 20]))
    def begin_delayed_work(self, most: int) -> None:
        """A worker asks, and its answer takes long: others may be faster, and ask later."""
        self.begin_delayed("work", "/v1/.*", lambda mirror, api: work_off(mirror, api, most))

    @step(when=lambda self: "sync" not in self.delayed, pages=st.integers(0, 3))
    def begin_delayed_sync(self, pages: int) -> None:
        path = ["/v1/products", "/v1/prices", "/v1/customers", "/v1/subscriptions"][pages]
        self.begin_delayed("sync", path, full_sync)

    @step(when=lambda self: bool(self.delayed))
    def end_delayed(self) -> None:
        for name in list(self.delayed):
            delayed = self.delayed.pop(name)
            delayed.held.release()
            delayed.thread.join()
        if self.errors:
            raise self.errors.pop()

    @step(
        often=5,
        kind=kinds,
        slow=st.sampled_from(["work", "work", "sync"]),
        fast=st.sampled_from(["work", "sync", "sync", "catch up"]),
        is_undone=st.sampled_from([True, True, False]),
        number=which,
    )
    def overtake(self, kind: str, slow: str, fast: str, is_undone: bool, number: int) -> None:
        """An answer is made between two changes, and comes after the answer to a later question."""
        self.end_delayed()
        self.time_passes()
        work_off_all(self.mirror, self.api)
        changed = self.change_once(kind, is_undone, number)
        if changed is None:
            return
        ids, last_change = changed
        self.courier.mishaps = Mishaps()
        self.courier.deliver()
        if slow == "work":
            self.begin_delayed_work(20)
        else:
            self.begin_delayed_sync({"price": 1, "unused price": 1, "customer": 2, "item": 3}[kind])
        last_change()
        if fast == "sync":
            # The listing alone, not the answer to an event, is what the late answer must not pass.
            if not ids & self.find_known() or ids & self.find_unlisted():
                ids = set()
            self.bench.connection.execute(END_OF_SYNC_LEASE.encode())
            self.sync(None, [], 99)
        else:
            self.time_passes()
            if fast == "work":
                self.courier.deliver()
            else:
                catch_up(self.mirror, self.api)
            work_off_all(self.mirror, self.api)
        self.end_delayed()
        # At once: a full sync later on would put it right.
        self.compare(ids)

    @step(
        often=5,
        kind=kinds,
        feeder=st.sampled_from(["work", "work", "catch up", "sync"]),
        statements=st.integers(0, 12),
        number=which,
    )
    def be_killed(self, kind: str, feeder: str, statements: int, number: int) -> None:
        """A process that brings a change is killed, and another one goes on."""
        self.end_delayed()
        self.time_passes()
        work_off_all(self.mirror, self.api)
        changed = self.change_once(kind, False, number)
        if changed is None:
            return
        ids, last_change = changed
        last_change()
        if feeder == "work":
            self.courier.mishaps = Mishaps()
            self.courier.deliver()
            self.run(statements, work_off)
        elif feeder == "catch up":
            self.run(statements // 3, catch_up)
            self.run(None, catch_up)
        else:
            if not ids & self.find_known() or ids & self.find_unlisted():
                ids = set()
            self.run(statements * 2, full_sync)
            self.time_passes()
            self.run(None, lambda mirror, api: full_sync(mirror, api, from_start=number > 5))
        self.time_passes()
        work_off_all(self.mirror, self.api)
        self.compare(ids)

    def find_known(self) -> set[str]:
        """Ids of all that the mirror has."""
        mirror = read_mirror(self.bench.connection)
        return {id for rows in mirror.values() for id in rows}  # noqa: A001 - as Stripe calls it

    def find_unlisted(self) -> set[str]:
        """Ids of all that is on a test clock: no list has them."""
        on_clock = [s for s in self.fake.subscriptions if s.test_clock]
        return {c.id for c in self.fake.customers if c.test_clock} | {
            id
            for s in on_clock
            for id in (s.id, *(item.id for item in s.items))  # noqa: A001
        }

    def change_once(
        self, kind: str, is_undone: bool, number: int
    ) -> tuple[set[str], Callable[[], object]] | None:
        """Change an object; answers what changed, and how to go on: back, further, to its end."""
        fake = self.fake
        if kind == "price" and fake.prices:
            price = fake.find_price(self.pick(fake.prices, number))
            before = price.metadata.get("workflow_step_limit") if is_undone else "71"
            fake.update_price(price.id, metadata={"workflow_step_limit": str(number + 80)})
            return {price.id}, lambda: fake.update_price(
                price.id, metadata={"workflow_step_limit": before}
            )
        if kind == "item" and self.has_live_subscriptions():
            id = self.pick_live(number)  # noqa: A001 - as Stripe calls it
            record = fake.subscriptions.get(id)
            assert record is not None
            item = fake.add_item(id, record.items[0].price)
            if is_undone:
                return {id, item.id}, lambda: fake.remove_item(item.id)
            return {id, item.id}, lambda: fake.change_item(item.id, quantity=number + 2)
        if kind == "customer" and fake.customers:
            customer = self.pick(fake.customers, number)
            fake.update_customer(customer, name=f"name {number}", metadata={"number": str(number)})
            if is_undone:
                return {customer}, lambda: fake.delete_customer(customer)
            return {customer}, lambda: fake.update_customer(customer, metadata={"number": "later"})
        if kind == "unused price":
            price = fake.create_price(fake.create_product().id)
            return {price.id}, lambda: fake.delete_price(price.id)
        return None

    @step()
    def settle(self) -> None:
        """Nothing goes wrong any more, everything is worked off: the mirror says what is so."""
        self.end_delayed()
        self.courier.lose()
        self.time_passes()
        catch_up(self.mirror, self.api)
        if self.is_silent:
            assert full_sync(self.mirror, self.api, from_start=True).is_complete
            self.is_silent = False
        work_off_all(self.mirror, self.api)
        left = self.bench.connection.execute(
            "select id, status, last_error from stepquota.stripe_events"
            " where status not in ('done', 'ignored')"
        ).fetchall()
        assert not left, left
        self.compare()
        self.compare_quotas()

    def compare(self, ids: Set[str] | None = None) -> None:
        """The mirror says what is so, of these objects or of all."""
        wrong = find_differences(self.bench.connection, self.fake, self.hidden, ids)
        assert not wrong, wrong

    def compare_quotas(self) -> None:
        """What is stored of a quota is what the mirror gives, and nobody need have asked."""
        connection = self.bench.connection
        before = connection.execute(STORED_QUOTAS).fetchall()
        for tenant in TENANTS:
            connection.execute("select * from stepquota.refresh_workflow_step_quota(%s)", [tenant])
        assert connection.execute(STORED_QUOTAS).fetchall() == before

    # How it is carried out ----------------------------------------------------------------------

    @contextmanager
    def in_trouble(self, path: str, troubles: list[Any]) -> Iterator[None]:
        for what, times in troubles:
            if what == "broken":
                self.fake.faults.break_off(path, times=times)
            else:
                self.fake.faults.fail(path, what, times=times, retry_after=1)
        yield
        self.fake.faults.clear()

    def run(self, life: int | None, work: Callable[[Mirror, StripeApi], object]) -> None:
        """Let a process work until it is killed or has nothing left to do."""
        try:
            if life is None:
                work(self.mirror, self.api)
                return
            connection = connect_fragile(self.bench.database, life)
            pid = connection.info.backend_pid
            try:
                work(Mirror(connection), self.api)
            finally:
                connection.statements_left = None
                connection.close()
                self.wait_until_gone(pid)
        except (Killed, StripeUnavailable):
            pass
        except (Problem, StripeSyncRunning) as problem:
            # Another full sync has the lease.
            if "another full sync" not in str(problem):
                raise

    def wait_until_gone(self, pid: int) -> None:
        """Wait until a backend has rolled back and let go of its locks."""
        gone = "select not exists (select from pg_stat_activity where pid = %s)"
        while self.bench.connection.execute(gone, [pid]).fetchone() != (True,):
            pass

    def begin_delayed(
        self, name: str, path: str, work: Callable[[Mirror, StripeApi], object]
    ) -> None:
        held = self.fake.faults.hold(path)

        def process() -> None:
            api = self.bench.open_api()
            try:
                with self.bench.database.connect(autocommit=True) as connection:
                    work(Mirror(connection), api)
            except (Problem, StripeSyncRunning):
                pass
            except BaseException as error:
                self.errors.append(error)
            finally:
                api.close()

        thread = threading.Thread(target=process)
        thread.start()
        while thread.is_alive() and not held.made.wait(0.005):
            pass
        self.delayed[name] = Delayed(held, thread)
        # It may have had nothing to ask.
        self.fake.faults.clear()
