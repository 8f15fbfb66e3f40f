"""Connections to a migrated database of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection as psycopg makes it: a transaction begins with the first statement."""
    with psycopg.connect(database_url) as connection:
        yield connection


@pytest.fixture
def autocommit(database_url: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection
