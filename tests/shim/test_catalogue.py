"""The shim against the database's catalogue: nothing is missing here, nothing is missing there."""

from __future__ import annotations

import ast
import inspect
import re
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, timedelta
from typing import Any, get_args, get_origin
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from stepquota import calls, errors, results
from stepquota.arguments import Key

FUNCTIONS = {
    name: function
    for name, function in vars(calls).items()
    if inspect.isfunction(function)
    and function.__module__ == calls.__name__
    and not name.startswith("_")
}

# Functions without the underscore of internal ones that are nobody's to call directly: the scan and
# the scheduling run with their caller's rights and reach the tables through these.
PARTS = {
    "begin_reconciliation",
    "begin_resume_scan",
    "check_batch_size",
    "check_cron",
    "check_watch_seconds",
    "confirm_workflow_step_quotas",
    "count_seconds_until",
    "find_next_due_tenant",
    "find_next_due_wait",
    "finish_resume_scan",
    "get_cron_history_cutoff",
    "get_maintenance_seconds",
    "get_scan_seconds",
    "list_cron_jobs",
    "list_due_tenants",
    "list_tenants_to_reconcile",
    "list_visible_tenants",
    "reconcile_tenant",
    "record_scheduler_job",
    "resolve_due_waits",
    "resume_due_tenant",
}
# What views call, which read the tables with the rights of who asks.
VIEWS = {"clock", "current_epoch", "peek_workflow_step_exhaustion", "peek_workflow_step_quota"}
# What stepquota.stripe_sync calls, which has their classes.
STRIPE_SYNC = {
    "begin_stripe_catch_up",
    "begin_stripe_sync",
    "bind_stripe_mirror",
    "claim_stripe_events",
    "fail_stripe_events",
    "finish_stripe_catch_up",
    "finish_stripe_events",
    "finish_stripe_sync",
    "list_stripe_witnesses",
    "list_unseen_stripe_objects",
    "record_stripe_events",
    "release_stripe_sync",
    "store_stripe_page",
}
# For the one who keeps tables in order; tick() calls them.
MAINTENANCE = {
    "make_ledger_partitions",
    "order_quota_events",
    "purge_cron_history",
    "purge_rows",
    "record_due_alerts",
    "sample_workflow_step_usage",
    "spread_stripe_changes",
    "tend_stripe_events",
    "tend_workflow_step_batches",
}

PYTHON_TYPES: dict[str, Any] = {
    "text": str,
    "boolean": bool,
    "integer": int,
    "bigint": int,
    "double precision": float,
    "uuid": UUID,
    "timestamp with time zone": datetime,
    "date": date,
    "interval": timedelta,
    "jsonb": Any,
    "text[]": tuple[str, ...],
}


def read_functions(connection: psycopg.Connection) -> dict[str, dict[str, Any]]:
    """The functions of the schema, with parameters and result columns as lists of (name, type)."""
    rows = connection.cursor(row_factory=dict_row).execute(
        """
        select p.proname as name, p.prokind = 'p' as is_procedure, p.proretset as is_set,
               format_type(p.prorettype, null) as result_type,
               obj_description(p.oid, 'pg_proc') as comment,
               (select array_agg(array[a.name::text, format_type(a.type, null), a.mode::text]
                                 order by a.ord)
                  from unnest(p.proargnames,
                              coalesce(p.proallargtypes, p.proargtypes::oid[]),
                              coalesce(p.proargmodes, array_fill('i'::"char", array[p.pronargs])))
                       with ordinality as a (name, type, mode, ord)) as arguments,
               (select array_agg(pg_get_function_arg_default(p.oid, n) order by n)
                  from generate_series(1, p.pronargs) n) as defaults,
               (select array_agg(array[a.attname::text, format_type(a.atttypid, null)]
                                 order by a.attnum)
                  from pg_type t
                  join pg_attribute a on a.attrelid = t.typrelid
                 where t.oid = p.prorettype and t.typtype = 'c' and a.attnum > 0
                   and not a.attisdropped) as result_columns
          from pg_proc p
         where p.pronamespace = 'stepquota'::regnamespace
        """
    )
    functions = {}
    for row in rows:
        assert row["name"] not in functions, f"{row['name']} is overloaded"
        arguments = row["arguments"] or []
        row["parameters"] = [(name, type_) for name, type_, mode in arguments if mode in "ib"]
        columns = [(name, type_) for name, type_, mode in arguments if mode in "tob"]
        row["columns"] = columns or [tuple(column) for column in row["result_columns"] or []]
        functions[row["name"]] = row
    return functions


@pytest.fixture
def catalogue(connection: psycopg.Connection) -> dict[str, dict[str, Any]]:
    return read_functions(connection)


def answer_of(function: Callable[..., Any]) -> Any:
    """The type that a call of it answers, without the Call around it."""
    (answer,) = get_args(inspect.signature(function).return_annotation)
    return answer


def row_of(answer: Any) -> Any:
    """The class of a row, without tuple or None around it."""
    if get_origin(answer) is tuple:
        return get_args(answer)[0]
    if isinstance(answer, types.UnionType):
        (row,) = set(get_args(answer)) - {types.NoneType}
        return row
    return answer


def without_none(annotation: Any) -> Any:
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is typing.Union:
        rest = [member for member in get_args(annotation) if member is not types.NoneType]
        return typing.Union[tuple(rest)]  # noqa: UP007 - made from a list
    return annotation


def plain_type(annotation: Any) -> Any:
    """The Python type of an annotation: no None, no words in place of str."""
    annotation = without_none(annotation)
    if get_origin(annotation) is typing.Literal:
        return str
    return annotation


def test_every_public_function_has_its_shim(catalogue: dict[str, Any]) -> None:
    public = {name for name in catalogue if not name.startswith("_")}
    assert public - PARTS - VIEWS - STRIPE_SYNC - MAINTENANCE == set(FUNCTIONS)


def test_parameters_are_those_of_the_catalogue(catalogue: dict[str, Any]) -> None:
    for name, function in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters
        assert [f"p_{parameter}" for parameter in parameters] == [
            parameter for parameter, _ in catalogue[name]["parameters"]
        ], name
        for parameter, (_, type_) in zip(
            parameters.values(), catalogue[name]["parameters"], strict=True
        ):
            annotation = without_none(parameter.annotation)
            if parameter.name in ("tenant", "run_id"):
                assert (annotation, type_) == (Key, "text"), name
            elif type_ == "jsonb":
                assert annotation is object, name
            elif type_ == "uuid":
                assert annotation == UUID | str, name
            elif type_.endswith("[]"):
                # Any sequence goes in; only tuples come out.
                assert annotation == Sequence[PYTHON_TYPES[type_.removesuffix("[]")]], name  # type: ignore[misc]
            else:
                assert plain_type(annotation) == PYTHON_TYPES[type_], (name, parameter)


def test_defaults_are_those_of_the_catalogue(
    connection: psycopg.Connection, catalogue: dict[str, Any]
) -> None:
    compared = 0
    for name, function in FUNCTIONS.items():
        defaults = catalogue[name]["defaults"] or []
        for parameter, default in zip(
            inspect.signature(function).parameters.values(), defaults, strict=True
        ):
            if default is None:
                assert parameter.default is inspect.Parameter.empty, (name, parameter)
            else:
                compared += 1
                assert connection.execute(f"select {default}".encode()).fetchall() == [
                    (parameter.default,)
                ], (name, parameter)
    assert compared > 10


def test_result_columns_are_those_of_the_catalogue(catalogue: dict[str, Any]) -> None:
    for name, function in FUNCTIONS.items():
        answer = answer_of(function)
        if catalogue[name]["is_procedure"]:
            assert answer is types.NoneType, name
            continue
        row = row_of(answer)
        if is_dataclass(row):
            annotations = typing.get_type_hints(row)
            assert [(field.name, plain_type(annotations[field.name])) for field in fields(row)] == [
                (column, PYTHON_TYPES[type_]) for column, type_ in catalogue[name]["columns"]
            ], name
        else:
            assert not catalogue[name]["columns"], name
            assert row is PYTHON_TYPES[catalogue[name]["result_type"]], name
        if get_origin(answer) is tuple or isinstance(answer, types.UnionType):
            assert catalogue[name]["is_set"], name


@pytest.mark.parametrize(
    ("class_", "table"),
    [
        (results.Tenant, "tenants"),
        (results.WorkflowRun, "workflow_runs"),
        (results.WorkflowRunStep, "workflow_run_steps"),
        (results.WorkflowRunWait, "workflow_run_waits"),
        (results.WorkflowStepBatch, "workflow_step_batches"),
        (results.WorkflowStepGrant, "workflow_step_grants"),
    ],
)
def test_fields_of_table_rows_may_be_none_where_the_column_may_be_null(
    connection: psycopg.Connection, class_: type[Any], table: str
) -> None:
    nullable = connection.execute(
        "select attname, not attnotnull from pg_attribute"
        " where attrelid = ('stepquota.' || %s)::regclass and attnum > 0 and not attisdropped",
        [table],
    ).fetchall()
    annotations = typing.get_type_hints(class_)
    assert {
        name: annotation is Any or types.NoneType in get_args(annotation)
        for name, annotation in annotations.items()
    } == dict(nullable)


@pytest.mark.parametrize(
    ("words", "constraint"),
    [
        (results.RunStatus, "workflow_runs_status_is_known"),
        (results.StepStatus, "workflow_run_steps_status_is_known"),
        (results.WaitType, "workflow_run_waits_wait_type_is_known"),
        (results.AdjustmentKind, "workflow_step_usage_adjustments_kind_is_known"),
        (results.WaitStatus, "workflow_run_waits_status_is_known"),
        (results.Enforcement, "tenants_enforcement_is_known"),
        (results.PauseReason, "workflow_run_waits_reason_is_known"),
        (results.PeriodSource, "workflow_step_quotas_period_source_is_known"),
        (results.LimitSource, "workflow_step_quotas_limit_source_is_known"),
    ],
)
def test_words_are_those_that_the_tables_allow(
    connection: psycopg.Connection, words: Any, constraint: str
) -> None:
    ((definition,),) = connection.execute(
        "select pg_get_constraintdef(oid) from pg_constraint"
        " where conname = %s and coninhcount = 0",
        [constraint],
    )
    assert set(get_args(words)) == set(re.findall(r"'(\w+)'", definition))


def test_documentation_names_the_errors_that_the_catalogue_names(catalogue: dict[str, Any]) -> None:
    classes = errors.StepquotaError.by_sqlstate
    for name, function in FUNCTIONS.items():
        documented = set(re.findall(r"^ {8}(\w+): ", raises_of(function), re.MULTILINE))
        commented = set(re.findall(r"\bWQ\d{3}\b", catalogue[name]["comment"]))
        assert documented & {class_.__name__ for class_ in classes.values()} == {
            classes[sqlstate].__name__ for sqlstate in commented
        }, name


def raises_of(function: Callable[..., Any]) -> str:
    document = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(document, ast.FunctionDef)
    return (ast.get_docstring(document, clean=False) or "").partition("Raises:")[2]
