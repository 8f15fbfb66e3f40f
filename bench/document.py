"""Writes docs/performance.md and its charts from reports."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from .charts import Bar, draw_bars, draw_lines
from .outcomes import Report
from .report import WIDTH, bar, figure, table_lines

_CHARTS = "performance"
_ABOUT = """# Performance

<!-- Written by "make bench". Do not edit: the next run writes it again. -->

What a reservation costs, measured by `make bench` against its peers. All of a
version was measured in one run, on a server of its own with durable commits:
every figure waits for the disk. Contenders took turns, so that what disturbs
the machine disturbs them all. Figures are medians; a ratio is the median of the
ratios within each turn. After each run the counter was compared with what had
been committed, and it was the same every time. `stepquota.watch()` runs beside,
as pg_cron has it run in production, but where scans are measured.

"must" is the goal, "aim" what we would like to reach; "reached" says which of
the two was, and "no" is a goal that was missed.
"""
_PEERS = """## The peers

- P1: the common algorithm, in one transaction of several statements: look up
  subscription, price, product and tier, upsert, `SELECT ... FOR UPDATE`, and
  then `UPDATE`.
- P2: one guarded `UPDATE` of one row, all clients on that row.
- P3: the same `UPDATE`, each client on a row of its own: the floor.
- P3f: P3 in a `SECURITY DEFINER` function with a pinned search path that
  answers the columns of ours.
- P4: rate-limiter-flexible on PostgreSQL, from npm, driven by Node.
- P5: Redis, a Lua script that checks and increments, `appendfsync always`.

For e, the peer is one function that writes the same ledger row to the same kind
of table, the run's row, and a counter row of each client's own. For f, it is a
function that reads one row by its primary key. For j, single calls are those of
64 tasks of one Python process too, each on a connection of its own; both they
and the `Reserver` prepare their statements (`prepare=True`), and P5 has 64
clients. For m to s "the bar" is the goal itself, as a figure. m is one scan,
batch 100, over a million open waits of 10,000 tenants of whom 10 have units,
without waiting for the disk, and against the same with one wait a tenant; the
common design, beside it, takes the oldest hundred waits of all tenants and then
asks for their capacity. n is a scan with nothing due, o its comparison for
edits by hand, p and r one tenant with 10,000 paused runs before another one's
single run. q is one worker of the Python package that listens. Sizes (l) are
measured without waiting for the disk at each commit, by a procedure that
commits after each reservation. u is what people wait for, the page of one
tenant, lists, `top` and `metrics()`, with 100,000 tenants that have ten paused
runs each.
"""


def write_document(reports: Sequence[Report], folder: Path) -> None:
    """Write the page and its charts into the folder of the documentation."""
    charts = folder / _CHARTS
    charts.mkdir(exist_ok=True)
    for old in charts.glob("*.svg"):
        old.unlink()
    parts = [_ABOUT]
    for report in reports:
        parts.append(_section(report, charts))
    parts.append(_PEERS)
    (folder / "performance.md").write_text("\n".join(parts), encoding="utf-8")


def _section(report: Report, charts: Path) -> str:
    machine, options = report.machine, report.options
    major = report.postgres.partition(".")[0]
    findings = report.findings
    settings = ", ".join(f"`{name}={value}`" for name, value in report.settings.items())
    notes = [f"{o.letter}, {o.ours}: {o.note}." for o in findings.outcomes if o.note]
    notes += [
        f"{b.letter}, beside it: {b.what} {figure(b.figure, b.unit)}." for b in findings.besides
    ]
    notes += [f"Not run: {name}: {why}." for name, why in (findings.not_run or {}).items()]
    lines = [
        f"## PostgreSQL {report.postgres}",
        "",
        _wrap(
            f"From {report.origin}, with stepquota {report.stepquota}, "
            f"on {report.finished_at[:10]}. "
            f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:g} GiB, "
            f"{machine.system}, data on {machine.file_system}; "
            f"a flush takes {machine.flush_ms} ms. "
            f"{options['clients']} clients with prepared statements, "
            f"{options['seconds']} s a turn, "
            f"{options['repetitions']} turns each, {report.minutes:.0f} minutes in all."
        ),
        "",
        _wrap(f"Settings: {settings}."),
        "",
        "```text",
        *table_lines(findings.outcomes),
        "```",
        "",
        *(_wrap(note, "- ") for note in notes),
    ]
    pictures = {
        "throughput": _draw_throughput(report),
        "goals": _draw_goals(report),
        "snapshot": _draw_snapshot(report),
    }
    for name, picture in pictures.items():
        file = charts / f"postgres{major}_{name}.svg"
        file.write_text(picture, encoding="utf-8")
        lines += ["", f"![{name}]({_CHARTS}/{file.name})"]
    return "\n".join([*lines, ""])


def _wrap(text: str, bullet: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _draw_throughput(report: Report) -> str:
    findings = report.findings
    core = [o for o in findings.outcomes if o.letter in "abc" and o.unit == "/s"]
    rates = {o.ours: (o.our_figure, True) for o in core}
    for outcome in core:
        rates.setdefault(outcome.peer, (outcome.peer_figure, False))
    for beside in findings.besides:
        if beside.letter in "ac":
            rates[beside.what] = (beside.figure, False)
    bars = [
        Bar(name, rate, figure(rate, "/s"), is_ours)
        for name, (rate, is_ours) in sorted(rates.items(), key=lambda item: -item[1][0])
    ]
    return draw_bars(f"Units a second, PostgreSQL {report.postgres}", bars)


def _draw_goals(report: Report) -> str:
    # Shares of the bar, upside down where less is better, so that past the line is reached.
    bars = []
    for outcome in report.findings.outcomes:
        must, ratio = outcome.goal.must, outcome.ratio
        share = must / ratio if outcome.goal.at_most else ratio / must
        # Two outcomes of one letter differ by their peer; other peers have long names.
        peer = f" / {outcome.peer}" if outcome.peer.startswith("P") else ""
        label = f"{outcome.letter}  {outcome.ours}{peer}"
        against = f"{ratio:.2f} ({bar(outcome.goal, must)})"
        bars.append(Bar(label, min(share, 3), against, True, mark=1))
    title = f"Ratios as a share of the bar, cut at three times, PostgreSQL {report.postgres}"
    return draw_bars(title, bars)


def _draw_snapshot(report: Report) -> str:
    return draw_lines(
        f"While another connection holds a snapshot open, PostgreSQL {report.postgres}",
        report.findings.series or {},
        report.options["window_seconds"],
        "snapshot opened",
    )
