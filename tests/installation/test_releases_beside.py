"""One release apart: the last release's shim on our functions, and our shim on the last release's.

The last release's acceptance tests, packed in tests/releases, pass with both. Those about runs are
run, which is where results grow; all of them with ``make test-faults``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.databases import Database

from .conftest import Psql, repository
from .test_releases import RELEASES

LAST = RELEASES[-1]
FILES = "" if os.environ.get("STEPQUOTA_FAULTS") else "test_runs.py"

# What stands where tests/conftest.py did: databases of a test's own, clones of the one under test.
CONFTEST = """
import itertools, os
from urllib.parse import urlencode
import psycopg, pytest
from psycopg.conninfo import conninfo_to_dict

SERVER, TEMPLATE = os.environ["TEST_SERVER"], os.environ["TEST_TEMPLATE"]
numbers = itertools.count(1)


def run(statement):
    with psycopg.connect(SERVER, autocommit=True) as connection:
        connection.execute(statement)


@pytest.fixture
def database_url():
    name = f"{TEMPLATE}_{next(numbers)}"
    run(f'create database "{name}" template "{TEMPLATE}"')
    yield "postgresql:///?" + urlencode({**conninfo_to_dict(SERVER), "dbname": name})
    run(f'drop database "{name}" with (force)')


def pytest_collection_modifyitems(items):
    # The other flavour is the same calls.
    items[:] = [item for item in items if "asyncio" not in item.name]
"""

Acceptance = Callable[[Database, Path], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The last release, unpacked."""
    with tarfile.open(LAST.with_suffix(".tar.gz")) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST)
    return tmp_path


@pytest.fixture
def accept(release: Path) -> Acceptance:
    """Runs the release's acceptance tests on clones of a database, with the package of a folder."""

    def accept_(database: Database, package: Path) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, (package, release / "tests")))
        return subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line"),
                *("-p", "no:xdist", "--import-mode=importlib", "--rootdir", release / "tests"),
                *("-c", os.devnull, release / "tests" / "acceptance" / FILES),
            ],
            cwd=release,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
                "PYTHONPATH": path,
                "TEST_SERVER": database.server.url("postgres"),
                "TEST_TEMPLATE": database.name,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return accept_


def failures(completed: subprocess.CompletedProcess[str]) -> set[str]:
    """The names of the tests that failed, of those that ran."""
    last = completed.stdout.strip().splitlines()[-1]
    assert " passed" in last, completed.stdout[-3000:] + completed.stderr[-3000:]
    lines = completed.stdout.splitlines()
    return {line.split("::")[1].split(" ")[0] for line in lines if line.startswith("FAILED")}


def test_the_last_shim_on_our_functions(
    database: Database, release: Path, accept: Acceptance
) -> None:
    completed = accept(database, release / "pyshim")
    assert failures(completed) == set(), completed.stdout[-5000:]


def test_our_shim_on_the_last_functions(
    other_database: Database, psql: Psql, accept: Acceptance
) -> None:
    psql(other_database, LAST.read_text()).check_returncode()
    completed = accept(other_database, repository() / "pyshim")
    assert failures(completed) == set(), completed.stdout[-5000:]
