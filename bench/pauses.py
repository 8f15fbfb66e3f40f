"""The measures of pausing and resuming: what a scan costs, who starves, how soon a run goes on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import psycopg

import stepquota

from . import pgbench
from .outcomes import Beside, Findings, Goal, Inexact, Outcome, compare
from .pgbench import Load
from .servers import Database

if TYPE_CHECKING:
    from .measures import Bench

_SQL = Path(__file__).parent / "pauses.sql"

# Of the many tenants only these have units, ten each: a scan resumes a hundred runs.
_ELIGIBLE = 10
_RESUMED = 100
_SCAN = "call stepquota.resume_scan(100)"
_CLAIMERS = 8
_CLAIM = "select * from stepquota.claim_workflow_run_resumptions('w' || :client_id, 100);\n"

_AT_MOST = Goal(1, 0.5, at_most=True)


def measure_pauses(bench: Bench) -> Findings:
    """m to s: scans over very many waits, the common design beside them, and deliveries."""
    options = bench.options
    outcomes: list[Outcome] = []
    besides: list[Beside] = []
    waits = options.paused_tenants * options.paused_runs
    with (
        bench.server.database("many_waits", is_watched=False) as many,
        bench.server.database("few_waits", is_watched=False) as few,
    ):
        # As many runs can go on there.
        few_tenants = waits // 100 // 10
        for database, tenants, runs in (
            (many, options.paused_tenants, options.paused_runs),
            (few, few_tenants, 10),
        ):
            bench.say(f"m  making {tenants * runs:,} waits")
            _prepare(database, tenants, runs)
        with many.connect() as in_many, few.connect() as in_few:
            for connection in (in_many, in_few):
                # Flushes are not counted; nor is reading the functions for the first time.
                connection.execute("set synchronous_commit = off")
                connection.execute(_SCAN)
            scans = [(_scan(in_many), _scan(in_few)) for _ in range(5)]
            idle = [_timed(in_many, _SCAN) for _ in range(5)]
            compared = [_compare(in_many) for _ in range(5)]
            oldest, resumed = _scan_oldest(in_many)
        ours = (f"a scan, {waits:,} waits", [scan[0] for scan in scans])
        outcomes += [
            _bar("m", *ours, 50),
            compare(
                "m",
                ours,
                (f"with {few_tenants * 10:,} waits", [scan[1] for scan in scans]),
                "ms",
                Goal(1.2, 1.0, at_most=True),
            ),
            _bar("n", "a scan, nothing due", idle, 10),
            _bar("o", "looking for edits by hand", compared, 50),
        ]
        besides += [
            Beside("m", "the common design, oldest waits first", "ms", oldest),
            Beside("m", f"runs that it resumed, of {_RESUMED} that could go on", "", resumed),
        ]
    with bench.server.database("one_tenant", is_watched=False) as database:
        outcomes += _measure_one_tenant(bench, database)
    with bench.server.database("deliveries", is_watched=False) as database:
        outcomes += [_measure_upgrades(bench, database), _measure_claims(bench, database)]
    return Findings(tuple(outcomes), tuple(besides))


def _prepare(database: Database, tenants: int, runs: int) -> None:
    database.run(
        _SQL.read_text(encoding="utf-8"),
        f"call peers.pause_runs({tenants}, {runs}, {_ELIGIBLE})",
        "vacuum analyze",
    )


def _bar(letter: str, what: str, figures: Sequence[float], most: float) -> Outcome:
    """A time that has a bar of its own."""
    return compare(letter, (what, figures), ("the bar", [most] * len(figures)), "ms", _AT_MOST)


def _timed(connection: psycopg.Connection[Any], statement: str) -> float:
    begin = time.monotonic()
    connection.execute(statement.encode())
    return (time.monotonic() - begin) * 1000


def _scan(connection: psycopg.Connection[Any]) -> float:
    """The time of a scan that resumes what can go on; what was resumed before is paused again."""
    connection.execute(
        "update stepquota.workflow_run_waits set status = 'WAITING', resolved_at = null"
        " where tenant = any(%s) and status = 'RESOLVED'",
        [[f"p{n}" for n in range(1, _ELIGIBLE + 1)]],
    )
    connection.execute(f"call peers.make_due({_ELIGIBLE})".encode())
    took = _timed(connection, _SCAN)
    row = connection.execute(
        "select count(*), count(distinct tenant) from stepquota.workflow_run_resumptions"
    ).fetchone()
    if row != (_RESUMED, _ELIGIBLE):
        raise Inexact(f"a scan resumed {row} runs and tenants")
    return took


def _compare(connection: psycopg.Connection[Any]) -> float:
    connection.execute("update stepquota.scan_state set inputs_compared_at = null")
    return _timed(connection, "select stepquota._mark_edited_tenants(clock_timestamp())")


def _scan_oldest(connection: psycopg.Connection[Any]) -> tuple[float, float]:
    """How long the common design takes, and how many runs it resumes."""
    connection.execute(f"call peers.make_due({_ELIGIBLE})".encode())
    figures, resumed = [], 0
    for _ in range(5):
        begin = time.monotonic()
        row = connection.execute("select peers.scan_oldest(100)").fetchone()
        figures.append((time.monotonic() - begin) * 1000)
        resumed = row[0] if row else 0
    return median(figures), float(resumed)


def _measure_one_tenant(bench: Bench, database: Database) -> list[Outcome]:
    """p and r: one run behind ten thousand of another tenant, all of which may go on."""
    runs = bench.options.paused_of_one
    database.run(_SQL.read_text(encoding="utf-8"), f"call peers.pause_runs(2, {runs}, 0)")
    database.run(
        "delete from stepquota.workflow_run_waits where tenant = 'p2' and run_id <> 'r1'",
        "delete from stepquota.workflow_runs where tenant = 'p2' and run_id <> 'r1'",
        # The lone one is the last of all.
        "update stepquota.workflow_run_waits set queued_at = clock_timestamp() where tenant = 'p2'",
        "delete from stepquota.stripe_subscriptions",
        "vacuum analyze",
    )
    with database.connect() as connection:
        connection.execute("update stepquota.tiers set step_limit = 1000000 where tier = 'ten'")
        connection.execute("select stepquota._make_all_quotas_stale()")
        connection.execute("update stepquota.paused_tenants set due_at = clock_timestamp()")
        connection.execute("update stepquota.scan_state set inputs_compared_at = clock_timestamp()")
        took = _timed(connection, "call stepquota.resume_scan(1000)") / 1000
    done = database.number("select count(*) from stepquota.workflow_run_resumptions")
    if done != runs + 1:
        raise Inexact(f"{done} runs were resumed of {runs + 1}")
    # How many were resumed in transactions before it: with the first there are none.
    before = database.number(
        "select count(*) from stepquota.workflow_run_resumptions r,"
        " stepquota.workflow_run_resumptions o"
        " where o.tenant = 'p2' and r.created_at < o.created_at - interval '1 second'"
    )
    scans = database.number(
        "select count(*) from stepquota.resume_scans s, stepquota.workflow_run_resumptions r"
        " where r.tenant = 'p2' and s.started_at <= r.created_at"
    )
    rate = done / took
    return [
        compare(
            "p",
            (f"scans until the run behind {runs:,} resumes", [float(scans)]),
            ("the bar", [1.0]),
            "",
            Goal(1, 1, at_most=True),
            note=f"{before} runs were resumed a second or more before it",
        ),
        compare(
            "r",
            (f"resuming {runs:,} runs of one tenant", [rate]),
            ("the bar", [20_000.0]),
            "/s",
            Goal(1, 2),
            note="in transactions of a thousand",
        ),
    ]


def _measure_upgrades(bench: Bench, database: Database) -> Outcome:
    """q: from the commit of an upgrade to the run in the hands of a worker that waits."""
    upgrades = bench.options.upgrades
    url = database.server.local.url(database.name)
    claimed: dict[str, float] = {}
    heard = threading.Event()
    with database.connect() as operator:
        stepquota.set_tier_limit(operator, "one", 1)
        for number in range(upgrades):
            tenant = f"u{number}"
            stepquota.set_tenant_plan(operator, tenant, "one")
            stepquota.register_workflow_run(operator, tenant, "r")
            stepquota.start_workflow_step(operator, tenant, "r", "a")
            stepquota.finish_workflow_step(operator, tenant, "r", "a", 1, "SUCCEEDED")
            stepquota.start_workflow_step(operator, tenant, "r", "b")
        with stepquota.resumptions(url, "bench", poll_seconds=60) as loop:

            def work() -> None:
                for resumption in loop:
                    claimed[resumption.tenant] = time.monotonic()
                    heard.set()

            worker = threading.Thread(target=work)
            worker.start()
            until = time.monotonic() + 10
            while not loop.is_listening and time.monotonic() < until:
                time.sleep(0.01)
            delays = []
            for number in range(upgrades):
                heard.clear()
                stepquota.set_tenant_plan(operator, f"u{number}", "premium")
                committed = time.monotonic()
                if not heard.wait(30):
                    raise Inexact(f"the run of tenant u{number} was not claimed in 30 s")
                delays.append((claimed[f"u{number}"] - committed) * 1000)
            loop.stop()
            worker.join()
    delays.sort()
    p99 = max(delays[math.ceil(len(delays) * 0.99) - 1], 0.01)
    bench.say(f"q  {upgrades} upgrades: median {median(delays):.1f} ms, p99 {p99:.1f} ms")
    return compare(
        "q",
        ("from an upgrade to the claim, p99", [p99]),
        ("the bar", [100.0]),
        "ms",
        _AT_MOST,
        note=f"{upgrades} upgrades, one after the other; median {median(delays):.1f} ms",
    )


def _measure_claims(bench: Bench, database: Database) -> Outcome:
    """s: eight workers who claim a hundred at a time."""
    calls = bench.options.claims // (_CLAIMERS * 100)
    database.run(
        _SQL.read_text(encoding="utf-8"),
        f"call peers.resume_runs(1000, {bench.options.claims // 1000 + 50})",
        "vacuum analyze",
    )
    done = pgbench.run(Load(database, _CLAIM, clients=_CLAIMERS, transactions=calls))
    delivered = database.number(
        "select sum(cardinality(deliveries)) from stepquota.workflow_run_resumptions"
        " where worker like 'w%'"
    )
    twice = database.number(
        "select count(*) from stepquota.workflow_run_resumptions where cardinality(deliveries) > 1"
    )
    if delivered != done.transactions * 100 or twice:
        raise Inexact(f"{delivered} claims in {done.transactions} calls, {twice} of them twice")
    rate = done.rate * 100
    bench.say(f"s  {delivered:,} claims, {rate:,.0f}/s")
    return compare(
        "s",
        (f"claims by {_CLAIMERS} workers", [rate]),
        ("the bar", [5_000.0]),
        "/s",
        Goal(1, 2),
        note="a hundred in a call; none was delivered twice",
    )
