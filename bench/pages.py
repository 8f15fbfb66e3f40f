"""The measure of what people wait for: the page, top and metrics() at very many tenants."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from psycopg.conninfo import make_conninfo

from .outcomes import Beside, Findings, Goal, Inexact, Outcome, compare
from .pauses import SQL
from .servers import Database

if TYPE_CHECKING:
    from .measures import Bench

_BAR_MS = 100.0
_LOOKS = 20
_ROLES = ("bench_page_operators", "bench_page_tenants")


def measure_pages(bench: Bench) -> Findings:
    """u: pages for people, with so many tenants and paused runs."""
    tenants, runs = bench.options.listed_tenants, bench.options.listed_runs
    with bench.server.database("pages") as database:
        bench.say(f"u  making {tenants:,} tenants with {tenants * runs:,} paused runs")
        database.run(
            SQL.read_text(encoding="utf-8"),
            f"call peers.pause_runs({tenants}, {runs}, 0)",
            "create role bench_page_operators login",
            "create role bench_page_tenants login",
            "grant stepquota_operator to bench_page_operators",
            "grant stepquota_observer to bench_page_tenants",
            "select stepquota.bind_session_role('bench_page_tenants')",
            "vacuum analyze",
        )
        try:
            with database.connect() as connection:

                def ask(statement: str) -> Callable[[], object]:
                    return lambda: connection.execute(statement.encode()).fetchall()

                round_ms = [
                    _time(ask("select stepquota.summarize_tenants(1000000)")) for _ in range(1)
                ]
                calls = {
                    "the fullest 20, as stepquota top": ask(
                        "select * from stepquota.list_tenants(p_sort => 'percent',"
                        " p_descending => true, p_max_tenants => 20)"
                    ),
                    "metrics()": ask("select * from stepquota.metrics()"),
                }
                outcomes = [_outcome(what, _times(call)) for what, call in calls.items()]
            with _page(database) as page:
                outcomes += [_outcome(what, _times(call)) for what, call in page.items()]
        finally:
            database.run(*(f"drop owned by {role}" for role in _ROLES))
            database.run(*(f"drop role {role}" for role in _ROLES))
    for outcome in outcomes:
        bench.say(f"u  {outcome.ours}: median {outcome.our_figure:.1f} ms")
    return Findings(
        tuple(outcomes),
        (Beside("u", "a round of tick() over all of them", "ms", round_ms[0]),),
    )


def _outcome(what: str, times: Sequence[float]) -> Outcome:
    return compare(
        "u",
        (what, times),
        ("the bar", [_BAR_MS] * len(times)),
        "ms",
        Goal(1, 0.5, at_most=True),
        note=f"the longest of {len(times)} took {max(times):.0f} ms",
    )


def _times(call: Callable[[], object]) -> list[float]:
    # The first reads what is not in memory yet, functions among it.
    call()
    return [_time(call) for _ in range(_LOOKS)]


def _time(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


@contextmanager
def _page(database: Database) -> Iterator[dict[str, Callable[[], object]]]:
    """The page's own process; what is asked of it, by what it is."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = database.server.local.url(database.name)
    operators, tenants = (make_conninfo(url, user=role) for role in _ROLES)
    environment = {
        **os.environ,
        "DATABASE_URL": operators,
        "STEPQUOTA_PAGE_TENANT_DATABASE_URL": tenants,
        "STEPQUOTA_PAGE_SECRET": os.urandom(32).hex(),
        "STEPQUOTA_PAGE_URL": f"http://127.0.0.1:{port}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "stepquota", "page", "serve", "--port", str(port)],
        env=environment,
    )
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    cookie: dict[str, str] = {}

    def get(path: str, expected: int = 200) -> http.client.HTTPResponse:
        connection.request("GET", path, headers=cookie)
        response = connection.getresponse()
        response.read()
        if response.status != expected:
            raise Inexact(f"the page answered {path} with {response.status}")
        return response

    def link(*arguments: str) -> str:
        made = subprocess.run(
            [sys.executable, "-m", "stepquota", "page", "link", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        parts = urlsplit(made)
        return f"{parts.path}?{parts.query}"

    def page(what: str, path: str) -> tuple[str, Callable[[], object]]:
        return what, lambda: get(path)

    try:
        until = time.monotonic() + 30
        while True:
            try:
                get("/health")
                break
            except OSError:
                connection.close()
                if process.poll() is not None or time.monotonic() > until:
                    raise Inexact("the page does not answer") from None
                time.sleep(0.1)
        entered = get(link("--operator", "bench"), 303).getheader("set-cookie") or ""
        cookie["Cookie"] = entered.partition(";")[0]
        yield dict(
            (
                page("the page, tenants by name", "/"),
                page("the page, the fullest", "/?sort=percent&order=desc"),
                page(
                    "the page, from the middle on",
                    "/?" + urlencode({"sort": "used", "value": "10", "tenant": "p5"}),
                ),
                page("the page, a search that finds few", "/?search=99999"),
                page("the page, a search that finds none", "/?search=nosuch"),
                page("the page, used up and found", "/?only=exhausted&search=777&sort=paused"),
                page("the page, one tenant", "/tenant?tenant=p1"),
                page("a tenant's card", link("--tenant", "p2", "--view", "fragment")),
            )
        )
    finally:
        connection.close()
        process.terminate()
        process.wait(30)
