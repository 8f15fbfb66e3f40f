"""Usage by day as bars: where each is, for the template that draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..command.output import number, plural
from ..results import WorkflowStepUsageDay

WIDTH, HEIGHT = 720, 180
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 18, 16, 30


@dataclass(frozen=True)
class Bar:
    """A day's bar, in the units of the drawing; a label in between is left out of small ones."""

    x: float
    y: float
    width: float
    height: float
    day: str
    units: int
    label: str
    is_between: bool


@dataclass(frozen=True)
class Line:
    """A line across, with what it stands for."""

    y: float
    label: str


@dataclass(frozen=True)
class Chart:
    """The drawing: bars, lines, and in words what it shows."""

    width: int
    height: int
    left: int
    baseline: float
    bars: tuple[Bar, ...]
    lines: tuple[Line, ...]
    total: int
    summary: str


def draw(days: Sequence[WorkflowStepUsageDay], asked: int) -> Chart | None:
    """The chart of these days; None if there are none.

    Args:
        days: The days that are known, one after the other.
        asked: How many would be there if counting had begun long ago.
    """
    if not days:
        return None
    most = max(day.units for day in days)
    step = _round_step(most / 3)
    top = max(step * math.ceil(most / step), step)
    baseline = HEIGHT - _BOTTOM
    scale = (baseline - _TOP) / top
    # Few days are not drawn as wide as many would be.
    slot = (WIDTH - _LEFT - _RIGHT) / max(len(days), 14)
    every = max(1, math.ceil(len(days) / 8))
    bars = []
    for place, day in enumerate(days):
        # A day of little use is seen too.
        height = max(day.units * scale, 1.5) if day.units else 0
        bars.append(
            Bar(
                x=round(_LEFT + place * slot + slot * 0.12, 2),
                y=round(baseline - height, 2),
                width=round(slot * 0.76, 2),
                height=round(height, 2),
                day=f"{day.day.day} {day.day:%b %Y}",
                units=day.units,
                label=f"{day.day.day} {day.day:%b}" if (len(days) - 1 - place) % every == 0 else "",
                is_between=(len(days) - 1 - place) % (2 * every) != 0,
            )
        )
    lines = tuple(
        Line(round(baseline - value * scale, 2), shorten(value))
        for value in range(0, top + 1, step)
    )
    total = sum(day.units for day in days)
    busiest = max(days, key=lambda day: day.units)
    summary = plural(total, "workflow action")
    if total and len(days) > 1:
        summary += f", at most {number(busiest.units)} on {busiest.day.day} {busiest.day:%B},"
    if len(days) < asked:
        summary += (
            f" since counting by day began on {days[0].day.day} {days[0].day:%B}; what was used "
            "before that is not in it"
        )
    else:
        summary += f" in {asked} days"
    return Chart(WIDTH, HEIGHT, _LEFT, baseline, tuple(bars), lines, total, summary)


def _round_step(least: float) -> int:
    """1, 2 or 5 times a power of ten, not below the given one."""
    if least <= 1:
        return 1
    power = 10 ** math.floor(math.log10(least))
    return int(next(n * power for n in (1, 2, 5, 10) if n * power >= least))


def shorten(value: int) -> str:
    """A number for an axis: 12k, 3M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return str(value)
