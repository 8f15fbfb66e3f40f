"""Signed texts: links, sessions, the tokens of forms, and answers that are shown once.

Each has a purpose, which is part of what is signed, so that one kind never passes for another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any, Literal

from ..secret import Secret

Purpose = Literal["link", "session", "form", "answer"]


class Untrusted(Exception):
    """A text that was not signed by us, was changed, is for something else, or is too old."""


class Signer:
    """Signs values and reads them again.

    Args:
        secrets: The first one signs; what any of them has signed is read.
    """

    def __init__(self, secrets: Sequence[Secret]):
        self._keys = [secret.reveal().encode() for secret in secrets]

    def sign(self, purpose: Purpose, value: dict[str, Any], seconds: float) -> str:
        """A value as a text that is valid for so many seconds."""
        body = _encode(
            json.dumps(
                {**value, "until": int(time.time() + seconds)}, separators=(",", ":")
            ).encode()
        )
        return f"{body}.{_encode(_digest(self._keys[0], purpose, body))}"

    def read(self, purpose: Purpose, text: str | None) -> dict[str, Any]:
        """The value of a signed text.

        Raises:
            Untrusted: It is not one, was changed, is for another purpose, or its time is over.
        """
        body, _, signature = (text or "").partition(".")
        try:
            given = _decode(signature)
        except (binascii.Error, ValueError):
            raise Untrusted("not a signature") from None
        if not any(hmac.compare_digest(given, _digest(key, purpose, body)) for key in self._keys):
            raise Untrusted("not signed by us")
        value: dict[str, Any] = json.loads(_decode(body))
        if value["until"] <= time.time():
            raise Untrusted("too old")
        return value


def _digest(key: bytes, purpose: Purpose, body: str) -> bytes:
    return hmac.digest(key, f"stepquota page {purpose}\n{body}".encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
