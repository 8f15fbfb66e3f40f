"""Billing periods as Stripe counts them: from the anchor, a month's end is its last day."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta


def add_intervals(anchor: int, interval: str, count: int) -> int:
    """The moment some intervals after an anchor.

    Args:
        anchor: What is counted from, in seconds since 1970.
        interval: day, week, month or year.
        count: How many, or how many before if negative.
    """
    if interval in ("day", "week"):
        days = count * (7 if interval == "week" else 1)
        return anchor + int(timedelta(days=days).total_seconds())
    moment = datetime.fromtimestamp(anchor, UTC)
    months = moment.year * 12 + moment.month - 1 + count * (12 if interval == "year" else 1)
    year, month = divmod(months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return int(moment.replace(year=year, month=month + 1, day=day).timestamp())


def period_at(anchor: int, interval: str, interval_count: int, moment: int) -> tuple[int, int]:
    """The period that a moment is in, as start and end."""

    def bound(number: int) -> int:
        return add_intervals(anchor, interval, number * interval_count)

    days = {"day": 1, "week": 7, "month": 30, "year": 365}[interval] * interval_count
    number = (moment - anchor) // (days * 86_400)
    while bound(number) > moment:
        number -= 1
    while bound(number + 1) <= moment:
        number += 1
    return bound(number), bound(number + 1)
