"""The process that calls ``stepquota.tick()`` again and again, as pg_cron does where it is."""

from __future__ import annotations

from .. import tick
from .connections import connect
from .lifeline import Lifeline, run_until_cut

# pg_cron usually runs it every five minutes; nobody would watch that.
EVERY_SECONDS = 0.5


def main(lifeline: Lifeline) -> None:
    """Call it until the lifeline is cut."""
    task = lifeline.read_task()
    with connect(task["database_url"], task["name"], "operator") as connection:
        while True:
            tick(connection)
            lifeline.wait(EVERY_SECONDS)


if __name__ == "__main__":
    run_until_cut(main)
