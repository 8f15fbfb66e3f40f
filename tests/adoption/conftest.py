"""Databases in which stepquota uses tables of an application's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from acceptance.adopted import adopt
from harness.databases import Database, prepared_database
from harness.pages import FILE, Page, read_page
from harness.servers import Server
from stepquota import adoption
from stepquota.migrate import migrate


@pytest.fixture
def adopted(server: Server) -> Iterator[Database]:
    """All five tables are the application's, with uuid keys."""
    database = prepared_database(server, "adopted", adopt)
    yield database
    database.drop()


@pytest.fixture(scope="session")
def page() -> Page:
    """The page on adoption, whose example is a shop."""
    return read_page("docs/adoption.md")


@pytest.fixture
def shop(server: Server, page: Page) -> Iterator[Database]:
    """The page's shop: tenants and runs are its own; steps, waits and logs stepquota's."""
    (tables,) = (b.text for b in page.blocks if b.text.startswith("create schema shop"))
    (description,) = (b.text for b in page.blocks if b.place == FILE)
    assert not re.search(r"^\[(steps|waits|logs)\]", description, re.M)

    def adopt_shop(url: str) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "description.toml"
            file.write_text(description, encoding="utf-8")
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(tables.encode())
                found = adoption.resolve_tables(connection, adoption.read_description(file))
                connection.execute(adoption.preparation(connection, found).encode())
            migrate(url, file)

    database = prepared_database(server, "shop", adopt_shop)
    yield database
    database.drop()
