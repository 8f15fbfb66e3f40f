"""The columns of stepquota's own host tables, in their order, as the newest migration leaves them.

They are written down, since what an application's tables take the place of must be known before an
upgrade has made it. A test compares them with the database.
"""

from __future__ import annotations

from collections.abc import Mapping

_MOMENT = "timestamp with time zone"
_HOLD = {"held_at": _MOMENT, "held_by": "text", "held_because": "text"}

HOST_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "tenants": {
        "tenant": "text",
        "plan": "text",
        "suspended_at": _MOMENT,
        "created_at": _MOMENT,
        **_HOLD,
        "enforcement": "text",
    },
    "workflow_runs": {
        "tenant": "text",
        "run_id": "text",
        "workflow": "text",
        "runtime": "text",
        "status": "text",
        "node_path": "text",
        "ledger_month": "date",
        "error": "jsonb",
        "registered_at": _MOMENT,
        "ended_at": _MOMENT,
        **_HOLD,
    },
    "workflow_run_steps": {
        "tenant": "text",
        "run_id": "text",
        "node_path": "text",
        "attempt": "integer",
        "ledger_month": "date",
        "step_id": "uuid",
        "step_type": "text",
        "status": "text",
        "period_start": _MOMENT,
        "error": "jsonb",
        "started_at": _MOMENT,
        "finished_at": _MOMENT,
    },
    "workflow_run_waits": {
        "tenant": "text",
        "wait_id": "uuid",
        "run_id": "text",
        "node_path": "text",
        "node_paths": "text[]",
        "attempt": "integer",
        "wait_type": "text",
        "status": "text",
        "reason": "text",
        "due_at": _MOMENT,
        "queued_at": _MOMENT,
        "created_at": _MOMENT,
        "resolved_at": _MOMENT,
        "payload": "jsonb",
        "is_held": "boolean",
    },
    "workflow_run_logs": {
        "tenant": "text",
        "log_id": "bigint",
        "run_id": "text",
        "level": "text",
        "message": "text",
        "details": "jsonb",
        "logged_at": _MOMENT,
    },
}
