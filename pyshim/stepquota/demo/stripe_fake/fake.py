"""One Stripe account in one mode: its objects, what happens to them, and the events of that."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from .calendar import period_at
from .faults import Faults
from .records import (
    Customer,
    Event,
    Item,
    Metadata,
    Price,
    Product,
    Shelf,
    Subscription,
)
from .refusals import Refusal
from .shapes import CURRENT_VERSION, Shaper, StripeObject

# Stripe forgets older ones.
_EVENTS_ARE_KEPT = timedelta(days=30)
_OVER = ("canceled", "incomplete_expired")

Object = Product | Price | Customer | Subscription


@dataclass(slots=True, eq=False)
class Endpoint:
    """Where webhooks are sent to.

    Attributes:
        url: The address.
        secret: What they are signed with.
        api_version: The version that snapshots are rendered at; fixed when the endpoint is made.
        is_thin: Whether it gets thin events instead of snapshots.
        waiting: Events that it has not been sent yet, the oldest first.
    """

    url: str
    secret: str
    api_version: str
    is_thin: bool = False
    waiting: list[Event] = field(default_factory=list)


class StripeFake:
    """An account of Stripe that lives in memory.

    Its methods change objects, and every change makes the events that Stripe makes of it. The API
    (``serve``) shows them, and endpoints are sent their events by a ``Courier``. All of it may be
    used by several threads at once.

    Args:
        api_key: The secret key; requests with another one belong to another account, or nobody.
        account: The account's id.
        livemode: Whether this is the account's live mode.
        event_version: The account's default API version: that of events in ``/v1/events``.
        clock: Seconds since 1970; stamps are cut to whole seconds, as Stripe's are.

    Attributes:
        faults: What goes wrong with requests.
        lock: Held while anything is changed and while an answer is made.
        requests: How often each path was asked for, refusals too.
    """

    def __init__(
        self,
        api_key: str = "sk_test_fake",
        *,
        account: str = "acct_fake",
        livemode: bool = False,
        event_version: str = CURRENT_VERSION,
        clock: Callable[[], float] = time.time,
    ):
        self.api_key = api_key
        self.account = account
        self.livemode = livemode
        self.event_version = event_version
        self.faults = Faults()
        self.lock = threading.RLock()
        self._clock = clock
        self.clear()

    def clear(self) -> None:
        """Begin again with an empty account."""
        with self.lock:
            self.faults.clear()
            self.requests: defaultdict[str, int] = defaultdict(int)
            self.products: Shelf[Product] = Shelf()
            self.prices: Shelf[Price] = Shelf()
            self.customers: Shelf[Customer] = Shelf()
            self.subscriptions: Shelf[Subscription] = Shelf()
            self.items: dict[str, Item] = {}
            self.deleted_customers: set[str] = set()
            self.endpoints: list[Endpoint] = []
            self._events: Shelf[Event] = Shelf()
            self._subscriptions_of: defaultdict[str, list[str]] = defaultdict(list)
            self._ahead = 0.0
            self._order = 0
            self._events_are_lost = False

    # Time, events, endpoints

    def now(self) -> int:
        """This second."""
        return int(self._clock() + self._ahead)

    def advance(self, **duration: float) -> None:
        """Let time pass: ``advance(days=31)``. Nothing is renewed by itself."""
        self._ahead += timedelta(**duration).total_seconds()

    def forget_events(self) -> None:
        """Forget all events at once, as if they were too old by now."""
        with self.lock:
            self._events = Shelf()

    @property
    def oldest_event(self) -> int:
        """Events made before this second are forgotten."""
        return self.now() - int(_EVENTS_ARE_KEPT.total_seconds())

    def list_events(self, wanted: Callable[[Event], bool], after: Event | None) -> Iterator[Event]:
        """Events that are still kept, the newest first."""
        oldest = self.oldest_event
        for event in self._events.older_than(after):
            if event.created < oldest:
                return
            if wanted(event):
                yield event

    def list_newer_events(self, wanted: Callable[[Event], bool], before: Event) -> Iterator[Event]:
        """Events made after one, the nearest first."""
        return self._events.newer_than(before, wanted)

    def find_event(self, id: str) -> Event | None:
        """An event, if it is still kept."""
        event = self._events.get(id)
        return event if event and event.created >= self.oldest_event else None

    def add_endpoint(
        self, url: str, secret: str, *, api_version: str | None = None, is_thin: bool = False
    ) -> Endpoint:
        """Have the events from now on sent to an address; see ``Courier``."""
        endpoint = Endpoint(url, secret, api_version or self.event_version, is_thin)
        with self.lock:
            self.endpoints.append(endpoint)
        return endpoint

    @contextmanager
    def losing_events(self) -> Iterator[None]:
        """Within it no change makes an event: Stripe says that this can happen.

        It is also the way to make very many objects fast.
        """
        before, self._events_are_lost = self._events_are_lost, True
        try:
            yield
        finally:
            self._events_are_lost = before

    def emit(
        self,
        type: str,
        object_type: str,
        object_id: str,
        *,
        account: str | None = None,
        is_thin_only: bool = False,
    ) -> Event:
        """Make an event that no change makes: of another type, or of a connected account."""
        bare = {"object": {"id": object_id, "object": object_type, "livemode": self.livemode}}
        with self.lock:
            event = self._new_event(
                type, object_type, object_id, dict.fromkeys(self._versions(), bare)
            )
            event.account, event.is_thin_only = account, is_thin_only
            self._publish(event)
        return event

    # Products and prices

    def create_product(
        self,
        *,
        id: str | None = None,
        metadata: Metadata | None = None,
        name: str = "Workflows",
        active: bool = True,
    ) -> Product:
        """Make a product."""
        with self.lock:
            now = self.now()
            product = Product(
                id=id or self._new_id("prod"),
                created=now,
                order=self._next_order(),
                metadata=dict(metadata or {}),
                name=name,
                active=active,
                updated=now,
            )
            self.products.add(product)
            self._tell("product.created", product)
        return product

    def update_product(
        self,
        id: str,
        *,
        metadata: dict[str, str | None] | None = None,
        name: str | None = None,
        active: bool | None = None,
    ) -> Product:
        """Change a product. Metadata is merged; None and '' remove a key."""
        product = self._product(id)
        with self._changing(product):
            _merge(product.metadata, metadata)
            product.name = product.name if name is None else name
            product.active = product.active if active is None else active
            product.updated = self.now()
        return product

    def delete_product(self, id: str) -> None:
        """Delete a product that has no prices.

        Raises:
            Refusal: It has prices.
        """
        with self.lock:
            product = self._product(id)
            if any(price.product == id for price in self.prices):
                raise Refusal(
                    400,
                    "This product cannot be deleted because it has one or more user-created "
                    "prices.",
                )
            self._tell("product.deleted", product)
            self.products.remove(id)

    def create_price(
        self,
        product: str,
        *,
        id: str | None = None,
        metadata: Metadata | None = None,
        interval: str | None = "month",
        interval_count: int = 1,
        unit_amount: int = 4900,
    ) -> Price:
        """Make a price; without an interval, one that is paid once."""
        with self.lock:
            self._product(product)
            price = Price(
                id=id or self._new_id("price"),
                created=self.now(),
                order=self._next_order(),
                metadata=dict(metadata or {}),
                product=product,
                interval=interval,
                interval_count=interval_count,
                unit_amount=unit_amount,
            )
            self.prices.add(price)
            self._tell("price.created", price)
        return price

    def update_price(
        self,
        id: str,
        *,
        metadata: dict[str, str | None] | None = None,
        nickname: str | None = None,
        active: bool | None = None,
    ) -> Price:
        """Change a price. Metadata is merged; None and '' remove a key."""
        price = self.find_price(id)
        with self._changing(price):
            _merge(price.metadata, metadata)
            price.nickname = price.nickname if nickname is None else nickname
            price.active = price.active if active is None else active
        return price

    def delete_price(self, id: str) -> None:
        """Delete a price that no subscription has, as Stripe's dashboard can.

        Raises:
            Refusal: A subscription has it.
        """
        with self.lock:
            price = self.find_price(id)
            if any(item.price == id for item in self.items.values()):
                raise Refusal(400, "This price cannot be deleted because it has been used.")
            self._tell("price.deleted", price)
            self.prices.remove(id)

    # Customers

    def create_customer(
        self,
        *,
        id: str | None = None,
        metadata: Metadata | None = None,
        name: str | None = None,
        email: str | None = None,
        test_clock: str | None = None,
    ) -> Customer:
        """Make a customer; on a test clock, it and its subscriptions are in no list."""
        with self.lock:
            customer = Customer(
                id=id or self._new_id("cus"),
                created=self.now(),
                order=self._next_order(),
                metadata=dict(metadata or {}),
                name=name,
                email=email,
                test_clock=test_clock,
            )
            self.customers.add(customer)
            self._tell("customer.created", customer)
        return customer

    def update_customer(
        self,
        id: str,
        *,
        metadata: dict[str, str | None] | None = None,
        name: str | None = None,
        email: str | None = None,
    ) -> Customer:
        """Change a customer. Metadata is merged; None and '' remove a key."""
        customer = self._customer(id)
        with self._changing(customer):
            _merge(customer.metadata, metadata)
            customer.name = customer.name if name is None else name
            customer.email = customer.email if email is None else email
        return customer

    def delete_customer(self, id: str) -> None:
        """Delete a customer: its subscriptions are canceled first, and stay."""
        with self.lock:
            customer = self._customer(id)
            for subscription_id in self._subscriptions_of[id]:
                if self._subscription(subscription_id).status not in _OVER:
                    self.cancel(subscription_id)
            self._tell("customer.deleted", customer)
            self.customers.remove(id)
            self.deleted_customers.add(id)

    # Subscriptions

    def create_subscription(
        self,
        customer: str,
        prices: Iterable[str],
        *,
        id: str | None = None,
        status: str = "active",
        start: int | None = None,
        anchor: int | None = None,
        trial_days: int = 0,
        metadata: Metadata | None = None,
    ) -> Subscription:
        """Make a subscription with an item for each price.

        Args:
            customer: The customer's id.
            prices: The prices' ids.
            id: Its own id; by default a new one.
            status: Its status, unless it has a trial.
            start: When it began, in seconds since 1970; by default now.
            anchor: What its periods are counted from; by default its start.
            trial_days: How long its trial is; periods are then counted from the trial's end.
            metadata: Its metadata.
        """
        with self.lock:
            now = self.now()
            start = now if start is None else start
            trial_end = start + trial_days * 86_400 if trial_days else None
            subscription = Subscription(
                id=id or self._new_id("sub"),
                created=start,
                order=self._next_order(),
                metadata=dict(metadata or {}),
                customer=customer,
                status="trialing" if trial_end else status,
                anchor=trial_end or (start if anchor is None else anchor),
                test_clock=self._customer(customer).test_clock,
                trial_start=start if trial_end else None,
                trial_end=trial_end,
            )
            for price in prices:
                self._put_item(subscription, price, start, 1)
            if not subscription.items:
                raise ValueError("a subscription has at least one item")
            self.subscriptions.add(subscription)
            self._subscriptions_of[customer].append(subscription.id)
            self._tell("customer.subscription.created", subscription)
        return subscription

    def update_subscription(
        self,
        id: str,
        *,
        metadata: dict[str, str | None] | None = None,
        **changes: Any,
    ) -> Subscription:
        """Change fields of a subscription.

        Args:
            id: Its id.
            metadata: Merged; None and '' remove a key.
            changes: ``status``, ``cancel_at``, ``cancel_at_period_end``, ``pause_collection``,
                ``anchor``: as in the record.
        """
        subscription = self._subscription(id)
        with self._changing(subscription):
            _merge(subscription.metadata, metadata)
            for name, value in changes.items():
                setattr(subscription, name, value)
        return subscription

    def add_item(self, subscription: str, price: str, *, quantity: int = 1) -> Item:
        """Add an item to a subscription."""
        parent = self._subscription(subscription)
        with self._changing(parent):
            return self._put_item(parent, price, self.now(), quantity)

    def change_item(
        self,
        id: str,
        *,
        price: str | None = None,
        quantity: int | None = None,
        metadata: dict[str, str | None] | None = None,
    ) -> Item:
        """Change an item. A price of another interval begins a new period, others keep it."""
        item = self.items[id]
        parent = self._subscription(item.subscription)
        with self._changing(parent):
            _merge(item.metadata, metadata)
            item.quantity = item.quantity if quantity is None else quantity
            if price is not None:
                old, new = self.find_price(item.price), self.find_price(price)
                item.price = price
                if _interval(old) != _interval(new) and parent.status != "trialing":
                    now = self.now()
                    if len(parent.items) == 1:
                        parent.anchor = now
                    item.start, item.end = period_at(parent.anchor, *_interval(new), now)
        return item

    def remove_item(self, id: str) -> None:
        """Remove an item; a subscription keeps at least one."""
        item = self.items[id]
        parent = self._subscription(item.subscription)
        if len(parent.items) == 1:
            raise Refusal(
                400,
                "A subscription must have at least one active plan.",
            )
        with self._changing(parent):
            parent.items.remove(item)
            del self.items[id]

    def renew(self, id: str) -> Subscription:
        """Begin the next period of a subscription: of the items whose period ends first.

        A trial ends with it.
        """
        subscription = self._subscription(id)
        with self._changing(subscription):
            ends = min(item.end for item in subscription.items)
            for item in subscription.items:
                if item.end == ends:
                    interval = _interval(self.find_price(item.price))
                    item.start, item.end = ends, period_at(subscription.anchor, *interval, ends)[1]
            if subscription.status == "trialing":
                subscription.status = "active"
        return subscription

    def cancel(self, id: str, *, at_period_end: bool = False) -> Subscription:
        """Cancel a subscription, now or when its period ends."""
        subscription = self._subscription(id)
        kind = "updated" if at_period_end else "deleted"
        with self._changing(subscription, f"customer.subscription.{kind}"):
            subscription.canceled_at = self.now()
            if at_period_end:
                subscription.cancel_at_period_end = True
                subscription.cancel_at = max(item.end for item in subscription.items)
            else:
                subscription.status = "canceled"
                subscription.ended_at = subscription.canceled_at
        return subscription

    def pause(self, id: str) -> Subscription:
        """Pause a subscription: status paused, no new periods."""
        return self._set_status(id, "paused", "customer.subscription.paused")

    def resume(self, id: str) -> Subscription:
        """End a pause."""
        return self._set_status(id, "active", "customer.subscription.resumed")

    # Other ends

    def vanish(self, id: str) -> None:
        """Remove an object without an event, as all of a test clock's when that is deleted.

        What refers to it must not be asked for any more, except customers of subscriptions.
        """
        with self.lock:
            if subscription := self.subscriptions.get(id):
                self.subscriptions.remove(id)
                self._subscriptions_of[subscription.customer].remove(id)
                for item in subscription.items:
                    del self.items[item.id]
            elif id in self.customers:
                for subscription_id in list(self._subscriptions_of[id]):
                    self.vanish(subscription_id)
                self.customers.remove(id)
            elif id in self.prices:
                self.prices.remove(id)
            else:
                self.products.remove(id)

    # Finding and showing

    def find_price(self, id: str) -> Price:
        """A price.

        Raises:
            KeyError: There is none.
        """
        price = self.prices.get(id)
        if price is None:
            raise KeyError(id)
        return price

    def shape(self, record: Object, version: str, expand: tuple[str, ...] = ()) -> StripeObject:
        """An object as the API answers it.

        Raises:
            Refusal: Something cannot be expanded.
        """
        return self.shaper(version, expand).shape(record)

    def shaper(self, version: str, expand: tuple[str, ...] = ()) -> Shaper:
        """What makes answers, for one answer."""

        def find(kind: str, id: str, inner: tuple[str, ...]) -> StripeObject | None:
            shelf = self.products if kind == "product" else self.customers
            record = shelf.get(id)
            if record is None:
                return {"id": id, "object": kind, "deleted": True}
            return self.shape(record, version, inner)

        return Shaper(version, self.livemode, self.find_price, expand, find)

    # Inside

    def _product(self, id: str) -> Product:
        product = self.products.get(id)
        if product is None:
            raise KeyError(id)
        return product

    def _customer(self, id: str) -> Customer:
        customer = self.customers.get(id)
        if customer is None:
            raise KeyError(id)
        return customer

    def _subscription(self, id: str) -> Subscription:
        subscription = self.subscriptions.get(id)
        if subscription is None:
            raise KeyError(id)
        return subscription

    def _set_status(self, id: str, status: str, kind: str) -> Subscription:
        subscription = self._subscription(id)
        with self._changing(subscription):
            subscription.status = status
        self._tell(kind, subscription)
        return subscription

    def _put_item(self, parent: Subscription, price: str, now: int, quantity: int) -> Item:
        if parent.status == "trialing" and parent.trial_end:
            period = (now, parent.trial_end)
        else:
            period = period_at(parent.anchor, *_interval(self.find_price(price)), now)
        item = Item(
            id=self._new_id("si"),
            created=now,
            order=self._next_order(),
            subscription=parent.id,
            price=price,
            start=period[0],
            end=period[1],
            quantity=quantity,
        )
        parent.items.append(item)
        self.items[item.id] = item
        return item

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._next_order():014}"

    def _versions(self) -> set[str]:
        return {self.event_version, *(endpoint.api_version for endpoint in self.endpoints)}

    def _shapes(self, record: Object) -> dict[str, StripeObject]:
        return {version: self.shape(record, version) for version in self._versions()}

    @contextmanager
    def _changing(self, record: Object, kind: str | None = None) -> Iterator[None]:
        """Within it a record is changed; if it looks different then, an event is made."""
        with self.lock:
            before = {} if self._events_are_lost else self._shapes(record)
            yield
            self._tell(kind or f"{_PREFIX[record.TYPE]}.updated", record, before)

    def _tell(
        self, kind: str, record: Object, before: dict[str, StripeObject] | None = None
    ) -> None:
        if self._events_are_lost:
            return
        with self.lock:
            after = self._shapes(record)
            if before == after:
                return
            data: dict[str, StripeObject] = {}
            for version, shape in after.items():
                data[version] = {"object": shape}
                if before is not None and kind.endswith(".updated"):
                    data[version]["previous_attributes"] = _differences(before[version], shape)
            self._publish(self._new_event(kind, record.TYPE, record.id, data))

    def _new_event(
        self,
        type: str,
        object_type: str,
        object_id: str,
        data: dict[str, StripeObject],
    ) -> Event:
        return Event(
            id=self._new_id("evt"),
            created=self.now(),
            order=self._next_order(),
            type=type,
            object_type=object_type,
            object_id=object_id,
            data=data,
        )

    def _publish(self, event: Event) -> None:
        if not event.is_thin_only:
            self._events.add(event)
        for endpoint in self.endpoints:
            if endpoint.is_thin or not event.is_thin_only:
                endpoint.waiting.append(event)


_PREFIX = {
    "product": "product",
    "price": "price",
    "customer": "customer",
    "subscription": "customer.subscription",
}


def _interval(price: Price) -> tuple[str, int]:
    if price.interval is None:
        raise Refusal(400, "The price specified is set to `type=one_time` but recurring is needed.")
    return price.interval, price.interval_count


def _merge(metadata: Metadata, changes: dict[str, str | None] | None) -> None:
    for key, value in (changes or {}).items():
        if value:
            metadata[key] = value
        else:
            metadata.pop(key, None)


def _differences(before: StripeObject, after: StripeObject) -> StripeObject:
    """What was different before, as in ``previous_attributes``."""
    found: StripeObject = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        if key == "metadata":
            assert isinstance(old, dict)
            assert isinstance(new, dict)
            old = {k: old.get(k) for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
        found[key] = old
    return found
