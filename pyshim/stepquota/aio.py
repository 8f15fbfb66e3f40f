"""The functions of ``stepquota`` for asyncio: the same names, to be awaited.

They take a :class:`psycopg.AsyncConnection`. Everything else is as in ``stepquota``: the answers,
the errors, and that nothing here commits.
"""

from __future__ import annotations

from . import calls
from .aio_reserver import Reserver
from .aio_resumption_loop import Resumptions, resumptions
from .execution import asynchronous as _async

__all__ = [
    "Reserver",
    "Resumptions",
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

reserve_workflow_step = _async(calls.reserve_workflow_step)
reserve_workflow_steps = _async(calls.reserve_workflow_steps)
open_workflow_step_batch = _async(calls.open_workflow_step_batch)
close_workflow_step_batch = _async(calls.close_workflow_step_batch)
resolve_workflow_step_quota = _async(calls.resolve_workflow_step_quota)
refresh_workflow_step_quota = _async(calls.refresh_workflow_step_quota)
explain_workflow_step_quota = _async(calls.explain_workflow_step_quota)
register_workflow_run = _async(calls.register_workflow_run)
start_workflow_step = _async(calls.start_workflow_step)
start_workflow_steps = _async(calls.start_workflow_steps)
finish_workflow_step = _async(calls.finish_workflow_step)
finish_workflow_run = _async(calls.finish_workflow_run)
cancel_workflow_run = _async(calls.cancel_workflow_run)
open_workflow_run_wait = _async(calls.open_workflow_run_wait)
resolve_workflow_run_wait = _async(calls.resolve_workflow_run_wait)
resume_workflow_run = _async(calls.resume_workflow_run)
revoke_role = _async(calls.revoke_role)
hold_workflow_run = _async(calls.hold_workflow_run)
release_workflow_run = _async(calls.release_workflow_run)
hold_tenant = _async(calls.hold_tenant)
release_tenant = _async(calls.release_tenant)
suspend_tenant = _async(calls.suspend_tenant)
reinstate_tenant = _async(calls.reinstate_tenant)
resume_scan = _async(calls.resume_scan)
tick = _async(calls.tick)
watch = _async(calls.watch)
claim_workflow_run_resumptions = _async(calls.claim_workflow_run_resumptions)
acknowledge_workflow_run_resumption = _async(calls.acknowledge_workflow_run_resumption)
redeliver_workflow_run_resumption = _async(calls.redeliver_workflow_run_resumption)
forecast_workflow_step_usage = _async(calls.forecast_workflow_step_usage)
list_daily_workflow_step_usage = _async(calls.list_daily_workflow_step_usage)
list_tenants = _async(calls.list_tenants)
claim_quota_events = _async(calls.claim_quota_events)
acknowledge_quota_events = _async(calls.acknowledge_quota_events)
remove_quota_event_consumer = _async(calls.remove_quota_event_consumer)
workflow_run_quota_pause = _async(calls.workflow_run_quota_pause)
reconcile_workflow_step_usage = _async(calls.reconcile_workflow_step_usage)
reconcile_all = _async(calls.reconcile_all)
repair_workflow_step_usage = _async(calls.repair_workflow_step_usage)
import_workflow_step_usage = _async(calls.import_workflow_step_usage)
register_ledger = _async(calls.register_ledger)
unregister_ledger = _async(calls.unregister_ledger)
purge = _async(calls.purge)
forget_tenant = _async(calls.forget_tenant)
grant_role = _async(calls.grant_role)
list_open_workflow_step_batches = _async(calls.list_open_workflow_step_batches)
set_tenant_plan = _async(calls.set_tenant_plan)
set_tenant_enforcement = _async(calls.set_tenant_enforcement)
list_shadow_overruns = _async(calls.list_shadow_overruns)
grant_workflow_steps = _async(calls.grant_workflow_steps)
revoke_workflow_step_grant = _async(calls.revoke_workflow_step_grant)
set_tier_limit = _async(calls.set_tier_limit)
bind_tenant_role = _async(calls.bind_tenant_role)
bind_session_role = _async(calls.bind_session_role)
unbind_tenant_role = _async(calls.unbind_tenant_role)
list_tenant_role_bindings = _async(calls.list_tenant_role_bindings)
set_policy = _async(calls.set_policy)
map_stripe_customer = _async(calls.map_stripe_customer)
unmap_stripe_customer = _async(calls.unmap_stripe_customer)
requeue_stripe_events = _async(calls.requeue_stripe_events)
stripe_sync_health = _async(calls.stripe_sync_health)
check_stripe = _async(calls.check_stripe)
apply_stripe_object = _async(calls.apply_stripe_object)
enable_cron = _async(calls.enable_cron)
disable_cron = _async(calls.disable_cron)
cron_sql = _async(calls.cron_sql)
status = _async(calls.status)
verify_all = _async(calls.verify_all)
metrics = _async(calls.metrics)
version = _async(calls.version)
