"""Random histories beside a small model: whatever is asked, in whatever order.

The usual histories are the same in every run, so that no run of the tests fails by chance. With
``STEPQUOTA_HISTORIES=300`` in the environment others are tried, for about so many seconds a test.
What fails is printed as the shortest history that fails.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from harness.databases import Database
from harness.servers import EMBEDDED18
from histories.periods import Periods
from histories.quotas import Quotas, prepare
from histories.runs import Runs


class Everything(Periods, Runs):
    """All rules together: each seldom, but next to any other."""


SECONDS = float(os.environ.get("STEPQUOTA_HISTORIES", "0"))
USUAL = settings(
    max_examples=25,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
OTHERS = settings(USUAL, derandomize=False, max_examples=50)

MACHINES: list[type[Quotas]] = [Quotas, Periods, Runs, Everything]


@pytest.mark.parametrize("machine", MACHINES)
def test_histories(database: Database, machine: type[Quotas]) -> None:
    # The rules are the same everywhere, and the older server takes three times as long.
    usual = USUAL if database.server.name == EMBEDDED18 else settings(USUAL, max_examples=6)
    until = time.monotonic() + SECONDS
    with prepare(database) as connection:
        factory: Any = partial(machine, connection)
        run_state_machine_as_test(factory, settings=usual)
        while time.monotonic() < until:
            run_state_machine_as_test(factory, settings=OTHERS)
