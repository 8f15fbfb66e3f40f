"""The shim on a database in which stepquota uses an application's tables, with uuid keys.

Tests name tenants and runs as they like. Here each name has its uuid, in what is sent and, the
other way round, in what comes back.
"""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import psycopg

from acceptance.flavours import Notice, Notices, Rows, SynchronousDriver
from stepquota import adoption, calls
from stepquota.migrate import migrate

HERE = Path(__file__).parent
DESCRIPTION = HERE / "adopted.toml"

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMESPACE = uuid.UUID(int=1)
_HOST_TABLE = re.compile(
    r"stepquota\.(tenants|workflow_runs|workflow_run_steps|workflow_run_waits|workflow_run_logs)\b"
)
# Tenants that tests name in statements and Stripe objects, and not in a call before.
_TENANTS = ("acme", "globex", "umbrella")

# The application's rows as tests look at them, in stepquota's words.
VIEWS = """
create schema seen;
create view seen.tenants as
  select id as tenant, plan_name as plan, blocked_at as suspended_at from shop.accounts;
create view seen.workflow_runs as
  select account_id::text as tenant, id::text as run_id, engine as runtime, position as node_path,
         stepquota._host_from_workflow_runs_status(state) as status, failure as error
    from shop.executions where position is distinct from 'before';
create view seen.workflow_run_steps as
  select account_id::text as tenant, execution_id::text as run_id, node as node_path,
         try as attempt, stepquota._host_from_workflow_run_steps_status(state) as status
    from shop.attempts;
create view seen.workflow_run_waits as
  select account_id::text as tenant, id as wait_id, execution_id::text as run_id, kind as wait_type,
         node_paths, stepquota._host_from_workflow_run_waits_status(state) as status
    from shop.waits;
create view seen.workflow_run_logs as
  select account_id::text as tenant, id as log_id, execution_id::text as run_id, line as message,
         severity as level, details
    from shop.log_lines;
"""


def adopt(url: str) -> None:
    """Make the application's tables and have stepquota use them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((HERE / "adopted.sql").read_bytes())
        tables = adoption.resolve_tables(connection, adoption.read_description(DESCRIPTION))
        connection.execute(adoption.preparation(connection, tables).encode())
    migrate(url, DESCRIPTION)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(VIEWS.encode())


class AdoptedDriver(SynchronousDriver):
    """stepquota, on the application's tables; ``adopt`` has prepared the database."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._names: dict[str, str] = {}
        self._accounts: set[str] = set()
        self.notices = _DecodedNotices(self)
        self.connection.add_notice_handler(self.notices.add)
        for tenant in _TENANTS:
            self._encode(tenant)

    def call(self, function: str, *args: Any, **kwargs: Any) -> Any:
        signature = inspect.signature(getattr(calls, function))
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if isinstance(value, dict):
                bound.arguments[name] = self._replace(value)
            elif not isinstance(value, str) or value == "" or len(value) > 200:
                continue  # what is wrong is sent as it is
            elif name == "tenant":
                bound.arguments[name] = self._tenant(value)
            elif name == "run_id":
                bound.arguments[name] = self._encode(value)
        try:
            return self.decode(super().call(function, *bound.args, **bound.kwargs))
        except psycopg.Error as error:
            raise self._named(error) from error

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Rows:
        statement = _HOST_TABLE.sub(r"seen.\1", statement)
        for tenant in _TENANTS:
            statement = statement.replace(f"'{tenant}'", f"'{self._encode(tenant)}'")
        rows = super().execute(statement, self._replace(list(parameters)))
        return [tuple(self.decode(value) for value in row) for row in rows]

    def _encode(self, name: str) -> str:
        key = str(uuid.uuid5(_NAMESPACE, name))
        self._names[key] = name
        return key

    def _tenant(self, name: str) -> str:
        """Its key; the application has an account for each."""
        key = self._encode(name)
        if key not in self._accounts:
            self._accounts.add(key)
            super().execute(
                "insert into shop.accounts (id) values (%s) on conflict do nothing", [key]
            )
        return key

    def _replace(self, value: Any) -> Any:
        """Names that are known, in what is sent."""
        if isinstance(value, str):
            return next((key for key, name in self._names.items() if name == value), value)
        if isinstance(value, list):
            return [self._replace(item) for item in value]
        if isinstance(value, Mapping):
            return {
                name: self._tenant(item) if name == "tenant" and item else self._replace(item)
                for name, item in value.items()
            }
        return value

    def decode(self, value: Any) -> Any:
        """Keys in what comes back."""
        if isinstance(value, str):
            return _UUID.sub(lambda match: self._names.get(match[0], match[0]), value)
        if isinstance(value, tuple | list):
            return type(value)(self.decode(item) for item in value)
        if isinstance(value, dict):
            return {name: self.decode(item) for name, item in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            changes = {f.name: self.decode(getattr(value, f.name)) for f in fields(value)}
            return replace(value, **changes)
        return value

    def _named(self, error: psycopg.Error) -> psycopg.Error:
        """The error, with names in its detail."""
        detail = self.decode(error.diag.message_detail or "")
        class_ = type(error)
        named = type(
            class_.__name__,
            (_Named, class_),
            {"detail": detail, "diag": error.diag},
            **({"sqlstate": error.sqlstate} if str(error.sqlstate).startswith("WQ") else {}),
        )
        result = named(str(error))
        result.__dict__.update(error.__dict__)
        return result  # type: ignore[no-any-return]


class _DecodedNotices(Notices):
    def __init__(self, driver: AdoptedDriver) -> None:
        super().__init__()
        self._driver = driver

    def take(self) -> list[Notice]:
        return [replace(said, detail=self._driver.decode(said.detail)) for said in super().take()]


class _Named:
    """Marks an error whose detail was decoded."""

    def __init_subclass__(cls, **_: Any) -> None:
        pass
