"""A socket to serve at."""

from __future__ import annotations

import socket

from .problems import Problem


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: The address or the name of one.
        port: The port; 0 is any that is free.

    Raises:
        Problem: It cannot be had, for instance since another program has the port.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise Problem(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            "choose another with --host and --port",
        ) from error
    return listener
