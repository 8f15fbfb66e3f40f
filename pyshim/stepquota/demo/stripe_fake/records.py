"""What the fake keeps of each object: what differs between objects, and nothing else.

Times are whole seconds since 1970, as Stripe's are.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

Metadata = dict[str, str]


@dataclass(slots=True, kw_only=True)
class Record:
    """What all objects have.

    Attributes:
        id: Stripe's id.
        created: When it was made.
        order: Its place among objects made in the same second.
        metadata: Its metadata.
    """

    id: str
    created: int
    order: int
    metadata: Metadata = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands in lists; the newest comes first."""
        return (self.created, self.order)


@dataclass(slots=True, kw_only=True)
class Product(Record):
    """A product."""

    TYPE: ClassVar[str] = "product"
    name: str
    active: bool = True
    updated: int = 0


@dataclass(slots=True, kw_only=True)
class Price(Record):
    """A price; ``interval`` is None for one that is paid once."""

    TYPE: ClassVar[str] = "price"
    product: str
    interval: str | None = "month"
    interval_count: int = 1
    active: bool = True
    nickname: str | None = None
    lookup_key: str | None = None
    unit_amount: int = 4900
    currency: str = "eur"


@dataclass(slots=True, kw_only=True)
class Customer(Record):
    """A customer; ``test_clock`` is the id of its test clock, if it has one."""

    TYPE: ClassVar[str] = "customer"
    name: str | None = None
    email: str | None = None
    test_clock: str | None = None


@dataclass(slots=True, kw_only=True)
class Item(Record):
    """An item of a subscription, with its period ``[start, end)``."""

    TYPE: ClassVar[str] = "subscription_item"
    subscription: str
    price: str
    start: int
    end: int
    quantity: int = 1


@dataclass(slots=True, kw_only=True)
class Subscription(Record):
    """A subscription; its items are in the order in which they were added."""

    TYPE: ClassVar[str] = "subscription"
    customer: str
    status: str
    anchor: int
    items: list[Item] = field(default_factory=list)
    test_clock: str | None = None
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    canceled_at: int | None = None
    ended_at: int | None = None
    trial_start: int | None = None
    trial_end: int | None = None
    pause_collection: dict[str, Any] | None = None


@dataclass(slots=True, kw_only=True)
class Event(Record):
    """An event.

    Attributes:
        type: Its type, as ``price.updated``.
        object_type: The type of the object that it is about.
        object_id: The id of that object.
        data: Its ``data`` by API version: as the object was when the event was made.
        account: The connected account that it is about, if it is about one.
        is_thin_only: Whether only thin destinations get it, as events of Stripe's v2 API.
    """

    TYPE: ClassVar[str] = "event"
    type: str
    object_type: str
    object_id: str
    data: dict[str, dict[str, Any]]
    account: str | None = None
    is_thin_only: bool = False


R = TypeVar("R", bound=Record)


class Shelf(Generic[R]):
    """All objects of a type, found by id, and listed from the newest to the oldest."""

    def __init__(self) -> None:
        self._by_id: dict[str, R] = {}
        self._places: list[tuple[int, int]] = []
        self._ids: dict[tuple[int, int], str] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[R]:
        """All of them, from the newest to the oldest."""
        return self.older_than(None)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def get(self, id: str) -> R | None:
        """One of them, or None."""
        return self._by_id.get(id)

    def add(self, record: R) -> None:
        """Put a new one in its place."""
        if record.id in self._by_id:
            raise ValueError(f"there is a {record.id} already")
        self._by_id[record.id] = record
        self._ids[record.place] = record.id
        # Nearly always the newest, and then this is an append.
        insort(self._places, record.place)

    def remove(self, id: str) -> R:
        """Take one away."""
        record = self._by_id.pop(id)
        del self._ids[record.place]
        del self._places[bisect_left(self._places, record.place)]
        return record

    def older_than(
        self, record: R | None, wanted: Callable[[R], bool] | None = None
    ) -> Iterator[R]:
        """Those that a list shows after a record, or from its top; only the wanted ones."""
        at = bisect_left(self._places, record.place) if record else len(self._places)
        for i in range(at - 1, -1, -1):
            found = self._by_id[self._ids[self._places[i]]]
            if wanted is None or wanted(found):
                yield found

    def newer_than(self, record: R, wanted: Callable[[R], bool]) -> Iterator[R]:
        """Those that a list shows before a record, the nearest first; only the wanted ones."""
        for i in range(bisect_left(self._places, record.place) + 1, len(self._places)):
            found = self._by_id[self._ids[self._places[i]]]
            if wanted(found):
                yield found
