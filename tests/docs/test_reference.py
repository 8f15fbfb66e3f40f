"""The pages of docs/reference say what the catalogue says: STEPQUOTA_WRITE_DOCS=1 writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.databases import Database, migrated_database
from harness.pages import ROOT
from harness.reference import render
from harness.servers import EMBEDDED18
from harness.tap import POOL

FOLDER = ROOT / "docs" / "reference"


@pytest.fixture
def newest(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the test's own on PostgreSQL 18 alone, with stepquota just installed."""
    database = migrated_database(request.config.stash[POOL].get(EMBEDDED18))
    yield database
    database.drop()


def test_the_reference_is_the_catalogues(newest: Database) -> None:
    with newest.connect() as connection:
        pages = render(connection)
    for name, text in pages.items():
        if os.environ.get("STEPQUOTA_WRITE_DOCS"):
            (FOLDER / name).write_text(text, encoding="utf-8")
        else:
            assert (FOLDER / name).read_text(encoding="utf-8") == text, (
                f"{name} is old; STEPQUOTA_WRITE_DOCS=1 pytest tests/docs -k reference"
            )
    assert {path.name for path in FOLDER.iterdir()} == {*pages, "README.md"}
