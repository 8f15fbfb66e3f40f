"""Everything works through a PgBouncer in transaction mode, and nothing is left in its sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import IsolationLevel

import stepquota
from concurrency.load import NOTES, Load, check_exact, clients, wait_for
from concurrency.races import Connect, call, give_limit, value
from concurrency.test_lanes import split
from harness.databases import Database
from shim import test_flow

from .conftest import SERVER_CONNECTIONS

# What would be seen by the next client that gets the same server connection.
STATE = """
select jsonb_build_object(
  'settings', (
    select jsonb_object_agg(s.name, s.setting) from pg_settings s
     where s.source = 'session' and s.name <> 'application_name'),
  'own settings', current_setting('stepquota.now', true),
  'prepared', (select count(*) from pg_prepared_statements),
  'cursors', (select count(*) from pg_cursors where name <> ''),
  'channels', (select count(*) from pg_listening_channels()),
  'locks', (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'),
  'temporary', (select count(*) from pg_class where relpersistence = 't'),
  'role', current_user)
"""


@pytest.mark.parametrize(
    ("limit", "load"),
    [
        (200, Load(prepare_threshold=None)),
        (3000, Load(batches=0.3, prepare_threshold=None)),
        (60, Load(level=IsolationLevel.REPEATABLE_READ, prepare_threshold=None)),
    ],
    ids=["single", "batches", "repeatable read"],
)
def test_exactly_the_limit_is_committed(
    database: Database, connect: Connect, pooled_url: str, limit: int, load: Load
) -> None:
    """More clients than connections, in processes of their own; some are killed in the middle."""
    database.run(NOTES)
    connection = connect(autocommit=True)
    give_limit(connection, "acme", limit)
    with clients(pooled_url, load, 16) as processes:
        for process in processes[12:]:
            process.join(0.05)
            process.kill()
        wait_for(processes[:12])
    assert check_exact(connection) == limit


@pytest.mark.parametrize(
    "live",
    [
        test_flow.test_a_run_is_paused_resumed_and_finished,
        test_flow.test_a_run_is_paused_resumed_and_finished_by_asyncio,
    ],
    ids=["sync", "asyncio"],
)
def test_a_run_lives_through_the_shim_and_leaves_nothing_behind(
    pooled_url: str, live: Callable[[str], None]
) -> None:
    before = states(pooled_url)
    live(pooled_url)
    assert states(pooled_url) == before


def states(url: str) -> list[Any]:
    """The state of each server connection: all are had at once by transactions that stay open."""
    connections = [psycopg.connect(url, prepare_threshold=None) for _ in range(SERVER_CONNECTIONS)]
    try:
        return [value(connection, STATE) for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def test_the_shim_needs_no_setting_of_the_connection(pooled_url: str) -> None:
    """It prepares nothing, also where psycopg would: each call may reach another server process."""
    with (
        psycopg.connect(pooled_url, autocommit=True) as one,
        psycopg.connect(pooled_url, autocommit=True) as two,
    ):
        for number in range(1, 21):
            with one.transaction():
                assert stepquota.reserve_workflow_step(one, "acme").used_count == 2 * number - 1
                # Meanwhile the other gets another server connection.
                assert stepquota.resolve_workflow_step_quota(two, "globex").used_count == 0
            assert stepquota.reserve_workflow_step(two, "acme").used_count == 2 * number


def test_statements_of_your_own_need_the_threshold_to_be_none(pooled_url: str) -> None:
    """What the documentation says of PgBouncer before 1.21, or with max_prepared_statements 0."""
    with (
        psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as one,
        psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as two,
    ):
        for _ in range(10):
            with one.transaction():
                assert call(one, "reserve_workflow_step", "acme")["allowed"]
                assert call(two, "reserve_workflow_step", "globex")["allowed"]
    with psycopg.connect(pooled_url, autocommit=True) as three:
        for _ in range(10):
            call(three, "reserve_workflow_step", "acme")
        # The session stays with the server connection, and so does what it has prepared.
        assert value(three, "select count(*) from pg_prepared_statements") > 0


def test_home_lanes_are_spread_over_the_server_connections(
    connect: Connect, pooled_url: str
) -> None:
    """Each process that serves has its own, also when all lanes are free."""
    watcher = connect(autocommit=True)
    split(watcher, 20_000)
    lane_count = value(watcher, "select lane_count from stepquota.workflow_step_quotas")
    pids = set()
    with ExitStack() as stack:
        pooled = [
            stack.enter_context(psycopg.connect(pooled_url)) for _ in range(SERVER_CONNECTIONS)
        ]
        # All have a server connection at once, and nobody has a lane while another reserves.
        for connection in pooled:
            pids.add(value(connection, "select pg_backend_pid()"))
        for connection in pooled:
            assert stepquota.reserve_workflow_step(connection, "acme").allowed
            connection.commit()
            # It keeps its server connection by beginning again before anybody else does.
            value(connection, "select pg_backend_pid()")
    assert len(pids) == SERVER_CONNECTIONS
    used = "select count(*) from stepquota.workflow_step_usage_lanes where used_count > 0"
    assert value(watcher, used) == len({pid % lane_count for pid in pids})


def test_a_worker_polls_and_leaves_no_channel_behind(
    database: Database, connect: Connect, pooled_url: str
) -> None:
    operator = connect(autocommit=True)
    give_limit(operator, "acme", 1)
    call(operator, "reserve_workflow_step", "acme")
    call(operator, "register_workflow_run", "acme", "r")
    assert call(operator, "start_workflow_step", "acme", "r", "root")["outcome"] == "quota_paused"
    give_limit(operator, "acme", 2)
    with stepquota.resumptions(pooled_url, "worker", poll_seconds=0.2) as loop:
        assert next(loop).run_id == "r"
        assert not loop.is_listening
    with stepquota.resumptions(database.url, "worker", poll_seconds=0.2) as direct:
        threading.Timer(0.5, direct.stop).start()
        assert list(direct) == []
    with ExitStack() as stack:
        for _ in range(SERVER_CONNECTIONS):
            client = stack.enter_context(psycopg.connect(pooled_url))
            assert value(client, "select count(*) from pg_listening_channels()") == 0
