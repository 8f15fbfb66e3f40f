"""The end of a test run: what was counted, what was not run and why, and whether that is allowed.

A test may be skipped only for a reason of the list in ``tests/allowed_skips``. The last line reads
``N passed, N failed, N skipped``; an assertion of pgTAP counts as a test.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_ALLOWED_SKIPS = Path(__file__).parent.parent / "allowed_skips"


@dataclass
class Totals:
    """Counted over all workers."""

    passed: int = 0
    failed: int = 0
    by_server: Counter[str] = field(default_factory=Counter)
    assertions_by_server: Counter[str] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    measured: list[str] = field(default_factory=list)

    @property
    def last_line(self) -> str:
        """The totals in the plain form."""
        return f"{self.passed} passed, {self.failed} failed, {self.skips.total()} skipped"

    @property
    def forbidden_skips(self) -> list[str]:
        """Reasons that the list does not allow."""
        allowed = _allowed_reasons()
        return [reason for reason in self.skips if not reason.startswith(allowed)]

    def lines(self) -> Iterable[str]:
        """What was measured, what was run where, and what was not run."""
        yield from self.measured
        for server in sorted(self.by_server):
            yield (
                f"{server}: {self.by_server[server]} tests, "
                f"{self.assertions_by_server[server]} pgTAP assertions"
            )
        for reason, count in sorted(self.skips.items()):
            verdict = "not allowed here, so the run fails" if reason in self.forbidden_skips else ""
            yield f"not run: {count} ({reason}) {verdict}".rstrip()


def count(stats: dict[str, list[Any]]) -> Totals:
    """The totals of what pytest's terminal reporter has gathered."""
    totals = Totals()
    for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
        for report in stats.get(outcome, []):
            if outcome in ("skipped", "xfailed"):
                totals.skips[_reason(report)] += 1
            else:
                _count_run(totals, report, failed=outcome != "passed")
    return totals


def _count_run(totals: Totals, report: Any, *, failed: bool) -> None:
    given = getattr(report, "user_properties", [])
    totals.measured += [text for name, text in given if name == "measured"]
    properties = dict(given)
    tap = properties.get("tap")
    if tap is None:
        totals.passed += not failed
        totals.failed += failed
    else:
        totals.passed += tap["passed"]
        totals.failed += max(tap["failed"], failed)
        totals.skips.update(tap["skips"])
    if server := properties.get("server"):
        if tap is None:
            totals.by_server[server] += 1
        else:
            totals.assertions_by_server[server] += tap["passed"] + tap["failed"]
            totals.by_server[server] += 0


def _reason(report: Any) -> str:
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(getattr(report, "wasxfail", "") or report.longrepr)


def _allowed_reasons() -> tuple[str, ...]:
    in_ci = os.environ.get("CI", "").lower() == "true"
    reasons = []
    for line in _ALLOWED_SKIPS.read_text(encoding="utf-8").splitlines():
        where, _, reason = line.partition(": ")
        if where == "always" or (where == "outside CI" and not in_ci):
            reasons.append(reason)
    return tuple(reasons)


class TotalsPlugin:
    """Ends the run of the main process with the totals, and fails it for a forbidden skip."""

    def __init__(self, config: pytest.Config):
        self._config = config
        self._totals: Totals | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Count, before pytest's terminal reporter prints its own summary."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is None or self._config.option.collectonly:
            return
        self._totals = count(reporter.stats)
        if self._totals.forbidden_skips and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Print the totals after everything else."""
        if self._totals:
            print(*self._totals.lines(), self._totals.last_line, sep="\n")
