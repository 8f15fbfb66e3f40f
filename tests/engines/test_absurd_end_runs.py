"""Absurd: runs of tasks that it ended alone are ended, however late, and looked at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import stepquota.absurd
from engines.test_absurd import Odd


@pytest.fixture
def odd(database_url: str) -> Iterator[Odd]:
    """Without a worker: tasks are carried out by the test itself."""
    odd = Odd(database_url)
    odd.worker.kill()
    odd.set_limit(1)
    yield odd
    odd.close()


def test_runs_are_ended_however_long_ago_their_tasks_were(
    odd: Odd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepquota.absurd, "_ENDED_AT_ONCE", 2)
    tasks = [odd.spawn("repeats") for _ in range(5)]
    for _ in tasks:
        odd.app.work_batch()
    for task in tasks:
        odd.app.cancel_task(task)
    odd.connection.execute(
        "update absurd.t_default set cancelled_at = cancelled_at - interval '1 year'"
    )
    assert {odd.run(task) for task in tasks} == {"WAITING"}
    assert odd.quota.end_runs() == 5
    assert {odd.run(task) for task in tasks} == {"CANCELED"}
    assert odd.quota.end_runs() == 0
    assert stepquota.verify_all(odd.connection) == ()
