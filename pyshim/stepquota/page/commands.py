"""The commands ``stepquota page ...``."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from ..command.session import ended_by_signals
from ..database_url import Parameters, connect, read_database_url
from ..listening import listen
from ..problems import Problem

if TYPE_CHECKING:
    from .data import Database

_HELP = """
A page of tenants and their usage for operators, and a card for a tenant's admin.

DATABASE_URL is a login with the rights of an observer, or of an operator if Resume is to work;
STEPQUOTA_PAGE_TENANT_DATABASE_URL is one for tenants' admins, see docs/page.md. Either may be left
out. STEPQUOTA_PAGE_SECRET signs links and sessions; it may be in a file that
STEPQUOTA_PAGE_SECRET_FILE names. It is never an argument.
"""
_DEFAULT_PORT = 8400

app = typer.Typer(
    help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

PublicUrl = Annotated[
    str | None,
    typer.Option(
        envvar="STEPQUOTA_PAGE_URL",
        help="Where browsers find it: https://host or https://host/path.",
        show_default="http://127.0.0.1 and the port",
    ),
]


class View(StrEnum):
    """What a link shows."""

    PAGE = "page"
    EMBED = "embed"
    FRAGMENT = "fragment"
    JSON = "json"


_PATHS = {
    View.PAGE: "/enter",
    View.EMBED: "/card",
    View.FRAGMENT: "/card.html",
    View.JSON: "/card.json",
}


@app.command()
def serve(
    database_url: Annotated[
        str | None,
        typer.Argument(
            envvar="DATABASE_URL",
            metavar="DATABASE_URL",
            help="For operators; without it the page is for tenants only.",
            show_default=False,
        ),
    ] = None,
    tenant_database_url: Annotated[
        str | None,
        typer.Option(
            envvar="STEPQUOTA_PAGE_TENANT_DATABASE_URL",
            metavar="URL",
            help="For tenants' admins: a login whose role bind_session_role has bound.",
            show_default=False,
            # It is too long for a screen of 80 columns; the help of page has it.
            show_envvar=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. TLS is a proxy's job.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at.")] = (
        _DEFAULT_PORT
    ),
    public_url: PublicUrl = None,
    operator_header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Trust a proxy's header that names an operator.",
            show_default=False,
        ),
    ] = None,
    tenant_header: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Trust a proxy's header that names an admin's tenant.",
            show_default=False,
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where such headers may come from: an address or a network; several times.",
            show_default=False,
        ),
    ] = None,
    embed_in: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="An origin whose pages may show a tenant's card; several times.",
            show_default=False,
        ),
    ] = None,
    session_hours: Annotated[
        float, typer.Option(min=0.01, max=720, help="How long a session lasts.")
    ] = 8,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    _need_libraries()
    import uvicorn

    from .app import Page
    from .settings import Settings, read_networks, read_secrets

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True
    )
    for noisy in ("uvicorn", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    settings = Settings(
        secrets=read_secrets(),
        public_url=_find_public_url(public_url, port),
        operator_header=operator_header,
        tenant_header=tenant_header,
        proxies=read_networks(trusted_proxy or ()),
        embed_in=tuple(embed_in or ()),
        session_seconds=session_hours * 3600,
    )
    if not database_url and not tenant_database_url:
        raise Problem(
            "there is no database URL",
            "set DATABASE_URL for operators, STEPQUOTA_PAGE_TENANT_DATABASE_URL for tenants",
        )
    with ended_by_signals():
        listener = listen(host, port)
        if not port:
            port = listener.getsockname()[1]
            settings = replace(settings, public_url=_find_public_url(public_url, port))
        operators = _open(database_url, is_for_tenants=False)
        tenants = _open(tenant_database_url, is_for_tenants=True)
    whom = [name for name, known in (("operators", operators), ("tenants", tenants)) if known]
    logging.getLogger(__name__).info(
        "serving %s at %s, listening at %s, port %s",
        " and ".join(whom),
        settings.public_url,
        host,
        port,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            Page(settings, operators, tenants).make(),
            log_config=None,
            # Links have their tokens in the address.
            access_log=False,
            server_header=False,
            # Whose headers count is decided by the address that connects.
            proxy_headers=False,
            timeout_graceful_shutdown=10,
        )
    )
    # It ends in order, and then raises the signal again.
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


@app.command()
def link(
    operator: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For an operator of this name.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="TENANT", help="For the admin of a tenant.", show_default=False),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=8784, help="How long it is valid.")] = 8,
    view: Annotated[
        View,
        typer.Option(help="What it shows: the page, or a tenant's card to embed, as HTML or JSON."),
    ] = View.PAGE,
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of the page, without a public URL.")
    ] = _DEFAULT_PORT,
    public_url: PublicUrl = None,
) -> None:
    """Print a signed link. Whoever has it is let in until it ends, so pass it on with care.

    It asks no database. A new secret ends all links and sessions.
    """
    _need_libraries()
    from .settings import Settings, read_secrets
    from .tokens import Signer

    if (operator is None) == (tenant is None):
        raise Problem("a link is for an operator or for a tenant", "give --operator or --tenant")
    if operator is not None and view is not View.PAGE:
        raise Problem("only a tenant's card can be embedded", "give --tenant")
    name = operator if operator is not None else tenant
    if not name:
        raise Problem("the name is empty")
    settings = Settings(secrets=read_secrets(), public_url=_find_public_url(public_url, port))
    kind = "operator" if operator is not None else "tenant"
    token = Signer(settings.secrets).sign(
        "link", {"kind": kind, "name": name}, timedelta(hours=hours).total_seconds()
    )
    print(f"{settings.public_url}{_PATHS[view]}?{urlencode({'token': token})}")


def _find_public_url(given: str | None, port: int) -> str:
    return (given or f"http://127.0.0.1:{port}").rstrip("/")


def _open(database_url: str | None, *, is_for_tenants: bool) -> Database | None:
    if not database_url:
        return None
    from .data import Database

    parameters: Parameters = read_database_url(database_url)
    # What is wrong with it is told in a line; a pool would only wait.
    connect(parameters).close()
    database = Database(parameters, is_for_tenants=is_for_tenants)
    database.open()
    try:
        if warning := database.check():
            logging.getLogger(__name__).warning("%s", warning)
    except BaseException:
        database.close()
        raise
    return database


def _need_libraries() -> None:
    try:
        import jinja2
        import psycopg_pool
        import starlette
        import uvicorn
    except ImportError as error:
        raise Problem(f"{error.name} is not installed", "pip install 'stepquota[page]'") from error
    del jinja2, psycopg_pool, starlette, uvicorn
