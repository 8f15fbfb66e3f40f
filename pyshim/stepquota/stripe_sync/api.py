"""Stripe's API as the sync uses it: objects as plain dicts, and three kinds of failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import requests
import stripe
import urllib3
from requests.adapters import HTTPAdapter
from stripe import StripeResponse

from ..problems import Problem
from .settings import ApiSettings, redact

API_VERSION = "2026-10-28.endive"
"""The version that every request asks for, whatever the account's default is."""

ObjectType = Literal["product", "price", "customer", "subscription"]
Object = dict[str, Any]

EVENT_TYPES = (
    "checkout.session.completed",
    "customer.created",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.pending_update_applied",
    "customer.subscription.pending_update_expired",
    "customer.subscription.resumed",
    "customer.subscription.updated",
    "customer.updated",
    "price.created",
    "price.deleted",
    "price.updated",
    "product.created",
    "product.deleted",
    "product.updated",
)
"""The events to subscribe to; Stripe lists at most 20 types at a time."""

PAGE = 100
_STRIPE_BEGAN = 1_300_000_000  # in 2011; no object is older
_EXPANDED = {
    "product": (),
    "price": ("product",),
    "customer": (),
    "subscription": ("customer", "items.data.price.product"),
}


class StripeRefused(Exception):
    """The key is not accepted, or may not do this. Nothing says whether an object exists."""


class StripeUnavailable(Exception):
    """Stripe could not be reached, or is too busy. The same request may succeed later."""


class StripeRejected(Exception):
    """Stripe does not accept the request as it is.

    Args:
        message: What Stripe says.
        parameter: The parameter it is about.
    """

    def __init__(self, message: str, parameter: str | None = None):
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, newest first.

    Attributes:
        objects: What is on it.
        is_last: Whether there is none after it.
    """

    objects: list[Object]
    is_last: bool


class StripeApi:
    """A client of its own; one for each thread.

    Args:
        settings: The key, and where the API is.
        patience: How often an answer 429 is waited out, for as long as Retry-After says.
        timeout: Seconds to connect, and to wait for an answer.

    Raises:
        Problem: The installed library is of another API version.
    """

    def __init__(
        self,
        settings: ApiSettings,
        *,
        patience: int = 5,
        timeout: tuple[float, float] = (5.0, 30.0),
    ):
        if stripe.api_version != API_VERSION:
            raise Problem(
                f"the installed stripe library is for API version {stripe.api_version}, "
                f"this release of stepquota for {API_VERSION}",
                "install the one that the extra names: pip install 'stepquota[stripe]'",
            )
        self.livemode = settings.livemode
        self._session = requests.Session()
        # The library itself retries lost connections and 5xx, but not 429.
        adapter = HTTPAdapter(
            max_retries=urllib3.Retry(
                total=patience,
                connect=0,
                read=0,
                other=0,
                status=patience,
                status_forcelist=[429],
                allowed_methods={"GET"},
                backoff_factor=0.5,
                backoff_jitter=0.5,
                backoff_max=30,
                respect_retry_after_header=True,
                raise_on_status=False,
            )
        )
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._client = stripe.StripeClient(
            settings.key.reveal(),
            stripe_version=API_VERSION,
            base_addresses={"api": settings.base} if settings.base else {},
            http_client=stripe.RequestsClient(session=self._session, timeout=timeout),
        )

    def close(self) -> None:
        """Close the connections to Stripe."""
        self._session.close()

    def find_account(self) -> str | None:
        """The id of the key's account; None if the key may not ask."""
        try:
            return str(self._ask(self._client.v1.accounts.retrieve_current)["id"])
        except StripeRefused as refused:
            if isinstance(refused.__cause__, stripe.PermissionError):
                return None
            raise

    def list_objects(self, object_type: ObjectType, after: str | None) -> Page:
        """A page of all objects of a type. Subscriptions have all their items."""
        parameters: dict[str, Any] = {"limit": PAGE}
        if after is not None:
            parameters["starting_after"] = after
        if object_type == "subscription":
            parameters["status"] = "all"
        # Typed objects of a whole page take longer to make than Stripe takes to answer.
        answer: Object = self._ask(
            lambda: self._client.raw_request("get", f"/v1/{object_type}s", **parameters)
        )
        for object_ in answer["data"]:
            if object_type == "subscription":
                self._complete_items(object_, [])
        return Page(answer["data"], not (answer["has_more"] and answer["data"]))

    def find_oldest(self, object_type: ObjectType, newest: int, steps: int = 8) -> int:
        """About when the first object of a type was made, in unix seconds; for estimates.

        Lists go from new to old, and Stripe says nowhere how many there are.

        Args:
            object_type: The type.
            newest: When the newest one was made.
            steps: How many requests to spend on it; each halves the doubt.
        """
        earliest, latest = _STRIPE_BEGAN, newest
        for _ in range(steps):
            middle = (earliest + latest) // 2
            parameters: dict[str, Any] = {"limit": 1, "created": {"lte": middle}}
            if object_type == "subscription":
                parameters["status"] = "all"
            answer: Object = self._ask(self._service(object_type).list, parameters)
            if answer["data"]:
                latest = int(answer["data"][0]["created"])
            else:
                earliest = middle
        return latest

    def retrieve(self, object_type: ObjectType, object_id: str) -> Object:
        """An object, with all that is expanded in it; one that is gone has ``deleted``.

        A subscription has its customer and all its items, with their prices and products, in one
        consistent answer if its items fit on one page.
        """
        try:
            answer: Object = self._ask(
                self._service(object_type).retrieve,
                object_id,
                {"expand": list(_EXPANDED[object_type])},
            )
        except StripeRejected as rejected:
            cause = rejected.__cause__
            if (
                isinstance(cause, stripe.InvalidRequestError)
                and cause.http_status == 404
                and cause.code == "resource_missing"
            ):
                return {"id": object_id, "object": object_type, "deleted": True}
            raise
        if object_type == "subscription" and not answer.get("deleted"):
            self._complete_items(answer, ["data.price.product"])
        return answer

    def list_events(self, since: datetime, after: str | None) -> Page:
        """A page of the events made since then, of the types that matter, newest first."""
        parameters: dict[str, Any] = {
            "limit": PAGE,
            "types": list(EVENT_TYPES),
            "created": {"gte": int(since.timestamp())},
        }
        if after is not None:
            parameters["starting_after"] = after
        answer = self._ask(self._client.v1.events.list, parameters)
        return Page(answer["data"], not (answer["has_more"] and answer["data"]))

    def _service(self, object_type: ObjectType) -> Any:
        v1 = self._client.v1
        return {
            "product": v1.products,
            "price": v1.prices,
            "customer": v1.customers,
            "subscription": v1.subscriptions,
        }[object_type]

    def _complete_items(self, subscription: Object, expand: list[str]) -> None:
        """An answer holds ten items; the others are asked for, and the list is whole then."""
        items = subscription.get("items")
        if not isinstance(items, dict) or not items.get("has_more"):
            return
        whole: list[Object] = []
        while True:
            parameters: dict[str, Any] = {"subscription": subscription["id"], "limit": PAGE}
            if expand:
                parameters["expand"] = expand
            if whole:
                parameters["starting_after"] = whole[-1]["id"]
            answer = self._ask(self._client.v1.subscription_items.list, parameters)
            whole += answer["data"]
            if not answer["has_more"]:
                break
        items["data"], items["has_more"] = whole, False

    def _ask(self, request: Callable[..., Any], *arguments: Any) -> Any:
        try:
            answer = request(*arguments)
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise StripeRefused(_describe(error)) from error
        except stripe.InvalidRequestError as error:
            raise StripeRejected(_describe(error), error.param) from error
        except stripe.StripeError as error:
            raise StripeUnavailable(_describe(error)) from error
        # The plain JSON: typed objects are no dicts.
        return answer.data if isinstance(answer, StripeResponse) else answer.last_response.data


def _describe(error: stripe.StripeError) -> str:
    parts = [type(error).__name__]
    if error.http_status:
        parts.append(str(error.http_status))
    if error.code:
        parts.append(error.code)
    # What the network said stands in the cause; the library's own text is a paragraph of advice.
    text = str(error.__cause__ or "") if isinstance(error, stripe.APIConnectionError) else ""
    text = text or error.user_message or str(error) or "no message"
    message = redact(" ".join(text.split())[:300])
    return f"{' '.join(parts)}: {message}"
