"""Texts that want to be statements, and values that nobody means, to every function.

Each gets an answer, or an error that says what is wrong: never an internal one, never what a
statement of the caller's would end in, and the database is as before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from .calls import Function, read_functions, read_table
from .conftest import OWN, Stage

Connection = psycopg.Connection[Any]

# Wherever this is carried out, the call ends in an error that is none of ours.
_DO = "select 1/0"
INJECTIONS = [
    f"'; {_DO}; --",
    f"x'; {_DO}; select '",
    "'||(select 'x' from pg_sleep(60))||'",
    "' or pg_sleep(60) is null or '1'='1",
    "x' union select stepquota.set_tier_limit('injected', null)::text --",
    "'; select set_config('stepquota.injected', 'yes', false); --",
    f'"; {_DO}; --',
    f'x"; {_DO}; select "',
    f"$$; {_DO}; $$",
    f"$body$; {_DO}; $body$",
    f"\\'; {_DO}; --",
    f"\\\\'; {_DO}; --",
    f"/*'*/ ; {_DO}; --",
    f"%s; {_DO}; %I %L %1$s",
    "%",
    "%1$I.%2$L",
    f"E'\\x27'; {_DO}",
    f"public.injected; {_DO}",
    "pg_catalog.pg_authid",
    "pg_sleep(60)",
    "(select 1/0)",
    "1); drop schema stepquota cascade; --",
    "acme' --",
    "acme'/**/or/**/1=1/**/--",
    "U&'\\0027'; select 1",
    "current_user",
    "{acme,globex}",
    "(acme,1)",
    "'acme'::text",
    "acme\n; select 1; --",
    "a\tb\r\nc",
    "--",
    "'",
    '"',
    "\\",
    "''",
]

# For every parameter of every function: several of the above in one.
EVERYWHERE = [
    f"'; {_DO}; --",
    f"\\'; {_DO}; --",
    "'||(select 'x' from pg_sleep(60))||'",
    f'"; {_DO}; -- %s %I %L %1$s',
    f"$$; {_DO}; $$; $body$; {_DO}; $body$",
    f"1); {_DO}; select (1",
    f"public.injected; {_DO}",
]

ODD_TEXTS = [
    "",
    " ",
    "\x01\x1b[31m\x7f",
    "‮acme​",
    "é" * 127,
    "é" * 128,
    "😀" * 64,
    "\uff21\uff23\uff2d\uff25",
    "NULL",
    "null",
    "NaN",
    "x" * 256,
    "x" * 1801,
]

DEEP = "[" * 3000 + "]" * 3000

ODD: dict[str, list[Any]] = {
    "text": [None, *ODD_TEXTS],
    "text[]": [
        None,
        [],
        [None],
        ["root", None],
        [["a", "b"], ["c", "d"]],
        ["x" * 1801],
        [""],
        ["same", "same"],
    ],
    "integer": [None, 0, -1, 2147483647, -2147483648],
    "integer[]": [None, [], [None], [0], [-2147483648], [2147483647], [[1], [2]]],
    "bigint": [None, 0, -1, 10**18, 10**18 + 1, 2**63 - 1, -(2**63)],
    "bigint[]": [None, [], [None], [2**63 - 1], [-1], [[1], [2]]],
    "boolean": [None, True, False],
    "uuid": [None, "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "uuid[]": [
        None,
        [],
        [None],
        [["00000000-0000-0000-0000-000000000000"], ["00000000-0000-0000-0000-000000000001"]],
    ],
    "jsonb": [
        None,
        "null",
        "[]",
        "{}",
        '""',
        "1e400",
        "-0",
        "[null]",
        '{"id": null, "object": {}}',
        '{"object": "subscription", "id": "sub_1", "items": {"data": [null]}}',
        '{"object": "subscription", "id": 1e300}',
        '{"object": "price", "id": "price_1", "metadata": {"workflow_step_limit": 1e400}}',
        '{"object": "product", "id": "prod_1", "metadata": {"workflow_step_limit": "'
        + "9" * 400
        + '"}}',
        '{"object": "subscription", "id": "sub_2", "status": "active", "customer": "cus_1",'
        ' "created": 1e30, "current_period_start": 1e30, "current_period_end": -1e30,'
        ' "items": {"object": "list", "data": []}}',
        '{"object": "customer", "id": "cus_1", "created": 9223372036854775807,'
        ' "metadata": {"tenant": 5}}',
        '[{"id": "evt_1", "type": "x", "created": 1e300, "object_id": null}]',
        json.dumps({"\\u0000": "\\u0000", "\x01": "\x7f"}),
        DEEP,
        '{"a":' * 3000 + "1" + "}" * 3000,
    ],
    "interval": [
        None,
        "0",
        "-1 second",
        "178000000 years",
        "-178000000 years",
        "2147483647 days 2147483647 hours",
        "1 microsecond",
    ],
    "timestamp with time zone": [
        None,
        "infinity",
        "-infinity",
        "294276-12-31 23:59:59.999999+00",
        "4713-01-01 00:00:00+00 BC",
        "epoch",
    ],
}

# Not ours to word: a procedure that commits, called in a transaction; and missing rights.
_ALLOWED = ("WQ", "2D000", "42501")


@pytest.fixture(scope="module")
def functions(stage: Stage) -> dict[str, Function]:
    with stage.database.connect() as connection:
        return read_functions(connection)


@pytest.fixture
def session(stage: Stage) -> Iterator[Connection]:
    with stage.login(stage.all_rights) as connection:
        connection.execute("set statement_timeout = '20s'")
        yield connection


def everything(connection: Connection) -> dict[str, list[str]]:
    """All rows of all tables."""
    return {
        table: [
            row[0]
            for row in connection.execute(f"select t::text from {table} t order by 1".encode())
        ]
        for table in Stage.tables(connection)
    }


def complaint(connection: Connection, function: Function, values: list[Any]) -> str | None:
    """What is wrong with how a call ends; None if nothing is."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(function.statement().encode(), values)
    except psycopg.Error as error:
        code = error.sqlstate or "no SQLSTATE"
        if not code.startswith(_ALLOWED):
            return f"{code}: {error.diag.message_primary or error}"
        words = (error.diag.message_primary or "") + (error.diag.message_detail or "")
        if code.startswith("WQ") and not (error.diag.message_detail and error.diag.message_hint):
            return f"{code} without detail or hint"
        if len(words) > 3000:
            return f"{code} with {len(words)} characters"
    return None


def complaints(
    connection: Connection,
    functions: dict[str, Function],
    kinds: tuple[str, ...],
    odd: dict[str, list[Any]],
) -> list[str]:
    found = []
    for function in functions.values():
        if function.name == "watch":  # It would watch for a second each time.
            continue
        for place, (name, kind) in enumerate(function.parameters):
            for value in odd[kind] if kind in kinds else []:
                values = function.values(OWN)
                values[place] = value
                wrong = complaint(connection, function, values)
                if wrong:
                    found.append(f"{function.name}({name} => {str(value)[:40]!r}): {wrong}")
    return found


def test_texts_are_data(stage: Stage, functions: dict[str, Function], session: Connection) -> None:
    with stage.database.connect() as superuser:
        before = everything(superuser)
        assert complaints(session, functions, ("text",), {"text": EVERYWHERE}) == []
        listed = {"text[]": [[injection] for injection in EVERYWHERE]}
        assert complaints(session, functions, ("text[]",), listed) == []
        objects = {
            "jsonb": [
                json.dumps(shape)
                for injection in EVERYWHERE
                for shape in (
                    {"object": injection, "id": injection, injection: injection},
                    {"object": "customer", "id": injection, "metadata": {"tenant": injection}},
                    [{"id": injection, "type": injection, "created": 1, "object_id": injection}],
                )
            ]
        }
        assert complaints(session, functions, ("jsonb",), objects) == []
        assert session.execute("select current_setting('stepquota.injected', true)").fetchone() in (
            (None,),
            ("",),
        )
        assert everything(superuser) == before


@pytest.mark.parametrize("text", INJECTIONS)
def test_texts_arrive_as_they_are(stage: Stage, text: str) -> None:
    """As tenant, run, path, type, runtime, worker, reason and consumer."""
    with stage.login(stage.all_rights, autocommit=False) as connection:
        rows = connection.execute(
            """
            select r.tenant, r.run_id, r.workflow, r.runtime
              from stepquota.register_workflow_run(%(text)s, %(text)s, %(text)s, %(text)s) r""",
            {"text": text},
        ).fetchall()
        assert rows == [(text,) * 4]
        outcome = connection.execute(
            "select outcome"
            "  from stepquota.start_workflow_step(%(text)s, %(text)s, %(text)s, 1, %(text)s)",
            {"text": text},
        ).fetchone()
        assert outcome == ("started",)
        connection.execute(
            "select stepquota.hold_workflow_run(%(text)s, %(text)s, %(text)s)", {"text": text}
        )
        connection.execute("select stepquota.claim_quota_events(%(text)s)", {"text": text})
        connection.execute("select stepquota.set_tier_limit(%(text)s, 7)", {"text": text})
        connection.execute("select stepquota.set_tenant_plan(%(text)s, %(text)s)", {"text": text})
        found = connection.execute(
            """
            select s.tenant, s.run_id, s.node_path, s.step_type, r.held_because, n.plan, q.tier,
                   c.consumer
              from stepquota.workflow_run_steps s
              join stepquota.workflow_runs r using (tenant, run_id)
              join stepquota.tenants n using (tenant)
              join stepquota.workflow_step_quotas q using (tenant)
              join stepquota.quota_event_consumers c on c.consumer = n.plan
             where s.tenant = %s""",
            [text],
        ).fetchall()
        assert found == [(text,) * 8]
        connection.rollback()


def test_odd_values_are_answered_or_refused(
    stage: Stage, functions: dict[str, Function], session: Connection
) -> None:
    with stage.database.connect() as superuser:
        before = everything(superuser)
        found = complaints(session, functions, tuple(ODD), ODD)
        assert not found, "\n".join(found)
        assert everything(superuser) == before


def test_huge_texts_are_refused_shortly(
    functions: dict[str, Function], session: Connection
) -> None:
    huge = "x" * 1_000_000
    values: dict[str, list[Any]] = {
        "text": [huge],
        "text[]": [[huge]],
        "jsonb": [json.dumps({"object": huge, "id": huge})],
    }
    # Ten megabytes where a step is asked for, and where what callers send is kept.
    larger = "x" * 10_000_000
    for name in ("reserve_workflow_step", "start_workflow_step", "finish_workflow_run"):
        few = {name: functions[name]}
        found = complaints(session, few, ("text",), {"text": [larger]})
        assert not found, "\n".join(found)
        assert complaints(session, few, ("jsonb",), {"jsonb": [json.dumps(larger)]}) == []
    found = complaints(session, functions, tuple(values), values)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "value", [b"ac\x00me", b"\xed\xa0\x80", b"\xff\xfe", b"\xc0\x80", b"\xf5\x80\x80\x80"]
)
def test_bytes_that_are_no_text_reach_no_function(session: Connection, value: bytes) -> None:
    """PostgreSQL refuses them before anything is called."""
    result = session.pgconn.exec_params(
        b"select stepquota.reserve_workflow_step($1)", [value], [25], [1]
    )
    assert result.error_field(67) in (b"22021", b"22P05")  # 67: the SQLSTATE
    assert session.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("value", ["ac\x00me", "\ud800", "a\udfff"])
def test_the_shim_says_what_cannot_be_sent(session: Connection, value: str) -> None:
    import stepquota

    with pytest.raises((ValueError, TypeError, psycopg.DataError, UnicodeError)):
        stepquota.reserve_workflow_step(session, value)
    assert session.execute("select 1").fetchone() == (1,)


def test_a_function_that_trusts_a_text_is_seen(
    stage: Stage, functions: dict[str, Function]
) -> None:
    """A function that makes a statement of its text."""
    trusting = {"trusts": Function("trusts", False, (("p_tenant", "text"),))}
    stage.database.run("""
        create function stepquota.trusts(p_tenant text) returns void language plpgsql
          security definer set search_path = pg_catalog, pg_temp
          as $$begin execute 'select ''' || p_tenant || ''''; end$$;""")
    try:
        stage.database.run(
            f"grant execute on function stepquota.trusts(text) to {stage.all_rights}"
        )
        with stage.login(stage.all_rights) as connection:
            assert complaints(connection, trusting, ("text",), {"text": EVERYWHERE[:1]}) != []
    finally:
        stage.database.run("drop function stepquota.trusts(text)")


def test_the_server_is_alive_and_right(stage: Stage) -> None:
    with stage.database.connect() as connection:
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
    assert set(read_table())
