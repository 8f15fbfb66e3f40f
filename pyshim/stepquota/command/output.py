"""What commands print: tables, bars, moments, JSON. No colour and no bar's movement in a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 200
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_STATES = {"ok": "green", "info": "cyan", "warn": "yellow", "warning": "yellow", "error": "red"}


def console() -> Console:
    """Where commands print: as wide as the terminal; wide in a pipe, since nobody looks at it."""
    is_looked_at = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if is_looked_at else PIPE_WIDTH, highlight=False, markup=False)


def print_json(value: Any, *, one_line: bool = False) -> None:
    """A value as JSON: moments in ISO 8601 and UTC, limits that are null are unlimited."""
    print(json.dumps(value, indent=None if one_line else 2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def table(columns: Sequence[str], cells: Iterable[Sequence[RenderableType | None]]) -> Table:
    """A table without lines; names of columns that begin with > are to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in cells:
        made.add_row(*(cell if cell is not None else "" for cell in row))
    return made


def sheet(items: Iterable[tuple[str, RenderableType | None]]) -> Table:
    """Names and values, a line each; what is None is left out."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in items:
        if value is not None:
            made.add_row(name, value)
    return made


def state(word: str) -> Text:
    """A state or level, in its colour."""
    return Text(word, style=_STATES.get(word, ""))


def with_hint(detail: str | None, hint: str | None) -> Text:
    """What was found, and on a line of its own what to do."""
    return Text.assemble(detail or "", *([("\n-> " + hint, "italic")] if hint else []))


def bar(percent: float | Decimal | None, width: int = 20) -> Text:
    """A bar for a share of a limit; empty for none."""
    if percent is None:
        return Text("")
    share = min(max(float(percent), 0), 100) / 100
    full, empty = ("█", "░") if _prints("█░") else ("#", "-")
    filled = round(share * width)
    # Full only if it is, and begun as soon as it has.
    filled = min(filled, width - 1) if share < 1 else width
    filled = max(filled, 1) if share > 0 else 0
    colour = "red" if percent >= 100 else "yellow" if percent >= 80 else "green"
    return Text.assemble((full * filled, colour), (empty * (width - filled), "dim"))


def _prints(characters: str) -> bool:
    # While a screen is live, sys.stdout is a proxy that does not know.
    encoding = sys.__stdout__.encoding if sys.__stdout__ else "ascii"
    try:
        characters.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def number(value: int | float | Decimal | None, none: str = "unlimited") -> str:
    """A count with thousands apart."""
    return none if value is None else f"{value:,}".replace(",", " ")


def plural(count: int, thing: str) -> str:
    """A count and its thing: 1 error, 2 errors."""
    return f"{number(count)} {thing}" if count == 1 else f"{number(count)} {thing}s"


def ago(moment: datetime, now: datetime) -> str:
    """How far a moment is from now, in words."""
    seconds = (moment - now).total_seconds()
    size = abs(int(seconds))
    for unit, length in _UNITS:
        # Two of a unit at least, so that nothing is rounded by half.
        if size >= 2 * length or unit == "second":
            words = plural(size // length, unit)
            return "now" if size == 0 else f"in {words}" if seconds > 0 else f"{words} ago"
    raise AssertionError


def moment(at: datetime | None, now: datetime) -> str | None:
    """A moment: how far it is, in the user's zone, and in UTC."""
    if at is None:
        return None
    local, utc = at.astimezone(), at.astimezone(UTC)
    text = f"{ago(at, now)}, {local:%Y-%m-%d %H:%M %Z}"
    if local.utcoffset():
        same_day = local.date() == utc.date()
        text += f" ({utc:%H:%M} UTC)" if same_day else f" ({utc:%Y-%m-%d %H:%M} UTC)"
    return text
