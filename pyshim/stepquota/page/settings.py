"""What the page is told at its start."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from ..problems import Problem
from ..secret import Secret, read_secret

SECRET = "STEPQUOTA_PAGE_SECRET"  # noqa: S105 - the name of the variable
_LEAST_SECRET = 32
_HEADER = re.compile(r"[A-Za-z0-9-]+")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:\d+)?|https?://\[[0-9a-f:]+\](:\d+)?")


@dataclass(frozen=True)
class Settings:
    """How the page knows who asks, and who may show it.

    Attributes:
        secrets: They sign links and sessions.
        public_url: Where browsers find the page, without a slash at its end.
        operator_header: A header of a proxy that names an operator; None trusts none.
        tenant_header: A header of a proxy that names the tenant of an admin; None trusts none.
        proxies: The networks from which these headers are taken.
        embed_in: Origins whose pages may show or read a tenant's card.
        session_seconds: How long a session lasts that a link has opened.
    """

    secrets: Sequence[Secret]
    public_url: str
    operator_header: str | None = None
    tenant_header: str | None = None
    proxies: Sequence[IPv4Network | IPv6Network] = ()
    embed_in: Sequence[str] = ()
    session_seconds: float = 8 * 3600
    root: str = field(init=False)
    is_secure: bool = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.public_url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
            raise Problem(
                f"the public URL {self.public_url} is not one",
                "it should read https://host or https://host/path",
            )
        object.__setattr__(self, "root", parts.path.rstrip("/"))
        object.__setattr__(self, "is_secure", parts.scheme == "https")
        for header in (self.operator_header, self.tenant_header):
            if header is not None and not _HEADER.fullmatch(header):
                raise Problem(f"{header} is not the name of a header")
        if (self.operator_header or self.tenant_header) and not self.proxies:
            raise Problem(
                "a header is to be trusted, but from nobody",
                "name the proxy's address with --trusted-proxy; only what comes from there counts",
            )
        for origin in self.embed_in:
            if not _ORIGIN.fullmatch(origin):
                raise Problem(
                    f"{origin} is not an origin", "it should read https://host, without a path"
                )

    def trusts(self, address: str | None) -> bool:
        """Whether headers from this address are a proxy's."""
        try:
            peer = ip_address(address or "")
        except ValueError:
            return False
        return any(peer in network for network in self.proxies)


def read_secrets() -> tuple[Secret, ...]:
    """The secrets from STEPQUOTA_PAGE_SECRET or its file; the first signs.

    Raises:
        Problem: There is none, or one is too short.
    """
    found = re.split(r"[\s,]+", read_secret(SECRET).strip())
    hint = "for instance: openssl rand -hex 32"
    if not found[0]:
        raise Problem(
            "there is no secret to sign links and sessions with",
            f"set {SECRET}, or {SECRET}_FILE to the name of a file that has it; {hint}",
        )
    if any(len(secret) < _LEAST_SECRET for secret in found):
        raise Problem(f"{SECRET} is too short", f"at least {_LEAST_SECRET} characters; {hint}")
    return tuple(Secret(secret) for secret in found)


def read_networks(texts: Sequence[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks.

    Raises:
        Problem: One is neither.
    """
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise Problem(
            f"--trusted-proxy: {error}", "write an address, or a network as 10.0.0.0/8"
        ) from None
