"""The browser's tests take long and need Chromium; ``make test-page`` runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers import Server
from page.stage import Stage, staged

WANTED = "STEPQUOTA_BROWSER"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    is_browser = collection_path.name == "test_browser.py"
    return True if is_browser and not os.environ.get(WANTED) else None


@pytest.fixture(scope="session")
def stage(server: Server) -> Iterator[Stage]:
    with staged(server) as made:
        yield made
