"""The wheel, installed in an empty environment and used from another directory."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from harness.databases import Database
from stepquota._resources import migrations_directory, sql_directory
from stepquota.dump import dump_sql

from .conftest import Dump, repository

# One worker builds and installs for all.
pytestmark = [pytest.mark.xdist_group("wheel"), pytest.mark.usefixtures("clean_environment")]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"),
            *("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}"),
            repository(),
        ],
        check=True,
    )
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing but the wheel and what it asks for, at an awkward path."""
    folder = tmp_path_factory.mktemp("clone") / f"with spaces, {'x' * 150}"
    venv.create(folder, with_pip=True)
    subprocess.run(
        [
            *(folder / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"),
            *("install", "--no-compile", f"{wheel}[demo]"),
        ],
        check=True,
    )
    return folder


@pytest.fixture
def run(environment: Path, tmp_path: Path) -> Run:
    """Runs a program of the environment in an empty directory."""

    def run_(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_


@pytest.fixture
def up(environment: Path, tmp_path: Path) -> Iterator[str]:
    """The DATABASE_URL that ``stepquota up`` prints, while it runs."""
    process = subprocess.Popen(
        [environment / "bin" / "stepquota", "up"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    line = next((line for line in process.stdout if "DATABASE_URL=" in line), "")
    yield line.partition("=")[2].strip().strip("'")
    process.terminate()
    process.communicate(timeout=30)


def test_the_wheel_has_all_that_the_package_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, packaged in ((sql_directory(), "_sql"), (migrations_directory(), "_migrations")):
        for file in folder.iterdir():
            assert f"stepquota/{packaged}/{file.name}" in names
    assert {"stepquota/py.typed", "stepquota/cli.py", "stepquota/server_guard.py"} <= names
    others = {name for name in names if not name.startswith(("stepquota/", "stepquota-"))}
    assert others == {"stepquota_command.py"}


def test_the_command_says_its_version(run: Run) -> None:
    completed = run("stepquota", "--version")
    assert completed.stdout == "stepquota 0.2.0\n"
    assert completed.returncode == 0


def test_migrate(run: Run, other_database: Database, database: Database, dump: Dump) -> None:
    completed = run("stepquota", "migrate", other_database.url)
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    assert f"stepquota 0.2.0 is installed in {other_database.name}" in completed.stdout
    assert dump(other_database) == dump(database)


def test_dump_sql(run: Run) -> None:
    completed = run("stepquota", "migrate", "--dump-sql")
    assert completed.stdout == dump_sql()
    assert completed.returncode == 0


def test_up_and_status(run: Run, up: str) -> None:
    with psycopg.connect(up) as connection:
        assert connection.execute("select stepquota.version()").fetchone() == ("0.2.0",)
    completed = run("stepquota", "status", up)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_the_command_is_a_module_too(run: Run) -> None:
    completed = run("python", "-m", "stepquota", "--version")
    assert completed.stdout == "stepquota 0.2.0\n"
