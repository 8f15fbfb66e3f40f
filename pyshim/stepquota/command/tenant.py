"""``stepquota tenant``: what support does for one tenant."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from ..problems import Problem
from . import output
from .session import AsJson, DatabaseUrl, Reason, Tenant, opened
from .status import print_tenant

app = typer.Typer(
    help="Show a tenant, or change its plan, its grants, its holds, its mode.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _read_units(given: str) -> int:
    # As grant_workflow_steps has it.
    least, most = 1, 10**12
    # Digits alone: int() takes more, and not without end.
    if not re.fullmatch(r"[0-9]{1,20}", given) or not least <= int(given) <= most:
        raise typer.BadParameter(f"{given} is not a number from {least} to {most}")
    return int(given)


@app.command()
def show(tenant: Tenant, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Print what it has used and left, what is paused, who used it up, what happened."""
    with opened(database_url, "stepquota_observer") as connection:
        print_tenant(connection, tenant, as_json)


@app.command()
def explain(tenant: Tenant, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Print why it has the quota it has, and why it is blocked."""
    from .. import explain_workflow_step_quota

    with opened(database_url, "stepquota_observer") as connection:
        found = explain_workflow_step_quota(connection, tenant)
    if as_json:
        output.print_json(found)
        return
    styles = {"won": "bold green", "lost": "dim"}
    output.console().print(
        output.table(
            ("verdict", "object", "reason"),
            (
                (
                    Text(row.verdict, style=styles.get(row.verdict, "")),
                    "\n".join(filter(None, (row.object_type, row.object_id))),
                    row.reason,
                )
                for row in found
            ),
        )
    )


@app.command()
def plan(
    tenant: Tenant,
    tier: Annotated[
        str | None,
        typer.Argument(metavar="TIER", help="The tier.", show_default=False),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="No plan: the default tier stands in.")
    ] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Set its plan, and resume what can go on."""
    from .. import set_tenant_plan

    if none == (tier is not None):
        raise typer.BadParameter("give either a tier or --none")
    with opened(database_url, "stepquota_operator") as connection:
        quota = set_tenant_plan(connection, tenant, tier)
    _print_quota(tenant, quota, as_json)


@app.command()
def grant(
    tenant: Tenant,
    units: Annotated[
        int, typer.Argument(metavar="STEPS", help="How many steps.", parser=_read_units)
    ],
    reason: Reason,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--until",
            metavar="MOMENT",
            formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
            help="Until when they count: 2026-07-01, or 2026-07-01T12:00:00+02:00. In UTC if no "
            "zone is named. By default until the period's end.",
            show_default=False,
        ),
    ] = None,
    grant_key: Annotated[
        str | None,
        typer.Option(
            "--key",
            help="A payment's id for instance: with the same key nothing is given again.",
            show_default=False,
        ),
    ] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Give it steps on top of its limit, and resume what can go on."""
    from .. import grant_workflow_steps

    expires_at = until.replace(tzinfo=UTC) if until and until.tzinfo is None else until
    with opened(database_url, "stepquota_operator") as connection:
        given = grant_workflow_steps(connection, tenant, units, reason, expires_at, grant_key)
    if as_json:
        output.print_json(given)
        return
    end = f"{given.expires_at:%Y-%m-%d %H:%M} UTC" if given.expires_at else "the end of the period"
    print(f"{tenant}: {output.plural(given.units, 'step')} granted until {end}, {given.grant_id}")


@app.command()
def revoke(
    tenant: Tenant,
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id.")],
    reason: Reason,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Take back what is left of a grant."""
    from .. import revoke_workflow_step_grant

    with opened(database_url, "stepquota_operator") as connection:
        try:
            taken = revoke_workflow_step_grant(connection, tenant, grant_id, reason)
        except ValueError as error:
            raise Problem(
                f"{grant_id} is no grant's id", "it is a UUID, as grant prints it"
            ) from error
    if as_json:
        output.print_json(taken)
        return
    print(f"{tenant}: the grant of {output.plural(taken.units, 'step')} is closed")


@app.command()
def hold(
    tenant: Tenant, reason: Reason, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """Stop all its runs: what has started may finish, nothing else starts."""
    from .. import hold_tenant

    with opened(database_url, "stepquota_operator") as connection:
        _print_tenant(hold_tenant(connection, tenant, reason), as_json)


@app.command()
def release(
    tenant: Tenant, reason: Reason, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """End the hold, and resume what can go on."""
    from .. import release_tenant

    with opened(database_url, "stepquota_operator") as connection:
        _print_tenant(release_tenant(connection, tenant, reason), as_json)


@app.command()
def suspend(
    tenant: Tenant, reason: Reason, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """As a hold, for an account that is not in order."""
    from .. import suspend_tenant

    with opened(database_url, "stepquota_operator") as connection:
        _print_tenant(suspend_tenant(connection, tenant, reason), as_json)


@app.command()
def reinstate(
    tenant: Tenant, reason: Reason, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """End the suspension, and resume what can go on."""
    from .. import reinstate_tenant

    with opened(database_url, "stepquota_operator") as connection:
        _print_tenant(reinstate_tenant(connection, tenant, reason), as_json)


@app.command()
def enforce(tenant: Tenant, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Refuse steps past its limit."""
    from .. import set_tenant_enforcement

    with opened(database_url, "stepquota_operator") as connection:
        _print_quota(tenant, set_tenant_enforcement(connection, tenant, "enforce"), as_json)


@app.command()
def shadow(tenant: Tenant, database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Count steps past its limit, and refuse none."""
    from .. import set_tenant_enforcement

    with opened(database_url, "stepquota_operator") as connection:
        _print_quota(tenant, set_tenant_enforcement(connection, tenant, "shadow"), as_json)


def _print_quota(tenant: str, quota: Any, as_json: bool) -> None:
    if as_json:
        output.print_json({"tenant": tenant, "quota": quota})
        return
    print(
        f"{tenant}: tier {quota.tier}, {output.number(quota.used_count)} of "
        f"{output.number(quota.effective_limit)} steps used"
    )


def _print_tenant(row: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(row)
        return
    states = [
        f"held by {row.held_by}: {row.held_because}" if row.held_at else "",
        "suspended" if row.suspended_at else "",
    ]
    print(f"{row.tenant}: {', '.join(filter(None, states)) or 'neither held nor suspended'}")
