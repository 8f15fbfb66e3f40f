"""Delivers webhooks as badly as the network does: late, twice, out of order, or not at all."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import requests
import stripe

from .fake import Endpoint, StripeFake
from .payloads import snapshot, thin
from .records import Event

Post = Callable[[str, bytes, Mapping[str, str]], int]

_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Mishaps:
    """How often something happens to a delivery, each from 0 to 1.

    Attributes:
        drop: It never comes.
        duplicate: It comes twice.
        delay: It comes with a later ``deliver``.
        shuffle: Whether deliveries come in any order.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    shuffle: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A signed webhook, and how it was answered; status 0 if it was not."""

    endpoint: Endpoint
    event: Event
    status: int


class Courier:
    """Delivers the events of a fake to its endpoints.

    What is not answered with a status of the 200s waits for the next ``deliver``, as Stripe tries
    again.

    Args:
        fake: Whose events.
        mishaps: What happens to them.
        seed: The same seed gives the same mishaps.
        post: How a webhook is sent: url, body, headers; answers the status. By default by HTTP.
    """

    def __init__(
        self,
        fake: StripeFake,
        mishaps: Mishaps | None = None,
        seed: int = 0,
        post: Post | None = None,
    ):
        self._fake = fake
        self.mishaps = mishaps or Mishaps()
        self._random = random.Random(seed)  # noqa: S311 - mishaps that can be repeated
        self._session = requests.Session()
        self._post = post or self._post_by_http

    def deliver(self) -> list[Delivery]:
        """Deliver what waits, with mishaps; answers what was sent, in its order."""
        return [self.send(endpoint, event) for endpoint, event in self._draw()]

    def lose(self) -> int:
        """Lose everything that waits; answers how many deliveries that were."""
        return sum(len(self._take(endpoint)) for endpoint in self._fake.endpoints)

    def send(self, endpoint: Endpoint, event: Event) -> Delivery:
        """Sign and send an event; it waits again if that fails."""
        body = self.body(endpoint, event)
        status = self._post(endpoint.url, body, self.sign(endpoint, body))
        if not 200 <= status < 300:
            with self._fake.lock:
                endpoint.waiting.append(event)
        return Delivery(endpoint, event, status)

    def body(self, endpoint: Endpoint, event: Event) -> bytes:
        """What is sent to an endpoint about an event."""
        shape = (
            thin(self._fake, event)
            if endpoint.is_thin
            else snapshot(self._fake, event, endpoint.api_version)
        )
        return json.dumps(shape, indent=2).encode()

    @staticmethod
    def sign(endpoint: Endpoint, body: bytes, timestamp: int | None = None) -> dict[str, str]:
        """The headers of a webhook; the stamp, in seconds since 1970, is by default now."""
        signature = stripe.WebhookSignature.generate_signature_header(
            body.decode(), endpoint.secret, int(time.time()) if timestamp is None else timestamp
        )
        return {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": signature}

    def _draw(self) -> list[tuple[Endpoint, Event]]:
        """Whom to send what, after the mishaps."""
        drawn: list[tuple[Endpoint, Event]] = []
        for endpoint in self._fake.endpoints:
            for event in self._take(endpoint):
                if self._random.random() < self.mishaps.drop:
                    continue
                if self._random.random() < self.mishaps.delay:
                    with self._fake.lock:
                        endpoint.waiting.append(event)
                    continue
                twice = self._random.random() < self.mishaps.duplicate
                drawn += [(endpoint, event)] * (2 if twice else 1)
        if self.mishaps.shuffle:
            self._random.shuffle(drawn)
        return drawn

    def _take(self, endpoint: Endpoint) -> list[Event]:
        with self._fake.lock:
            waiting, endpoint.waiting = endpoint.waiting, []
        return waiting

    def _post_by_http(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        try:
            answer = self._session.post(url, body, headers=dict(headers), timeout=_TIMEOUT_SECONDS)
        except requests.RequestException:
            return 0
        return answer.status_code
