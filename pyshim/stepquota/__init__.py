"""Workflow-step quotas inside PostgreSQL, from Python.

Every function here is the SQL function of the same name in the schema ``stepquota``. It takes a
psycopg 3 connection, works inside the transaction that the connection is in, and never commits::

    with psycopg.connect(...) as connection:
        start = stepquota.start_workflow_step(connection, "acme", run_id, "root.steps[0]")
        if start.execute:
            ...

``stepquota.aio`` has the same functions for asyncio. Answers are the frozen classes of
``stepquota.results``, errors the classes of ``stepquota.errors``; both can be had from here.
Tenants and run ids may be str, int or UUID. The caller's row factory, type adapters, search_path,
time zone and prepared-statement settings make no difference.

Importing this loads psycopg and nothing else beyond the standard library.
"""

from __future__ import annotations

from . import calls
from .arguments import Key
from .batching import ReservationLost, ReserverClosed
from .errors import (
    BatchClosed,
    BoundToTenant,
    CronInOtherDatabase,
    CronMissing,
    CronNotGranted,
    CronRoleCannotLogIn,
    CronScheduleNotSupported,
    InvalidArgument,
    InvalidPolicyValue,
    MalformedStripeObject,
    MissingDefaultTier,
    OtherStripeAccount,
    RoleNotBindable,
    RunEnded,
    RunNotQuotaPaused,
    RunNotWaiting,
    RunRegisteredDifferently,
    StaleDelivery,
    StalePause,
    StepAlreadyFinished,
    StepquotaError,
    StripeListingIncomplete,
    StripeSyncRunning,
    TooManyUnseen,
    UnknownBatch,
    UnknownGrant,
    UnknownPeriod,
    UnknownPolicy,
    UnknownResumption,
    UnknownRun,
    UnknownStep,
    UnknownWait,
    UnsupportedStripeObject,
    WaitNotResolvable,
)
from .execution import synchronous as _sync
from .reserver import Reserver
from .results import (
    AdjustmentKind,
    CronJob,
    Enforcement,
    ForgottenRows,
    InvariantViolation,
    LimitSource,
    ListedTenant,
    Metric,
    OpenWorkflowStepBatch,
    PauseReason,
    PeriodSource,
    PolicyChange,
    ProblemLevel,
    QuotaExplanation,
    RegisteredLedger,
    RemovedCronJob,
    ResumeReason,
    RunStatus,
    SessionRoleChange,
    ShadowOverrun,
    StatusItem,
    StatusState,
    StepOutcome,
    StepStatus,
    StripeAction,
    StripeObjectChange,
    StripeProblem,
    StripeSyncHealth,
    Tenant,
    TenantRoleBinding,
    TenantRoleChange,
    TierLimitChange,
    Verdict,
    WaitStatus,
    WaitType,
    WorkflowRun,
    WorkflowRunQuotaPause,
    WorkflowRunResume,
    WorkflowRunResumption,
    WorkflowRunStep,
    WorkflowRunWait,
    WorkflowStepBatch,
    WorkflowStepGrant,
    WorkflowStepQuota,
    WorkflowStepsQuota,
    WorkflowStepsStart,
    WorkflowStepStart,
    WorkflowStepUsageAdjustment,
    WorkflowStepUsageDay,
    WorkflowStepUsageReconciliation,
    WorkflowStepUsageRepair,
)
from .resumption_loop import Resumptions, resumptions

__all__ = [
    "AdjustmentKind",
    "BatchClosed",
    "BoundToTenant",
    "CronInOtherDatabase",
    "CronJob",
    "CronMissing",
    "CronNotGranted",
    "CronRoleCannotLogIn",
    "CronScheduleNotSupported",
    "Enforcement",
    "ForgottenRows",
    "InvalidArgument",
    "InvalidPolicyValue",
    "InvariantViolation",
    "Key",
    "LimitSource",
    "ListedTenant",
    "MalformedStripeObject",
    "Metric",
    "MissingDefaultTier",
    "OpenWorkflowStepBatch",
    "OtherStripeAccount",
    "PauseReason",
    "PeriodSource",
    "PolicyChange",
    "ProblemLevel",
    "QuotaExplanation",
    "RegisteredLedger",
    "RemovedCronJob",
    "ReservationLost",
    "Reserver",
    "ReserverClosed",
    "ResumeReason",
    "Resumptions",
    "RoleNotBindable",
    "RunEnded",
    "RunNotQuotaPaused",
    "RunNotWaiting",
    "RunRegisteredDifferently",
    "RunStatus",
    "SessionRoleChange",
    "ShadowOverrun",
    "StaleDelivery",
    "StalePause",
    "StatusItem",
    "StatusState",
    "StepAlreadyFinished",
    "StepOutcome",
    "StepStatus",
    "StepquotaError",
    "StripeAction",
    "StripeListingIncomplete",
    "StripeObjectChange",
    "StripeProblem",
    "StripeSyncHealth",
    "StripeSyncRunning",
    "Tenant",
    "TenantRoleBinding",
    "TenantRoleChange",
    "TierLimitChange",
    "TooManyUnseen",
    "UnknownBatch",
    "UnknownGrant",
    "UnknownPeriod",
    "UnknownPolicy",
    "UnknownResumption",
    "UnknownRun",
    "UnknownStep",
    "UnknownWait",
    "UnsupportedStripeObject",
    "Verdict",
    "WaitNotResolvable",
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
    "WorkflowStepUsageReconciliation",
    "WorkflowStepUsageRepair",
    "WorkflowStepsQuota",
    "WorkflowStepsStart",
    "acknowledge_quota_events",
    "acknowledge_workflow_run_resumption",
    "apply_stripe_object",
    "bind_session_role",
    "bind_tenant_role",
    "cancel_workflow_run",
    "check_stripe",
    "claim_quota_events",
    "claim_workflow_run_resumptions",
    "close_workflow_step_batch",
    "cron_sql",
    "disable_cron",
    "enable_cron",
    "explain_workflow_step_quota",
    "finish_workflow_run",
    "finish_workflow_step",
    "forecast_workflow_step_usage",
    "forget_tenant",
    "grant_role",
    "grant_workflow_steps",
    "hold_tenant",
    "hold_workflow_run",
    "import_workflow_step_usage",
    "list_daily_workflow_step_usage",
    "list_open_workflow_step_batches",
    "list_shadow_overruns",
    "list_tenant_role_bindings",
    "list_tenants",
    "map_stripe_customer",
    "metrics",
    "open_workflow_run_wait",
    "open_workflow_step_batch",
    "purge",
    "reconcile_all",
    "reconcile_workflow_step_usage",
    "redeliver_workflow_run_resumption",
    "refresh_workflow_step_quota",
    "register_ledger",
    "register_workflow_run",
    "reinstate_tenant",
    "release_tenant",
    "release_workflow_run",
    "remove_quota_event_consumer",
    "repair_workflow_step_usage",
    "requeue_stripe_events",
    "reserve_workflow_step",
    "reserve_workflow_steps",
    "resolve_workflow_run_wait",
    "resolve_workflow_step_quota",
    "resume_scan",
    "resume_workflow_run",
    "resumptions",
    "revoke_role",
    "revoke_workflow_step_grant",
    "set_policy",
    "set_tenant_enforcement",
    "set_tenant_plan",
    "set_tier_limit",
    "start_workflow_step",
    "start_workflow_steps",
    "status",
    "stripe_sync_health",
    "suspend_tenant",
    "tick",
    "unbind_tenant_role",
    "unmap_stripe_customer",
    "unregister_ledger",
    "verify_all",
    "version",
    "watch",
    "workflow_run_quota_pause",
]

reserve_workflow_step = _sync(calls.reserve_workflow_step)
reserve_workflow_steps = _sync(calls.reserve_workflow_steps)
open_workflow_step_batch = _sync(calls.open_workflow_step_batch)
close_workflow_step_batch = _sync(calls.close_workflow_step_batch)
resolve_workflow_step_quota = _sync(calls.resolve_workflow_step_quota)
refresh_workflow_step_quota = _sync(calls.refresh_workflow_step_quota)
explain_workflow_step_quota = _sync(calls.explain_workflow_step_quota)
register_workflow_run = _sync(calls.register_workflow_run)
start_workflow_step = _sync(calls.start_workflow_step)
start_workflow_steps = _sync(calls.start_workflow_steps)
finish_workflow_step = _sync(calls.finish_workflow_step)
finish_workflow_run = _sync(calls.finish_workflow_run)
cancel_workflow_run = _sync(calls.cancel_workflow_run)
open_workflow_run_wait = _sync(calls.open_workflow_run_wait)
resolve_workflow_run_wait = _sync(calls.resolve_workflow_run_wait)
resume_workflow_run = _sync(calls.resume_workflow_run)
revoke_role = _sync(calls.revoke_role)
hold_workflow_run = _sync(calls.hold_workflow_run)
release_workflow_run = _sync(calls.release_workflow_run)
hold_tenant = _sync(calls.hold_tenant)
release_tenant = _sync(calls.release_tenant)
suspend_tenant = _sync(calls.suspend_tenant)
reinstate_tenant = _sync(calls.reinstate_tenant)
resume_scan = _sync(calls.resume_scan)
tick = _sync(calls.tick)
watch = _sync(calls.watch)
claim_workflow_run_resumptions = _sync(calls.claim_workflow_run_resumptions)
acknowledge_workflow_run_resumption = _sync(calls.acknowledge_workflow_run_resumption)
redeliver_workflow_run_resumption = _sync(calls.redeliver_workflow_run_resumption)
forecast_workflow_step_usage = _sync(calls.forecast_workflow_step_usage)
list_daily_workflow_step_usage = _sync(calls.list_daily_workflow_step_usage)
list_tenants = _sync(calls.list_tenants)
claim_quota_events = _sync(calls.claim_quota_events)
acknowledge_quota_events = _sync(calls.acknowledge_quota_events)
remove_quota_event_consumer = _sync(calls.remove_quota_event_consumer)
workflow_run_quota_pause = _sync(calls.workflow_run_quota_pause)
reconcile_workflow_step_usage = _sync(calls.reconcile_workflow_step_usage)
reconcile_all = _sync(calls.reconcile_all)
repair_workflow_step_usage = _sync(calls.repair_workflow_step_usage)
import_workflow_step_usage = _sync(calls.import_workflow_step_usage)
register_ledger = _sync(calls.register_ledger)
unregister_ledger = _sync(calls.unregister_ledger)
purge = _sync(calls.purge)
forget_tenant = _sync(calls.forget_tenant)
grant_role = _sync(calls.grant_role)
list_open_workflow_step_batches = _sync(calls.list_open_workflow_step_batches)
set_tenant_plan = _sync(calls.set_tenant_plan)
set_tenant_enforcement = _sync(calls.set_tenant_enforcement)
list_shadow_overruns = _sync(calls.list_shadow_overruns)
grant_workflow_steps = _sync(calls.grant_workflow_steps)
revoke_workflow_step_grant = _sync(calls.revoke_workflow_step_grant)
set_tier_limit = _sync(calls.set_tier_limit)
bind_tenant_role = _sync(calls.bind_tenant_role)
bind_session_role = _sync(calls.bind_session_role)
unbind_tenant_role = _sync(calls.unbind_tenant_role)
list_tenant_role_bindings = _sync(calls.list_tenant_role_bindings)
set_policy = _sync(calls.set_policy)
map_stripe_customer = _sync(calls.map_stripe_customer)
unmap_stripe_customer = _sync(calls.unmap_stripe_customer)
requeue_stripe_events = _sync(calls.requeue_stripe_events)
stripe_sync_health = _sync(calls.stripe_sync_health)
check_stripe = _sync(calls.check_stripe)
apply_stripe_object = _sync(calls.apply_stripe_object)
enable_cron = _sync(calls.enable_cron)
disable_cron = _sync(calls.disable_cron)
cron_sql = _sync(calls.cron_sql)
status = _sync(calls.status)
verify_all = _sync(calls.verify_all)
metrics = _sync(calls.metrics)
version = _sync(calls.version)
