"""The command ``stepquota``."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import register
from .command.session import ended_by_signals as _ended_by_signals
from .command.session import given as _given
from .command.session import problems_of
from .page.commands import app as page_commands
from .problems import Problem
from .stripe_sync.commands import app as stripe_commands

if TYPE_CHECKING:
    import psycopg

    from .adoption import Tables

_HELP = """
Workflow-step quotas inside PostgreSQL.

DATABASE_URL is read from the environment where it is not given. Every form that libpq reads will
do. A password is better kept in the environment or in a password file: other users of the machine
can read a command's arguments.

Exit status: 0 done, 1 a problem or a failed check, 2 wrong usage, 3 a run that stays paused, 130
and 143 ended by Ctrl-C or SIGTERM.
"""

app = typer.Typer(
    help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

register(app)
app.add_typer(stripe_commands, name="stripe")
app.add_typer(page_commands, name="page")

DatabaseUrl = Annotated[
    str | None,
    typer.Argument(
        envvar="DATABASE_URL",
        metavar="DATABASE_URL",
        help="The database, such as postgresql://role@host/database.",
        show_default=False,
    ),
]


def main() -> None:
    """The command's entry point. Problems are one line with a hint, without a traceback."""
    # Anywhere on the line, since it is added after something went wrong.
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app()
    except Problem as problem:
        if debug:
            raise
        _complain(problem.what, problem.hint)
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip().splitlines()
        what = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        _complain(what, "this is unexpected; --debug at the end of the line shows more")
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
    # What the options do is done before a command runs, see main and _print_version; the first is
    # declared for --help.
    del debug, show_version


@app.command()
def migrate(
    database_url: DatabaseUrl = None,
    dump_sql: Annotated[
        bool,
        typer.Option(
            "--dump-sql",
            help="Print one SQL file, for psql --single-transaction; connect nowhere, or with "
            "--adopt only to look at the tables.",
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

        sys.stdout.write(render(_look_at_tables(database_url, adopt) if adopt else None))
        return
    from .migrate import migrate as migrate_database

    with _ended_by_signals():
        done = migrate_database(_given(database_url), adopt)
    for violation in done.violations:
        print(f"stepquota: before the upgrade: {violation}", file=sys.stderr)
    count = len(done.applied)
    print(
        f"stepquota {version('stepquota')} is installed in {done.database} "
        f"(PostgreSQL {done.server_version}): migrations applied {count}, "
        f"files of functions loaded {done.loaded}"
    )


def _look_at_tables(database_url: str | None, description: Path) -> Tables:
    from . import adoption
    from .database_url import connect, read_database_url

    with _ended_by_signals(), connect(read_database_url(_given(database_url))) as connection:
        # Types of other schemas are named with these.
        connection.execute("set search_path = pg_catalog, pg_temp")
        tables = adoption.resolve_tables(connection, adoption.read_description(description))
    adoption.check_columns(tables)
    return tables


@app.command()
def uninstall(
    database_url: DatabaseUrl = None,
    dump_sql: Annotated[
        bool,
        typer.Option(
            "--dump-sql",
            help="Print one SQL file, for psql --single-transaction; connect nowhere.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take stepquota out of a database, with all runs, steps and usage. Roles stay."""
    from . import uninstall as uninstalling

    if dump_sql:
        sys.stdout.write(uninstalling.uninstall_sql())
        return
    url = _given(database_url)
    with _ended_by_signals():
        if not yes:
            found = uninstalling.describe(url)
            print(
                f"This deletes stepquota from the database {found.database}: "
                f"{found.tenants} tenants, about {found.runs} runs, and all usage."
            )
            if not typer.confirm("Go on?"):
                raise Problem("nothing was done")
        done = uninstalling.uninstall(url)
    print(f"stepquota is gone from {done.database}")
    for job in done.jobs:
        print(f"removed the job {job}")
    if done.needs_look_elsewhere:
        print(
            "pg_cron is in another database of this server: "
            f"remove jobs whose names end in @{done.database} there"
        )


Rights = Annotated[
    str, typer.Argument(metavar="RIGHTS", help="runtime, operator, sync or observer.")
]
Role = Annotated[str, typer.Argument(metavar="ROLE", help="A role that exists.")]


@app.command()
def grant(role: Role, rights: Rights, database_url: DatabaseUrl = None) -> None:
    """Give an existing role the rights of one of the four; each upgrade gives them again."""
    from . import grant_role

    with _ended_by_signals(), _as_owner(database_url) as connection:
        how = grant_role(connection, role, rights)  # type: ignore[arg-type]
        by = f"as a member of stepquota_{rights}" if how == "membership" else "directly"
        print(f"{role} has the rights of a {rights} in {connection.info.dbname}, {by}")


@app.command()
def revoke(role: Role, rights: Rights, database_url: DatabaseUrl = None) -> None:
    """Take back what grant gave."""
    from . import revoke_role

    with _ended_by_signals(), _as_owner(database_url) as connection:
        if not revoke_role(connection, role, rights):  # type: ignore[arg-type]
            raise Problem(
                f"{role} had no rights of a {rights} by stepquota grant",
                "select * from stepquota.role_grants; has all that were given",
            )
        print(f"{role} no longer has the rights of a {rights} in {connection.info.dbname}")


@app.command()
def adopt(
    description: Annotated[
        Path,
        typer.Argument(
            metavar="DESCRIPTION", help="What the application's tables are called: a TOML file."
        ),
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
    from .command import output
    from .database_url import connect, read_database_url

    with _ended_by_signals(), connect(read_database_url(_given(database_url))) as connection:
        # Types of other schemas are named with these.
        connection.execute("set search_path = pg_catalog, pg_temp")
        adoption.check_installed(connection)
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
    output.console().print(
        output.table(
            ("function", "table", "goes by"),
            ((plan.function, plan.table, plan.way) for plan in plans),
        )
    )
    if slow := sum(adoption.is_slow(plan) for plan in plans):
        raise Problem(
            f"{output.plural(slow, 'statement')} should not read a whole table",
            "make the indexes of --prepare",
        )


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


@contextmanager
def _as_owner(database_url: str | None) -> Iterator[psycopg.Connection]:
    """A connection as the owner, for a block in which errors are problems."""
    from .database_url import read_database_url
    from .installing import open_session

    parameters = read_database_url(_given(database_url))
    with (
        open_session(parameters) as connection,
        problems_of(connection, parameters, "the owner of stepquota may, or a superuser"),
    ):
        yield connection
