"""``stepquota doctor``: whether the server, the installation and this machine fit together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import typer

from ..problems import Problem
from . import output
from .session import AsJson, DatabaseUrl, opened, rows

if TYPE_CHECKING:
    import psycopg

_CLOCK_TOLERANCE = timedelta(seconds=2)
_OLD_SNAPSHOT = timedelta(minutes=5)
# A table is read slower than it need be when it has so many dead rows, and more than live ones.
_MANY_DEAD_ROWS = 20_000
_HOT_TABLES = (
    "workflow_step_usage_lanes",
    "workflow_step_quotas",
    "workflow_runs",
    "workflow_run_waits",
    "workflow_run_resumptions",
    "paused_tenants",
)
_ROLES = ("stepquota_runtime", "stepquota_operator", "stepquota_sync", "stepquota_observer")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at.

    Attributes:
        check: its name.
        state: how it is; error fails the command.
        detail: what was found.
        hint: what to do; None if nothing.
    """

    check: str
    state: Literal["ok", "info", "warn", "error"]
    detail: str
    hint: str | None = None


def doctor(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Look for what keeps it from working well, and say what to do; exit 1 if something fails.

    The connection, versions, roles, pg_cron, clocks, old snapshots, autovacuum on hot tables, and
    what "stepquota status" warns of. It changes nothing.
    """
    findings: list[Finding] = []
    try:
        with opened(database_url, "stepquota_observer") as connection:
            findings.extend(_look(connection))
    except Problem as problem:
        findings.append(
            Finding("connection" if not findings else "rest", "error", problem.what, problem.hint)
        )
    if as_json:
        output.print_json(findings)
    else:
        output.console().print(
            output.table(
                ("state", "check", "detail"),
                (
                    (
                        output.state(f.state),
                        f.check,
                        output.with_hint(f.detail, f.hint),
                    )
                    for f in findings
                ),
            )
        )
    if any(finding.state == "error" for finding in findings):
        raise typer.Exit(1)


def _look(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    yield _connection(connection)
    yield from _clock(connection)
    installed = _installed(connection)
    yield installed
    yield _role(connection)
    if installed.state == "error":
        return
    yield from _cron(connection)
    yield from _snapshots(connection)
    yield from _autovacuum(connection)
    yield from _status(connection)


def _connection(connection: psycopg.Connection[Any]) -> Finding:
    started = time.monotonic()
    (row,) = rows(
        connection,
        "select current_setting('server_version') as version, pg_is_in_recovery() as is_standby,"
        " current_setting('max_connections')::integer as most,"
        " (select count(*) from pg_stat_activity where backend_type = 'client backend') as taken",
    )
    milliseconds = (time.monotonic() - started) * 1000
    info = connection.info
    detail = (
        f"PostgreSQL {row['version'].split()[0]}, database {info.dbname}, role {info.user}; it "
        f"answers in {milliseconds:.1f} ms; {row['taken']} of {row['most']} connections are taken"
    )
    if row["is_standby"]:
        return Finding(
            "connection", "error", f"{detail}; it is a standby", "use the primary's address"
        )
    if row["taken"] > 0.9 * row["most"]:
        return Finding(
            "connection", "warn", detail, "raise max_connections, or put a pooler before"
        )
    return Finding("connection", "ok", detail)


def _clock(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    before = datetime.now(UTC)
    server: datetime = rows(connection, "select clock_timestamp() as now")[0]["now"]
    after = datetime.now(UTC)
    # Nobody knows when in between the server looked.
    difference = max(before - server, server - after, timedelta(0))
    detail = f"the server's differs from this machine's by {difference.total_seconds():.1f} s"
    if difference > _CLOCK_TOLERANCE:
        yield Finding(
            "clock",
            "warn",
            detail,
            "the server's decides; set both by NTP, or times shown here are off",
        )
    else:
        yield Finding("clock", "ok", detail)


def _installed(connection: psycopg.Connection[Any]) -> Finding:
    ours = version("stepquota")
    (row,) = rows(
        connection,
        "select n.oid is not null as is_there, has_schema_privilege(n.oid, 'usage') as may_use"
        " from (select to_regnamespace('stepquota') as oid) n",
    )
    if not row["is_there"]:
        return Finding(
            "version", "error", "stepquota is not installed here", "run stepquota migrate"
        )
    if not row["may_use"]:
        return Finding(
            "version",
            "error",
            f"the role {connection.info.user} may not use the schema stepquota",
            f"grant stepquota_observer to {connection.info.user}",
        )
    found = rows(connection, "select stepquota.version() as version")[0]["version"]
    detail = f"functions {found}, this program {ours}"
    if found == ours:
        return Finding("version", "ok", detail)
    if _number(found) < _number(ours):
        return Finding("version", "warn", detail, "run stepquota migrate")
    return Finding("version", "warn", detail, "upgrade this program: pip install -U stepquota")


def _number(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _role(connection: psycopg.Connection[Any]) -> Finding:
    found = rows(
        connection,
        "select r.rolname as role, pg_has_role(r.oid, 'usage') as has_it,"
        " (select rolsuper from pg_roles where rolname = current_user) as is_superuser"
        " from pg_roles r where r.rolname = any(%s) order by r.rolname",
        list(_ROLES),
    )
    if missing := sorted(set(_ROLES) - {row["role"] for row in found}):
        return Finding(
            "roles",
            "info",
            f"missing: {', '.join(missing)}",
            "they are optional: migrate as a role with CREATEROLE makes them",
        )
    if found[0]["is_superuser"]:
        return Finding("roles", "ok", f"{connection.info.user} is a superuser and may do all")
    has = [row["role"] for row in found if row["has_it"]]
    if not has:
        return Finding(
            "roles",
            "warn",
            f"{connection.info.user} has none of the four roles",
            f"grant one of them: grant stepquota_observer to {connection.info.user}",
        )
    return Finding("roles", "ok", f"{connection.info.user} has {', '.join(has)}")


def _cron(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    (row,) = rows(
        connection,
        "select (select extversion from pg_extension where extname = 'pg_cron') as version,"
        " has_schema_privilege(to_regnamespace('cron'), 'usage') as may_look,"
        " (select count(*) from stepquota.scheduler_jobs) as jobs",
    )
    if row["version"] is None:
        detail = "pg_cron is not in this database"
        if row["jobs"]:
            yield Finding(
                "pg_cron",
                "error",
                f"{detail}, and {output.plural(row['jobs'], 'job')} of it were scheduled",
                "create extension pg_cron, or remove the rows of stepquota.scheduler_jobs",
            )
        else:
            yield Finding(
                "pg_cron",
                "info",
                detail,
                "that is fine if another scheduler runs: call stepquota.tick()",
            )
        return
    if not row["jobs"]:
        yield Finding(
            "pg_cron", "info", f"pg_cron {row['version']}, nothing scheduled by enable_cron",
            "stepquota cron enable, or run by another scheduler: call stepquota.tick()",
        )  # fmt: skip
        return
    if not row["may_look"]:
        yield Finding(
            "pg_cron",
            "info",
            f"pg_cron {row['version']}; the role may not look at its jobs",
            "grant usage on schema cron to it to see more",
        )
        return
    # Row-level security shows the jobs of the role that is connected only.
    jobs = rows(
        connection,
        "select s.job_name, j.active, s.scheduled_by from stepquota.scheduler_jobs s"
        " left join cron.job j on j.jobname = s.job_name order by s.job_name",
    )
    for job in jobs:
        if job["active"] is None:
            yield Finding(
                "pg_cron",
                "info" if job["scheduled_by"] != connection.info.user else "error",
                f"{job['job_name']} of {job['scheduled_by']} is not to be seen",
                "look as that role; stepquota cron enable schedules it again",
            )
        elif not job["active"]:
            yield Finding(
                "pg_cron",
                "error",
                f"{job['job_name']} is switched off",
                "switch it on with cron.alter_job, or work is done by nobody",
            )
        else:
            yield Finding("pg_cron", "ok", f"{job['job_name']} is scheduled")


def _snapshots(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    held = rows(
        connection,
        "select a.pid::text as holder, coalesce(a.usename, '?') as role, a.state,"
        " clock_timestamp() - a.xact_start as age"
        " from pg_stat_activity a"
        " where a.backend_xmin is not null and a.xact_start is not null"
        " and a.pid <> pg_backend_pid()"
        " union all"
        " select 'prepared transaction ' || p.gid, p.owner, 'prepared',"
        " clock_timestamp() - p.prepared from pg_prepared_xacts p"
        " order by age desc limit 1",
    )
    slots = rows(
        connection,
        "select slot_name from pg_replication_slots"
        " where not active and (xmin is not null or catalog_xmin is not null)",
    )
    hidden = rows(
        connection,
        "select not pg_has_role('pg_read_all_stats', 'usage')"
        " and not (select rolsuper from pg_roles where rolname = current_user) as hidden",
    )[0]["hidden"]
    yield from (
        Finding(
            "snapshots",
            "warn",
            f"the replication slot {slot['slot_name']} is used by nobody and holds old rows back",
            f"select pg_drop_replication_slot('{slot['slot_name']}'), if it is not needed",
        )
        for slot in slots
    )
    if held and held[0]["age"] > _OLD_SNAPSHOT:
        one = held[0]
        holder = one["holder"]
        yield Finding(
            "snapshots",
            "warn",
            f"{holder} of {one['role']} ({one['state']}) holds a snapshot for "
            f"{int(one['age'].total_seconds() // 60)} minutes: hot rows become slow",
            f"end it: select pg_terminate_backend({holder})"
            if holder.isdigit()
            else "commit or roll back it",
        )
    elif hidden:
        yield Finding(
            "snapshots",
            "info",
            "the role does not see other roles' transactions",
            f"grant pg_read_all_stats to {connection.info.user} to look for old ones",
        )
    else:
        yield Finding("snapshots", "ok", "none is older than 5 minutes")


def _autovacuum(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    if rows(connection, "show autovacuum")[0]["autovacuum"] != "on":
        yield Finding(
            "autovacuum", "error", "it is off on this server", "alter system set autovacuum = on"
        )
        return
    tables = rows(
        connection,
        "select c.relname as name, s.n_live_tup as live, s.n_dead_tup as dead, s.last_autovacuum,"
        " coalesce(c.reloptions @> array['autovacuum_enabled=false']"
        "   or c.reloptions @> array['autovacuum_enabled=off'], false) as is_off"
        " from pg_class c join pg_stat_all_tables s on s.relid = c.oid"
        " where c.relnamespace = 'stepquota'::regnamespace and c.relname = any(%s)"
        " order by c.relname",
        list(_HOT_TABLES),
    )
    bad = False
    for row in tables:
        if row["is_off"]:
            bad = True
            yield Finding(
                "autovacuum",
                "error",
                f"it is off for {row['name']}",
                f"alter table stepquota.{row['name']} reset (autovacuum_enabled)",
            )
        elif row["dead"] > _MANY_DEAD_ROWS and row["dead"] > row["live"]:
            bad = True
            yield Finding(
                "autovacuum",
                "warn",
                f"{row['name']} has {output.number(row['dead'])} dead rows beside "
                f"{output.number(row['live'])} live ones",
                f"look for old snapshots above; then: vacuum stepquota.{row['name']}",
            )
    if not bad:
        yield Finding("autovacuum", "ok", f"keeps up with {len(tables)} hot tables")


def _status(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    from .. import status

    items = status(connection)
    for item in items:
        if item.state in ("warn", "error"):
            yield Finding(item.item, item.state, item.detail or "", item.hint)
    if not any(item.state in ("warn", "error") for item in items):
        yield Finding("status", "ok", f"all {len(items)} items")
