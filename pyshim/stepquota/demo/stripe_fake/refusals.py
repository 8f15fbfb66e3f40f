"""Answers that are errors, in Stripe's shape."""

from __future__ import annotations

from typing import Any

_DOCS = "https://stripe.com/docs/error-codes/"


class Refusal(Exception):
    """An answer that is an error.

    Attributes:
        status: The HTTP status.
        headers: Headers beside the usual ones.
        body: What the answer says.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        error: dict[str, Any] = {"message": message, "type": kind}
        if code:
            error |= {"code": code, "doc_url": _DOCS + code.replace("_", "-")}
        if param:
            error["param"] = param
        self.body = {"error": error}


def no_such(kind: str, id: str, param: str = "id", status: int = 404) -> Refusal:
    """There is no object with this id, or not for this key."""
    return Refusal(status, f"No such {kind}: '{id}'", code="resource_missing", param=param)


def invalid_key(key: str) -> Refusal:
    """The key is nobody's."""
    if not key:
        return Refusal(
            401,
            "You did not provide an API key. You need to provide your API key in the Authorization "
            "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        )
    return Refusal(401, f"Invalid API Key provided: {key[:8]}{'*' * 12}{key[-4:]}")


def by_status(status: int, retry_after: int | None = None) -> Refusal:
    """What Stripe says with a status, whatever the request was."""
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    if status == 429:
        headers["Stripe-Rate-Limited-Reason"] = "global-rate"
        return Refusal(
            429,
            "Request rate limit exceeded. Learn more about rate limits at "
            "https://stripe.com/docs/rate-limits.",
            code="rate_limit",
            headers=headers,
        )
    if status == 401:
        return invalid_key("sk_test_revoked")
    if status == 403:
        return Refusal(
            403,
            "The provided key 'rk_test_************' does not have the required permissions for "
            "this endpoint.",
            code="more_permissions_required",
            headers=headers,
        )
    if status == 404:
        return Refusal(404, "No such object", code="resource_missing", param="id", headers=headers)
    if status >= 500:
        return Refusal(status, "An unknown error occurred", kind="api_error", headers=headers)
    return Refusal(status, f"Refused with status {status}", headers=headers)
