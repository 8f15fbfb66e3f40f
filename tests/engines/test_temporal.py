"""The conformance kit on Temporal, and what is particular to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engines.many import run_dry_and_go_on
from engines.temporal_engine import TemporalAdapter
from stepquota.testing import Conformance


@pytest.fixture
def adapter(database_url: str) -> Iterator[TemporalAdapter]:
    adapter = TemporalAdapter(database_url)
    yield adapter
    adapter.close()


class TestTemporal(Conformance):
    patience_seconds = 60.0


def test_two_hundred_workflows(adapter: TemporalAdapter, database_url: str) -> None:
    run_dry_and_go_on(adapter, database_url)
