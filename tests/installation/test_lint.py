"""ruff and mypy find nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import repository


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("mypy",),
    ],
    ids=" ".join,
)
def test_lint(command: tuple[str, ...]) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=repository(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
