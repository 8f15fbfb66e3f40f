"""Who asks: by the session that a signed link has opened, or by the header of a trusted proxy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

from .settings import Settings
from .tokens import Signer, Untrusted

Kind = Literal["operator", "tenant"]


@dataclass(frozen=True)
class Identity:
    """Somebody who may see something.

    Attributes:
        kind: An operator, or the admin of a tenant.
        name: The operator's name, or the tenant.
        is_by_header: Whether a proxy vouches for it, so that there is nothing to sign out of.
    """

    kind: Kind
    name: str
    is_by_header: bool = False


class Refused(Exception):
    """Somebody who may not.

    Args:
        status: The HTTP status.
        what: What is wrong, in a sentence.
        hint: What to do.
    """

    def __init__(self, status: int, what: str, hint: str = ""):
        super().__init__(what)
        self.status = status
        self.what = what
        self.hint = hint


class Doorkeeper:
    """Tells who a request is from, and whether a form is one of ours.

    Args:
        settings: Whom to trust.
    """

    def __init__(self, settings: Settings):
        self.signer = Signer(settings.secrets)
        self._settings = settings
        # The prefix has browsers refuse a cookie that another host of the domain has set.
        self.cookie = "__Host-stepquota" if settings.is_secure else "stepquota"

    def identify(self, request: Request) -> Identity:
        """Who asks.

        Raises:
            Refused: Nobody we know: 401, or a header that names several: 400.
        """
        found = self._by_header(request) or self._by_session(request)
        if found is None:
            raise Refused(
                401,
                "You are not signed in, or your session is over.",
                "Open the link that you were given, or ask for a new one.",
            )
        return found

    def identify_by_link(self, request: Request) -> Identity:
        """The same for a tenant's card, which a link may show without a session."""
        if token := request.query_params.get("token") or _bearer(request):
            return self.read_link(token)
        return self.identify(request)

    def read_link(self, token: str | None) -> Identity:
        """Whom a link is for.

        Raises:
            Refused: It is not one of ours, or its time is over.
        """
        try:
            value = self.signer.read("link", token)
        except Untrusted:
            raise Refused(
                401, "This link is not valid, or not any more.", "Ask for a new one."
            ) from None
        return Identity(value["kind"], value["name"])

    def link_ends(self, token: str | None) -> float:
        """When a link's time is over, in seconds since 1970."""
        return float(self.signer.read("link", token)["until"])

    def sign_form(self, identity: Identity) -> str:
        """A token for a form of this page, for this person."""
        return self.signer.sign(
            "form",
            {"kind": identity.kind, "name": identity.name},
            self._settings.session_seconds,
        )

    def check_form(self, request: Request, identity: Identity, token: str | None) -> None:
        """Whether a form was sent by this page, and by the person who got it.

        Raises:
            Refused: It was not.
        """
        try:
            value = self.signer.read("form", token)
        except Untrusted:
            value = {}
        # Browsers say where a request comes from; what says nothing has no cookies of a browser.
        is_from_here = request.headers.get("sec-fetch-site", "same-origin") == "same-origin"
        if not is_from_here or (value.get("kind"), value.get("name")) != (
            identity.kind,
            identity.name,
        ):
            raise Refused(
                403,
                "This form was not sent from this page, or it is too old.",
                "Go back, load the page again, and try again.",
            )

    def _by_header(self, request: Request) -> Identity | None:
        settings = self._settings
        found = []
        for kind, header in (
            ("operator", settings.operator_header),
            ("tenant", settings.tenant_header),
        ):
            values = request.headers.getlist(header) if header else []
            found += [(kind, value.strip()) for value in values if value.strip()]
        if not found or not settings.trusts(request.client.host if request.client else None):
            return None
        if len(found) > 1:
            raise Refused(
                400,
                "The proxy names more than one person.",
                "It must replace headers that a browser sends, not add to them.",
            )
        kind, name = found[0]
        # HTTP's headers are Latin-1 for the library; proxies send UTF-8.
        name = name.encode("latin-1").decode("utf-8", "replace")
        return Identity("operator" if kind == "operator" else "tenant", name, True)

    def _by_session(self, request: Request) -> Identity | None:
        try:
            value = self.signer.read("session", request.cookies.get(self.cookie))
        except Untrusted:
            return None
        return Identity(value["kind"], value["name"])


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
