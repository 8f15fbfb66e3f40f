"""The guard process of a server: it starts the server and ends it when its own parent has gone.

It is a process of its own, in a session of its own, so that neither Ctrl-C nor the sudden death of
the parent leaves a server or a folder behind. It is run as a file and imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_LOOK_EVERY_SECONDS = 0.1
_STOP_SECONDS = 20.0
_REPORTED_LINES = 20


class _Asked(Exception):
    """The guard was asked to end, by the end of its parent or by a signal."""


def main() -> int:
    """Carry out the job in the first line of standard input, see ``LocalServer``.

    Returns:
        0 if the guard was asked to end. Otherwise the server ended by itself, and the end of its
        log is on standard error.
    """
    job: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    signal.signal(signal.SIGTERM, _on_signal)
    try:
        if job["initdb"]:
            if _run(job, job["initdb"], signal.SIGTERM) != 0:
                return _report(job)
            Path(job["new_data"]).rename(job["data"])
        # SIGINT is PostgreSQL's fast shutdown.
        _run(job, job["postgres"], signal.SIGINT)
        return _report(job)
    except _Asked:
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        shutil.rmtree(job["folder"], ignore_errors=True)


def _report(job: dict[str, Any]) -> int:
    lines = Path(job["log"]).read_text(encoding="utf-8", errors="replace").splitlines()
    sys.stderr.write("\n".join(lines[-_REPORTED_LINES:]))
    return 1


def _on_signal(_number: int, _frame: FrameType | None) -> None:
    raise _Asked


def _run(job: dict[str, Any], command: list[str], stop_signal: signal.Signals) -> int:
    user = job["user"]
    with Path(job["log"]).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            **({"user": user[0], "group": user[1], "extra_groups": []} if user else {}),
        )
    try:
        while process.poll() is None:
            readable, _, _ = select.select([0], [], [], _LOOK_EVERY_SECONDS)
            if (readable and not os.read(0, 1)) or os.getppid() != job["parent"]:
                raise _Asked
        return process.returncode
    finally:
        _stop(process, stop_signal)


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    for number in (stop_signal, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(main())
