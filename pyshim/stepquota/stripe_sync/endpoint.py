"""The endpoint that Stripe delivers events to.

A delivery is answered 200 only when its event's id is committed. Deliveries that arrive at the same
time share a commit: what queued up while one was under way is the next.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import stripe
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..database_url import Parameters, one_line
from ..errors import StepquotaError
from ..execution import carry_out_async
from ..secret import Secret
from .api import Object
from .catch_up import read_event
from .mirror import RecordedEvent, Source, record_events

log = logging.getLogger(__name__)

PATH = "/stripe/webhook"
BODY_LIMIT = 1024 * 1024
BODY_SECONDS = 5.0
"""How long a delivery's body may take to arrive."""
STORE_SECONDS = 8.0
"""How long storing may take before 503 is answered; Stripe waits for longer."""
TOLERANCE = 300
"""Seconds that a signature may be old."""
BATCH = 500


class _Refusal(Exception):
    """A delivery that is answered without storing anything."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = reason


class _Unstored(psycopg.OperationalError):
    """Something unforeseen kept events from being stored."""


class EventStore:
    """Stores events for many deliveries at once, on one connection that it renews when it is lost.

    Args:
        parameters: The database's connection parameters.
        on_stored: Called when there are new events to work off.
    """

    def __init__(self, parameters: Parameters, on_stored: Callable[[], None] = lambda: None):
        self._parameters = {
            "connect_timeout": 5,
            "application_name": "stepquota stripe serve",
            **parameters,
        }
        self._on_stored = on_stored
        self._waiting: asyncio.Queue[tuple[Source, Object, asyncio.Future[str]]] = asyncio.Queue()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def store(self, source: Source, event: Object) -> str:
        """Store one event; it is committed when this returns.

        Returns:
            pending, ignored or duplicate.

        Raises:
            psycopg.Error: It was not stored, or nothing is known of it.
        """
        stored: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        await self._waiting.put((source, event, stored))
        return await stored

    async def run(self) -> None:
        """Store what is waiting, until cancelled."""
        try:
            while True:
                batch = [await self._waiting.get()]
                while len(batch) < BATCH and not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                try:
                    await self._store_batch(batch)
                except Exception as error:
                    # The next ones must still be stored, whatever was wrong with these.
                    log.exception("events cannot be stored")
                    _fail([(event, stored) for _, event, stored in batch], _Unstored(str(error)))
        finally:
            await self._disconnect()

    async def is_reachable(self) -> bool:
        """Whether the database answers."""
        try:
            async with asyncio.timeout(STORE_SECONDS):
                connection = await psycopg.AsyncConnection.connect(**self._parameters)
                await connection.close()
        except (psycopg.Error, OSError, TimeoutError):
            return False
        return True

    async def _store_batch(self, batch: list[tuple[Source, Object, asyncio.Future[str]]]) -> None:
        for source in ("webhook", "thin"):
            part = [(event, stored) for kind, event, stored in batch if kind == source]
            if part:
                await self._store_part(source, part)

    async def _store_part(
        self, source: Source, part: list[tuple[Object, asyncio.Future[str]]]
    ) -> None:
        try:
            outcomes = await self._record([event for event, _ in part], source)
        except StepquotaError as error:
            if len(part) == 1:
                _fail(part, error)
                return
            # One of them is not as the others: each by itself.
            for single in part:
                await self._store_part(source, [single])
            return
        except (psycopg.Error, OSError) as error:
            log.error("events cannot be stored: %s", one_line(error, self._parameters))
            await self._disconnect()
            _fail(part, error)
            return
        except asyncio.CancelledError:
            _fail(part, psycopg.OperationalError("the endpoint is stopping"))
            raise
        for (_, stored), outcome in zip(part, outcomes, strict=True):
            if not stored.done():
                stored.set_result(outcome.outcome)
        if any(outcome.outcome == "pending" for outcome in outcomes):
            self._on_stored()

    async def _record(self, events: list[Object], source: Source) -> tuple[RecordedEvent, ...]:
        async with asyncio.timeout(STORE_SECONDS):
            # A connection that was idle may have been cut meanwhile: once more on a new one.
            for is_new in (self._connection is None, True):
                if self._connection is None:
                    self._connection = await psycopg.AsyncConnection.connect(
                        **self._parameters, autocommit=True
                    )
                try:
                    answer: tuple[RecordedEvent, ...] = await carry_out_async(
                        self._connection, record_events(events, source)
                    )
                except psycopg.OperationalError:
                    if is_new or not self._connection.closed:
                        raise
                    self._connection = None
                else:
                    return answer
        raise AssertionError("unreachable")

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                await connection.close()


def _fail(part: Sequence[tuple[Object, asyncio.Future[str]]], error: BaseException) -> None:
    for _, stored in part:
        if not stored.done():
            stored.set_exception(error)


def make_endpoint(
    parameters: Parameters,
    secrets: Sequence[Secret],
    *,
    path: str = PATH,
    on_stored: Callable[[], None] = lambda: None,
    find_trouble: Callable[[], str | None] = lambda: None,
) -> Starlette:
    """The application: POST of events to ``path``, GET of ``/health``.

    Args:
        parameters: The database's connection parameters.
        secrets: Signing secrets; a delivery may be signed with any of them.
        path: Where Stripe delivers to.
        on_stored: Called when there are new events to work off.
        find_trouble: What keeps the rest of the process from working, for ``/health``.
    """
    store = EventStore(parameters, on_stored)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(store.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def receive(request: Request) -> Response:
        try:
            body = await _read_body(request)
            source, event = _verify(body, request.headers.get("stripe-signature"), secrets)
            async with asyncio.timeout(STORE_SECONDS + 2):
                await store.store(source, event)
        except _Refusal as refusal:
            # Never the body: it is personal data, and may be anything.
            log.warning("delivery refused with %s: %s", refusal.status, refusal.reason)
            return PlainTextResponse(refusal.reason, refusal.status)
        except ClientDisconnect:
            return PlainTextResponse("", 400)
        except StepquotaError as error:
            log.warning("delivery refused with 400: %s", error.message)
            return PlainTextResponse("not an event", 400)
        except (psycopg.Error, OSError, TimeoutError):
            return PlainTextResponse("not stored, try again", 503, {"Retry-After": "5"})
        return PlainTextResponse("", 200)

    async def health(_request: Request) -> Response:
        trouble = find_trouble()
        if trouble is None and not await store.is_reachable():
            trouble = "the database does not answer"
        return JSONResponse(
            {"ok": trouble is None, "trouble": trouble}, 200 if trouble is None else 503
        )

    return Starlette(
        routes=[
            Route(path, receive, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )


async def _read_body(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > BODY_LIMIT:
        raise _Refusal(413, "the body is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_LIMIT:
                    raise _Refusal(413, "the body is too large")
    except TimeoutError:
        raise _Refusal(408, "the body took too long") from None
    return bytes(body)


def _verify(body: bytes, signature: str | None, secrets: Sequence[Secret]) -> tuple[Source, Object]:
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(body, signature, secret.reveal(), TOLERANCE)
        except stripe.SignatureVerificationError:
            continue
        except ValueError:
            raise _Refusal(400, "the body is not UTF-8") from None
        break
    else:
        raise _Refusal(400, "no valid signature" if signature else "no signature")
    try:
        event = json.loads(body)
        if not isinstance(event, dict):
            raise ValueError("not an object")
        envelope = read_event(event)
    except (ValueError, RecursionError):
        raise _Refusal(400, "not an event") from None
    return ("webhook" if event["object"] == "event" else "thin"), envelope
