"""The demo as people see it: the command with and without a terminal, and however it ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_COMMAND = [sys.executable, "-P", "-c", "from stepquota.cli import main; main()", "demo"]
_ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")

# What the demo must end with: used, limit, ledger, drift, runs; done and paused where all is done.
_BOOKS = {
    "acme": ["200", "750", "200", "0", "20", "20", "0"],
    "globex": ["160", "1200", "160", "0", "16", "16", "0"],
    "initech": ["90", "90", "90", "0", "12"],
    "hooli": ["150", "unlimited", "150", "0", "15", "15", "0"],
    "umbrella": ["120", "150", "120", "0", "12", "12", "0"],
}


def test_without_a_terminal_it_prints_plain_lines_and_leaves_nothing() -> None:
    # Colours are asked for and must not come: there is no terminal.
    completed = subprocess.run(
        _COMMAND,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "FORCE_COLOR": "1"},
    )
    output = completed.stdout
    assert completed.returncode == 0, output + completed.stderr
    assert completed.stderr == ""
    assert "\x1b" not in output
    _check_story(output)
    _check_nothing_is_left(output)


def test_on_a_terminal_it_shows_a_live_table_within_80_columns() -> None:
    status, raw = _run_on_terminal(columns=80, lines=24)
    # The live table goes back to the start of its lines to write them again.
    output = _ANSI.sub("", raw).replace("\r", "\n")
    assert status == 0, output
    assert "\x1b[?25l" in raw  # a live table hides the cursor
    assert raw.rindex("\x1b[?25h") > raw.rindex("\x1b[?25l")
    # Nothing is cut off, and nothing goes to the edge and wraps.
    assert "…" not in output
    assert max(len(line) for line in output.splitlines()) <= 80
    assert re.search(r"globex +price +█+░* +\d+ of 120 ", output)
    _check_story(output)
    _check_nothing_is_left(output)


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_ends_it_and_leaves_nothing(number: signal.Signals, status: int) -> None:
    with _started() as process:
        output = _read_until(process, "Quotas are used up")
        pids, folder = _find_processes(output)
        assert all(_is_running(pid) for pid in pids if str(pid) not in _killed(output))
        assert folder.exists()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
        assert process.returncode == status
        assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert "Interrupted" in rest
        # Without waiting: it has seen to that before it ended.
        _check_nothing_is_left(output)
    _wait_until_nothing_is_left(output)


def _check_story(output: str) -> None:
    text = " ".join(output.split())
    assert "acme has used 150 of 150 steps" in text
    assert "globex has used 120 of 120 steps" in text
    assert "initech has used 90 of 90 steps" in text
    assert re.search(r"The same transaction resumed (\d+) of the \1 paused runs", text)
    started = re.search(r"started its next step (\d+) ms after the change in Stripe", text)
    assert started
    assert int(started[1]) < 5000
    assert "false, quota_exhausted, 90, 90, stripe_product_metadata" in text
    assert re.search(r"The scan found it \d+ ms later and resumed (\d+) of the \1", text)
    assert re.search(r'the value "1,000" of price price_umbrella_first was reported once', text)
    assert "verify_all() found nothing wrong" in text
    _, _, books = output.partition("The books")
    for tenant, expected in _BOOKS.items():
        row = re.search(rf"^{tenant} +(.*)$", books, re.MULTILINE)
        assert row, books
        figures = row[1].split()
        assert figures[: len(expected)] == expected
        assert int(figures[5]) + int(figures[6]) == int(figures[4])


def _find_processes(output: str) -> tuple[list[int], Path]:
    text = " ".join(output.split())
    workers = re.search(r"worker processes \(([0-9, ]+)\) begin\. Process (\d+) calls", text)
    folder = re.search(r"was started in (\S+),", text)
    assert workers
    assert folder
    sync = re.search(r'Process (\d+) runs "stepquota stripe run"', text)
    assert sync
    pids = [*map(int, workers[1].split(", ")), int(workers[2]), int(sync[1])]
    return pids, Path(folder[1])


def _killed(output: str) -> set[str]:
    """The worker that the demo itself has killed: the last of the three."""
    workers = re.search(r"worker processes \(([0-9, ]+)\) begin", " ".join(output.split()))
    assert workers
    return {workers[1].split(", ")[-1]}


def _check_nothing_is_left(output: str) -> None:
    pids, folder = _find_processes(output)
    assert not [pid for pid in pids if _is_running(pid)]
    assert not folder.exists()
    # Neither the server nor its guard, nor a worker started later.
    assert not _processes_with(str(folder))


def _wait_until_nothing_is_left(output: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return _check_nothing_is_left(output)
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return b"stepquota" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _processes_with(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in command:
                found.append(command)
    return found


@contextmanager
def _started() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        _COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


def _run_on_terminal(columns: int, lines: int) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        _COMMAND,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
    )
    os.close(theirs)
    output = b""
    with suppress(OSError):  # the terminal is closed when the last process that has it ends
        while chunk := os.read(ours, 65536):
            output += chunk
    os.close(ours)
    return process.wait(timeout=30), output.decode()
