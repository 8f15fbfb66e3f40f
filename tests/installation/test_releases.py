"""Every release can be upgraded, with what is in it; tests/releases keeps each one's dumped SQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.databases import Database
from stepquota.migrate import migrate
from stepquota.server_files import embedded_binaries

from .conftest import Psql, repository

RELEASES = sorted((repository() / "tests" / "releases").glob("*.sql"))

# A tenant that has run dry in the middle of a run, and one that has not.
USE = """
select stepquota.set_tier_limit('solo', 2);
select stepquota.register_workflow_run('dry', 'r'), stepquota.register_workflow_run('wet', 'r');
select stepquota.start_workflow_step('dry', 'r', 'a');
select stepquota.start_workflow_step('wet', 'r', 'a');
select stepquota.finish_workflow_step('dry', 'r', 'a', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'b');
select stepquota.finish_workflow_step('dry', 'r', 'b', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'c');
"""


def schema(database: Database) -> str:
    return subprocess.run(
        [
            embedded_binaries().program("pg_dump"),
            *("--schema-only", "--restrict-key=same", database.url),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_there_are_releases() -> None:
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.stem)
def test_an_upgrade_keeps_what_is_there_and_ends_as_a_fresh_installation(
    release: Path, database: Database, other_database: Database, psql: Psql
) -> None:
    psql(other_database, release.read_text()).check_returncode()
    psql(other_database, USE).check_returncode()

    migrate(other_database.url)

    assert schema(other_database) == schema(database)
    with other_database.connect() as connection:
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
        status = connection.execute(
            "select tenant, status from stepquota.workflow_runs order by tenant"
        ).fetchall()
        assert status == [("dry", "WAITING"), ("wet", "RUNNING")]
        # The paused run goes on, and the counters go on from where they were.
        connection.execute("select stepquota.set_tier_limit('solo', 3)")
        started = connection.execute(
            "select outcome, used_count from stepquota.start_workflow_step('dry', 'r', 'c')"
        ).fetchone()
        assert started == ("started", 3)
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []


def test_an_upgrade_says_what_was_wrong_before_it(other_database: Database, psql: Psql) -> None:
    psql(other_database, RELEASES[-1].read_text()).check_returncode()
    psql(other_database, USE).check_returncode()
    psql(other_database, "delete from stepquota.workflow_run_steps where tenant = 'wet'")

    (violation,) = migrate(other_database.url).violations

    assert violation.startswith("I3 conserved, wet, ")
    assert violation.endswith(", counter 1, ledger 0")
    # There was nothing to upgrade: it is not looked at again.
    assert migrate(other_database.url).violations == ()
