"""A server under load, and what must be true of it after every fault."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

import stepquota
from faults import clients
from faults.clients import COUNTED, RESERVED, TENANTS, Place, Runner, Signals
from faults.journal import Key, Noted
from harness.killable import Cluster, Installation
from harness.pgbouncer import PgBouncer

# All that is compared with the journals, as of one snapshot.
_FIGURES = """
select jsonb_build_object(
  'violations', (select coalesce(jsonb_agg(to_jsonb(v)), '[]') from stepquota.verify_all() v),
  'runs', (
    select coalesce(jsonb_agg(jsonb_build_array(
                     r.tenant, r.run_id, r.status, coalesce(s.steps, 0),
                     exists (select from stepquota.workflow_run_resumptions p
                              where p.tenant = r.tenant and p.run_id = r.run_id
                                and p.status = 'OPEN'),
                     exists (select from stepquota.workflow_run_waits w
                              where w.tenant = r.tenant and w.run_id = r.run_id
                                and w.status = 'WAITING'))), '[]')
      from stepquota.workflow_runs r
      left join (select tenant, run_id, count(*) as steps
                   from stepquota.workflow_run_steps group by tenant, run_id) s
        on s.tenant = r.tenant and s.run_id = r.run_id),
  'unledgered', (
    select jsonb_object_agg(u.tenant, u.units)
      from (select tenant, sum(unledgered_count) as units
              from stepquota.workflow_step_usage_lanes group by tenant) u),
  'drift', (
    select coalesce(sum(abs(coalesce(c.units, 0) - coalesce(s.steps, 0))), 0)
      from (select tenant, sum(used_count - unledgered_count) as units
              from stepquota.workflow_step_usage_lanes group by tenant) c
      full join (
        select t.tenant, sum(t.steps) as steps
          from (select tenant, count(*) as steps from stepquota.workflow_run_steps group by tenant
                union all
                select tenant, sum(purged_step_count)
                  from stepquota.workflow_step_usage_periods group by tenant) t
         group by t.tenant) s on s.tenant = c.tenant),
  'counted', (
    select coalesce(jsonb_object_agg(t.tenant, t.steps), '{}')
      from (select tenant, sum(used_count - unledgered_count) as steps
              from stepquota.workflow_step_usage_lanes group by tenant) t),
  'open_units', (
    select coalesce(sum(granted_count - coalesce(handed_out_count + returned_count, 0)), 0)
      from stepquota.workflow_step_batches),
  'largest', (
    select coalesce(jsonb_object_agg(u.tenant, u.used), '{}')
      from (select tenant, max(used) as used
              from (select tenant, period_start, sum(used_count) as used
                      from stepquota.workflow_step_usage_lanes group by tenant, period_start) p
             group by tenant) u),
  'grants', (select coalesce(jsonb_agg(jsonb_build_array(tenant, grant_key)), '[]')
               from stepquota.workflow_step_grants),
  'bad_acts', (select count(*) from acts where delivery is distinct from newest))
"""
# What those wait for who never came to their end.
_OPEN_WAITS = """
select w.wait_type, r.status, r.held_at is not null as is_held, count(*), min(w.due_at),
       max(w.due_at), min(w.run_id), jsonb_agg(distinct to_jsonb(q)),
       (select to_jsonb(s) from stepquota.resume_scans s order by s.started_at desc limit 1)
  from stepquota.workflow_run_waits w
  join stepquota.workflow_runs r using (tenant, run_id)
  left join stepquota.workflow_step_quotas q using (tenant)
 where w.status = 'WAITING'
 group by w.wait_type, r.status, r.held_at is not null
"""
# How long, in seconds, no run comes to its end before those that are left count as stranded.
PATIENCE = 60
_KEYS = """
select s.tenant, s.run_id, array_agg(s.node_path || '#' || s.attempt)
  from stepquota.workflow_run_steps s group by s.tenant, s.run_id
"""


@dataclass
class Verdict:
    """What was found wrong, counted; the first of each kind in words."""

    lost: int = 0
    double: int = 0
    over: int = 0
    stranded: int = 0
    drift: int = 0
    violations: int = 0
    words: list[str] = field(default_factory=list)

    def find(self, kind: str, count: int, what: str) -> None:
        if count > 0:
            setattr(self, kind, getattr(self, kind) + count)
            self.words.append(f"{kind} {count}: {what}")


class World:
    """A server, a pool before it, and clients of all kinds; ends with the block.

    Args:
        installation: The server's programs.
        data_size: Bytes that the file system of its data has.
        template: A data directory with stepquota in it.
    """

    def __init__(self, installation: Installation, template: Path, data_size: int):
        self.installation = installation
        self.verdict = Verdict()
        self.noted = Noted()
        self.signals = Signals()
        self.can_fill = False
        self._template = template
        self._data_size = data_size
        self._stack = ExitStack()
        self._number = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.home = self.installation.make_folder("s")
            stack.callback(shutil.rmtree, self.home, ignore_errors=True)
            self.disk = self.installation.make_folder("d")
            stack.callback(shutil.rmtree, self.disk, ignore_errors=True)
            stack.enter_context(self._mounted())
            self.archive = self.installation.make_folder("a")
            stack.callback(shutil.rmtree, self.archive, ignore_errors=True)
            self.journals = self.installation.folder / "j"
            self.journals.mkdir()
            stack.callback(shutil.rmtree, self.journals, ignore_errors=True)
            data = self.disk / "data"
            subprocess.run(["cp", "-a", str(self._template), str(data)], check=True)
            self.server = self.make_cluster(data, self.home)
            stack.callback(lambda: self.server.kill())
            self.server.start()
            self._prepare()
            self.pool = stack.enter_context(PgBouncer(self.server.url, 6))
            self.clients: dict[int, tuple[type[clients.Client], Place, BaseProcess]] = {}
            stack.callback(self._kill_all)
            self._start_all()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @contextmanager
    def _mounted(self) -> Iterator[None]:
        """A small disk of its own where that may be had."""
        user = self.installation.user
        options = f"size={self._data_size},mode=700"
        if user:
            options += f",uid={user.uid},gid={user.gid}"
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.disk)],
                check=True,
                capture_output=True,
            )
            self.can_fill = True
        try:
            yield
        finally:
            if self.can_fill:
                subprocess.run(["umount", "-l", str(self.disk)], check=False)

    def make_cluster(self, data: Path, sockets: Path, **settings: str) -> Cluster:
        """A server like the one there is."""
        return Cluster(
            self.installation,
            data,
            sockets,
            {
                "archive_mode": "on",
                "archive_command": f"cp %p {self.archive}/%f",
                "min_wal_size": "4MB",
                "max_wal_size": "64MB",
                "shared_buffers": "64MB",
                "wal_level": "replica",
                **settings,
            },
        )

    def _prepare(self) -> None:
        with psycopg.connect(self.server.url, autocommit=True) as operator:
            operator.execute(clients.ACTS)
            operator.execute(
                "update stepquota.policy"
                "   set allow_test_clock = true, ended_runs_kept_for = '1 day'"
            )
            for tenant in (*TENANTS, *COUNTED, RESERVED):
                limit = 150 if tenant in TENANTS else 3000
                if tenant not in TENANTS:
                    self.noted.limits[tenant] = limit
                stepquota.set_tier_limit(operator, tenant, limit)
                stepquota.set_tenant_plan(operator, tenant, tenant)

    # Clients ------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        direct = Place(self.server.url, self.journals, self.signals)
        pooled = Place(self.pool.url, self.journals, self.signals, is_pooled=True)
        for place in (direct, pooled):
            self.start_client(Runner, place)
            self.start_client(clients.Counter, place)
        self.start_client(clients.Reserving, direct)
        self.start_client(clients.Operator, pooled)
        self.start_client(clients.Keeper, direct)

    def start_client(
        self,
        kind: type[clients.Client],
        place: Place,
        inherited: dict[Key, int | None] | None = None,
    ) -> None:
        """Another client; a Runner may have runs of one that died."""
        number = self._number = self._number + 1
        arguments: tuple[Any, ...] = (place, number)
        if kind is Runner:
            arguments += (inherited or {},)
        self.clients[number] = (kind, place, clients.start(kind, *arguments))

    def kill_client(self, number: int) -> None:
        """With -9; somebody else has to see to its runs."""
        kind, place, process = self.clients.pop(number)
        process.kill()
        process.join(20)
        self.noted.read(self.journals)
        self.start_client(kind, place, self.noted.held_by(number))

    def _kill_all(self) -> None:
        for _, _, process in self.clients.values():
            process.kill()
            process.join(20)

    # Checking -----------------------------------------------------------------------------------

    def wait_for_progress(self, operations: int = 40) -> None:
        """Whatever has happened, the load goes on."""
        before = None
        until = time.monotonic() + 60
        while before is None or self.noted.operations.total() < before + operations:
            self.noted.read(self.journals)
            before = self.noted.operations.total() if before is None else before
            assert not self.noted.failures, self.noted.failures
            assert time.monotonic() < until, f"no progress; clients alive: {self._count_alive()}"
            time.sleep(0.05)

    def _count_alive(self) -> Counter[str]:
        return Counter(
            f"{kind.__name__} {process.is_alive()}" for kind, _, process in self.clients.values()
        )

    def read_figures(self, url: str) -> dict[str, Any]:
        """What the database says, as of one moment."""
        until = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(url) as connection:
                    connection.execute("set jit = off")
                    row = connection.execute(_FIGURES.encode()).fetchone()
                    assert row is not None
                    figures: dict[str, Any] = row[0]
                    return figures
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def check(self, url: str | None = None, since: Bounds | None = None) -> None:
        """Compare the database, or a copy of it, with what was acknowledged before that moment."""
        since = since or self.take_bounds()
        figures = self.read_figures(url or self.server.url)
        self.noted.read(self.journals)
        verdict = self.verdict
        for violation in figures["violations"]:
            verdict.find("violations", 1, str(violation))
        verdict.find("drift", int(figures["drift"]), "counter and ledger")
        verdict.find("double", figures["bad_acts"], "acts under a delivery that is not the newest")
        self._check_runs(figures, since, is_live=url is None)
        self._check_units(figures, since)
        missing = since.grants - {tuple(grant) for grant in figures["grants"]}
        verdict.find("lost", len(missing), f"grants {sorted(missing)[:3]}")

    def _check_runs(self, figures: dict[str, Any], since: Bounds, *, is_live: bool) -> None:
        there = {(r[0], r[1]): r for r in figures["runs"]}
        acknowledged: Counter[str] = Counter()
        for key, (count, ended) in since.runs.items():
            acknowledged[key[0]] += count
            run = there.get(key)
            if run is None:
                # Those that have ended may be purged; their steps are in the sum below.
                is_over = self.noted.runs[key].ended or key in self.noted.canceled
                if not is_over:
                    self.verdict.find("lost", 1, f"run {key}")
            elif run[3] < count:
                self.verdict.find("lost", count - run[3], f"steps of {run}")
            elif ended and run[2] != ended:
                self.verdict.find("lost", 1, f"the end of {run}, {ended}")
        for tenant, count in acknowledged.items():
            found = int(figures["counted"].get(tenant, 0))
            self.verdict.find("lost", count - found, f"steps of {tenant}: {count} and {found}")
        if is_live:
            self._check_stranded(there)

    def _check_stranded(self, there: dict[Key, list[Any]]) -> None:
        """Runs that nobody has in hand, nobody can claim, and that wait for nothing."""
        stranded: set[Key] = set()
        for patience in range(8):
            found = {
                key
                for key, (_, _, status, _, is_claimable, waits) in there.items()
                if status in _OPEN
                and not is_claimable
                and not (status == "WAITING" and waits)
                and key in self.noted.runs
                and not self.noted.runs[key].is_in_hand
            }
            # Somebody may have claimed it and not noted that yet, or let it go since.
            stranded = found if patience == 0 else stranded & found
            if not stranded:
                return
            time.sleep(0.1 * patience)
            there = {(r[0], r[1]): r for r in self.read_figures(self.server.url)["runs"]}
            self.noted.read(self.journals)
        words = [(there.get(key), self.noted.runs[key]) for key in sorted(stranded)[:3]]
        self.verdict.find("stranded", len(stranded), str(words))

    def _check_units(self, figures: dict[str, Any], since: Bounds) -> None:
        for tenant in (*COUNTED, RESERVED):
            found = int((figures["unledgered"] or {}).get(tenant, 0))
            least, most = since.units[tenant], self.noted.units[tenant]
            most += self.noted.count_doubtful(tenant)
            if tenant == RESERVED:
                most += int(figures["open_units"])
            self.verdict.find("lost", least - found, f"units of {tenant}: {least} and {found}")
            self.verdict.find("double", found - most, f"units of {tenant}: {most} and {found}")
            used, limit = int(figures["largest"].get(tenant, 0)), self.noted.limits[tenant]
            self.verdict.find("over", used - limit, f"{tenant}: {used} of {limit}")

    def take_bounds(self) -> Bounds:
        """What was acknowledged up to now, and so must be there from now on."""
        self.noted.read(self.journals)
        return Bounds(
            {key: (len(run.attempts), run.ended) for key, run in self.noted.runs.items()},
            Counter(self.noted.units),
            set(self.noted.grants),
        )

    # The end ------------------------------------------------------------------------------------

    def drain(self) -> None:
        """With enough quota, and time, every run comes to its end."""
        self.signals.clock = 0
        self.signals.stop()
        for _, _, process in self.clients.values():
            process.join(40)
        assert not any(p.is_alive() for _, _, p in self.clients.values()), self._count_alive()
        self.noted.read(self.journals)
        assert not self.noted.failures, self.noted.failures
        self.check()
        finisher = _Finisher(Place(self.server.url, self.journals, Signals()), 1_000_000)
        # Later than anything that was due while the clock was ahead.
        finisher.place.signals.clock = 90 * 86400
        finisher.finish(
            {key: run.delivery for key, run in self.noted.runs.items() if run.is_in_hand},
            set(self.noted.runs),
        )
        self.check()
        open_runs = [
            r
            for r in self.read_figures(self.server.url)["runs"]
            if r[2] in _OPEN and (r[0], r[1]) in self.noted.runs
        ]
        why = self._explain_open_runs() if open_runs else ""
        self.verdict.find("stranded", len(open_runs), f"at the end {open_runs[:3]}, {why}")
        self._compare_keys()

    def _explain_open_runs(self) -> str:
        with psycopg.connect(self.server.url) as connection:
            rows = connection.execute(_OPEN_WAITS.encode()).fetchall()
        return "; ".join(str(row) for row in rows)

    def _compare_keys(self) -> None:
        """Each acknowledged attempt by its name."""
        with psycopg.connect(self.server.url) as connection:
            rows = connection.execute(_KEYS.encode()).fetchall()
        found = {(tenant, run_id): set(keys) for tenant, run_id, keys in rows}
        for key, run in self.noted.runs.items():
            if key in found:
                missing = run.attempts - found[key]
                self.verdict.find("lost", len(missing), f"attempts of {key}: {sorted(missing)[:3]}")


@dataclass(frozen=True)
class Bounds:
    """What must be there at least."""

    runs: dict[Key, tuple[int, str | None]]
    units: Counter[str]
    grants: set[Key]


_OPEN = ("RUNNING", "WAITING")


def _resolve_due_waits(connection: psycopg.Connection[Any]) -> None:
    connection.execute("select stepquota.resolve_due_waits(1000)")


class _Finisher(Runner):
    """Carries all runs to their end: what was in hand, and what comes of a scan after another."""

    def __init__(self, place: Place, number: int):
        super().__init__(place, number, {})

    def finish(self, in_hand: dict[Key, int | None], known: set[Key]) -> None:
        """Of runs whose registration was not acknowledged nobody knows."""
        operator = clients.Operator(self.place, self.number + 1)
        keeper = clients.Keeper(self.place, self.number + 2)
        for tenant in TENANTS:
            self.call(stepquota.release_tenant, tenant, "the end")
            self.call(stepquota.reinstate_tenant, tenant, "the end")
            self.call(stepquota.set_tier_limit, tenant, None)
            self.call(stepquota.set_tenant_plan, tenant, tenant)
        for key in operator.find(
            "select tenant, run_id from stepquota.workflow_runs where held_at is not null"
        ):
            operator.try_to("release", stepquota.release_workflow_run, *key, "the end")
        for run, delivery in in_hand.items():
            self.carry_out(run, delivery)
        # A busy machine takes its time; what is stranded makes no progress however long.
        left: set[Key] = set()
        until = 0.0
        while (still_open := self._find_open(operator, known)) and (
            still_open != left or time.monotonic() < until
        ):
            if still_open != left:
                left, until = still_open, time.monotonic() + PATIENCE
            while operator.resolve_events():
                pass
            # Not the whole of tick(), which may reconcile and purge for as long as policy says.
            keeper.keep("scan", stepquota.resume_scan)
            keeper.keep("due waits", _resolve_due_waits)
            while self.go_on():
                pass
            self.place.signals.clock += 3700
        for client in (self, operator, keeper):
            client.close()

    def _find_open(self, operator: clients.Operator, known: set[Key]) -> set[Key]:
        found = operator.find(
            "select tenant, run_id from stepquota.workflow_runs"
            " where status in ('RUNNING', 'WAITING')"
        )
        return known.intersection(found)
