"""A server that can be killed with -9 and started again where it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from stepquota.server_files import (
    Binaries,
    embedded_binaries,
    find_server_user,
    make_binaries_usable,
    make_private_folder,
    make_short_folder,
)

from .servers import EMBEDDED18, Unavailable

_DEBIAN = Path("/usr/lib/postgresql/15")
_SHARED_MEMORY = Path("/dev/shm")


class KillableServer:
    """Commits are durable: what was committed is there after a kill.

    Args:
        name: ``postgres15`` or ``embedded18``.

    Raises:
        Unavailable: Its programs are not installed.
    """

    def __init__(self, name: str):
        if name == EMBEDDED18:
            binaries = embedded_binaries()
        elif (_DEBIAN / "bin" / "initdb").exists():
            binaries = Binaries(_DEBIAN, Path("bin"), ())
        else:
            raise Unavailable(
                "PostgreSQL 15 is not installed; on Debian 12: apt-get install postgresql-15"
            )
        self._user = find_server_user()
        self._folder = make_short_folder(self._user, [_SHARED_MEMORY])
        self._binaries = make_binaries_usable(binaries, self._folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        home = self._folder / "s"
        make_private_folder(home, self._user)
        self._run(
            [
                *("initdb", f"--pgdata={home / 'data'}", "--username=postgres", "--auth=trust"),
                *("--encoding=UTF8", "--no-locale", "--no-sync"),
            ]
        )
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """The URL of its database ``postgres``, for a superuser."""
        return f"postgresql://postgres@/postgres?host={quote(str(self._folder / 's'), safe='')}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        home = self._folder / "s"
        until = time.monotonic() + 60
        while True:
            if self._process is None or self._process.poll() is not None:
                # What was killed may still be in the memory that it shared.
                self._process = self._popen(
                    [
                        *("postgres", "-D", str(home / "data")),
                        *("-c", f"unix_socket_directories={home}", "-c", "listen_addresses="),
                        *("-c", "timezone=UTC", "-c", "max_connections=50"),
                    ]
                )
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill it with -9, as a power cut would, and wait until it is gone."""
        process, self._process = self._process, None
        if process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)

    def _run(self, command: list[str]) -> None:
        process = self._popen(command)
        assert process.wait(60) == 0, command

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        program, *arguments = command
        return subprocess.Popen(
            [str(self._binaries.program(program)), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user.uid if self._user else None,
            group=self._user.gid if self._user else None,
            extra_groups=[] if self._user else None,
            start_new_session=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        )
