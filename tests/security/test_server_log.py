"""Passwords, keys and secrets: in no line of a server's log that writes down everything.

The command line, the sync and the shim log in with a password to a server that asks for it and that
logs every statement, plan, parameter and connection; with right and with wrong passwords.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

import stepquota
from harness.killable import Cluster, Installation
from harness.servers import EMBEDDED18
from stepquota.demo.stripe_fake import StripeFake, serve

PASSWORD = "hunter2pass"
WRONG_PASSWORD = "hunter2wrong"
# Put together, so that nothing looks like a live one.
KEY = "sk" + "_test_" + "4hunter2key"
SIGNING_SECRET = "whsec" + "_hunter2signing"
SECRETS = [PASSWORD, WRONG_PASSWORD, KEY, SIGNING_SECRET]

TALKATIVE = {
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "server.log",
    "log_min_messages": "debug1",
    "log_min_error_statement": "debug1",
    "log_error_verbosity": "verbose",
    "log_statement": "all",
    "log_duration": "on",
    "log_min_duration_statement": "0",
    "log_parameter_max_length": "-1",
    "log_parameter_max_length_on_error": "-1",
    "log_connections": "on",
    "log_disconnections": "on",
    "log_replication_commands": "on",
    "log_line_prefix": "%m [%p] %u %d %r %a ",
    "debug_print_parse": "on",
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_verbose": "on",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_parameter_max_length": "-1",
}


@pytest.fixture(scope="module")
def talkative() -> Iterator[Cluster]:
    """A server that asks the role app for its password, and logs all it can."""
    installation = Installation(EMBEDDED18)
    folder = installation.make_folder("s")
    server = Cluster(installation, folder / "data", folder, TALKATIVE)
    try:
        server.initialise()
        server.start()
        with psycopg.connect(server.url, autocommit=True) as connection:
            # What is said in clear here is the test's own.
            connection.execute("set log_statement = none; set log_min_duration_statement = -1")
            connection.execute("set log_duration = off; set debug_print_parse = off")
            connection.execute("set auto_explain.log_min_duration = -1")
            connection.execute("set log_min_messages = fatal")
            connection.execute(f"create role app superuser login password '{PASSWORD}'".encode())
            (server.data / "pg_hba.conf").write_text(
                "local all app scram-sha-256\nlocal all postgres trust\n"
            )
            connection.execute("select pg_reload_conf()")
        yield server
    finally:
        server.kill()
        installation.remove()


def url_of(server: Cluster, password: str) -> str:
    return f"postgresql://app:{password}@/postgres?host={quote(str(server.sockets), safe='')}"


def process_lines() -> list[bytes]:
    """What ps shows of every process."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes())
        except OSError:
            continue
    return lines


class Ways:
    """The ways in which secrets come to us, and what all of them said."""

    def __init__(self, server: Cluster, stripe: str):
        self.server = server
        self.stripe = stripe
        self.output = ""

    def command(self, *words: str, password: str = PASSWORD, seconds: float = 60) -> None:
        """Run a command to its end, or for so long; look at all processes meanwhile."""
        process = subprocess.Popen(
            [sys.executable, "-m", "stepquota", *words],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": ":".join(sys.path),
                "DATABASE_URL": url_of(self.server, password),
                "STRIPE_API_KEY": KEY,
                "STRIPE_API_BASE": self.stripe,
                "STRIPE_WEBHOOK_SECRETS": SIGNING_SECRET,
                "STRIPE_LOG": "debug",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            for line in process_lines():
                for secret in SECRETS:
                    assert secret.encode() not in line
            time.sleep(0.2)
        process.terminate()
        output, _ = process.communicate(timeout=30)
        assert output
        self.output += output

    def shim(self) -> None:
        """A runtime's calls, right ones and wrong ones."""
        url = url_of(self.server, PASSWORD)
        with psycopg.connect(url, autocommit=True) as connection:
            stepquota.set_tier_limit(connection, "solo", 1)
            stepquota.register_workflow_run(connection, "acme", "r")
            for path in ("root", "next"):
                stepquota.start_workflow_step(connection, "acme", "r", path)
            stepquota.set_tenant_plan(connection, "acme", "pro")
            try:
                stepquota.finish_workflow_run(connection, "acme", "unknown", "FAILED")
            except stepquota.StepquotaError as error:
                self.output += f"{error!r} {error}"
        with stepquota.Reserver(url) as reserver:
            assert reserver.reserve("acme", timeout=20).allowed
        with stepquota.resumptions(url, "w", poll_seconds=0.05) as loop:
            self.output += repr(next(loop))
        try:
            psycopg.connect(url_of(self.server, WRONG_PASSWORD))
        except psycopg.OperationalError as error:
            self.output += str(error)


def test_no_secret_is_in_a_log_an_output_or_a_process_list(talkative: Cluster) -> None:
    with serve(StripeFake(KEY)) as stripe:
        ways = Ways(talkative, stripe)
        ways.command("migrate")
        ways.command("--debug", "status")
        ways.command("--debug", "status", password=WRONG_PASSWORD)
        ways.command("stripe", "sync")
        ways.command("--debug", "stripe", "run", "--port", "0", seconds=3)
        ways.shim()
    log = (talkative.data / "log" / "server.log").read_text()
    # It has seen it all: statements with their parameters, logins, and one that failed.
    for seen in ("start_workflow_step", "'acme'", "apply_stripe_object", "authorized: user=app"):
        assert seen in log, seen
    assert 'password authentication failed for user "app"' in log
    for secret in SECRETS:
        assert secret not in log
        assert secret not in ways.output


def test_a_secret_that_is_said_is_seen(talkative: Cluster) -> None:
    """What somebody does who changes a password in clear, or calls a function with a key."""
    told = "hunter2told"
    with psycopg.connect(talkative.url, autocommit=True) as connection:
        connection.execute(f"alter role app password '{told}'".encode())
        connection.execute("select length(%s)", [KEY])
        connection.execute(f"alter role app password '{PASSWORD}'".encode())
    log = (talkative.data / "log" / "server.log").read_text()
    assert told in log
    assert KEY in log
