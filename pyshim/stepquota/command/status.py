"""``stepquota status``: the installation's health, or one tenant's usage."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..problems import Problem
from . import output
from .session import AsJson, DatabaseUrl, opened, rows

if TYPE_CHECKING:
    import psycopg

_MOST_VIOLATIONS = 100
_SOURCES = {
    "stripe_subscription": "the Stripe subscription's period",
    "presumed_renewal": "presumed: Stripe's word about the renewal has not arrived",
    "fallback_calendar": "the calendar month in UTC: no subscription qualifies",
    "stripe_price_metadata": "the Stripe price's metadata",
    "stripe_product_metadata": "the Stripe product's metadata",
    "tier_default": "the tier's default",
    "unlimited_metadata": "Stripe's metadata: unlimited",
}


def status(
    tenant: Annotated[
        str | None,
        typer.Argument(
            metavar="TENANT",
            help="The tenant to show. Without one, the installation's health. A database URL is "
            "taken as such.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print a tenant's usage; without a tenant, what is wired and what is wrong.

    Without a tenant it checks every invariant, which reads everything, and exits with 1 if a check
    failed or an invariant is violated.
    """
    if tenant is not None and _is_database_url(tenant):
        tenant, database_url = None, tenant
    if tenant is None:
        _print_health(database_url, as_json)
    else:
        with opened(database_url, "stepquota_observer") as connection:
            print_tenant(connection, tenant, as_json)


def _is_database_url(argument: str) -> bool:
    # Every form that libpq reads; a tenant that looks like one is asked for with "tenant show".
    return bool(re.match(r"postgres(ql)?(\+\w+)?://|(\w+\s*=\s*\S+\s*)+$", argument))


def _print_health(database_url: str | None, as_json: bool) -> None:
    from .. import status as read_status
    from .. import verify_all

    with opened(database_url, "stepquota_observer") as connection:
        import psycopg

        # One snapshot for all that is compared.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        with connection.transaction():
            items = read_status(connection)
            violations = verify_all(connection)
    failed = sum(item.state == "error" for item in items)
    if as_json:
        output.print_json({"items": items, "violations": violations})
    else:
        console = output.console()
        console.print(
            output.table(
                ("state", "item", "detail"),
                (
                    (output.state(item.state), item.item, output.with_hint(item.detail, item.hint))
                    for item in items
                ),
            )
        )
        if violations:
            console.print(
                output.table(
                    ("invariant", "violation", "tenant", "object", "detail"),
                    (
                        (v.invariant, v.violation, v.tenant, v.object, v.detail)
                        for v in violations[:_MOST_VIOLATIONS]
                    ),
                )
            )
            if len(violations) > _MOST_VIOLATIONS:
                print(f"and {len(violations) - _MOST_VIOLATIONS} more; --json prints all")
        print(
            f"{output.plural(failed, 'failed check')}, "
            f"{output.plural(len(violations), 'violated invariant')}"
        )
    if failed or violations:
        raise typer.Exit(1)


def read_usage(connection: psycopg.Connection[Any], tenant: str) -> dict[str, Any]:
    """The row of tenant_usage.

    Raises:
        Problem: the tenant is not known.
    """
    found = rows(connection, "select * from stepquota.tenant_usage where tenant = %s", tenant)
    if not found:
        raise Problem(
            f"the tenant {tenant} has not asked for a step yet",
            f"check its name; stepquota tenant explain {tenant} says what it would get",
        )
    return found[0]


def print_tenant(connection: psycopg.Connection[Any], tenant: str, as_json: bool) -> None:
    """A tenant's usage, what is paused, who used it up, what happened."""
    usage = read_usage(connection, tenant)
    paused = rows(
        connection,
        "select * from stepquota.paused_runs where tenant = %s order by paused_since desc limit 5",
        tenant,
    )
    top = rows(
        connection, "select * from stepquota.top_workflows where tenant = %s limit 3", tenant
    )
    events = rows(
        connection, "select * from stepquota.recent_events where tenant = %s limit 5", tenant
    )
    if as_json:
        output.print_json(
            {"usage": usage, "paused_runs": paused, "top_workflows": top, "recent_events": events}
        )
        return
    now: datetime = rows(connection, "select stepquota.clock() as now")[0]["now"]
    console = output.console()
    console.print(Text(tenant, style="bold"))
    console.print(output.sheet(_describe(usage, now)))
    if paused:
        more = usage["paused_runs"] - len(paused)
        console.print(f"\nPaused runs, the newest first{f' ({more} more)' if more else ''}")
        console.print(
            output.table(
                ("run", "workflow", "since", "reason", "brought back by"),
                (
                    (
                        p["run_id"],
                        p["workflow"],
                        output.ago(p["paused_since"], now),
                        p["reason"],
                        p["unblocked_by"],
                    )
                    for p in paused
                ),
            )
        )
    if top:
        console.print("\nWhat used it up")
        console.print(
            output.table(
                ("workflow", ">steps", ">percent", ">runs", ">retries"),
                (
                    (
                        t["workflow"] or "(no name)",
                        output.number(t["steps"]),
                        str(t["percent"]),
                        output.number(t["runs"]),
                        output.number(t["retries"]),
                    )
                    for t in top
                ),
            )
        )
    if events:
        console.print("\nWhat happened last")
        console.print(
            output.table(
                ("when", "level", "event", "run"),
                (
                    (
                        output.ago(e["created_at"], now),
                        output.state(e["level"]),
                        _name_event(e),
                        e["run_id"],
                    )
                    for e in events
                ),
            )
        )


def _name_event(event: dict[str, Any]) -> str:
    """The event's type, and the percent where there is one for each of several."""
    percent = (event["details"] or {}).get("percent")
    return event["event_type"] if percent is None else f"{event['event_type']} {percent} %"


def _describe(usage: dict[str, Any], now: datetime) -> list[tuple[str, Text | str | None]]:
    limit, percent = usage["effective_limit"], usage["percent"]
    used = output.number(usage["used_count"])
    if limit is None:
        share = Text(f"{used} steps, unlimited")
    else:
        share = Text.assemble(
            output.bar(percent),
            f" {percent} %\n{used} of {output.number(limit)} steps, "
            f"{output.number(usage['remaining'])} left",
        )
    granted = output.plural(usage["granted_units"], "step")
    plan = usage["plan"]
    tier = usage["tier"] if plan == usage["tier"] else f"{usage['tier']} (plan: {plan or 'none'})"
    forecast = None
    if usage["exhausts_at"] and usage["remaining"] != 0:
        forecast = f"used up {output.moment(usage['exhausts_at'], now)}"
    held = None
    if usage["held_at"]:
        since = output.moment(usage["held_at"], now)
        held = Text(f"by {usage['held_by']} {since}: {usage['held_because']}", style="yellow")
    paused = None
    if usage["paused_runs"]:
        paused = Text(
            f"{output.plural(usage['paused_runs'], 'run')}, the first "
            f"{output.moment(usage['oldest_pause'], now)}",
            style="yellow",
        )
    return [
        ("used", share),
        ("resets", output.moment(usage["resets_at"], now)),
        ("forecast", forecast),
        ("paused", paused),
        ("tier", tier),
        ("limit", _SOURCES.get(usage["limit_source"], usage["limit_source"])),
        ("granted", f"{granted} of the limit" if usage["granted_units"] else None),
        ("period", _SOURCES.get(usage["period_source"], usage["period_source"])),
        ("mode", "shadow: counted, never paused" if usage["enforcement"] == "shadow" else None),
        ("held", held),
        (
            "suspended",
            Text(output.moment(usage["suspended_at"], now) or "", style="red")
            if usage["suspended_at"]
            else None,
        ),
    ]
