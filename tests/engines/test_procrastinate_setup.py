"""procrastinate: the adapter's own table, and the roles that make and use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from engines.procrastinate_engine import make_app
from stepquota.procrastinate import SETUP, NotSetUp, Quota

WORKER_RIGHTS = """
grant stepquota_runtime to {role};
grant select, insert, update, delete on all tables in schema public to {role};
grant usage on all sequences in schema public to {role};
"""


class Roles:
    """Makes ordinary roles, and answers what they connect with."""

    def __init__(self, database_url: str):
        self._database_url = database_url
        self.connection: psycopg.Connection[Any] = psycopg.connect(database_url, autocommit=True)
        self._names: list[str] = []

    def make(self, name: str, rights: str = WORKER_RIGHTS) -> str:
        role = f"{name}_{self.connection.info.dbname}"
        quoted = sql.Identifier(role).as_string()
        self._names.append(quoted)
        self.run(f"create role {quoted} login")
        self.run(rights.format(role=quoted))
        return make_conninfo(self._database_url, user=role)

    def run(self, statement: str) -> None:
        self.connection.execute(statement.encode())

    def close(self) -> None:
        for role in self._names:
            self.run(f"drop owned by {role}")
            self.run(f"drop role {role}")
        self.connection.close()


@pytest.fixture
def roles(database_url: str) -> Iterator[Roles]:
    """With procrastinate in the database, and no table of ours."""

    async def install() -> None:
        async with make_app(database_url).open_async() as app:
            await app.schema_manager.apply_schema_async()

    asyncio.run(install())
    roles = Roles(database_url)
    yield roles
    roles.close()


async def enter(url: str) -> None:
    async with Quota(url):
        pass


async def work(engine_url: str, url: str) -> None:
    """A job is refused, resumed, and done, by the role's connections."""
    app = make_app(engine_url)
    ran = []

    @app.task(name="bill")
    async def bill(tenant: str) -> None:
        ran.append(tenant)

    async with app.open_async(), Quota(url) as quota, asyncio.TaskGroup() as tasks:
        for _ in range(2):
            await bill.defer_async(tenant="acme")
        await app.run_worker_async(wait=False, worker_middleware=[quota.middleware])
        assert len(ran) == 1
        await app.connector.execute_query_async("select stepquota.set_tier_limit('solo', 2)")
        resuming = tasks.create_task(quota.resume_jobs())
        while len(ran) < 2:
            await asyncio.sleep(0.1)
            await app.run_worker_async(wait=False, worker_middleware=[quota.middleware])
        resuming.cancel()


def test_a_role_that_may_make_no_tables_is_told_what_to_do(roles: Roles) -> None:
    worker = roles.make("worker")
    with pytest.raises(NotSetUp, match=r"python -m stepquota\.procrastinate"):
        asyncio.run(enter(worker))


def test_what_the_module_prints_sets_it_up(roles: Roles, database_url: str) -> None:
    worker = roles.make("worker")
    printed = subprocess.run(
        [sys.executable, "-m", "stepquota.procrastinate"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed == SETUP
    for _ in range(2):
        roles.run(printed)
    roles.run("select stepquota.set_tier_limit('solo', 1)")
    asyncio.run(asyncio.wait_for(work(database_url, worker), 30))
    assert roles.connection.execute("select from stepquota_parked_jobs").rowcount == 0


def test_the_table_of_one_role_serves_the_others(roles: Roles, database_url: str) -> None:
    create = "grant create on schema public to {role};"
    workers = [
        roles.make("first", WORKER_RIGHTS + create),
        roles.make('second "one"'),
        roles.make("third"),
    ]
    asyncio.run(enter(workers[0]))
    for worker in workers[1:]:
        asyncio.run(enter(worker))
    # Somebody who has no business with the jobs.
    other = roles.make("other", "grant stepquota_runtime to {role}")
    with pytest.raises(NotSetUp):
        asyncio.run(enter(other))
    roles.run("select stepquota.set_tier_limit('solo', 1)")
    asyncio.run(asyncio.wait_for(work(database_url, workers[2]), 30))


def test_entering_locks_nothing_where_the_table_is(roles: Roles, database_url: str) -> None:
    worker = roles.make("worker")
    roles.run(SETUP)
    with psycopg.connect(database_url) as other:
        other.execute("lock table procrastinate_jobs in access exclusive mode")
        asyncio.run(asyncio.wait_for(enter(worker), 10))


def test_many_enter_at_once(roles: Roles, database_url: str) -> None:
    async def enter_all() -> None:
        await asyncio.gather(*(enter(database_url) for _ in range(12)))

    asyncio.run(enter_all())
    assert roles.connection.execute("select from stepquota_parked_jobs").rowcount == 0
