"""The conformance kit on Absurd, 200 tasks at once, and what asking costs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engines.absurd_engine import AbsurdAdapter
from stepquota.testing import Conformance


@pytest.fixture
def adapter(database_url: str) -> Iterator[AbsurdAdapter]:
    adapter = AbsurdAdapter(database_url)
    yield adapter
    adapter.close()


class TestAbsurd(Conformance):
    patience_seconds = 60.0
