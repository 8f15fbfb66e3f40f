"""Random histories beside the model of them, for as long as the faults go on; and counted.

tests/histories/ has the model, and the histories that every run of the tests tries.
"""

from __future__ import annotations

import itertools
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from faults.clients import PROCESSES
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
    answer, sender = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(
        target=_try_histories, args=(part, os.getpid(), sender), daemon=True
    )
    process.start()
    sender.close()
    count, wrong = answer.recv()
    process.join(60)
    record_property("faults", {"random histories": count, "histories gone wrong": len(wrong)})
    assert not wrong, "\n".join(wrong)
    assert count > 0


def _try_histories(part: int, parent: int, answer: Connection) -> None:
    # A session of its own: Linux shares the time out between sessions before it does so inside of
    # one, and that of the tests has all clients of the load in it.
    os.setsid()
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
                if len(wrong) > MANY or time.monotonic() >= until or os.getppid() != parent:
                    break
    finally:
        answer.send((count, wrong))
        pool.close()
