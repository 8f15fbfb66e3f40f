"""Running pgbench, which is fast enough not to be what is measured, and reading what it says."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from stepquota.problems import Problem

from .servers import USER, Database

_PROCESSED = re.compile(r"^number of transactions actually processed: (\d+)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)
_RATE = re.compile(r"^tps = ([\d.]+) \(without initial connection time\)", re.MULTILINE)
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Load:
    """A load on a database.

    Attributes:
        database: Where.
        script: pgbench's script, one transaction.
        clients: How many connections.
        seconds: For how long; None where ``transactions`` is given.
        transactions: How many each client does.
        variables: Variables of the script.
        durable: Whether commits wait for the disk; only sizes are measured without.
        warm_up: For how many seconds more, before those that count: each connection's functions
            are compiled and its statements planned then. Only where ``seconds`` is given.
    """

    database: Database
    script: str
    clients: int
    seconds: int | None = None
    transactions: int | None = None
    variables: Mapping[str, int] | None = None
    durable: bool = True
    warm_up: int = 1


@dataclass(frozen=True)
class Run:
    """What a load did.

    Attributes:
        transactions: How many were committed, those of the warm-up among them.
        rate: Transactions a second, after the warm-up like the next two.
        median_ms: The time that half of them stayed below.
        p99_ms: The time that 99 of 100 stayed below.
        rates: The rate of each tenth of a second, from the first commit on, warm-up included; empty
            where the peer has a client of its own.
    """

    transactions: int
    rate: float
    median_ms: float
    p99_ms: float
    rates: tuple[float, ...]


TENTHS = 10
_MICROSECONDS = 1_000_000


def run(load: Load) -> Run:
    """Run a load to its end.

    Raises:
        Problem: pgbench failed, or one of its transactions did.
    """
    running = start(load)
    return running.finish()


@dataclass(frozen=True)
class Running:
    """A load that runs."""

    process: subprocess.Popen[str]
    folder: tempfile.TemporaryDirectory[str]
    warm_up: int

    def finish(self) -> Run:
        """Wait for its end.

        Raises:
            Problem: pgbench failed, or one of its transactions did.
        """
        try:
            output, errors = self.process.communicate()
            if self.process.returncode != 0:
                raise Problem(f"pgbench failed: {(errors or output).strip().splitlines()[-1]}")
            return _read(output, Path(self.folder.name), self.warm_up)
        finally:
            self.process.kill()
            self.folder.cleanup()


def start(load: Load) -> Running:
    """Start a load, to be finished later."""
    # Away from the disk whose flushes are measured, if there is such a place.
    parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    folder = tempfile.TemporaryDirectory(prefix="stepquota-bench-", dir=parent)
    script = Path(folder.name, "script.sql")
    script.write_text(load.script, encoding="utf-8")
    server = load.database.server
    warm_up = load.warm_up if load.seconds else 0
    amount = f"--transactions={load.transactions}"
    if load.seconds:
        amount = f"--time={load.seconds + warm_up}"
    command = [
        str(server.pgbench),
        f"--host={server.sockets}",
        f"--username={USER}",
        "--no-vacuum",
        "--protocol=prepared",
        f"--client={load.clients}",
        f"--jobs={min(load.clients, 2)}",
        amount,
        f"--file={script}",
        "--log",
        f"--log-prefix={folder.name}/log",
        *(f"--define={name}={value}" for name, value in (load.variables or {}).items()),
        load.database.name,
    ]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "LC_ALL": "C",
        "PGOPTIONS": "" if load.durable else "-c synchronous_commit=off",
    }
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    return Running(process, folder, warm_up)


def _read(output: str, folder: Path, warm_up: int) -> Run:
    processed, rate = _PROCESSED.search(output), _RATE.search(output)
    if not (processed and rate):
        raise Problem(f"pgbench's output is not understood: {output}")
    failed = _FAILED.search(output)
    if failed and int(failed.group(1)):
        raise Problem(f"pgbench had {failed.group(1)} failed transactions")
    done: list[tuple[int, int]] = []
    for log in folder.glob("log.*"):
        for line in log.read_text(encoding="ascii").splitlines():
            _, _, microseconds, _, second, fraction = line.split()[:6]
            done.append((int(second) * _MICROSECONDS + int(fraction), int(microseconds)))
    begin = min((at for at, _ in done), default=0) + warm_up * _MICROSECONDS
    counted = [(at, took) for at, took in done if at >= begin]
    if len(counted) < 2:
        raise Problem(
            f"only {len(counted)} transactions were done", "measure for longer: --seconds"
        )
    figure = float(rate.group(1))
    if warm_up:
        figure = len(counted) * _MICROSECONDS / (max(at for at, _ in counted) - begin)
    ended = Counter(at * TENTHS // _MICROSECONDS for at, _ in done)
    took = [each for _, each in counted]
    return Run(
        transactions=int(processed.group(1)),
        rate=figure,
        median_ms=median(took) / 1000,
        p99_ms=quantiles(took, n=100)[-1] / 1000,
        rates=tuple(float(ended[n] * TENTHS) for n in range(min(ended), max(ended) + 1)),
    )
