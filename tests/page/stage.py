"""A database with tenants of all kinds, and the logins that the page has there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.databases import Database, migrated_database
from harness.servers import Server
from stepquota.page.data import Database as PageDatabase
from stepquota.page.settings import Settings
from stepquota.secret import Secret

SECRET = Secret("a secret of the tests, of more than 32 characters")
URL = "http://page.example"
HOSTILE = '<script>alert(1)</script> & "co"/../?a=b\''
_PASSWORD = "for the tests"

# acme has used its 5 actions up, globex has 3 of 5 left, initech is unlimited; forty others.
_POPULATE = """
select stepquota.set_tier_limit('five', 5), stepquota.set_tier_limit('free', null);
select stepquota.set_tenant_plan(t, 'five') from unnest(array['acme', 'globex']) t;
select stepquota.set_tenant_plan('initech', 'free');
select (stepquota.reserve_workflow_steps('initech', 1234)).granted;
select stepquota.register_workflow_run(t, r, 'nightly')
  from unnest(array['acme', 'globex']) t, unnest(array['run-1', 'run-2']) r;
select count(stepquota.start_workflow_step('acme', 'run-1', 'root.steps[' || n || ']'))
  from generate_series(1, 5) n;
select count(stepquota.finish_workflow_step(
         'acme', 'run-1', 'root.steps[' || n || ']', 1, 'SUCCEEDED'))
  from generate_series(1, 5) n;
select count(stepquota.start_workflow_step('acme', r, 'root.steps[6]'))
  from unnest(array['run-1', 'run-2']) r;
select count(stepquota.start_workflow_step('globex', 'run-1', 'root.steps[' || n || ']'))
  from generate_series(1, 2) n;
select stepquota.sample_workflow_step_usage();
select (stepquota.reserve_workflow_step(format('tenant %s', to_char(n, 'FM000')))).allowed
  from generate_series(1, 120) n;
select stepquota.reserve_workflow_steps('tenant 077', 70);
select stepquota.hold_tenant('tenant 005', 'fraud check');
select stepquota.grant_workflow_steps('globex', 2, 'goodwill', now() + interval '9 days');
"""


class Stage:
    """The database and its logins: operators, observers, tenants (bound), loose (not bound)."""

    KINDS = ("operators", "observers", "tenants", "loose")

    def __init__(self, server: Server):
        self.database: Database = migrated_database(server)
        prefix = f"stepquota_test_{os.getpid()}_{server.name}_page"
        self.roles = {kind: f"{prefix}_{kind}" for kind in self.KINDS}
        with self.database.connect(autocommit=True) as connection:
            for kind, role in self.roles.items():
                connection.execute(
                    sql.SQL("create role {} login password {}").format(
                        sql.Identifier(role), sql.Literal(_PASSWORD)
                    )
                )
                rights = "operator" if kind == "operators" else "observer"
                connection.execute(f"grant stepquota_{rights} to {role}".encode())
            connection.execute(_POPULATE.encode())
            connection.execute("select stepquota.reserve_workflow_step(%s)", [HOSTILE])
            connection.execute("select stepquota.summarize_tenants()")
            connection.execute("select stepquota.bind_session_role(%s)", [self.roles["tenants"]])

    def url(self, kind: str) -> str:
        """The database's URL for one of the logins."""
        return make_conninfo(self.database.url, user=self.roles[kind], password=_PASSWORD)

    def open(self, kind: str) -> PageDatabase:
        """The page's pool as one of the logins."""
        opened = PageDatabase(
            conninfo_to_dict(self.url(kind)), is_for_tenants=kind in ("tenants", "loose")
        )
        opened.open()
        return opened

    def one(self, query: str, *values: object) -> Any:
        """The first column of the first row, as a superuser."""
        with self.database.connect(autocommit=True) as connection:
            row = connection.execute(query.encode(), values or None).fetchone()
            assert row is not None
            return row[0]

    def drop(self) -> None:
        self.database.drop()
        for role in self.roles.values():
            self.database.server.run(f"drop role {role}")


@contextmanager
def staged(server: Server) -> Iterator[Stage]:
    """A stage for a block."""
    stage = Stage(server)
    try:
        yield stage
    finally:
        stage.drop()


def settings(**changes: Any) -> Settings:
    """Settings of the tests."""
    return Settings(**{"secrets": (SECRET,), "public_url": URL, **changes})


__all__ = ["HOSTILE", "SECRET", "URL", "Stage", "psycopg", "settings", "staged"]
