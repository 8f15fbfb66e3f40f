"""The HTTP API of one or several fakes: which requests there are, and what they answer."""

from __future__ import annotations

import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from werkzeug import Request, Response

from .fake import StripeFake
from .faults import BrokenOff
from .payloads import snapshot
from .records import Customer, Event, Item, Price, Product, Record, Shelf, Subscription
from .refusals import Refusal, invalid_key, no_such
from .shapes import StripeObject

_DEEPEST_EXPANSION = 4
_MOST_TYPES = 20
_MOST_ON_A_PAGE = 100
_USUAL_ON_A_PAGE = 10
_PAGING = {"limit", "starting_after", "ending_before", "expand"}

# Shapes have no circles, and looking for them costs a fifth.
_encode = json.JSONEncoder(check_circular=False).encode

R = TypeVar("R", bound=Record)


class Api:
    """Answers requests for the fakes whose keys they carry.

    Args:
        fakes: The accounts, or modes of an account, each with a key of its own.
    """

    def __init__(self, *fakes: StripeFake):
        self._fakes = {fake.api_key: fake for fake in fakes}
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Response:
        """The answer to a request; for ``werkzeug.Request.application`` and the like."""
        headers = {"Request-Id": f"req_{next(self._numbers):014}"}
        try:
            fake = self._find_fake(request)
            fake.requests[request.path] += 1
            version = request.headers.get("Stripe-Version", fake.event_version)
            headers["Stripe-Version"] = version
            with fake.faults.befall(request.path):
                if request.method != "GET":
                    raise Refusal(405, "The fake is changed by its methods, not by requests.")
                with fake.lock:
                    shape = _Answers(fake, version, _Parameters.read(request)).at(request.path)
                body = _encode(shape)
            status = 200
        except Refusal as refusal:
            status, body = refusal.status, _encode(refusal.body)
            headers |= refusal.headers
        except BrokenOff:
            # The server closes what it finds shut.
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return Response(status=500)
        return Response(body, status, headers, content_type="application/json")

    def _find_fake(self, request: Request) -> StripeFake:
        key = ""
        if request.authorization:
            # As a bearer token, or as the user name of basic authentication.
            key = request.authorization.token or request.authorization.username or ""
        fake = self._fakes.get(key)
        if fake is None:
            raise invalid_key(key)
        return fake


@dataclass(slots=True)
class _Parameters:
    """The parameters of a request; those that nobody took are unknown."""

    values: dict[str, str]
    lists: dict[str, list[str]]
    ranges: dict[str, dict[str, str]]

    @classmethod
    def read(cls, request: Request) -> _Parameters:
        """Read ``a=1``, ``b[0]=2``, ``b[]=3`` and ``c[gte]=4``."""
        parameters = cls({}, {}, {})
        for name, value in request.args.items(multi=True):
            if not (found := re.fullmatch(r"(\w+)\[(\w*)\]", name)):
                parameters.values[name] = value
            elif found[2].isdigit() or not found[2]:
                parameters.lists.setdefault(found[1], []).append(value)
            else:
                parameters.ranges.setdefault(found[1], {})[found[2]] = value
        return parameters

    def refuse_unknown(self, known: set[str]) -> None:
        """Refuse parameters that Stripe does not know here."""
        for name in (*self.values, *self.lists, *self.ranges):
            if name not in known:
                raise Refusal(
                    400,
                    f"Received unknown parameter: {name}",
                    code="parameter_unknown",
                    param=name,
                )

    def take_expand(self, *, is_list: bool) -> tuple[str, ...]:
        """What is expanded in each object."""
        paths = self.lists.get("expand", [])
        for path in paths:
            if path.count(".") >= _DEEPEST_EXPANSION:
                raise Refusal(
                    400,
                    f"You cannot expand more than {_DEEPEST_EXPANSION} levels of a property. "
                    f"Property: {path}",
                )
            if is_list and not path.startswith("data."):
                raise Refusal(400, f"This property cannot be expanded ({path}).", param="expand")
        return tuple(path.removeprefix("data.") if is_list else path for path in paths)

    def take_limit(self) -> int:
        """How many objects a page has."""
        text = self.values.get("limit", str(_USUAL_ON_A_PAGE))
        if not text.isdigit() or not 1 <= int(text) <= _MOST_ON_A_PAGE:
            raise Refusal(
                400,
                f"Invalid integer: this value must be between 1 and {_MOST_ON_A_PAGE}.",
                code="parameter_invalid_integer",
                param="limit",
            )
        return int(text)

    def take_flag(self, name: str) -> bool | None:
        """A flag, if it was given."""
        return None if name not in self.values else self.values[name].lower() == "true"

    def take_created(self) -> Callable[[int], bool]:
        """Whether a moment of making is in the range that was asked for."""
        tests = {
            "gt": int.__gt__,
            "gte": int.__ge__,
            "lt": int.__lt__,
            "lte": int.__le__,
        }
        bounds = dict(self.ranges.get("created", {}))
        if "created" in self.values:
            bounds |= {"gte": self.values["created"], "lte": self.values["created"]}
        for name, bound in bounds.items():
            if name not in tests or not bound.isdigit():
                raise Refusal(400, f"Invalid integer: {bound}", param=f"created[{name}]")
        wanted = [(tests[name], int(bound)) for name, bound in bounds.items()]
        return lambda created: all(test(created, bound) for test, bound in wanted)


class _Pages(Generic[R]):
    """A list that is asked for page by page.

    Args:
        find: Finds one of its objects by id.
        after: The objects that come after one, or from the top.
        before: The objects that come before one, the nearest first.
    """

    def __init__(
        self,
        kind: str,
        find: Callable[[str], R | None],
        after: Callable[[R | None], Iterator[R]],
        before: Callable[[R], Iterator[R]],
    ):
        self._kind = kind
        self._find = find
        self._after = after
        self._before = before

    @classmethod
    def of_shelf(cls, kind: str, shelf: Shelf[R], wanted: Callable[[R], bool]) -> _Pages[R]:
        """Those on a shelf that are wanted."""
        return cls(
            kind,
            shelf.get,
            lambda record: shelf.older_than(record, wanted),
            lambda record: shelf.newer_than(record, wanted),
        )

    @classmethod
    def of_items(cls, items: Sequence[Item]) -> _Pages[Item]:
        """The items of a subscription, the first one first."""
        places = {item.id: place for place, item in enumerate(items)}
        return _Pages(
            "subscription_item",
            lambda id: items[places[id]] if id in places else None,
            lambda item: iter(items[places[item.id] + 1 :] if item else items),
            lambda item: reversed(items[: places[item.id]]),
        )

    def take(self, parameters: _Parameters) -> tuple[list[R], bool]:
        """A page, and whether there are more."""
        limit = parameters.take_limit()
        cursor = parameters.values.get("starting_after")
        backwards = parameters.values.get("ending_before")
        if backwards is not None:
            page = list(
                itertools.islice(self._before(self._at(backwards, "ending_before")), limit + 1)
            )
            return page[:limit][::-1], len(page) > limit
        start = None if cursor is None else self._at(cursor, "starting_after")
        page = list(itertools.islice(self._after(start), limit + 1))
        return page[:limit], len(page) > limit

    def _at(self, id: str, parameter: str) -> R:
        record = self._find(id)
        if record is None:
            raise no_such(self._kind, id, parameter, 400)
        return record


class _Answers:
    """What one request is answered."""

    def __init__(self, fake: StripeFake, version: str, parameters: _Parameters):
        self._fake = fake
        self._version = version
        self._parameters = parameters

    def at(self, path: str) -> StripeObject:
        """The answer at a path."""
        parts = path.removeprefix("/v1/").split("/")
        lists = {
            "products": self._list_products,
            "prices": self._list_prices,
            "customers": self._list_customers,
            "subscriptions": self._list_subscriptions,
            "subscription_items": self._list_items,
            "events": self._list_events,
            "account": self._show_account,
        }
        if path.startswith("/v1/") and parts[0] in lists:
            if len(parts) == 1:
                return lists[parts[0]]()
            if len(parts) == 2 and parts[1] and parts[0] != "account":
                self._parameters.refuse_unknown({"expand"})
                return self._show(parts[0], parts[1])
        raise Refusal(404, f"Unrecognized request URL (GET: {path}).")

    # One object

    def _show(self, kind: str, id: str) -> StripeObject:
        fake = self._fake
        expand = self._parameters.take_expand(is_list=False)
        if kind == "events":
            event = fake.find_event(id)
            if event is None:
                raise no_such("event", id)
            return snapshot(fake, event, fake.event_version)
        if kind == "customers" and id in fake.deleted_customers:
            return {"id": id, "object": "customer", "deleted": True}
        find: Callable[[str], Product | Price | Customer | Subscription | Item | None]
        if kind == "products":
            find = fake.products.get
        elif kind == "prices":
            find = fake.prices.get
        elif kind == "customers":
            find = fake.customers.get
        elif kind == "subscriptions":
            find = fake.subscriptions.get
        else:
            find = fake.items.get
        record = find(id)
        if record is None:
            raise no_such(kind.removesuffix("s"), id)
        return fake.shaper(self._version, expand).shape(record)

    def _show_account(self) -> StripeObject:
        self._parameters.refuse_unknown({"expand"})
        return {
            "id": self._fake.account,
            "object": "account",
            "business_type": "company",
            "charges_enabled": True,
            "country": "DE",
            "default_currency": "eur",
            "details_submitted": True,
            "email": "owner@example.org",
            "metadata": {},
            "payouts_enabled": True,
            "type": "standard",
        }

    # Lists

    def _page(self, path: str, pages: _Pages[R]) -> StripeObject:
        expand = self._parameters.take_expand(is_list=True)
        records, has_more = pages.take(self._parameters)
        shape: Callable[[Any], StripeObject] = (
            partial(snapshot, self._fake, version=self._fake.event_version)
            if path == "/v1/events"
            else self._fake.shaper(self._version, expand).shape
        )
        return {
            "object": "list",
            "data": [shape(record) for record in records],
            "has_more": has_more,
            "url": path,
        }

    def _list_products(self) -> StripeObject:
        self._parameters.refuse_unknown(_PAGING | {"active", "created", "ids"})
        active, created = self._parameters.take_flag("active"), self._parameters.take_created()
        ids = self._parameters.lists.get("ids")

        def wanted(product: Product) -> bool:
            return (
                (active is None or product.active is active)
                and (ids is None or product.id in ids)
                and created(product.created)
            )

        return self._page("/v1/products", _Pages.of_shelf("product", self._fake.products, wanted))

    def _list_prices(self) -> StripeObject:
        self._parameters.refuse_unknown(_PAGING | {"active", "created", "product", "type"})
        active, created = self._parameters.take_flag("active"), self._parameters.take_created()
        product = self._parameters.values.get("product")
        kind = self._parameters.values.get("type")

        def wanted(price: Price) -> bool:
            return (
                (active is None or price.active is active)
                and (product is None or price.product == product)
                and (kind is None or (kind == "recurring") is (price.interval is not None))
                and created(price.created)
            )

        return self._page("/v1/prices", _Pages.of_shelf("price", self._fake.prices, wanted))

    def _list_customers(self) -> StripeObject:
        self._parameters.refuse_unknown(_PAGING | {"created", "email", "test_clock"})
        created, values = self._parameters.take_created(), self._parameters.values

        def wanted(customer: Customer) -> bool:
            return (
                customer.test_clock == values.get("test_clock")
                and values.get("email") in (None, customer.email)
                and created(customer.created)
            )

        return self._page(
            "/v1/customers", _Pages.of_shelf("customer", self._fake.customers, wanted)
        )

    def _list_subscriptions(self) -> StripeObject:
        self._parameters.refuse_unknown(
            _PAGING | {"created", "customer", "price", "status", "test_clock"}
        )
        created, values = self._parameters.take_created(), self._parameters.values
        status = values.get("status")

        def has_status(subscription: Subscription) -> bool:
            if status is None:
                return subscription.status != "canceled"
            if status == "ended":
                return subscription.status in ("canceled", "incomplete_expired")
            return status in ("all", subscription.status)

        def wanted(subscription: Subscription) -> bool:
            return (
                has_status(subscription)
                and subscription.test_clock == values.get("test_clock")
                and values.get("customer") in (None, subscription.customer)
                and created(subscription.created)
                and (
                    "price" not in values
                    or any(item.price == values["price"] for item in subscription.items)
                )
            )

        return self._page(
            "/v1/subscriptions",
            _Pages.of_shelf("subscription", self._fake.subscriptions, wanted),
        )

    def _list_items(self) -> StripeObject:
        self._parameters.refuse_unknown(_PAGING | {"subscription"})
        id = self._parameters.values.get("subscription")
        if id is None:
            raise Refusal(
                400,
                "Missing required param: subscription.",
                code="parameter_missing",
                param="subscription",
            )
        subscription = self._fake.subscriptions.get(id)
        if subscription is None:
            raise no_such("subscription", id, "subscription", 400)
        return self._page("/v1/subscription_items", _Pages.of_items(subscription.items))

    def _list_events(self) -> StripeObject:
        self._parameters.refuse_unknown(_PAGING | {"created", "delivery_success", "type", "types"})
        created = self._parameters.take_created()
        types = self._parameters.lists.get("types", [])
        if len(types) > _MOST_TYPES:
            raise Refusal(400, f"Array too large: at most {_MOST_TYPES} types.", param="types")
        if "type" in self._parameters.values:
            types = [*types, self._parameters.values["type"]]
        patterns = [re.compile(re.escape(type).replace(r"\*", ".*")) for type in types]

        def wanted(event: Event) -> bool:
            return created(event.created) and (
                not patterns or any(pattern.fullmatch(event.type) for pattern in patterns)
            )

        fake = self._fake
        return self._page(
            "/v1/events",
            _Pages(
                "event",
                fake.find_event,
                lambda after: fake.list_events(wanted, after),
                lambda before: fake.list_newer_events(wanted, before),
            ),
        )
