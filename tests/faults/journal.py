"""What clients noted of the operations that were acknowledged to them, outside of the database.

A line is written after the acknowledgement, so all that is noted must be in the database. What may
be there without being noted: operations under way, or whose answer was lost with its connection or
its client. For those that could be counted twice a line is written before, too.
"""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[str, str]


class Journal:
    """The file of one client. A line is one write: who is killed leaves no half of it."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, kind: str, operations: int, *fields: object) -> None:
        """Note so many acknowledged operations of one transaction, and what they were."""
        line = "\t".join([kind, str(operations), *(str(each) for each in fields)])
        os.write(self._file, line.encode() + b"\n")

    # One for each kind of line.

    def registered(self, run: Key) -> None:
        self.note("registered", 1, *run, time.monotonic())

    def started(self, run: Key, attempts: list[str], operations: int) -> None:
        self.note("started", operations, *run, ",".join(attempts))

    def ended(self, run: Key, status: str, operations: int = 1) -> None:
        self.note("ended", operations, *run, status)

    def let_go(self, run: Key, since: float) -> None:
        """The run is out of the client's hands: since before the call that said so."""
        self.note("let go", 0, *run, since)

    def claimed(self, run: Key, delivery: int) -> None:
        self.note("claimed", 0, *run, time.monotonic(), delivery)

    def asks(self, tenant: str, units: int, number: str) -> None:
        self.note("asks", 0, tenant, units, number)

    def took(self, tenant: str, units: int, number: str, operations: int) -> None:
        self.note("took", operations, tenant, units, number)

    def got_none(self, number: str) -> None:
        """It was undone for certain."""
        self.note("took", 0, "", 0, number)

    def granted(self, tenant: str, key: str) -> None:
        self.note("granted", 1, tenant, key)

    def limits(self, tenant: str, limit: int) -> None:
        """A limit is about to be set."""
        self.note("limits", 0, tenant, limit)

    def cancels(self, run: Key) -> None:
        """A run is about to be cancelled."""
        self.note("cancels", 0, *run)

    def did(self, what: str, operations: int = 1) -> None:
        self.note("did", operations, what)

    def failed(self, error: BaseException) -> None:
        self.note("failed", 0, repr(error).replace("\n", " ").replace("\t", " "))


@dataclass
class NotedRun:
    """What is known of a run."""

    attempts: set[str] = field(default_factory=set)
    ended: str | None = None
    # The last moment at which a client took it into its hands, and let it go.
    taken_at: float = 0.0
    let_go_at: float = 0.0
    holder: int = -1
    delivery: int | None = None

    @property
    def is_in_hand(self) -> bool:
        return self.ended is None and self.taken_at > self.let_go_at


@dataclass
class Noted:
    """All journals together, as far as they were read."""

    runs: defaultdict[Key, NotedRun] = field(default_factory=lambda: defaultdict(NotedRun))
    units: Counter[str] = field(default_factory=Counter)
    asked: dict[str, tuple[str, int]] = field(default_factory=dict)
    grants: set[Key] = field(default_factory=set)
    canceled: set[Key] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)
    operations: Counter[str] = field(default_factory=Counter)
    transactions: int = 0
    failures: list[str] = field(default_factory=list)
    _read_until: dict[Path, int] = field(default_factory=dict)

    def read(self, folder: Path) -> None:
        """What was added since the last time."""
        for path in sorted(folder.iterdir()):
            for kind, operations, fields in self._read_new_lines(path):
                self.operations[kind] += operations
                self.transactions += operations > 0
                self._add(int(path.name), kind, fields)

    def _read_new_lines(self, path: Path) -> Iterator[tuple[str, int, list[str]]]:
        with path.open("rb") as file:
            file.seek(self._read_until.get(path, 0))
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read_until[path] = self._read_until.get(path, 0) + len(text)
        for line in text.decode().splitlines():
            kind, operations, *fields = line.split("\t")
            yield kind, int(operations), fields

    def _add(self, client: int, kind: str, fields: list[str]) -> None:
        if kind == "asks":
            self.asked[fields[2]] = (fields[0], int(fields[1]))
        elif kind == "took":
            self.asked.pop(fields[2], None)
            self.units[fields[0]] += int(fields[1])
        elif kind == "granted":
            self.grants.add((fields[0], fields[1]))
        elif kind == "limits":
            self.limits[fields[0]] = max(self.limits.get(fields[0], 0), int(fields[1]))
        elif kind == "cancels":
            self.canceled.add((fields[0], fields[1]))
        elif kind == "failed":
            self.failures.append(f"client {client}: {fields[0]}")
        elif kind != "did":
            self._add_to_run(client, kind, self.runs[fields[0], fields[1]], fields[2:])

    def _add_to_run(self, client: int, kind: str, run: NotedRun, fields: list[str]) -> None:
        if kind == "started":
            run.attempts.update(filter(None, fields[0].split(",")))
        elif kind == "ended":
            run.ended = fields[0]
        elif kind == "let go":
            run.let_go_at = max(run.let_go_at, float(fields[0]))
        elif float(fields[0]) > run.taken_at:
            run.taken_at, run.holder = float(fields[0]), client
            run.delivery = int(fields[1]) if kind == "claimed" else None

    def count_doubtful(self, tenant: str) -> int:
        """Units that were asked for and may have been counted, or not."""
        return sum(units for of, units in self.asked.values() if of == tenant)

    def held_by(self, client: int) -> dict[Key, int | None]:
        """The runs that a client had in its hands, and by which delivery."""
        return {
            key: run.delivery
            for key, run in self.runs.items()
            if run.is_in_hand and run.holder == client
        }
