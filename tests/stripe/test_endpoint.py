"""The endpoint as Stripe meets it: what is answered, and that nothing answered 200 is ever lost."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import requests
import stripe

from harness.databases import Database
from stepquota.demo.stripe_fake import Courier, Mishaps, StripeFake

from .conftest import SECRET, SyncProcess, limit_of, subscribe, wait_until

Start = Callable[..., SyncProcess]


def event(id: str = "evt_1", **changes: Any) -> dict[str, Any]:  # noqa: A002
    return {
        "id": id,
        "object": "event",
        "type": "price.updated",
        "created": 1775000000,
        "livemode": False,
        "data": {"object": {"id": "price_1", "object": "price"}},
        **changes,
    }


def post(
    url: str,
    body: bytes | dict[str, Any],
    secret: str = SECRET,
    signature: str | None = None,
    age: int = 0,
) -> requests.Response:
    if isinstance(body, dict):
        body = json.dumps(body).encode()
    if signature is None:
        signature = stripe.WebhookSignature.generate_signature_header(
            body.decode(errors="replace"), secret, int(time.time()) - age
        )
    return requests.post(url, body, headers={"Stripe-Signature": signature}, timeout=20)


def stored(connection: psycopg.Connection) -> dict[str, str]:
    return dict(connection.execute("select id, status from stepquota.stripe_events").fetchall())


def test_what_is_answered(start: Start, owner: psycopg.Connection) -> None:
    serve = start("serve", "--port", "0")
    url = serve.url
    good = json.dumps(event()).encode()

    # 400, and nothing is written.
    assert post(url, good, secret="whsec_wrong").status_code == 400
    assert post(url, good, age=301).status_code == 400
    assert post(url, good, signature="nonsense").status_code == 400
    assert requests.post(url, good, timeout=20).status_code == 400
    signature = stripe.WebhookSignature.generate_signature_header(good.decode(), SECRET)
    assert post(url, good.replace(b"evt_1", b"evt_2"), signature=signature).status_code == 400
    for body in (b"", b"{", b"[]", b"5", b'"x"', b"{}", b'{"object": "event"}', b"[" * 100_000):
        assert post(url, body).status_code == 400, body[:20]
    assert post(url, event(object="price")).status_code == 400
    assert post(url, {**event(), "id": 5}).status_code == 400
    assert post(url, b"\xff\xfe").status_code == 400
    assert post(url, event(created="yesterday")).status_code == 400
    assert post(url, event(id="x" * 300)).status_code == 400
    assert requests.get(url, timeout=20).status_code == 405
    assert stored(owner) == {}

    # 200: stored once; what does not concern us is ignored, or Stripe would repeat it for days.
    assert post(url, good).status_code == 200
    assert post(url, good).status_code == 200
    assert post(url, event("evt_old_secret"), secret="whsec_other").status_code == 200
    assert post(url, event("evt_future"), age=-100).status_code == 200
    assert post(url, event("evt_type", type="invoice.paid")).status_code == 200
    assert post(url, event("evt_connect", account="acct_else")).status_code == 200
    assert post(url, event("evt_odd", data={"object": []})).status_code == 200
    thin = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.customer.subscription.updated",
        "created": "2026-11-25T10:00:00.000Z",
        "livemode": False,
        "related_object": {"id": "sub_1", "type": "subscription", "url": "/v1/subscriptions/sub_1"},
    }
    assert post(url, thin).status_code == 200
    assert stored(owner) == {
        "evt_1": "pending",
        "evt_old_secret": "pending",
        "evt_future": "pending",
        "evt_type": "ignored",
        "evt_connect": "ignored",
        "evt_odd": "ignored",
        "evt_thin": "pending",
    }
    assert owner.execute(
        "select source, object_type, object_id, created_at = '2026-11-25T10:00Z'"
        " from stepquota.stripe_events where id = 'evt_thin'"
    ).fetchone() == ("thin", "subscription", "sub_1", True)

    # Once the mode is known, the other one is foreign.
    owner.execute("select stepquota.bind_stripe_mirror('acct_fake', false, 'v')")
    assert post(url, event("evt_live", livemode=True)).status_code == 200
    assert stored(owner)["evt_live"] == "ignored"

    assert requests.get(url.replace("/stripe/webhook", "/health"), timeout=20).json() == {
        "ok": True,
        "trouble": None,
    }
    assert serve.end() == 128 + signal.SIGTERM
    assert "price_1" not in serve.output


def test_large_and_slow_bodies(start: Start, owner: psycopg.Connection) -> None:
    url = start("serve", "--port", "0").url
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    large = event("evt_large", padding="x" * (1024 * 1024))
    assert post(url, large).status_code == 413
    almost = event("evt_almost", padding="x" * (1024 * 1024 - 1000))
    assert post(url, almost).status_code == 200

    # Without a declared length it is cut off as it comes.
    def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 65536

    with suppress(requests.ConnectionError):  # it may be closed while we are still sending
        assert requests.post(url, data=pieces(), timeout=20).status_code == 413
    # Many clients that send nothing, or a byte now and then, keep nobody waiting.
    slow = [socket.create_connection((place.hostname, place.port)) for _ in range(100)]
    try:
        for client in slow[:50]:
            client.sendall(
                b"POST /stripe/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
            )
        began = time.monotonic()
        assert post(url, event("evt_prompt")).status_code == 200
        assert time.monotonic() - began < 2
        # And are cut off after five seconds.
        slow[0].settimeout(20)
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")
    finally:
        for client in slow:
            client.close()
    assert set(stored(owner)) == {"evt_almost", "evt_prompt"}


def test_a_hundred_at_once(start: Start, owner: psycopg.Connection) -> None:
    url = start("serve", "--port", "0").url
    # Each twice.
    bodies = [event(f"evt_{number % 100}") for number in range(200)]
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda body: post(url, body).status_code, bodies))
    assert set(answers) == {200}
    assert len(stored(owner)) == 100


def test_without_the_database_stripe_is_asked_to_try_again(
    start: Start, database: Database, owner: psycopg.Connection
) -> None:
    serve = start("serve", "--port", "0")
    url = serve.url
    assert post(url, event("evt_before")).status_code == 200
    name = database.name
    database.server.run(f"alter database {name} allow_connections false")
    try:
        database.server.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            f" where datname = '{name}' and application_name = 'stepquota stripe serve'"
        )
        answer = post(url, event("evt_during"))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert (
            requests.get(url.replace("/stripe/webhook", "/health"), timeout=20).status_code == 503
        )
    finally:
        database.server.run(f"alter database {name} allow_connections true")
    assert post(url, event("evt_during")).status_code == 200
    # A connection that was cut while idle costs nobody a 503.
    database.server.run(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        f" where datname = '{name}' and application_name = 'stepquota stripe serve'"
    )
    assert post(url, event("evt_after")).status_code == 200
    assert set(stored(owner)) == {"evt_before", "evt_during", "evt_after"}


def test_a_process_killed_after_any_byte_loses_nothing(
    start: Start, owner: psycopg.Connection
) -> None:
    serve = start("serve", "--port", "0")
    place = urlsplit(serve.url)
    assert place.hostname
    assert place.port
    acknowledged = set()
    for number in range(12):
        body = json.dumps(event(f"evt_{number}")).encode()
        signature = stripe.WebhookSignature.generate_signature_header(body.decode(), SECRET)
        request = (
            f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n"
            f"Stripe-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        with socket.create_connection((place.hostname, place.port)) as client:
            # The last ones are whole, and the process dies while it stores them.
            client.sendall(request[: len(request) * (number + 1) // 8])
            if number < 7:
                continue
            if number == 11:
                serve.process.kill()
            try:
                answer = client.recv(1000)
            except ConnectionError:
                continue
            if answer.startswith(b"HTTP/1.1 200"):
                acknowledged.add(f"evt_{number}")
    assert len(acknowledged) >= 4
    assert acknowledged <= set(stored(owner))
    # What was not answered is sent again.
    url = start("serve", "--port", "0").url
    for number in range(12):
        assert post(url, event(f"evt_{number}")).status_code == 200
    assert len(stored(owner)) == 12


def test_from_a_delivery_to_the_limit(
    start: Start, fake: StripeFake, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme", "500")
    run = start("run", "--port", "0")
    fake.add_endpoint(run.url, SECRET)
    fake.add_endpoint(run.url, SECRET, is_thin=True)
    run.wait_for("full sync done")
    assert limit_of(owner, "acme") == 500
    fake.update_price("price_acme", metadata={"workflow_step_limit": "900"})
    mishaps = Mishaps(duplicate=0.5, shuffle=True)
    assert {d.status for d in Courier(fake, mishaps, seed=1).deliver()} == {200}
    wait_until(lambda: limit_of(owner, "acme") == 900)
    assert requests.get(run.url.replace("/stripe/webhook", "/health"), timeout=20).json()["ok"]
    assert run.end() == 128 + signal.SIGTERM
    assert "Traceback" not in run.output


@pytest.mark.parametrize("variable", ["STRIPE_WEBHOOK_SECRETS", "STRIPE_API_KEY"])
def test_what_is_missing_is_said(start: Start, variable: str) -> None:
    run = start("run", "--port", "0", **{variable: ""})
    assert run.process.wait(20) == 1
    run.wait_for(rf"hint: set {variable}")
