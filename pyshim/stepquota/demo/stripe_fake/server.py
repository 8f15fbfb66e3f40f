"""Serves fakes on a port of this machine, as long as a ``with`` block lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug import Request
from werkzeug.serving import WSGIRequestHandler, make_server

from .api import Api
from .fake import StripeFake


class _Handler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(*fakes: StripeFake, port: int = 0) -> Iterator[str]:
    """Serve the API of one or several fakes, told apart by their keys.

    Args:
        fakes: The fakes.
        port: The port; 0 takes a free one.

    Yields:
        The base address: ``StripeClient(key, base_addresses={"api": address})``.
    """
    application = Request.application(Api(*fakes).answer)
    server = make_server("127.0.0.1", port, application, threaded=True, request_handler=_Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
