"""Events as they are sent and listed: snapshots of an API version, and thin ones."""

from __future__ import annotations

from datetime import UTC, datetime

from .fake import StripeFake
from .records import Event
from .shapes import StripeObject

_PATHS = {
    "product": "products",
    "price": "prices",
    "customer": "customers",
    "subscription": "subscriptions",
}


def snapshot(fake: StripeFake, event: Event, version: str) -> StripeObject:
    """An event with the object as it was when the event was made."""
    shape: StripeObject = {
        "id": event.id,
        "object": "event",
        "api_version": version,
        "created": event.created,
        "data": event.data.get(version) or event.data[fake.event_version],
        "livemode": fake.livemode,
        "pending_webhooks": len(fake.endpoints),
        "request": {"id": None, "idempotency_key": None},
        "type": event.type,
    }
    if event.account:
        shape["account"] = event.account
    return shape


def thin(fake: StripeFake, event: Event) -> StripeObject:
    """An event that names the object and does not show it."""
    created = datetime.fromtimestamp(event.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    shape: StripeObject = {
        "id": f"{event.id}_thin",
        "object": "v2.core.event",
        "context": event.account,
        "created": created,
        "livemode": fake.livemode,
        "reason": None,
        "type": event.type if event.is_thin_only else f"v1.{event.type}",
    }
    if event.object_type in _PATHS:
        shape["related_object"] = {
            "id": event.object_id,
            "type": event.object_type,
            "url": f"/v1/{_PATHS[event.object_type]}/{event.object_id}",
        }
    if not event.is_thin_only:
        shape["snapshot_event"] = event.id
    return shape
