"""Workflows that the kit has an engine carry out: a few nodes, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """A step that calls :func:`stepquota.testing.perform`.

    Attributes:
        path: the node path.
        failures: how many of its attempts fail before one succeeds.
    """

    path: str
    failures: int = 0


@dataclass(frozen=True)
class ForEach:
    """A step that counts itself and then does each item as a step of its own.

    Attributes:
        path: the node path.
        items: how many; their paths are those of :attr:`item_paths`.
    """

    path: str
    items: int

    @property
    def item_paths(self) -> tuple[str, ...]:
        """The paths of the items' steps, in order."""
        return tuple(f"{self.path}.body[{number}].steps[0]" for number in range(self.items))


@dataclass(frozen=True)
class Event:
    """A step that waits for the event of its path: it counts once, when it is entered."""

    path: str


Node = Work | ForEach | Event
Script = tuple[Node, ...]

_NODES: dict[str, type[Work] | type[ForEach] | type[Event]] = {
    "work": Work,
    "forEach": ForEach,
    "event": Event,
}


def write_script(script: Iterable[Node]) -> list[dict[str, Any]]:
    """The script as JSON, which every engine can take as a workflow's input."""
    names = {class_: name for name, class_ in _NODES.items()}
    return [{"node": names[type(node)], **asdict(node)} for node in script]


def read_script(nodes: Iterable[dict[str, Any]]) -> Script:
    """The script of what :func:`write_script` made."""
    return tuple(
        _NODES[node["node"]](**{name: value for name, value in node.items() if name != "node"})
        for node in nodes
    )
