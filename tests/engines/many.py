"""What is asked of each engine beside the kit: 200 runs at once, and what asking costs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from statistics import quantiles

from stepquota.testing import Adapter, Conformance
from stepquota.testing.conformance import Bench


class _TwoHundred(Conformance):
    patience_seconds = 180.0
    crowd = 200


def run_dry_and_go_on(adapter: Adapter, database_url: str) -> None:
    """A tenant runs dry in the middle of 200 runs: all pause, all complete, none twice."""
    with closing(Bench(adapter, database_url, _TwoHundred.patience_seconds)) as bench:
        _TwoHundred().test_two_workers_share_the_quota_exactly(bench)


def report(engine: str, without: Sequence[float], with_quota: Sequence[float]) -> None:
    """Print seconds a step as milliseconds, without and with stepquota."""

    def figures(seconds: Sequence[float]) -> tuple[float, float]:
        parts = quantiles(seconds, n=100)
        return parts[49] * 1000, parts[98] * 1000

    own, both = figures(without), figures(with_quota)
    print(
        f"\n{engine}: a step takes {own[0]:.1f} ms (p50) and {own[1]:.1f} ms (p99), with stepquota "
        f"{both[0]:.1f} and {both[1]:.1f}, so it costs {both[0] - own[0]:.1f} and "
        f"{both[1] - own[1]:.1f}; {len(with_quota)} steps"
    )
