"""``stepquota top``: the tenants that are nearest to their limits, live."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from . import output
from .session import AsJson, DatabaseUrl, opened, rows

if TYPE_CHECKING:
    import psycopg


class Order(StrEnum):
    """What the tenants are ordered by, the greatest first."""

    PERCENT = "percent"
    USED = "used"
    PAUSED = "paused"


_COLUMNS = "tenant, used_count, effective_limit, remaining, percent, resets_at, paused_runs"


def top(
    database_url: DatabaseUrl = None,
    order: Annotated[Order, typer.Option("--order", help="The greatest first.")] = Order.PERCENT,
    most: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, help="So many tenants; by default as many as fit, 20 in a pipe."
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds between two looks.")
    ] = 5,
    once: Annotated[bool, typer.Option("--once", help="Print it once; so too in a pipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the tenants that are nearest to their limits, until Ctrl-C.

    Figures are of now. Who is shown, and in which order, is as tick() last saw it, about a minute
    ago at most; where it never ran, all counters are read for each look.
    """
    with opened(database_url, "stepquota_observer") as connection:
        if as_json:
            output.print_json(_read(connection, order, most or 20))
            return
        console = output.console()
        if once or not sys.stdout.isatty():
            console.print(_show(connection, order, most or 20, {}))
            return
        counted: dict[str, int] = {}
        try:
            with Live(console=console, screen=True, auto_refresh=False) as live:
                while True:
                    fitting = max(console.height - 3, 1)
                    live.update(
                        _show(connection, order, min(most or fitting, fitting), counted),
                        refresh=True,
                    )
                    time.sleep(interval)
        except KeyboardInterrupt:
            return


def _read(connection: psycopg.Connection[Any], order: Order, most: int) -> list[dict[str, Any]]:
    return rows(
        connection,
        f"select {_COLUMNS} from stepquota.list_tenants("
        "p_sort => %s, p_descending => true, p_max_tenants => %s)",
        order.value,
        most,
    )


def _show(
    connection: psycopg.Connection[Any], order: Order, most: int, counted: dict[str, int]
) -> Group:
    found = _read(connection, order, most)
    now: datetime = rows(connection, "select stepquota.clock() as now")[0]["now"]
    paused = rows(connection, "select count(*) as tenants from stepquota.paused_tenants")[0]
    head = Text(
        f"{connection.info.dbname}  {now.astimezone():%Y-%m-%d %H:%M:%S %Z}  "
        f"{output.plural(paused['tenants'], 'tenant')} with paused runs",
        style="bold",
    )
    made = _make_table(found, now, counted)
    counted.clear()
    counted.update({row["tenant"]: row["used_count"] for row in found})
    return Group(head, made)


def _make_table(found: list[dict[str, Any]], now: datetime, counted: dict[str, int]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("tenant", no_wrap=True, overflow="ellipsis", max_width=24)
    made.add_column("", no_wrap=True)
    for name in ("percent", "used", "limit", "left", *(("new",) if counted else ()), "paused"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("resets", no_wrap=True, overflow="ellipsis")
    for row in found:
        before = counted.get(row["tenant"])
        made.add_row(
            row["tenant"],
            output.bar(row["percent"], 8),
            "" if row["percent"] is None else str(row["percent"]),
            output.number(row["used_count"]),
            output.number(row["effective_limit"], "-"),
            output.number(row["remaining"], "-"),
            *(() if not counted else (_count_new(row["used_count"], before),)),
            output.number(row["paused_runs"]) if row["paused_runs"] else "",
            output.ago(row["resets_at"], now),
        )
    return made


def _count_new(used: int, before: int | None) -> str:
    return "" if before is None else output.number(max(used - before, 0))
