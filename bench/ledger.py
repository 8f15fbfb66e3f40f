"""t: reserving and starting steps beside a ledger of a million rows and one of very many."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from .outcomes import Findings, Goal, Outcome, compare
from .pgbench import Run
from .servers import Database

if TYPE_CHECKING:
    from .measures import Bench

_FEW_ROWS = 1_000_000
_ROWS_OF_A_RUN = 100
_TENANTS = 1000
_CHUNK = 1_000_000
_GOAL = Goal(0.9, 0.97)

_START = """\\set i :i + 1
select * from stepquota.start_workflow_step(
  'c' || :client_id, 'r' || :client_id, 'root.steps[' || :i || ']');
"""
_RESERVE = """\\set n random(1, :tenants)
select * from stepquota.reserve_workflow_step('t' || :n);
"""

# Steps as they come: the tenants' runs by turns, the steps of a run together.
_FILL = """
insert into stepquota.workflow_run_steps
  (tenant, run_id, node_path, attempt, ledger_month, step_id, step_type, status, period_start,
   started_at, finished_at)
select 't' || 1 + n / {of_a_run} % {tenants}, 'run-' || n / {of_a_run},
       'root.steps[' || n % {of_a_run} || ']', 1, m.month, gen_random_uuid(), 'action',
       'SUCCEEDED', m.month, now(), now()
  from generate_series({begin}, {end} - 1) n,
       lateral (select date_trunc('month', now() at time zone 'utc')::date) as m (month)
"""


def measure_ledger(bench: Bench) -> Findings:
    """Two databases with the same load by turns; they differ in the size of the ledger."""
    options = bench.options
    if not options.ledger_rows:
        bench.say("t  left out: --ledger-rows 20000000 measures it, and takes some minutes more")
        return Findings()
    sizes = {"few": min(_FEW_ROWS, options.ledger_rows // 2), "many": options.ledger_rows}
    with ExitStack() as stack:
        databases = {
            name: stack.enter_context(bench.server.database(f"ledger_{name}")) for name in sizes
        }
        for name, rows in sizes.items():
            _fill(bench, databases[name], rows)
        contenders = {
            f"{what}, {sizes[name]:,} rows": partial(run, bench, database)
            for what, run in (("reserve", _reserve), ("start", _start))
            for name, database in databases.items()
        }
        runs = bench.take_turns("t", contenders)
    return Findings(
        tuple(
            _compare(what, runs, few=sizes["few"], many=sizes["many"])
            for what in ("reserve", "start")
        )
    )


def _compare(what: str, runs: dict[str, list[Run]], *, few: int, many: int) -> Outcome:
    def rates(rows: int) -> tuple[str, list[float]]:
        return f"{what}, {rows:,} rows", [run.rate for run in runs[f"{what}, {rows:,} rows"]]

    return compare("t", rates(many), rates(few), "/s", _GOAL)


def _reserve(bench: Bench, database: Database, _repetition: int) -> Run:
    from .measures import count_exactly

    return count_exactly(bench.load(database, _RESERVE, tenants=_TENANTS))


def _start(bench: Bench, database: Database, repetition: int) -> Run:
    from .measures import count_exactly

    # A node path is started once: numbers go on from one repetition to the next.
    return count_exactly(bench.load(database, _START, i=repetition * 100_000_000))


def _fill(bench: Bench, database: Database, rows: int) -> None:
    database.run(
        f"select count(*) from generate_series(1, {_TENANTS}) i,"
        " lateral stepquota.reserve_workflow_step('t' || i) r",
        f"select count(*) from generate_series(0, {bench.options.clients - 1}) i,"
        " lateral stepquota.register_workflow_run('c' || i, 'r' || i) r",
    )
    with database.connect() as connection:
        connection.execute("set synchronous_commit = off")
        for begin in range(0, rows, _CHUNK):
            end = min(begin + _CHUNK, rows)
            statement = _FILL.format(
                begin=begin, end=end, of_a_run=_ROWS_OF_A_RUN, tenants=_TENANTS
            )
            connection.execute(statement.encode())
            bench.say(f"t  {end:,} of {rows:,} rows in {database.name}")
        connection.execute("vacuum (analyze) stepquota.workflow_run_steps")
