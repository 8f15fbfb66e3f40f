"""Periods: subscriptions come, move, end and go, as Stripe's objects say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from acceptance.stripe_objects import Metadata, deleted, plan_of
from histories.model import Subscription, add_months
from histories.quotas import BEGINNING, TENANT, Quotas, limits
from histories.steps import step

# Few, so that bounds come back to where they were; the first is the calendar's too.
days = st.sampled_from([1, 3, 5, 20])


class Periods(Quotas):
    """Also what Stripe tells."""

    def __init__(self, connection: psycopg.Connection[Any]):
        super().__init__(connection)
        self.subscription_count = 0

    @property
    def subscription(self) -> Subscription:
        assert self.model.subscription is not None
        return self.model.subscription

    def lift_limits(self) -> None:
        self.unsubscribe_now()
        super().lift_limits()

    @step(
        starts=days,
        length=st.sampled_from([None, 1, 10, 25]),
        limit=limits | st.just("absent"),
    )
    def subscribe(self, starts: int, length: int | None, limit: Any) -> None:
        """Another subscription, in the place of the one there is."""
        self.unsubscribe_now()
        self.subscription_count += 1
        begin = self.find_bound(starts)
        end = add_months(begin, 1) if length is None else begin + timedelta(days=length)
        self.model.subscription = Subscription(f"s{self.subscription_count}", begin, end)
        self.model.price_limit = limit
        self.tell_stripe()

    def find_bound(self, day: int) -> datetime:
        """A day of this month."""
        return datetime(self.model.now.year, self.model.now.month, day, tzinfo=UTC)

    @step(
        often=2,
        when=lambda self: self.model.subscription is not None,
        starts=st.none() | days,
        length=st.sampled_from([1, 15, 28, 40]),
    )
    def move_bounds(self, starts: int | None, length: int) -> None:
        """Stripe has other bounds for the same subscription: another start too, or the same."""
        subscription = self.subscription
        if starts is not None:
            subscription.start = self.find_bound(starts)
        subscription.end = subscription.start + timedelta(days=length)
        self.tell_stripe()

    @step(when=lambda self: self.model.subscription is not None)
    def renew(self) -> None:
        """The webhook of the renewal: the period after the one that is stored."""
        subscription = self.subscription
        subscription.start = subscription.end.replace(day=min(subscription.end.day, 28))
        subscription.end = add_months(subscription.start, 1)
        self.tell_stripe()

    @step(
        when=lambda self: self.model.subscription is not None,
        limit=limits | st.just("absent"),
        ends=st.booleans(),
    )
    def change_subscription(self, limit: Any, ends: bool) -> None:
        """Another limit in the price's metadata; due to end with its period, or no more."""
        subscription = self.subscription
        self.model.price_limit = limit
        subscription.ends_with_period = ends
        self.tell_stripe()

    @step(when=lambda self: self.model.subscription is not None)
    def receive_a_webhook_again(self) -> None:
        """A webhook arrives twice, and an older answer after it."""
        self.tell_stripe(actions={"unchanged"})
        # Older than all that was told: what is unchanged keeps the moment it was first told at.
        self.tell_stripe(
            actions={"stale"}, fetched_at=BEGINNING - timedelta(days=1), limit=9, bound_age=60
        )

    def tell_stripe(
        self,
        actions: set[str] | None = None,
        fetched_at: datetime | None = None,
        bound_age: int = 0,
        **changes: int,
    ) -> None:
        """The mirror gets the subscription, or one that was asked for earlier."""
        subscription = self.subscription
        limit = changes.get("limit", self.model.price_limit)
        metadata: Metadata = {}
        if limit != "absent":
            metadata["workflow_step_limit"] = limit or "unlimited"
        back = timedelta(days=bound_age)
        plan = plan_of(
            TENANT,
            name=subscription.name,
            period=(subscription.start - back, subscription.end - back),
            price_metadata=metadata,
            cancel_at_period_end=subscription.ends_with_period,
        )
        moment, is_paused = self.model.now, self.is_paused
        rows = self.call("apply_stripe_object", Jsonb(plan), fetched_at or moment)
        if {row["action"] for row in rows} - {"unchanged", "stale"}:
            # What says nothing new is no reason to decide anything.
            self.look_and_resume_at(moment, is_paused)
        if actions:
            assert {row["action"] for row in rows} == actions

    @step(when=lambda self: self.model.subscription is not None)
    def unsubscribe(self) -> None:
        self.unsubscribe_now()

    def unsubscribe_now(self) -> None:
        if subscription := self.model.subscription:
            self.model.subscription = None
            self.look_and_resume()
            gone = deleted({"id": f"sub_{TENANT}_{subscription.name}", "object": "subscription"})
            self.call("apply_stripe_object", Jsonb(gone), self.model.now)
