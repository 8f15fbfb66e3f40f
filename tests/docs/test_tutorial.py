"""The tutorial, step by step as a reader follows it: from an empty folder, in three terminals.

It installs the clone in an environment of its own, so ``make test-engines`` runs it.
STEPQUOTA_WRITE_DOCS=1 writes what the commands print into the page.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import time
from pathlib import Path

from harness.pages import (
    FILE,
    ROOT,
    Block,
    Terminal,
    commands_of,
    read_page,
    reader_environment,
    tidy,
)

NAME = "docs/tutorial.md"
FIRST, SERVER, WORKER = "", "server", "worker"
PATIENCE = 90.0

# What is different each time.
_MASKS = (
    (re.compile(r"\?host=[^'\s]*"), "?host=HOST"),
    (re.compile(r"PostgreSQL \d+\.\d+"), "PostgreSQL N"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?( \w+)?"), "MOMENT"),
    (re.compile(r"\bin \d+ (days?|hours?|minutes?|seconds?)"), "in SOME TIME"),
    (re.compile(r"\b\d+ (minutes?|seconds?) ago|\bnow\b"), "JUST NOW"),
)
_ADDRESS = re.compile(r"DATABASE_URL='([^']*)'")


def masked(text: str) -> str:
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    # Columns are as wide as what is in them, and the last one goes on in the next line.
    return " ".join(text.split())


class Reader:
    """Follows the page, and remembers what it saw."""

    def __init__(self, home: Path):
        self._home = home
        environment = reader_environment(home, HOME=str(home), PATH=os.environ["PATH"])
        # Nothing but what it installs.
        del environment["PYTHONPATH"]
        self._terminals = {name: Terminal(home, environment) for name in (FIRST, SERVER, WORKER)}
        self._address = ""
        self.problems: list[str] = []
        self.printed: list[tuple[str, str]] = []

    def follow(self, block: Block) -> None:
        """Do what a block says."""
        where = f"{NAME}:{block.line}"
        if block.place == FILE:
            self._folder.joinpath(block.file).write_text(block.text + "\n", encoding="utf-8")
        elif block.language == "text":
            self._await(self._terminals[block.place], block.text, where)
        else:
            self._type(block, where)

    def end(self) -> None:
        """Press Ctrl-C where something runs."""
        for name in (WORKER, SERVER, FIRST):
            left = self._terminals[name].interrupt()
            if name == SERVER:
                assert left.endswith("stopping\n"), left

    @property
    def _folder(self) -> Path:
        return self._home / "quota-tutorial"

    def _type(self, block: Block, where: str) -> None:
        terminal = self._terminals[block.place]
        commands = commands_of(block)
        stays = commands.pop() if block.place in (SERVER, WORKER) else None
        for command, says in commands:
            typed = re.sub(_ADDRESS, f"DATABASE_URL='{self._address}'", command)
            printed, _ = terminal.run(typed)
            self.printed.append((command, tidy(printed)))
            self._compare(says, printed, f"{where}: {command}")
        if stays:
            command, says = stays
            terminal.start(command)
            self._await(terminal, says, f"{where}: {command}")

    def _await(self, terminal: Terminal, says: str, where: str) -> None:
        deadline = time.monotonic() + PATIENCE
        printed = ""
        with contextlib.suppress(queue.Empty):
            for _ in says.splitlines():
                printed += terminal.line(max(deadline - time.monotonic(), 0.01)) or ""
        if found := _ADDRESS.search(printed):
            self._address = found[1]
        self._compare(says, printed, where)

    def _compare(self, says: str, printed: str, where: str) -> None:
        if masked(says) != masked(printed):
            self.problems.append(f"{where}: the page says\n{says}\nbut it prints\n{printed}")


if os.environ.get("STEPQUOTA_RUNTIMES") or os.environ.get("STEPQUOTA_WRITE_DOCS"):

    def test_every_command_prints_what_the_page_says(tmp_path: Path) -> None:
        tmp_path.joinpath("stepquota").symlink_to(ROOT)
        reader = Reader(tmp_path)
        try:
            for block in read_page(NAME).blocks[:-1]:
                reader.follow(block)
        finally:
            reader.end()
        if os.environ.get("STEPQUOTA_WRITE_DOCS"):
            write(reader)
        else:
            assert not reader.problems, "\n\n".join(reader.problems)


def test_the_last_block_removes_what_the_first_made() -> None:
    blocks = read_page(NAME).blocks
    assert "mkdir ~/quota-tutorial" in blocks[0].text
    assert blocks[-1].text.endswith("rm -r ~/quota-tutorial")


def test_what_is_different_each_time_is_all_that_is_passed_over() -> None:
    assert masked("in 3 days, 2026-05-01 00:00 UTC") == masked("in 1 day, 2027-01-01 00:00 UTC")
    assert masked("4 of 4 steps, 0 left") != masked("4 of 4 steps, 1 left")


def write(reader: Reader) -> None:
    """Put into the page what the commands of the first terminal print."""
    page = read_page(NAME)
    printed = iter(reader.printed)
    before, after = "", page.text
    for block in page.blocks[:-1]:
        if block.language != "console":
            continue
        stays = 1 if block.place in (SERVER, WORKER) else 0
        commands = commands_of(block)
        seen = [next(printed) for _ in commands[: len(commands) - stays]]
        assert [c for c, _ in seen] == [c for c, _ in commands[: len(seen)]]
        passed, _, after = after.partition(block.text)
        if block.place == FIRST:
            made = "\n".join(f"$ {command}\n{text}".rstrip() for command, text in seen)
            before += passed + made
        else:
            before += passed + block.text
    (ROOT / NAME).write_text(before + after, encoding="utf-8")
