"""Passwords and keys: in no output, no traceback, no process list and no statement."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from harness.databases import Database
from harness.servers import POSTGRES15
from stepquota import cli

PASSWORD = "hunter2pass"
# Put together, so that nothing looks like a live one.
KEY = "sk" + "_test_" + "4hunter2key"
SIGNING_SECRET = "whsec" + "_hunter2signing"

# URLs with a password at which nothing answers, and such that cannot be read.
URLS = [
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql://u:{}@pass@127.0.0.1:1/db",
    "postgresql://u:{}%zz@h/db",
    "postgresql://u:{}@h:port/db",
    "postgresql://u:{}@[::1/db",
    "postgresql://u:{}/x@127.0.0.1:1/db",
    "postgresql://u:{}?x@127.0.0.1:1/db",
    "postgresql://u:{}#x@127.0.0.1:1/db",
    "postgresql://u:{}@127.0.0.1:1/db?sslmode=nonsense",
    "postgresql://u:{}@127.0.0.1:1/db?connect_timeout=soon",
    "postgresql+psycopg://u:{}@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password={}",
    "postgresql://u@127.0.0.1:1/db?password={}&foo=bar",
    "host=127.0.0.1 password={} port=1 x=y",
    "host=127.0.0.1 password={} port=1",
    "host=127.0.0.1 password='{}",
    "host=127.0.0.1 port=1 password={} dbname",
    "{}",
    "mysql://u:{}@h/db",
]


@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("command", ["status", "migrate", "stripe check"])
def test_no_output_has_the_password(
    command: str, debug: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", KEY)
    for url in URLS:
        monkeypatch.setenv("DATABASE_URL", url.format(PASSWORD))
        arguments = [*(["--debug"] if debug else []), *command.split()]
        monkeypatch.setattr(sys, "argv", ["stepquota", *arguments])
        text = ""
        try:
            cli.main()
        except (Exception, SystemExit) as ended:
            text = "".join(traceback.format_exception(ended))
        out, err = capfd.readouterr()
        text += out + err
        assert text
        for secret in (PASSWORD, PASSWORD[:7], KEY):
            assert secret not in text, (url, text)


def test_a_cause_that_is_shown_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a traceback would say if the cause were kept."""
    with pytest.raises(psycopg.ProgrammingError) as error:
        conninfo_to_dict(URLS[4].format(PASSWORD))
    assert PASSWORD in str(error.value)


@contextmanager
def overheard(database: Database) -> Iterator[tuple[str, bytearray]]:
    """A URL with a password that leads to a database, and all that is sent to it."""
    parameters = conninfo_to_dict(database.url)
    sent = bytearray()
    listener = socket.create_server(("127.0.0.1", 0))

    def connect() -> socket.socket:
        host, port = str(parameters.get("host", "")), str(parameters.get("port", 5432))
        if host.startswith("/"):
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(f"{host}/.s.PGSQL.{port}")
            return upstream
        return socket.create_connection((host, int(port)))

    def pump(source: socket.socket, target: socket.socket, keep: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if keep:
                    sent.extend(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                upstream = connect()
                for ends in ((client, upstream, True), (upstream, client, False)):
                    threading.Thread(target=pump, args=ends, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    user = quote(str(parameters.get("user", "postgres")))
    # A server that trusts does not ask for it; one that asks gets a proof, and not the password.
    url = (
        f"postgresql://{user}:{PASSWORD}@127.0.0.1:{listener.getsockname()[1]}"
        f"/{database.name}?sslmode=disable&gssencmode=disable"
    )
    try:
        yield url, sent
    finally:
        listener.close()


def test_nothing_is_sent_to_the_database_and_no_process_shows_it(
    other_database: Database,
) -> None:
    """So nothing is in its log, in pg_stat_activity or in the application's name."""
    if other_database.server.name == POSTGRES15:
        return  # What is sent is not the server's doing: one is enough.
    with overheard(other_database) as (url, sent):
        variables = {
            **os.environ,
            "DATABASE_URL": url,
            "STRIPE_API_KEY": KEY,
            "STRIPE_WEBHOOK_SECRETS": SIGNING_SECRET,
            # Nothing listens there.
            "STRIPE_API_BASE": "http://127.0.0.1:1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        for command in (["migrate"], ["status"], ["--debug", "stripe", "catch-up"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "stepquota", *command],
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            shown = b""
            with suppress(OSError):
                shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            output, _ = process.communicate(timeout=120)
            for secret in (PASSWORD, KEY, SIGNING_SECRET):
                assert secret.encode() not in output
                assert secret.encode() not in shown
        assert len(sent) > 100_000
        for secret in (PASSWORD, KEY, SIGNING_SECRET):
            assert secret.encode() not in sent
