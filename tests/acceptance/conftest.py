"""Each test runs through both flavours of the shim, on a migrated database of its own.

A third flavour is one of them where stepquota uses the tables of an application.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from acceptance.adopted import AdoptedDriver, adopt
from acceptance.flavours import DRIVERS, Quota
from harness.databases import migrated_database, prepared_database
from harness.servers import Server

DRIVERS["adopted"] = AdoptedDriver


@pytest.fixture(params=DRIVERS)
def quota(request: pytest.FixtureRequest, server: Server) -> Iterator[Quota]:
    """The shim, at noon of 15 April 2026 UTC."""
    if request.param == "adopted":
        database = prepared_database(server, "adopted", adopt)
    else:
        database = migrated_database(server)
    quota = Quota(database.url, request.param)
    yield quota
    quota.close()
    database.drop()
