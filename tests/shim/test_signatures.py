"""The public functions look as they should to help(), to editors and to mypy, in both flavours."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import pydoc
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psycopg
import pytest

import stepquota
import stepquota.aio
from stepquota import calls, results

NAMES = sorted(
    name
    for name, value in vars(calls).items()
    if inspect.isfunction(value) and value.__module__ == calls.__name__ and not name.startswith("_")
)


def test_both_flavours_have_the_same_functions() -> None:
    for module in (stepquota, stepquota.aio):
        functions = {n for n in module.__all__ if inspect.isfunction(getattr(module, n))}
        # The loop is no call: it makes many.
        assert sorted(functions - {"resumptions"}) == NAMES
    assert set(stepquota.aio.__all__) - set(NAMES) == {"Reserver", "Resumptions", "resumptions"}


def test_everything_exported_exists() -> None:
    for module in (stepquota, stepquota.aio):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name)


@pytest.mark.parametrize("name", NAMES)
def test_functions_carry_name_documentation_and_signature(name: str) -> None:
    written = getattr(calls, name)
    for module, connection in (
        (stepquota, psycopg.Connection),
        (stepquota.aio, psycopg.AsyncConnection),
    ):
        function = getattr(module, name)
        assert (function.__name__, function.__qualname__) == (name, name)
        assert function.__module__ == module.__name__
        assert function.__doc__ == written.__doc__
        first, *rest = inspect.signature(function).parameters.values()
        assert (first.name, first.annotation, first.kind) == (
            "connection",
            connection,
            inspect.Parameter.POSITIONAL_ONLY,
        )
        assert rest == list(inspect.signature(written).parameters.values())
        assert pickle.loads(pickle.dumps(function)) is function
    assert inspect.iscoroutinefunction(getattr(stepquota.aio, name))
    assert not inspect.iscoroutinefunction(getattr(stepquota, name))


@pytest.mark.parametrize("name", NAMES)
def test_documentation_describes_every_parameter(name: str) -> None:
    written = getattr(calls, name)
    for parameter in inspect.signature(written).parameters:
        assert f"\n        {parameter}: " in written.__doc__, parameter


def test_help_shows_types() -> None:
    text = pydoc.plain(pydoc.render_doc(stepquota.resume_workflow_run))
    assert (
        "resume_workflow_run(connection: psycopg.Connection, /, tenant: str | int | uuid.UUID, "
        "run_id: str | int | uuid.UUID, reason: str) -> stepquota.results.WorkflowRunResume" in text
    )
    text = pydoc.plain(pydoc.render_doc(stepquota.aio.tick))
    assert "async tick(connection: psycopg.AsyncConnection, /) -> None" in text


def test_results_are_frozen_and_slotted() -> None:
    classes = [getattr(results, n) for n in results.__all__ if inspect.isclass(getattr(results, n))]
    assert len(classes) > 10
    for class_ in classes:
        assert class_.__doc__
        assert not class_.__doc__.startswith(f"{class_.__name__}(")
        assert "__slots__" in vars(class_)
        arguments: dict[str, Any] = {field.name: None for field in dataclasses.fields(class_)}
        row = class_(**arguments)
        assert not hasattr(row, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(row, dataclasses.fields(class_)[0].name, 1)


@pytest.mark.parametrize(
    ("outcome", "execute"),
    [
        ("started", True),
        ("already_started", True),
        ("already_finished", False),
        ("quota_paused", False),
        ("held", False),
    ],
)
def test_a_step_is_executed_when_it_is_started(outcome: Any, execute: bool) -> None:
    others: dict[str, Any] = {f.name: None for f in dataclasses.fields(results.WorkflowStepStart)}
    start = results.WorkflowStepStart(**{**others, "outcome": outcome})
    assert start.execute is execute


def test_mypy_sees_the_signatures(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            from datetime import datetime
            from psycopg import AsyncConnection, Connection
            import stepquota
            import stepquota.aio

            async def right(c: Connection[dict[str, int]], a: AsyncConnection) -> int | None:
                stepquota.start_workflow_step(c, 1, "r", "p", attempt=2, delivery=None)
                start = await stepquota.aio.start_workflow_step(a, "t", "r", node_path="p")
                if start.execute and start.outcome == "already_started":
                    return start.effective_limit
                pause = stepquota.workflow_run_quota_pause(c, "t", "r")
                rows: tuple[stepquota.StatusItem, ...] = stepquota.status(c)
                return pause.used_count if pause else len(rows)

            def wrong(c: Connection, a: AsyncConnection) -> None:
                stepquota.reserve_workflow_step(c, 1.5)  # 19
                stepquota.start_workflow_step(c, "t", "r")  # 20
                stepquota.start_workflow_step(c, "t", "r", "p", attemp=2)  # 21
                stepquota.reserve_workflow_step(a, "t")  # 22
                stepquota.aio.reserve_workflow_step(c, "t")  # 23
                stepquota.finish_workflow_run(c, "t", "r", "DONE")  # 24
                limit: int = stepquota.resolve_workflow_step_quota(c, "t").effective_limit  # 25
                if stepquota.register_workflow_run(c, "t", "r").status == "running":  # 26
                    pass
                stepquota.reserve_workflow_step(c, "t").used_count = 1  # 27
            """
        ).lstrip()
    )
    expected = [
        number for number, line in enumerate(program.read_text().splitlines(), 1) if "  # " in line
    ]
    package = Path(stepquota.__file__).parent
    completed = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--no-error-summary",
            "--hide-error-context", "--cache-dir", str(tmp_path / "cache"), str(program),
        ],
        # mypy finds an installed package by itself, and a clone when it is told where.
        env={} if "site-packages" in str(package) else {"MYPYPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    reported = {
        int(line.split(":")[1]) for line in completed.stdout.splitlines() if ": error" in line
    }
    assert sorted(reported) == expected, completed.stdout + completed.stderr
