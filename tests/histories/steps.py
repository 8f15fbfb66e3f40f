"""What may be done next, drawn evenly.

Hypothesis switches most rules of a state machine off in each history. That finds odd ones among
thousands; among the few that a usual run has time for, most would do next to nothing. So a machine
has one rule, and these are its alternatives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

Function = TypeVar("Function", bound=Callable[..., None])
Step = tuple[str, dict[str, Any]]


def step(
    *, often: int = 1, when: Callable[[Any], bool] | None = None, **arguments: Any
) -> Callable[[Function], Function]:
    """Marks a method as a step.

    Args:
        often: How many times as often as others it is drawn.
        when: Whether it can be done now.
        arguments: A strategy for each of its parameters.
    """

    def mark(function: Function) -> Function:
        # Each a strategy of its own: of one and the same, one_of takes it once.
        drawn = [
            st.tuples(st.just(function.__name__), st.fixed_dictionaries(arguments))
            for _ in range(often)
        ]
        function.step = (drawn, when)  # type: ignore[attr-defined]
        return function

    return mark


def next_steps(machine: Any) -> st.SearchStrategy[Step]:
    """One of the steps that can be done now."""
    steps: list[st.SearchStrategy[Step]] = []
    for name in dir(type(machine)):
        drawn, when = getattr(getattr(type(machine), name), "step", ([], None))
        if when is None or when(machine):
            steps += drawn
    return st.one_of(steps)
