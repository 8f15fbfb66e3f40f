"""Random histories: whatever happens to deliveries, workers and answers, the mirror ends right.

The usual histories are the same in every run; ``STEPQUOTA_HISTORIES=300`` tries others for about so
many seconds, as in ``histories.test_histories``, and makes one that fails as short as it can be,
which takes minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from stripe import HTTPClient

from harness.databases import Database
from harness.servers import EMBEDDED18
from histories.quotas import prepare_clearing
from histories.test_histories import OTHERS, SECONDS, USUAL
from stepquota.demo.stripe_fake import StripeFake, serve
from stepquota.stripe_sync import api
from stepquota.stripe_sync.settings import ApiSettings, Secret

from .machine import Account, Bench


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Few objects are several pages, and the library does not sleep before it tries again.
    monkeypatch.setattr(api, "PAGE", 5)
    monkeypatch.setattr(HTTPClient, "INITIAL_DELAY", 0.0)
    monkeypatch.setattr(HTTPClient, "MAX_DELAY", 0.0)
    fake = StripeFake("sk_test_histories")
    with serve(fake) as address, database.connect(autocommit=True) as connection:
        connection.execute("set jit = off")
        prepare_clearing(connection)
        yield Bench(database, connection, fake, ApiSettings(Secret(fake.api_key), False, address))


def test_histories(bench: Bench) -> None:
    # The rules are the same everywhere, and the older server takes three times as long.
    is_newest = bench.database.server.name == EMBEDDED18
    usual = settings(
        USUAL,
        max_examples=10 if is_newest else 1,
        phases=[Phase.generate, *([Phase.shrink] if SECONDS else [])],
    )
    until = time.monotonic() + SECONDS
    factory: Any = partial(Account, bench)
    run_state_machine_as_test(factory, settings=usual)
    while time.monotonic() < until:
        run_state_machine_as_test(factory, settings=OTHERS)
