"""What the page asks the database: functions and views, with the rights of the role it connects as.

Each page is one snapshot, read-only, but for the forecast. For a tenant's admin the transaction
names the tenant first, and the role is bound to that (bind_session_role), so the database itself
keeps others' rows back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from .. import (
    ListedTenant,
    WorkflowRunResume,
    WorkflowStepUsageDay,
    forecast_workflow_step_usage,
    list_daily_workflow_step_usage,
    list_tenants,
    resume_workflow_run,
)
from ..database_url import Parameters
from ..problems import Problem
from ..results import WorkflowStepUsageForecast

Row = dict[str, Any]

LISTED = 50
PAUSED = 10
EVENTS = 20
WORKFLOWS = 10
DAYS = 31
# All but the forecast, which is asked for with its range.
_USAGE = (
    "select tenant, used_count, effective_limit, remaining, percent, period_start, resets_at,"
    " period_source, limit_source, plan, tier, granted_units, paused_runs, oldest_pause,"
    " enforcement, suspended_at, held_at, held_by, held_because, refreshed_at"
    " from stepquota.tenant_usage where tenant = %s"
)
_STATEMENT_MS = 5000
# Of a tenant with very many steps they take long, and the page is of use without them.
_WORKFLOWS_MS = 800


@dataclass(frozen=True)
class Choice:
    """Which tenants are listed, from where on.

    Attributes:
        search: A part of the name.
        only: paused, exhausted, nearly or unlimited; empty for all.
        sort: What list_tenants sorts by.
        descending: The greatest first.
        after: sort_value and tenant of the row after which, or before which, to go on.
        backwards: Before it.
    """

    search: str = ""
    only: str = ""
    sort: str = "tenant"
    descending: bool = False
    after: tuple[str, str] | None = None
    backwards: bool = False


@dataclass(frozen=True)
class TenantList:
    """A page of the list, and whether there is one before and after it."""

    now: datetime
    rows: tuple[ListedTenant, ...]
    has_previous: bool
    has_next: bool
    sorted_as_of: datetime | None
    totals: Row


@dataclass(frozen=True)
class Usage:
    """What a tenant's card shows."""

    now: datetime
    usage: Row
    days: tuple[WorkflowStepUsageDay, ...]
    forecast: WorkflowStepUsageForecast


@dataclass(frozen=True)
class Details:
    """What an operator sees of a tenant besides."""

    workflows: list[Row] | None
    paused: list[Row]
    has_more_paused: bool
    events: list[Row]
    grants: list[Row]
    may_resume: bool


class Unbound(Exception):
    """The role for tenants is not kept to the tenant that the session names."""


class Database:
    """A pool of connections as one role.

    Args:
        parameters: The connection parameters.
        is_for_tenants: Whether the role is bound to what its session names.
    """

    def __init__(self, parameters: Parameters, *, is_for_tenants: bool):
        self._is_for_tenants = is_for_tenants
        self._pool = ConnectionPool(
            kwargs={
                "connect_timeout": 5,
                "application_name": "stepquota page",
                "client_encoding": "utf8",
                **parameters,
            },
            min_size=1,
            max_size=8,
            timeout=5,
            check=ConnectionPool.check_connection,
            open=False,
        )

    def open(self) -> None:
        """Make the first connection.

        Raises:
            psycopg_pool.PoolTimeout: The database cannot be reached.
        """
        self._pool.open(wait=True, timeout=10)

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def check(self) -> str | None:
        """What a start of the page should be told about the role; None if all is well.

        Raises:
            Problem: It cannot do what it is for.
        """
        with self._pool.connection() as connection:
            row = connection.execute(
                "select r.rolsuper, r.rolname::text,"
                " has_function_privilege('stepquota.list_visible_tenants(text)', 'execute')"
                " from pg_roles r where r.rolname = current_user"
            ).fetchone()
            assert row is not None
            is_superuser, role, may_look = row
            if not may_look:
                raise Problem(
                    f"the role {role} may not look",
                    f"stepquota grant {role} observer, or operator for Resume",
                )
            if self._is_for_tenants and not _sees(connection, []):
                raise Problem(
                    f"the role {role} is not bound to the tenant that its session names",
                    f"select * from stepquota.bind_session_role('{role}')",
                )
            if is_superuser:
                return f"the role {role} is a superuser: the page needs an observer or an operator"
        return None

    def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            with self._pool.connection() as connection:
                connection.execute("select 1")
        except psycopg.Error:
            return False
        return True

    def list_tenants(self, choice: Choice) -> TenantList:
        """A page of the list of all tenants."""
        with self._reading() as connection:
            found = list_tenants(
                connection,
                choice.search or None,
                choice.only or None,  # type: ignore[arg-type] # the function checks them
                choice.sort,  # type: ignore[arg-type]
                choice.descending,
                choice.after[0] if choice.after else None,
                choice.after[1] if choice.after else None,
                choice.backwards,
                LISTED + 1,
            )
            totals = _rows(connection, "select * from stepquota.tenant_totals")
            now = _now(connection)
        is_more = len(found) > LISTED
        shown = found[-LISTED:] if choice.backwards else found[:LISTED]
        return TenantList(
            now=now,
            rows=shown,
            has_previous=is_more if choice.backwards else choice.after is not None,
            has_next=choice.backwards or is_more,
            sorted_as_of=shown[0].sorted_as_of if shown else None,
            totals=totals[0] if totals else {},
        )

    def read_usage(self, tenant: str) -> Usage | None:
        """A tenant's usage; None for a tenant that has not asked for a step yet."""
        forecast = self._forecast(tenant)
        with self._reading(tenant) as connection:
            return self._read_usage(connection, tenant, forecast)

    def read_details(
        self, tenant: str, before: tuple[str, str] | None
    ) -> tuple[Usage, Details] | None:
        """A tenant's usage, and what an operator asks besides.

        Args:
            tenant: The tenant.
            before: paused_since and wait_id of the last paused run of the page before.
        """
        forecast = self._forecast(tenant)
        with self._reading(tenant) as connection:
            usage = self._read_usage(connection, tenant, forecast)
            if usage is None:
                return None
            paused = _rows(
                connection,
                "select * from stepquota.paused_runs where tenant = %s"
                + (" and (paused_since, wait_id) < (%s::timestamptz, %s::uuid)" if before else "")
                + " order by paused_since desc, wait_id desc limit %s",
                tenant,
                *(before or ()),
                PAUSED + 1,
            )
            events = _rows(
                connection,
                "select * from stepquota.recent_events where tenant = %s limit %s",
                tenant,
                EVENTS,
            )
            grants = _rows(
                connection,
                "select * from stepquota.workflow_step_grants where tenant = %s"
                " order by closed_at is not null, granted_at desc limit 20",
                tenant,
            )
            (may,) = _rows(
                connection,
                "select has_function_privilege("
                "'stepquota.resume_workflow_run(text, text, text)', 'execute') as resume",
            )
            # The last, since it may be given up.
            workflows = self._read_workflows(connection, tenant)
        return usage, Details(
            workflows, paused[:PAUSED], len(paused) > PAUSED, events, grants, may["resume"]
        )

    def resume(self, tenant: str, run_id: str, reason: str) -> WorkflowRunResume:
        """Resume a paused run.

        Raises:
            StepquotaError: It cannot be resumed.
            psycopg.errors.InsufficientPrivilege: The role may not.
        """
        with self._pool.connection() as connection:
            connection.execute(f"set local statement_timeout = {_STATEMENT_MS}".encode())
            return resume_workflow_run(connection, tenant, run_id, reason)

    def _forecast(self, tenant: str) -> WorkflowStepUsageForecast | None:
        """When it is used up; None for a tenant that is not known, for which nothing is stored.

        In a transaction of its own: a quota that is stale is stored anew by it.
        """
        with self._reading(tenant, may_store=True) as connection:
            if not _rows(
                connection,
                "select 1 from stepquota.workflow_step_quotas where tenant = %s",
                tenant,
            ):
                return None
            return forecast_workflow_step_usage(connection, tenant)

    def _read_usage(
        self,
        connection: psycopg.Connection[Any],
        tenant: str,
        forecast: WorkflowStepUsageForecast | None,
    ) -> Usage | None:
        usage = _rows(connection, _USAGE, tenant)
        if not usage or forecast is None:
            return None
        return Usage(
            _now(connection),
            usage[0],
            list_daily_workflow_step_usage(connection, tenant, DAYS),
            forecast,
        )

    def _read_workflows(self, connection: psycopg.Connection[Any], tenant: str) -> list[Row] | None:
        try:
            with connection.transaction():
                connection.execute(f"set local statement_timeout = {_WORKFLOWS_MS}".encode())
                return _rows(
                    connection,
                    "select * from stepquota.top_workflows where tenant = %s limit %s",
                    tenant,
                    WORKFLOWS,
                )
        except psycopg.errors.QueryCanceled:
            return None

    @contextmanager
    def _reading(
        self, tenant: str | None = None, *, may_store: bool = False
    ) -> Iterator[psycopg.Connection[Any]]:
        with self._pool.connection() as connection, connection.transaction():
            if not may_store:
                connection.execute("set transaction isolation level repeatable read, read only")
            connection.execute(f"set local statement_timeout = {_STATEMENT_MS}".encode())
            if self._is_for_tenants:
                connection.execute("select set_config('stepquota.tenant', %s, true)", [tenant])
                if not _sees(connection, [tenant or ""]):
                    raise Unbound
            yield connection


def _sees(connection: psycopg.Connection[Any], tenants: list[str]) -> bool:
    """Whether the role may see the rows of these tenants and of no others."""
    row = connection.execute(
        "select stepquota.list_visible_tenants(current_user) = %s::text[]", [tenants]
    ).fetchone()
    return row == (True,)


def _now(connection: psycopg.Connection[Any]) -> datetime:
    now: datetime = _rows(connection, "select stepquota.clock() as now")[0]["now"]
    return now


def _rows(connection: psycopg.Connection[Any], query: str, *values: object) -> list[Row]:
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(query.encode(), values or None).fetchall()
