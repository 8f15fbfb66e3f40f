"""Peers that are programs of their own: installed by the bench, in folders of its own.

Redis comes from Debian's packages (its programs only: no service is started by that), the rate
limiter from npm. What cannot be had here is named as not run.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepquota.problems import Problem

from .outcomes import Inexact
from .pgbench import Run
from .servers import USER, Database

_NPM_PACKAGES = ("rate-limiter-flexible@11.4.0", "pg@8.23.1")
_LIMITER = Path(__file__).parent / "rate_limiter.mjs"
# Debian's redis-tools has the server's program, under the name of another one.
_DEBIAN_REDIS = Path("/usr/bin/redis-check-rdb")
_COUNT = """
local used = tonumber(redis.call('get', KEYS[1]) or '0')
if used >= tonumber(ARGV[1]) then return {0, used} end
return {1, redis.call('incr', KEYS[1])}
"""
_LIMIT = "1000000000"
_KEY = "hot"


class NotHere(Exception):
    """The peer cannot be had here; the text says why."""


@contextmanager
def rate_limiter(parent: Path) -> Iterator[RateLimiter]:
    """rate-limiter-flexible, installed in a new folder inside ``parent``.

    Raises:
        NotHere: There is no node, or npm does not reach its registry.
    """
    if not (shutil.which("node") and shutil.which("npm")):
        raise NotHere("node and npm are not installed")
    with tempfile.TemporaryDirectory(prefix="stepquota-bench-npm-", dir=parent) as folder:
        command = ["npm", "install", "--prefix", folder, "--ignore-scripts", "--no-audit"]
        installed = subprocess.run(
            [*command, "--no-fund", "--loglevel=error", *_NPM_PACKAGES],
            capture_output=True,
            text=True,
            check=False,
        )
        if installed.returncode != 0:
            raise NotHere(f"npm could not install {' and '.join(_NPM_PACKAGES)}")
        shutil.copy(_LIMITER, folder)
        yield RateLimiter(Path(folder, _LIMITER.name))


class RateLimiter:
    """rate-limiter-flexible on PostgreSQL, ready to run."""

    def __init__(self, script: Path):
        self._script = script

    def run(self, database: Database, clients: int, seconds: int) -> Run:
        """Consume points of one key.

        Raises:
            Problem: It failed.
            Inexact: Its counter is not what it answered.
        """
        settings = {
            "host": str(database.server.sockets),
            "user": USER,
            "database": database.name,
            "clients": clients,
            "seconds": seconds,
            "points": 2_000_000_000,
        }
        completed = subprocess.run(
            ["node", str(self._script), json.dumps(settings)],
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            raise Problem(f"rate-limiter-flexible failed: {completed.stderr.strip()[-500:]}")
        answer = json.loads(completed.stdout)
        if answer["consumed"] != answer["counted"]:
            raise Inexact(f"rate-limiter-flexible: {answer}")
        return Run(
            answer["consumed"], answer["rate"], answer["median_ms"], answer["p99_ms"], rates=()
        )


@contextmanager
def redis(parent: Path) -> Iterator[Redis]:
    """Redis with every write flushed, its data in a new folder inside ``parent``.

    Raises:
        NotHere: It is not installed, and cannot be.
    """
    program = _find_redis()
    with tempfile.TemporaryDirectory(prefix="stepquota-bench-", dir=parent) as folder:
        server = Path(folder, "redis-server")
        server.symlink_to(program)
        socket = Path(folder, "s")
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "dir": folder,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        process = subprocess.Popen(
            [str(server), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise NotHere("Redis did not start")
                time.sleep(0.05)
            yield Redis(socket)
        finally:
            process.terminate()
            process.wait()


def _find_redis() -> Path:
    wanted = (shutil.which("redis-server"), shutil.which("redis-benchmark"))
    if all(wanted):
        return Path(str(wanted[0]))
    if not _DEBIAN_REDIS.exists() or not wanted[1]:
        _install_redis()
    return _DEBIAN_REDIS


def _install_redis() -> None:
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise NotHere("Redis is not installed; on Debian: apt-get install redis-server")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = [
        *("apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends"),
        *("-o", "DPkg::Lock::Timeout=120", "redis-tools"),
    ]
    for commands in ([install], [["apt-get", "update", "--quiet=2"], install]):
        done = [subprocess.run(c, capture_output=True, env=environment) for c in commands]
        if done[-1].returncode == 0 and _DEBIAN_REDIS.exists():
            return
    raise NotHere("apt-get could not install redis-tools")


class Redis:
    """A Redis server that runs."""

    def __init__(self, socket: Path):
        self._socket = socket
        self._script = self._ask("script", "load", _COUNT)

    def run(self, clients: int, seconds: int) -> Run:
        """Check and increment one counter by a Lua script.

        Raises:
            Inexact: The counter is not what was asked for.
        """
        # redis-benchmark knows no time: a short run says how many it has to be.
        self._count(clients, 10 * clients)
        rate = self._count(clients, 100 * clients).rate
        return self._count(clients, max(clients, int(rate * seconds)))

    def _count(self, clients: int, transactions: int) -> Run:
        before = int(self._ask("get", _KEY) or 0)
        command = ["redis-benchmark", "-s", str(self._socket), "-c", str(clients), "--csv"]
        completed = subprocess.run(
            [*command, "-n", str(transactions), "evalsha", self._script, "1", _KEY, _LIMIT],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line for line in completed.stdout.splitlines() if line.startswith('"')]
        figures = next(csv.DictReader(lines))
        after = int(self._ask("get", _KEY))
        if after - before != transactions:
            raise Inexact(f"Redis counted {after - before} of {transactions}")
        return Run(
            transactions,
            float(figures["rps"]),
            float(figures["p50_latency_ms"]),
            float(figures["p99_latency_ms"]),
            rates=(),
        )

    def _ask(self, *command: str) -> str:
        completed = subprocess.run(
            ["redis-cli", "-s", str(self._socket), *command],
            capture_output=True,
            text=True,
            check=True,
        )
        return completed.stdout.strip()
