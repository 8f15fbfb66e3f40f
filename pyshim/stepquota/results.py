"""What the functions answer: one frozen class for each kind of row, its fields the row's columns.

Counts and limits are units, one for each step attempt. A limit of None is unlimited. Every moment
is a datetime in UTC, whatever the session's time zone. JSON columns are what the json module reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, TypeAlias
from uuid import UUID

__all__ = [
    "AdjustmentKind",
    "CronJob",
    "Enforcement",
    "EventLevel",
    "ForgottenRows",
    "InvariantViolation",
    "LimitSource",
    "ListedTenant",
    "Metric",
    "OpenWorkflowStepBatch",
    "PauseReason",
    "PeriodSource",
    "PolicyChange",
    "ProblemLevel",
    "QuotaEvent",
    "QuotaExplanation",
    "RegisteredLedger",
    "RemovedCronJob",
    "ResumeReason",
    "RunStatus",
    "SessionRoleChange",
    "ShadowOverrun",
    "StatusItem",
    "StatusState",
    "StepOutcome",
    "StepStatus",
    "StripeAction",
    "StripeObjectChange",
    "StripeProblem",
    "StripeSyncHealth",
    "Tenant",
    "TenantRoleBinding",
    "TenantRoleChange",
    "TierLimitChange",
    "Verdict",
    "WaitStatus",
    "WaitType",
    "WorkflowRun",
    "WorkflowRunQuotaPause",
    "WorkflowRunResume",
    "WorkflowRunResumption",
    "WorkflowRunStep",
    "WorkflowRunWait",
    "WorkflowStepBatch",
    "WorkflowStepGrant",
    "WorkflowStepQuota",
    "WorkflowStepStart",
    "WorkflowStepUsageAdjustment",
    "WorkflowStepUsageDay",
    "WorkflowStepUsageForecast",
    "WorkflowStepUsageReconciliation",
    "WorkflowStepUsageRepair",
]

# A shim may meet the functions of the release before its own, while an upgrade is on its way. A
# column that came since then has what to answer without it; the next release takes the mark away.
# It has a default too, for those who make such rows in tests of their own.
ABSENT = "absent in the last release"


def _absent_in_0_1(value: str) -> dict[str, str]:
    return {ABSENT: value}


PeriodSource: TypeAlias = Literal["stripe_subscription", "presumed_renewal", "fallback_calendar"]
"""Where the period was found. After a period's end the next is presumed until the renewal comes."""

LimitSource: TypeAlias = Literal[
    "stripe_price_metadata", "stripe_product_metadata", "tier_default", "unlimited_metadata"
]
"""Where the limit was found."""

RunStatus: TypeAlias = Literal["RUNNING", "WAITING", "SUCCEEDED", "FAILED", "CANCELED"]
StepStatus: TypeAlias = Literal["STARTED", "SUCCEEDED", "FAILED", "RETRY_SCHEDULED", "CANCELED"]
StepOutcome: TypeAlias = Literal[
    "started", "already_started", "already_finished", "quota_paused", "held"
]
WaitType: TypeAlias = Literal["event", "retry", "human", "timeout", "time", "quota"]
WaitStatus: TypeAlias = Literal["WAITING", "RESOLVED", "CANCELED"]

PauseReason: TypeAlias = Literal["quota", "tenant_suspended", "operator_hold"]
"""Why a run is paused: its tenant's quota is used up, its tenant is suspended, or an operator holds
the run or its tenant."""

ResumeReason: TypeAlias = Literal["resumed", "quota_exhausted", "no_capacity", "held"]
Enforcement: TypeAlias = Literal["enforce", "shadow"]
"""Whether steps past the limit are refused, or only counted."""

Verdict: TypeAlias = Literal["won", "lost", "used", "info"]
StripeAction: TypeAlias = Literal["inserted", "updated", "unchanged", "stale", "deleted"]
AdjustmentKind: TypeAlias = Literal["repair", "import"]
StatusState: TypeAlias = Literal["ok", "info", "warn", "error"]
EventLevel: TypeAlias = Literal["info", "warning", "error"]
ProblemLevel: TypeAlias = Literal["error", "warn", "info"]


@dataclass(frozen=True, slots=True)
class WorkflowStepQuota:
    """A tenant's quota of the current period, and how much of it is used.

    Attributes:
        allowed: after a reservation whether the unit was taken, else whether one is free.
        used_count: units used in the period.
        effective_limit: the limit with grants; None is unlimited.
        remaining: units left, never below 0; None is unlimited.
        period_start: start of the period, included.
        period_end: end of the period, excluded; it may move.
        period_source: where the period was found.
        limit_source: where the limit was found.
        tier: the tier whose default limit would apply.
        granted_units: units granted on top of the limit, contained in effective_limit.
        stripe_subscription_id: the subscription that gave the period; None on the calendar.
    """

    allowed: bool
    used_count: int
    effective_limit: int | None
    remaining: int | None
    period_start: datetime
    period_end: datetime
    period_source: PeriodSource
    limit_source: LimitSource
    tier: str
    granted_units: int
    stripe_subscription_id: str | None


@dataclass(frozen=True, slots=True)
class WorkflowStepsQuota:
    """What a batch took, and the quota after it.

    Attributes:
        allowed: whether any unit was taken.
        granted: units taken: all, none, or what was left where that was allowed.

    The others are those of :class:`WorkflowStepQuota`.
    """

    allowed: bool
    used_count: int
    effective_limit: int | None
    remaining: int | None
    period_start: datetime
    period_end: datetime
    period_source: PeriodSource
    limit_source: LimitSource
    tier: str
    granted_units: int
    stripe_subscription_id: str | None
    granted: int


@dataclass(frozen=True, slots=True)
class WorkflowStepBatch:
    """Units that a process took to hand them out itself.

    Attributes:
        period_start: the period that its units were counted in.
        granted_count: units taken.
        handed_out_count: units that steps were started with; None while it is open.
        returned_count: units given back; None while it is open. What was neither handed out nor
            given back stays counted, since its period was over.
        holder: who opened it, for people.
        reported_at: when it was recorded that it was left open.
    """

    tenant: str
    batch_id: UUID
    period_start: datetime
    granted_count: int
    handed_out_count: int | None
    returned_count: int | None
    holder: str
    opened_at: datetime
    closed_at: datetime | None
    reported_at: datetime | None


@dataclass(frozen=True, slots=True)
class OpenWorkflowStepBatch:
    """A batch that is open.

    Attributes:
        period_start: the period that its units were counted in.
        granted_count: units taken.
        holder: who opened it, for people.
        is_overdue: whether it is open for so long that its process must have died.
    """

    tenant: str
    batch_id: UUID
    period_start: datetime
    granted_count: int
    holder: str
    opened_at: datetime
    is_overdue: bool


@dataclass(frozen=True, slots=True)
class WorkflowStepStart:
    """What start_workflow_step decided, and the quota's figures of now.

    Attributes:
        outcome: started; already_started, the same attempt asked again; already_finished;
            quota_paused, the run waits for quota; held, the run or its tenant is stopped by hand.
        step_id: the attempt's row in the ledger; None when it was not started.
        wait_id: the open wait that the run is paused by; None when it was started.
        step_status: the attempt's status in the ledger; None when it was not started.

    The others are those of :class:`WorkflowStepQuota`.
    """

    outcome: StepOutcome
    step_id: UUID | None
    wait_id: UUID | None
    allowed: bool
    used_count: int
    effective_limit: int | None
    remaining: int | None
    period_start: datetime
    period_end: datetime
    period_source: PeriodSource
    limit_source: LimitSource
    tier: str
    granted_units: int
    stripe_subscription_id: str | None
    step_status: StepStatus | None

    @property
    def execute(self) -> bool:
        """Whether to execute the step now: it is started, by this call or by one before it."""
        return self.outcome in ("started", "already_started")


@dataclass(frozen=True, slots=True)
class WorkflowStepsStart(WorkflowStepStart):
    """What start_workflow_steps decided for one path.

    Attributes:
        node_path: the path.
        attempt: the attempt.

    The others are those of :class:`WorkflowStepStart`.
    """

    node_path: str
    attempt: int


@dataclass(frozen=True, slots=True)
class WorkflowRunResume:
    """What resume_workflow_run decided, and the figures that it decided on.

    Attributes:
        resumed: whether the run goes on.
        reason: resumed; quota_exhausted; no_capacity, the units left are promised to runs that were
            resumed before; held, the run or its tenant is stopped by hand.
        resumption_id: the resumption that a runtime will claim; None unless resumed.
    """

    resumed: bool
    reason: ResumeReason
    used_count: int
    effective_limit: int | None
    period_start: datetime
    period_end: datetime
    period_source: PeriodSource
    limit_source: LimitSource
    resumption_id: UUID | None


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """One execution of a workflow.

    Attributes:
        runtime: the program family that executes it.
        node_path: where it stands: the path last started, or the one it was paused at.
        ledger_month: the month it was registered in, which is where all its attempts are kept.
        error: what it failed with.
        held_at: since when an operator holds it; None is not held.
        held_by, held_because: who, and why.
    """

    tenant: str
    run_id: str
    workflow: str | None
    runtime: str
    status: RunStatus
    node_path: str | None
    ledger_month: date
    error: Any
    registered_at: datetime
    ended_at: datetime | None
    held_at: datetime | None = field(
        default=None, metadata=_absent_in_0_1("null::pg_catalog.timestamptz")
    )
    held_by: str | None = field(default=None, metadata=_absent_in_0_1("null::pg_catalog.text"))
    held_because: str | None = field(default=None, metadata=_absent_in_0_1("null::pg_catalog.text"))


@dataclass(frozen=True, slots=True)
class WorkflowRunStep:
    """One counted attempt of a step: a row of the ledger.

    Attributes:
        attempt: the number of the try, from 1.
        period_start: the period that it was counted in.
        error: what it failed with.
    """

    tenant: str
    run_id: str
    node_path: str
    attempt: int
    ledger_month: date
    step_id: UUID
    step_type: str
    status: StepStatus
    period_start: datetime
    error: Any
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class WorkflowRunWait:
    """Why a run is WAITING.

    Attributes:
        node_path: the node that waits; of a quota wait the first that was refused.
        node_paths: all nodes that wait here: refused branches of one run share its quota wait.
        attempt: the node's latest attempt when the wait was opened; 0 if there was none.
        reason: why a quota wait was opened; None for other types.
        due_at: when it resolves by itself; None is never.
        queued_at: the run's place in its tenant's queue.
        payload: what it was opened with, then what it was resolved with.
        is_held: whether it is a quota wait outside the queue, because its run is held.
    """

    tenant: str
    wait_id: UUID
    run_id: str
    node_path: str
    node_paths: tuple[str, ...]
    attempt: int
    wait_type: WaitType
    status: WaitStatus
    reason: PauseReason | None
    due_at: datetime | None
    queued_at: datetime
    created_at: datetime
    resolved_at: datetime | None
    payload: Any
    is_held: bool = field(default=False, metadata=_absent_in_0_1("false"))


@dataclass(frozen=True, slots=True)
class WorkflowRunResumption:
    """A run to go on with, claimed by a worker.

    Attributes:
        node_paths: the paths to enter again; each entry acknowledges its part.
        delivery: the number of this delivery. Passed to start and finish, it makes them refuse this
            worker once the resumption was delivered to another.
        wait_type: what the run waited for.
        leased_until: until when no other worker may claim it.
        payload: what the wait was resolved with.
    """

    tenant: str
    resumption_id: UUID
    run_id: str
    node_paths: tuple[str, ...]
    delivery: int
    wait_type: WaitType
    leased_until: datetime
    payload: Any


@dataclass(frozen=True, slots=True)
class WorkflowRunQuotaPause:
    """Why a run is paused, and what will unblock it. It goes on when no reason is left.

    Attributes:
        reason: the first of reasons.
        used_count, effective_limit: the figures of now.
        paused_since: when the pause began.
        node_paths: the paths that wait.
        unblocked_by: what lifts the first reason.
        unblocks_at: when that happens by itself; None is never.
        reasons: all that are left, each a PauseReason; empty from functions of 0.1.
        unblocked_by_each: what lifts each of them, in their order.
    """

    reason: PauseReason
    period_start: datetime
    period_end: datetime
    used_count: int
    effective_limit: int | None
    period_source: PeriodSource
    limit_source: LimitSource
    paused_since: datetime
    wait_id: UUID
    node_paths: tuple[str, ...]
    unblocked_by: str
    unblocks_at: datetime | None
    reasons: tuple[str, ...] = field(default=(), metadata=_absent_in_0_1("'{}'::pg_catalog.text[]"))
    unblocked_by_each: tuple[str, ...] = field(
        default=(), metadata=_absent_in_0_1("'{}'::pg_catalog.text[]")
    )


@dataclass(frozen=True, slots=True)
class QuotaEvent:
    """An event that was handed to a consumer.

    Attributes:
        tenant: whose it is; empty for what concerns all.
        event_id: its number, to acknowledge it by.
        event_type: what happened.
        run_id: the run, where it is about one.
        details: the circumstances, an object; its fields depend on the type.
        created_at: when it was recorded.
        delivery: how many times this consumer was handed it, from 1.
        leased_until: from when on it is handed out again.
    """

    tenant: str
    event_id: int
    event_type: str
    level: EventLevel
    run_id: str | None
    details: Any
    created_at: datetime
    delivery: int
    leased_until: datetime


@dataclass(frozen=True, slots=True)
class QuotaExplanation:
    """One line of the explanation of a tenant's quota.

    Attributes:
        position: its place in the explanation, from 1.
        object_type: what was looked at, a subscription for instance.
        object_id: which one.
        verdict: won or lost against its like, used for the answer, or for information.
        reason: why, for people.
        details: the values that decided.
    """

    position: int
    object_type: str
    object_id: str | None
    verdict: Verdict
    reason: str
    details: Any


@dataclass(frozen=True, slots=True)
class WorkflowStepUsageReconciliation:
    """The counter of a period beside its ledger.

    Attributes:
        counter_used_count: units that the counter says are used; it is what enforces.
        ledger_step_count: attempts in the ledger.
        drift: counter minus ledger.
        unledgered_count: the part of the drift that reserve_workflow_step took, whose callers keep
            a ledger of their own.
        purged_step_count: the part of ledger_step_count that retention has deleted.
        registered_ledgers: ledgers of callers that it was compared with; None if there are none.
        registered_step_count: units that they have.
    """

    tenant: str
    period_start: datetime
    period_end: datetime
    counter_used_count: int
    ledger_step_count: int
    drift: int
    unledgered_count: int
    purged_step_count: int = field(default=0, metadata=_absent_in_0_1("0::pg_catalog.int8"))
    registered_ledgers: tuple[str, ...] | None = field(
        default=None, metadata=_absent_in_0_1("null::pg_catalog.text[]")
    )
    registered_step_count: int | None = field(
        default=None, metadata=_absent_in_0_1("null::pg_catalog.int8")
    )


@dataclass(frozen=True, slots=True)
class WorkflowStepUsageRepair:
    """What a repair did, or would do in a dry run.

    Attributes:
        used_count_before, used_count_after: units that the counter says are used.
        unledgered_count_before, unledgered_count_after: those without a ledger row here.
        ledger_step_count: attempts in the ledger, purged ones included.
        changed: whether there is anything to mend.
        adjustment_id: the adjusting entry; None if nothing was changed.
        runs_resumed: paused runs that go on with what became free.
    """

    tenant: str
    period_start: datetime
    used_count_before: int
    used_count_after: int
    unledgered_count_before: int
    unledgered_count_after: int
    ledger_step_count: int
    changed: bool
    adjustment_id: UUID | None
    runs_resumed: int


@dataclass(frozen=True, slots=True)
class WorkflowStepUsageAdjustment:
    """An entry for a change of a counter that no step made.

    Attributes:
        adjustment_id: None if nothing was changed.
        used_count_before, used_count_after: units used; for an import with what is carried.
        adjusted_by: the role that was connected.
    """

    tenant: str
    adjustment_id: UUID | None
    period_start: datetime
    kind: AdjustmentKind
    used_count_before: int
    used_count_after: int
    unledgered_count_before: int
    unledgered_count_after: int
    ledger_step_count: int
    adjusted_by: str
    reason: str | None
    adjusted_at: datetime


@dataclass(frozen=True, slots=True)
class RegisteredLedger:
    """A ledger that callers of reserve_workflow_step keep themselves."""

    ledger: str
    relation: str
    tenant_column: str
    period_column: str | None
    time_column: str | None
    count_column: str | None
    registered_by: str
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant, as operators set it.

    Attributes:
        plan: the tier; None is served by the default tier.
        suspended_at: since when it is suspended; None is not.
        held_at: since when an operator holds it; None is not held.
        held_by, held_because: who, and why.
        enforcement: whether steps past its limit are refused; None is as policy says.
    """

    tenant: str
    plan: str | None
    suspended_at: datetime | None
    created_at: datetime
    held_at: datetime | None
    held_by: str | None
    held_because: str | None
    enforcement: Enforcement | None


@dataclass(frozen=True, slots=True)
class ShadowOverrun:
    """A period in which a tenant in shadow mode went past its limit.

    Attributes:
        effective_limit: the limit that was last in force in it.
        used_count: units used in it by now.
        over_count: how many of them are past the limit.
        over_limit_since: when the first of them was taken.
        paused_run_count: how many runs would have been paused.
        is_current: whether it is the tenant's present period.
        enforcement: the tenant's mode now.
    """

    tenant: str
    period_start: datetime
    period_end: datetime
    effective_limit: int | None
    used_count: int
    over_count: int
    over_limit_since: datetime
    paused_run_count: int
    is_current: bool
    enforcement: Enforcement


@dataclass(frozen=True, slots=True)
class WorkflowStepGrant:
    """Units given to a tenant on top of its limit.

    Attributes:
        grant_key: the giver's key for it; None is none.
        units: units given.
        spent_units: units charged to it: what was used past the limit, when its period or itself
            ended.
        period_start: the period it was given in.
        expires_at: until when it counts; None is the end of its period.
        closed_at: when it was found to count no more; None while it does.
        closed_because: expired, used up, or why it was revoked.
        closed_by: who revoked it; None if it ended by itself.
    """

    tenant: str
    grant_id: UUID
    grant_key: str | None
    units: int
    spent_units: int
    period_start: datetime
    expires_at: datetime | None
    reason: str
    granted_by: str
    granted_at: datetime
    closed_at: datetime | None
    closed_because: str | None
    closed_by: str | None


@dataclass(frozen=True, slots=True)
class WorkflowStepUsageDay:
    """How many units a tenant used on a day in UTC."""

    day: date
    units: int


@dataclass(frozen=True, slots=True)
class ListedTenant:
    """A tenant in a list.

    Attributes:
        used_count: units used in the period.
        effective_limit: the limit with grants; None is unlimited.
        remaining: units left; None is unlimited.
        percent: used, in percent of the limit; None is unlimited.
        resets_at: the end of the period.
        paused_runs: runs that are paused, by quota or by a hold.
        plan: what the tenant's plan is set to; None is nothing.
        tier: the tier that it comes to.
        suspended_at: since when it is suspended; None if it is not.
        held_at: since when it is held; None if it is not.
        sort_value: for the next page.
        sorted_as_of: of when the order is.
    """

    tenant: str
    used_count: int
    effective_limit: int | None
    remaining: int | None
    percent: float | None
    resets_at: datetime
    paused_runs: int
    plan: str | None
    tier: str
    enforcement: str
    suspended_at: datetime | None
    held_at: datetime | None
    sort_value: str
    sorted_as_of: datetime


@dataclass(frozen=True, slots=True)
class WorkflowStepUsageForecast:
    """When a tenant's quota will be used up, if it goes on as it does.

    Attributes:
        as_of: the moment that it was made.
        used_count: units used in the period.
        effective_limit: the limit with grants; None is unlimited.
        units_per_hour: the mean of the last six hours; None if not even one is known.
        exhausts_at: when the quota is used up at the expected pace; as_of if it is, None if it
            lasts until the period's end or too little is known.
        exhausts_at_low: the earliest, if it goes as fast as may be expected; None likewise.
        exhausts_at_high: the latest, if it goes as slowly; None likewise.
        lasts: whether it lasts until the period's end at the expected pace; None if too little is
            known.
        history_hours: how many hours it rests on, at most 168.
    """

    tenant: str
    as_of: datetime
    period_start: datetime
    period_end: datetime
    used_count: int
    effective_limit: int | None
    units_per_hour: float | None
    exhausts_at: datetime | None
    exhausts_at_low: datetime | None
    exhausts_at_high: datetime | None
    lasts: bool | None
    history_hours: int


@dataclass(frozen=True, slots=True)
class ForgottenRows:
    """What one call of forget_tenant deleted.

    Attributes:
        is_done: whether nothing of the tenant is left.
    """

    deleted_count: int
    is_done: bool


@dataclass(frozen=True, slots=True)
class TierLimitChange:
    """What set_tier_limit did. Limits are steps a period; None is unlimited or no tier before."""

    tier: str
    step_limit: int | None
    previous_step_limit: int | None
    changed: bool


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What set_policy did."""

    name: str
    value: str
    previous_value: str
    changed: bool


@dataclass(frozen=True, slots=True)
class TenantRoleChange:
    """What bind_tenant_role did."""

    role: str
    tenant: str
    bound_at: datetime
    changed: bool


@dataclass(frozen=True, slots=True)
class SessionRoleChange:
    """What bind_session_role did; ``changed`` is False if the binding was there before."""

    role: str
    bound_at: datetime
    changed: bool


@dataclass(frozen=True, slots=True)
class TenantRoleBinding:
    """A role that is bound to a tenant, by whom, and why that does not hold (None if it does).

    An empty tenant is the one that the role's session names.
    """

    role: str
    tenant: str
    bound_at: datetime
    bound_by: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class StripeObjectChange:
    """What became of one object of the Stripe mirror.

    Attributes:
        action: stale means that a newer answer of Stripe, or its deletion, is stored already.
    """

    object_type: str
    object_id: str
    action: StripeAction


@dataclass(frozen=True, slots=True)
class StripeSyncHealth:
    """How the feeders of the Stripe mirror are. A moment is None where there was none yet.

    Attributes:
        account: the Stripe account that the mirror belongs to; None if its key may not tell.
        livemode: its mode; None if no sync has run yet.
        needs_full_sync: no full sync has ended yet, or Stripe said that it lost events.
    """

    account: str | None
    livemode: bool | None
    pending_events: int
    oldest_pending_at: datetime | None
    dead_events: int
    last_webhook_at: datetime | None
    last_worked_off_at: datetime | None
    last_catch_up_at: datetime | None
    last_full_sync_at: datetime | None
    needs_full_sync: bool


@dataclass(frozen=True, slots=True)
class StripeProblem:
    """Something of the Stripe mirror that somebody should put right.

    Attributes:
        problem: the kind.
        hint: what to do.
    """

    problem: str
    level: ProblemLevel
    object_type: str | None
    object_id: str | None
    tenant: str | None
    detail: str
    hint: str


@dataclass(frozen=True, slots=True)
class CronJob:
    """A job that was scheduled with pg_cron."""

    job_name: str
    schedule: str
    command: str


@dataclass(frozen=True, slots=True)
class RemovedCronJob:
    """A job that was taken out of pg_cron."""

    job_name: str


@dataclass(frozen=True, slots=True)
class StatusItem:
    """One point of wiring or health.

    Attributes:
        item: what was looked at.
        state: how it is.
        detail: what was found.
        hint: what to do about it.
    """

    item: str
    state: StatusState
    detail: str | None
    hint: str | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure for an exporter.

    Attributes:
        name: as Prometheus takes it, stepquota_all_paused_runs for instance.
        labels: a dict of texts; empty for a figure of the whole installation.
        value: seconds, steps, or a number of things.
    """

    name: str
    labels: Any
    value: float


@dataclass(frozen=True, slots=True)
class InvariantViolation:
    """Something that must always hold and does not.

    Attributes:
        invariant: which of the invariants.
        tenant: whose; None when it is nobody's in particular.
        object: the row or the run that breaks it.
        detail: the figures.
        violation: the name of the check, as docs/operations.md explains it.
    """

    invariant: str
    tenant: str | None
    object: str | None
    detail: str | None
    violation: str = field(default="", metadata=_absent_in_0_1("''"))
