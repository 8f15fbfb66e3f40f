"""What went wrong for the person at the command line."""

from __future__ import annotations


class Problem(Exception):
    """Something that the person who called can put right.

    Args:
        what: One line: what happened, and with which value. Never a password.
        hint: What to do about it.
    """

    def __init__(self, what: str, hint: str = ""):
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what
