"""A Stripe in memory, and a mirror of it in a database of the test's own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from harness.databases import Database
from harness.servers import POSTGRES15
from stepquota.demo.stripe_fake import StripeFake, serve
from stepquota.secret import Secret
from stepquota.stripe_sync.api import StripeApi
from stepquota.stripe_sync.mirror import Mirror
from stepquota.stripe_sync.settings import ApiSettings
from stepquota.stripe_sync.work import open_mirror

KEY = "sk_test_fake"
SECRET = "whsec_fake"

MakeMirror = Callable[[], Mirror]


# What these test is the process, not what the server makes of it: one server is enough.
_ON_ONE_SERVER = ("test_commands.py", "test_endpoint.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [
        item
        for item in items
        if item.path.name in _ON_ONE_SERVER
        and item.path.parent == Path(__file__).parent
        and POSTGRES15 in item.name
    ]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def fake() -> StripeFake:
    return StripeFake(KEY)


@pytest.fixture
def address(fake: StripeFake) -> Iterator[str]:
    with serve(fake) as base:
        yield base


@pytest.fixture
def settings(address: str) -> ApiSettings:
    return ApiSettings(Secret(KEY), False, address)


@pytest.fixture
def api(settings: ApiSettings) -> Iterator[StripeApi]:
    api = StripeApi(settings, patience=1, timeout=(2, 5))
    yield api
    api.close()


@pytest.fixture
def make_mirror(database: Database) -> Iterator[MakeMirror]:
    """Mirrors on connections of their own, with the rights of the sync's role only."""
    with ExitStack() as stack:

        def make() -> Mirror:
            connection = database.connect(role="stepquota_sync", autocommit=True)
            stack.callback(connection.close)
            return Mirror(connection)

        yield make


@pytest.fixture
def mirror(make_mirror: MakeMirror, api: StripeApi) -> Mirror:
    """One that belongs to the fake's account."""
    mirror = make_mirror()
    open_mirror(mirror, api)
    return mirror


@pytest.fixture
def owner(database: Database) -> Iterator[psycopg.Connection]:
    """A superuser's connection in autocommit mode."""
    with database.connect(autocommit=True) as connection:
        yield connection


def limit_of(connection: psycopg.Connection, tenant: str) -> int | None:
    """The tenant's limit as a reservation would have it."""
    row = connection.execute(
        "select effective_limit from stepquota.resolve_workflow_step_quota(%s)", [tenant]
    ).fetchone()
    assert row
    limit: int | None = row[0]
    return limit


def mirror_rows(connection: psycopg.Connection) -> dict[str, dict[str, tuple[object, ...]]]:
    """What the mirror says of each object that is not deleted."""
    columns = {
        "products": "metadata, name, active",
        "prices": "metadata, product_id, active, recurring_interval, recurring_interval_count",
        "customers": "metadata",
        "subscriptions": "metadata, status, customer_id, billing_cycle_anchor, cancel_at, ended_at,"
        " trial_end, pause_collection",
        "subscription_items": "subscription_id, price_id, quantity, current_period_start,"
        " current_period_end",
    }
    return {
        table: {
            row[0]: row[1:]
            for row in connection.execute(
                (
                    f"select id, {names} from stepquota.stripe_{table} where deleted_at is null"
                ).encode()
            )
        }
        for table, names in columns.items()
    }


def subscribe(fake: StripeFake, tenant: str, limit: str = "500", **metadata: str) -> str:
    """A subscription of a tenant with a price of its own; answers its id."""
    product = fake.create_product(id=f"prod_{tenant}")
    price = fake.create_price(
        product.id, id=f"price_{tenant}", metadata={"workflow_step_limit": limit, **metadata}
    )
    customer = fake.create_customer(id=f"cus_{tenant}", metadata={"tenant": tenant})
    return fake.create_subscription(customer.id, [price.id], id=f"sub_{tenant}").id


class SyncProcess:
    """A command of ``stepquota stripe`` as a process of its own.

    Args:
        command: The command and its options.
        environment: Its environment, beyond ours.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepquota", "stripe", *command],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        """Wait for a line of output."""

        def find() -> re.Match[str] | None:
            return next((m for line in self.lines if (m := re.search(pattern, line))), None)

        with self._changed:
            self._changed.wait_for(
                lambda: find() or self.process.poll() is not None, timeout=seconds
            )
            match = find()
        assert match, f"no {pattern!r} in {self.lines}"
        return match

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.wait_for(r"listening at (\S+)")[1]

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; answers the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(20)
        self._reader.join(5)
        return status


@pytest.fixture
def start(database: Database, address: str) -> Iterator[Callable[..., SyncProcess]]:
    """Starts commands with key, secrets, the fake's address and the database in the environment."""
    started: list[SyncProcess] = []

    def start_(*command: str, **environment: str) -> SyncProcess:
        process = SyncProcess(
            list(command),
            {
                "DATABASE_URL": database.url,
                "STRIPE_API_KEY": KEY,
                "STRIPE_API_BASE": address,
                "STRIPE_WEBHOOK_SECRETS": f"whsec_other, {SECRET}",
                **environment,
            },
        )
        started.append(process)
        return process

    yield start_
    for process in started:
        process.end(signal.SIGKILL)


def wait_until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)
