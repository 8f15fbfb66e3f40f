"""Where Docker runs, the tests' PostgreSQL 15 is a container of our own image."""

from __future__ import annotations

import os

import pytest

from harness.servers import Server, why_no_docker


@pytest.mark.needs("pg_cron")
def test_the_server_is_a_container(server: Server) -> None:
    if reason := why_no_docker():
        pytest.skip(reason)
    if "STEPQUOTA_TEST_DATABASE_URL" not in os.environ:
        assert server.origin == "a container"
    assert server.capabilities == {"pg_cron", "plpgsql_check"}
