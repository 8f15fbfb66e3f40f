"""Random histories beside the model of them, for as long as the faults go on; and counted.

tests/histories/ has the model, and the histories that every run of the tests tries.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from faults.test_mixed_load import MANY, SECONDS
from harness.databases import migrated_database
from harness.servers import EMBEDDED18, ServerPool
from histories.quotas import Quotas, prepare
from histories.test_histories import MACHINES, OTHERS

# Shrinking what fails takes minutes; --hypothesis-seed, as printed, and test_histories.py do it.
QUICK = settings(OTHERS, phases=[Phase.generate], stateful_step_count=12)


def begin(machine: type[Quotas], connection: Any) -> Quotas:
    """A history that is compared with the model at each step, and verified at its end."""
    history = machine(connection)
    history.verifies_each_step = False
    return history


# Two processes, each with histories of its own.
@pytest.mark.parametrize("part", [0, 1])
def test_random_histories(part: int, record_property: Callable[[str, object], None]) -> None:
    until = time.monotonic() + SECONDS
    count = 0
    wrong: list[str] = []

    def count_one(machine: type[Quotas], connection: Any) -> Quotas:
        nonlocal count
        count += 1
        return begin(machine, connection)

    pool = ServerPool()
    try:
        # The rules are the same on all servers, and this one is the fastest.
        with prepare(migrated_database(pool.get(EMBEDDED18))) as connection:
            for machine in itertools.cycle(MACHINES[part::2]):
                factory: Any = partial(count_one, machine, connection)
                try:
                    run_state_machine_as_test(factory, settings=QUICK)
                except Exception as error:
                    # With the history, as notes; others may show more.
                    wrong.append("".join(traceback.format_exception(error)))
                if len(wrong) > MANY or time.monotonic() >= until:
                    break
    finally:
        record_property("faults", {"random histories": count, "histories gone wrong": len(wrong)})
        pool.close()
    assert not wrong, "\n".join(wrong)
