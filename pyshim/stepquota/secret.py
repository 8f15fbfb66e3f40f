"""Secrets, from the environment or from files; never from arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .problems import Problem


class Secret:
    """A text that is not shown: neither by print, nor in a log or a traceback."""

    __slots__ = ("_value",)

    def __init__(self, value: str):
        self._value = value

    def reveal(self) -> str:
        """The text itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"


def read_secret(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text of a variable, or of the file that ``name``_FILE names; empty if there is neither.

    Raises:
        Problem: The file cannot be read.
    """
    if value := environment.get(name, "").strip():
        return value
    if not (file := environment.get(f"{name}_FILE", "")):
        return ""
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{name}_FILE cannot be read: {type(error).__name__}: {file}") from error
