"""The command ``stepquota``."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .problems import Problem
from .stripe_sync.commands import app as stripe_commands

_HELP = """
Workflow-step quotas inside PostgreSQL.

DATABASE_URL is read from the environment where it is not given as an argument. Every form that
libpq reads will do. A password is better kept in the environment or in a password file: other users
of the machine can read a command's arguments.

Exit status: 0 done, 1 a problem or a failed check, 2 wrong usage, 130 and 143 ended by Ctrl-C or
SIGTERM.
"""

app = typer.Typer(
    help=_HELP, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)

app.add_typer(stripe_commands, name="stripe")

DatabaseUrl = Annotated[
    str | None,
    typer.Argument(
        envvar="DATABASE_URL",
        metavar="DATABASE_URL",
        help="The database, as postgresql://user:password@host:port/database.",
        show_default=False,
    ),
]


def main() -> None:
    """The command's entry point. Problems are one line with a hint, without a traceback."""
    try:
        app()
    except Problem as problem:
        if "--debug" in sys.argv:
            raise
        _complain(problem.what, problem.hint)
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        lines = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        _complain(what, "this is unexpected; add --debug, as in stepquota --debug status, for more")
    sys.exit(1)


def _complain(what: str, hint: str) -> None:
    print(f"stepquota: {what}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"stepquota {version('stepquota')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    # What the options do is done before a command runs, see main and _print_version.
    del debug, show_version


@app.command()
def migrate(
    database_url: DatabaseUrl = None,
    dump_sql: Annotated[
        bool,
        typer.Option(
            "--dump-sql",
            help="Print one SQL file, for psql --single-transaction; connect nowhere.",
        ),
    ] = False,
    adopt: Annotated[
        Path | None,
        typer.Option(
            "--adopt",
            metavar="DESCRIPTION",
            help="Use tables that an application has: the description given to stepquota adopt.",
        ),
    ] = None,
) -> None:
    """Install stepquota in a database, or bring it up to this release. Safe to run again."""
    if dump_sql:
        from .dump import dump_sql as render

        sys.stdout.write(render())
        return
    from .migrate import migrate as migrate_database

    with _ended_by_signals():
        done = migrate_database(_given(database_url), adopt)
    count = len(done.applied)
    print(
        f"stepquota {version('stepquota')} is installed in {done.database} "
        f"(PostgreSQL {done.server_version}): migrations applied {count}, "
        f"files of functions loaded {done.loaded}"
    )


@app.command()
def adopt(
    description: Annotated[
        Path, typer.Argument(help="What the application's tables are called: a TOML file.")
    ],
    database_url: DatabaseUrl = None,
    prepare: Annotated[
        bool,
        typer.Option("--prepare", help="Print the columns and indexes that the tables lack."),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print by which index each statement goes; exit 1 if one has none."
        ),
    ] = False,
) -> None:
    """Print the host.sql with which stepquota uses tables that an application has already.

    It is what stepquota migrate --adopt loads.
    """
    from . import adoption
    from .database_url import connect, read_database_url

    with _ended_by_signals(), connect(read_database_url(_given(database_url))) as connection:
        # Types of other schemas are named with these.
        connection.execute("set search_path = pg_catalog, pg_temp")
        tables = adoption.resolve_tables(connection, adoption.read_description(description))
        if prepare:
            print(adoption.preparation(connection, tables), end="")
            return
        adoption.check_columns(tables)
        text = adoption.render_all(tables)
        if not explain:
            print(text, end="")
            return
        plans = adoption.explain(connection, tables, text)
    _print_table(
        ("function", "table", "goes by"), ((plan.function, plan.table, plan.way) for plan in plans)
    )
    if slow := sum(adoption.is_slow(plan) for plan in plans):
        raise Problem(f"{slow} statements read a whole table", "make the indexes of --prepare")


@app.command()
def up(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Keep the data here for the next time. By default it goes with the server.",
        ),
    ] = None,
) -> None:
    """Start a PostgreSQL of our own with stepquota in it, and stay until Ctrl-C."""
    from .migrate import migrate as migrate_database
    from .server import LocalServer

    with _ended_by_signals(), LocalServer(directory) as server:
        done = migrate_database(server.url())
        psql = "psql" if shutil.which("psql") else str(server.psql)
        print(f"PostgreSQL {done.server_version} is running, with stepquota in it.")
        print(f"  {shlex.quote(psql)} {shlex.quote(server.url())}")
        print(f"  DATABASE_URL={shlex.quote(server.url())}")
        kept = f"its data stays in {directory}" if directory else "its data goes with it"
        print(f"Ctrl-C stops it; {kept}.", flush=True)
        try:
            server.wait()
        except KeyboardInterrupt:
            print("stopping")


@app.command()
def demo() -> None:
    """Watch workflows of several tenants run dry, pause, and go on, in a PostgreSQL of our own."""
    from .demo import run

    with _ended_by_signals():
        raise typer.Exit(run())


@app.command()
def status(database_url: DatabaseUrl = None) -> None:
    """Print wiring, health and every invariant that does not hold; exit 1 if something is wrong."""
    from . import status as read_status
    from . import verify_all
    from .database_url import connect, read_database_url

    with _ended_by_signals(), connect(read_database_url(_given(database_url))) as connection:
        # One snapshot for all that is compared.
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        try:
            items = read_status(connection)
            violations = verify_all(connection)
        except (psycopg.errors.InvalidSchemaName, psycopg.errors.UndefinedFunction) as error:
            raise Problem(
                f"stepquota is not installed in the database {connection.info.dbname}, "
                "or an older release is",
                "run stepquota migrate",
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise Problem(
                f"the role {connection.info.user} may not look: {error.diag.message_primary}",
                "use one that is a member of stepquota_observer",
            ) from error
    _print_table(
        ("state", "item", "detail", "hint"),
        ((item.state, item.item, item.detail, item.hint) for item in items),
    )
    if violations:
        _print_table(
            ("invariant", "tenant", "object", "detail"),
            ((v.invariant, v.tenant, v.object, v.detail) for v in violations),
        )
    failed = sum(item.state == "error" for item in items)
    print(f"{failed} failed checks, {len(violations)} violated invariants")
    if failed or violations:
        raise typer.Exit(1)


def _print_table(columns: Iterable[str], rows: Iterable[tuple[str | None, ...]]) -> None:
    # Wide where nobody looks at it: lines of a log are cut by whoever reads them.
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value or "") for value in row))
    console.print(table)


def _given(database_url: str | None) -> str:
    if not database_url:
        raise Problem(
            "there is no database URL",
            "give it as an argument or set DATABASE_URL in the environment",
        )
    return database_url


@contextmanager
def _ended_by_signals() -> Iterator[None]:
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
