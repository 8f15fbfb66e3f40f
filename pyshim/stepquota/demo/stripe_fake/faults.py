"""What goes wrong with requests: refusals, slow and stale answers, broken connections."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from .refusals import by_status

# An answer that a test forgot to release does not keep its thread for ever.
_LONGEST_HOLD_SECONDS = 60.0


class BrokenOff(Exception):
    """The connection is closed without an answer."""


@dataclass(slots=True, eq=False)
class Held:
    """Answers that were made and are not delivered yet; leaving its ``with`` block releases them.

    Attributes:
        made: Set when the first of them has been made.
    """

    made: threading.Event = field(default_factory=threading.Event)
    _released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def wait_until_made(self, seconds: float = 10) -> None:
        """Wait until one of them has been made.

        Raises:
            TimeoutError: Nobody asked within that time.
        """
        if not self.made.wait(seconds):
            raise TimeoutError(f"nothing was asked for within {seconds} s")

    def release(self) -> None:
        """Deliver them, and those that come later, at once."""
        self._released.set()

    def keep(self) -> None:
        """Say that an answer has been made, and wait for the release."""
        self.made.set()
        self._released.wait(_LONGEST_HOLD_SECONDS)


@dataclass(slots=True, eq=False)
class Fault:
    """Something that goes wrong with the next requests to some paths.

    Attributes:
        path: A regular expression for the whole path, as ``/v1/subscriptions/.*``.
        times: How many more requests it befalls; None for all.
        kind: Whether the answer is refused, slow (made after a wait), held back (made before it,
            and so perhaps stale when it comes) or none at all.
    """

    path: re.Pattern[str]
    times: int | None
    kind: Literal["refused", "slow", "held", "broken"]
    status: int = 500
    retry_after: int | None = None
    seconds: float = 0.0
    held: Held | None = None


class Faults:
    """All faults of a fake; the first that fits befalls a request, and others wait their turn."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(
        self, path: str, status: int, *, times: int | None = 1, retry_after: int | None = None
    ) -> None:
        """Refuse requests.

        Args:
            path: A regular expression for the whole path.
            status: The HTTP status: 401, 403, 404, 429, 500 and others.
            times: How many requests; None for all until ``clear``.
            retry_after: Seconds for the header Retry-After; None sends none.
        """
        self._add(Fault(re.compile(path), times, "refused", status, retry_after))

    def slow(self, path: str, seconds: float, *, times: int | None = 1) -> None:
        """Look at requests only after a while."""
        self._add(Fault(re.compile(path), times, "slow", seconds=seconds))

    def delay(self, path: str, seconds: float, *, times: int | None = 1) -> None:
        """Make answers at once, and deliver them after a while: they may be stale by then."""
        self._add(Fault(re.compile(path), times, "held", seconds=seconds))

    def hold(self, path: str, *, times: int | None = 1) -> Held:
        """Make answers at once, and deliver them when the caller releases them."""
        held = Held()
        self._add(Fault(re.compile(path), times, "held", held=held))
        return held

    def break_off(self, path: str, *, times: int | None = 1) -> None:
        """Close connections without an answer."""
        self._add(Fault(re.compile(path), times, "broken"))

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._faults.clear()

    @contextmanager
    def befall(self, path: str) -> Iterator[None]:
        """Within it an answer is made.

        Raises:
            Refusal: It is refused.
            BrokenOff: There is to be no answer.
        """
        fault = self._take(path)
        if fault is None:
            yield
        elif fault.kind == "refused":
            raise by_status(fault.status, fault.retry_after)
        elif fault.kind == "broken":
            raise BrokenOff
        elif fault.kind == "slow":
            time.sleep(fault.seconds)
            yield
        else:
            yield
            time.sleep(fault.seconds)
            if fault.held:
                fault.held.keep()

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def _take(self, path: str) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.path.fullmatch(path)), None)
            if fault and fault.times is not None:
                fault.times -= 1
                if fault.times <= 0:
                    self._faults.remove(fault)
            return fault
