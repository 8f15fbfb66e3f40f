"""How a process of the demo ends with the one that started it.

Its standard input is a pipe from there. The first line is its task, as JSON; after that the pipe
stays silent, and when it closes, because the other end asked for it or is gone, the process ends.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable

import psycopg

_STANDARD_INPUT = 0


class Cut(Exception):
    """The process that started this one wants it to end, or is gone."""


class Lifeline:
    """The pipe from the process that started this one."""

    def read_task(self) -> dict[str, str]:
        """The task; to be called first and once."""
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(_STANDARD_INPUT, 1)
            if not byte:
                raise Cut
            line += byte
        task: dict[str, str] = json.loads(line)
        return task

    def check(self) -> None:
        """Raise Cut if the line is cut."""
        self.wait(0)

    def wait(self, seconds: float, *others: int) -> None:
        """Wait, but no longer than until one of the other file descriptors can be read.

        Raises:
            Cut: The line was cut before or meanwhile.
        """
        readable, _, _ = select.select([_STANDARD_INPUT, *others], [], [], seconds)
        if _STANDARD_INPUT in readable:
            raise Cut


def run_until_cut(main: Callable[[Lifeline], None]) -> None:
    """Run a process's main function; when its lifeline is cut, end it with exit status 0."""
    lifeline = Lifeline()
    try:
        main(lifeline)
    except Cut:
        return
    except psycopg.OperationalError:
        # The server is stopped when the show is over or its process has died.
        try:
            lifeline.wait(2)
        except Cut:
            return
        raise
    finally:
        sys.stderr.flush()
