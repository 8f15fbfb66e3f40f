"""The parts of the sync that keep running, as threads of one process."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg

from ..database_url import Parameters, one_line
from ..problems import Problem
from .api import StripeApi, StripeRefused, StripeUnavailable
from .catch_up import catch_up
from .full_sync import AnotherFullSync, full_sync
from .mirror import Mirror
from .settings import ApiSettings
from .work import WorkDone, open_mirror, work_off

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
CATCH_UP_SECONDS = 300.0
FULL_SYNC_SECONDS = 24 * 3600.0
REFUSED_SECONDS = 60.0
"""How long to wait after Stripe has refused the key, before it is tried again."""
CHANNEL = "stepquota_stripe_event"


@dataclass(frozen=True)
class Options:
    """How the threads run.

    Attributes:
        workers: Threads that work off events.
        catch_up_seconds: How often events are caught up.
        full_sync_seconds: How old the last full sync may be.
    """

    workers: int = 4
    catch_up_seconds: float = CATCH_UP_SECONDS
    full_sync_seconds: float = FULL_SYNC_SECONDS


class Crew:
    """The threads that work, catch up and sync. Each has a connection and a client of its own.

    What goes wrong is logged and tried again; nothing ends a thread but ``stop``.

    Args:
        parameters: The database's connection parameters.
        settings: How to reach Stripe.
        options: How many, how often.
    """

    def __init__(self, parameters: Parameters, settings: ApiSettings, options: Options):
        self._parameters = {"connect_timeout": 10, **parameters}
        self._settings = settings
        self._options = options
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._trouble: dict[str, str] = {}

    def start(self, *, feed: bool, listen: bool) -> None:
        """Start the workers.

        Args:
            feed: Catch up and sync as well.
            listen: Listen for events that another process stores.
        """
        for number in range(self._options.workers):
            self._start(f"work-{number + 1}", self._work)
        if listen:
            self._start("listen", self._listen)
        if feed:
            self._start("catch-up", self._catch_up)
            self._start("sync", self._sync)

    def wake(self) -> None:
        """There are events to work off."""
        self._wake.set()

    def stop(self) -> None:
        """Ask all threads to end: each after the object or page that it is at."""
        self._stopping.set()
        self._wake.set()

    def wait(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:
            thread.join()

    @property
    def is_stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stopping.is_set()

    def find_trouble(self) -> str | None:
        """What keeps a thread from working at present, in one line; None if nothing does."""
        return next(iter(sorted(self._trouble.values())), None)

    def _start(self, name: str, run: Callable[[Mirror, StripeApi], None]) -> None:
        thread = threading.Thread(target=self._keep, args=(name, run), name=name)
        thread.start()
        self._threads.append(thread)

    def _keep(self, name: str, run: Callable[[Mirror, StripeApi], None]) -> None:
        """Run it, on new connections after each failure, until all stops."""
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with (
                    closing(StripeApi(self._settings)) as api,
                    psycopg.connect(
                        **{**self._parameters, "application_name": f"stepquota stripe {name}"},
                        autocommit=True,
                    ) as connection,
                ):
                    mirror = Mirror(connection)
                    open_mirror(mirror, api)
                    run(mirror, api)
            except Exception as error:
                if self._stopping.is_set():
                    break
                if time.monotonic() - began > REFUSED_SECONDS:
                    failures = 0
                failures += 1
                self._report(name, error)
                wait = min(2.0 ** min(failures, 6), REFUSED_SECONDS)
                if isinstance(error, StripeRefused | Problem):
                    wait = REFUSED_SECONDS
                self._stopping.wait(wait * random.uniform(0.5, 1))  # noqa: S311 - spreads load

    def _all_well(self) -> None:
        self._trouble.pop(threading.current_thread().name, None)

    def _report(self, name: str, error: Exception) -> None:
        if isinstance(error, psycopg.Error):
            what = one_line(error, self._parameters)
        elif isinstance(error, Problem | StripeRefused | StripeUnavailable):
            what = str(error)
        else:
            log.exception("%s failed", name)
            what = type(error).__name__
        log.error("%s: %s", name, what)
        self._trouble[name] = f"{name}: {what}"

    def _work(self, mirror: Mirror, api: StripeApi) -> None:
        while not self._stopping.is_set():
            done = work_off(mirror, api)
            self._all_well()
            if done == WorkDone():
                self._wake.wait(POLL_SECONDS)
                self._wake.clear()

    def _listen(self, mirror: Mirror, _api: StripeApi) -> None:
        mirror.connection.execute(f"listen {CHANNEL}".encode())
        self._all_well()
        while not self._stopping.is_set():
            for _ in mirror.connection.notifies(timeout=POLL_SECONDS, stop_after=1):
                self._wake.set()

    def _catch_up(self, mirror: Mirror, api: StripeApi) -> None:
        while not self._stopping.is_set():
            found = catch_up(mirror, api, self._stopping.is_set)
            if found.new:
                log.info("caught up: %s events that no delivery brought", found.new)
                self._wake.set()
            while mirror.tend_events():
                pass
            self._all_well()
            self._stopping.wait(self._options.catch_up_seconds)

    def _sync(self, mirror: Mirror, api: StripeApi) -> None:
        while not self._stopping.is_set():
            if mirror.is_full_sync_due(self._options.full_sync_seconds):
                log.info("full sync begins")
                try:
                    result = full_sync(mirror, api, should_stop=self._stopping.is_set)
                except AnotherFullSync as running:
                    log.info("%s", running.what)
                else:
                    if result.is_complete:
                        log.info("full sync done: %s", describe_counts(result.counts))
            self._all_well()
            self._stopping.wait(60)


def describe_counts(counts: dict[str, Any]) -> str:
    """How many objects of each type got which action, in one line."""
    return "; ".join(
        f"{name}s: " + ", ".join(f"{n} {action}" for action, n in sorted(counter.items()))
        for name, counter in counts.items()
    )
