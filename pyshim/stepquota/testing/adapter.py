"""What an adapter shows to the kit."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple, Protocol

from .scripts import Script

RunState = Literal["open", "succeeded", "failed", "canceled"]


class Attempt(NamedTuple):
    """An attempt at a step, in the terms of the ledger."""

    run_id: str
    node_path: str
    attempt: int


class Worker(Protocol):
    """A process that carries out runs, and whatever the adapter needs beside it."""

    def kill(self) -> None:
        """End it with SIGKILL; returns when it is gone."""

    def stop(self) -> None:
        """End it in order."""


class Adapter(Protocol):
    """An engine with stepquota in it, as the kit drives it.

    A run's steps call :func:`stepquota.testing.perform`. An attempt that fails is tried again by
    the engine's own means, at least four times and without long pauses.
    """

    def start_worker(self) -> Worker:
        """Start one more worker process."""

    def start_run(self, tenant: str, run_id: str, script: Script) -> None:
        """Hand the run to the engine; it may begin before a worker is there."""

    def send_event(self, tenant: str, run_id: str, path: str) -> None:
        """Let the event happen that the run waits for at this path."""

    def cancel_run(self, tenant: str, run_id: str) -> None:
        """Cancel the run in the engine and in stepquota."""

    def replay_run(self, tenant: str, run_id: str) -> None:
        """Make the engine look at the run once more, as after a message that came twice."""

    def state(self, tenant: str, run_id: str) -> RunState:
        """What the engine says of the run; ``open`` while it may still go on."""

    def attempts(self, tenant: str) -> Collection[Attempt]:
        """The attempts that the engine's own history says were started."""


class WorkerProcess:
    """A worker in a process of its own.

    Args:
        target: what the process runs; importable, since the process is a fresh interpreter.
        args: its arguments.
    """

    def __init__(self, target: Callable[..., object], *args: Any):
        self._process = multiprocessing.get_context("spawn").Process(
            target=target, args=args, daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int | None:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        """End it with SIGKILL; returns when it is gone."""
        self._process.kill()
        self._process.join(20)

    def stop(self) -> None:
        """End it with SIGTERM, or with SIGKILL after 10 seconds."""
        self._process.terminate()
        self._process.join(10)
        self.kill()
