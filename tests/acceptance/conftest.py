"""Each test runs through both flavours of the shim, on a migrated database of its own.

A third flavour is one of them where stepquota uses the tables of an application.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acceptance.adopted import AdoptedDriver
from acceptance.flavours import DRIVERS, Quota

DRIVERS["adopted"] = AdoptedDriver


@pytest.fixture(params=DRIVERS)
def quota(request: pytest.FixtureRequest, database_url: str) -> Iterator[Quota]:
    """The shim, at noon of 15 April 2026 UTC."""
    quota = Quota(database_url, request.param)
    yield quota
    quota.close()
