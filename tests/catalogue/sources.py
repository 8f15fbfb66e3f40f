"""The functions in sql/, read from their sources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SQL_FILES = sorted((ROOT / "sql").glob("*.sql"))

_ROUTINE = re.compile(
    r"create or replace (?P<kind>function|procedure) stepquota\.(?P<name>\w+)\("
    r"(?P<header>.*?)\bas \$(?P<tag>\w*)\$(?P<body>.*?)\$(?P=tag)\$;",
    re.DOTALL,
)
_COMMENT = re.compile(r"--[^\n]*")
_LITERAL = re.compile(r"'(?:[^']|'')*'")


@dataclass(frozen=True)
class Routine:
    """A function or procedure of ours.

    Attributes:
        file: The file's name.
        name: Its name, without the schema.
        header: What stands between its name and its body.
        tag: The name between the body's dollar signs.
        body: Its body.
    """

    file: str
    name: str
    header: str
    tag: str
    body: str

    @property
    def is_volatile(self) -> bool:
        """Whether PostgreSQL takes it for volatile."""
        return not re.search(r"\b(stable|immutable)\b", strip(self.header))

    def statements(self) -> Iterator[str]:
        """Its statements and expressions, without comments and literals, in one line each."""
        for statement in strip(self.body).split(";"):
            yield " ".join(statement.split())


def strip(text: str) -> str:
    """The text without comments, and with empty literals."""
    return _LITERAL.sub("''", _COMMENT.sub("", text))


def routines() -> list[Routine]:
    """All functions and procedures of sql/."""
    return [
        Routine(path.name, m["name"], m["header"], m["tag"], m["body"])
        for path in SQL_FILES
        for m in _ROUTINE.finditer(path.read_text(encoding="utf-8"))
    ]
