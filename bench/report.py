"""Reports: as a table for people, as JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .machine import Machine
from .outcomes import Beside, Findings, Goal, Outcome, Report

WIDTH = 80
_STYLES = {"aim": "green", "must": "green", "no": "bold red"}


def figure(value: float, unit: str) -> str:
    """A figure with its unit, as people read it."""
    if unit == "/s":
        return f"{value:,.0f}/s"
    if unit == "x":
        return f"{value:.2f}"
    if not unit:
        return f"{value:,.0f}"
    return f"{value:,.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def bar(goal: Goal, value: float) -> str:
    """A bound with its direction, for instance ``>= 0.75``."""
    return f"{'<=' if goal.at_most else '>='} {value:g}"


def print_report(report: Report, console: Console) -> None:
    """The table, and what belongs to it."""
    machine = report.machine
    console.print()
    console.print(f"PostgreSQL {report.postgres} from {report.origin}", style="bold")
    console.print(
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB, "
        f"{machine.file_system}, a flush takes {machine.flush_ms:.3f} ms"
    )
    console.print(_table(report.findings.outcomes))
    for outcome in report.findings.outcomes:
        if outcome.note:
            console.print(f"{outcome.letter}: {outcome.ours}: {outcome.note}")
    for beside in report.findings.besides:
        console.print(
            f"{beside.letter}: beside it: {beside.what} {figure(beside.figure, beside.unit)}"
        )
    for name, reason in (report.findings.not_run or {}).items():
        console.print(f"not run: {name}: {reason}")
    missed = [o for o in report.findings.outcomes if o.reached == "no"]
    if missed:
        letters = ", ".join(sorted({outcome.letter for outcome in missed}))
        console.print(f"{len(missed)} goals are missed: {letters}", style="bold red")
    elif report.findings.outcomes:
        console.print("all goals are reached", style="green")
    console.print(f"every counter was what was committed; {report.minutes:.1f} minutes")


def table_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """The table as plain text."""
    console = Console(width=WIDTH, file=StringIO(), record=True, highlight=False)
    console.print(_table(outcomes))
    return [line.rstrip() for line in console.export_text(styles=False).splitlines()]


def _table(outcomes: Sequence[Outcome]) -> Table:
    table = Table(width=WIDTH, box=None, pad_edge=False, show_edge=False)
    table.add_column("")
    table.add_column("measured", ratio=3)
    table.add_column("", justify="right")
    table.add_column("against", ratio=2)
    for name in ("", "ratio", "must", "aim"):
        table.add_column(name, justify="right")
    table.add_column("reached")
    for outcome in outcomes:
        table.add_row(
            outcome.letter,
            outcome.ours,
            figure(outcome.our_figure, outcome.unit),
            outcome.peer,
            figure(outcome.peer_figure, outcome.unit),
            f"{outcome.ratio:.2f}",
            bar(outcome.goal, outcome.goal.must),
            f"{outcome.goal.aim:g}",
            outcome.reached,
            style=_STYLES[outcome.reached] if outcome.reached == "no" else None,
        )
    return table


def save(reports: Sequence[Report], path: Path) -> None:
    """Write reports as JSON."""
    runs = []
    for report in reports:
        run: dict[str, Any] = asdict(report)
        for outcome, written in zip(
            report.findings.outcomes, run["findings"]["outcomes"], strict=True
        ):
            written["reached"] = outcome.reached
        runs.append(_rounded(run))
    path.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


def load(path: Path) -> list[Report]:
    """Read reports that were saved; none if there is no such file."""
    if not path.exists():
        return []
    return [_report(run) for run in json.loads(path.read_text(encoding="utf-8"))["runs"]]


def _report(run: dict[str, Any]) -> Report:
    found = run.pop("findings")
    outcomes = []
    for outcome in found["outcomes"]:
        del outcome["reached"]
        outcomes.append(Outcome(**{**outcome, "goal": Goal(**outcome["goal"])}))
    findings = Findings(
        tuple(outcomes),
        tuple(Beside(**beside) for beside in found["besides"]),
        {name: tuple(rates) for name, rates in found["series"].items()},
        found["not_run"],
    )
    return Report(**{**run, "machine": Machine(**run["machine"]), "findings": findings})
