"""The load: programs of several kinds, each a process of its own, that go on whatever happens.

Each notes what was acknowledged to it in its journal, and tries again what was not, as far as that
is safe: calls that have a key. What has none it asks for once; if the answer is lost, nobody knows.
"""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import psycopg

import stepquota
from acceptance.stripe_objects import plan_of
from faults.journal import Journal, Key

Connection = psycopg.Connection[Any]
# A connection is lost, or a lock, or the disk is full. psycopg raises the second one when the
# connection was lost during a rollback, and the third when it was during a commit.
LOST = (psycopg.OperationalError, psycopg.Rollback, psycopg.InternalError)
T = TypeVar("T")

# Whose runs are carried out; who is asked for units without a ledger row here; a Reserver's.
TENANTS = ("acme", "globex", "initech")
COUNTED = ("umbrella", "hooli")
RESERVED = "wonka"
LEASE = timedelta(seconds=1)

# Each act of a worker with a delivery number, and the newest delivery of that moment; written in
# the transaction of the act, while nobody can claim.
ACTS = "create table acts (tenant text, run_id text, delivery bigint, newest bigint)"
_ACT = """
insert into acts
select r.tenant, r.run_id, %(delivery)s, r.delivery from stepquota.workflow_run_resumptions r
 where r.tenant = %(tenant)s and r.run_id = %(run_id)s and %(delivery)s = any (r.deliveries)
"""
# Calls of one transaction, each decided for itself.
_RESERVE = """
select count(*) filter (where (t.r).allowed)
  from (select stepquota.reserve_workflow_step(%s) as r from generate_series(1, %s) offset 0) t
"""
_OPEN_EVENTS = """
select w.tenant, w.run_id, w.wait_id from stepquota.workflow_run_waits w
 where w.status = 'WAITING' and w.wait_type = 'event' limit 20
"""
_UNSTUCK = """
select r.tenant, r.resumption_id from stepquota.workflow_run_resumptions r
 where r.status = 'OPEN' and r.claimable_at > clock_timestamp() + interval '10 seconds' limit 20
"""
_PAUSED = """
select w.tenant, w.run_id from stepquota.workflow_run_waits w
 where w.status = 'WAITING' and w.wait_type = 'quota' limit 20
"""
_RUNNING = """
select r.tenant, r.run_id from stepquota.workflow_runs r
 where r.status = 'RUNNING' order by r.registered_at desc limit 20
"""


class Signals:
    """What the harness tells all clients. Plain memory: a lock could die with who holds it."""

    def __init__(self) -> None:
        self._clock = multiprocessing.RawValue(ctypes.c_double, 0.0)
        self._is_stopped = multiprocessing.RawValue(ctypes.c_int, 0)

    @property
    def clock(self) -> float:
        """How many seconds the clock is ahead of the real time; 0 is the server's own clock."""
        return self._clock.value

    @clock.setter
    def clock(self, seconds: float) -> None:
        self._clock.value = seconds

    @property
    def is_stopped(self) -> bool:
        """Whether everybody is to end."""
        return bool(self._is_stopped.value)

    def stop(self) -> None:
        self._is_stopped.value = 1


@dataclass(frozen=True)
class Place:
    """Where a client works.

    Attributes:
        url: Of the database.
        journals: The folder of the journals.
        signals: What it is told.
        is_pooled: Whether the URL is a PgBouncer's.
    """

    url: str
    journals: Path
    signals: Signals
    is_pooled: bool = False


class Client:
    """One client; a connection that is lost is made again."""

    # How long to rest between two works, in seconds.
    rest = 0.0

    def __init__(self, place: Place, number: int):
        self.place = place
        self.number = number
        self.journal = Journal(place.journals / str(number))
        self.chance = random.Random(number)
        self._connection: Connection | None = None
        self._serial = itertools.count()
        self._parent = os.getppid()

    @property
    def is_to_end(self) -> bool:
        """Whether it was told so, or the harness was killed."""
        return self.place.signals.is_stopped or os.getppid() != self._parent

    def run(self) -> None:
        """Until it is told to stop."""
        try:
            while not self.is_to_end:
                self.work()
                time.sleep(self.rest)
            self.close()
        except BaseException as error:
            self.journal.failed(error)
            raise

    def work(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        if self._connection:
            self._connection.close()

    def connect(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self.place.url,
                autocommit=True,
                connect_timeout=5,
                prepare_threshold=None if self.place.is_pooled else 5,
            )
        return self._connection

    def once(self, work: Callable[[Connection], T], *, is_one_call: bool = False) -> T:
        """Carry out one transaction under the clock of the moment."""
        connection = self.connect()
        try:
            return self._transact(connection, work, is_one_call=is_one_call)
        except psycopg.InternalError as error:
            if error.sqlstate:
                raise RuntimeError("the server says that it is at fault") from error
            connection.close()
            raise

    def _transact(
        self, connection: Connection, work: Callable[[Connection], T], *, is_one_call: bool
    ) -> T:
        ahead = self.place.signals.clock
        if is_one_call and not ahead:
            return work(connection)
        with connection.transaction():
            if ahead:
                moment = datetime.now(UTC) + timedelta(seconds=ahead)
                connection.execute("select set_config('stepquota.now', %s, true)", [str(moment)])
            return work(connection)

    def do(self, work: Callable[[Connection], T], *, is_one_call: bool = False) -> T:
        """The same again and again until it is acknowledged."""
        while True:
            try:
                return self.once(work, is_one_call=is_one_call)
            except LOST:
                time.sleep(self.chance.uniform(0.02, 0.1))

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """One call of a function, the same again and again until it is acknowledged."""
        return self.do(lambda connection: function(connection, *arguments), is_one_call=True)

    def try_to(self, what: str, function: Callable[..., object], *arguments: object) -> None:
        """Call a function once; it may be refused, or lost."""
        try:
            self.once(lambda connection: function(connection, *arguments))
        except LOST:
            time.sleep(0.05)
        except stepquota.StepquotaError:
            pass
        else:
            self.journal.did(what)

    def ask(
        self, tenant: str, units: int, operations: int, work: Callable[[Connection], int]
    ) -> None:
        """Units that are counted without a key, so once; what is not known stays noted as asked."""
        number = f"{self.number}.{next(self._serial)}"
        self.journal.asks(tenant, units, number)
        connection = self._connection
        try:
            connection = self.connect()
            got = self.once(work, is_one_call=True)
        except LOST:
            if connection is None or not connection.closed:
                self.journal.got_none(number)
            time.sleep(0.05)
        else:
            self.journal.took(tenant, got, number, operations)


class Runner(Client):
    """A runtime: begins runs, carries them out, and goes on with those that were resumed.

    What a run has to do follows from its id, so that anybody can go on with it.
    """

    def __init__(self, place: Place, number: int, inherited: dict[Key, int | None]):
        super().__init__(place, number)
        self._inherited = inherited
        self._numbers = itertools.count()
        self.is_beginning = True

    def work(self) -> None:
        while self._inherited:
            run, delivery = self._inherited.popitem()
            if delivery:
                self.journal.claimed(run, delivery)
            else:
                self.journal.registered(run)
            self.carry_out(run, delivery)
        if not self.go_on() or self.chance.random() < 0.5:
            self.begin()

    def begin(self) -> None:
        run = (self.chance.choice(TENANTS), f"{self.number}.{next(self._numbers)}")
        self.call(stepquota.register_workflow_run, *run)
        self.journal.registered(run)
        self.carry_out(run, None)

    def go_on(self) -> bool:
        """Claim some runs and carry them out; whether there were any."""
        claimed = self.call(stepquota.claim_workflow_run_resumptions, f"w{self.number}", 3, LEASE)
        for resumption in claimed:
            self.journal.claimed((resumption.tenant, resumption.run_id), resumption.delivery)
        self.journal.did("claim")
        # Now and then too late: somebody else has it by then.
        if claimed and self.chance.random() < 0.05:
            time.sleep(LEASE.total_seconds() * 1.1)
        for resumption in claimed:
            self.carry_out((resumption.tenant, resumption.run_id), resumption.delivery)
        return bool(claimed)

    def carry_out(self, run: Key, delivery: int | None) -> None:
        """From wherever it stands, until it ends, waits, or is another's."""
        since = time.monotonic()
        walk = Walk(self, run, delivery)
        try:
            if all(walk.pass_node(kind, path) for kind, path in plan_nodes(run)):
                walk.end()
                return
        except (stepquota.StaleDelivery, stepquota.RunEnded, stepquota.StepAlreadyFinished):
            pass
        except stepquota.UnknownRun:
            # Cancelled, and purged since; or lost, which the comparison finds.
            pass
        self.journal.let_go(run, max(since, walk.let_go_at))


def plan_nodes(run: Key) -> list[tuple[str, str]]:
    """What a run has to do: kinds of nodes, and where they are."""
    chance = random.Random("/".join(run))
    kinds = ["action"] * 8 + ["retry", "forEach", "event", "time"]
    count = chance.randint(4, 9)
    return [(chance.choice(kinds), f"root.steps[{n}]") for n in range(count)]


class Walk:
    """A run on its way through its nodes. What is worked off is finished with what comes next."""

    def __init__(self, runner: Runner, run: Key, delivery: int | None):
        self.let_go_at = 0.0
        self._runner = runner
        self._run = run
        self._delivery = delivery
        # Attempts whose work is done: path, number, status.
        self._done: list[tuple[str, int, Any]] = []

    def pass_node(self, kind: str, path: str) -> bool:
        """Whether it may go on after it."""
        if kind == "retry":
            return self._try(path, 1, "RETRY_SCHEDULED") and self._try(path, 2)
        if kind == "forEach":
            return self._pass_for_each(path)
        if kind in ("event", "time"):
            return self._pass_wait(kind, path)
        return self._try(path, 1)

    def end(self) -> None:
        """It has done all it had to."""
        calls = len(self._done) + 1

        def work(connection: Connection) -> None:
            self._finish_done(connection)
            stepquota.finish_workflow_run(
                connection, *self._run, "SUCCEEDED", delivery=self._delivery
            )
            self._note_act(connection)

        self._runner.do(work)
        self._runner.journal.ended(self._run, "SUCCEEDED", calls)

    def _try(self, path: str, attempt: int, status: str = "SUCCEEDED") -> bool:
        start = self._start(path, attempt)
        if start.execute:
            self._done.append((path, attempt, status))
        return bool(start.execute) or start.outcome == "already_finished"

    def _start(self, path: str, attempt: int = 1, step_type: str = "action") -> Any:
        self.let_go_at = time.monotonic()
        calls = len(self._done) + 1

        def work(connection: Connection) -> Any:
            self._finish_done(connection)
            start = stepquota.start_workflow_step(
                connection, *self._run, path, attempt, step_type, delivery=self._delivery
            )
            self._note_act(connection)
            return start

        start = self._runner.do(work, is_one_call=calls == 1 and not self._delivery)
        self._done = []
        is_started = start.outcome not in ("quota_paused", "held")
        attempts = [f"{path}#{attempt}"] if is_started else []
        self._runner.journal.started(self._run, attempts, calls)
        return start

    def _pass_for_each(self, path: str) -> bool:
        start = self._start(path, 1, "forEach")
        if start.outcome == "already_finished":
            return True
        if not start.execute:
            return False
        items = [f"{path}.body[{n}].steps[0]" for n in range(3)]
        self.let_go_at = time.monotonic()

        def work(connection: Connection) -> Any:
            starts = stepquota.start_workflow_steps(
                connection, *self._run, items, delivery=self._delivery
            )
            self._note_act(connection)
            return starts

        starts = self._runner.do(work, is_one_call=not self._delivery)
        known = [s for s in starts if s.outcome not in ("quota_paused", "held")]
        self._runner.journal.started(self._run, [f"{s.node_path}#1" for s in known], 1)
        self._done = [(s.node_path, 1, "SUCCEEDED") for s in known if s.execute]
        if len(known) < len(items):
            self._finish_all()
            return False
        self._done.append((path, 1, "SUCCEEDED"))
        return True

    def _pass_wait(self, kind: str, path: str) -> bool:
        start = self._start(path, 1, kind)
        if start.outcome == "already_finished":
            return True
        if not start.execute:
            return False
        self.let_go_at = time.monotonic()
        due_at = None
        if kind == "time":
            due_at = datetime.now(UTC) + timedelta(seconds=self._runner.place.signals.clock + 0.3)

        def work(connection: Connection) -> Any:
            return stepquota.open_workflow_run_wait(
                connection, *self._run, path, "event" if kind == "event" else "time", due_at
            )

        wait = self._runner.do(work)
        self._runner.journal.did("wait")
        if wait.status == "WAITING":
            return False
        self._done.append((path, 1, "SUCCEEDED"))
        return True

    def _finish_all(self) -> None:
        self._runner.do(self._finish_done)
        self._runner.journal.did("finish", len(self._done))
        self._done = []

    def _finish_done(self, connection: Connection) -> None:
        for path, attempt, status in self._done:
            stepquota.finish_workflow_step(
                connection, *self._run, path, attempt, status, delivery=self._delivery
            )

    def _note_act(self, connection: Connection) -> None:
        if self._delivery:
            tenant, run_id = self._run
            keys = {"tenant": tenant, "run_id": run_id, "delivery": self._delivery}
            connection.execute(_ACT, keys)


class Counter(Client):
    """A program with a ledger of its own, which takes units and batches."""

    rest = 0.002

    def work(self) -> None:
        tenant = self.chance.choice(COUNTED)
        if self.chance.random() < 0.2:
            units, partly = self.chance.choice([2, 5, 30]), self.chance.random() < 0.5
            self.ask(
                *(tenant, units, 1),
                lambda c: stepquota.reserve_workflow_steps(c, tenant, units, partly).granted,
            )
        else:
            calls = self.chance.choice([1, 5, 20, 40])
            self.ask(tenant, calls, calls, lambda c: _reserve_each(c, tenant, calls))


def _reserve_each(connection: Connection, tenant: str, calls: int) -> int:
    row = connection.execute(_RESERVE.encode(), [tenant, calls]).fetchone()
    assert row is not None
    return int(row[0])


class Reserving(Client):
    """A process with many threads that share a Reserver."""

    def run(self) -> None:
        try:
            with _CountingReserver(self.place.url, connections=2) as reserver:
                threads = [
                    threading.Thread(target=self._reserve, args=[reserver, n], daemon=True)
                    for n in range(4)
                ]
                for thread in threads:
                    thread.start()
                while any(thread.is_alive() for thread in threads):
                    time.sleep(0.2)
                    self.journal.did("batch", reserver.take_calls())
        except BaseException as error:
            self.journal.failed(error)
            raise

    def _reserve(self, reserver: stepquota.Reserver, thread: int) -> None:
        serial = itertools.count()
        while not self.is_to_end:
            number = f"{self.number}.{thread}.{next(serial)}"
            self.journal.asks(RESERVED, 1, number)
            try:
                quota = reserver.reserve(RESERVED, timeout=20)
            except stepquota.ReserverClosed:
                return
            except TimeoutError:
                self.journal.got_none(number)
            except psycopg.Error:
                time.sleep(0.05)
            except BaseException as error:
                self.journal.failed(error)
                raise
            else:
                # Counted as operations are the calls, not the units.
                self.journal.took(RESERVED, int(quota.allowed), number, 0)
            time.sleep(0.002)


class _CountingReserver(stepquota.Reserver):
    """Counts its calls that were acknowledged."""

    _calls = 0

    def _call(self, connection: Any, batch: Any) -> Any:
        answer = super()._call(connection, batch)
        self._calls += 1
        return answer

    def take_calls(self) -> int:
        calls, self._calls = self._calls, 0
        return calls


class Operator(Client):
    """Changes plans and limits, gives grants, holds and releases, applies Stripe's objects."""

    rest = 0.03

    def __init__(self, place: Place, number: int):
        super().__init__(place, number)
        self._changes: list[Callable[[], object]] = [
            *([self._raise_limit] * 4),
            *(self._set_plan, self._set_tier, self._grant, self._revoke, self._hold_run),
            *(self._hold_tenant, self._suspend, self._resume, self._cancel, self._reconcile),
            *(self._tell_stripe, self._tell_stripe, self.resolve_events, self.resolve_events),
            self._redeliver,
        ]

    def work(self) -> None:
        self.chance.choice(self._changes)()

    def _raise_limit(self) -> None:
        tenant = self.chance.choice((*COUNTED, RESERVED))
        limit = self.call(_read_limit, tenant)
        limit += self.chance.choice([50, 400, 3000])
        self.journal.limits(tenant, limit)
        self.try_to("limit", stepquota.set_tier_limit, tenant, limit)

    def _set_plan(self) -> None:
        tenant = self.chance.choice(TENANTS)
        plan = self.chance.choice([tenant, tenant, "solo", "pro", "premium"])
        self.try_to("plan", stepquota.set_tenant_plan, tenant, plan)

    def _set_tier(self) -> None:
        tenant, by = self.chance.choice(TENANTS), self.chance.choice([-20, 10, 60, 200])

        def work(connection: Connection) -> object:
            limit = max(_read_limit(connection, tenant) + by, 1)
            return stepquota.set_tier_limit(connection, tenant, limit)

        self.try_to("limit", work)

    def _grant(self) -> None:
        tenant, key = self.chance.choice(TENANTS), f"{self.number}.{next(self._serial)}"
        days = self.chance.choice([None, 1, 20])
        ends = days and datetime.now(UTC) + timedelta(days=days + 60)
        self.call(
            stepquota.grant_workflow_steps,
            tenant,
            self.chance.choice([1, 5, 30]),
            "a courtesy",
            ends or None,
            key,
        )
        self.journal.granted(tenant, key)

    def _revoke(self) -> None:
        for tenant, grant in self.find(
            "select g.tenant, g.grant_id from stepquota.workflow_step_grants g"
            " where g.closed_at is null limit 1"
        ):
            self.try_to(
                "revoke",
                stepquota.revoke_workflow_step_grant,
                tenant,
                grant,
                "enough",
            )

    def _hold_run(self) -> None:
        for tenant, run_id in self.find(_RUNNING)[:1]:
            self.try_to("hold", stepquota.hold_workflow_run, tenant, run_id, "a look")
            time.sleep(0.05)
            self.try_to("release", stepquota.release_workflow_run, tenant, run_id, "ok")

    def _hold_tenant(self) -> None:
        tenant = self.chance.choice(TENANTS)
        self.try_to("hold", stepquota.hold_tenant, tenant, "a look")
        time.sleep(0.05)
        self.try_to("release", stepquota.release_tenant, tenant, "looked")

    def _suspend(self) -> None:
        tenant = self.chance.choice(TENANTS)
        self.try_to("suspend", stepquota.suspend_tenant, tenant, "unpaid")
        time.sleep(0.05)
        self.try_to("reinstate", stepquota.reinstate_tenant, tenant, "paid")

    def _resume(self) -> None:
        for run in self.find(_PAUSED)[:3]:
            self.try_to("resume", stepquota.resume_workflow_run, *run, "asked for")

    def _cancel(self) -> None:
        if self.chance.random() < 0.2:
            for tenant, run_id in self.find(_RUNNING)[-1:]:
                self.journal.cancels((tenant, run_id))
                self.try_to("cancel", stepquota.cancel_workflow_run, tenant, run_id)

    def _reconcile(self) -> None:
        for tenant, start in self.find(
            "select p.tenant, p.period_start from stepquota.workflow_step_usage_periods p"
        ):
            self.try_to(
                "reconcile",
                stepquota.reconcile_workflow_step_usage,
                tenant,
                start,
            )
            self.try_to(
                "dry repair",
                stepquota.repair_workflow_step_usage,
                tenant,
                start,
            )

    def _tell_stripe(self) -> None:
        tenant = TENANTS[0]
        now = datetime.now(UTC)
        start = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(
            days=self.chance.choice([3, 10])
        )
        limit = self.chance.choice([200, 1000, 5000, "unlimited", "many"])
        status = self.chance.choice(["active", "active", "active", "past_due", "canceled"])
        told = plan_of(
            tenant,
            price_metadata={"workflow_step_limit": limit},
            period=(start, start + timedelta(days=self.chance.choice([28, 31]))),
            status=status,
        )
        self.try_to("stripe", stepquota.apply_stripe_object, told, datetime.now(UTC))

    def resolve_events(self) -> bool:
        """What some runs wait for happens; whether there were any."""
        found = self.find(_OPEN_EVENTS)
        for tenant, _, wait_id in found:
            self.try_to("resolve", stepquota.resolve_workflow_run_wait, tenant, wait_id)
        return bool(found)

    def _redeliver(self) -> None:
        """What was claimed while the clock was ahead is claimable then; nobody need wait for it."""
        for key in self.find(_UNSTUCK):
            self.try_to(
                "redeliver",
                stepquota.redeliver_workflow_run_resumption,
                *key,
            )

    def find(self, query: str) -> list[Any]:
        return self.do(lambda c: c.execute(query.encode()).fetchall(), is_one_call=True)


def _read_limit(connection: Connection, tier: str) -> int:
    row = connection.execute(
        "select step_limit from stepquota.tiers where tier = %s", [tier]
    ).fetchone()
    return int(row[0]) if row else 1


class Keeper(Client):
    """The scheduler, and who gets the events."""

    rest = 0.15

    def work(self) -> None:
        chance = self.chance.random()
        if chance < 0.5:
            self.keep("tick", stepquota.tick)
        elif chance < 0.6:
            self.keep("scan", stepquota.resume_scan)
        elif chance < 0.7:
            self.keep("reconcile all", stepquota.reconcile_all)
        elif chance < 0.75:
            # As if two months had passed: what has ended is old enough to go.
            self.keep("purge", stepquota.purge, ahead=60 * 86400)
        else:
            self._take_events()

    def keep(self, what: str, function: Callable[[Connection], object], ahead: float = 0) -> None:
        """What commits by itself cannot be in a transaction, so its clock is the session's."""
        ahead = ahead or self.place.signals.clock
        try:
            connection = self.connect()
            moment = str(datetime.now(UTC) + timedelta(seconds=ahead)) if ahead else ""
            connection.execute("select set_config('stepquota.now', %s, false)", [moment])
            function(connection)
        except LOST:
            time.sleep(0.1)
        else:
            self.journal.did(what)

    def _take_events(self) -> None:
        def work(connection: Connection) -> object:
            events = stepquota.claim_quota_events(connection, "billing", 200, LEASE)
            ids = [event.event_id for event in events]
            return ids and stepquota.acknowledge_quota_events(connection, "billing", ids)

        self.try_to("events", work)


# By how much clients and their server stand back behind the random histories beside them: they take
# whatever there is, and are many.
NICENESS = 5

# Starting an interpreter for each would take longer than all it does.
PROCESSES = multiprocessing.get_context("fork")


def start(client: type[Client], *arguments: Any) -> BaseProcess:
    """Start one in a process of its own."""
    process = PROCESSES.Process(target=_run, args=(client, arguments), daemon=True)
    process.start()
    return process


def _run(client: type[Client], arguments: tuple[Any, ...]) -> None:
    os.nice(NICENESS)
    client(*arguments).run()
