"""What the steps of the kit's workflows do, and what the kit remembers of it in the database."""

from __future__ import annotations

import time
from typing import Any

import psycopg

# A schema of the kit's own, in the scratch database of the adapter's tests.
SCHEMA = """
create schema if not exists conformance;
create table if not exists conformance.executions (
  execution_id bigint generated always as identity primary key,
  run_id text not null,
  node_path text not null,
  attempt integer not null,
  has_failed boolean not null
);
create table if not exists conformance.gates (
  run_id text not null,
  node_path text not null,
  primary key (run_id, node_path)
);
"""

_BEGIN = """
insert into conformance.executions (run_id, node_path, attempt, has_failed)
select %(run_id)s, %(node_path)s, %(attempt)s,
       (select count(*) from conformance.executions e
         where e.run_id = %(run_id)s and e.node_path = %(node_path)s) < %(failures)s
returning has_failed
"""
_IS_GATED = "select exists (select from conformance.gates where run_id = %s and node_path = %s)"


class StepFailed(Exception):
    """A step's attempt that the script wants to fail."""


def perform(
    database_url: str, run_id: str, node_path: str, attempt: int, failures: int = 0
) -> None:
    """What a step does: it notes that it is executed, and fails as often as its script says.

    It commits on a connection of its own. While the kit holds the step's gate shut, it stays.

    Args:
        database_url: the scratch database.
        run_id: the run.
        node_path: the path, as the script has it.
        attempt: the attempt, as the engine numbers it.
        failures: the script's.

    Raises:
        StepFailed: this attempt is to fail.
    """
    key: dict[str, Any] = {"run_id": run_id, "node_path": node_path, "attempt": attempt}
    with psycopg.connect(database_url, autocommit=True) as connection:
        row = connection.execute(_BEGIN, {**key, "failures": failures}).fetchone()
        while connection.execute(_IS_GATED, [run_id, node_path]).fetchone() == (True,):
            time.sleep(0.05)
    if row == (True,):
        raise StepFailed(f"attempt {attempt} of {node_path}")
