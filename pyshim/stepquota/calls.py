"""The SQL functions of stepquota, each written once: parameters, defaults, answer, documentation.

A function here makes the :class:`Call` of the SQL function of the same name and touches no
connection. ``stepquota`` and ``stepquota.aio`` make of each a function that takes a connection
before these parameters and carries the call out; signatures and documentation are those given here.
"""

# No "from __future__ import annotations": the signatures shown by help() are made of real types.

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from psycopg.rows import BaseRowFactory, args_row, scalar_row

from . import results
from .arguments import (
    Argument,
    Key,
    boolean,
    int4,
    int4_array,
    int8,
    int8_array,
    interval,
    jsonb,
    key,
    text,
    text_array,
    timestamptz,
    uuid,
    uuid_array,
)

Answer = TypeVar("Answer")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """A statement that calls one SQL function, and how to read what it returns.

    Attributes:
        function: the name of the SQL function.
        statement: one statement, with a %s for each parameter.
        parameters: the values.
        make_row: makes one row of the answer from the columns of one row.
        make_answer: makes the answer from all rows. None for a procedure, which answers nothing,
            commits as it goes and so cannot be called inside a transaction.
    """

    function: str
    statement: bytes
    parameters: tuple[object, ...]
    make_row: BaseRowFactory[Any]
    make_answer: Callable[[list[Any]], Answer] | None


# -- Reserve, resolve, explain


def reserve_workflow_step(tenant: Key) -> Call[results.WorkflowStepQuota]:
    """Take one unit of the tenant's quota, if there is one, for a caller that keeps its own ledger.

    Every call counts; nothing makes it idempotent. Runtimes that let stepquota keep the ledger use
    start_workflow_step instead. A denial is an answer with ``allowed`` False, not an error.

    Args:
        tenant: the tenant. One that is not known gets the default tier on the calendar month.

    Returns:
        The quota after it. ``used_count`` contains the unit when ``allowed``.

    Raises:
        InvalidArgument: the tenant is None, empty or longer than 255 bytes.
        psycopg.errors.LockNotAvailable: another transaction held the counter for longer than
            ``lock_timeout``.
    """
    return _row(results.WorkflowStepQuota, "reserve_workflow_step", tenant=key(tenant))


def reserve_workflow_steps(
    tenant: Key, steps: int, allow_partial: bool = False
) -> Call[results.WorkflowStepsQuota]:
    """Take many units in one round trip, for a caller that keeps its own ledger.

    Args:
        tenant: the tenant.
        steps: how many units, from 1.
        allow_partial: whether to take what is left where that is less; else it is all or none.

    Returns:
        The quota after it, and ``granted``, the number of units taken.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or the number is below 1.
        psycopg.errors.LockNotAvailable: another transaction held the counter for longer than
            ``lock_timeout``.
    """
    return _row(
        results.WorkflowStepsQuota,
        "reserve_workflow_steps",
        tenant=key(tenant),
        steps=int4(steps),
        allow_partial=boolean(allow_partial),
    )


def open_workflow_step_batch(
    tenant: Key,
    batch_id: UUID | str,
    steps: int,
    holder: str,
    close_batch_ids: Sequence[UUID] | None = None,
    close_handed_out: Sequence[int] | None = None,
) -> Call[results.WorkflowStepsQuota]:
    """Take units for many threads or tasks of a process, which hands them out itself.

    For batchers; Reserver is the one of this package. Commit at once: until then everybody else of
    the tenant may be kept waiting. With nothing granted, no batch is opened.

    Args:
        tenant: the tenant.
        batch_id: a new id. The same one again takes nothing and answers what the first call got.
        steps: how many units, from 1; fewer are taken where fewer are left.
        holder: who takes them, for people.
        close_batch_ids: batches of the tenant that are done with. One that is not open is passed
            over.
        close_handed_out: how many units of each of them were handed out. The rest is given back.

    Returns:
        The quota after it, and ``granted``, the number of units taken.

    Raises:
        InvalidArgument: an argument is None, empty, out of range or too long.
        BatchClosed: the batch is closed already.
        psycopg.errors.LockNotAvailable: another transaction held the counter for longer than
            ``lock_timeout``.
        psycopg.errors.SerializationFailure: the same batch was being opened by another call.
    """
    return _row(
        results.WorkflowStepsQuota,
        "open_workflow_step_batch",
        tenant=key(tenant),
        batch_id=uuid(batch_id),
        steps=int4(steps),
        holder=text(holder),
        close_batch_ids=uuid_array(close_batch_ids),
        close_handed_out=int8_array(close_handed_out),
    )


def close_workflow_step_batch(
    tenant: Key, batch_id: UUID | str, handed_out: int
) -> Call[results.WorkflowStepBatch]:
    """Close a batch: what was not handed out is given back, if its period is still the tenant's.

    Safe to call again.

    Args:
        tenant: the tenant.
        batch_id: the batch.
        handed_out: how many of its units steps were started with.

    Returns:
        The batch, closed.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or the number is None, negative or
            more than was granted.
        UnknownBatch: the tenant has no such batch.
        BatchClosed: it was closed with another number.
    """
    return _row(
        results.WorkflowStepBatch,
        "close_workflow_step_batch",
        tenant=key(tenant),
        batch_id=uuid(batch_id),
        handed_out=int8(handed_out),
    )


def resolve_workflow_step_quota(tenant: Key) -> Call[results.WorkflowStepQuota]:
    """The tenant's quota of the current period and its use, without taking anything.

    Args:
        tenant: the tenant.

    Returns:
        The quota; ``allowed`` says whether a unit is free.

    Raises:
        InvalidArgument: the tenant is None, empty or longer than 255 bytes.
    """
    return _row(results.WorkflowStepQuota, "resolve_workflow_step_quota", tenant=key(tenant))


def refresh_workflow_step_quota(tenant: Key) -> Call[results.WorkflowStepQuota]:
    """Resolve the tenant's quota anew from its inputs, store it, and resume what can go on.

    For inputs that were edited by hand; whatever is changed through stepquota's functions is
    refreshed by them.

    Args:
        tenant: the tenant.

    Returns:
        The quota after it.

    Raises:
        InvalidArgument: the tenant is None, empty or longer than 255 bytes.
    """
    return _row(results.WorkflowStepQuota, "refresh_workflow_step_quota", tenant=key(tenant))


def explain_workflow_step_quota(tenant: Key) -> Call[tuple[results.QuotaExplanation, ...]]:
    """How the tenant's quota comes about: what was looked at, what won, and why the others lost.

    Args:
        tenant: the tenant.

    Returns:
        Lines for people, in the order in which they are to be read.

    Raises:
        InvalidArgument: the tenant is None, empty or longer than 255 bytes.
    """
    return _rows(results.QuotaExplanation, "explain_workflow_step_quota", tenant=key(tenant))


# -- Runs and their steps


def register_workflow_run(
    tenant: Key, run_id: Key, workflow: str | None = None, runtime: str = "default"
) -> Call[results.WorkflowRun]:
    """Register a run, which counts nothing. Safe to call again.

    Args:
        tenant: the tenant.
        run_id: the run's key, unique within the tenant.
        workflow: the workflow's name, for people.
        runtime: the program family that executes the run; only it will claim its resumptions.

    Returns:
        The run: RUNNING when it is new, else as it is.

    Raises:
        InvalidArgument: a key or a name is None, empty or too long.
        RunRegisteredDifferently: the run exists with another workflow or runtime.
    """
    return _row(
        results.WorkflowRun,
        "register_workflow_run",
        tenant=key(tenant),
        run_id=key(run_id),
        workflow=text(workflow),
        runtime=text(runtime),
    )


def start_workflow_step(
    tenant: Key,
    run_id: Key,
    node_path: str,
    attempt: int = 1,
    step_type: str = "action",
    delivery: int | None = None,
) -> Call[results.WorkflowStepStart]:
    """Ask for one attempt of a step: take a unit and write the ledger row, or pause the run.

    Execute the step when the answer's ``execute`` is True. Asking again for the same attempt gives
    the same decision and counts nothing; a refusal is decided anew each time.

    Args:
        tenant: the tenant.
        run_id: the run.
        node_path: one visit of one node, with the iteration of every loop around it, for instance
            ``root.steps[0].body[7]``.
        attempt: the number of the try, from 1. Every try counts one unit.
        step_type: what kind of step: ``action``, ``forEach``, ``event`` and so on.
        delivery: the number that came with the claimed resumption, so that a worker that lost its
            lease is refused. None takes no part in that.

    Returns:
        The decision and the quota's figures. When it is ``quota_paused`` the run is WAITING at this
        node, or will be when its other branches wait as well, and goes on by itself.

    Raises:
        InvalidArgument: an argument is None, empty, out of range or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
        StaleDelivery: the resumption was delivered to another worker since.
        psycopg.errors.LockNotAvailable: another transaction held the run or the counter for longer
            than ``lock_timeout``.
    """
    return _row(
        results.WorkflowStepStart,
        "start_workflow_step",
        tenant=key(tenant),
        run_id=key(run_id),
        node_path=text(node_path),
        attempt=int4(attempt),
        step_type=text(step_type),
        delivery=int8(delivery),
    )


def start_workflow_steps(
    tenant: Key,
    run_id: Key,
    node_paths: Sequence[str],
    attempts: Sequence[int] | None = None,
    step_type: str = "action",
    delivery: int | None = None,
) -> Call[tuple[results.WorkflowStepsStart, ...]]:
    """Ask for many attempts of one run in one round trip, for a whole forEach.

    What fits is started, in the order given; at the first that does not the run is paused. The
    paths after it are neither started nor part of the pause: ask for them again when the run is
    resumed.

    Args:
        tenant: the tenant.
        run_id: the run.
        node_paths: the visits, at most 10000.
        attempts: the number of the try of each, from 1; None is 1 for all.
        step_type: what kind of step, for all of them.
        delivery: the number that came with the claimed resumption.

    Returns:
        A decision a path, in the order given.

    Raises:
        InvalidArgument: an argument is None, empty, out of range or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
        StaleDelivery: the resumption was delivered to another worker since.
        psycopg.errors.LockNotAvailable: another transaction held the run or the counter for longer
            than ``lock_timeout``.
    """
    return _rows(
        results.WorkflowStepsStart,
        "start_workflow_steps",
        tenant=key(tenant),
        run_id=key(run_id),
        node_paths=text_array(node_paths),
        attempts=int4_array(attempts),
        step_type=text(step_type),
        delivery=int8(delivery),
    )


def finish_workflow_step(
    tenant: Key,
    run_id: Key,
    node_path: str,
    attempt: int,
    status: Literal["SUCCEEDED", "FAILED", "RETRY_SCHEDULED", "CANCELED"],
    error: object = None,
    delivery: int | None = None,
) -> Call[results.WorkflowRunStep]:
    """Record how an attempt ended. The unit stays used. Safe to call again with the same status.

    Args:
        tenant: the tenant.
        run_id: the run.
        node_path: the visit.
        attempt: the number of the try.
        status: how it ended.
        error: what it failed with: anything that the json module can write.
        delivery: the number that came with the claimed resumption.

    Returns:
        The ledger row after it.

    Raises:
        InvalidArgument: an argument is None, empty, out of range or not a known word.
        UnknownRun: the tenant has no such run.
        UnknownStep: the attempt was never started.
        StepAlreadyFinished: it is finished with another status.
        RunEnded: the run has ended.
        StaleDelivery: the resumption was delivered to another worker since.
    """
    return _row(
        results.WorkflowRunStep,
        "finish_workflow_step",
        tenant=key(tenant),
        run_id=key(run_id),
        node_path=text(node_path),
        attempt=int4(attempt),
        status=text(status),
        error=jsonb(error),
        delivery=int8(delivery),
    )


def finish_workflow_run(
    tenant: Key,
    run_id: Key,
    status: Literal["SUCCEEDED", "FAILED", "CANCELED"],
    error: object = None,
    delivery: int | None = None,
) -> Call[results.WorkflowRun]:
    """Record how a run ended, which also closes its waits and resumptions.

    Args:
        tenant: the tenant.
        run_id: the run.
        status: how it ended.
        error: what it failed with: anything that the json module can write.
        delivery: the number that came with the claimed resumption.

    Returns:
        The run after it.

    Raises:
        InvalidArgument: a key is None, empty or too long, or the status is not a known word.
        UnknownRun: the tenant has no such run.
        RunEnded: it ended before, with another status.
        StaleDelivery: the resumption was delivered to another worker since.
    """
    return _row(
        results.WorkflowRun,
        "finish_workflow_run",
        tenant=key(tenant),
        run_id=key(run_id),
        status=text(status),
        error=jsonb(error),
        delivery=int8(delivery),
    )


def cancel_workflow_run(tenant: Key, run_id: Key) -> Call[results.WorkflowRun]:
    """Cancel a run with its started attempts, waits and resumptions. Safe to call again.

    Args:
        tenant: the tenant.
        run_id: the run.

    Returns:
        The run after it.

    Raises:
        InvalidArgument: a key is None, empty or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: it ended before, otherwise than by being cancelled.
    """
    return _row(results.WorkflowRun, "cancel_workflow_run", tenant=key(tenant), run_id=key(run_id))


# -- Waits


def open_workflow_run_wait(
    tenant: Key,
    run_id: Key,
    node_path: str,
    wait_type: Literal["event", "retry", "human", "timeout", "time"],
    due_at: datetime | None = None,
    payload: object = None,
) -> Call[results.WorkflowRunWait]:
    """Let a run wait for an event, a person, a moment or the next try.

    It counts nothing: entering the wait was counted when its step was started. Safe to call again.

    Args:
        tenant: the tenant.
        run_id: the run.
        node_path: the visit that waits.
        wait_type: what for.
        due_at: when it resolves by itself, with a time zone. None is never, which waits of type
            time, timeout and retry do not allow.
        payload: kept with the wait: anything that the json module can write.

    Returns:
        The wait.

    Raises:
        ValueError: due_at has no time zone.
        InvalidArgument: an argument is None, empty, too long or not a known word.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
    """
    return _row(
        results.WorkflowRunWait,
        "open_workflow_run_wait",
        tenant=key(tenant),
        run_id=key(run_id),
        node_path=text(node_path),
        wait_type=text(wait_type),
        due_at=timestamptz(due_at),
        payload=jsonb(payload),
    )


def resolve_workflow_run_wait(
    tenant: Key, wait_id: UUID | str, payload: object = None
) -> Call[results.WorkflowRunWait]:
    """Resolve a wait: the run goes on and a resumption tells its runtime so. Safe to call again.

    Starting the attempt that waited then answers ``already_started``, which counts nothing.

    Args:
        tenant: the tenant.
        wait_id: the wait.
        payload: handed on with the resumption: anything that the json module can write.

    Returns:
        The wait after it.

    Raises:
        ValueError: wait_id is a text that is no UUID.
        InvalidArgument: the tenant is None, empty or too long, or the wait is None.
        UnknownWait: the tenant has no such wait.
        WaitNotResolvable: it is a quota wait, or it was cancelled.
    """
    return _row(
        results.WorkflowRunWait,
        "resolve_workflow_run_wait",
        tenant=key(tenant),
        wait_id=uuid(wait_id),
        payload=jsonb(payload),
    )


# -- Resume


def resume_workflow_run(tenant: Key, run_id: Key, reason: str) -> Call[results.WorkflowRunResume]:
    """Resume one run by hand that is paused by quota. It takes no unit and bypasses nothing.

    The run reserves again when it enters its step. For the operator's role.

    Args:
        tenant: the tenant.
        run_id: the run.
        reason: why, for the record.

    Returns:
        Whether it goes on and if not why, with the figures; a quota that is still used up is an
        answer and no error.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
        RunNotWaiting: the run is not WAITING.
        RunNotQuotaPaused: it waits for something else.
        StalePause: its pause is of another node than it stands at.
    """
    return _row(
        results.WorkflowRunResume,
        "resume_workflow_run",
        tenant=key(tenant),
        run_id=key(run_id),
        reason=text(reason),
    )


# -- Hold, suspend


def hold_workflow_run(tenant: Key, run_id: Key, reason: str) -> Call[results.WorkflowRun]:
    """Stop one run: what has started may finish, the next start answers ``held``.

    Nothing but release_workflow_run brings it back, whatever quota there is. Safe to call again.
    For the operator's role.

    Args:
        tenant: the tenant.
        run_id: the run.
        reason: why, for the record.

    Returns:
        The run after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
    """
    return _row(
        results.WorkflowRun,
        "hold_workflow_run",
        tenant=key(tenant),
        run_id=key(run_id),
        reason=text(reason),
    )


def release_workflow_run(tenant: Key, run_id: Key, reason: str) -> Call[results.WorkflowRun]:
    """End the hold on one run. It goes on at once if quota allows and nothing else stops it.

    Safe to call again.

    Args:
        tenant: the tenant.
        run_id: the run.
        reason: why, for the record.

    Returns:
        The run after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
        UnknownRun: the tenant has no such run.
        RunEnded: the run has ended.
    """
    return _row(
        results.WorkflowRun,
        "release_workflow_run",
        tenant=key(tenant),
        run_id=key(run_id),
        reason=text(reason),
    )


def hold_tenant(tenant: Key, reason: str) -> Call[results.Tenant]:
    """Stop all runs of a tenant: what has started may finish, the next starts answer ``held``.

    Safe to call again.

    Args:
        tenant: the tenant; it is added if it is not known.
        reason: why, for the record.

    Returns:
        The tenant after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
    """
    return _row(results.Tenant, "hold_tenant", tenant=key(tenant), reason=text(reason))


def release_tenant(tenant: Key, reason: str) -> Call[results.Tenant]:
    """End the hold on a tenant, and resume what can go on. Safe to call again.

    Args:
        tenant: the tenant; it is added if it is not known.
        reason: why, for the record.

    Returns:
        The tenant after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
    """
    return _row(results.Tenant, "release_tenant", tenant=key(tenant), reason=text(reason))


def suspend_tenant(tenant: Key, reason: str) -> Call[results.Tenant]:
    """Suspend a tenant: what has started may finish, the next starts answer ``held``.

    Safe to call again.

    Args:
        tenant: the tenant; it is added if it is not known.
        reason: why, for the record.

    Returns:
        The tenant after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
    """
    return _row(results.Tenant, "suspend_tenant", tenant=key(tenant), reason=text(reason))


def reinstate_tenant(tenant: Key, reason: str) -> Call[results.Tenant]:
    """Lift the suspension of a tenant, and resume what can go on. Safe to call again.

    Args:
        tenant: the tenant; it is added if it is not known.
        reason: why, for the record.

    Returns:
        The tenant after it.

    Raises:
        InvalidArgument: an argument is None, empty or too long.
    """
    return _row(results.Tenant, "reinstate_tenant", tenant=key(tenant), reason=text(reason))


def resume_scan(batch_size: int = 100) -> Call[None]:
    """Resume every run that can go on, tenant by tenant in turns, for at most policy.scan_seconds.

    It commits as it goes, so the connection must be in autocommit mode and outside a transaction.

    Args:
        batch_size: how many runs it resumes in one transaction at most, from 1 to 100000.

    Raises:
        psycopg.ProgrammingError: the connection is not in autocommit mode, or in a transaction.
        InvalidArgument: the number is None or out of range.
    """
    return _procedure("resume_scan", batch_size=int4(batch_size))


def tick() -> Call[None]:
    """Do all work that is due, for schedulers other than pg_cron. Call it about once a minute.

    It commits as it goes, so the connection must be in autocommit mode and outside a transaction.

    Raises:
        psycopg.ProgrammingError: the connection is not in autocommit mode, or in a transaction.
    """
    return _procedure("tick")


def watch(seconds: int = 55) -> Call[None]:
    """Resolve waits and resume runs when it is time, within about a second, for so long.

    Call it every minute beside tick, where pg_cron does not. It sleeps in between and commits as it
    goes, so the connection must be in autocommit mode and outside a transaction.

    Args:
        seconds: for how long, from 1 to 3600.

    Raises:
        psycopg.ProgrammingError: the connection is not in autocommit mode, or in a transaction.
        InvalidArgument: the number is None or out of range.
    """
    return _procedure("watch", seconds=int4(seconds))


def claim_workflow_run_resumptions(
    worker: str,
    max_runs: int = 100,
    lease: timedelta = timedelta(minutes=1),
    runtime: str = "default",
    tenant: Key | None = None,
) -> Call[tuple[results.WorkflowRunResumption, ...]]:
    """Claim runs to go on with. Nobody else may claim them until the lease is over.

    Commit before going on with them. Each is delivered at least once: enter its paths again with
    start_workflow_step, which acknowledges it.

    Args:
        worker: who claims, for people.
        max_runs: how many at most, from 1 to 10000.
        lease: for how long, at most a day; a worker that dies gives them free by then.
        runtime: the program family that asks.
        tenant: only this tenant's; None is all tenants'.

    Returns:
        The resumptions, those of one tenant oldest first.

    Raises:
        InvalidArgument: a name is None, empty or too long, or a number is out of range.
    """
    return _rows(
        results.WorkflowRunResumption,
        "claim_workflow_run_resumptions",
        worker=text(worker),
        max_runs=int4(max_runs),
        lease=interval(lease),
        runtime=text(runtime),
        tenant=key(tenant),
    )


def acknowledge_workflow_run_resumption(tenant: Key, resumption_id: UUID | str) -> Call[bool]:
    """Say that the runtime has stored a resumption durably, so that it is not delivered again.

    Not needed by a runtime that enters the paths again, which acknowledges. Safe to call again.

    Args:
        tenant: the tenant.
        resumption_id: the resumption.

    Returns:
        True if this call acknowledged it, False if it was acknowledged already.

    Raises:
        ValueError: resumption_id is a text that is no UUID.
        InvalidArgument: the tenant is None, empty or too long, or the resumption is None.
        UnknownResumption: the tenant has no such resumption.
    """
    return _scalar(
        bool,
        "acknowledge_workflow_run_resumption",
        tenant=key(tenant),
        resumption_id=uuid(resumption_id),
    )


def redeliver_workflow_run_resumption(tenant: Key, resumption_id: UUID | str) -> Call[bool]:
    """Have a resumption delivered anew, at once: for one that was stuck, when that is mended.

    Its deliveries are forgotten, so that its unit counts as promised again and it is delivered at
    the end of each lease. Needs the operator's role. Safe to call again.

    Args:
        tenant: the tenant.
        resumption_id: the resumption.

    Returns:
        True, or False if it was acknowledged, entered again or cancelled by now.

    Raises:
        ValueError: resumption_id is a text that is no UUID.
        InvalidArgument: the tenant is None, empty or too long, or the resumption is None.
        UnknownResumption: the tenant has no such resumption.
    """
    return _scalar(
        bool,
        "redeliver_workflow_run_resumption",
        tenant=key(tenant),
        resumption_id=uuid(resumption_id),
    )


def forecast_workflow_step_usage(tenant: Key) -> Call[results.WorkflowStepUsageForecast]:
    """When the tenant's quota will be used up, if it goes on as it does.

    It rests on hourly samples that tick() makes: on the recent hours, and on the same hours of
    earlier days.

    Args:
        tenant: the tenant.

    Returns:
        The forecast, with a range; it says how many hours of history it rests on.

    Raises:
        InvalidArgument: the tenant is None, empty or longer than 255 bytes.
    """
    return _row(
        results.WorkflowStepUsageForecast, "forecast_workflow_step_usage", tenant=key(tenant)
    )


def list_daily_workflow_step_usage(
    tenant: Key, days: int = 31
) -> Call[tuple[results.WorkflowStepUsageDay, ...]]:
    """How many units a tenant used on each of the last days in UTC, today the last.

    It rests on the hourly samples that tick() makes; days before the first of them are left out.

    Args:
        tenant: the tenant.
        days: how many days at most, from 1 to 100.

    Returns:
        A row a day, also for days without use.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or the number is out of range.
        BoundToTenant: the caller is bound to another tenant.
    """
    return _rows(
        results.WorkflowStepUsageDay,
        "list_daily_workflow_step_usage",
        tenant=key(tenant),
        days=int4(days),
    )


def list_tenants(
    search: str | None = None,
    only: Literal["paused", "exhausted", "nearly", "unlimited"] | None = None,
    sort: Literal["tenant", "percent", "used", "paused", "resets"] = "tenant",
    descending: bool = False,
    after_value: str | None = None,
    after_tenant: str | None = None,
    backwards: bool = False,
    max_tenants: int = 50,
) -> Call[tuple[results.ListedTenant, ...]]:
    """A page of the tenants that ever asked for a step, at any number of them.

    Args:
        search: a part of the name, upper and lower case alike; None is all.
        only: those with paused runs, those that have used their limit up, those that have used 80
            percent or more but not all, or those without a limit; None is all.
        sort: by name, percent of the limit, units used, paused runs, or the end of the period.
        descending: the greatest first.
        after_value: ``sort_value`` of the row after which to go on.
        after_tenant: its tenant.
        backwards: the page before that row instead.
        max_tenants: at most so many, from 1 to 1000.

    Returns:
        A row a tenant. Figures are of now; order and choice are those of ``sorted_as_of``.

    Raises:
        InvalidArgument: an argument is none of these.
        BoundToTenant: the caller is bound.
    """
    return _rows(
        results.ListedTenant,
        "list_tenants",
        search=text(search),
        only=text(only),
        sort=text(sort),
        descending=boolean(descending),
        after_value=text(after_value),
        after_tenant=text(after_tenant),
        backwards=boolean(backwards),
        max_tenants=int4(max_tenants),
    )


def claim_quota_events(
    consumer: str,
    max_events: int = 100,
    lease: timedelta = timedelta(minutes=1),
    event_types: Sequence[str] | None = None,
    start_at: datetime | None = None,
) -> Call[tuple[results.QuotaEvent, ...]]:
    """Claim events for a consumer, such as a mailer of alerts. Each consumer gets every event.

    Commit before acting on them, and soon: until then nobody else gets newer ones. Each is handed
    out at least once, in the order in which they were committed; acknowledge those that are done.

    Args:
        consumer: the consumer's name. One that is not known is made by its first claim.
        max_events: how many at most, from 1 to 10000.
        lease: after how long those not acknowledged come again, at most a day.
        event_types: the types it wants from now on; None leaves that as it is, at first all types.
        start_at: where a new consumer starts; None is now. Ignored for one that is known.

    Returns:
        The events. Of one that wants few of very many an answer may be empty before the end.

    Raises:
        InvalidArgument: a name is None, empty or too long, a number is out of range, or a type is
            not known.
    """
    return _rows(
        results.QuotaEvent,
        "claim_quota_events",
        consumer=text(consumer),
        max_events=int4(max_events),
        lease=interval(lease),
        event_types=text_array(event_types),
        start_at=timestamptz(start_at),
    )


def acknowledge_quota_events(consumer: str, event_ids: Sequence[int]) -> Call[int]:
    """Say that a consumer is done with events, so that they are not handed to it again.

    Safe to call again.

    Args:
        consumer: the consumer.
        event_ids: the events.

    Returns:
        How many of them had been handed to it and not been acknowledged yet.

    Raises:
        InvalidArgument: the name is None, empty or too long, or a number is None.
    """
    return _scalar(
        int, "acknowledge_quota_events", consumer=text(consumer), event_ids=int8_array(event_ids)
    )


def remove_quota_event_consumer(consumer: str) -> Call[bool]:
    """Forget a consumer that will not claim any more. If it claims again it is a new one.

    Args:
        consumer: the consumer.

    Returns:
        Whether there was such a consumer.

    Raises:
        InvalidArgument: the name is None, empty or too long.
    """
    return _scalar(bool, "remove_quota_event_consumer", consumer=text(consumer))


def workflow_run_quota_pause(
    tenant: Key, run_id: Key
) -> Call[results.WorkflowRunQuotaPause | None]:
    """Why a run is paused by quota, since when, and what will let it go on.

    Args:
        tenant: the tenant.
        run_id: the run.

    Returns:
        The pause, or None if quota does not pause the run.

    Raises:
        InvalidArgument: a key is None, empty or too long.
        UnknownRun: the tenant has no such run.
    """
    return _optional_row(
        results.WorkflowRunQuotaPause,
        "workflow_run_quota_pause",
        tenant=key(tenant),
        run_id=key(run_id),
    )


# -- Reconcile


def reconcile_workflow_step_usage(
    tenant: Key, period_start: datetime
) -> Call[results.WorkflowStepUsageReconciliation]:
    """Compare the counter of a period with its ledger. It changes neither.

    Args:
        tenant: the tenant.
        period_start: the start of the period, exactly, with a time zone.

    Returns:
        Both and their difference.

    Raises:
        ValueError: period_start has no time zone.
        InvalidArgument: the tenant is None, empty or too long, or the period is None.
        UnknownPeriod: the tenant has no period that starts there.
    """
    return _row(
        results.WorkflowStepUsageReconciliation,
        "reconcile_workflow_step_usage",
        tenant=key(tenant),
        period_start=timestamptz(period_start),
    )


def list_open_workflow_step_batches() -> Call[tuple[results.OpenWorkflowStepBatch, ...]]:
    """The batches that processes have open now, and those that dead processes left behind.

    Returns:
        The open batches, the oldest first.
    """
    return _rows(results.OpenWorkflowStepBatch, "list_open_workflow_step_batches")


def reconcile_all(all: bool = False) -> Call[None]:  # noqa: A002 - its name in SQL
    """Reconcile the tenants that are due, for at most policy.maintenance_seconds; tick() does.

    It commits as it goes, so the connection must be in autocommit mode and outside a transaction.

    Args:
        all: whether to look at every tenant and every period, to the end.

    Raises:
        psycopg.ProgrammingError: the connection is not in autocommit mode, or in a transaction.
        InvalidArgument: ``all`` is None.
    """
    return _procedure("reconcile_all", all=boolean(all))


def repair_workflow_step_usage(
    tenant: Key, period_start: datetime, dry_run: bool = True, reason: str | None = None
) -> Call[results.WorkflowStepUsageRepair]:
    """Bring the counter of a period to what its ledger says, by an adjusting entry.

    The ledger is never edited. What can go on with capacity that becomes free does.

    Args:
        tenant: the tenant.
        period_start: the start of the period, exactly, with a time zone.
        dry_run: whether only to say what would be done.
        reason: why, for the entry.

    Returns:
        The counts before and after.

    Raises:
        ValueError: period_start has no time zone.
        InvalidArgument: the tenant is None, empty or too long, or another argument is None.
        UnknownPeriod: the tenant has no period that starts there.
        psycopg.errors.LockNotAvailable: another transaction held the counter for longer than
            ``lock_timeout``.
    """
    return _row(
        results.WorkflowStepUsageRepair,
        "repair_workflow_step_usage",
        tenant=key(tenant),
        period_start=timestamptz(period_start),
        dry_run=boolean(dry_run),
        reason=text(reason),
    )


def import_workflow_step_usage(
    tenant: Key, period_start: datetime, used: int, reason: str | None
) -> Call[results.WorkflowStepUsageAdjustment]:
    """Take over what a tenant used in a period before stepquota counted it.

    Args:
        tenant: the tenant.
        period_start: the start of the period, exactly, with a time zone.
        used: how many steps in all. The same number again changes nothing, another one replaces it.
        reason: why, for the entry.

    Returns:
        The adjusting entry; its ``adjustment_id`` is None if nothing changed.

    Raises:
        ValueError: period_start has no time zone.
        InvalidArgument: the tenant is None, empty or too long, the period is None, or the number is
            None or out of range.
        UnknownPeriod: the tenant has no period that starts there.
        psycopg.errors.LockNotAvailable: another transaction held the counter for longer than
            ``lock_timeout``.
    """
    return _row(
        results.WorkflowStepUsageAdjustment,
        "import_workflow_step_usage",
        tenant=key(tenant),
        period_start=timestamptz(period_start),
        used=int8(used),
        reason=text(reason),
    )


def register_ledger(
    ledger: str,
    relation: str,
    tenant_column: str,
    period_column: str | None = None,
    time_column: str | None = None,
    count_column: str | None = None,
) -> Call[results.RegisteredLedger]:
    """Name a table in which callers of reserve_workflow_step keep their ledger, to compare with.

    Its rows must be written in the transaction of the reservation.

    Args:
        ledger: a name for it; the same one again replaces it.
        relation: the table or view, with its schema.
        tenant_column: the column of the tenant.
        period_column: the column of the period's start. Either this one or the next is given.
        time_column: the column of the moment of the reservation.
        count_column: the column of how many units a row is; None is one.

    Returns:
        What was registered.

    Raises:
        InvalidArgument: a name is None, empty or too long, or the relation cannot be compared with.
    """
    return _row(
        results.RegisteredLedger,
        "register_ledger",
        ledger=text(ledger),
        relation=text(relation),
        tenant_column=text(tenant_column),
        period_column=text(period_column),
        time_column=text(time_column),
        count_column=text(count_column),
    )


def grant_role(role: str, rights: Literal["runtime", "operator", "sync", "observer"]) -> Call[str]:
    """Give an existing role rights in this database, now and again at each migrate; for the owner.

    Args:
        role: the role.
        rights: whose: what stepquota_runtime may, stepquota_operator, and so on.

    Returns:
        membership, of the role stepquota_...; or direct, where that role is not there or not the
        caller's to give.

    Raises:
        InvalidArgument: there is no such role, it is one of the four, or the rights are not known.
    """
    return _scalar(str, "grant_role", role=text(role), rights=text(rights))


def revoke_role(
    role: str, rights: Literal["runtime", "operator", "sync", "observer"]
) -> Call[bool]:
    """Take back what grant_role gave; for the owner.

    Args:
        role: the role.
        rights: as for grant_role.

    Returns:
        Whether the role had them by grant_role.

    Raises:
        InvalidArgument: there is no such role, it is one of the four, or the rights are not known.
    """
    return _scalar(bool, "revoke_role", role=text(role), rights=text(rights))


def unregister_ledger(ledger: str) -> Call[bool]:
    """Compare with a registered ledger no more.

    Args:
        ledger: its name.

    Returns:
        Whether it was registered.

    Raises:
        InvalidArgument: the name is None, empty or too long.
    """
    return _scalar(bool, "unregister_ledger", ledger=text(ledger))


def purge(batch_size: int = 1000) -> Call[None]:
    """Delete what is old, for at most policy.maintenance_seconds; tick() does.

    How long what is kept are policies: ended_runs_kept_for, events_kept_for and so on.

    It commits as it goes, so the connection must be in autocommit mode and outside a transaction.

    Args:
        batch_size: how many rows it deletes in one transaction, from 1 to 100000.

    Raises:
        psycopg.ProgrammingError: the connection is not in autocommit mode, or in a transaction.
        InvalidArgument: the number is None or out of range.
    """
    return _procedure("purge", batch_size=int4(batch_size))


def forget_tenant(tenant: Key, max_rows: int = 10000) -> Call[results.ForgottenRows]:
    """Delete a part of all that belongs to a tenant, in all tables.

    Call it until ``is_done``, and commit each time. Stop the tenant's programs first.

    Args:
        tenant: the tenant.
        max_rows: how many rows it deletes at most, about, from 1.

    Returns:
        How many rows were deleted, and whether that was all.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or the number is below 1.
    """
    return _row(results.ForgottenRows, "forget_tenant", tenant=key(tenant), max_rows=int4(max_rows))


# -- Plans, tiers, policy


def set_tenant_plan(tenant: Key, plan: str | None) -> Call[results.WorkflowStepQuota]:
    """Set the tier of a tenant, and resume what can go on.

    Args:
        tenant: the tenant; it is added if it is not known.
        plan: the tier; None is served by the default tier.

    Returns:
        The quota after it.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or there is no such tier.
    """
    return _row(results.WorkflowStepQuota, "set_tenant_plan", tenant=key(tenant), plan=text(plan))


def set_tenant_enforcement(
    tenant: Key, mode: Literal["enforce", "shadow"] | None
) -> Call[results.WorkflowStepQuota]:
    """Set whether a tenant is refused steps past its limit, and resume what can go on.

    In shadow mode it is counted and never paused; what would have been paused is recorded, see
    list_shadow_overruns. It takes effect on the next step.

    Args:
        tenant: the tenant; it is added if it is not known.
        mode: enforce or shadow; None is as the policy ``enforcement`` says.

    Returns:
        The quota after it.

    Raises:
        InvalidArgument: the tenant is None, empty or too long, or the mode is not a known word.
    """
    return _row(
        results.WorkflowStepQuota, "set_tenant_enforcement", tenant=key(tenant), mode=text(mode)
    )


def list_shadow_overruns(tenant: Key | None = None) -> Call[tuple[results.ShadowOverrun, ...]]:
    """Tenants that went past their limit in shadow mode: since when, and how far.

    Args:
        tenant: only this one; None is all.

    Returns:
        A row a tenant and period, the latest periods first.

    Raises:
        InvalidArgument: the tenant is empty or too long.
    """
    return _rows(results.ShadowOverrun, "list_shadow_overruns", tenant=key(tenant))


def grant_workflow_steps(
    tenant: Key,
    units: int,
    reason: str,
    expires_at: datetime | None = None,
    grant_key: str | None = None,
) -> Call[results.WorkflowStepGrant]:
    """Give a tenant steps on top of its limit, and resume what can go on.

    Each unit is used once, after the period's own limit. What is left goes along into later periods
    until it expires.

    Args:
        tenant: the tenant.
        units: how many steps, from 1 to 10**12.
        reason: why, for the record.
        expires_at: until when they count, with a time zone; None is the end of the tenant's current
            period.
        grant_key: a payment's id for instance. The same key again gives nothing more. Without one,
            each call gives anew.

    Returns:
        The grant; with a key that was used before, that one as it is.

    Raises:
        ValueError: expires_at has no time zone.
        InvalidArgument: an argument is None, empty, too long, out of range or not in the future.
    """
    return _row(
        results.WorkflowStepGrant,
        "grant_workflow_steps",
        tenant=key(tenant),
        units=int8(units),
        reason=text(reason),
        expires_at=timestamptz(expires_at),
        grant_key=text(grant_key),
    )


def revoke_workflow_step_grant(
    tenant: Key, grant_id: UUID | str, reason: str
) -> Call[results.WorkflowStepGrant]:
    """Take back what is left of a grant. What was used of it stays used. Safe to call again.

    Args:
        tenant: the tenant.
        grant_id: the grant.
        reason: why, for the record.

    Returns:
        The grant after it.

    Raises:
        ValueError: grant_id is a text that is no UUID.
        InvalidArgument: an argument is None, empty or too long.
        UnknownGrant: the tenant has no such grant.
    """
    return _row(
        results.WorkflowStepGrant,
        "revoke_workflow_step_grant",
        tenant=key(tenant),
        grant_id=uuid(grant_id),
        reason=text(reason),
    )


def set_tier_limit(tier: str, step_limit: int | None) -> Call[results.TierLimitChange]:
    """Set the default limit of a tier, and resume what can go on. Recorded.

    Args:
        tier: the tier; it is added if it is not known. A tier of its own gives one tenant a special
            limit.
        step_limit: steps a period; None is unlimited.

    Returns:
        The limit and the one before.

    Raises:
        InvalidArgument: the tier is None, empty or too long, or the limit is not positive.
    """
    return _row(
        results.TierLimitChange, "set_tier_limit", tier=text(tier), step_limit=int8(step_limit)
    )


def set_policy(name: str, value: str) -> Call[results.PolicyChange]:
    """Set one rule of the installation, and resume what can go on. Recorded.

    Args:
        name: a column of the table stepquota.policy.
        value: the value, as PostgreSQL reads it: ``true``, ``72 hours``, ``solo``.

    Returns:
        The value and the one before.

    Raises:
        InvalidArgument: the value is None, or names a tier that does not exist.
        UnknownPolicy: there is no policy of that name, or it is not to be set this way.
        InvalidPolicyValue: the value does not fit.
    """
    return _row(results.PolicyChange, "set_policy", name=text(name), value=text(value))


def bind_tenant_role(role: str, tenant: Key) -> Call[results.TenantRoleChange]:
    """Bind a role to a tenant: it sees and does only what is of that tenant. Recorded.

    Who is a member of it is bound as well.

    Args:
        role: the role's name, as it is, without quotation marks.
        tenant: the tenant.

    Returns:
        The binding; ``changed`` is False if it was there before.

    Raises:
        InvalidArgument: role or tenant is None, empty or too long.
        BoundToTenant: the caller is bound.
        RoleNotBindable: there is no such role, nothing could hold it, or it is bound to another
            tenant.
    """
    return _row(results.TenantRoleChange, "bind_tenant_role", role=text(role), tenant=key(tenant))


def bind_session_role(role: str) -> Call[results.SessionRoleChange]:
    """Bind a role to the tenant that its session names in stepquota.tenant. Recorded.

    For a program that serves many tenants and knows who asks. While the setting is empty, the role
    sees and does nothing.

    Args:
        role: the role's name, as it is, without quotation marks.

    Returns:
        The binding; ``changed`` is False if it was there before.

    Raises:
        InvalidArgument: role is None, empty or too long.
        BoundToTenant: the caller is bound.
        RoleNotBindable: there is no such role, nothing could hold it, or it is bound to a tenant.
    """
    return _row(results.SessionRoleChange, "bind_session_role", role=text(role))


def unbind_tenant_role(role: str) -> Call[bool]:
    """Take the binding of a role away. Recorded.

    Args:
        role: the role's name. That it exists no longer is no matter.

    Returns:
        False if it was not bound.

    Raises:
        InvalidArgument: the role is None, empty or too long.
        BoundToTenant: the caller is bound.
    """
    return _scalar(bool, "unbind_tenant_role", role=text(role))


def list_tenant_role_bindings() -> Call[tuple[results.TenantRoleBinding, ...]]:
    """The roles that are bound to a tenant.

    Returns:
        A row a role. ``problem`` says why a binding does not hold as it should; None if it does.

    Raises:
        BoundToTenant: the caller is bound.
    """
    return _rows(results.TenantRoleBinding, "list_tenant_role_bindings")


# -- Stripe


def map_stripe_customer(customer: str, tenant: Key) -> Call[tuple[results.StripeObjectChange, ...]]:
    """Say which tenant a Stripe customer belongs to. It goes before what metadata says.

    Args:
        customer: the customer's id at Stripe.
        tenant: the tenant.

    Returns:
        What changed.

    Raises:
        InvalidArgument: the customer or the tenant is None, empty or too long.
    """
    return _rows(
        results.StripeObjectChange,
        "map_stripe_customer",
        customer=text(customer),
        tenant=key(tenant),
    )


def unmap_stripe_customer(customer: str) -> Call[tuple[results.StripeObjectChange, ...]]:
    """Take back what map_stripe_customer said: metadata decides again.

    Args:
        customer: the customer's id at Stripe.

    Returns:
        What changed; ``action`` is deleted, or unchanged if it was not mapped.

    Raises:
        InvalidArgument: the customer is None, empty or too long.
    """
    return _rows(results.StripeObjectChange, "unmap_stripe_customer", customer=text(customer))


def apply_stripe_object(
    object: object,  # noqa: A002 - its name in SQL
    fetched_at: datetime,
) -> Call[tuple[results.StripeObjectChange, ...]]:
    """Write what Stripe answered into the mirror, refresh the quotas it concerns, and resume.

    For products, prices, customers, subscriptions with their items and expanded parts, and deleted
    objects. Both shapes of a subscription are read: with the period on the items, and, from API
    versions before 2025-03-31.basil, on the subscription.

    Args:
        object: the object as Stripe's API answers it: a dict.
        fetched_at: the database's clock, read before Stripe was asked. An answer older than the
            stored one changes nothing.

    Returns:
        What became of the object and of each part of it.

    Raises:
        ValueError: fetched_at has no time zone.
        InvalidArgument: fetched_at is None.
        MalformedStripeObject: it is not an object of the shape of its type.
        UnsupportedStripeObject: the mirror keeps no objects of its type.
    """
    return _rows(
        results.StripeObjectChange,
        "apply_stripe_object",
        object=jsonb(object),
        fetched_at=timestamptz(fetched_at),
    )


def requeue_stripe_events(event_ids: Sequence[str] | None = None) -> Call[int]:
    """Make events that were given up due again, after their cause was put right.

    Args:
        event_ids: the events; None for all that are dead.

    Returns:
        How many they are.

    Raises:
        InvalidArgument: one of the ids is None.
    """
    return _scalar(int, "requeue_stripe_events", event_ids=text_array(event_ids))


def stripe_sync_health() -> Call[results.StripeSyncHealth]:
    """How the feeders of the Stripe mirror are.

    Returns:
        Account and mode of the mirror, what is to be worked off, and each feeder's last success.
    """
    return _row(results.StripeSyncHealth, "stripe_sync_health")


def check_stripe(most: int = 100) -> Call[tuple[results.StripeProblem, ...]]:
    """What is wrong with the Stripe mirror, for people.

    Args:
        most: how many rows of each kind of problem, from 1.

    Returns:
        A row a problem and object.

    Raises:
        InvalidArgument: the number is below 1.
    """
    return _rows(results.StripeProblem, "check_stripe", most=int4(most))


# -- Scheduling


def enable_cron(schedule: str = "*/5 * * * *") -> Call[tuple[results.CronJob, ...]]:
    """Schedule the recurring work with pg_cron. Safe to call again.

    Args:
        schedule: when the scan runs, in cron's notation.

    Returns:
        The scheduled jobs.

    Raises:
        CronMissing: pg_cron is not installed in this database.
        CronNotGranted: the caller may not use it.
        CronInOtherDatabase: it runs in another database.
        CronScheduleNotSupported: the schedule is malformed, or this pg_cron is too old for it.
        CronRoleCannotLogIn: the role that would run the job cannot log in.
    """
    return _rows(results.CronJob, "enable_cron", schedule=text(schedule))


def disable_cron() -> Call[tuple[results.RemovedCronJob, ...]]:
    """Take the recurring work out of pg_cron. Safe to call again.

    Returns:
        The removed jobs; empty if there was none.
    """
    return _rows(results.RemovedCronJob, "disable_cron")


def cron_sql() -> Call[tuple[str, ...]]:
    """The statements that set up scheduling here, for somebody with the rights to run them by hand.

    Returns:
        Statements and comments, in the order in which they are to be run.
    """
    return _scalars(str, "cron_sql")


# -- Health


def status() -> Call[tuple[results.StatusItem, ...]]:
    """The installation's wiring and health.

    Returns:
        One item for each thing that was looked at.
    """
    return _rows(results.StatusItem, "status")


def verify_all() -> Call[tuple[results.InvariantViolation, ...]]:
    """Check what must always hold. It changes nothing and reads much.

    Returns:
        What does not hold; empty when all is well.
    """
    return _rows(results.InvariantViolation, "verify_all")


def metrics(part: str | None = None) -> Call[tuple[results.Metric, ...]]:
    """Figures for an exporter, all of them gauges; docs/monitoring.md lists them.

    Args:
        part: info, all, item, scan, stripe, tenant, event, finding, consumer or table; None is all.

    Returns:
        One for each figure and its labels. What does not apply is left out.

    Raises:
        InvalidArgument: there is no such part.
    """
    return _rows(results.Metric, "metrics", part=text(part))


def version() -> Call[str]:
    """The release that the installed SQL functions are of, as major.minor.patch.

    Returns:
        The release. That of this package is ``importlib.metadata.version("stepquota")``.
    """
    return _scalar(str, "version")


# -- How a call is put together


def _row(result: type[Row], function: str, **arguments: Argument) -> Call[Row]:
    return _call(function, arguments, result, _the_only)


def _optional_row(result: type[Row], function: str, **arguments: Argument) -> Call[Row | None]:
    return _call(function, arguments, result, _the_only_or_none)


def _rows(result: type[Row], function: str, **arguments: Argument) -> Call[tuple[Row, ...]]:
    return _call(function, arguments, result, tuple)


def _scalar(result: type[Row], function: str, **arguments: Argument) -> Call[Row]:
    return _call(function, arguments, None, _the_only)


def _scalars(result: type[Row], function: str, **arguments: Argument) -> Call[tuple[Row, ...]]:
    return _call(function, arguments, None, tuple)


def _procedure(function: str, **arguments: Argument) -> Call[None]:
    return _call(function, arguments, None, None)


def _call(
    function: str,
    arguments: dict[str, Argument],
    result: type[Any] | None,
    make_answer: Callable[[list[Any]], Answer] | None,
) -> Call[Answer]:
    statement = _statement(
        "call" if make_answer is None else "select",
        function,
        tuple((name, argument.sql_type) for name, argument in arguments.items()),
        tuple((field.name, field.metadata.get(results.ABSENT)) for field in fields(result))
        if result
        else (),
    )
    parameters = tuple(
        argument.convert(name, argument.value) for name, argument in arguments.items()
    )
    make_row = scalar_row if result is None else args_row(result)
    return Call(function, statement, parameters, make_row, make_answer)


@cache
def _statement(
    verb: str,
    function: str,
    parameters: tuple[tuple[str, str], ...],
    columns: tuple[tuple[str, str | None], ...],
) -> bytes:
    # Every name has its schema, so no search_path matters; every parameter has its type, so none is
    # guessed; and the columns are named, so a newer database may answer with more of them.
    arguments = ", ".join(f"p_{name} => %s::pg_catalog.{type_}" for name, type_ in parameters)
    call = f"stepquota.{function}({arguments})"
    if not columns:
        return f"{verb} {call}".encode()
    absent = ", ".join(f'{value} as "{column}"' for column, value in columns if value)
    if not absent:
        selected = ", ".join(f'"{column}"' for column, _ in columns)
        return f"{verb} {selected} from {call}".encode()
    # A name that the function does not answer is found one level further out: its stand-in.
    selected = ", ".join(
        f'(select "{column}" from (select answered.*) a)' if value else f'answered."{column}"'
        for column, value in columns
    )
    return f"{verb} {selected} from (select {absent}) absent, {call} answered".encode()


def _the_only(rows: list[Row]) -> Row:
    (row,) = rows
    return row


def _the_only_or_none(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None
