"""Tests on engines that take a while to install; ``make test-engines`` runs them.

They run on PostgreSQL 18 alone: what differs between servers is tested without the engines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.databases import Database, migrated_database
from harness.servers import EMBEDDED18
from harness.tap import POOL

WANTED = "STEPQUOTA_RUNTIMES"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_test = collection_path.name.startswith("test_")
    return True if is_test and not os.environ.get(WANTED) else None


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the test's own, with stepquota just installed; a superuser's."""
    database = migrated_database(request.config.stash[POOL].get(EMBEDDED18))
    yield database
    database.drop()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Has a line printed at the end of the run."""
    return lambda line: request.node.user_properties.append(("measured", line))


@pytest.fixture
def database_url(database: Database) -> str:
    return database.url
