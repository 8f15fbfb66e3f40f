"""The counts at the end of ``make test-faults``, and whether they are good."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from faults.test_mixed_load import SECONDS

# What half an hour must reach.
HALF_AN_HOUR = 1800
LEAST = {"faults": 500, "acknowledged operations": 1_000_000, "random histories": 10_000}
NEVER = ("lost", "double", "over", "stranded", "drift", "violations")
_WORDS = {"over": "over the limit"}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """What is planted is looked for by ``make test-faults`` alone: it takes minutes."""
    return (not SECONDS and collection_path.name == "test_planted_bugs.py") or None


def add_up(reports: list[Any]) -> Counter[str]:
    """The counts of all tests."""
    counts: Counter[str] = Counter()
    for report in reports:
        counts.update(dict(report.user_properties).get("faults", {}))
    return counts


def describe(counts: Counter[str], seconds: float) -> tuple[list[str], list[str]]:
    """Lines for people, and what is not as it must be."""
    lines = [f"faults injected: {counts['faults']}"]
    kinds = [kind for kind in counts if kind.startswith("fault ")]
    lines += [
        f"  {kind.removeprefix('fault ').replace('_', ' ')}: {counts[kind]}"
        for kind in sorted(kinds, key=lambda kind: -counts[kind])
    ]
    if counts["worlds with no disk to fill"]:
        lines.append("  fill disk: left out, since no file system may be mounted here")
    lines.append(
        f"acknowledged operations: {counts['acknowledged operations']} "
        f"in {counts['transactions']} transactions"
    )
    lines.append(
        f"random histories: {counts['random histories']}, gone wrong: "
        f"{counts['histories gone wrong']}"
    )
    lines.append(", ".join(f"{_WORDS.get(kind, kind)} {counts[kind]}" for kind in NEVER))
    wrong = [f"{_WORDS.get(kind, kind)}: {counts[kind]}" for kind in NEVER if counts[kind]]
    if seconds >= HALF_AN_HOUR:
        wrong += [
            f"{kind}: {counts[kind]}, not {n}" for kind, n in LEAST.items() if counts[kind] < n
        ]
    return lines, wrong


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    reports = [r for name in ("passed", "failed") for r in terminalreporter.stats.get(name, [])]
    counts = add_up(reports)
    if not counts:
        return
    lines, wrong = describe(counts, SECONDS)
    terminalreporter.section("faults")
    for line in lines + [f"NOT GOOD: {what}" for what in wrong]:
        terminalreporter.write_line(line)
    if wrong and exitstatus == pytest.ExitCode.OK:
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED
