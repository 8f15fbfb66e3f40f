"""The processes of the demo: started, watched and ended together."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from ..problems import Problem

_END_SECONDS = 3.0


class Crew:
    """Worker processes, a ticker and the Stripe sync, which run until the ``with`` block ends.

    They end by themselves when this process is gone, however it went (see ``lifeline``).

    Args:
        database_url: Where they work.
    """

    def __init__(self, database_url: str):
        self._database_url = database_url
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def start(self, name: str, module: str, **task: str) -> int:
        """Start a process.

        Args:
            name: What it is called.
            module: The module of this package that it runs.
            task: What it is told, besides its name and where it works.

        Returns:
            Its process id.
        """
        process = subprocess.Popen(
            # -P: nothing is imported from the folder that the demo happens to be started in.
            [sys.executable, "-P", "-m", f"{__package__}.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C is for us, and we end them.
            start_new_session=True,
        )
        self._processes[name] = process
        assert process.stdin is not None
        task |= {"name": name, "database_url": self._database_url}
        with suppress(BrokenPipeError):  # check() will say that it died
            process.stdin.write(json.dumps(task).encode() + b"\n")
            process.stdin.flush()
        return process.pid

    def check(self) -> None:
        """Raise Problem if a process has ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Problem(
                    f"the process {name} ended with status {process.returncode}: "
                    f"{_last_words(process)}"
                )

    def kill(self, name: str) -> None:
        """Kill a process so that it has no chance to clean up."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()
        _close(process)

    def end(self) -> None:
        """End all processes and wait until they are gone."""
        for process in self._processes.values():
            if process.stdin:
                with suppress(BrokenPipeError):
                    process.stdin.close()
        deadline = time.monotonic() + _END_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)
        self._processes.clear()


def _last_words(process: subprocess.Popen[bytes]) -> str:
    report = process.stderr.read().decode(errors="replace") if process.stderr else ""
    # An exception may go on in indented lines.
    lines = [line for line in report.splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else "it left no message"


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stderr):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()
