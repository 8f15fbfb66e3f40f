"""What the demo shows, read from the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import class_row

from .. import reconcile_workflow_step_usage
from .jobs import RUNTIME

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class TenantFigures:
    """Where a tenant stands.

    Attributes:
        tenant: The tenant.
        tier: Its tier.
        limit_source: Where its limit was found.
        step_limit: Its limit in steps; None is unlimited.
        used: Steps used in the period.
        runs: How many runs it has.
        done: How many of them succeeded.
        failed: How many failed or were cancelled.
        paused: How many are paused by quota.
        waiting: How many wait for a person, an event or another try.
    """

    tenant: str
    tier: str
    limit_source: str
    step_limit: int | None
    used: int
    runs: int
    done: int
    failed: int
    paused: int
    waiting: int

    @property
    def is_stuck(self) -> bool:
        """Whether its quota is used up and each of its runs has ended or is paused."""
        return self.used == self.step_limit and self.done + self.paused == self.runs

    @property
    def is_done(self) -> bool:
        """Whether all of its runs succeeded."""
        return self.done == self.runs


@dataclass(frozen=True)
class QuotaEvent:
    """A row of stepquota.quota_events."""

    event_id: int
    tenant: str
    event_type: str
    details: dict[str, Any]


@dataclass(frozen=True)
class PeriodTotals:
    """The counter of a tenant's period beside its ledger."""

    tenant: str
    used: int
    step_limit: int | None
    ledger: int
    drift: int


_TENANTS = """
    select q.tenant, q.tier, q.limit_source, q.effective_limit as step_limit, u.used,
           r.runs, r.done, r.failed, w.paused, w.waiting
      from stepquota.workflow_step_quotas q
     cross join lateral (
       select coalesce(sum(l.used_count), 0)::bigint as used
         from stepquota.workflow_step_usage_lanes l
        where l.tenant = q.tenant and l.period_start = q.period_start) u
     cross join lateral (
       select count(*) as runs,
              count(*) filter (where r.status = 'SUCCEEDED') as done,
              count(*) filter (where r.status in ('FAILED', 'CANCELED')) as failed
         from stepquota.workflow_runs r
        where r.tenant = q.tenant and r.runtime = %(runtime)s) r
     cross join lateral (
       select count(*) filter (where w.wait_type = 'quota') as paused,
              count(*) filter (where w.wait_type <> 'quota') as waiting
         from stepquota.workflow_run_waits w
        where w.tenant = q.tenant and w.status = 'WAITING') w
     where q.tenant = any (%(tenants)s)
     order by array_position(%(tenants)s, q.tenant)
"""


def read_tenants(connection: Connection, tenants: list[str]) -> list[TenantFigures]:
    """Where each tenant stands, in the order given."""
    with connection.cursor(row_factory=class_row(TenantFigures)) as cursor:
        return cursor.execute(_TENANTS, {"runtime": RUNTIME, "tenants": tenants}).fetchall()


def read_events(connection: Connection, after: int) -> list[QuotaEvent]:
    """What was recorded after an event, oldest first."""
    with connection.cursor(row_factory=class_row(QuotaEvent)) as cursor:
        return cursor.execute(
            "select event_id, tenant, event_type, details from stepquota.quota_events"
            " where event_id > %s order by event_id",
            [after],
        ).fetchall()


def read_totals(connection: Connection, tenants: list[str]) -> list[PeriodTotals]:
    """Every period of the tenants, reconciled."""
    rows = connection.execute(
        "select p.tenant, p.period_start, q.effective_limit"
        "  from stepquota.workflow_step_usage_periods p"
        "  join stepquota.workflow_step_quotas q on q.tenant = p.tenant"
        " where p.tenant = any (%(tenants)s)"
        " order by array_position(%(tenants)s, p.tenant), p.period_start",
        {"tenants": tenants},
    ).fetchall()
    totals = []
    for tenant, period_start, step_limit in rows:
        compared = reconcile_workflow_step_usage(connection, tenant, period_start)
        totals.append(
            PeriodTotals(
                tenant,
                compared.counter_used_count,
                step_limit,
                compared.ledger_step_count,
                compared.drift,
            )
        )
    return totals
