"""PgBouncer in transaction mode, in front of a test's database."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stepquota.server_files import find_server_user

from .servers import Unavailable


class PgBouncer:
    """A pool that runs for the time of the block, and can be killed and started again.

    Args:
        server_url: Where the server is, as a superuser, and which database is meant.
        pool_size: How many connections to the server it has.

    Raises:
        Unavailable: PgBouncer is not installed.
    """

    def __init__(self, server_url: str, pool_size: int = 2):
        program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if not program:
            raise Unavailable("PgBouncer is not installed; on Debian: apt-get install pgbouncer")
        self._program = program
        self._server = conninfo_to_dict(server_url)
        self._pool_size = pool_size
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="stepquota-pgbouncer-")
        self._user = find_server_user()
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        sockets = folder / "s"
        sockets.mkdir()
        if self._user:
            shutil.chown(sockets, self._user.uid, self._user.gid)
        names = ("host", "port", "user", "password")
        parts = " ".join(f"{name}={self._server[name]}" for name in names if name in self._server)
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\n* = {parts}\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_port = 6432\n"
            f"unix_socket_dir = {sockets}\ndefault_pool_size = {self._pool_size}\n"
            "max_client_conn = 100\nignore_startup_parameters = extra_float_digits\n"
            # A server that was killed is back in a moment.
            "server_login_retry = 1\n"
        )
        host, database = quote(str(sockets), safe=""), quote(str(self._server["dbname"]))
        self.url = f"postgresql://postgres@/{database}?host={host}&port=6432"
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(20)
        self._folder.cleanup()

    def start(self) -> None:
        """Start it and wait until the database answers through it."""
        self._process = subprocess.Popen(
            [self._program, "-q", str(self._settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user.uid if self._user else None,
            group=self._user.gid if self._user else None,
            extra_groups=[] if self._user else None,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, "no answer through PgBouncer"
            assert self._process.poll() is None, "PgBouncer ended by itself"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it with -9; all connections through it are lost."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait(20)
