"""Keys and secrets, from the environment or from files; never from arguments."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..problems import Problem
from ..secret import Secret, read_secret

API_BASE = "STRIPE_API_BASE"
_KEY = re.compile(r"(?:sk|rk)_(live|test)_\w+")
_SECRETS = re.compile(r"\b(?:sk|rk|pk|whsec)_\w+")


@dataclass(frozen=True)
class ApiSettings:
    """How to reach Stripe's API.

    Attributes:
        key: The API key.
        livemode: Whether it is a key of the live mode.
        base: Another address than Stripe's own, for tests.
    """

    key: Secret
    livemode: bool
    base: str | None = field(default=None)


def read_api_settings(environment: Mapping[str, str] = os.environ) -> ApiSettings:
    """The API key from STRIPE_API_KEY or from the file that STRIPE_API_KEY_FILE names.

    Raises:
        Problem: There is none, or it is no secret or restricted key.
    """
    key = read_secret("STRIPE_API_KEY", environment)
    if not key:
        raise Problem(
            "there is no Stripe API key",
            "set STRIPE_API_KEY, or STRIPE_API_KEY_FILE to the name of a file that has it",
        )
    match = _KEY.fullmatch(key)
    if not match:
        raise Problem(
            "the Stripe API key is not one",
            "it begins with rk_ or sk_, and test_ or live_ after that",
        )
    return ApiSettings(Secret(key), match[1] == "live", environment.get(API_BASE) or None)


def read_webhook_secrets(environment: Mapping[str, str] = os.environ) -> tuple[Secret, ...]:
    """The signing secrets of the endpoints, from STRIPE_WEBHOOK_SECRETS or its file.

    Raises:
        Problem: There is none, or one is no signing secret.
    """
    text = read_secret("STRIPE_WEBHOOK_SECRETS", environment)
    secrets = re.split(r"[\s,]+", text) if text else []
    if not secrets:
        raise Problem(
            "there is no signing secret",
            "set STRIPE_WEBHOOK_SECRETS to the endpoint's secret, several separated by commas, "
            "or STRIPE_WEBHOOK_SECRETS_FILE to the name of a file with one a line",
        )
    if not all(secret.startswith("whsec_") for secret in secrets):
        raise Problem(
            "a signing secret is not one", "it begins with whsec_; it is shown at the endpoint"
        )
    return tuple(Secret(secret) for secret in secrets)


def redact(text: str) -> str:
    """The text without anything that looks like a key or a secret."""
    return _SECRETS.sub("***", text)
