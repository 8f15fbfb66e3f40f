"""What every part of the story needs: connections, the processes, the display, some patience."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, LiteralString, Self

from psycopg.sql import SQL, Identifier

from .. import resolve_workflow_run_wait, stripe_sync_health
from ..problems import Problem
from .catalogue import TENANTS
from .connections import application_name, connect
from .crew import Crew
from .display import Display
from .figures import Connection, QuotaEvent, TenantFigures, read_events, read_tenants
from .jobs import Job
from .shop import Shop

_LOOK_EVERY_SECONDS = 0.05
# Far longer than any wait of the story on a busy machine.
LONGEST_WAIT_SECONDS = 40.0
# Only with a terminal: time to read what was said, while everything goes on.
_READING_SECONDS = 1.6

_NAMES = [tenant.name for tenant in TENANTS]

Figures = dict[str, TenantFigures]


class Stage:
    """The demo's own view on the database.

    Attributes:
        owner: A connection of whoever owns the installation.
        operator: One with the rights of stepquota_operator.
        observer: One with the rights of stepquota_observer.
        crew: The processes.
        shop: The Stripe account.
        display: What a person sees.
        waits_are_answered: Whether open human and event waits are resolved as they come.
        lost: The run whose worker was killed.
    """

    def __init__(self, database_url: str, crew: Crew, shop: Shop, display: Display):
        self.owner = connect(database_url, "owner")
        self.operator = connect(database_url, "operator", "operator")
        self.observer = connect(database_url, "observer", "observer")
        self.crew = crew
        self.shop = shop
        self.display = display
        self.waits_are_answered = False
        self.lost: Job | None = None
        self._last_event = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in (self.owner, self.operator, self.observer):
            connection.close()

    def figures(self) -> Figures:
        """Where every tenant stands."""
        tenants = read_tenants(self.observer, _NAMES)
        self.display.update(tenants)
        return {figures.tenant: figures for figures in tenants}

    def new_events(self) -> list[QuotaEvent]:
        """What was recorded since this was last asked."""
        events = read_events(self.observer, self._last_event)
        if events:
            self._last_event = events[-1].event_id
        return events

    def until(self, what: str, has_come: Callable[[Figures], bool]) -> Figures:
        """Wait until the figures say that something has come, and answer them.

        Raises:
            Problem: A process has died, a run has failed, or it takes too long.
        """
        for _ in self._looks(what):
            if self.waits_are_answered:
                self.answer_waits()
            figures = self.figures()
            if has_come(figures):
                return figures
            for tenant in figures.values():
                if tenant.failed:
                    raise Problem(f"{tenant.failed} runs of {tenant.tenant} have failed")
        raise AssertionError("unreachable")

    def until_so(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait for something that the figures do not say.

        Raises:
            Problem: A process has died, or it takes too long.
        """
        for _ in self._looks(what):
            if is_so():
                break

    def _looks(self, what: str) -> Iterator[None]:
        """Again and again, as long as all processes live and it does not take too long."""
        end = time.monotonic() + LONGEST_WAIT_SECONDS
        while True:
            self.crew.check()
            yield
            if time.monotonic() > end:
                raise Problem(
                    f"the demo waited {LONGEST_WAIT_SECONDS:.0f} s in vain for {what}",
                    "the machine may be too busy; try again",
                )
            time.sleep(_LOOK_EVERY_SECONDS)

    def let_read(self) -> None:
        """On a terminal, give people time to read."""
        if self.display.is_live:
            end = time.monotonic() + _READING_SECONDS
            self.until("time to read", lambda _figures: time.monotonic() >= end)

    def answer_waits(self) -> int:
        """Resolve every open human and event wait; answers how many there were."""
        waits = self.observer.execute(
            "select tenant, wait_id, wait_type from stepquota.workflow_run_waits"
            " where status = 'WAITING' and wait_type in ('human', 'event') and tenant = any (%s)",
            [_NAMES],
        ).fetchall()
        for tenant, wait_id, wait_type in waits:
            answer = {"by": "Ada"} if wait_type == "human" else {"carrier": "by road"}
            resolve_workflow_run_wait(self.operator, tenant, wait_id, answer)
        return len(waits)

    def read_clock(self) -> datetime:
        """The database's clock, on the owner's connection and in its transaction."""
        moment: datetime = _one_value(self.owner, "select clock_timestamp()")
        return moment

    def count_open_waits(self, wait_type: str) -> int:
        """How many waits of a type are open."""
        count: int = _one_value(
            self.observer,
            "select count(*) from stepquota.workflow_run_waits"
            " where wait_type = %s and status = 'WAITING' and tenant = any (%s)",
            wait_type,
            _NAMES,
        )
        return count

    def is_mirror_filled(self) -> bool:
        """Whether the sync has read everything from Stripe once."""
        return stripe_sync_health(self.observer).last_full_sync_at is not None

    def count_resumed(self, tenant: str, by: str) -> int:
        """How many runs were resumed by something: stripe, plan, scan, operator."""
        count: int = _one_value(
            self.observer,
            "select count(*) from stepquota.quota_events"
            " where tenant = %s and event_type = 'run_resumed' and details ->> 'by' = %s",
            tenant,
            by,
        )
        return count

    def find_first_resumption(self, tenant: str, after: datetime) -> datetime:
        """When the first run was resumed after a moment."""
        moment: datetime = _one_value(
            self.observer,
            "select min(created_at) from stepquota.quota_events"
            " where tenant = %s and event_type = 'run_resumed' and created_at > %s",
            tenant,
            after,
        )
        return moment

    def find_first_start(self, tenant: str, after: datetime) -> datetime | None:
        """When the first step was started after a moment."""
        moment: datetime | None = _one_value(
            self.observer,
            "select min(started_at) from stepquota.workflow_run_steps"
            " where tenant = %s and started_at > %s",
            tenant,
            after,
        )
        return moment

    def find_paused_run(self, tenant: str) -> str:
        """A run that its quota pauses."""
        run_id: str = _one_value(
            self.observer,
            "select run_id from stepquota.workflow_run_waits"
            " where tenant = %s and wait_type = 'quota' and status = 'WAITING'"
            " order by queued_at limit 1",
            tenant,
        )
        return run_id

    def find_job(self, worker: str) -> Job | None:
        """The job that a worker is at."""
        row = self.observer.execute(
            "select tenant, run_id from stepquota_demo.jobs where worker = %s and state = 'ready'",
            [worker],
        ).fetchone()
        return Job(*row) if row else None

    def is_connected(self, name: str) -> bool:
        """Whether the server still has a session of a process of ours."""
        count: int = _one_value(
            self.owner,
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = %s",
            application_name(name),
        )
        return count > 0

    def count_steps(self, job: Job) -> int:
        """How many steps of a run the ledger has."""
        count: int = _one_value(
            self.observer,
            "select count(*) from stepquota.workflow_run_steps where tenant = %s and run_id = %s",
            job.tenant,
            job.run_id,
        )
        return count

    def count_steps_by(self, column: Literal["step_type", "status"], value: str) -> int:
        """How many steps of all tenants the ledger has, of a type or in a status."""
        query = SQL(
            "select count(*) from stepquota.workflow_run_steps where {} = %s and tenant = any (%s)"
        ).format(Identifier(column))
        row = self.observer.execute(query, [value, _NAMES]).fetchone()
        return int(row[0]) if row else 0

    def find_worker(self, job: Job) -> str:
        """Who took a job last."""
        worker: str = _one_value(
            self.observer,
            "select worker from stepquota_demo.jobs where tenant = %s and run_id = %s",
            job.tenant,
            job.run_id,
        )
        return worker


def _one_value(connection: Connection, query: LiteralString, *parameters: object) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None
