"""What every command needs: options, a connection, errors in one line, an end by signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..problems import Problem

if TYPE_CHECKING:
    import psycopg

    from ..database_url import Parameters

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        "-d",
        envvar="DATABASE_URL",
        metavar="URL",
        help="The database, in any form that libpq reads.",
        show_default=False,
        show_envvar=True,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant.", show_default=False)]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]
Reason = Annotated[
    str,
    typer.Option("--reason", "-r", metavar="TEXT", help="Why, for the record.", show_default=False),
]


def given(database_url: str | None) -> str:
    """The database URL.

    Raises:
        Problem: there is none.
    """
    if not database_url:
        raise Problem(
            "there is no database URL",
            "give it as an argument or set DATABASE_URL in the environment",
        )
    return database_url


@contextmanager
def opened(database_url: str | None, role: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit mode, for a block.

    Args:
        database_url: The URL, if one was given.
        role: The role that may do what the block does, for a hint.

    Raises:
        Problem: In place of every error of the database, in one line.
    """
    from ..database_url import connect, read_database_url

    parameters = read_database_url(given(database_url))
    with (
        ended_by_signals(),
        connect(parameters, autocommit=True) as connection,
        problems_of(connection, parameters, f"use one that is a member of {role}"),
    ):
        yield connection


@contextmanager
def problems_of(
    connection: psycopg.Connection[Any], parameters: Parameters, who_may: str
) -> Iterator[None]:
    """A block in which every error of the database is a problem, in one line.

    Args:
        connection: The connection that the block uses.
        parameters: What it was made with, of which nothing secret is told.
        who_may: The hint for a role that may not.

    Raises:
        Problem: In place of every error of the database.
    """
    import psycopg

    from ..database_url import one_line
    from ..errors import StepquotaError

    user, database = connection.info.user, connection.info.dbname
    try:
        yield
    except (
        psycopg.errors.InvalidSchemaName,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.UndefinedTable,
        psycopg.errors.UndefinedColumn,
    ) as error:
        raise Problem(
            f"stepquota is not installed in the database {database}, or an older release is",
            "run stepquota migrate",
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise Problem(
            f"the role {user} may not do this: {one_line(error, parameters)}", who_may
        ) from error
    except StepquotaError as error:
        detail = f": {error.detail}" if error.detail else ""
        raise Problem(f"{error.message}{detail} ({error.sqlstate})", error.hint or "") from error
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise Problem(
            "the server only lets read: it is a standby, or set so",
            "use the address of the primary",
        ) from error
    except psycopg.Error as error:
        state = f" ({error.sqlstate})" if error.sqlstate else ""
        raise Problem(f"the database says: {one_line(error, parameters)}{state}") from error


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP end the block in order: what it has started is stopped."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    handled = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in handled]
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


def rows(connection: psycopg.Connection[Any], query: str, *values: object) -> list[dict[str, Any]]:
    """The rows of a query as dicts; moments are in UTC."""
    from psycopg.rows import dict_row

    # The statements are this program's constants.
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(query.encode(), values or None).fetchall()
