"""Connections of the demo, each with the rights of one of stepquota's roles."""

from __future__ import annotations

from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

Role = Literal["runtime", "operator", "sync", "observer"]


def connect(database_url: str, name: str, role: Role | None = None) -> psycopg.Connection[Any]:
    """A connection in autocommit mode; see ``describe``."""
    return psycopg.connect(describe(database_url, name, role), autocommit=True)


def describe(database_url: str, name: str, role: Role | None = None) -> str:
    """What libpq needs to make a connection.

    Args:
        database_url: The database; its user must be allowed to take the role.
        name: Who connects, as the server lists it.
        role: Which of stepquota's roles it has from the start; None leaves the user as it is.
    """
    options = str(conninfo_to_dict(database_url).get("options") or "")
    if role:
        options = f"{options} -c role=stepquota_{role}".strip()
    return make_conninfo(database_url, options=options, application_name=application_name(name))


def application_name(name: str) -> str:
    """What the server lists a process's connection as."""
    return f"stepquota demo: {name}"
