"""``stepquota reconcile`` and ``stepquota repair``: counters against ledgers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from . import output
from .session import AsJson, DatabaseUrl, Tenant, opened, rows
from .status import read_usage

if TYPE_CHECKING:
    import psycopg

PeriodStart = Annotated[
    datetime | None,
    typer.Option(
        "--period-start",
        metavar="MOMENT",
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"],
        help="Start of the period, in UTC if no zone is named. By default the present one.",
        show_default=False,
    ),
]


def reconcile(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="The tenant; by default all.", show_default=False),
    ] = None,
    period_start: PeriodStart = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare counters with ledgers; exit 1 if there are findings.

    Without a tenant, all tenants and periods are compared, as tick() does by and by. What is wrong
    is a finding, until it is right again.
    """
    with opened(database_url, "stepquota_operator") as connection:
        if tenant is None:
            from .. import reconcile_all

            reconcile_all(connection, all=True)
            compared = None
        else:
            compared = _compare(connection, tenant, period_start)
        findings = rows(
            connection,
            "select tenant, period_start, class, units, workflow, run_ids, details"
            " from stepquota.reconciliation_findings"
            " where closed_at is null and (%s::text is null or tenant = %s)"
            " order by tenant, period_start, class",
            tenant,
            tenant,
        )
    if as_json:
        output.print_json({"period": compared, "findings": findings})
    else:
        console = output.console()
        if compared is not None:
            console.print(Text(compared.tenant, style="bold"))
            console.print(
                output.sheet(
                    (
                        ("period", f"{compared.period_start:%Y-%m-%d %H:%M} UTC"),
                        ("counter", output.number(compared.counter_used_count)),
                        ("ledger", output.number(compared.ledger_step_count)),
                        ("drift", output.number(compared.drift)),
                        ("kept elsewhere", output.number(compared.unledgered_count)),
                    )
                )
            )
        if findings:
            console.print(
                output.table(
                    ("tenant", "period", "finding", ">steps", "workflow", "runs"),
                    (
                        (
                            f["tenant"],
                            f"{f['period_start']:%Y-%m-%d}",
                            f["class"],
                            output.number(f["units"], ""),
                            f["workflow"],
                            " ".join(f["run_ids"] or ()),
                        )
                        for f in findings
                    ),
                )
            )
        print(output.plural(len(findings), "open finding"))
    if findings:
        raise typer.Exit(1)


def _compare(
    connection: psycopg.Connection[Any], tenant: str, period_start: datetime | None
) -> Any:
    from .. import reconcile_workflow_step_usage

    start = _start(connection, tenant, period_start)
    rows(connection, "select stepquota.reconcile_tenant(%s, true)", tenant)
    return reconcile_workflow_step_usage(connection, tenant, start)


def _start(
    connection: psycopg.Connection[Any], tenant: str, period_start: datetime | None
) -> datetime:
    if period_start is None:
        start: datetime = read_usage(connection, tenant)["period_start"]
        return start
    return period_start if period_start.tzinfo else period_start.replace(tzinfo=UTC)


def repair(
    tenant: Tenant,
    period_start: PeriodStart = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it. Without this it only says what it would do.")
    ] = False,
    reason: Annotated[
        str | None,
        typer.Option("--reason", "-r", metavar="TEXT", help="Why, for the record."),
    ] = None,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring a period's counter to what the ledger says. First a dry run, which changes nothing."""
    from .. import repair_workflow_step_usage

    with opened(database_url, "stepquota_operator") as connection:
        start = _start(connection, tenant, period_start)
        done = repair_workflow_step_usage(
            connection, tenant, start, dry_run=not apply, reason=reason
        )
    if as_json:
        output.print_json({"applied": apply, "repair": done})
        return
    counts = f"{output.number(done.used_count_before)} to {output.number(done.used_count_after)}"
    period = f"{start.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if not done.changed:
        print(f"{tenant}, period of {period}: nothing to mend")
    elif not apply:
        print(f"{tenant}, period of {period}: would go from {counts}; --apply does it")
    else:
        resumed = output.plural(done.runs_resumed, "run")
        print(f"{tenant}, period of {period}: went from {counts}, {resumed} resumed")
