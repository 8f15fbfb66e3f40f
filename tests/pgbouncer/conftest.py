"""A PgBouncer before the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.databases import Database
from harness.pgbouncer import PgBouncer
from harness.servers import Unavailable

SERVER_CONNECTIONS = 4


@pytest.fixture
def pooled_url(database: Database) -> Iterator[str]:
    """The URL of ``database`` through a PgBouncer that has few connections to it."""
    try:
        with PgBouncer(database.url, SERVER_CONNECTIONS) as pool:
            yield pool.url
    except Unavailable as reason:
        pytest.skip(str(reason))
