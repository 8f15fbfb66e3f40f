"""What retention deletes where an application's tables are used: nothing of its own, all of ours.

What the application's own rows are kept for is its own business. What is in tables that stay
stepquota's goes as policy says, also when the runs it belongs to are the application's.
"""

from __future__ import annotations

import re
from collections.abc import Container

_RUNS = "workflow_runs"
_STEPS = "workflow_run_steps"
_WAITS = "workflow_run_waits"
_LOGS = "workflow_run_logs"

# Where the steps are the application's, the months of our ledger are empty: they go when they are
# old, no run has to have its month there, and nothing in them is to be counted.
_NO_LEDGER = {
    "_host_has_run_after": "\n  select false;  -- nothing is in it\n",
    "_host_count_month_steps": "\n  select ''::text, null::timestamptz, 0::bigint where false;\n",
    "_host_delete_steps": "\n  select null::timestamptz, 0::bigint where false;\n",
}
_RUN_WITHOUT_LEDGER = re.compile(
    r"  return query\s+select 'I4 idempotent'[^;]*'run_without_ledger'[^;]*;\n"
)
_STEP_OFF_RUN = "where r.ledger_month is distinct from s.ledger_month"
_DELETE = re.compile(r" *delete from stepquota\.(\w+) [^;]*;\n")

# The runs stay, so they are not asked which of them have rows of ours left: these are asked for
# their runs. A run that the application has deleted is none any more.
_LIST_ENDED_RUNS = """
  with kept (tenant, run_id, ledger_month) as (
{kept}
  )
  select k.tenant, k.run_id, max(coalesce(k.ledger_month, r.ledger_month)),
         bool_and(r.run_id is null)
    from kept k
    left join stepquota.workflow_runs r on r.tenant = k.tenant and r.run_id = k.run_id
   where r.run_id is null or r.ended_at <= p_moment
   group by k.tenant, k.run_id
   order by k.tenant, k.run_id
   limit p_limit;
"""
_KEPT_STEPS = """\
    select s.tenant, s.run_id, s.ledger_month from stepquota.workflow_run_steps s
     where s.ledger_month <= p_last_month and s.ledger_month <> all (p_without)
    union
"""
_KEPT_WAITS = """\
    select w.tenant, w.run_id, null from stepquota.workflow_run_waits w
     where w.created_at <= p_moment
    union
"""
_KEPT_RESUMPTIONS = """\
    select m.tenant, m.run_id, null::date from stepquota.workflow_run_resumptions m
     where m.created_at <= p_moment"""


def keep_rows(adopted: Container[str], name: str, body: str) -> str:
    """A function of ``sql/host.sql`` that deletes nothing of the application's.

    Args:
        adopted: Stepquota's names of the tables that are the application's.
        name: The function's.
        body: What it does to stepquota's own tables.
    """
    if _STEPS in adopted:
        body = _NO_LEDGER.get(name, body)
        if name == "_host_list_violations":
            body, count = _RUN_WITHOUT_LEDGER.subn("", body)
            assert count == 1, "sql/host.sql no longer says so"
    if name == "_host_list_violations" and (_RUNS in adopted or _STEPS in adopted):
        # A run may be deleted long before its steps.
        assert _STEP_OFF_RUN in body, "sql/host.sql no longer says so"
        body = body.replace(_STEP_OFF_RUN, "where r.ledger_month <> s.ledger_month")
    if name == "_host_list_ended_runs" and _RUNS in adopted:
        kept = _KEPT_RESUMPTIONS
        if _WAITS not in adopted:
            kept = _KEPT_WAITS + kept
        if _STEPS not in adopted:
            kept = _KEPT_STEPS + kept
        body = _LIST_ENDED_RUNS.format(kept=kept)
    if name == "_host_delete_run":
        body = _DELETE.sub(lambda match: "" if match[1] in adopted else match[0], body)
    if name == "_host_delete_logs" and _LOGS in adopted:
        body = "\nbegin\n  return 0;\nend;\n"
    return body
