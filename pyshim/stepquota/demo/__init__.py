"""The demo: workflows of five tenants run, use up their quota, pause where they stand, and go on.

Everything in it is real but Stripe, which lives in memory (``stripe_fake``): a PostgreSQL server
of its own, worker processes that run a workflow program through the functions of ``stepquota``, a
process that calls ``stepquota.tick()``, and ``stepquota stripe run``. Every figure it prints was
read from the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]


def run(*, console: Console | None = None) -> int:
    """Start a server of our own, install stepquota in it, show the demo, and stop everything.

    Args:
        console: Where it is shown. Without a terminal behind it, as plain lines.

    Returns:
        The exit status: 0, or 1 when the final check found something wrong.

    Raises:
        Problem: The server cannot be had, or the demo could not go on.
    """
    # Worker processes import this package too, and need nothing of what a show needs.
    from .show import run_on_own_server

    return run_on_own_server(console)
