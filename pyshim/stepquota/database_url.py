"""Reading a database URL and connecting to it, with errors a person can act on.

Every form that libpq reads is taken: ``postgresql://``, ``postgres://``, a socket folder as
``?host=``, ``key=value`` pairs; also ``postgresql+driver://`` as other tools write it.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from .problems import Problem

OLDEST_SERVER = 15

Parameters = dict[str, Any]
"""libpq's connection parameters by name."""

# The encoding for databases in SQL_ASCII, where psycopg gives bytes for texts otherwise.
_DEFAULTS = {"connect_timeout": 10, "application_name": "stepquota", "client_encoding": "utf8"}

_FORM = "it should read postgresql://user:password@host:port/database"
_ENCODE = "write special characters of user and password percent-encoded, for instance @ as %40"


def read_database_url(database_url: str) -> Parameters:
    """The connection parameters of a database URL.

    Raises:
        Problem: It cannot be read. The message repeats no part of it: a password that was not
            percent-encoded turns up anywhere.
    """
    if not database_url.strip():
        raise Problem("the database URL is empty", _FORM)
    plain = re.sub(r"^postgres(ql)?\+\w+://", "postgresql://", database_url.strip())
    try:
        parameters: Parameters = conninfo_to_dict(plain)
    except psycopg.ProgrammingError:
        # libpq's message repeats a part of the URL, so it is not even a traceback's.
        raise Problem("the database URL cannot be read", f"{_FORM}; {_ENCODE}") from None
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    if any("@" in host[1:] for host in hosts):
        raise Problem("the host in the database URL contains @", _ENCODE)
    if any(port and not port.isdecimal() for port in ports):
        raise Problem("the port in the database URL is not a number", _ENCODE)
    return parameters


def connect(parameters: Parameters, *, autocommit: bool = False) -> psycopg.Connection:
    """A connection to a server that is new enough.

    Raises:
        Problem: The server cannot be reached, refuses, or is older than PostgreSQL 15.
    """
    try:
        connection = psycopg.connect(
            **{**_DEFAULTS, **parameters},
            autocommit=autocommit,
        )
    except psycopg.OperationalError as error:
        raise Problem(
            f"cannot connect to the database: {one_line(error, parameters)}",
            "check the database URL, and that the server runs and lets you in",
        ) from error
    except psycopg.ProgrammingError as error:
        raise Problem(f"the database URL is not usable: {one_line(error, parameters)}") from None
    version = connection.info.server_version
    if version < OLDEST_SERVER * 10000:
        connection.close()
        raise Problem(
            f"the server is PostgreSQL {version // 10000}.{version % 10000}",
            f"stepquota needs PostgreSQL {OLDEST_SERVER} or later",
        )
    return connection


def one_line(error: BaseException, parameters: Parameters) -> str:
    """What an error says, in one line and without the password."""
    diagnostic = getattr(error, "diag", None)
    text = (diagnostic and diagnostic.message_primary) or str(error) or type(error).__name__
    lines = [line.strip() for line in text.splitlines()]
    # With several addresses psycopg says the same several times over; the first line says it all.
    line = next((line for line in lines if line), type(error).__name__)
    password = str(parameters.get("password") or "")
    return line.replace(password, "***") if password else line
