"""Servers that can be killed with -9 and started again where they were, copied, and replaced."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
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
_SOCKET = ".s.PGSQL.5432"


class Installation:
    """PostgreSQL's programs, run as a user who may, and a short folder for all that they write.

    Args:
        name: ``postgres15`` or ``embedded18``.
        niceness: By how much they stand back behind other programs.
        language: Such as ``de_DE``: the locale ``de_DE.UTF-8`` is made for them.

    Raises:
        Unavailable: The programs are not installed.
    """

    def __init__(self, name: str, niceness: int = 0, language: str | None = None):
        self._niceness = niceness
        self._environment = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
        if name == EMBEDDED18:
            binaries = embedded_binaries()
        elif (_DEBIAN / "bin" / "initdb").exists():
            binaries = Binaries(_DEBIAN, Path("bin"), ())
        else:
            raise Unavailable(
                "PostgreSQL 15 is not installed; on Debian 12: apt-get install postgresql-15"
            )
        self.user = find_server_user()
        self.folder = make_short_folder(self.user, [_SHARED_MEMORY])
        self._binaries = make_binaries_usable(binaries, self.folder, self.user)
        if language:
            self._make_locale(f"{language}.UTF-8")

    def _make_locale(self, locale: str) -> None:
        language, _, encoding = locale.partition(".")
        locales = self.folder / "l"
        locales.mkdir()
        try:
            subprocess.run(
                ["localedef", "-i", language, "-f", encoding, locales / locale],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"{locale} cannot be made; Debian's package locales can") from error
        self._environment["LOCPATH"] = str(locales)

    def make_folder(self, name: str) -> Path:
        """A folder that the server's user owns."""
        folder = self.folder / name
        make_private_folder(folder, self.user)
        return folder

    def run(self, program: str, *arguments: str) -> None:
        """Run a program to its end, which must be a good one."""
        process = self.popen(program, *arguments)
        assert process.wait(120) == 0, (program, *arguments)

    def popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program."""
        return subprocess.Popen(
            ["nice", f"-n{self._niceness}", str(self._binaries.program(program)), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self.user.uid if self.user else None,
            group=self.user.gid if self.user else None,
            extra_groups=[] if self.user else None,
            start_new_session=True,
            cwd="/",
            env=self._environment,
        )

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster:
    """A server on a data directory. Commits are durable: what was committed is there after a kill.

    Args:
        installation: Its programs.
        data: The data directory.
        sockets: The folder of its socket.
        settings: Settings beyond the usual ones.
    """

    def __init__(
        self,
        installation: Installation,
        data: Path,
        sockets: Path,
        settings: Mapping[str, str] | None = None,
    ):
        self.data = data
        self.sockets = sockets
        self._installation = installation
        self._settings = {
            "unix_socket_directories": str(sockets),
            "listen_addresses": "",
            "timezone": "UTC",
            "max_connections": "50",
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def initialise(self, *arguments: str) -> None:
        """Make the data directory."""
        self._installation.run(
            *("initdb", f"--pgdata={self.data}", "--username=postgres", "--auth=trust"),
            *("--encoding=UTF8", "--no-locale", "--no-sync", *arguments),
        )

    @property
    def url(self) -> str:
        """The URL of its database ``postgres``, for a superuser."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The URL of a database, for a superuser."""
        return f"postgresql://postgres@/{database}?host={quote(str(self.sockets), safe='')}"

    @property
    def is_running(self) -> bool:
        """Whether its main process is there."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start it without waiting."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        self._process = self._installation.popen("postgres", "-D", str(self.data), *settings)

    def start(self) -> None:
        """Start it if it does not run, and wait until it answers."""
        until = time.monotonic() + 60
        while True:
            if not self.is_running:
                # What was killed may still be in the memory that it shared.
                self.launch()
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
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait(20)

    def take_over(self, other: Cluster) -> None:
        """Answer where another one did, which is gone."""
        here, there = self.sockets / _SOCKET, other.sockets / _SOCKET
        new = there.with_name("new")
        new.symlink_to(here)
        new.replace(there)
        self.sockets = other.sockets
        # From its next start on it makes the socket there itself.
        self._settings["unix_socket_directories"] = str(other.sockets)
