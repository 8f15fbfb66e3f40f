"""What a tenant's quota and runs must be, in plain Python, to compare the database with.

The quota is five lines: ``Usage.take``. The rest says which period it is, and who waits.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

# What a new installation has.
GRACE = timedelta(hours=72)
LEASE = timedelta(minutes=1)
STUCK_AFTER = 5
PROMISED_FOR = timedelta(minutes=5)
STUCK_AFTER = 5

Attempt = tuple[str, int]
# Since when, until when, and which subscription's it is; None is the calendar.
Period = tuple[datetime, datetime, str | None]


def add_months(moment: datetime, months: int) -> datetime:
    """The same day of a later month, for days that every month has."""
    years, month = divmod(moment.month - 1 + months, 12)
    return moment.replace(year=moment.year + years, month=month + 1)


@dataclass
class Usage:
    """What is used of one period: carried into it, and counted in it."""

    carried: int = 0
    counted: int = 0
    unledgered: int = 0
    # Units charged to grants.
    spent: int = 0

    @property
    def used(self) -> int:
        return self.carried + self.counted

    def take(self, units: int, limit: int | None, partly: bool = False) -> int:
        """How many of so many units are granted, which are counted."""
        left = units if limit is None else max(limit - self.used, 0)
        granted = units if left >= units else left if partly else 0
        self.counted += granted
        return granted


@dataclass
class Grant:
    """Units on top of the limit, of a period or until some moment."""

    granted_at: datetime
    units: int
    period_start: datetime
    expires_at: datetime | None
    spent: int = 0
    is_closed: bool = False

    def has_ended(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


@dataclass
class Wait:
    """The open quota wait of a run."""

    queued_at: datetime
    paths: list[str]


@dataclass
class Resumption:
    """A message to go on with a run."""

    created_at: datetime
    queued_at: datetime
    unentered: list[str]
    status: str = "OPEN"
    claimable_at: datetime | None = None
    deliveries: list[int] = field(default_factory=list)

    def is_to_be_claimed(self, now: datetime) -> bool:
        return self.status == "OPEN" and (self.claimable_at is None or self.claimable_at <= now)

    def deliver(self, number: int, now: datetime) -> None:
        self.deliveries.append(number)
        too_many = max(len(self.deliveries) - STUCK_AFTER, 0)
        self.claimable_at = now + min(LEASE * 2**too_many, timedelta(hours=1))


@dataclass
class Run:
    """A run: its attempts by path and number, its open quota wait, what it was resumed at."""

    status: str = "RUNNING"
    node_path: str | None = None
    attempts: dict[Attempt, str] = field(default_factory=dict)
    containers: set[Attempt] = field(default_factory=set)
    wait: Wait | None = None
    is_held: bool = False
    resumptions: list[Resumption] = field(default_factory=list)

    @property
    def has_ended(self) -> bool:
        return self.status not in ("RUNNING", "WAITING")

    @property
    def goes_on(self) -> bool:
        """A branch works that does not wait, or is on the way after it was resumed."""
        waiting = self.wait.paths if self.wait else []
        return any(
            status == "STARTED" and attempt not in self.containers and attempt[0] not in waiting
            for attempt, status in self.attempts.items()
        ) or any(r.unentered for r in self.resumptions if r.status != "CANCELED")

    def enter(self, path: str) -> datetime | None:
        """Its runtime is back at a path; answers the place in the queue that it had."""
        places = []
        for resumption in self.resumptions:
            if path in resumption.unentered:
                resumption.unentered.remove(path)
                places.append(resumption.queued_at)
                if not resumption.unentered and resumption.status == "OPEN":
                    resumption.status = "ACKNOWLEDGED"
        return min(places, default=None)

    def start(self, attempt: Attempt, is_container: bool) -> None:
        """An attempt starts, and leaves the queue."""
        self.attempts[attempt] = "STARTED"
        if is_container:
            self.containers.add(attempt)
        path = attempt[0]
        self.enter(path)
        if self.wait and path in self.wait.paths:
            self.wait.paths.remove(path)
            if not self.wait.paths:
                self.wait = None
        self.status, self.node_path = "RUNNING", path

    def pause(self, path: str, now: datetime) -> None:
        """A path is refused."""
        place = self.enter(path)
        if self.wait is None:
            self.wait = Wait(place or now, [path])
        elif path not in self.wait.paths:
            self.wait.paths.append(path)
        self.status = "RUNNING" if self.goes_on else "WAITING"
        self.node_path = path

    def finish(self, attempt: Attempt, status: str) -> None:
        """An attempt finishes; the last branch that went on leaves the run waiting."""
        self.attempts[attempt] = status
        self.enter(attempt[0])
        if self.status == "RUNNING" and self.wait and not self.goes_on:
            self.status = "WAITING"
            if self.node_path not in self.wait.paths:
                self.node_path = self.wait.paths[0]

    def end(self, status: str) -> None:
        """It ends; nothing of it waits or is to be gone on with."""
        self.status, self.wait = status, None
        for resumption in self.resumptions:
            if resumption.status == "OPEN":
                resumption.status = "CANCELED"
            else:
                resumption.unentered = []

    def newest_delivery(self, delivery: int) -> int | None:
        """The newest number of the resumption that was delivered by that one."""
        for resumption in self.resumptions:
            if delivery in resumption.deliveries:
                return resumption.deliveries[-1]
        return None


@dataclass
class Subscription:
    """One subscription with monthly periods, counted from the start of the present one."""

    name: str
    start: datetime
    end: datetime
    ends_with_period: bool = False

    def period_at(self, now: datetime) -> tuple[datetime, datetime] | None:
        """Its period, given or presumed."""
        if now < self.start:
            return None
        if now < self.end:
            return self.start, self.end
        if self.ends_with_period or now >= self.end + GRACE:
            return None
        steps = 0
        while add_months(self.start, steps + 1) <= now:
            steps += 1
        return max(add_months(self.start, steps), self.end), add_months(self.start, steps + 1)


@dataclass
class Model:
    """A tenant.

    Attributes:
        now: The clock.
        tiers: Limits by name; None is unlimited.
        plan: The tenant's tier.
        subscription: What Stripe has told, if anything.
        price_limit: The limit in the price's metadata: absent, a number, or None, unlimited.
        carries: Whether usage goes along when a period is replaced before it has ended.
        period: The period that was decided by last.
        periods: What is used, by the period's start.
        runs: By run id.
        is_held, is_suspended: What stops all its runs.
        grants: In the order in which they were given.
        modes: Whether it is in shadow mode, by its own setting (None: none) and by policy.
    """

    now: datetime
    tiers: dict[str, int | None]
    plan: str
    subscription: Subscription | None = None
    price_limit: int | Literal["absent"] | None = "absent"
    carries: dict[str, bool] = field(default_factory=lambda: {"moved": True, "other": False})
    period: Period | None = None
    periods: defaultdict[datetime, Usage] = field(default_factory=lambda: defaultdict(Usage))
    runs: dict[str, Run] = field(default_factory=dict)
    is_held: bool = False
    is_suspended: bool = False
    modes: dict[str, str | None] = field(default_factory=lambda: {"own": None, "policy": "enforce"})
    grants: list[Grant] = field(default_factory=list)
    decided_limit: int | None = None
    would_pause: set[tuple[datetime, str]] = field(default_factory=set)

    @property
    def bound(self) -> int | None:
        """The limit that is enforced."""
        is_shadow = (self.modes["own"] or self.modes["policy"]) == "shadow"
        return None if is_shadow else self.limit

    @property
    def usage(self) -> Usage:
        """What is used of the present period."""
        assert self.period is not None
        return self.periods[self.period[0]]

    @property
    def limit(self) -> int | None:
        """The limit of the present period, with grants."""
        return None if self.own_limit is None else self.own_limit + self.granted

    @property
    def own_limit(self) -> int | None:
        """The limit of the present period, without grants."""
        assert self.period is not None
        if self.period[2] is None or self.price_limit == "absent":
            return self.tiers[self.plan]
        return self.price_limit

    @property
    def granted(self) -> int:
        """What grants add: what is left of them, and what was charged to them in this period."""
        return self.usage.spent + sum(g.units - g.spent for g in self.grants if not g.is_closed)

    def settle(self, is_over: bool, revoked: Grant | None = None) -> None:
        """Charge what was used past the limit to the grants, if it or one of them has ended.

        The limit is the one that was decided by, not that of edits since.
        """
        opened = [g for g in self.grants if not g.is_closed]
        if not any(is_over or g is revoked or g.has_ended(self.now) for g in opened):
            return
        assert self.period is not None
        limit = self.decided_limit
        left = 0 if limit is None else max(self.usage.used - limit - self.usage.spent, 0)
        end = self.period[1]
        for grant in sorted(opened, key=lambda g: (g.expires_at or end, g.granted_at)):
            charge = min(grant.units - grant.spent, left)
            left -= charge
            grant.spent += charge
            self.usage.spent += charge
            grant.is_closed = (
                grant is revoked
                or grant.has_ended(self.now)
                or (is_over and (grant.expires_at is None or grant.spent == grant.units))
            )

    def look(self) -> None:
        """See which period it is; usage goes along where a period is replaced while it runs."""
        new, old = self._find_period(), self.period
        is_carried = False
        if old and new[0] != old[0] and new[0] < old[1] and old[0] < new[1]:
            is_same = new[2] is not None and new[2] == old[2]
            is_carried = self.carries["moved" if is_same else "other"]
        if old:
            self.settle(is_over=new[0] != old[0] and not is_carried)
        if old and is_carried:
            # What was counted here before had been carried there.
            usage = self.periods[new[0]]
            usage.carried = max(self.periods[old[0]].used - usage.counted, 0)
            usage.spent = self.periods[old[0]].spent
            for grant in self.grants:
                if grant.expires_at is None and grant.period_start == old[0]:
                    grant.period_start = new[0]
        self.period = new
        self.decided_limit = self.own_limit

    def _find_period(self) -> Period:
        period = self.subscription and self.subscription.period_at(self.now)
        if self.subscription and period:
            return (*period, self.subscription.name)
        month = datetime(self.now.year, self.now.month, 1, tzinfo=UTC)
        return month, add_months(month, 1), None

    def reserve(self, units: int, partly: bool = False, is_ledgered: bool = False) -> int:
        """How many units are granted."""
        self.look()
        granted = self.usage.take(units, self.bound, partly)
        self.usage.unledgered += 0 if is_ledgered else granted
        return granted

    def start(self, run: Run, attempts: list[Attempt], is_container: bool = False) -> list[str]:
        """The outcome for each attempt, in turn; the first that is refused pauses the run."""
        self.look()
        new = {attempt for attempt in attempts if attempt not in run.attempts}
        is_held = bool(self.holds(run))
        refusal = "held" if is_held else "quota_paused"
        units = 0 if is_held else self.reserve(len(new), partly=True, is_ledgered=True)
        if units and self.limit is not None and self.usage.used > self.limit and self.period:
            run_id = next(run_id for run_id, known in self.runs.items() if known is run)
            self.would_pause.add((self.period[0], run_id))
        outcomes: list[str] = []
        for attempt in attempts:
            if attempt in run.attempts:
                is_started = run.attempts[attempt] == "STARTED"
                outcomes.append("already_started" if is_started else "already_finished")
                if is_started:
                    run.enter(attempt[0])
            elif units > 0:
                units -= 1
                run.start(attempt, is_container)
                outcomes.append("started")
            else:
                if refusal not in outcomes:
                    run.pause(attempt[0], self.now)
                outcomes.append(refusal)
        return outcomes

    def holds(self, run: Run | None = None) -> list[str]:
        """What stops the run, or all runs of the tenant, beside quota."""
        is_held = self.is_held or (run is not None and run.is_held)
        return ["tenant_suspended"] * self.is_suspended + ["operator_hold"] * is_held

    def reasons(self, run: Run) -> list[str]:
        """Why a paused run is paused."""
        is_exhausted = self.bound is not None and self.usage.used >= self.bound
        return self.holds(run) + ["quota"] * is_exhausted or ["quota"]

    def queue(self) -> list[Run]:
        """Runs with an open quota wait that are not held, in their order."""
        waiting = [
            (run.wait.queued_at, run) for run in self.runs.values() if run.wait and not run.is_held
        ]
        return [run for _, run in sorted(waiting, key=lambda place: place[0])]

    def count_resumable(self) -> int | None:
        """Units that are left and promised to nobody; None is any number."""
        if self.bound is None:
            return None
        promised = sum(
            len(r.unentered)
            for run in self.runs.values()
            for r in run.resumptions
            if r.status != "CANCELED"
            and r.created_at > self.now - PROMISED_FOR
            and len(r.deliveries) < STUCK_AFTER
        )
        return max(self.bound - self.usage.used - promised, 0)

    def resume_all(self) -> None:
        """Resume what can go on, the oldest place first."""
        if self.holds():
            return
        units = self.count_resumable()
        for run in self.queue():
            if units != 0:
                units = self._resume(run, units)

    def resume(self, run: Run) -> str:
        """Resume one run by hand, not in its turn; answer the reason."""
        self.look()
        if self.holds(run):
            return "held"
        if self.bound is not None and self.usage.used >= self.bound:
            return "quota_exhausted"
        units = self.count_resumable()
        if units == 0:
            return "no_capacity"
        self._resume(run, units)
        return "resumed"

    def _resume(self, run: Run, units: int | None) -> int | None:
        assert run.wait is not None
        paths = run.wait.paths[:units]
        run.resumptions.append(Resumption(self.now, run.wait.queued_at, paths))
        run.wait.paths = run.wait.paths[len(paths) :]
        if not run.wait.paths:
            run.wait = None
        run.status = "RUNNING"
        return None if units is None else units - len(paths)
