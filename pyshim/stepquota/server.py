"""A PostgreSQL server of our own, for ``stepquota up``, ``stepquota demo`` and the tests.

It listens on a Unix socket only, in a short folder under the temporary folder, and it never
outlives this process: a guard process stops it and removes that folder when this one is gone,
however it went (see ``server_guard``).

As root the server runs as an existing user without rights, since PostgreSQL refuses root. No user
is made for it, and permissions of folders that are not its own stay as they are.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from . import server_guard
from .problems import Problem
from .server_files import (
    Binaries,
    embedded_binaries,
    find_server_user,
    make_binaries_usable,
    make_private_folder,
    make_short_folder,
)

SUPERUSER = "postgres"
DATABASE = "stepquota"

_MARK = "stepquota_server.lock"
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


class LocalServer:
    """A server that runs from ``start`` to ``stop``, or for a ``with`` block.

    Args:
        directory: Where the data stays for the next time; None for data that goes with the server.
        settings: PostgreSQL settings by name. TCP comes with ``listen_addresses`` and ``port``;
            there a password is asked for, and no role has one before you give it one.
        binaries: The programs; the embedded ones unless given.
        preferred_folders: Where the server's folder is made if possible, before the temporary ones.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        binaries: Binaries | None = None,
        preferred_folders: Iterable[Path] = (),
    ):
        self._directory = directory.absolute() if directory else None
        self._settings = dict(settings or {})
        self._binaries = binaries
        self._preferred_folders = tuple(preferred_folders)
        self._folder: Path | None = None
        self._mark: IO[str] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """The folder of the socket."""
        if self._folder is None:
            raise RuntimeError("the server has not been started")
        return self._folder

    @property
    def psql(self) -> Path:
        """The psql that belongs to the server."""
        return (self._binaries or embedded_binaries()).program("psql")

    def url(self, database: str = DATABASE) -> str:
        """The URL of one of its databases, for the superuser."""
        host = quote(str(self.folder / "s"), safe="")
        port = f"&port={self._settings['port']}" if "port" in self._settings else ""
        return f"postgresql://{SUPERUSER}@/{quote(database)}?host={host}{port}"

    def start(self) -> None:
        """Make the server and its database ``stepquota``, and wait until it answers.

        Raises:
            Problem: It cannot be had: the message says why.
        """
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Wait until the server ends by itself.

        Raises:
            Problem: It has ended; the message has its last words.
        """
        if self._guard is None:
            raise RuntimeError("the server has not been started")
        self._guard.wait()
        raise Problem(f"the server ended by itself: {_last_words(self._guard)}")

    def stop(self) -> None:
        """Stop the server. Connections are cut. Without effect on one that does not run."""
        guard, self._guard = self._guard, None
        if guard:
            if guard.stdin:
                guard.stdin.close()
            guard.wait(_STOP_SECONDS)
        if self._folder:
            # The guard has removed it, unless there was none yet.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        if self._mark:
            self._mark.close()
            self._mark = None

    def _start(self) -> None:
        user = find_server_user()
        wanted = self._binaries or embedded_binaries()
        if self._directory:
            self._mark = _take_directory(self._directory)
        folder = self._folder = make_short_folder(user, self._preferred_folders)
        home = self._directory or folder
        make_private_folder(folder / "s", user)
        binaries = make_binaries_usable(wanted, folder, user)
        data, new_data = home / "data", home / "data.new"
        initdb = None
        if not data.exists():
            shutil.rmtree(new_data, ignore_errors=True)
            make_private_folder(new_data, user)
            initdb = _initdb(binaries, new_data, durable=self._directory is not None)
        job = {
            "parent": os.getpid(),
            "user": [user.uid, user.gid] if user else None,
            "folder": str(folder),
            "log": str(home / "server.log"),
            "initdb": initdb,
            "new_data": str(new_data),
            "data": str(data),
            "postgres": _postgres(binaries, data, folder / "s", self._settings),
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-I", server_guard.__file__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=_environment(),
            # The directory stays taken as long as the guard has something to stop there.
            pass_fds=[self._mark.fileno()] if self._mark else [],
        )
        _hand_over(job, self._guard)
        self._wait_until_it_answers(self._guard)
        self._make_database()

    def _wait_until_it_answers(self, guard: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if guard.poll() is not None:
                raise Problem(f"the server did not start: {_last_words(guard)}")
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise Problem(
                        f"the server did not answer within {_START_SECONDS:.0f} s",
                        "the machine may be too busy; try again",
                    ) from error
                time.sleep(0.05)
            else:
                return

    def _make_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            known = connection.execute("select 1 from pg_database where datname = %s", [DATABASE])
            if known.fetchone() is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))


def _hand_over(job: Mapping[str, Any], guard: subprocess.Popen[bytes]) -> None:
    # A guard that has died is noticed by whoever waits for the server.
    with suppress(BrokenPipeError):
        if guard.stdin:
            guard.stdin.write(json.dumps(job).encode() + b"\n")
            guard.stdin.flush()


def _take_directory(directory: Path) -> IO[str]:
    try:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        taken_by_others = any(directory.iterdir()) and not (directory / _MARK).is_file()
        if taken_by_others:
            raise Problem(
                f"{directory} is not empty and holds no server of stepquota",
                "choose another folder, or one that does not exist yet",
            )
        mark = (directory / _MARK).open("a")
    except OSError as error:
        raise Problem(
            f"{directory} cannot be used: {error.strerror}", "choose another folder"
        ) from error
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        mark.close()
        raise Problem(
            f"another server runs in {directory}", "stop that one, or choose another folder"
        ) from error
    return mark


def _initdb(binaries: Binaries, data: Path, *, durable: bool) -> list[str]:
    return [
        str(binaries.program("initdb")),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        "--no-locale",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--no-instructions",
        *([] if durable else ["--no-sync"]),
    ]


def _postgres(
    binaries: Binaries, data: Path, sockets: Path, settings: Mapping[str, str]
) -> list[str]:
    all_settings = {
        "unix_socket_directories": str(sockets),
        "listen_addresses": "",
        "timezone": "UTC",
        "log_timezone": "UTC",
        **settings,
    }
    options = [f"--{name}={value}" for name, value in all_settings.items()]
    return [str(binaries.program("postgres")), "-D", str(data), *options]


def _environment() -> dict[str, str]:
    # Nothing but what programs need to run: PGDATA and its like are for other servers, and what is
    # secret in the environment is none of the server's business.
    names = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in names if name in os.environ}}


def _last_words(guard: subprocess.Popen[bytes]) -> str:
    report = guard.stderr.read().decode(errors="replace") if guard.stderr else ""
    lines = [line.strip() for line in report.splitlines() if line.strip()]
    fatal = [line for line in lines if "FATAL" in line or "error" in line.lower()]
    return next(iter(fatal or reversed(lines)), "it left no message")
