"""``stepquota run``: what support does for one run."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from ..problems import Problem
from . import output
from .session import AsJson, DatabaseUrl, Reason, RunId, Tenant, opened, rows

NOT_RESUMED = 3

app = typer.Typer(
    help="Show a run, resume it, hold it, cancel it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def show(
    tenant: Tenant, run_id: RunId, database_url: DatabaseUrl = None, as_json: AsJson = False
) -> None:
    """Print where it stands, why it is paused, its last steps and what was done to it."""
    from .. import workflow_run_quota_pause

    with opened(database_url, "stepquota_observer") as connection:
        pause = workflow_run_quota_pause(connection, tenant, run_id)
        key = (tenant, run_id)
        (run,) = rows(
            connection,
            "select tenant, run_id, workflow, runtime, status, node_path, error, registered_at,"
            " ended_at, held_at, held_by, held_because, ledger_month"
            " from stepquota.workflow_runs where tenant = %s and run_id = %s",
            *key,
        )
        steps = rows(
            connection,
            "select node_path, attempt, step_type, status, started_at, finished_at"
            " from stepquota.workflow_run_steps"
            " where tenant = %s and run_id = %s and ledger_month = %s"
            " order by started_at desc, node_path desc, attempt desc limit 10",
            *key,
            run.pop("ledger_month"),
        )
        waits = rows(
            connection,
            "select wait_id, wait_type, node_paths, due_at, created_at"
            " from stepquota.workflow_run_waits"
            " where tenant = %s and run_id = %s and status = 'WAITING' order by created_at",
            *key,
        )
        logs = rows(
            connection,
            "select logged_at, level, message, details from stepquota.workflow_run_logs"
            " where tenant = %s and run_id = %s order by log_id desc limit 10",
            *key,
        )
        now: datetime = rows(connection, "select stepquota.clock() as now")[0]["now"]
    if as_json:
        output.print_json({"run": run, "pause": pause, "waits": waits, "steps": steps, "log": logs})
        return
    console = output.console()
    console.print(Text(f"{tenant} {run_id}", style="bold"))
    console.print(output.sheet(_describe(run, pause, now)))
    for wait in waits:
        if wait["wait_type"] != "quota":
            due = f", due {output.moment(wait['due_at'], now)}" if wait["due_at"] else ""
            console.print(f"waits for {wait['wait_type']} at {', '.join(wait['node_paths'])}{due}")
    if steps:
        console.print("\nSteps, the newest first")
        console.print(
            output.table(
                ("path", ">try", "type", "status", "started"),
                (
                    (
                        s["node_path"],
                        str(s["attempt"]),
                        s["step_type"],
                        s["status"],
                        output.ago(s["started_at"], now),
                    )
                    for s in steps
                ),
            )
        )
    if logs:
        console.print("\nWhat was done to it")
        console.print(
            output.table(
                ("when", "what", "by"),
                (
                    (output.ago(x["logged_at"], now), x["message"], str(x["details"].get("by", "")))
                    for x in logs
                ),
            )
        )


def _describe(run: dict[str, Any], pause: Any, now: datetime) -> list[tuple[str, str | None]]:
    items: list[tuple[str, str | None]] = [
        ("workflow", run["workflow"]),
        ("runtime", run["runtime"]),
        ("status", run["status"]),
        ("stands at", run["node_path"]),
        ("registered", output.moment(run["registered_at"], now)),
        ("ended", output.moment(run["ended_at"], now)),
    ]
    if pause is not None:
        limit = output.number(pause.effective_limit)
        items += [
            ("paused", output.moment(pause.paused_since, now)),
            ("because", ", ".join(pause.reasons)),
            ("used", f"{output.number(pause.used_count)} of {limit} steps"),
            ("goes on by", "\n".join(pause.unblocked_by_each)),
            ("expected", output.moment(pause.unblocks_at, now) or "only when somebody acts"),
        ]
    elif run["held_at"]:
        items.append(("held", f"by {run['held_by']}: {run['held_because']}"))
    return items


@app.command()
def resume(
    tenant: Tenant,
    run_id: RunId,
    reason: Reason,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring a paused run back, if there is quota; exit 3 if it stays paused."""
    from .. import resume_workflow_run

    with opened(database_url, "stepquota_operator") as connection:
        answer = resume_workflow_run(connection, tenant, run_id, reason)
    if as_json:
        output.print_json({"tenant": tenant, "run_id": run_id, "answer": answer})
    elif answer.resumed:
        print(f"{run_id} is resumed; a worker takes it on")
    else:
        words = {
            "quota_exhausted": "the quota is used up",
            "no_capacity": "the steps left are promised to runs that were resumed before",
            "held": "it is held, or its tenant is held or suspended",
        }
        print(
            f"{run_id} stays paused: {words.get(answer.reason, answer.reason)} "
            f"({output.number(answer.used_count)} of {output.number(answer.effective_limit)} "
            f"until {answer.period_end:%Y-%m-%d %H:%M} UTC)"
        )
    if not answer.resumed:
        raise typer.Exit(NOT_RESUMED)


@app.command()
def hold(
    tenant: Tenant,
    run_id: RunId,
    reason: Reason,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Stop it: what has started may finish, nothing else starts."""
    from .. import hold_workflow_run

    with opened(database_url, "stepquota_operator") as connection:
        _print_run(hold_workflow_run(connection, tenant, run_id, reason), as_json)


@app.command()
def release(
    tenant: Tenant,
    run_id: RunId,
    reason: Reason,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End the hold; it goes on if quota allows."""
    from .. import release_workflow_run

    with opened(database_url, "stepquota_operator") as connection:
        _print_run(release_workflow_run(connection, tenant, run_id, reason), as_json)


@app.command()
def cancel(
    tenant: Tenant,
    run_id: RunId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End it for good, with its steps, waits and resumptions."""
    from .. import cancel_workflow_run

    if not yes:
        if not sys.stdin.isatty():
            raise Problem("cancelling cannot be undone, and nobody is there to ask", "add --yes")
        typer.confirm(f"End {run_id} of {tenant} for good?", abort=True)
    with opened(database_url, "stepquota_operator") as connection:
        _print_run(cancel_workflow_run(connection, tenant, run_id), as_json)


def _print_run(run: Any, as_json: bool) -> None:
    if as_json:
        output.print_json(run)
        return
    held = f", held by {run.held_by}: {run.held_because}" if run.held_at else ""
    print(f"{run.run_id} is {run.status}{held}")
