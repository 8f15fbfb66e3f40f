"""What both flavours of the worker loop share."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg

from . import calls
from .arguments import Key
from .results import WorkflowRunResumption

logger = logging.getLogger("stepquota")

CHANNEL = "stepquota_resumption"

# How long a loop may take to notice that it is to stop.
GLANCE_SECONDS = 0.25

# A pooler between us and the server answers with a number of its own when it is connected to, and
# hands out another server process in each transaction: what is listened to there is heard by
# somebody else, or by nobody.
ASK_FOR_BACKEND = "select pg_catalog.pg_backend_pid()"
LISTEN = f"listen {CHANNEL}"

# Shorter than these, and a lease may be over before its run is entered again.
_LEAST_SHARE_OF_LEASE = 0.1
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True)
class Wishes:
    """What a loop claims.

    Attributes:
        worker: who claims, for people.
        runtime: the program family that asks.
        tenant: only this tenant's, or None.
        max_runs: how many at once.
        lease: for how long.
        poll_seconds: how often it looks without having heard anything.
        listens: whether it listens, where that is possible.
    """

    worker: str
    runtime: str
    tenant: Key | None
    max_runs: int
    lease: timedelta
    poll_seconds: float
    listens: bool

    def __post_init__(self) -> None:
        if not self.poll_seconds > 0:
            raise ValueError(f"poll_seconds must be above 0, not {self.poll_seconds}")

    def claim(self) -> calls.Call[tuple[WorkflowRunResumption, ...]]:
        """The call that claims."""
        return calls.claim_workflow_run_resumptions(
            self.worker, self.max_runs, self.lease, self.runtime, self.tenant
        )


@dataclass
class Hand:
    """Resumptions that were claimed and not handed out yet, with the ends of their leases."""

    _held: deque[tuple[WorkflowRunResumption, float]] = field(default_factory=deque)

    def put(
        self, claimed: Iterable[WorkflowRunResumption], asked_at: float, lease: timedelta
    ) -> None:
        """Take what was claimed.

        Args:
            claimed: the resumptions.
            asked_at: the monotonic clock before they were claimed, so that a slow answer makes the
                lease shorter here and never longer.
            lease: for how long they were claimed.
        """
        until = asked_at + lease.total_seconds() * (1 - _LEAST_SHARE_OF_LEASE)
        self._held.extend((resumption, until) for resumption in claimed)

    def take(self, now: float) -> WorkflowRunResumption | None:
        """The next whose lease lasts; the others are delivered again, to us or to somebody else."""
        while self._held:
            resumption, until = self._held.popleft()
            if now < until:
                return resumption
            logger.info(
                "the lease of run %s of tenant %s was over before its turn came",
                resumption.run_id,
                resumption.tenant,
            )
        return None


@dataclass
class Patience:
    """Longer and longer pauses, with some chance in them, so that workers do not return as one.

    Attributes:
        what: what fails, for people.
        done: what cannot be done with it.
    """

    what: str = "resumptions"
    done: str = "claimed"
    _failures: int = 0

    def after_failure(self, error: BaseException) -> float:
        """How many seconds to wait now."""
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0**self._failures)
        pause *= random.uniform(0.5, 1)  # noqa: S311 - nothing is guarded by it
        self._failures += 1
        logger.warning(
            "%s cannot be %s, trying again in %.1f s: %s",
            *(self.what, self.done, pause, str(error).strip()),
        )
        return pause

    def after_success(self) -> None:
        """What failed before is forgotten."""
        if self._failures:
            logger.info("%s can be %s again", self.what, self.done)
        self._failures = 0


def is_passing(error: psycopg.Error) -> bool:
    """Whether another connection, now or later, may do better: the server is away or has moved."""
    return isinstance(
        error,
        psycopg.OperationalError | psycopg.InterfaceError | psycopg.errors.ReadOnlySqlTransaction,
    )
