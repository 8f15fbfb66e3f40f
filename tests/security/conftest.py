"""One database a server and file, with two tenants and logins of all kinds of roles."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from harness.databases import Database, migrated_database
from harness.servers import Server

KINDS = ("runtime", "operator", "sync", "observer")
OWN, OTHER = "acme", "globex"

# Two tenants that have a row in most tables: runs that work, wait, are held and paused, a batch, a
# grant and a customer at Stripe.
_POPULATE = """
select stepquota.set_tier_limit('tier-' || t, 4) from unnest(array['acme', 'globex']) t;
select stepquota.set_tenant_plan(t, 'tier-' || t) from unnest(array['acme', 'globex']) t;
select stepquota.register_workflow_run(t, r)
  from unnest(array['acme', 'globex']) t, unnest(array['works', 'waits', 'held', 'paused']) r;
select stepquota.start_workflow_step(t, 'works', 'root') from unnest(array['acme', 'globex']) t;
select stepquota.start_workflow_step(t, 'waits', 'root', 1, 'event')
  from unnest(array['acme', 'globex']) t;
select stepquota.open_workflow_run_wait(t, 'waits', 'root', 'event')
  from unnest(array['acme', 'globex']) t;
select stepquota.hold_workflow_run(t, 'held', 'for the test')
  from unnest(array['acme', 'globex']) t;
select stepquota.open_workflow_step_batch(t, gen_random_uuid(), 2, 'test')
  from unnest(array['acme', 'globex']) t;
select stepquota.start_workflow_step(t, 'paused', 'root') from unnest(array['acme', 'globex']) t;
select stepquota.grant_workflow_steps(t, 1, 'for the test') from unnest(array['acme', 'globex']) t;
select stepquota.start_workflow_step(t, 'held', 'root') from unnest(array['acme', 'globex']) t;
select stepquota.map_stripe_customer('cus_' || t, t) from unnest(array['acme', 'globex']) t;
select stepquota.claim_quota_events('test');
select stepquota.reconcile_tenant(t) from unnest(array['acme', 'globex']) t;
"""


_SELDOM = ("test_server_log.py", "test_broken_functions.py")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """What is slow, and not for every change, is for make test-engines and make test-faults."""
    is_wanted = os.environ.get("STEPQUOTA_RUNTIMES") or os.environ.get("STEPQUOTA_FAULTS")
    return (not is_wanted and collection_path.name in _SELDOM) or None


class Stage:
    """The database, and the names of its roles.

    ``free[kind]`` is a login with the rights of one of the four roles, ``bound[kind]`` one that is
    bound to the tenant ``OWN`` besides; ``stranger`` has no rights, and ``all_rights`` those of all
    four.
    """

    def __init__(self, database: Database):
        prefix = f"stepquota_test_{os.getpid()}_{database.server.name}"
        self.database = database
        self.free = {kind: f"{prefix}_free_{kind}" for kind in KINDS}
        self.bound = {kind: f"{prefix}_bound_{kind}" for kind in KINDS}
        self.stranger = f"{prefix}_stranger"
        self.all_rights = f"{prefix}_all"
        self.extra: list[str] = []

    @property
    def roles(self) -> list[str]:
        return [*self.free.values(), *self.bound.values(), self.stranger, self.all_rights]

    def build(self) -> None:
        with self.database.connect(autocommit=True) as connection:
            for role in self.roles:
                connection.execute(f"create role {role} login".encode())
            for kind in KINDS:
                members = f"{self.free[kind]}, {self.bound[kind]}, {self.all_rights}"
                connection.execute(f"grant stepquota_{kind} to {members}".encode())
            connection.execute(_POPULATE.encode())
            for role in self.bound.values():
                connection.execute("select stepquota.bind_tenant_role(%s, %s)", [role, OWN])

    def drop(self) -> None:
        self.database.drop()
        for role in self.roles:
            self.database.server.run(f"drop role if exists {role}")

    @contextmanager
    def login(self, role: str, **arguments: Any) -> Iterator[psycopg.Connection[Any]]:
        """A session that the role has logged in to, as far as the server can tell."""
        arguments.setdefault("autocommit", True)
        with self.database.connect(**arguments) as connection:
            connection.execute(sql.SQL("set session authorization {}").format(sql.Identifier(role)))
            if not connection.autocommit:
                connection.commit()
            yield connection

    def rows_of(self, tenant: str) -> dict[str, list[str]]:
        """All rows of a tenant, by table."""
        rows = {}
        with self.database.connect() as connection:
            for table in self.tables(connection, "tenant"):
                rows[table] = [
                    row[0]
                    for row in connection.execute(
                        f"select t::text from {table} t where tenant = %s order by 1".encode(),
                        [tenant],
                    )
                ]
        return rows

    @staticmethod
    def tables(connection: psycopg.Connection[Any], column: str | None = None) -> list[str]:
        """The tables of the schema; those that have a column."""
        return [
            row[0]
            for row in connection.execute(
                """
                select c.oid::regclass::text from pg_class c
                 where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')
                   and not c.relispartition
                   and (%(column)s::text is null or exists (
                     select 1 from pg_attribute a
                      where a.attrelid = c.oid and a.attname = %(column)s and not a.attisdropped))
                 order by 1""",
                {"column": column},
            )
        ]


@pytest.fixture(scope="module")
def stage(server: Server) -> Iterator[Stage]:
    stage = Stage(migrated_database(server))
    try:
        stage.build()
        yield stage
    finally:
        stage.drop()
