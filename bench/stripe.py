"""Measures of the Stripe sync: ``python -m bench.stripe``, or ``make bench-stripe``.

Against a Stripe in memory and a PostgreSQL with durable commits, both on this machine, so that
Stripe's answers cost the same processors as the sync.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import psycopg
import requests
import stripe
import typer

from stepquota.demo.stripe_fake import Courier, StripeFake, serve
from stepquota.migrate import migrate
from stepquota.server import LocalServer

KEY, SECRET = "sk_test_bench", "whsec_bench"
_MEASURES = "sync,shared,accept,force"


def main(
    only: Annotated[str, typer.Option(help=f"Some of {_MEASURES}.")] = _MEASURES,
    subscriptions: Annotated[int, typer.Option(min=100, help="How many there are.")] = 100_000,
    seconds: Annotated[float, typer.Option(min=1, help="How long events are sent.")] = 10,
    connections: Annotated[int, typer.Option(min=1, help="That deliver events at once.")] = 32,
    changes: Annotated[int, typer.Option(min=10, help="Changes of limits that are timed.")] = 200,
    data: Annotated[
        Path | None, typer.Option(help="An empty folder on a real disk, for the database.")
    ] = None,
) -> None:
    """Measure the Stripe sync and print what was found, a line each."""
    wanted = only.split(",")
    with LocalServer(data) as server:
        migrate(server.url())
        _set(server.url(), fsync="on", synchronous_commit="on", max_wal_size="4GB")
        with psycopg.connect(server.url(), autocommit=True) as owner:
            if "accept" in wanted:
                _measure_accepting(owner, server.url(), seconds, connections)
            if "force" in wanted:
                _measure_force(owner, server.url(), changes)
            if "shared" in wanted:
                _measure_shared_price(owner, subscriptions)
            if "sync" in wanted:
                _empty(owner)
                _measure_sync(owner, server.url(), subscriptions)


# -- Full sync


def _measure_sync(owner: psycopg.Connection, url: str, subscriptions: int) -> None:
    fake = StripeFake(KEY)
    with fake.losing_events():
        product = fake.create_product()
        price = fake.create_price(product.id, metadata={"workflow_step_limit": "500"})
        for number in range(subscriptions):
            customer = fake.create_customer(metadata={"tenant": f"tenant-{number}"})
            fake.create_subscription(customer.id, [price.id])
    with serve(fake) as address:
        pages = 20
        began = time.monotonic()
        after: dict[str, str] = {}
        for _ in range(pages):
            answer = requests.get(
                f"{address}/v1/subscriptions",
                params={"limit": "100", "status": "all", **after},
                auth=(KEY, ""),
                headers={"Stripe-Version": stripe.api_version},
                timeout=60,
            ).json()
            after = {"starting_after": answer["data"][-1]["id"]}
        page = (time.monotonic() - began) / pages
        print(f"sync: the fake answers a page of 100 subscriptions in {page * 1000:.0f} ms")
        for turn in ("first", "second"):
            before = _written(owner)
            began = time.monotonic()
            peak = _run_sync(url, address)
            took = time.monotonic() - began
            mirror, bookkeeping = (a - b for a, b in zip(_written(owner), before, strict=True))
            print(
                f"sync, {turn}: {subscriptions} subscriptions and customers in {took:.0f} s, "
                f"memory at most {peak // 1024} MB, {mirror} rows of the mirror written, "
                f"{bookkeeping} of bookkeeping",
                flush=True,
            )


def _run_sync(url: str, address: str) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "stepquota", "stripe", "sync"],
        env=_environment(url, address),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Not its ru_maxrss, which begins with what this process has.
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
        peak = int(found[1]) if found else peak
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the sync failed: {process.returncode}")
    return peak


def _written(owner: psycopg.Connection) -> tuple[int, int]:
    time.sleep(2)  # until the server's counters are told
    row = owner.execute(
        """
        select sum(n_tup_ins + n_tup_upd + n_tup_del) filter (
                 where relname ~ '^stripe_(products|prices|customers|subscription)'),
               sum(n_tup_ins + n_tup_upd + n_tup_del) filter (
                 where relname ~ '^stripe_sync' or relname ~ '^workflow')
          from pg_stat_user_tables where schemaname = 'stepquota'
        """
    ).fetchone()
    assert row
    return int(row[0]), int(row[1])


# -- A price of very many subscriptions


def _measure_shared_price(owner: psycopg.Connection, subscriptions: int) -> None:
    _empty(owner)
    owner.execute(
        """
        insert into stepquota.stripe_products (id, livemode, fetched_at)
        values ('prod', false, '2026-01-01Z')
        """
    )
    owner.execute(
        """
        insert into stepquota.stripe_prices (id, product_id, metadata, recurring_interval,
          recurring_interval_count, livemode, fetched_at)
        values ('shared', 'prod', '{"workflow_step_limit": "1"}', 'month', 1, false, '2026-01-01Z')
        """
    )
    owner.execute(
        """
        insert into stepquota.stripe_customers (id, metadata_tenant, livemode, fetched_at)
        select 'cus_' || n, 'tenant-' || n, false, '2026-01-01Z' from generate_series(1, %s) n
        """,
        [subscriptions],
    )
    owner.execute(
        """
        insert into stepquota.stripe_subscriptions
          (id, customer_id, status, billing_cycle_anchor, livemode, fetched_at)
        select 'sub_' || n, 'cus_' || n, 'active', date_trunc('month', now()), false,
               '2026-01-01Z' from generate_series(1, %s) n
        """,
        [subscriptions],
    )
    owner.execute(
        """
        insert into stepquota.stripe_subscription_items (id, subscription_id, price_id,
          current_period_start, current_period_end, fetched_at)
        select 'si_' || n, 'sub_' || n, 'shared', date_trunc('month', now()),
               date_trunc('month', now()) + interval '1 month', '2026-01-01Z'
          from generate_series(1, %s) n
        """,
        [subscriptions],
    )
    # A thousand of them are paused.
    paused = min(1000, subscriptions)
    for number in range(1, paused + 1):
        tenant = f"tenant-{number}"
        owner.execute("select stepquota.reserve_workflow_step(%s)", [tenant])
        owner.execute("select stepquota.register_workflow_run(%s, 'run')", [tenant])
        owner.execute("select stepquota.start_workflow_step(%s, 'run', 'root')", [tenant])
    owner.execute("vacuum analyze")
    changed = {
        "id": "shared",
        "object": "price",
        "product": "prod",
        "livemode": False,
        "metadata": {"workflow_step_limit": "2"},
        "recurring": {"interval": "month", "interval_count": 1},
    }
    began = time.monotonic()
    longest = 0.0
    transactions = 0

    def timed(statement: str, *parameters: object) -> Any:
        nonlocal longest, transactions
        start = time.monotonic()
        row = owner.execute(statement.encode(), parameters).fetchone()
        longest = max(longest, time.monotonic() - start)
        transactions += 1
        return row and row[0]

    timed("select stepquota.apply_stripe_object(%s, clock_timestamp())", json.dumps(changed))
    written = time.monotonic() - began
    right = timed(
        "select effective_limit from stepquota.resolve_workflow_step_quota('tenant-' || %s::int)",
        subscriptions,
    )
    while timed("select stepquota.spread_stripe_changes()"):
        pass
    spread = time.monotonic() - began
    owner.execute("call stepquota.resume_scan()")
    resumed = owner.execute("select count(*) from stepquota.workflow_run_resumptions").fetchone()
    assert resumed
    print(
        f"shared: the price of {subscriptions} subscriptions changed: written in "
        f"{written * 1000:.0f} ms, the limit of any of them is {right} at once; paused ones "
        f"marked after {spread:.1f} s in {transactions} transactions, the longest "
        f"{longest * 1000:.0f} ms; {resumed[0]} of {paused} paused runs resumed after "
        f"{time.monotonic() - began:.1f} s",
        flush=True,
    )


# -- Accepting events


def _measure_accepting(
    owner: psycopg.Connection, url: str, seconds: float, connections: int
) -> None:
    with _serving(url) as endpoint:
        queue: Any = multiprocessing.Queue()
        sender = multiprocessing.Process(
            target=_send_events, args=(endpoint, seconds, connections, queue)
        )
        sender.start()
        accepted, took, p50, p99 = queue.get()
        sender.join()
    row = owner.execute("select count(*) from stepquota.stripe_events").fetchone()
    assert row
    if row[0] != accepted:
        raise SystemExit(f"{accepted} were answered 200, and {row[0]} are stored")
    print(
        f"accept: {accepted / took:.0f} events a second over {connections} connections, answered "
        f"after {p50 * 1000:.0f} ms in the middle, {p99 * 1000:.0f} ms at the 99th percentile; "
        "each is stored",
        flush=True,
    )


def _send_events(endpoint: str, seconds: float, connections: int, queue: Any) -> None:
    place = urlsplit(endpoint)
    waits: list[float] = []
    lock = threading.Lock()
    end = time.monotonic() + seconds
    began = time.monotonic()

    def send(connection_number: int) -> None:
        own: list[float] = []
        with socket.create_connection((place.hostname, place.port)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = 0
            while time.monotonic() < end:
                number += 1
                body = json.dumps(
                    {
                        "id": f"evt_{connection_number}_{number}",
                        "object": "event",
                        "type": "customer.subscription.updated",
                        "created": 1775000000,
                        "livemode": False,
                        # About as large as a subscription is.
                        "data": {"object": {"id": f"sub_{number}", "padding": "x" * 4000}},
                    }
                )
                signature = stripe.WebhookSignature.generate_signature_header(body, SECRET)
                request = (
                    f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\n"
                    f"Stripe-Signature: {signature}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                )
                start = time.monotonic()
                client.sendall(request.encode())
                answer = client.recv(4096)
                own.append(time.monotonic() - start)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"answered {answer[:40]!r}")
        with lock:
            waits.extend(own)

    threads = [threading.Thread(target=send, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.monotonic() - began
    percentiles = statistics.quantiles(waits, n=100)
    queue.put((len(waits), took, percentiles[49], percentiles[98]))


@contextmanager
def _serving(url: str) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "stepquota", "stripe", "serve", "--port", "0"],
        env=_environment(url, "http://127.0.0.1:9"),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    try:
        yield process.stderr.readline().split()[-1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


# -- From an accepted event to the limit in force


def _measure_force(owner: psycopg.Connection, url: str, changes: int) -> None:
    _empty(owner)
    fake = StripeFake(KEY)
    tenants = [f"tenant-{number}" for number in range(20)]
    for tenant in tenants:
        product = fake.create_product()
        price = fake.create_price(product.id, id=tenant, metadata={"workflow_step_limit": "1"})
        customer = fake.create_customer(metadata={"tenant": tenant})
        fake.create_subscription(customer.id, [price.id])
    with serve(fake) as address:
        _run_sync(url, address)
        process = subprocess.Popen(
            [sys.executable, "-m", "stepquota", "stripe", "run", "--port", "0"],
            env=_environment(url, address),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        endpoint = fake.add_endpoint(process.stderr.readline().split()[-1], SECRET)
        courier = Courier(fake)
        waits: list[float] = []
        try:
            for tenant in tenants:
                owner.execute("select stepquota.reserve_workflow_step(%s)", [tenant])
            for number in range(changes):
                tenant, run = tenants[number % len(tenants)], f"run-{number}"
                # One run more than there is quota for, at whatever the limit is by now.
                owner.execute("select stepquota.register_workflow_run(%s, %s)", [tenant, run])
                start = owner.execute(
                    "select outcome, effective_limit"
                    " from stepquota.start_workflow_step(%s, %s, 'root')",
                    [tenant, run],
                ).fetchone()
                assert start
                assert start[0] == "quota_paused", start
                fake.update_price(tenant, metadata={"workflow_step_limit": str(start[1] + 1)})
                (delivery,) = courier.deliver()
                began = time.monotonic()
                assert delivery.status == 200
                while not owner.execute(
                    "select 1 from stepquota.workflow_runs"
                    " where tenant = %s and run_id = %s and status = 'RUNNING'",
                    [tenant, run],
                ).fetchone():
                    time.sleep(0.001)
                waits.append(time.monotonic() - began)
                # It takes its unit, and the tenant is exhausted again.
                owner.execute("select stepquota.start_workflow_step(%s, %s, 'root')", [tenant, run])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    del endpoint
    percentiles = statistics.quantiles(waits, n=100)
    print(
        f"force: from the answer 200 to the limit in force and the run resumed: "
        f"{percentiles[49] * 1000:.0f} ms in the middle, {percentiles[98] * 1000:.0f} ms at the "
        f"99th percentile, {max(waits) * 1000:.0f} ms at most, of {changes} changes one by one",
        flush=True,
    )


def _environment(url: str, address: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "DATABASE_URL": url,
        "STRIPE_API_KEY": KEY,
        "STRIPE_API_BASE": address,
        "STRIPE_WEBHOOK_SECRETS": SECRET,
    }


def _set(url: str, **settings: str) -> None:
    with psycopg.connect(url, autocommit=True) as owner:
        for name, value in settings.items():
            owner.execute(f"alter system set {name} = '{value}'".encode())
        owner.execute("select pg_reload_conf()")
        for name in ("fsync", "synchronous_commit"):
            row = owner.execute(f"show {name}".encode()).fetchone()
            if row != ("on",):
                raise SystemExit("commits are not durable on this server")


def _empty(owner: psycopg.Connection) -> None:
    owner.execute(
        """
        truncate stepquota.stripe_products, stepquota.stripe_prices, stepquota.stripe_customers,
          stepquota.stripe_subscriptions, stepquota.stripe_subscription_items,
          stepquota.stripe_events, stepquota.stripe_sync_state, stepquota.stripe_sync_pages,
          stepquota.workflow_step_quotas, stepquota.workflow_step_usage_periods,
          stepquota.workflow_step_usage_lanes, stepquota.workflow_runs,
          stepquota.workflow_run_steps, stepquota.workflow_run_waits,
          stepquota.workflow_run_resumptions, stepquota.paused_tenants
        """
    )


if __name__ == "__main__":
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    typer.run(main)
