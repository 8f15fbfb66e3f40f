"""stepquota page serve and link."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from page.stage import Stage
from stepquota.page.commands import app
from stepquota.page.tokens import Signer
from stepquota.problems import Problem
from stepquota.secret import Secret

DOCUMENT = Path(__file__).parents[2] / "docs" / "page.md"
SECRET = "x" * 40


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STEPQUOTA_PAGE") or name == "DATABASE_URL":
            monkeypatch.delenv(name)


def stepquota(*arguments: str, **variables: str) -> str:
    """What a command prints, or the problem that it ends with."""
    result = CliRunner().invoke(app, list(arguments), env=variables, catch_exceptions=True)
    if isinstance(result.exception, Problem):
        return str(result.exception)
    assert result.exception is None, result.exception
    return result.output


def test_links_are_printed_without_a_database(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n", encoding="utf-8")
    made = stepquota(
        *("link", "--tenant", "a/b & c", "--hours", "2", "--view", "json"),
        STEPQUOTA_PAGE_SECRET_FILE=str(tmp_path / "secret"),
        STEPQUOTA_PAGE_URL="https://page.example/quota/",
    )
    address, _, token = made.strip().partition("?token=")
    assert address == "https://page.example/quota/card.json"
    value = Signer([Secret(SECRET)]).read("link", token)
    assert (value["kind"], value["name"]) == ("tenant", "a/b & c")
    assert abs(value["until"] - time.time() - 7200) < 60


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["link", "--operator", "a"], {}, "there is no secret"),
        (["link", "--operator", "a"], {"STEPQUOTA_PAGE_SECRET": "short"}, "too short"),
        (["link"], {"STEPQUOTA_PAGE_SECRET": SECRET}, "for an operator or for a tenant"),
        (
            ["link", "--operator", "a", "--view", "json"],
            {"STEPQUOTA_PAGE_SECRET": SECRET},
            "only a tenant's card",
        ),
        (["serve"], {"STEPQUOTA_PAGE_SECRET": SECRET}, "there is no database URL"),
        (
            ["serve", "--trusted-proxy", "10.0.0.300"],
            {"STEPQUOTA_PAGE_SECRET": SECRET},
            "--trusted-proxy",
        ),
        (
            ["serve", "postgresql://nobody:hidden@127.0.0.1:1/none", "--port", "0"],
            {"STEPQUOTA_PAGE_SECRET": SECRET},
            "cannot connect to the database",
        ),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    arguments: list[str], variables: dict[str, str], message: str
) -> None:
    told = stepquota(*arguments, **variables)
    assert message in told
    assert "\n" not in told
    assert "hidden" not in told
    assert SECRET not in told


def test_roles_that_cannot_serve_are_refused(stage: Stage) -> None:
    told = stepquota(
        *("serve", "--port", "0"),
        STEPQUOTA_PAGE_SECRET=SECRET,
        STEPQUOTA_PAGE_TENANT_DATABASE_URL=stage.url("loose"),
    )
    assert "is not bound to the tenant that its session names" in told
    assert "bind_session_role" in told


def test_it_serves_until_it_is_told_to_stop(stage: Stage) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "stepquota", "page", "serve", "--port", str(port)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DATABASE_URL": stage.url("observers"),
            "STEPQUOTA_PAGE_SECRET": SECRET,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        answer = b""
        until = time.monotonic() + 30
        while not answer and process.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
                    answer = response.read()
            except OSError:
                time.sleep(0.1)
        assert answer == b'{"ok": true}'
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?token=not-logged")
        assert refused.value.code == 401
    finally:
        process.send_signal(signal.SIGTERM)
        _, printed = process.communicate(timeout=30)
    assert process.returncode in (0, 128 + signal.SIGTERM, -signal.SIGTERM)
    assert "Traceback" not in printed
    assert "not-logged" not in printed
    assert f"serving operators at http://127.0.0.1:{port}, listening at" in printed


def test_links_are_of_the_port() -> None:
    made = stepquota("link", "--operator", "a", "--port", "8418", STEPQUOTA_PAGE_SECRET=SECRET)
    assert made.startswith("http://127.0.0.1:8418/enter?token=")
    made = stepquota("link", "--operator", "a", STEPQUOTA_PAGE_SECRET=SECRET)
    assert made.startswith("http://127.0.0.1:8400/enter?token=")


def test_a_port_that_is_taken_is_told_before_anything_is_served(stage: Stage) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = stepquota(
            *("serve", "--port", str(port)),
            DATABASE_URL=stage.url("observers"),
            STEPQUOTA_PAGE_SECRET=SECRET,
        )
    assert f"cannot listen at 127.0.0.1, port {port}: Address already in use" in told
    assert "serving" not in told


def test_options_are_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    root: object = typer.main.get_command(app)
    for command in root.commands.values():  # type: ignore[attr-defined]
        options = {o for p in command.params for o in p.opts if o.startswith("--")}
        for option in options - {"--help"}:
            assert re.search(rf"{option}\b", text), option
    variables = set(re.findall(r"STEPQUOTA_PAGE_\w+", text))
    assert {"STEPQUOTA_PAGE_SECRET", "STEPQUOTA_PAGE_SECRET_FILE"} < variables
