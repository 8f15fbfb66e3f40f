"""The conformance kit: what an adapter of a workflow engine must do, as a pytest suite.

An adapter's tests derive a class from :class:`Conformance` and give it two fixtures,
``database_url`` and ``adapter``, an :class:`Adapter`. ``docs/adapters.md`` says how to write one,
and ``stepquota.testing.reference`` is one to read. Needs the extra ``testing``.
"""

from __future__ import annotations

import pytest

# Before it is imported, so that its assertions say what they compared.
pytest.register_assert_rewrite("stepquota.testing.conformance")

from .adapter import Adapter, Attempt, RunState, Worker, WorkerProcess  # noqa: E402
from .bodies import StepFailed, perform  # noqa: E402
from .conformance import Conformance  # noqa: E402
from .scripts import Event, ForEach, Node, Script, Work, read_script, write_script  # noqa: E402

__all__ = [
    "Adapter",
    "Attempt",
    "Conformance",
    "Event",
    "ForEach",
    "Node",
    "RunState",
    "Script",
    "StepFailed",
    "Work",
    "Worker",
    "WorkerProcess",
    "perform",
    "read_script",
    "write_script",
]
