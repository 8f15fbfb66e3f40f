"""The measures, by the letters of the table of goals.

Contenders take turns in every repetition, so that what disturbs the machine disturbs them all; a
ratio is taken within a repetition. After every run of ours the counter is compared with what was
committed: one unit of difference ends the bench.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from urllib.parse import quote

from stepquota.problems import Problem

from . import pgbench
from .ledger import measure_ledger
from .others import NotHere, rate_limiter, redis
from .outcomes import Beside, Findings, Goal, Inexact, Outcome, compare
from .pauses import measure_pauses
from .pgbench import TENTHS, Load, Run
from .servers import USER, BenchServer, Database

TENANTS = 1000
TASKS = 64
_COUNTED = "select coalesce(sum(used_count), 0) from stepquota.workflow_step_usage_lanes"
_OPEN_BATCHES = (
    "select count(*) from stepquota.workflow_step_batches "
    "where closed_at is null or handed_out_count < granted_count"
)
_TENANT_TABLES = (
    "workflow_step_quotas",
    "workflow_step_usage_periods",
    "workflow_step_usage_lanes",
)

# Scripts of pgbench, a transaction each.
_RESERVE_ANY = """\\set n random(1, :tenants)
select * from stepquota.reserve_workflow_step('t' || :n);
"""
_RESERVE_HOT = "select * from stepquota.reserve_workflow_step('hot');\n"
_P1 = """begin;
select s.price, s.current_period_start as start from peers.subscriptions s
 where s.tenant = 'hot' and s.status in ('trialing', 'active', 'past_due', 'unpaid')
   and s.current_period_start <= now() and now() < s.current_period_end
 order by s.status, s.current_period_start desc, s.id limit 1 \\gset
select p.product, coalesce(p.metadata ->> 'workflow_step_limit', '0') as price_limit
  from peers.prices p where p.id = :price \\gset
select coalesce(p.metadata ->> 'workflow_step_limit', '0') as product_limit
  from peers.products p where p.id = :product \\gset
select t.step_limit as tier_limit
  from peers.tenants n join peers.tiers t on t.tier = n.plan where n.tenant = 'hot' \\gset
insert into peers.usage (tenant, period_start) values ('hot', :start::timestamptz)
    on conflict do nothing;
select u.used_count as used from peers.usage u
 where u.tenant = 'hot' and u.period_start = :start::timestamptz for update \\gset
\\if :used < :tier_limit
update peers.usage set used_count = used_count + 1
 where tenant = 'hot' and period_start = :start::timestamptz;
\\endif
commit;
"""
_UPDATE = """update peers.counters set used_count = used_count + 1
 where tenant = {tenant} and (step_limit is null or used_count < step_limit)
returning used_count, step_limit;
"""
_P2 = _UPDATE.format(tenant="'hot'")
_P3 = _UPDATE.format(tenant="'c' || :client_id")
_P3_SPREAD = "\\set n random(1, :tenants)\n" + _UPDATE.format(tenant="'t' || :n")
_P3F = "select * from peers.take_unit('c' || :client_id);\n"
_STAY_OPEN = """begin;
select * from stepquota.reserve_workflow_step({tenant});
\\sleep 10 ms
commit;
"""
_START = """\\set i :i + 1
select * from {function}('c' || :client_id, 'r' || :client_id, 'root.steps[' || :i || ']');
"""
_BATCH = "select * from stepquota.reserve_workflow_steps('{tenant}', {units});\n"
_MANY = "call peers.reserve_many(:count, :tenants);\n"

Contender = Callable[[int], Run]


@dataclass(frozen=True)
class Options:
    """How to measure; the defaults are the sizes that the goals are about.

    But for l, whose ten million take seven minutes more than three.

    Attributes:
        clients: Connections at once.
        seconds: How long a contender has in each repetition.
        repetitions: How often each has its turn.
        snapshot_seconds: How long g holds a snapshot open.
        window_seconds: The first and the last seconds that g compares.
        tenants: The many tenants of i.
        reservations: How many l makes.
        few_reservations: After how many l looks for the first time.
        tight_limit: The limit that f uses up.
        paused_tenants: How many tenants of m wait.
        paused_runs: How many runs each of them has.
        paused_of_one: How many runs the one tenant of r has.
        upgrades: How many q makes.
        claims: How many s makes.
        ledger_rows: Rows of the larger ledger of t; 0 leaves t out.
    """

    clients: int = 32
    seconds: int = 4
    repetitions: int = 3
    snapshot_seconds: int = 60
    window_seconds: int = 10
    tenants: int = 1_000_000
    reservations: int = 3_000_000
    few_reservations: int = 100_000
    tight_limit: int = 20_000
    paused_tenants: int = 10_000
    paused_runs: int = 100
    paused_of_one: int = 10_000
    upgrades: int = 300
    claims: int = 40_000
    ledger_rows: int = 0


@dataclass(frozen=True)
class Bench:
    """What a measure works with.

    Attributes:
        server: The server.
        options: How to measure.
        folder: A folder on the same disk as the server's data.
        wanted: The letters of the measures that are wanted.
        say: Tells people how far it is.
    """

    server: BenchServer
    options: Options
    folder: Path
    wanted: frozenset[str]
    say: Callable[[str], None]

    def load(self, database: Database, script: str, **variables: int) -> Load:
        """A load of the usual size."""
        return Load(
            database,
            script,
            clients=self.options.clients,
            seconds=self.options.seconds,
            variables=variables,
        )

    def take_turns(
        self, letter: str, contenders: Mapping[str, Contender], repetitions: int | None = None
    ) -> dict[str, list[Run]]:
        """Run each contender once in each repetition, and answer all runs by contender."""
        runs: dict[str, list[Run]] = {name: [] for name in contenders}
        total = repetitions or self.options.repetitions
        for repetition in range(total):
            self.server.checkpoint()
            for name, contender in contenders.items():
                done = contender(repetition)
                runs[name].append(done)
                figure = f"{done.rate:,.0f}/s, median {done.median_ms:.2f} ms"
                self.say(f"{letter} {repetition + 1}/{total}  {name}: {figure}")
        return runs


def count_exactly(load: Load, units: int = 1) -> Run:
    """Run a load of reservations that are all granted, and compare counter and commits.

    Raises:
        Inexact: They differ.
    """
    before = load.database.number(_COUNTED)
    done = pgbench.run(load)
    _check(load.database, before, done.transactions * units)
    return done


def _check(database: Database, before: int, committed: int) -> None:
    counted = database.number(_COUNTED) - before
    if counted != committed:
        raise Inexact(
            f"stepquota counted {counted} units where {committed} were committed "
            f"in the database {database.name}"
        )


def _reserve_each(database: Database, tenants: int) -> None:
    database.run(
        "select count(*) from generate_series(1, "
        f"{tenants}) i, lateral stepquota.reserve_workflow_step('t' || i) r"
    )


def _rates(runs: list[Run]) -> list[float]:
    return [run.rate for run in runs]


def measure_core(bench: Bench) -> Findings:
    """a, b, c and k: a unit each, of many tenants and of one."""
    wanted = bench.wanted
    with bench.server.database("core") as database, ExitStack() as stack:
        database.run(
            "insert into peers.counters (tenant, step_limit) "
            "select 'c' || i, 1000000000 from generate_series(0, 99) i",
            "insert into peers.counters (tenant, step_limit) values ('hot', 1000000000)",
            "select * from stepquota.reserve_workflow_step('hot')",
        )
        _reserve_each(database, TENANTS)
        peers: dict[str, Contender] = {}
        not_run: dict[str, str] = {}
        if "c" in wanted:
            peers["P1"] = lambda _: pgbench.run(bench.load(database, _P1))
            peers["P2"] = lambda _: pgbench.run(bench.load(database, _P2))
            try:
                limiter = stack.enter_context(rate_limiter(bench.folder))
                peers["P4"] = lambda _: limiter.run(
                    database, bench.options.clients, bench.options.seconds
                )
            except NotHere as reason:
                not_run["P4, rate-limiter-flexible on PostgreSQL"] = str(reason)
            try:
                server = stack.enter_context(redis(bench.folder))
                peers["P5"] = lambda _: server.run(bench.options.clients, bench.options.seconds)
            except NotHere as reason:
                not_run["P5, Redis"] = str(reason)
        if "a" in wanted:
            peers["P3"] = lambda _: pgbench.run(bench.load(database, _P3))
        if wanted & {"a", "k"}:
            peers["P3f"] = lambda _: pgbench.run(bench.load(database, _P3F))
        if wanted & {"a", "b"}:
            peers["a"] = lambda _: count_exactly(
                bench.load(database, _RESERVE_ANY, tenants=TENANTS)
            )
        peers["b"] = lambda _: count_exactly(bench.load(database, _RESERVE_HOT))
        # Once unmeasured, so that the hot tenant has its lanes and every plan its statistics.
        count_exactly(replace(bench.load(database, _RESERVE_HOT), seconds=1))
        return _core_findings(bench.take_turns("abck", peers), wanted, not_run)


def _core_findings(
    runs: Mapping[str, list[Run]], wanted: frozenset[str], not_run: Mapping[str, str]
) -> Findings:
    rates = {name: _rates(each) for name, each in runs.items()}
    many = "1,000 tenants"
    hot = "one hot tenant"
    outcomes: list[Outcome] = []
    if "a" in wanted:
        outcomes.append(
            compare("a", (many, rates["a"]), ("P3f", rates["P3f"]), "/s", Goal(0.75, 0.95))
        )
    if "b" in wanted:
        outcomes.append(compare("b", (hot, rates["b"]), (many, rates["a"]), "/s", Goal(0.95, 1.1)))
    if "c" in wanted:
        outcomes += [
            compare("c", (hot, rates["b"]), ("P1", rates["P1"]), "/s", Goal(8, 12)),
            compare("c", (hot, rates["b"]), ("P2", rates["P2"]), "/s", Goal(4, 6)),
        ]
    if "k" in wanted:
        slowest = {name: [run.p99_ms for run in runs[name]] for name in ("b", "P3f")}
        outcomes.append(
            compare(
                "k",
                ("one hot tenant, p99", slowest["b"]),
                ("P3f, p99", slowest["P3f"]),
                "ms",
                Goal(2.5, 1.5, at_most=True),
            )
        )
    besides = [
        Beside(letter, name, "/s", median(rates[name]))
        for letter, name in (("a", "P3"), ("c", "P4"), ("c", "P5"))
        if name in rates
    ]
    return Findings(tuple(outcomes), tuple(besides), not_run=not_run)


def measure_open_transactions(bench: Bench) -> Findings:
    """d: the caller's transaction stays open for 10 ms after reserving."""
    goal = Goal(0.9, 1.0)
    seconds = max(bench.options.seconds, 3)
    with bench.server.database("open") as database:
        each = _STAY_OPEN.format(tenant="'t' || :client_id")
        hot = _STAY_OPEN.format(tenant="'hot' || :repetition")

        def run(script: str, repetition: int) -> Run:
            # A hot tenant of its own for each repetition, which starts from one lane.
            database.run(f"select * from stepquota.reserve_workflow_step('hot{repetition}')")
            load = bench.load(database, script, repetition=repetition)
            return count_exactly(replace(load, seconds=seconds))

        count_exactly(replace(bench.load(database, each), seconds=1))
        runs = bench.take_turns(
            "d", {"a tenant each": lambda n: run(each, n), "one hot tenant": lambda n: run(hot, n)}
        )
    within = 2 * TENTHS
    # The last tenth is not a whole one.
    after = {name: [fmean(run.rates[within:-1]) for run in all_] for name, all_ in runs.items()}
    reached = [
        _first_reached(run.rates, goal.must * other)
        for run, other in zip(runs["one hot tenant"], after["a tenant each"], strict=True)
    ]
    seconds_to_bar = [value for value in reached if value is not None]
    note = "from 2 s on; the bar was not reached in every turn"
    if len(seconds_to_bar) == len(reached):
        note = f"from 2 s on; the bar was reached after {median(seconds_to_bar):.1f} s"
    outcome = compare(
        "d",
        ("hot, open 10 ms", after["one hot tenant"]),
        ("a tenant each", after["a tenant each"]),
        "/s",
        goal,
        note,
    )
    return Findings((outcome,))


def _first_reached(rates: tuple[float, ...], bar: float) -> float | None:
    """The second from which on half a second is above the bar."""
    width = TENTHS // 2
    for n in range(len(rates) - width):
        if fmean(rates[n : n + width]) >= bar:
            return n / TENTHS
    return None


def measure_start(bench: Bench) -> Findings:
    """e: start_workflow_step, against the same rows written by one function."""
    last = bench.options.clients - 1
    with bench.server.database("start") as database:
        database.run(
            f"select count(*) from generate_series(0, {last}) i, "
            "lateral stepquota.register_workflow_run('c' || i, 'r' || i) r",
            "insert into peers.workflow_runs select * from stepquota.workflow_runs",
            "insert into peers.counters (tenant, step_limit) "
            f"select 'c' || i, 1000000000 from generate_series(0, {last}) i",
        )

        def start(function: str, repetition: int) -> Load:
            # A node path is started once: numbers go on from one repetition to the next.
            script = _START.format(function=function)
            return bench.load(database, script, i=repetition * 100_000_000)

        def ours(repetition: int) -> Run:
            ledger = "select count(*) from stepquota.workflow_run_steps"
            before = database.number(ledger)
            done = count_exactly(start("stepquota.start_workflow_step", repetition))
            if (written := database.number(ledger) - before) != done.transactions:
                raise Inexact(f"{written} ledger rows for {done.transactions} started steps")
            return done

        runs = bench.take_turns(
            "e",
            {
                "same rows": lambda n: pgbench.run(start("peers.start_step", n)),
                "starting a step": ours,
            },
        )
    rates = [(name, _rates(all_)) for name, all_ in runs.items()]
    return Findings((compare("e", rates[1], rates[0], "/s", Goal(0.7, 0.9)),))


def measure_denial(bench: Bench) -> Findings:
    """f: a tenant whose limit is used up, against reading one row."""
    limit, clients = bench.options.tight_limit, bench.options.clients
    with bench.server.database("denial") as database:
        database.run(
            f"select * from stepquota.set_tier_limit('tight', {limit})",
            "select * from stepquota.set_tenant_plan('hot', 'tight')",
            f"insert into peers.counters values ('hot', {limit}, {limit})",
        )
        # All clients run into the limit together: exactly so many are granted.
        demand = Load(
            database, _RESERVE_HOT, clients, transactions=limit // clients + limit // 100 + 1
        )
        before = database.number(_COUNTED)
        pgbench.run(demand)
        _check(database, before, limit)
        ours = bench.load(database, _RESERVE_HOT)
        peer = bench.load(database, "select * from peers.read_unit('hot');\n")
        runs = bench.take_turns(
            "f",
            {
                "reading one row": lambda _: pgbench.run(peer),
                "a denial": lambda _: pgbench.run(ours),
            },
        )
        _check(database, before, limit)
    rates = [(name, _rates(all_)) for name, all_ in runs.items()]
    note = f"exactly {limit:,} were granted before"
    return Findings((compare("f", rates[1], rates[0], "/s", Goal(0.5, 0.8), note),))


def measure_snapshot(bench: Bench) -> Findings:
    """g: another connection holds a snapshot open."""
    options = bench.options
    window = options.window_seconds

    def hold(load: Load) -> Run:
        before = load.database.number(_COUNTED)
        seconds = window + options.snapshot_seconds
        running = pgbench.start(replace(load, seconds=seconds, warm_up=0))
        time.sleep(window)
        with load.database.connect() as connection:
            connection.execute("begin isolation level repeatable read")
            connection.execute("select count(*) from stepquota.policy")
            done = running.finish()
        if load.script == _RESERVE_HOT:
            _check(load.database, before, done.transactions)
        load.database.run("vacuum")
        return done

    with bench.server.database("snapshot") as database:
        database.run(
            "insert into peers.counters (tenant) select 'c' || i from generate_series(0, 99) i"
        )
        ours, peer = bench.load(database, _RESERVE_HOT), bench.load(database, _P3)
        count_exactly(replace(ours, seconds=1))
        runs = bench.take_turns("g", {"one hot tenant": lambda _: hold(ours)})
        # A long time for what is only beside: once will do.
        others = bench.take_turns("g", {"P3": lambda _: hold(peer)}, repetitions=1)
    first, last = (
        [fmean(part) for run in runs["one hot tenant"] if (part := run.rates[slice_])]
        for slice_ in _windows(window)
    )
    of_p3 = [fmean(others["P3"][0].rates[slice_]) for slice_ in _windows(window)]
    outcome = compare(
        "g",
        (f"snapshot, last {window} s", last),
        (f"first {window} s", first),
        "/s",
        Goal(0.7, 0.9),
    )
    series = {"one hot tenant": _by_second(runs["one hot tenant"][0].rates)}
    series["P3"] = _by_second(others["P3"][0].rates)
    beside = Beside("g", "the same with P3", "x", of_p3[1] / of_p3[0])
    return Findings((outcome,), (beside,), series)


def _windows(seconds: int) -> tuple[slice, slice]:
    # The last tenth is not a whole one.
    return slice(0, seconds * TENTHS), slice(-seconds * TENTHS - 1, -1)


def _by_second(rates: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(
        round(fmean(rates[n : n + TENTHS])) for n in range(0, len(rates) - TENTHS + 1, TENTHS)
    )


def measure_batch(bench: Bench) -> Findings:
    """h: ten thousand units in one call, from one lane and from many short ones."""
    units, calls = 10_000, 40
    lanes_wanted = 64
    with bench.server.database("batch") as database:

        def one_client(script: str) -> Load:
            return Load(database, script, clients=1, transactions=calls)

        def short_lanes(_: int) -> Run:
            # What is left is dealt anew to lanes that each have less than one batch.
            left = lanes_wanted * (units - 1)
            used = database.number(f"{_COUNTED} where tenant = 'many'")
            database.run(
                f"select * from stepquota.set_tier_limit('many', {used + left})",
                "select * from stepquota.refresh_workflow_step_quota('many')",
            )
            return count_exactly(one_client(_BATCH.format(tenant="many", units=units)), units)

        database.run(
            "select * from stepquota.set_tier_limit('many', 10000000)",
            "select * from stepquota.set_tenant_plan('many', 'many')",
            "select * from stepquota.reserve_workflow_step('one')",
        )
        heat = bench.load(database, _STAY_OPEN.format(tenant="'many'"))
        count_exactly(replace(heat, seconds=3))
        lanes = database.number(
            "select count(*) from stepquota.workflow_step_usage_lanes where tenant = 'many'"
        )
        step = "select * from stepquota.reserve_workflow_step('one');\n"
        runs = bench.take_turns(
            "h",
            {
                "one step": lambda _: count_exactly(one_client(step)),
                "10,000, one lane": lambda _: count_exactly(
                    one_client(_BATCH.format(tenant="one", units=units)), units
                ),
                f"10,000, {lanes} lanes": short_lanes,
            },
        )
    took = [(name, [run.median_ms for run in all_]) for name, all_ in runs.items()]
    goal = Goal(3, 1.5, at_most=True)
    note = "" if lanes >= lanes_wanted else f"the tenant has only {lanes} lanes"
    return Findings(
        (
            compare("h", took[1], took[0], "ms", goal),
            compare("h", took[2], took[0], "ms", goal, note),
        )
    )


def measure_many_tenants(bench: Bench) -> Findings:
    """i: a million tenants with used periods, against a thousand, both as the ratio to P3."""
    sizes = {"few": TENANTS, "many": bench.options.tenants}
    with ExitStack() as stack:
        databases = {name: stack.enter_context(bench.server.database(name)) for name in sizes}
        for name, tenants in sizes.items():
            bench.say(f"i  making {tenants:,} tenants")
            _make_tenants(databases[name], tenants)

        def ours(name: str) -> Contender:
            load = bench.load(databases[name], _RESERVE_ANY, tenants=sizes[name])
            return lambda _: count_exactly(load)

        def floor(name: str) -> Contender:
            load = bench.load(databases[name], _P3_SPREAD, tenants=sizes[name])
            return lambda _: pgbench.run(load)

        label = {name: f"{tenants:,} tenants" for name, tenants in sizes.items()}
        contenders = {
            **{f"P3, {label[name]}": floor(name) for name in sizes},
            **{label[name]: ours(name) for name in sizes},
        }
        rates = {name: _rates(all_) for name, all_ in bench.take_turns("i", contenders).items()}
    shares = {
        name: [
            mine / other
            for mine, other in zip(rates[label[name]], rates[f"P3, {label[name]}"], strict=True)
        ]
        for name in sizes
    }
    outcome = compare(
        "i",
        (f"{label['many']} / P3", shares["many"]),
        (f"{label['few']} / P3", shares["few"]),
        "x",
        Goal(0.9, 1.0),
    )
    besides = [Beside("i", name, "/s", median(each)) for name, each in rates.items()]
    return Findings((outcome,), tuple(besides))


def _make_tenants(database: Database, tenants: int) -> None:
    """Tenants with used periods: copies of the rows that reservations of a first one leave.

    It is compared with its inputs before, as is each in production; theirs are the same.
    """
    reserve = "select * from stepquota.reserve_workflow_step('t1')"
    database.run(reserve)
    while database.number(
        "select count(*) from stepquota.workflow_step_quotas where inputs_hash is null"
    ):
        time.sleep(0.1)
    database.run(reserve)
    for table in _TENANT_TABLES:
        database.run(
            f"insert into stepquota.{table} select n.* from stepquota.{table} r, "
            f"generate_series(2, {tenants}) i, "
            "lateral jsonb_populate_record(r, jsonb_build_object('tenant', 't' || i)) n "
            "where r.tenant = 't1'"
        )
    database.run(
        "insert into peers.counters (tenant, step_limit) "
        f"select 't' || i, 1000000000 from generate_series(1, {tenants}) i",
    )
    database.run("vacuum analyze")


def measure_size(bench: Bench) -> Findings:
    """l: how large tables and indexes become."""
    options = bench.options
    with bench.server.database("size") as database:
        _reserve_each(database, TENANTS)
        few = _reserve_many(bench, database, 0, options.few_reservations)
        many = _reserve_many(bench, database, options.few_reservations, options.reservations)
    outcome = compare(
        "l",
        (f"after {options.reservations:,}", [many / 1e6]),
        (f"after {options.few_reservations:,}", [few / 1e6]),
        "MB",
        Goal(2.0, 1.2, at_most=True),
    )
    return Findings((outcome,))


def _reserve_many(bench: Bench, database: Database, done: int, wanted: int) -> int:
    """Go on to so many reservations; answers the bytes of all tables and indexes then."""
    count, clients = 1000, bench.options.clients
    while done < wanted:
        share = min(wanted - done, 500_000)
        # A call a client, each with its part; a rest that cannot be shared goes on top.
        part = max(1, min(count, share // clients))
        load = Load(
            database,
            _MANY,
            clients,
            transactions=max(1, share // (clients * part)),
            variables={"count": part, "tenants": TENANTS},
            # Sizes do not depend on it, and so it takes minutes instead of half an hour.
            durable=False,
        )
        before = database.number(_COUNTED)
        calls = pgbench.run(load)
        _check(database, before, calls.transactions * part)
        done += calls.transactions * part
        bench.say(f"l  {done:,} of {wanted:,} reservations, {calls.rate * part:,.0f}/s")
    return database.number(
        "select sum(pg_total_relation_size(c.oid)) from pg_class c "
        "where c.relnamespace = 'stepquota'::regnamespace and c.relkind = 'r'"
    )


def measure_reserver(bench: Bench) -> Findings:
    """j: one process, 64 tasks on one tenant, who share a Reserver."""
    seconds = bench.options.seconds
    not_run: dict[str, str] = {}
    with bench.server.database("reserver") as database, ExitStack() as stack:
        database.run("select * from stepquota.reserve_workflow_step('hot')")

        def in_python(kind: str) -> Contender:
            return lambda _: _count_tasks(database, kind, seconds)

        by_pgbench = Load(database, _RESERVE_HOT, TASKS, seconds)
        contenders: dict[str, Contender] = {
            "single calls": in_python("single"),
            "pgbench": lambda _: count_exactly(by_pgbench),
            "threads": in_python("threads"),
        }
        try:
            server = stack.enter_context(redis(bench.folder))
            contenders["P5"] = lambda _: server.run(TASKS, seconds)
        except NotHere as reason:
            not_run["P5 beside the Reserver, Redis"] = str(reason)
        contenders["Reserver"] = in_python("reserver")
        # So that the single calls have the tenant's lanes, as they would soon.
        count_exactly(replace(by_pgbench, seconds=1))
        rates = {name: _rates(all_) for name, all_ in bench.take_turns("j", contenders).items()}
    ours = (f"Reserver, {TASKS} tasks", rates["Reserver"])
    outcomes = [compare("j", ours, ("single calls", rates["single calls"]), "/s", Goal(5, 20))]
    if "P5" in rates:
        outcomes.append(compare("j", ours, ("P5", rates["P5"]), "/s", Goal(1, 3)))
    besides = (
        Beside("j", f"Reserver, {TASKS} threads", "/s", median(rates["threads"])),
        Beside("j", f"single calls of pgbench, {TASKS} clients", "/s", median(rates["pgbench"])),
    )
    return Findings(tuple(outcomes), besides, not_run=not_run)


def _count_tasks(database: Database, kind: str, seconds: int) -> Run:
    """Run the program of tasks, and compare counter and answers."""
    before = database.number(_COUNTED)
    url = (
        f"postgresql://{USER}@/{database.name}?host={quote(str(database.server.sockets), safe='')}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.tasks", url, kind, str(TASKS), str(seconds)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Problem(f"the program of tasks failed: {done.stderr.strip()[-500:]}")
    run = Run(**json.loads(done.stdout), rates=())
    # Those that made everything ready are not in its figures.
    _check(database, before, run.transactions + (TASKS if kind == "single" else 1))
    if left := database.number(_OPEN_BATCHES):
        raise Inexact(f"{left} batches were left open, or not all handed out")
    return run


Measure = Callable[[Bench], Findings]

# By the letters that each is for, in the order in which they are run.
MEASURES: Mapping[str, Measure] = {
    "abck": measure_core,
    "d": measure_open_transactions,
    "e": measure_start,
    "f": measure_denial,
    "h": measure_batch,
    "i": measure_many_tenants,
    "g": measure_snapshot,
    "j": measure_reserver,
    "mnopqrs": measure_pauses,
    "l": measure_size,
    "t": measure_ledger,
}
LETTERS = "".join(sorted("".join(MEASURES)))

# How many contenders take turns; what else takes time is in the estimate by itself.
_TURNS = {"abck": 7, "d": 2, "e": 2, "f": 2, "i": 5, "j": 5}


def estimate_minutes(options: Options, wanted: frozenset[str]) -> float:
    """About how long measuring takes, on a machine with two cores that does nothing else."""
    seconds = 20.0
    for letters in MEASURES:
        if wanted & set(letters):
            turns = options.repetitions * _TURNS.get(letters, 0)
            # A second to warm up, and about one for a checkpoint and for reading what was done.
            seconds += 5 + turns * (options.seconds + 2)
    if "g" in wanted:
        long_turn = options.window_seconds + options.snapshot_seconds + 2
        seconds += (options.repetitions + 1) * long_turn
    if "i" in wanted:
        seconds += options.tenants / 10_000
    if wanted & set("mnopqrs"):
        seconds += 20 + options.paused_tenants * options.paused_runs / 10_000
    if "l" in wanted:
        seconds += options.reservations / 15_000
    if "t" in wanted and options.ledger_rows:
        seconds += options.ledger_rows / 60_000 + options.repetitions * 4 * (options.seconds + 2)
    return seconds / 60
