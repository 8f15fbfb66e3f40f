"""I1 with clients in processes of their own, which abort, are killed and lose connections."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from psycopg import IsolationLevel

from concurrency.load import NOTES, Load, check_exact, clients, wait_for
from concurrency.races import Connect, call, give_limit, value
from harness.databases import Database

READ_COMMITTED = Load()
REPEATABLE_READ = Load(level=IsolationLevel.REPEATABLE_READ)
SERIALIZABLE = Load(level=IsolationLevel.SERIALIZABLE)

TERMINATE_ONE = """
select pg_terminate_backend(a.pid)
  from pg_stat_activity a
 where a.datname = current_database() and a.pid <> pg_backend_pid()
   and a.backend_type = 'client backend' and a.state <> 'idle'
 order by random()
 limit 1
"""


@pytest.mark.parametrize(
    ("limit", "count", "load"),
    [
        pytest.param(1, 32, READ_COMMITTED, id="1 unit, 32 clients"),
        pytest.param(7, 1, READ_COMMITTED, id="7 units, 1 client"),
        pytest.param(300, 16, READ_COMMITTED, id="300 units, 16 clients"),
        pytest.param(20, 32, REPEATABLE_READ, id="20 units, 32 clients, repeatable read"),
        pytest.param(60, 6, SERIALIZABLE, id="60 units, 6 clients, serializable"),
        pytest.param(300, 4, REPEATABLE_READ, id="300 units, 4 clients, repeatable read"),
        pytest.param(20_000, 32, replace(READ_COMMITTED, batches=0.9), id="20000 units, batches"),
        pytest.param(250, 12, replace(READ_COMMITTED, reservations=2), id="two in a transaction"),
    ],
)
def test_exactly_the_limit_is_committed(
    database: Database, connect: Connect, limit: int, count: int, load: Load
) -> None:
    database.run(NOTES)
    connection = connect(autocommit=True)
    give_limit(connection, "acme", limit)
    with clients(database.url, load, count) as processes:
        wait_for(processes)
    assert check_exact(connection) == limit
    assert value(connection, "select count(distinct client) from denied") == count


def test_all_that_is_wanted_is_granted_while_there_is_enough(
    database: Database, connect: Connect
) -> None:
    database.run(NOTES)
    connection = connect(autocommit=True)
    give_limit(connection, "acme", 20_000)
    with clients(database.url, Load(wanted=60), 8) as processes:
        wait_for(processes)
    assert check_exact(connection) == 8 * 60
    assert value(connection, "select count(*) from denied") == 0


def test_clients_that_are_killed_take_nothing_along(database: Database, connect: Connect) -> None:
    """By SIGKILL, which the server notices later, and by the server itself."""
    database.run(NOTES)
    connection = connect(autocommit=True)
    give_limit(connection, "acme", 3000)
    chance = random.Random(1)
    load = Load(batches=0.15, undone=0.4)
    killed = terminated = 0
    with clients(database.url, load, 12) as processes:
        while any(process.is_alive() for process in processes[8:]):
            time.sleep(0.02)
            terminated += connection.execute(TERMINATE_ONE).rowcount
            if killed < 8 and chance.random() < 0.4:
                processes[killed].kill()
                killed += 1
        wait_for(processes[8:])
    assert killed
    assert terminated
    assert check_exact(connection) == 3000


def test_limits_that_change_while_clients_come_and_go(database: Database, connect: Connect) -> None:
    database.run(NOTES)
    connection = connect(autocommit=True)
    give_limit(connection, "acme", 200)
    load = Load(batches=0.2, ends_when_denied=False)
    with clients(database.url, load, 8) as processes:
        for limit in [5000, 300, 9000, 1, None, 12_000, 6000, None]:
            time.sleep(0.12)
            give_limit(connection, "acme", limit)
            if limit == 9000:
                processes[0].kill()
        used = call(connection, "resolve_workflow_step_quota", "acme")["used_count"]
        give_limit(connection, "acme", used + 5000)
    # A server that waits for its client's next statement ends when it finds the client gone.
    deadline = time.monotonic() + 20
    others = "select count(*) from pg_stat_activity where datname = current_database()"
    while value(connection, others) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    taken = check_exact(connection)
    assert call(connection, "reserve_workflow_steps", "acme", 1_000_000, True)["granted"] == max(
        used + 5000 - taken, 0
    )
