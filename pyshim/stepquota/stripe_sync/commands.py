"""The commands ``stepquota stripe ...``."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..command.output import plural
from ..database_url import connect, read_database_url
from ..listening import listen
from ..problems import Problem
from .settings import read_api_settings, read_webhook_secrets, redact

if TYPE_CHECKING:
    from ..results import StripeProblem, StripeSyncHealth
    from .api import StripeApi
    from .mirror import Mirror
    from .process import Crew

_HELP = """
Keep the limits and periods in the database as Stripe says.

To begin: set STRIPE_API_KEY and DATABASE_URL, run "stepquota stripe sync" once, then
"stepquota stripe check". To keep it so, "stepquota stripe run" does everything in one process;
it needs STRIPE_WEBHOOK_SECRETS as well. The single parts are there for those who schedule them.

STRIPE_API_KEY is a restricted key (rk_...) that may read Customers, Products, Prices,
Subscriptions, Events and, if you can grant it, the account. STRIPE_WEBHOOK_SECRETS are the signing
secrets of the endpoints (whsec_...), separated by commas. Each may be in a file instead, named by
STRIPE_API_KEY_FILE or STRIPE_WEBHOOK_SECRETS_FILE. Neither is ever an argument. docs/stripe.md
tells all of it.
"""

app = typer.Typer(
    help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

DatabaseUrl = Annotated[
    str | None,
    typer.Argument(
        envvar="DATABASE_URL",
        metavar="DATABASE_URL",
        help="The database, such as postgresql://role@host/database.",
        show_default=False,
    ),
]
Workers = Annotated[
    int,
    typer.Option(min=1, max=64, help="Threads that ask Stripe for objects; each has a connection."),
]
Host = Annotated[str, typer.Option(help="Address to listen at. TLS is a proxy's job.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")]
Path = Annotated[str, typer.Option(help="Path that Stripe delivers to.")]


@app.command()
def sync(
    database_url: DatabaseUrl = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin anew even if one was stopped just now.")
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Look for deleted objects however many are missing."),
    ] = False,
) -> None:
    """Fill the mirror with everything that Stripe has, and find what is gone.

    Run it once to begin, and once a day after that: in rare cases Stripe makes no event for a
    change. It lists all products, prices, customers and subscriptions, a hundred at a time. What
    was not listed is asked for one by one before it counts as deleted. If more than 20 objects and
    more than a tenth of a type are missing, it stops and changes nothing of them.

    It may be stopped with Ctrl-C at any time. Run again within the hour, it goes on where it was.
    """
    from .catch_up import catch_up as catch_up_events
    from .full_sync import full_sync
    from .work import work_off_all

    with _opened(database_url) as (mirror, api), _stopped_by_signals() as stopping:
        with _ProgressBar() as bar:
            result = full_sync(
                mirror,
                api,
                from_start=from_start,
                force=force,
                on_progress=bar.show,
                should_stop=stopping,
            )
        for name, counter in result.counts.items():
            counts = ", ".join(f"{number} {action}" for action, number in sorted(counter.items()))
            print(f"{name}s: {counts}")
        if not result.is_complete:
            print("stopped; run it again within the hour to go on")
            return
        found = catch_up_events(mirror, api, stopping)
        done = work_off_all(mirror, api, stopping)
        print(f"events: {found.new} new, {done.events} worked off, {done.failed} failed")


@app.command("catch-up")
def catch_up(database_url: DatabaseUrl = None) -> None:
    """Store the events that no delivery brought, and work them off.

    Run it every five minutes where "stepquota stripe run" does not. Stripe lists events for 30
    days; if the last catch-up was longer ago, run "stepquota stripe sync".
    """
    from .catch_up import catch_up as catch_up_events
    from .work import work_off_all

    with _opened(database_url) as (mirror, api), _stopped_by_signals() as stopping:
        found = catch_up_events(mirror, api, stopping)
        done = work_off_all(mirror, api, stopping)
    print(
        f"{found.listed} events listed, {found.new} of them new; "
        f"{done.events} worked off, {done.failed} failed"
    )
    if found.needs_full_sync:
        print("not everything is in Stripe's list of events: run stepquota stripe sync")


@app.command()
def work(
    database_url: DatabaseUrl = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when nothing is due, instead of waiting for more.")
    ] = False,
    requeue: Annotated[
        bool,
        typer.Option("--requeue", help="First make events due again that were given up as dead."),
    ] = False,
    workers: Workers = 4,
) -> None:
    """Work off stored events: ask Stripe for each object and write it to the mirror.

    It starts at once when "stepquota stripe serve" stores an event, and ends with Ctrl-C or
    SIGTERM after the object that it is at.
    """
    from .work import work_off_all

    if requeue:
        from .. import requeue_stripe_events

        # Before anything is changed: without a key nothing would be worked off.
        read_api_settings()
        parameters = read_database_url(_given(database_url))
        with connect(parameters, autocommit=True) as connection:
            print(f"{requeue_stripe_events(connection)} dead events are due again")
    if once:
        with _opened(database_url) as (mirror, api), _stopped_by_signals() as stopping:
            done = work_off_all(mirror, api, stopping)
        print(f"{done.objects} objects, {done.events} events worked off, {done.failed} failed")
        return
    _log_to_stderr()
    with _crew(database_url, workers) as (crew, _):
        crew.start(feed=False, listen=True)
        crew.wait()


@app.command()
def serve(
    database_url: DatabaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8300,
    path: Path = "/stripe/webhook",
) -> None:
    """Receive Stripe's events: check the signature, store the id, answer 200.

    Only that; "stepquota stripe work" does the rest. It needs no API key. Give Stripe the address
    https://YOUR-HOST/stripe/webhook, and put a proxy with TLS in front. GET /health answers
    whether the database can be reached.
    """
    _log_to_stderr()
    with _stopped_by_signals() as stopping:
        _serve(database_url, host, port, path, None, stopping)


@app.command()
def run(
    database_url: DatabaseUrl = None,
    host: Host = "127.0.0.1",
    port: Port = 8300,
    path: Path = "/stripe/webhook",
    workers: Workers = 4,
) -> None:
    """Everything in one process: serve, work, catch up every 5 minutes, sync once a day.

    The first full sync begins at once if there was none. It ends with Ctrl-C or SIGTERM: no new
    deliveries are taken, what is under way is finished, and a full sync goes on where it was the
    next time. GET /health answers whether everything works.
    """
    _log_to_stderr()
    with _crew(database_url, workers) as (crew, stopping):
        crew.start(feed=True, listen=True)
        _serve(database_url, host, port, path, crew, stopping)


@app.command()
def check(
    database_url: DatabaseUrl = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    most: Annotated[
        int, typer.Option(min=1, help="At most so many of each kind of problem.")
    ] = 100,
) -> None:
    """Print what is wrong, with each object and what to do; exit 1 if something must be put right.

    Invalid limits, tenants with several subscriptions, prices without product, customers without
    tenant, prices of a year that do not say whether their limit is for a month, dead events, and
    when each feeder last succeeded. It reads the database only and needs no key.
    """
    from .. import check_stripe, stripe_sync_health

    parameters = read_database_url(_given(database_url))
    with connect(parameters, autocommit=True) as connection:
        _check_installed(connection, "stepquota.stripe_sync_health()", "stepquota_observer")
        health, problems = stripe_sync_health(connection), check_stripe(connection, most)
    failed = any(problem.level == "error" for problem in problems)
    if as_json:
        answer = {"health": asdict(health), "problems": [asdict(p) for p in problems]}
        print(json.dumps(answer, indent=2, default=datetime.isoformat))
    else:
        _print_health(health)
        _print_problems(problems)
    if failed:
        raise typer.Exit(1)


def _print_health(health: StripeSyncHealth) -> None:
    mode = {None: "not set up", True: "live mode", False: "test mode"}[health.livemode]
    print(f"{'mirror':<11}{mode}, account {health.account or 'unknown'}")
    for name, moment in (
        ("webhook", health.last_webhook_at),
        ("work", health.last_worked_off_at),
        ("catch-up", health.last_catch_up_at),
        ("sync", health.last_full_sync_at),
    ):
        print(f"{name:<11}{_describe_age(moment)}")
    waiting = f", oldest {_describe_age(health.oldest_pending_at)}" if health.pending_events else ""
    print(f"{'events':<11}{health.pending_events} to work off{waiting}; {health.dead_events} dead")


def _describe_age(moment: datetime | None) -> str:
    if moment is None:
        return "never"
    seconds = max(0, int((datetime.now(UTC) - moment).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _print_problems(problems: tuple[StripeProblem, ...]) -> None:
    console = Console(
        width=None if sys.stdout.isatty() else 80, highlight=False, soft_wrap=False, markup=False
    )
    kind = None
    for problem in problems:
        if problem.problem != kind:
            kind = problem.problem
            print(f"\n{problem.level}: {problem.problem}")
            hint = problem.hint
            console.print(f"  {hint}")
        about = " ".join(filter(None, (problem.object_type, problem.object_id)))
        whose = f" (tenant {problem.tenant})" if problem.tenant else ""
        console.print(f"  - {about}{whose}: {problem.detail}")
    errors = sum(problem.level == "error" for problem in problems)
    others = len(problems) - errors
    counts = f"{plural(errors, 'error')}, {plural(others, 'other remark')}"
    print(f"\n{counts}" if problems else "\nall well")


class _ProgressBar:
    """What a full sync is at: a bar with counts and the time left, where somebody looks."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str | None, Any] = {}
        self._printed = time.monotonic()

    def __enter__(self) -> _ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, at: Any) -> None:
        """Show the state after a page."""
        name = f"{at.object_type}s" if at.object_type else "missing ones"
        if at.object_type not in self._tasks:
            self._tasks[at.object_type] = self._progress.add_task(name, total=None)
        self._progress.update(self._tasks[at.object_type], completed=at.listed, total=at.total)
        if self._progress.disable and time.monotonic() - self._printed >= 10:
            self._printed = time.monotonic()
            of = f" of about {at.total}" if at.total else ""
            print(f"{name}: {at.listed}{of}", file=sys.stderr, flush=True)


@contextmanager
def _opened(database_url: str | None) -> Iterator[tuple[Mirror, StripeApi]]:
    """A connection and a client, of which it is sure that they belong together."""
    settings = read_api_settings()
    parameters = read_database_url(_given(database_url))
    _need_library()
    from .api import StripeApi, StripeRefused, StripeRejected, StripeUnavailable
    from .mirror import Mirror
    from .work import open_mirror

    api = StripeApi(settings)
    try:
        with connect(parameters, autocommit=True) as connection:
            _check_installed(connection)
            mirror = Mirror(connection)
            open_mirror(mirror, api)
            yield mirror, api
    except StripeRefused as error:
        raise Problem(
            f"Stripe refuses the key: {error}",
            "a restricted key must be able to read Customers, Products, Prices, Subscriptions and "
            "Events",
        ) from error
    except StripeUnavailable as error:
        raise Problem(
            f"Stripe cannot be asked now: {error}", "run it again later; it goes on where it was"
        ) from error
    except StripeRejected as error:
        raise Problem(f"Stripe does not accept a request: {error}") from error
    finally:
        api.close()


@contextmanager
def _crew(database_url: str | None, workers: int) -> Iterator[tuple[Crew, _Stopping]]:
    settings = read_api_settings()
    parameters = read_database_url(_given(database_url))
    _need_library()
    # Problems that no retry will mend are said before anything starts.
    with connect(parameters, autocommit=True) as connection:
        _check_installed(connection)
    from .process import Crew, Options

    crew = Crew(parameters, settings, Options(workers=workers))
    with _stopped_by_signals() as stopping:
        stopping.then(crew.stop)
        try:
            yield crew, stopping
        finally:
            crew.stop()
            crew.wait()


def _serve(
    database_url: str | None,
    host: str,
    port: int,
    path: str,
    crew: Crew | None,
    stopping: _Stopping,
) -> None:
    secrets = read_webhook_secrets()
    parameters = read_database_url(_given(database_url))
    # Or every delivery would be refused.
    with connect(parameters, autocommit=True) as connection:
        _check_installed(connection)
    _need_library()
    try:
        import uvicorn

        from .endpoint import make_endpoint
    except ImportError as error:
        raise Problem(f"{error.name} is not installed", "pip install 'stepquota[serve]'") from error
    if not path.startswith("/"):
        raise Problem(f"the path {path} does not begin with /")
    endpoint = make_endpoint(
        parameters,
        secrets,
        path=path,
        on_stored=crew.wake if crew else lambda: None,
        find_trouble=crew.find_trouble if crew else lambda: None,
    )
    listener = listen(host, port)
    address = listener.getsockname()
    logging.getLogger(__name__).info("listening at http://%s:%s%s", address[0], address[1], path)
    server = uvicorn.Server(
        uvicorn.Config(
            endpoint,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=15,
            timeout_keep_alive=15,
            backlog=2048,
        )
    )

    def exit_in_order() -> None:
        server.should_exit = True

    # For a signal before the server handles signals itself.
    stopping.then(exit_in_order)
    server.run(sockets=[listener])


class _Stopping:
    """Whether a signal asked to end, and what is to be done then."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._wanted: list[Callable[[], None]] = []

    def __call__(self) -> bool:
        return bool(self.received)

    def then(self, do: Callable[[], None]) -> None:
        """Do this when it is time, or now if it is."""
        self._wanted.append(do)
        if self.received:
            do()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """A signal has come."""
        self.received.append(number)
        for do in self._wanted:
            do()
        if len(self.received) > 3:  # somebody is impatient
            raise SystemExit(128 + number)


@contextmanager
def _stopped_by_signals() -> Iterator[_Stopping]:
    """Ctrl-C and SIGTERM ask the block to end by itself; afterwards the exit status says so."""
    stopping = _Stopping()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, stopping.handle) for number in handled]
    try:
        yield stopping
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)
    if stopping.received:
        raise SystemExit(128 + stopping.received[0])


class _RedactingFormatter(logging.Formatter):
    """No key and no secret in a log, whatever a message or a traceback holds."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("stripe", "urllib3", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _need_library() -> None:
    try:
        import stripe
    except ImportError as error:
        raise Problem(
            f"{error.name} is not installed", "pip install 'stepquota[stripe]'"
        ) from error
    stripe.enable_telemetry = False


def _check_installed(
    connection: psycopg.Connection[Any],
    function: str = "stepquota.record_stripe_events(jsonb, text)",
    role: str = "stepquota_sync",
) -> None:
    """Whether the function that a command begins with is there, and the caller's to call."""
    try:
        found = connection.execute(
            "select has_function_privilege(to_regprocedure(%s), 'execute')", [function]
        ).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        found = (False,)
    if found == (False,):
        raise Problem(
            f"the role {connection.info.user} may not do this",
            f"use one that is a member of {role}",
        )
    if found != (True,):
        raise Problem(
            f"stepquota is not installed in the database {connection.info.dbname}, "
            "or an older release is",
            "run stepquota migrate",
        )


def _given(database_url: str | None) -> str:
    if not database_url:
        raise Problem(
            "there is no database URL",
            "give it as an argument or set DATABASE_URL in the environment",
        )
    return database_url
