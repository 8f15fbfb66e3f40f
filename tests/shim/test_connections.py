"""What a caller has done to its connection changes no answer."""

from __future__ import annotations

import asyncio
import datetime
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import psycopg.rows
import psycopg.types.json
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg_pool import ConnectionPool

import stepquota
import stepquota.aio

UTC = datetime.UTC


class Upside(Loader):
    """Reads everything wrongly."""

    def load(self, data: Any) -> Any:
        return "wrong"


class UpsideBinary(Upside):
    """The same for results in binary form."""

    format = psycopg.pq.Format.BINARY


class Wrong(Dumper):
    """Writes everything wrongly."""

    oid = 25

    def dump(self, obj: Any) -> bytes:
        return b"wrong"


def set_adapters(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    array_of_text = psycopg.adapters.types["text"].array_oid
    for type_ in ("uuid", "text", "int8", "int4", "bool", "timestamptz", "jsonb", array_of_text):
        connection.adapters.register_loader(type_, Upside)
        connection.adapters.register_loader(type_, UpsideBinary)
    for class_ in (str, int, UUID, datetime.datetime):
        connection.adapters.register_dumper(class_, Wrong)
    psycopg.types.json.set_json_loads(lambda data: "wrong", connection)
    psycopg.types.json.set_json_dumps(lambda value: '"wrong"', connection)


def set_row_factory(factory: Any) -> Callable[[psycopg.Connection], None]:
    return lambda connection: setattr(connection, "row_factory", factory)


def set_cursor_factory(factory: Any) -> Callable[[psycopg.Connection], None]:
    return lambda connection: setattr(connection, "cursor_factory", factory)


def execute(statement: str) -> Callable[[psycopg.Connection], None]:
    def alter(connection: psycopg.Connection) -> None:
        connection.execute(statement.encode())

    return alter


def impostors(connection: psycopg.Connection) -> None:
    """Objects of other schemas that take the place of PostgreSQL's own where names are searched."""
    connection.execute(
        """
        create schema impostor;
        create domain impostor.text as pg_catalog.text check (value = 'impostor');
        create domain impostor.int4 as pg_catalog.int4 check (value = -1);
        create domain impostor.timestamptz as pg_catalog.timestamptz check (value is null);
        create function impostor.clock_timestamp() returns pg_catalog.timestamptz
          language sql as 'select pg_catalog.timestamptz ''2000-01-01''';
        set search_path = impostor, pg_catalog;
        """
    )


SETTINGS: dict[str, Callable[[psycopg.Connection], None]] = {
    "nothing": lambda connection: None,
    "dict_row": set_row_factory(psycopg.rows.dict_row),
    "namedtuple_row": set_row_factory(psycopg.rows.namedtuple_row),
    "scalar_row": set_row_factory(psycopg.rows.scalar_row),
    "client cursors": set_cursor_factory(psycopg.ClientCursor),
    "raw cursors": set_cursor_factory(psycopg.RawCursor),
    "adapters of its own": set_adapters,
    "an empty search_path": execute("set search_path = ''"),
    "a search_path of impostors": impostors,
    "another time zone": execute("set timezone = 'America/New_York'"),
    "a time zone that Python does not know": execute("set timezone = '<+03>-03:30'"),
    "another DateStyle": execute("set datestyle = 'German'"),
    "another IntervalStyle": execute("set intervalstyle = 'sql_standard'"),
    "another encoding": execute("set client_encoding = 'LATIN1'"),
    "prepared statements at once": lambda connection: setattr(connection, "prepare_threshold", 0),
    "prepared statements never": lambda connection: setattr(connection, "prepare_threshold", None),
}


@pytest.fixture(params=SETTINGS)
def altered(request: pytest.FixtureRequest, database_url: str) -> Iterator[psycopg.Connection]:
    """A connection with which the caller did something."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        SETTINGS[request.param](connection)
        yield connection


def test_answers_do_not_depend_on_the_connection(altered: psycopg.Connection) -> None:
    connection = altered
    run_id = UUID(int=7)
    run = stepquota.register_workflow_run(connection, "äcme", run_id, "wörk")
    assert run == stepquota.WorkflowRun(
        tenant="äcme",
        run_id=str(run_id),
        workflow="wörk",
        runtime="default",
        status="RUNNING",
        node_path=None,
        ledger_month=run.registered_at.date().replace(day=1),
        error=None,
        registered_at=run.registered_at,
        ended_at=None,
        held_at=None,
        held_by=None,
        held_because=None,
    )
    now = datetime.datetime.now(UTC)
    assert abs(now - run.registered_at) < datetime.timedelta(hours=1)
    assert run.registered_at.tzinfo is UTC

    start = stepquota.start_workflow_step(connection, "äcme", run_id, "root", 1, "event")
    assert (start.outcome, start.allowed, start.used_count) == ("started", True, 1)
    assert isinstance(start.step_id, UUID)
    assert start.period_start == run.registered_at.replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )

    due = now + datetime.timedelta(days=1)
    wait = stepquota.open_workflow_run_wait(
        connection, "äcme", run_id, "root", "event", due, {"ö": [1, None]}
    )
    assert wait.due_at == due
    assert wait.payload == {"ö": [1, None]}
    assert wait.node_paths == ("root",)
    resolved = stepquota.resolve_workflow_run_wait(connection, "äcme", wait.wait_id, [1])
    assert resolved.payload == [1]
    (resumption,) = stepquota.claim_workflow_run_resumptions(
        connection, "worker", lease=datetime.timedelta(hours=20), tenant="äcme"
    )
    assert resumption.node_paths == ("root",)
    assert now + datetime.timedelta(hours=19) < resumption.leased_until < due
    assert stepquota.acknowledge_workflow_run_resumption(
        connection, "äcme", resumption.resumption_id
    )
    ended = stepquota.finish_workflow_run(connection, "äcme", run_id, "FAILED", {"warum": "ß"})
    assert ended.error == {"warum": "ß"}
    assert stepquota.workflow_run_quota_pause(connection, "äcme", run_id) is None
    assert {item.state for item in stepquota.status(connection)} <= {"ok", "info", "warn", "error"}
    stepquota.resume_scan(connection)


def test_statements_are_never_prepared(database_url: str) -> None:
    with psycopg.connect(database_url, prepare_threshold=0) as connection:
        for _ in range(10):
            stepquota.reserve_workflow_step(connection, "acme")
            stepquota.resolve_workflow_step_quota(connection, "acme")
        prepared = connection.execute("select statement from pg_prepared_statements").fetchall()
        assert not [statement for (statement,) in prepared if "workflow_step" in statement]


def test_asyncio_is_as_indifferent(database_url: str) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(
            database_url, prepare_threshold=0, row_factory=psycopg.rows.dict_row
        ) as connection:
            set_adapters(connection)
            await connection.execute(b"set timezone = 'America/New_York'")
            await stepquota.aio.register_workflow_run(connection, UUID(int=7), 8)
            start = await stepquota.aio.start_workflow_step(connection, UUID(int=7), 8, "root")
            assert isinstance(start.step_id, UUID)
            assert start.period_start.tzinfo is UTC
            run = await stepquota.aio.finish_workflow_run(
                connection, UUID(int=7), 8, "FAILED", {"ö": [1, None]}
            )
            assert (run.tenant, run.run_id) == (str(UUID(int=7)), "8")
            assert run.error == {"ö": [1, None]}
            own = await connection.execute("select 1::int8 as one")
            assert await own.fetchall() == [{"one": "wrong"}]
            prepared = await connection.execute(
                "select from pg_prepared_statements where statement like '%stepquota.%'"
                " and statement not like '%pg_prepared_statements%'"
            )
            assert prepared.rowcount == 0

    asyncio.run(check())


def test_settings_of_the_whole_process_do_not_matter(database_url: str) -> None:
    program = f"""
import json, uuid, psycopg
from psycopg.adapt import Loader
from psycopg.types.json import set_json_dumps, set_json_loads
class Wrong(Loader):
    format = psycopg.pq.Format.BINARY
    def load(self, data):
        return "wrong"
for name in ("uuid", "timestamptz", "jsonb", "text", "int8"):
    psycopg.adapters.register_loader(name, Wrong)
set_json_loads(lambda data: "wrong")
set_json_dumps(lambda value: '"wrong"')
import stepquota
with psycopg.connect({database_url!r}) as connection:
    stepquota.register_workflow_run(connection, "acme", "r")
    start = stepquota.start_workflow_step(connection, "acme", "r", "p")
    step = stepquota.finish_workflow_step(connection, "acme", "r", "p", 1, "FAILED", {{"a": 1}})
print(json.dumps([isinstance(start.step_id, uuid.UUID), start.used_count, step.error, step.run_id]))
"""
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert completed.stderr == ""
    assert json.loads(completed.stdout) == [True, 1, {"a": 1}, "r"]


def test_a_newer_database_may_answer_more_columns(connection: psycopg.Connection) -> None:
    connection.execute(
        """
        drop function stepquota.set_policy(text, text);
        create function stepquota.set_policy(p_name text, p_value text)
          returns table (name text, value text, previous_value text, changed boolean, later integer)
          language sql as $$ select p_name, p_value, 'old', true, 5 $$;
        """
    )
    assert stepquota.set_policy(connection, "staleness", "1 minute") == stepquota.PolicyChange(
        "staleness", "1 minute", "old", True
    )


def test_a_pooled_connection(database_url: str) -> None:
    with ConnectionPool(
        database_url, min_size=1, max_size=1, kwargs={"prepare_threshold": None}, open=True
    ) as pool:
        for _ in range(7):
            with pool.connection() as connection:
                assert stepquota.reserve_workflow_step(connection, "acme").allowed
        with pytest.raises(stepquota.UnknownRun), pool.connection() as connection:  # noqa: PT012
            stepquota.reserve_workflow_step(connection, "acme")
            stepquota.cancel_workflow_run(connection, "acme", "nobody")
        with pool.connection() as connection:
            assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 7


@pytest.mark.parametrize("autocommit", [True, False])
def test_pipeline_mode(database_url: str, autocommit: bool) -> None:
    with psycopg.connect(database_url, autocommit=autocommit) as connection:
        with connection.pipeline():
            assert stepquota.reserve_workflow_step(connection, "acme").used_count == 1
            connection.execute("select 1")
            assert stepquota.reserve_workflow_step(connection, "acme").used_count == 2
        with pytest.raises(stepquota.UnknownRun), connection.pipeline():
            stepquota.cancel_workflow_run(connection, "acme", "nobody")


def test_the_wrong_kind_of_connection_is_named(database_url: str) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as asynchronous:
            with pytest.raises(
                TypeError,
                match=r"stepquota\.tick takes a psycopg\.Connection, not AsyncConnection",
            ):
                stepquota.tick(asynchronous)  # type: ignore[arg-type]
        with psycopg.connect(database_url) as synchronous:
            with pytest.raises(
                TypeError,
                match=r"stepquota\.aio\.tick takes a psycopg\.AsyncConnection, not Connection",
            ):
                await stepquota.aio.tick(synchronous)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"takes a psycopg\.Connection, not Cursor"):
                stepquota.version(synchronous.cursor())  # type: ignore[arg-type]

    asyncio.run(check())


def test_a_cancelled_task_leaves_the_connection_in_order(
    database_url: str, autocommit: psycopg.Connection
) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            with pytest.raises(asyncio.TimeoutError):
                async with asyncio.timeout(0.3):
                    await stepquota.aio.reserve_workflow_step(connection, "acme")
            await connection.rollback()
            autocommit.execute("rollback")
            assert (await stepquota.aio.reserve_workflow_step(connection, "acme")).used_count == 2

    stepquota.reserve_workflow_step(autocommit, "acme")
    autocommit.execute("begin")
    autocommit.execute("select from stepquota.workflow_step_usage_lanes for update")
    asyncio.run(check())
