"""The conformance kit fails where it must: on workers that are wrong in one thing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from conformance import wrong
from harness.databases import migrated_database
from harness.servers import EMBEDDED18
from harness.tap import POOL
from stepquota.testing import Conformance
from stepquota.testing.conformance import Bench
from stepquota.testing.reference import ReferenceAdapter, ReferenceWorker


# One server is enough: it is the workers that are wrong.
@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str]:
    database = migrated_database(request.config.stash[POOL].get(EMBEDDED18))
    yield database.url
    database.drop()


class Impatient(Conformance):
    patience_seconds = 10.0
    crowd = 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker_class", "test", "complaint"),
    [
        (wrong.CountsNoRetries, "test_retries_count", "Counter"),
        (
            wrong.Polls,
            "test_a_used_up_quota_pauses_and_holds_no_worker",
            "somebody asks again and again",
        ),
        (
            wrong.LosesResumptions,
            "test_paused_runs_go_on_when_there_is_quota",
            "still not: the new units are used",
        ),
        (
            wrong.FailsPausedRuns,
            "test_a_used_up_quota_pauses_and_holds_no_worker",
            "still not: .* paused",
        ),
        (wrong.CountsAfterwards, "test_paused_runs_go_on_when_there_is_quota", "== {1}"),
    ],
)
def test_the_kit_finds_it(
    database_url: str, worker_class: type[ReferenceWorker], test: str, complaint: str
) -> None:
    with (
        closing(ReferenceAdapter(database_url, worker_class)) as adapter,
        closing(Bench(adapter, database_url, Impatient.patience_seconds)) as bench,
        pytest.raises((AssertionError, pytest.fail.Exception), match=complaint),
    ):
        getattr(Impatient(), test)(bench)
