"""make demo on a fresh clone: what it makes, and what it says where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import repository

pytestmark = pytest.mark.usefixtures("clean_environment")

NO_NETWORK = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_RETRIES": "0",
}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the tree without what git would not have, at a path of the awkward sort."""
    folder = tmp_path / f"a clone with spaces {'x' * 150}"
    shutil.copytree(
        repository(),
        folder,
        symlinks=True,
        ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis"),
    )
    return folder


def run(clone: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=clone,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(completed: subprocess.CompletedProcess[str]) -> str:
    # make adds a line of its own.
    lines = [line for line in completed.stderr.splitlines() if not line.startswith("make")]
    return lines[-1]


@pytest.mark.slow
def test_make_demo(clone: Path) -> None:
    first = run(clone, "make", "demo")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "making the virtual environment .venv" in first.stdout
    again = run(clone, "sh", "scripts/make_venv", "demo")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    with (clone / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    changed = run(clone, "sh", "scripts/make_venv", "demo")
    assert changed.returncode == 0
    assert changed.stdout == "installing stepquota and its extra 'demo' into .venv\n"


def test_python_too_old(clone: Path) -> None:
    completed = run(clone, "make", "demo", PYTHON="/bin/false")
    assert completed.returncode != 0
    assert last_line(completed) == "stepquota: PYTHON=/bin/false is not a Python 3.11 or later"
    assert not (clone / ".venv").exists()


def test_no_python_at_all(clone: Path, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("make", "sh", "cat", "cmp"):
        (programs / program).symlink_to(str(shutil.which(program)))
    completed = run(clone, "make", "demo", PATH=str(programs))
    assert completed.returncode != 0
    assert last_line(completed).startswith(
        "stepquota: Python 3.11 or later is needed, and none is on the PATH"
    )


def test_no_venv_module(clone: Path, tmp_path: Path) -> None:
    python = tmp_path / "python without venv"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    completed = run(clone, "make", "demo", PYTHON=str(python))
    assert completed.returncode != 0
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert last_line(completed) == (
        f"stepquota: {python} has no venv module; "
        f"on Debian and Ubuntu: apt-get install python{version}-venv"
    )


def test_no_network(clone: Path) -> None:
    completed = run(clone, "make", "demo", **NO_NETWORK)
    assert completed.returncode != 0
    assert last_line(completed).startswith("stepquota: pip could not install the packages")
    assert not list((clone / ".venv").glob("installed_*"))


def test_make_without_a_target_helps(clone: Path) -> None:
    completed = run(clone, "make")
    assert completed.returncode == 0
    for target in ("demo", "test", "lint", "clean"):
        assert f"make {target} " in completed.stdout
