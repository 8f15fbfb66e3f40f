"""The functions in the database that the sync calls. No rule is here: they decide, this carries."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import psycopg

from .. import results
from ..arguments import boolean, int4, jsonb, text, text_array, timestamptz
from ..calls import (
    Answer,
    Call,
    _row,
    _rows,
    _scalar,
    _scalars,
    apply_stripe_object,
    resume_scan,
    stripe_sync_health,
)
from ..execution import carry_out
from .api import Object, ObjectType

Source = Literal["webhook", "thin", "catch_up"]


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """What became of an event that was received: pending, ignored or duplicate."""

    event_id: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An object to ask Stripe for, and the events that say so."""

    object_type: ObjectType
    object_id: str
    event_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ObjectName:
    """An object of the mirror."""

    object_type: ObjectType
    object_id: str


@dataclass(frozen=True, slots=True)
class CatchUpStart:
    """Since when events are to be asked for."""

    since: datetime
    needs_full_sync: bool


@dataclass(frozen=True, slots=True)
class ListingPosition:
    """How far the listing of a type is. ``known`` is how many the mirror has."""

    started_at: datetime
    object_type: ObjectType
    listed: int
    last_id: str | None
    is_complete: bool
    known: int


@dataclass(frozen=True, slots=True)
class ActionCount:
    """How many objects of a page got an action."""

    action: str
    objects: int


@dataclass(frozen=True, slots=True)
class RecordedFailure:
    """What became of an event that failed: pending or dead."""

    event_id: str
    status: str


def record_events(events: Sequence[Object], source: Source) -> Call[tuple[RecordedEvent, ...]]:
    """Store events that were received; for both kinds of connections."""
    return _rows(
        RecordedEvent, "record_stripe_events", events=jsonb(list(events)), source=text(source)
    )


class Mirror:
    """The functions on one connection, which is in autocommit mode.

    Args:
        connection: Where. Each method is a transaction of its own, unless one is open.
    """

    def __init__(self, connection: psycopg.Connection[Any]):
        self.connection = connection
        # Who runs a full sync, for people, and unlike any other.
        self.holder = f"{socket.gethostname()} process {os.getpid()} {uuid4().hex[:8]}"

    def read_clock(self) -> datetime:
        """The database's clock, to be read before Stripe is asked."""
        row = self.connection.execute("select pg_catalog.clock_timestamp()").fetchone()
        assert row
        moment: datetime = row[0]
        return moment

    def bind(self, account: str | None, livemode: bool, api_version: str) -> bool:
        """Say whose key is used.

        Raises:
            OtherStripeAccount: The mirror belongs to another account or mode.
        """
        return self._call(
            _scalar(
                bool,
                "bind_stripe_mirror",
                account=text(account),
                livemode=boolean(livemode),
                api_version=text(api_version),
            )
        )

    def list_witnesses(self) -> tuple[ObjectName, ...]:
        """Objects that a key of the mirror's account must see."""
        return self._call(_rows(ObjectName, "list_stripe_witnesses"))

    def apply(
        self, object_: Object, fetched_at: datetime
    ) -> tuple[results.StripeObjectChange, ...]:
        """Write what Stripe answered."""
        return self._call(apply_stripe_object(object_, fetched_at))

    def record(self, events: Sequence[Object], source: Source) -> tuple[RecordedEvent, ...]:
        """Store events that were received."""
        return self._call(record_events(events, source))

    def claim(self, max_events: int) -> tuple[Claim, ...]:
        """Take pending events."""
        return self._call(_rows(Claim, "claim_stripe_events", max_events=int4(max_events)))

    def finish(self, event_ids: Sequence[str]) -> None:
        """Mark events done, in the transaction that wrote their object."""
        self._call(_scalar(int, "finish_stripe_events", event_ids=text_array(event_ids)))

    def fail(self, event_ids: Sequence[str], error: str, is_attempt: bool) -> None:
        """Put events off."""
        self._call(
            _rows(
                RecordedFailure,
                "fail_stripe_events",
                event_ids=text_array(event_ids),
                error=text(error),
                is_attempt=boolean(is_attempt),
            )
        )

    def spread(self) -> int:
        """A bounded part of what a change of a shared price leaves to do; 0: nothing is left."""
        return self._call(_scalar(int, "spread_stripe_changes"))

    def has_due_tenants(self) -> bool:
        """Whether paused tenants are due."""
        return bool(self._call(_scalars(str, "list_due_tenants", limit=int4(1))))

    def resume_due(self) -> None:
        """Resume what can go on, in transactions of bounded size."""
        self._call(resume_scan())

    def tend_events(self) -> int:
        """Delete old events; answers how many."""
        return self._call(_scalar(int, "tend_stripe_events"))

    def begin_catch_up(self) -> CatchUpStart:
        """Since when events are to be asked for."""
        return self._call(_row(CatchUpStart, "begin_stripe_catch_up"))

    def finish_catch_up(self, newest: datetime | None) -> None:
        """All events up to this moment are stored."""
        self._call(_scalar(str, "finish_stripe_catch_up", newest=timestamptz(newest)))

    def begin_sync(self, from_start: bool) -> tuple[ListingPosition, ...]:
        """Begin a full sync or go on with one.

        Raises:
            StripeSyncRunning: Another one is running.
        """
        return self._call(
            _rows(
                ListingPosition,
                "begin_stripe_sync",
                holder=text(self.holder),
                from_start=boolean(from_start),
            )
        )

    def store_page(
        self, object_type: ObjectType, objects: list[Object], fetched_at: datetime, is_last: bool
    ) -> tuple[ActionCount, ...]:
        """Store a page of a listing."""
        return self._call(
            _rows(
                ActionCount,
                "store_stripe_page",
                holder=text(self.holder),
                object_type=text(object_type),
                objects=jsonb(objects),
                fetched_at=timestamptz(fetched_at),
                is_last=boolean(is_last),
            )
        )

    def list_unseen(self, force: bool) -> tuple[ObjectName, ...]:
        """Objects that a complete listing did not have.

        Raises:
            TooManyUnseen: They are so many that something else must be wrong.
        """
        return self._call(
            _rows(
                ObjectName,
                "list_unseen_stripe_objects",
                holder=text(self.holder),
                force=boolean(force),
            )
        )

    def finish_sync(self, figures: Object) -> None:
        """The full sync is done."""
        self._call(
            _scalar(str, "finish_stripe_sync", holder=text(self.holder), figures=jsonb(figures))
        )

    def is_full_sync_due(self, seconds: float) -> bool:
        """Whether the last full sync is older than that, or another one is wanted."""
        health = self._call(stripe_sync_health())
        last = health.last_full_sync_at
        return (
            health.needs_full_sync
            or last is None
            or (self.read_clock() - last).total_seconds() >= seconds
        )

    def release_sync(self) -> None:
        """Another may go on with the full sync at once."""
        self._call(_scalar(str, "release_stripe_sync", holder=text(self.holder)))

    def _call(self, call: Call[Answer]) -> Answer:
        answer: Answer = carry_out(self.connection, call)
        return answer
