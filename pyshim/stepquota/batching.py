"""What both kinds of Reserver share: who waits, what a batch got, which batches are to be closed.

Nothing here waits, locks or talks to the database. A waiter is anything with the methods ``done``,
``set_result`` and ``set_exception`` of a future.
"""

from __future__ import annotations

import copy
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import fields, make_dataclass
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, cast
from uuid import UUID

import psycopg

from . import calls
from .results import WorkflowStepBatch, WorkflowStepQuota, WorkflowStepsQuota

__all__ = ["ReservationLost", "ReserverClosed"]

# How long the last batch of a tenant stays open: the next request would close it for nothing.
LINGER = 0.5

_LOSSES = 3
_CONFLICTS = 20
_CLOSINGS = 5
_MAX_NAME = 255


class ReserverClosed(psycopg.InterfaceError):
    """The Reserver takes no more requests: it was closed, or it is another process's."""


class ReservationLost(psycopg.OperationalError):
    """The connection was lost, and no other could be had to learn what became of the reservation.

    Whether it was counted is not known. The Reserver gives the unit back as soon as it reaches the
    database again; if it never does, the batch that it was part of stays open, and is reported by
    ``list_open_workflow_step_batches``.
    """


class Waiter(Protocol):
    """Somebody who asked for one unit."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: WorkflowStepQuota, /) -> None:
        """Answer."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Answer with an error."""


AnyWaiter = TypeVar("AnyWaiter", bound=Waiter)


class Taken:
    """Units of a batch that is to be closed.

    Attributes:
        batch_id: the batch.
        period_start: the period that they were counted in; None if it is not known whether there
            is such a batch.
        handed_out: how many of them somebody got.
        closings: how often closing it was tried.
    """

    __slots__ = ("batch_id", "closings", "handed_out", "period_start")

    def __init__(self, batch_id: UUID, period_start: datetime | None, handed_out: int):
        self.batch_id = batch_id
        self.period_start = period_start
        self.handed_out = handed_out
        self.closings = 0

    def make_call(self, tenant: str | None) -> calls.Call[WorkflowStepBatch]:
        """The call of close_workflow_step_batch."""
        return calls.close_workflow_step_batch(
            tenant,  # type: ignore[arg-type] # None has no batches
            self.batch_id,
            self.handed_out,
        )


class Line(Generic[AnyWaiter]):
    """Those who wait for units of one tenant.

    Attributes:
        tenant: the tenant.
        waiting: in the order in which they asked.
        is_busy: whether a call for the tenant is on its way, or about to be.
    """

    __slots__ = ("_unclosed", "_unreceived", "is_busy", "tenant", "waiting")

    def __init__(self, tenant: str | None):
        self.tenant = tenant
        self.waiting: deque[AnyWaiter] = deque()
        self.is_busy = False
        self._unclosed: list[Taken] = []
        self._unreceived: list[datetime] = []

    def is_unused(self) -> bool:
        """Whether it can be forgotten."""
        return not (self.is_busy or self.waiting or self._unclosed or self._unreceived)

    def make_batch(self, size: int) -> Batch[AnyWaiter] | None:
        """The next to be asked for; None if nobody waits."""
        waiting = self.waiting
        asked = [waiting.popleft() for _ in range(min(len(waiting), size))]
        waiters = [waiter for waiter in asked if not waiter.done()]
        return Batch(self, waiters, self._unclosed) if waiters else None

    def add_unclosed(self, taken: Taken) -> None:
        """Remember a batch that is to be closed."""
        self._unclosed.append(taken)
        for period_start in [p for p in self._unreceived if p == taken.period_start]:
            if taken.handed_out > 0:
                self._unreceived.remove(period_start)
                taken.handed_out -= 1

    def take_unclosed(self) -> list[Taken]:
        """The batches to be closed, which are the caller's from now on."""
        unclosed, self._unclosed = self._unclosed, []
        return unclosed

    def forget_closed(self, closed: Iterable[tuple[Taken, int]]) -> None:
        """Batches were closed with these counts."""
        for taken, handed_out in closed:
            if taken in self._unclosed:
                self._unclosed.remove(taken)
            for _ in range(handed_out - taken.handed_out):
                self._take_back(taken.period_start)

    def take_back(self, quota: WorkflowStepQuota) -> None:
        """A unit that was handed out reached nobody."""
        if quota.allowed:
            self._take_back(quota.period_start)

    def _take_back(self, period_start: datetime | None) -> None:
        for taken in self._unclosed:
            if taken.period_start == period_start and taken.handed_out > 0:
                taken.handed_out -= 1
                return
        # Its batch is closed: units of a period are all alike, so the next batch returns it.
        if period_start:
            self._unreceived = [p for p in self._unreceived if p >= period_start]
            self._unreceived.append(period_start)


class Batch(Generic[AnyWaiter]):
    """One call for those who waited for a tenant.

    Attributes:
        line: where they waited.
        losses: how often the connection was lost over it.
        conflicts: how often it could not be serialised, or met a deadlock.
    """

    __slots__ = ("_batch_id", "_closes", "_waiters", "conflicts", "line", "losses")

    def __init__(self, line: Line[AnyWaiter], waiters: list[AnyWaiter], unclosed: list[Taken]):
        self.line = line
        self.losses = 0
        self.conflicts = 0
        self._waiters = waiters
        self._batch_id = _make_batch_id()
        self._closes = [(taken, taken.handed_out) for taken in unclosed]

    def make_call(self, holder: str) -> calls.Call[WorkflowStepsQuota]:
        """The call of open_workflow_step_batch, the same each time."""
        return calls.open_workflow_step_batch(
            self.line.tenant,  # type: ignore[arg-type] # None is refused by the database
            self._batch_id,
            len(self._waiters),
            holder,
            [taken.batch_id for taken, _ in self._closes],
            [handed_out for _, handed_out in self._closes],
        )

    def is_to_be_repeated(self, error: psycopg.Error, is_lost: bool) -> bool:
        """Whether the call is to be made again, with the same arguments, after this error.

        It is safe to: the same batch is opened but once, however often it is asked for.
        """
        if is_lost:
            self.losses += 1
            return self.losses < _LOSSES
        # It was alone in its transaction, so nothing else is repeated with it.
        if error.sqlstate in ("40001", "40P01"):
            self.conflicts += 1
            return self.conflicts < _CONFLICTS
        return False

    def hand_out(self, answer: WorkflowStepsQuota) -> None:
        """Give each who still waits one of the granted units, in order, and the rest the denial."""
        self.line.forget_closed(self._closes)
        after = answer.granted
        denial = None
        for waiter in self._waiters:
            if waiter.done():
                continue
            if after:
                after -= 1
                waiter.set_result(_make_quota(answer, True, after))
            else:
                denial = denial or _make_quota(answer, False, 0)
                waiter.set_result(denial)
        if answer.granted:
            handed_out = answer.granted - after
            self.line.add_unclosed(Taken(self._batch_id, answer.period_start, handed_out))

    def fail(self, error: BaseException) -> None:
        """Tell all who still wait."""
        if self.losses:
            # If the call was carried out after all, nobody got its units.
            self.line.add_unclosed(Taken(self._batch_id, None, 0))
        for waiter in self._waiters:
            if waiter.done():
                continue
            if self.losses:
                lost = ReservationLost(f"the outcome of the reservation is not known: {error}")
                lost.__cause__ = error
                waiter.set_exception(lost)
            else:
                # One each: an exception gathers the traceback of whoever raises it.
                own = copy.copy(error)
                own.__cause__ = error
                waiter.set_exception(own)


class Lines(Generic[AnyWaiter]):
    """The lines of all tenants, and which of them have batches to be closed."""

    def __init__(self) -> None:
        self._by_tenant: dict[str | None, Line[AnyWaiter]] = {}
        self._to_close: dict[Line[AnyWaiter], float] = {}

    def get(self, tenant: str | None) -> Line[AnyWaiter]:
        """The line of a tenant."""
        return self._by_tenant.get(tenant) or self._by_tenant.setdefault(tenant, Line(tenant))

    def rest(self, line: Line[AnyWaiter]) -> None:
        """No call for this line is on its way any more."""
        line.is_busy = False
        if line.is_unused():
            if self._by_tenant.get(line.tenant) is line:
                del self._by_tenant[line.tenant]
        elif not line.waiting:
            self._to_close.setdefault(line, time.monotonic() + LINGER)

    def seconds_to_closing(self) -> float | None:
        """In how many seconds take_closing has something to close; None if there is nothing."""
        for due in self._to_close.values():
            return max(due - time.monotonic(), 0)
        return None

    def take_closing(self, is_in_haste: bool) -> tuple[Line[AnyWaiter], list[Taken]] | None:
        """Batches of a line to be closed now, if there are any that are due."""
        now = time.monotonic()
        while self._to_close:
            line, due = next(iter(self._to_close.items()))
            if due > now and not is_in_haste:
                break
            del self._to_close[line]
            # A line that goes on closes them with its next call.
            if not line.is_busy and (unclosed := line.take_unclosed()):
                return line, unclosed
        return None

    def finish_closing(
        self, line: Line[AnyWaiter], tried: Iterable[Taken], failed: Iterable[Taken]
    ) -> None:
        """Batches of a line were closed, but for those that could not be."""
        left = list(failed)
        line.forget_closed([(taken, taken.handed_out) for taken in tried if taken not in left])
        for taken in left:
            taken.closings += 1
            # One that cannot be closed at all is left to whoever looks after open batches.
            if taken.closings < _CLOSINGS:
                line.add_unclosed(taken)
        if not line.is_busy:
            self.rest(line)


def check_sizes(connections: int, batch_size: int) -> None:
    """Refuse sizes that cannot be meant."""
    if connections < 1:
        raise ValueError(f"connections must be a number from 1, not {connections}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be a number from 1, not {batch_size}")


def describe_holder(name: str | None) -> str:
    """What list_open_workflow_step_batches shows of this process."""
    holder = f"{name or 'Reserver'} in process {os.getpid()} on {socket.gethostname()}"
    return holder.encode()[:_MAX_NAME].decode(errors="ignore")


def explain_missing_pool() -> ImportError:
    """The error where psycopg_pool is not installed."""
    return ImportError(
        "Reserver needs the package psycopg-pool; run: pip install 'stepquota[reserver]'",
        name="psycopg_pool",
    )


# A frozen class takes four times as long to fill as others, and this is done for each unit.
_Draft: Any = make_dataclass("_Draft", [f.name for f in fields(WorkflowStepQuota)], slots=True)


def _make_quota(answer: WorkflowStepsQuota, allowed: bool, after: int) -> WorkflowStepQuota:
    # As if the units had been taken one by one: without those of the batch that come after it.
    used_count = answer.used_count - after
    limit = answer.effective_limit
    quota = _Draft(
        allowed,
        used_count,
        limit,
        None if limit is None else limit - used_count if limit > used_count else 0,
        answer.period_start,
        answer.period_end,
        answer.period_source,
        answer.limit_source,
        answer.tier,
        answer.granted_units,
        answer.stripe_subscription_id,
    )
    quota.__class__ = WorkflowStepQuota
    return cast(WorkflowStepQuota, quota)


def _make_batch_id() -> UUID:
    # Version 7, so that new rows are next to each other in the index.
    milliseconds = time.time_ns() // 1_000_000 & (1 << 48) - 1
    chance = secrets.randbits(74)
    return UUID(
        int=milliseconds << 80 | 7 << 76 | chance >> 62 << 64 | 2 << 62 | chance & (1 << 62) - 1
    )
