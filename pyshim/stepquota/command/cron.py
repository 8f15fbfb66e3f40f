"""``stepquota cron``: scheduling with pg_cron."""

from __future__ import annotations

from typing import Annotated

import typer

from . import output
from .session import AsJson, DatabaseUrl, opened

app = typer.Typer(
    help="Schedule the recurring work with pg_cron.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def enable(
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="CRON", help="When tick() runs.")
    ] = "*/5 * * * *",
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Schedule the jobs, as the role that is connected. Again changes the schedule."""
    from .. import enable_cron

    with opened(database_url, "stepquota_operator") as connection:
        jobs = enable_cron(connection, schedule)
    if as_json:
        output.print_json(jobs)
        return
    for job in jobs:
        print(f"{job.job_name} runs at {job.schedule}: {job.command}")


@app.command()
def disable(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Remove the jobs that enable has scheduled."""
    from .. import disable_cron

    with opened(database_url, "stepquota_operator") as connection:
        jobs = disable_cron(connection)
    if as_json:
        output.print_json(jobs)
        return
    for job in jobs:
        print(f"{job.job_name} is removed")
    if not jobs:
        print("nothing was scheduled")


@app.command("print")
def print_(database_url: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """Print the statements, for somebody with the rights to run them by hand."""
    from .. import cron_sql

    with opened(database_url, "stepquota_observer") as connection:
        statements = cron_sql(connection)
    if as_json:
        output.print_json(statements)
        return
    for statement in statements:
        print(statement)
