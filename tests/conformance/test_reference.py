"""The conformance kit on the engine that comes with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stepquota.testing import Conformance
from stepquota.testing.reference import ReferenceAdapter


class TestReference(Conformance):
    @pytest.fixture
    def adapter(self, database_url: str) -> Iterator[ReferenceAdapter]:
        adapter = ReferenceAdapter(database_url)
        yield adapter
        adapter.close()
