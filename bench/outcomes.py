"""What comes out of measuring: goals, outcomes, and a whole run of the bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .machine import Machine


class Inexact(Exception):
    """The counter is not what was committed: no figure matters any more."""


@dataclass(frozen=True)
class Goal:
    """What a measure must reach, and what is aimed at.

    Attributes:
        must: The bar.
        aim: What would be better still.
        at_most: Whether the ratio is to stay below these, not above.
    """

    must: float
    aim: float
    at_most: bool = False

    def reached(self, ratio: float) -> str:
        """``aim``, ``must`` or ``no``."""
        for name, value in (("aim", self.aim), ("must", self.must)):
            if ratio <= value if self.at_most else ratio >= value:
                return name
        return "no"


@dataclass(frozen=True)
class Outcome:
    """What a measure came to.

    Attributes:
        letter: Which measure; several outcomes may be of one.
        ours: What is measured, in words.
        peer: What it is measured against, in words.
        unit: Of the figures: ``/s``, ``ms`` or ``MB``.
        our_figure: The median over the repetitions.
        peer_figure: The same for the peer.
        ratio: The median of each repetition's ratio.
        goal: What it is to reach.
        note: What else is worth knowing.
    """

    letter: str
    ours: str
    peer: str
    unit: str
    our_figure: float
    peer_figure: float
    ratio: float
    goal: Goal
    note: str = ""

    @property
    def reached(self) -> str:
        """``aim``, ``must`` or ``no``."""
        return self.goal.reached(self.ratio)


@dataclass(frozen=True)
class Beside:
    """A figure that no goal is about, for comparison.

    Attributes:
        letter: The measure that it belongs to.
        what: What was measured, in words.
        unit: Of the figure; ``x`` for a ratio.
        figure: The median over the repetitions.
    """

    letter: str
    what: str
    unit: str
    figure: float


@dataclass(frozen=True)
class Findings:
    """What one or several measures found.

    Attributes:
        outcomes: Measured against goals.
        besides: Measured for comparison.
        series: Rates over time, a figure a second, by what was measured.
        not_run: Peers that could not be had, and why.
    """

    outcomes: tuple[Outcome, ...] = ()
    besides: tuple[Beside, ...] = ()
    series: Mapping[str, tuple[float, ...]] | None = None
    not_run: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Report:
    """All that was measured on one server.

    Attributes:
        postgres: The server's version.
        origin: Where its programs come from.
        stepquota: Our version.
        finished_at: When, as an ISO 8601 text.
        minutes: How long all of it took.
        machine: Where.
        settings: The server's settings, those that matter here.
        options: How it was measured.
        findings: What came out.
    """

    postgres: str
    origin: str
    stepquota: str
    finished_at: str
    minutes: float
    machine: Machine
    settings: Mapping[str, str]
    options: Mapping[str, int]
    findings: Findings


def merge(all_findings: Sequence[Findings]) -> Findings:
    """Several findings as one."""
    return Findings(
        tuple(outcome for each in all_findings for outcome in each.outcomes),
        tuple(beside for each in all_findings for beside in each.besides),
        {name: rates for each in all_findings for name, rates in (each.series or {}).items()},
        {name: reason for each in all_findings for name, reason in (each.not_run or {}).items()},
    )


def compare(
    letter: str,
    ours: tuple[str, Sequence[float]],
    peer: tuple[str, Sequence[float]],
    unit: str,
    goal: Goal,
    note: str = "",
) -> Outcome:
    """An outcome from the figures of each repetition, ours and the peer's taken in turns."""
    ratios = [mine / other for mine, other in zip(ours[1], peer[1], strict=True)]
    return Outcome(
        letter, ours[0], peer[0], unit, median(ours[1]), median(peer[1]), median(ratios), goal, note
    )
