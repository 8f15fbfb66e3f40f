"""Catching up: the events that no delivery brought, from Stripe's own list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from .api import Object, StripeApi
from .mirror import Mirror


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What catching up found.

    Attributes:
        listed: Events that Stripe listed.
        new: Those of them that were not known.
        needs_full_sync: Stripe's list does not go back far enough, or it said that it lost some.
    """

    listed: int
    new: int
    needs_full_sync: bool


def catch_up(
    mirror: Mirror, api: StripeApi, should_stop: Callable[[], bool] = lambda: False
) -> CaughtUp:
    """Store all events since the last time, with an overlap; ids tell which are known.

    The mark of how far it is moves only when all pages are stored, so that it can be stopped at
    any point and run again.

    Raises:
        StripeRefused: The key is not accepted or may not list events.
        StripeUnavailable: Stripe cannot be asked now.
    """
    start = mirror.begin_catch_up()
    listed = new = 0
    newest: datetime | None = None
    after: str | None = None
    while True:
        page = api.list_events(start.since, after)
        envelopes = [read_event(event) for event in page.objects]
        outcomes = mirror.record(envelopes, "catch_up")
        listed += len(outcomes)
        new += sum(outcome.outcome == "pending" for outcome in outcomes)
        if page.objects:
            # Newest first; but several share a second, and nothing depends on their order.
            made = max(int(event["created"]) for event in page.objects)
            newest = max(filter(None, (newest, datetime.fromtimestamp(made, UTC))))
            after = page.objects[-1]["id"]
        if page.is_last or not page.objects:
            break
        if should_stop():
            return CaughtUp(listed, new, start.needs_full_sync)
    mirror.finish_catch_up(newest)
    return CaughtUp(listed, new, start.needs_full_sync)


def read_event(event: Object) -> Object:
    """What is kept of an event: who it is and which object it is about; never its data.

    Args:
        event: A snapshot event, or a thin one, as Stripe sends or lists it.

    Raises:
        ValueError: It is neither.
    """
    if event.get("object") == "event":
        data = event.get("data")
        object_ = data.get("object") if isinstance(data, dict) else None
        object_ = object_ if isinstance(object_, dict) else {}
        created, account = event.get("created"), event.get("account")
        subscription_id = object_.get("subscription")
    elif event.get("object") == "v2.core.event":
        related = event.get("related_object")
        object_ = related if isinstance(related, dict) else {}
        text = event.get("created")
        # Thin events have their moment as text.
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        created = moment and int(moment.timestamp())
        account, subscription_id = event.get("context"), None
    else:
        raise ValueError("neither a snapshot event nor a thin one")
    if isinstance(subscription_id, dict):
        subscription_id = subscription_id.get("id")
    envelope = {
        "id": event.get("id"),
        "type": event.get("type"),
        "created": created,
        "livemode": event.get("livemode"),
        "account": account,
        "object_id": object_.get("id"),
        "subscription_id": subscription_id,
    }
    if not all(isinstance(envelope[name], str) for name in ("id", "type")):
        raise ValueError("an event without id or type")
    return envelope
