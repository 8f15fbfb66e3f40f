"""What is asked of each engine beside the kit.

A tenant that runs dry in the middle of 200 runs; silence while they are paused; workers that are
killed again and again; and what asking costs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from statistics import quantiles
from typing import NamedTuple

import psycopg

from stepquota.testing import Adapter, Script, Work
from stepquota.testing.conformance import TENANT, Bench

Tell = Callable[[str], None]
RUNS = 200
THREE_STEPS: Script = tuple(Work(f"root.steps[{number}]") for number in range(3))
# A session that does nothing tells its counts after ten seconds.
FLUSH_SECONDS = 12.0
WATCHED_SECONDS = 10.0


class Calls(NamedTuple):
    """What a database did in a while.

    Attributes:
        functions: calls of stepquota's functions, by name.
        transactions: transactions of anybody, those of the engine too.
    """

    functions: Counter[str]
    transactions: int


def track_functions(database_url: str) -> None:
    """Have the calls of those counted who connect from now on."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f'alter database "{name}" set track_functions = pl'.encode())


def check_silence(tell: Tell, engine: str, count: int, idle: Calls, paused: Calls) -> None:
    """Nothing was called for paused runs that is not called where there are none."""
    tell(
        f"{engine}: {count} runs are paused; in {WATCHED_SECONDS:.0f} seconds"
        f" {paused.transactions} transactions, with no runs at all {idle.transactions}; "
        f"{paused.functions['claim_workflow_run_resumptions']} claims, "
        f"{paused.functions['start_workflow_step']} starts"
    )
    assert paused.functions["claim_workflow_run_resumptions"] > 0
    assert set(paused.functions) <= set(idle.functions), "somebody asks for paused runs"
    louder = paused.functions - idle.functions
    assert all(more <= 5 for more in louder.values()), louder


def watch(database_url: str) -> Calls:
    """What the database does from now on, for WATCHED_SECONDS."""
    time.sleep(FLUSH_SECONDS)
    before = _count(database_url)
    time.sleep(WATCHED_SECONDS)
    after = _count(database_url)
    return Calls(after.functions - before.functions, after.transactions - before.transactions)


def _count(database_url: str) -> Calls:
    with psycopg.connect(database_url) as connection:
        functions = connection.execute(
            "select funcname::text, calls from pg_stat_user_functions"
            " where schemaname = 'stepquota'"
        ).fetchall()
        row = connection.execute(
            "select (xact_commit + xact_rollback)::bigint from pg_stat_database"
            " where datname = current_database()"
        ).fetchone()
    assert row
    return Calls(Counter(dict(functions)), row[0])


def run_dry_and_go_on(
    tell: Tell, engine: str, adapter: Adapter, database_url: str, patience_seconds: float = 180.0
) -> None:
    """A tenant runs dry in the middle of 200 runs: all pause in silence, and all complete once."""
    track_functions(database_url)
    limit = RUNS
    names = [f"r{number}" for number in range(RUNS)]
    with closing(Bench(adapter, database_url, patience_seconds)) as bench:
        bench.set_limit(limit)
        for _ in range(2):
            bench.start_worker()
        idle = watch(database_url)
        bench.start(*names, script=THREE_STEPS)
        bench.until("the units are used", lambda: bench.used() == limit)
        bench.until_at_rest(*names)
        bench.check_counted(limit)
        paused = [name for name in names if bench.status(name) == "WAITING"]
        assert len(paused) >= RUNS - limit // len(THREE_STEPS)
        bench.until_paused(*paused)
        assert {adapter.state(TENANT, name) for name in paused} == {"open"}

        check_silence(tell, engine, len(paused), idle, watch(database_url))
        bench.check_counted(limit)

        bench.set_limit(10 * RUNS)
        bench.until_ended(*names)
        bench.check_counted(len(THREE_STEPS) * RUNS)
        executions = bench.executions()
        assert len(executions) == len(THREE_STEPS) * RUNS
        assert set(executions.values()) == {1}


def survive_kills(
    tell: Tell, engine: str, adapter: Adapter, database_url: str, patience_seconds: float = 180.0
) -> None:
    """Steps that fail, and workers killed all the time, before, in and after a pause."""
    runs, failures, kills = 40, 2, 0
    script: Script = (
        Work("root.steps[0]", failures=failures),
        Work("root.steps[1]"),
        Work("root.steps[2]", failures=1),
    )
    least = runs * (len(script) + failures + 1)
    names = [f"r{number}" for number in range(runs)]
    with closing(Bench(adapter, database_url, patience_seconds)) as bench:
        bench.set_limit(least // 2)
        workers = [bench.start_worker() for _ in range(3)]
        bench.start(*names, script=script)
        for part in range(1, 7):
            # The first three before the tenant runs dry, the others after its upgrade.
            goal = least * part // 8
            if part == 4:
                bench.until("the units are used", lambda: bench.used() == least // 2)
                bench.kill(workers.pop(0))
                workers.append(bench.start_worker())
                kills += 1
                bench.set_limit(100 * least)
            bench.until(f"{goal} executions", _reached(bench, goal))
            bench.kill(workers.pop(0))
            workers.append(bench.start_worker())
            kills += 1
        bench.until_ended(*names)
        ledger, executions = bench.ledger(), bench.executions()
        bench.check_counted(len(ledger))
        tell(
            f"{engine}: {len(ledger)} attempts counted, as many as its own history has; "
            f"{least} without kills; {executions.total()} executions; {kills} workers killed"
        )
        assert "STARTED" not in bench.ledger().values(), "dead attempts are left open"
        for name in names:
            assert executions[name, "root.steps[0]"] > failures
            assert executions[name, "root.steps[2]"] > 1


def _reached(bench: Bench, count: int) -> Callable[[], bool]:
    return lambda: bench.executions().total() >= count


def report(tell: Tell, engine: str, without: Sequence[float], with_quota: Sequence[float]) -> None:
    """Print seconds a step as milliseconds, without and with stepquota."""

    def figures(seconds: Sequence[float]) -> tuple[float, float]:
        parts = quantiles(seconds, n=100)
        return parts[49] * 1000, parts[98] * 1000

    own, both = figures(without), figures(with_quota)
    tell(
        f"{engine}: a step takes {own[0]:.1f} ms (p50) and {own[1]:.1f} ms (p99), with stepquota "
        f"{both[0]:.1f} and {both[1]:.1f}, so it costs {both[0] - own[0]:.1f} and "
        f"{both[1] - own[1]:.1f}; {len(with_quota)} steps"
    )
