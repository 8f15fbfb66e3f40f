"""The demo's Stripe account: in memory, served on a port of this machine, with signed webhooks."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import requests

from .stripe_fake import Courier, StripeFake, serve

_WEBHOOK_SECRET = "whsec_demo"  # noqa: S105 - of an account that is nobody's
_WEBHOOK_PATH = "/stripe/webhook"


class Shop:
    """The account, as long as a ``with`` block lasts.

    Attributes:
        stripe: Its objects; to change them is what people do in Stripe's dashboard.
        address: Where its API is served.
        port: A free port for the endpoint that its webhooks are sent to.
    """

    def __init__(self) -> None:
        self.stripe = StripeFake("sk_test_demo", account="acct_demo")
        self.address = ""
        self.port = _find_free_port()
        self._endpoint = f"http://127.0.0.1:{self.port}"
        self._courier = Courier(self.stripe)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.address = self._stack.enter_context(serve(self.stripe))
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """What ``stepquota stripe run`` is told by its environment."""
        return {
            "STRIPE_API_KEY": self.stripe.api_key,
            "STRIPE_API_BASE": self.address,
            "STRIPE_WEBHOOK_SECRETS": _WEBHOOK_SECRET,
        }

    def begin_webhooks(self) -> None:
        """Send the events of all later changes to the endpoint."""
        self.stripe.add_endpoint(self._endpoint + _WEBHOOK_PATH, _WEBHOOK_SECRET)

    def is_endpoint_ready(self) -> bool:
        """Whether the endpoint answers, and everything behind it works."""
        try:
            return requests.get(f"{self._endpoint}/health", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def deliver(self) -> int:
        """Send what has happened since; answers how many webhooks were taken."""
        return sum(delivery.status == 200 for delivery in self._courier.deliver())


def _find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
