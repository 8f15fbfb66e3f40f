"""What a person sees: a line for each thing that happens and, on a terminal, a live table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .figures import PeriodTotals, TenantFigures

_BAR_CELLS = 12

_SOURCES = {
    "stripe_price_metadata": "price",
    "stripe_product_metadata": "product",
    "unlimited_metadata": "metadata",
}


class Display:
    """Shows the demo on a console, from the start to the end of a ``with`` block.

    On a terminal the lines scroll above a table that is always up to date. Without one there are
    plain lines only.

    Args:
        console: Where.
    """

    def __init__(self, console: Console):
        self.console = console
        self.is_live = console.is_terminal and not console.is_dumb_terminal
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end_live()

    @property
    def seconds(self) -> float:
        """How long the demo has been going on."""
        return time.monotonic() - self._began

    def chapter(self, title: str) -> None:
        """Begin a new part."""
        self._print(Text(""))
        self._print(Text(title, "bold cyan"))

    def say(self, sentence: str, style: str = "") -> None:
        """Say what has just happened."""
        if self.is_live:
            # Wrapped lines begin below the sentence and not below the time.
            grid = Table.grid(padding=(0, 1))
            grid.add_column(min_width=6, justify="right", style="dim")
            grid.add_column(overflow="fold")
            grid.add_row(Text(f"{self.seconds:.1f} s"), Text(sentence, style))
            self.console.print(grid)
        else:
            self._print(Text(f"{self.seconds:5.1f} s  {sentence}"))

    def show(self, lines: Sequence[str]) -> None:
        """Show lines as they are: statements, or what the database answered."""
        for line in lines:
            if self.is_live:
                self.console.print(Padding(Text(line, "green"), (0, 0, 0, 8)))
            else:
                self._print(Text(f"         {line}"))

    def update(self, tenants: Sequence[TenantFigures]) -> None:
        """Bring the live table up to date."""
        if not self.is_live:
            return
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(Padding(self._table(tenants), (1, 0, 0, 0)), refresh=True)

    def snapshot(self, tenants: Sequence[TenantFigures]) -> None:
        """Print the table, where there is no live one."""
        if not self.is_live:
            self.console.print(self._table(tenants))

    def end_live(self) -> None:
        """Take the live table away."""
        if self._live:
            self._live.stop()
            self._live = None

    def totals(self, totals: Sequence[PeriodTotals], tenants: Sequence[TenantFigures]) -> None:
        """Print the last table."""
        by_name = {figures.tenant: figures for figures in tenants}
        table = self._new_table()
        table.add_column("tenant")
        for column in ("used", "limit", "ledger", "drift", "runs", "done", "paused"):
            table.add_column(column, justify="right")
        for row in totals:
            figures = by_name[row.tenant]
            table.add_row(
                row.tenant,
                str(row.used),
                _limit(row.step_limit),
                str(row.ledger),
                Text(str(row.drift), "green" if row.drift == 0 else "bold red"),
                str(figures.runs),
                str(figures.done),
                str(figures.paused),
            )
        self.console.print(table)

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=not self.is_live, highlight=False)

    def _new_table(self) -> Table:
        return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")

    def _table(self, tenants: Sequence[TenantFigures]) -> Table:
        table = self._new_table()
        table.add_column("tenant", no_wrap=True)
        table.add_column("limit from", no_wrap=True)
        table.add_column("steps used", no_wrap=True)
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("done", justify="right", no_wrap=True)
        table.add_column("paused", justify="right", no_wrap=True)
        table.add_column("waiting", justify="right", no_wrap=True)
        for figures in tenants:
            table.add_row(
                figures.tenant,
                _SOURCES.get(figures.limit_source, f"plan {figures.tier}"),
                self._bar(figures),
                _share(figures),
                f"{figures.done} of {figures.runs}",
                Text(str(figures.paused), "bold red" if figures.paused else "dim"),
                Text(str(figures.waiting), "" if figures.waiting else "dim"),
            )
        return table

    def _bar(self, figures: TenantFigures) -> Text:
        if figures.step_limit is None:
            return Text("")
        full, empty = ("#", ".") if self._is_ascii else ("█", "░")
        share = min(1.0, figures.used / figures.step_limit)
        # Full only when it is.
        cells = int(share * _BAR_CELLS)
        style = "red" if share == 1 else "yellow" if share > 0.75 else "green"
        return Text(full * cells, style) + Text(empty * (_BAR_CELLS - cells), "dim")

    @property
    def _is_ascii(self) -> bool:
        return not self.is_live or self.console.options.ascii_only


def _share(figures: TenantFigures) -> str:
    if figures.step_limit is None:
        return f"{figures.used}, no limit"
    return f"{figures.used} of {figures.step_limit}"


def _limit(step_limit: int | None) -> str:
    return "unlimited" if step_limit is None else str(step_limit)
