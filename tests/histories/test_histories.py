"""Random histories against a small model: whatever is asked, and in whatever order.

The usual histories are the same in every run, so that no run of the tests fails by chance. With
``STEPQUOTA_HISTORIES=300`` in the environment others are tried, for about so many seconds a server.
What fails is printed as the shortest history that fails.
"""

from __future__ import annotations

import os
import time

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from harness.databases import Database
from histories.machine import Histories, prepare

_SECONDS = float(os.environ.get("STEPQUOTA_HISTORIES", "0"))
_USUAL = settings(
    max_examples=15,
    stateful_step_count=80,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
_OTHERS = settings(_USUAL, derandomize=False, max_examples=50)


def test_histories(database: Database) -> None:
    until = time.monotonic() + _SECONDS
    with prepare(database) as connection:
        run_state_machine_as_test(lambda: Histories(connection), settings=_USUAL)
        while time.monotonic() < until:
            run_state_machine_as_test(lambda: Histories(connection), settings=_OTHERS)
