"""PgBouncer in transaction mode, in front of a test's database."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stepquota.server_files import find_server_user

from .databases import Database
from .servers import Unavailable


@contextmanager
def pgbouncer(database: Database, pool_size: int = 2) -> Iterator[str]:
    """The URL of the database through a PgBouncer with so few connections to the server.

    Raises:
        Unavailable: PgBouncer is not installed.
    """
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if not program:
        raise Unavailable("PgBouncer is not installed; on Debian: apt-get install pgbouncer")
    server = conninfo_to_dict(database.url)
    parts = " ".join(
        f"{name}={server[name]}" for name in ("host", "port", "user", "password") if name in server
    )
    user = find_server_user()
    with tempfile.TemporaryDirectory(prefix="stepquota-pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        sockets = Path(folder, "s")
        sockets.mkdir()
        if user:
            shutil.chown(sockets, user.uid, user.gid)
        settings = Path(folder, "pgbouncer.ini")
        settings.write_text(
            f"[databases]\n* = {parts}\n"
            "[pgbouncer]\npool_mode = transaction\nauth_type = any\nlisten_port = 6432\n"
            f"unix_socket_dir = {sockets}\ndefault_pool_size = {pool_size}\n"
            "max_client_conn = 100\nignore_startup_parameters = extra_float_digits\n"
        )
        process = subprocess.Popen(
            [program, "-q", str(settings)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
        host = quote(str(sockets), safe="")
        url = f"postgresql://postgres@/{quote(database.name)}?host={host}&port=6432"
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                with suppress(psycopg.OperationalError):
                    psycopg.connect(url).close()
                    break
                assert process.poll() is None, "PgBouncer ended by itself"
                time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(20)
