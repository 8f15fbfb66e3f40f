"""``stepquota events``: what happened."""

from __future__ import annotations

import json
import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from . import output
from .session import AsJson, DatabaseUrl, opened, rows

if TYPE_CHECKING:
    import psycopg

# An event is seen when it is committed, which may be later than its moment.
_LATE_SECONDS = 120


class Level(StrEnum):
    """The least level that is shown."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def events(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="The tenant; by default all.", show_default=False),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print new ones as they come, until Ctrl-C.")
    ] = False,
    most: Annotated[int, typer.Option(min=0, max=10000, help="At most so many to begin.")] = 20,
    level: Annotated[Level, typer.Option("--level", help="The least level.")] = Level.INFO,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Print events, the newest last. With --json each is a line of its own.

    For programs that must miss none there is claim_quota_events, see docs/events.md. This one shows
    each event that was committed within two minutes of its moment.
    """
    levels = [known.value for known in Level][[*Level].index(level) :]
    with opened(database_url, "stepquota_observer") as connection:
        console = output.console()
        found = rows(
            connection,
            "select * from stepquota.recent_events"
            " where (%s::text is null or tenant = %s) and level = any(%s) limit %s",
            tenant,
            tenant,
            levels,
            most,
        )
        for event in reversed(found):
            _print_event(console, event, as_json)
        if follow:
            try:
                _follow(connection, console, tenant, levels, as_json)
            except KeyboardInterrupt:
                return


def _follow(
    connection: psycopg.Connection[Any],
    console: Console,
    tenant: str | None,
    levels: list[str],
    as_json: bool,
) -> None:
    seen = {row["event_id"]: row["created_at"] for row in _read_late(connection, tenant, levels)}
    while True:
        time.sleep(1)
        for event in _read_late(connection, tenant, levels):
            if event["event_id"] not in seen:
                _print_event(console, event, as_json)
                seen[event["event_id"]] = event["created_at"]
        if len(seen) > 10000:
            newest: datetime = max(seen.values())
            seen = {
                number: at
                for number, at in seen.items()
                if (newest - at).total_seconds() < 2 * _LATE_SECONDS
            }


def _read_late(
    connection: psycopg.Connection[Any], tenant: str | None, levels: list[str]
) -> list[dict[str, Any]]:
    return rows(
        connection,
        "select * from stepquota.recent_events"
        " where created_at > stepquota.clock() - make_interval(secs => %s)"
        " and (%s::text is null or tenant = %s) and level = any(%s)"
        " order by created_at, event_id",
        _LATE_SECONDS,
        tenant,
        tenant,
        levels,
    )


def _print_event(console: Console, event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        output.print_json(event, one_line=True)
        return
    about = " ".join(filter(None, (event["tenant"], event["run_id"])))
    console.print(
        Text.assemble(
            (f"{event['created_at'].astimezone():%Y-%m-%d %H:%M:%S %Z} ", "dim"),
            output.state(event["level"]),
            " ",
            (event["event_type"], "bold"),
            f" {about}",
        ),
        soft_wrap=True,
    )
    if event["details"]:
        details = " ".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in event["details"].items()
            if value is not None
        )
        console.print(Text(f"  {details}", style="dim"))
