"""A glance at procrastinate and Temporal; the whole kit runs there with make test-engines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from engines.procrastinate_engine import ProcrastinateAdapter
from engines.temporal_engine import TemporalAdapter
from harness.databases import migrated_database
from harness.servers import EMBEDDED18
from harness.tap import POOL
from stepquota.testing import Conformance
from stepquota.testing.conformance import Bench


class Few(Conformance):
    crowd = 4


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    database = migrated_database(request.config.stash[POOL].get(EMBEDDED18))
    yield database.url
    database.drop()


@pytest.mark.parametrize("adapter_class", [ProcrastinateAdapter, TemporalAdapter])
def test_runs_pause_and_go_on(
    database_url: str, adapter_class: type[ProcrastinateAdapter | TemporalAdapter]
) -> None:
    with (
        closing(adapter_class(database_url)) as adapter,
        closing(Bench(adapter, database_url, Few.patience_seconds)) as bench,
    ):
        Few().test_paused_runs_go_on_when_there_is_quota(bench)
