"""Calls of any function that roles may call, made from the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

_TABLE = Path(__file__).parent / "functions.txt"

# A value of each type that a function takes, for arguments that do not matter.
ORDINARY: dict[str, Any] = {
    "text": "works",
    "text[]": ["root"],
    "integer": 1,
    "integer[]": [1],
    "bigint": 1,
    "bigint[]": [1],
    "boolean": True,
    "uuid": "00000000-0000-0000-0000-00000000000a",
    "uuid[]": ["00000000-0000-0000-0000-00000000000b"],
    "jsonb": "{}",
    "interval": "1 minute",
    "timestamp with time zone": "2026-04-01T00:00:00Z",
}

# Those that have to be of a certain kind for a call to get far.
FITTING: dict[tuple[str, str], Any] = {
    ("finish_workflow_step", "p_status"): "SUCCEEDED",
    ("finish_workflow_run", "p_status"): "SUCCEEDED",
    ("open_workflow_run_wait", "p_wait_type"): "event",
    ("set_tenant_enforcement", "p_mode"): "enforce",
    ("set_tenant_plan", "p_plan"): "pro",
    ("purge_rows", "p_kind"): "logs",
    ("set_policy", "p_name"): "scan_seconds",
    ("set_policy", "p_value"): "7",
    ("store_stripe_page", "p_object_type"): "price",
    ("record_stripe_events", "p_source"): "webhook",
    ("watch", "p_seconds"): 1,
    ("start_workflow_step", "p_delivery"): None,
    ("start_workflow_steps", "p_delivery"): None,
    ("finish_workflow_step", "p_delivery"): None,
    ("finish_workflow_run", "p_delivery"): None,
    ("enable_cron", "p_schedule"): "* * * * *",
    ("check_cron", "p_schedule"): "* * * * *",
}


@dataclass(frozen=True)
class Row:
    """A line of functions.txt: who may call a function, and what it is to who is bound."""

    name: str
    roles: frozenset[str]
    bound: str


def read_table() -> dict[str, Row]:
    """functions.txt by name."""
    rows = {}
    for line in _TABLE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, *marks, bound = line.split()
            assert len(marks) == 4
            assert bound in ("own", "refused", "free")
            kinds = ("runtime", "operator", "sync", "observer")
            roles = {kind for kind, mark in zip(kinds, marks, strict=True) if mark == "x"}
            rows[name] = Row(name, frozenset(roles), bound)
    return rows


@dataclass(frozen=True)
class Function:
    """A function of the catalogue.

    Attributes:
        name: Its name.
        is_procedure: Whether it is called with CALL, outside a transaction.
        parameters: Names and types.
    """

    name: str
    is_procedure: bool
    parameters: tuple[tuple[str, str], ...]

    def statement(self) -> str:
        """A call, with a placeholder for each parameter."""
        arguments = ", ".join(f"{name} => %s::{kind}" for name, kind in self.parameters)
        verb = "call" if self.is_procedure else "select * from"
        return f"{verb} stepquota.{self.name}({arguments})"

    def values(self, tenant: str = "acme", **others: Any) -> list[Any]:
        """Values for it that could be meant."""
        return [
            others.get(name, tenant)
            if name in others or name == "p_tenant"
            else FITTING.get((self.name, name), ORDINARY[kind])
            for name, kind in self.parameters
        ]


def read_functions(connection: psycopg.Connection[Any]) -> dict[str, Function]:
    """All functions without an underscore in front."""
    rows = connection.execute("""
        select p.proname::text, p.prokind = 'p',
               coalesce((select array_agg(array[a.name, format_type(a.type, null)] order by a.place)
                  from unnest(p.proargnames, p.proargtypes::oid[], p.proargmodes)
                       with ordinality as a (name, type, mode, place)
                 where a.type is not null and coalesce(a.mode, 'i') = 'i'), '{}')
          from pg_proc p
         where p.pronamespace = 'stepquota'::regnamespace and p.proname !~ '^_'
         order by p.proname""").fetchall()
    return {
        name: Function(name, is_procedure, tuple(map(tuple, parameters)))
        for name, is_procedure, parameters in rows
    }
