"""The command line: what it prints, and with which status it ends."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from harness.databases import Database
from stepquota.cli import app


def stepquota(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stepquota", *arguments],
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"}


def test_help_documents_the_exit_statuses() -> None:
    completed = stepquota("--help")
    assert completed.returncode == 0
    assert "Exit status" in completed.stdout
    for command in ("migrate", "up", "demo", "status"):
        assert command in completed.stdout


def all_commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, *path, name)


def test_help_fits_80_columns() -> None:
    commands = list(all_commands(typer.main.get_command(app)))
    assert len(commands) > 30
    for command in commands:
        result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "80"})
        assert result.exit_code == 0, command
        # An ellipsis is something that was cut off.
        wrong = [line for line in result.stdout.splitlines() if len(line) > 80 or "…" in line]
        assert not wrong, command


def test_wrong_usage() -> None:
    completed = stepquota("migrate", "--no-such-option")
    assert completed.returncode == 2
    assert "Traceback" not in completed.stderr


@pytest.mark.parametrize("steps", ["ten", "0", "99999999999999999999", "9" * 5000])
def test_a_grant_of_no_such_number_is_wrong_usage(steps: str) -> None:
    completed = stepquota("tenant", "grant", "acme", steps, "--reason", "test")
    assert completed.returncode == 2
    assert steps[:50] in completed.stderr
    assert "is not a number from 1 to 1000000000000" in " ".join(completed.stderr.split())


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_without_a_database_url(command: str) -> None:
    completed = stepquota(command)
    assert completed.returncode == 1
    assert completed.stderr == (
        "stepquota: there is no database URL\n"
        "hint: give it as an argument or set DATABASE_URL in the environment\n"
    )


def test_the_database_url_of_the_environment(other_database: Database) -> None:
    completed = stepquota("migrate", DATABASE_URL=other_database.url)
    assert completed.returncode == 0, completed.stderr
    assert f"installed in {other_database.name}" in completed.stdout


def test_errors_are_one_line_unless_debug_is_asked_for() -> None:
    url = "postgresql://u:5ecret@127.0.0.1:9/app"
    completed = stepquota("migrate", url)
    assert completed.returncode == 1
    problem, hint = completed.stderr.splitlines()
    assert problem.startswith("stepquota: cannot connect to the database: ")
    assert hint.startswith("hint: check the database URL")
    assert "5ecret" not in completed.stderr
    assert "Traceback" in stepquota("--debug", "migrate", url).stderr


def test_dead_events_stay_dead_where_there_is_no_key_to_work_them_off(database: Database) -> None:
    completed = stepquota("stripe", "work", "--requeue", database.url, STRIPE_API_KEY="")
    assert (completed.returncode, completed.stdout) == (1, "")
    assert completed.stderr.startswith("stepquota: there is no Stripe API key\n")


def test_status_of_a_fresh_installation(database: Database) -> None:
    completed = stepquota("status", database.url)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.endswith("\n0 failed checks, 0 violated invariants\n")


def test_status_where_an_invariant_is_violated(database: Database) -> None:
    database.run(
        """
        select stepquota.set_tenant_plan('acme', 'solo');
        select stepquota.register_workflow_run('acme', 'run-1');
        select stepquota.start_workflow_step('acme', 'run-1', 'root');
        update stepquota.workflow_step_usage_lanes set used_count = 7 where tenant = 'acme';
        """
    )
    completed = stepquota("status", database.url)
    assert completed.returncode == 1
    assert "acme" in completed.stdout
    assert "counter_off_ledger" in completed.stdout
    assert not completed.stdout.endswith(" 0 violated invariants\n")


def test_status_where_nothing_is_installed(other_database: Database) -> None:
    completed = stepquota("status", other_database.url)
    assert completed.returncode == 1
    assert completed.stderr == (
        f"stepquota: stepquota is not installed in the database {other_database.name}, "
        "or an older release is\nhint: run stepquota migrate\n"
    )


@pytest.fixture
def directory() -> Iterator[Path]:
    """A folder with a space in its path that the server's user can reach."""
    folder = Path("/tmp") / f"stepquota_test {os.getpid()}_{time.monotonic_ns()}"
    yield folder
    shutil.rmtree(folder)


def start_up(directory: Path) -> tuple[subprocess.Popen[str], list[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stepquota", "up", "--dir", str(directory)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("Ctrl-C"):
            break
    return process, lines


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_up(directory: Path, number: signal.Signals, status: int) -> None:
    process, lines = start_up(directory)
    _, psql, assignment, _ = lines
    url = shlex.split(assignment)[0].partition("=")[2]
    program, argument = shlex.split(psql)
    assert argument == url
    completed = subprocess.run(
        [program, "-Atc", "select stepquota.version()", argument],
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout == "0.2.0\n"
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == status, output + errors
    assert errors == ""
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_up_in_a_taken_directory(directory: Path) -> None:
    process, _ = start_up(directory)
    completed = stepquota("up", "--dir", str(directory))
    assert completed.returncode == 1
    assert completed.stderr == (
        f"stepquota: another server runs in {directory}\n"
        "hint: stop that one, or choose another folder\n"
    )
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
