"""Every SQLSTATE of class WQ is an exception class of its own; everything else passes through."""

from __future__ import annotations

import asyncio
import pickle
import re
from pathlib import Path

import psycopg
import pytest

import stepquota
import stepquota.aio
from stepquota import errors

SQL_DIRECTORY = Path(__file__).parents[2] / "sql"
CLASSES = errors.StepquotaError.by_sqlstate


def raise_in_version(connection: psycopg.Connection, sqlstate: str) -> None:
    """Let stepquota.version() raise, until the transaction is rolled back."""
    connection.execute(
        f"""
        create or replace function stepquota.version() returns text language plpgsql as $$
        begin
          raise exception using errcode = '{sqlstate}', message = 'what is wrong: ä',
            detail = 'Tenant ''acme''.', hint = 'Do something else.';
        end $$
        """.encode()
    )


def test_classes_are_the_sqlstates_that_sql_raises() -> None:
    raised = {
        code
        for file in SQL_DIRECTORY.glob("*.sql")
        for code in re.findall(r"errcode\s*=\s*'(WQ\w{3})'", file.read_text())
    }
    # WQ000 rolls one attempt on a lane back and never leaves the function that raises it.
    assert raised - {"WQ000"} == set(CLASSES)


def test_every_class_is_exported_and_documented() -> None:
    for sqlstate, class_ in CLASSES.items():
        assert class_.sqlstate == sqlstate
        assert class_.__name__ in errors.__all__
        assert getattr(stepquota, class_.__name__) is class_
        assert class_.__doc__
    assert set(errors.__all__) == {"StepquotaError"} | {c.__name__ for c in CLASSES.values()}


@pytest.mark.parametrize("sqlstate", sorted(CLASSES))
def test_each_sqlstate_is_raised_as_its_class(
    connection: psycopg.Connection, sqlstate: str
) -> None:
    raise_in_version(connection, sqlstate)
    with pytest.raises(CLASSES[sqlstate]) as caught:
        stepquota.version(connection)
    error = caught.value
    assert type(error) is CLASSES[sqlstate]
    assert isinstance(error, errors.StepquotaError)
    assert isinstance(error, psycopg.DatabaseError)
    assert error.sqlstate == error.diag.sqlstate == sqlstate
    assert error.message == "what is wrong: ä"
    assert error.detail == "Tenant 'acme'."
    assert error.hint == "Do something else."
    assert "what is wrong: ä" in str(error)
    assert type(error.__cause__) is psycopg.DatabaseError


def test_an_sqlstate_of_a_newer_database_is_the_base_class(connection: psycopg.Connection) -> None:
    raise_in_version(connection, "WQ999")
    with pytest.raises(errors.StepquotaError) as caught:
        stepquota.version(connection)
    assert type(caught.value) is errors.StepquotaError
    assert caught.value.sqlstate == "WQ999"
    assert caught.value.message == "what is wrong: ä"


@pytest.mark.parametrize(
    ("sqlstate", "class_"),
    [
        ("40001", psycopg.errors.SerializationFailure),
        ("40P01", psycopg.errors.DeadlockDetected),
        ("55P03", psycopg.errors.LockNotAvailable),
        ("P0001", psycopg.errors.RaiseException),
        ("ZZ001", psycopg.DatabaseError),
    ],
)
def test_other_errors_pass_through_untouched(
    connection: psycopg.Connection, sqlstate: str, class_: type[psycopg.Error]
) -> None:
    raise_in_version(connection, sqlstate)
    with pytest.raises(class_) as caught:
        stepquota.version(connection)
    assert type(caught.value) is class_
    assert caught.value.__cause__ is None


def test_errors_survive_pickling(connection: psycopg.Connection) -> None:
    with pytest.raises(stepquota.UnknownRun) as caught:
        stepquota.cancel_workflow_run(connection, "acme", "nobody")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert type(copy) is stepquota.UnknownRun
    assert (copy.sqlstate, copy.message, copy.detail, copy.hint) == (
        "WQ002",
        caught.value.message,
        caught.value.detail,
        caught.value.hint,
    )


def test_an_error_rolls_back_its_savepoint_only(connection: psycopg.Connection) -> None:
    with connection.transaction():
        stepquota.reserve_workflow_step(connection, "acme")
        with pytest.raises(stepquota.UnknownRun), connection.transaction():  # noqa: PT012
            stepquota.reserve_workflow_step(connection, "acme")
            stepquota.cancel_workflow_run(connection, "acme", "nobody")
    assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 1


def test_asyncio_raises_the_same_classes(database_url: str) -> None:
    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(database_url) as connection:
            with pytest.raises(stepquota.UnknownRun) as caught:
                await stepquota.aio.cancel_workflow_run(connection, "acme", "nobody")
            assert type(caught.value.__cause__) is psycopg.DatabaseError
            assert caught.value.sqlstate == "WQ002"

    asyncio.run(check())


def test_a_lost_connection_is_psycopgs_error(database_url: str) -> None:
    with psycopg.connect(database_url) as connection, psycopg.connect(database_url) as other:
        other.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            stepquota.version(connection)
        with pytest.raises(psycopg.OperationalError):
            stepquota.tick(connection)
