"""Connections that break between two statements, as when their process is killed there."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.abc import PQGen

from harness.databases import Database


class Killed(BaseException):
    """The process is gone; nothing in it may catch that and go on."""


class FragileConnection(psycopg.Connection[Any]):
    """A connection that is cut when it has carried out some statements.

    Attributes:
        statements_left: How many more it carries out; BEGIN and COMMIT are statements too.
    """

    statements_left: int | None = None

    def wait(self, gen: PQGen[Any], *arguments: Any, **named: Any) -> Any:
        """Everything that is sent to the server passes here."""
        if self.statements_left == 0:
            self.pgconn.finish()
            raise Killed
        if self.statements_left is not None:
            self.statements_left -= 1
        return super().wait(gen, *arguments, **named)


def connect_fragile(database: Database, statements: int | None) -> FragileConnection:
    """A connection in autocommit mode that carries out so many statements."""
    connection = FragileConnection.connect(database.url, autocommit=True)
    connection.execute("set jit = off")
    connection.statements_left = statements
    return connection
