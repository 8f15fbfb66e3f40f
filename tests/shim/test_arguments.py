"""Python values on their way to the database: what is sent, and what is refused before that."""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import psycopg
import pytest

import stepquota
from stepquota.arguments import convert_key

RUN = UUID("3F2504E0-4F89-41D3-9A0C-0305E82C3301")


class Tenant(str, enum.Enum):  # noqa: UP042 - str() of these is the name, not the value
    ACME = "acme"


class Number(enum.IntEnum):
    SEVEN = 7


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("acme", "acme"),
        (42, "42"),
        (-1, "-1"),
        (2**80, str(2**80)),
        (RUN, "3f2504e0-4f89-41d3-9a0c-0305e82c3301"),
        (Tenant.ACME, "acme"),
        (Number.SEVEN, "7"),
        ("", ""),
        (None, None),
    ],
)
def test_keys_become_text(value: Any, sent: str | None) -> None:
    converted = convert_key("tenant", value)
    assert converted == sent
    assert type(converted) in (str, type(None))


@pytest.mark.parametrize("value", [True, False, 1.0, b"acme", ["acme"], object()])
def test_other_types_are_no_keys(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^tenant must be str, int or UUID, not "):
        convert_key("tenant", value)


@pytest.mark.parametrize(
    ("tenant", "run_id", "stored"),
    [
        ("acme", "run-1", ("acme", "run-1")),
        (42, 7, ("42", "7")),
        (RUN, RUN, (str(RUN), str(RUN))),
        (Tenant.ACME, Number.SEVEN, ("acme", "7")),
    ],
)
def test_keys_of_every_type_reach_the_tables(
    connection: psycopg.Connection, tenant: Any, run_id: Any, stored: tuple[str, str]
) -> None:
    run = stepquota.register_workflow_run(connection, tenant, run_id)
    start = stepquota.start_workflow_step(connection, tenant, run_id, "root.steps[0]")
    assert (run.tenant, run.run_id) == stored
    assert start.outcome == "started"
    ledger = connection.execute("select tenant, run_id from stepquota.workflow_run_steps")
    assert ledger.fetchall() == [stored]


def test_two_spellings_of_a_key_are_one_tenant(connection: psycopg.Connection) -> None:
    stepquota.reserve_workflow_step(connection, RUN)
    assert stepquota.resolve_workflow_step_quota(connection, str(RUN)).used_count == 1
    stepquota.reserve_workflow_step(connection, 42)
    assert stepquota.resolve_workflow_step_quota(connection, "42").used_count == 1


@pytest.mark.parametrize("tenant", ["", None])
def test_empty_and_missing_keys_are_refused_by_sql(
    connection: psycopg.Connection, tenant: Any
) -> None:
    with pytest.raises(stepquota.InvalidArgument) as caught:
        stepquota.reserve_workflow_step(connection, tenant)
    assert "p_tenant" in caught.value.message
    assert caught.value.detail
    assert caught.value.hint


AWARE = datetime(2026, 4, 1, 2, 0, tzinfo=timezone(timedelta(hours=2)))

REFUSED: list[tuple[str, type[Exception], str, Callable[[psycopg.Connection], object]]] = [
    (
        "a boolean tenant",
        TypeError,
        "tenant must be str, int or UUID, not bool: True",
        lambda c: stepquota.reserve_workflow_step(c, True),
    ),
    (
        "a float run id",
        TypeError,
        "run_id must be str, int or UUID, not float: 1.5",
        lambda c: stepquota.register_workflow_run(c, "acme", 1.5),  # type: ignore[arg-type]
    ),
    (
        "a number for a text",
        TypeError,
        "node_path must be str, not int: 3",
        lambda c: stepquota.start_workflow_step(c, "acme", "r", 3),  # type: ignore[arg-type]
    ),
    (
        "a text for a number",
        TypeError,
        "attempt must be int, not str: '1'",
        lambda c: stepquota.start_workflow_step(c, "acme", "r", "p", "1"),  # type: ignore[arg-type]
    ),
    (
        "a boolean for a number",
        TypeError,
        "attempt must be int, not bool: True",
        lambda c: stepquota.start_workflow_step(c, "acme", "r", "p", True),
    ),
    (
        "a number of more than 32 bits",
        ValueError,
        "attempt does not fit in 32 bits: 2147483648",
        lambda c: stepquota.start_workflow_step(c, "acme", "r", "p", 2**31),
    ),
    (
        "a number of more than 64 bits",
        ValueError,
        "step_limit does not fit in 64 bits: -9223372036854775809",
        lambda c: stepquota.set_tier_limit(c, "solo", -(2**63) - 1),
    ),
    (
        "a moment without a time zone",
        ValueError,
        "period_start has no time zone: datetime.datetime(2026, 4, 1, 0, 0)",
        lambda c: stepquota.reconcile_workflow_step_usage(c, "acme", datetime(2026, 4, 1)),
    ),
    (
        "a date for a moment",
        TypeError,
        "fetched_at must be datetime, not date: datetime.date(2026, 4, 1)",
        lambda c: stepquota.apply_stripe_object(c, {}, date(2026, 4, 1)),  # type: ignore[arg-type]
    ),
    (
        "a number for a span",
        TypeError,
        "lease must be timedelta, not int: 60",
        lambda c: stepquota.claim_workflow_run_resumptions(c, "w", 1, 60),  # type: ignore[arg-type]
    ),
    (
        "a text that is no uuid",
        ValueError,
        "wait_id is not a UUID: 'nope'",
        lambda c: stepquota.resolve_workflow_run_wait(c, "acme", "nope"),
    ),
    (
        "a number for a uuid",
        TypeError,
        "resumption_id must be UUID or str, not int: 5",
        lambda c: stepquota.acknowledge_workflow_run_resumption(c, "acme", 5),  # type: ignore[arg-type]
    ),
    (
        "an object that is no JSON",
        TypeError,
        "payload cannot be written as JSON: Object of type UUID is not JSON serializable",
        lambda c: stepquota.resolve_workflow_run_wait(c, "acme", RUN, {"id": RUN}),
    ),
    (
        "a number that JSON has not",
        ValueError,
        "error cannot be written as JSON: Out of range float values are not JSON compliant",
        lambda c: stepquota.finish_workflow_run(c, "acme", "r", "FAILED", float("nan")),
    ),
]


@pytest.mark.parametrize(
    ("error", "message", "call"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_cannot_be_sent_is_refused_and_the_transaction_survives(
    connection: psycopg.Connection,
    error: type[Exception],
    message: str,
    call: Callable[[psycopg.Connection], object],
) -> None:
    stepquota.reserve_workflow_step(connection, "acme")
    with pytest.raises(error) as caught:
        call(connection)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    connection.commit()
    assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 1


@pytest.mark.parametrize(
    "value",
    [
        {"text": "ä € 漢 \\ ' \" %s", "list": [1, 2.5, None, True], "nested": {"": {}}},
        ["a", ["b"]],
        "only a text",
        12,
        False,
        [],
    ],
)
def test_json_goes_there_and_back(connection: psycopg.Connection, value: Any) -> None:
    stepquota.register_workflow_run(connection, "acme", "r")
    stepquota.start_workflow_step(connection, "acme", "r", "root", 1, "event")
    wait = stepquota.open_workflow_run_wait(connection, "acme", "r", "root", "event", None, value)
    assert wait.payload == value
    assert type(wait.payload) is type(value)


def test_none_is_null_and_not_json_null(connection: psycopg.Connection) -> None:
    stepquota.register_workflow_run(connection, "acme", "r")
    run = stepquota.finish_workflow_run(connection, "acme", "r", "FAILED", None)
    assert run.error is None
    stored = connection.execute("select error is null from stepquota.workflow_runs").fetchall()
    assert stored == [(True,)]


def test_moments_keep_their_instant_and_come_back_in_utc(connection: psycopg.Connection) -> None:
    stepquota.register_workflow_run(connection, "acme", "r")
    stepquota.start_workflow_step(connection, "acme", "r", "root", 1, "time")
    wait = stepquota.open_workflow_run_wait(connection, "acme", "r", "root", "time", AWARE)
    assert wait.due_at == AWARE
    assert wait.due_at.tzinfo is UTC
    stored = connection.execute(
        "select due_at = timestamptz '2026-04-01 00:00:00+00' from stepquota.workflow_run_waits"
    ).fetchall()
    assert stored == [(True,)]


def test_uuids_may_be_given_as_text(connection: psycopg.Connection) -> None:
    stepquota.register_workflow_run(connection, "acme", "r")
    stepquota.start_workflow_step(connection, "acme", "r", "root", 1, "event")
    wait = stepquota.open_workflow_run_wait(connection, "acme", "r", "root", "event")
    resolved = stepquota.resolve_workflow_run_wait(connection, "acme", str(wait.wait_id).upper())
    assert resolved.wait_id == wait.wait_id
    assert resolved.status == "RESOLVED"


def test_a_lease_is_a_span_of_time(connection: psycopg.Connection) -> None:
    stepquota.register_workflow_run(connection, "acme", "r")
    stepquota.start_workflow_step(connection, "acme", "r", "root", 1, "event")
    wait = stepquota.open_workflow_run_wait(connection, "acme", "r", "root", "event")
    stepquota.resolve_workflow_run_wait(connection, "acme", wait.wait_id)
    lease = timedelta(hours=20, seconds=1, microseconds=3)
    ((before,),) = connection.execute("select clock_timestamp()").fetchall()
    (claimed,) = stepquota.claim_workflow_run_resumptions(connection, "worker", lease=lease)
    ((after,),) = connection.execute("select clock_timestamp()").fetchall()
    assert before + lease <= claimed.leased_until <= after + lease
