"""The process of the demo that runs ``stepquota stripe run``, with the rights of the sync only."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from ..cli import main as command
from .connections import describe
from .lifeline import Cut, Lifeline, run_until_cut

# The command ends by itself within that time, or is ended.
_END_SECONDS = 2.5


def main(lifeline: Lifeline) -> None:
    """Run it until the lifeline is cut."""
    task = lifeline.read_task()
    os.environ.update(task, DATABASE_URL=describe(task["database_url"], task["name"], "sync"))
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()
    sys.argv = ["stepquota", "stripe", "run", "--port", task["port"], "--workers", "2"]
    command()


def _end_with(lifeline: Lifeline) -> None:
    try:
        while True:
            lifeline.wait(3600)
    except Cut:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_END_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    run_until_cut(main)
