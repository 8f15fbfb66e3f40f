"""How numbers, moments and answers read on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

from ..command.output import ago, number, plural
from ..results import WorkflowRunResume

_LIMIT_SOURCES = {
    "stripe_price_metadata": "the Stripe price",
    "stripe_product_metadata": "the Stripe product",
    "tier_default": "the tier",
    "unlimited_metadata": "Stripe: unlimited",
}
_PERIOD_SOURCES = {
    "stripe_subscription": "the Stripe subscription",
    "presumed_renewal": "presumed: the renewal has not arrived yet",
    "fallback_calendar": "the calendar month (UTC)",
}


def moment(at: datetime | None) -> Markup:
    """A moment in UTC, which the page's script shows in the viewer's zone as well."""
    if at is None:
        return Markup("")
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        utc.isoformat(timespec="seconds").replace("+00:00", "Z"),
        f"{utc.day} {utc:%b %Y, %H:%M} UTC",
    )


def describe_resume(done: WorkflowRunResume) -> str:
    """What became of a Resume, in a sentence; a quota that is used up is an answer."""
    if done.resumed:
        return "Resumed. A worker of its runtime goes on with it, and takes a unit when it does."
    resets = f"{done.period_end.day} {done.period_end:%b %Y, %H:%M} UTC"
    if done.reason == "quota_exhausted":
        limit = number(done.effective_limit)
        return (
            f"Not resumed: the quota is used up, {number(done.used_count)} of {limit} workflow "
            f"actions. It goes on by itself with a higher limit, a grant, or the next period, "
            f"which begins {resets}."
        )
    if done.reason == "no_capacity":
        return (
            "Not resumed: the units that are left are promised to runs that were resumed just "
            "before. It is tried again by itself."
        )
    return "Not resumed: the run or its tenant is held. Release it first."


def sentence(message: str, hint: str | None) -> str:
    """An error of the database for people."""
    text = f"Not resumed: {message}."
    return f"{text} {hint}" if hint else text


def details(value: dict[str, Any] | None) -> str:
    """The details of an event in a line."""
    return ", ".join(
        f"{name.replace('_', ' ')}: {v if isinstance(v, str) else json.dumps(v)}"
        for name, v in (value or {}).items()
        if v is not None
    )


def percent(value: float | None) -> str:
    """A percentage, with a decimal only where it says something."""
    return "" if value is None else f"{float(value):.1f}".removesuffix(".0") + " %"


def level(value: float | None) -> str:
    """How urgent a share of a limit is."""
    if value is None:
        return "unlimited"
    return "full" if value >= 100 else "high" if value >= 80 else "low"


def breakable(text: str | None) -> Markup:
    """A long name that may be broken after its separators."""
    escaped = str(escape(text or ""))
    for separator in "/.-_":
        escaped = escaped.replace(separator, f"{separator}<wbr>")
    return Markup(escaped)  # noqa: S704 - escaped above


FILTERS: dict[str, Callable[..., Any]] = {
    "ago": ago,
    "breakable": breakable,
    "details": details,
    "level": level,
    "limit_source": lambda word: _LIMIT_SOURCES.get(word, word),
    "moment": moment,
    "number": number,
    "percent": percent,
    "period_source": lambda word: _PERIOD_SOURCES.get(word, word),
    "plural": plural,
}
