"""Runs pgTAP files as pytest items: each in a database of its own, every assertion counted.

A file is one transaction, rolled back at the end. Two lines among its first comments change how it
runs::

    -- needs: pg_cron          only on servers that have the extension
    -- transaction: none       every statement by itself, for procedures that commit

The search_path begins with ``tap``. The test clock is allowed: set ``stepquota.now`` to use it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlparse

from .databases import tap_database
from .servers import CAPABILITIES, SERVERS, ServerPool, Unavailable

POOL = pytest.StashKey[ServerPool]()

_DIRECTIVE = re.compile(r"--\s*(needs|transaction):\s*(.+?)\s*$")
_ASSERTION = re.compile(r"(?P<failed>not )?ok \d+(?P<rest>.*)")
_SKIP = re.compile(r"#\s*skip\S*\s*(?P<reason>.*)", re.IGNORECASE)
_PLAN = re.compile(r"1\.\.(\d+)")


@dataclass
class TapResult:
    """What the output of one file says, and the types of the events that it left."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    planned: int | None = None
    event_types: set[str] = field(default_factory=set)

    def add(self, text: str) -> None:
        """Take in what one call of pgTAP answered."""
        first, *others = text.splitlines() or [""]
        if plan := _PLAN.fullmatch(first):
            self.planned = int(plan[1])
        elif assertion := _ASSERTION.match(first):
            skip = _SKIP.search(assertion["rest"])
            if assertion["failed"]:
                self.failures.append(text)
            elif skip:
                self.skips.append(skip["reason"])
            else:
                self.passed += 1
            if others:
                self.add("\n".join(others))
        elif others:
            self.add("\n".join(others))

    def check_plan(self) -> None:
        """Make a missing plan, or one that was not kept, a failure."""
        ran = self.passed + len(self.failures) + len(self.skips)
        if self.planned is None:
            self.failures.append("there is no plan; begin with select plan(N)")
        elif self.planned != ran:
            self.failures.append(f"planned {self.planned} assertions and ran {ran}")


class TapFile(pytest.File):
    """A file of pgTAP assertions: an item for each server."""

    def collect(self) -> Iterator[pytest.Item]:
        """The file on each server that has what it needs."""
        text = self.path.read_text(encoding="utf-8")
        needs = set(_directives(text).get("needs", "").replace(",", " ").split())
        for name in SERVERS:
            if needs <= CAPABILITIES[name]:
                yield TapItem.from_parent(self, name=name, server_name=name, needs=needs)


class TapItem(pytest.Item):
    """A file of pgTAP assertions on one server."""

    def __init__(self, *, server_name: str, needs: set[str], **arguments: Any):
        super().__init__(**arguments)
        self._server_name = server_name
        self._needs = needs

    def runtest(self) -> None:
        """Run the file and report its assertions as properties of the item."""
        try:
            pool = self.config.stash[POOL]
            server = pool.get(self._server_name)
            if missing := self._needs - server.capabilities:
                raise Unavailable(f"{', '.join(sorted(missing))} is not installed")
            database = tap_database(server, pool)
        except Unavailable as reason:
            pytest.skip(str(reason))
        self.user_properties.append(("server", str(server)))
        try:
            with database.connect(autocommit=True) as connection:
                result = run_script(connection, self.path)
        finally:
            database.drop()
        counts = {"passed": result.passed, "failed": len(result.failures), "skips": result.skips}
        self.user_properties.append(("tap", counts))
        if result.failures:
            raise TapFailure("\n".join(result.failures))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any) -> Any:
        """The failed assertions, without a traceback."""
        if isinstance(excinfo.value, TapFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, *args)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where the item is, for pytest's report."""
        return self.path, None, f"{self.path.parent.name}/{self.path.stem} on {self._server_name}"


class TapFailure(Exception):
    """Assertions failed, or the script did not run to its end."""


def run_script(connection: psycopg.Connection[Any], path: Path) -> TapResult:
    """Run a pgTAP script and gather its output, up to the first error."""
    text = path.read_text(encoding="utf-8")
    one_transaction = _directives(text).get("transaction") != "none"
    result = TapResult()
    connection.execute("set search_path = tap, public")
    if one_transaction:
        connection.execute("begin")
    for line, statement in _statements(text):
        if statement.strip() == "rollback;":
            _check_events(connection, result)
        try:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            detail = "\n".join(
                part
                for part in (error.diag.message_detail, error.diag.message_hint, error.diag.context)
                if part
            )
            message = error.diag.message_primary or str(error)
            result.failures.append(
                f"{path.name}, line {line}: {error.sqlstate}: {message}\n{detail}".rstrip()
            )
            break
        for row in rows:
            if len(row) == 1 and isinstance(row[0], str):
                result.add(row[0])
    else:
        result.check_plan()
        _check_events(connection, result)
    if one_transaction:
        connection.execute("rollback")
    return result


def _check_events(connection: psycopg.Connection[Any], result: TapResult) -> None:
    """Events that were written must be as sql/event_types.sql declares them."""
    if result.failures:  # The transaction may be aborted.
        return
    connection.execute("reset role")
    result.event_types |= {
        row[0]
        for row in connection.execute("select distinct event_type from stepquota.quota_events")
    }
    result.failures += [
        row[0] for row in connection.execute("select tap.find_event_problems() order by 1")
    ]


def _directives(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("--"):
            break
        if match := _DIRECTIVE.match(line):
            found[match[1]] = match[2]
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    position = 0
    for piece in sqlparse.split(text):
        start = text.index(piece, position)
        position = start + len(piece)
        if sqlparse.format(piece, strip_comments=True).strip(" \n;"):
            yield text.count("\n", 0, start) + 1, piece
