"""What the tests of both kinds of Reserver share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

import stepquota
from stepquota.batching import LINGER

# Long enough for any machine, short enough not to wait for ever.
PATIENCE = 30.0


def give_limit(url: str, limit: int | None, tenant: str = "acme") -> None:
    """Give a tenant a limit of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        stepquota.set_tier_limit(connection, f"tier of {tenant}", limit)
        stepquota.set_tenant_plan(connection, tenant, f"tier of {tenant}")


def rows(url: str, query: str) -> list[Any]:
    """What a query answers; rows of one column as its values."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(query.encode()).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


def set_everywhere(url: str, setting: str) -> None:
    """Give a setting to all who connect to the database from now on."""
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f'alter database "{name}" set {setting}'.encode())


def used(url: str) -> int:
    """Units counted, of all tenants."""
    query = "select coalesce(sum(used_count), 0)::int from stepquota.workflow_step_usage_lanes"
    (count,) = rows(url, query)
    return int(count)


def batches(url: str) -> list[tuple[int, int | None, int | None]]:
    """Granted, handed out and given back, of all batches in the order in which they were opened."""
    return rows(
        url,
        "select granted_count, handed_out_count, returned_count"
        " from stepquota.workflow_step_batches order by opened_at, batch_id",
    )


def violations(url: str) -> list[Any]:
    """What verify_all finds."""
    return rows(url, "select verify_all::text from stepquota.verify_all()")


@contextmanager
def blocked(url: str, tenant: str = "acme") -> Iterator[None]:
    """Keep every reservation of a tenant waiting. Its quota must be known already."""
    with psycopg.connect(url) as connection:
        for table in ("workflow_step_quotas", "workflow_step_usage_lanes"):
            connection.execute(
                f"select from stepquota.{table} where tenant = %s for update".encode(), [tenant]
            )
        yield
        connection.rollback()


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < until, "it never came to be so"
        time.sleep(0.01)


def calls_on_their_way(url: str) -> int:
    """How many calls of Reservers the server is at."""
    query = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and pid <> pg_backend_pid() and state = 'active'"
        " and query like '%open_workflow_step_batch(p_%'"
    )
    (count,) = rows(url, query)
    return int(count)


def cut_connections(url: str) -> int:
    """End all connections to the database but the one that does it."""
    query = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
        " and query like '%workflow_step_batch%'"
    )
    (count,) = rows(url, query)
    return int(count)


def wait_for_closing(url: str) -> None:
    """Wait until the last batch is closed, as it is when nobody asks for a while."""
    time.sleep(LINGER / 2)
    query = "select count(*) from stepquota.workflow_step_batches where closed_at is null"
    wait_until(lambda: rows(url, query) == [0])
