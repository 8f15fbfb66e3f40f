"""The scan's backend is terminated between two tenants, and inside one."""

from __future__ import annotations

import psycopg
import pytest

from concurrency.races import Background, Connect, pause, use_units, value, violations
from harness.databases import Database

TENANTS = ("a", "b", "c")

# Lets the scan stand still when it resumes the second tenant, as a full disk's wait might.
STAND_STILL = """
create function stand_still(p_tenant text) returns boolean language plpgsql as $$
begin
  if p_tenant = 'b' then
    perform pg_advisory_xact_lock(1);
  end if;
  return true;
end;
$$;
alter table stepquota.workflow_run_logs add constraint stand_still check (stand_still(tenant));
"""
LOGS = (
    "select coalesce(string_agg(tenant, '' order by tenant), '') from stepquota.workflow_run_logs"
)


@pytest.mark.parametrize(
    ("batch_size", "done_before"),
    [pytest.param(1, "a", id="between tenants"), pytest.param(100, "", id="inside a transaction")],
)
def test_what_was_committed_stays_and_the_next_scan_does_the_rest(
    database: Database, connect: Connect, batch_size: int, done_before: str
) -> None:
    database.run(STAND_STILL)
    watcher, blocker, scanner = connect(autocommit=True), connect(), connect(autocommit=True)
    watcher.execute("select stepquota.set_tier_limit('solo', 1)")
    for tenant in TENANTS:
        use_units(watcher, tenant, 1)
        pause(watcher, tenant, "r")
    watcher.execute("update stepquota.tiers set step_limit = 2 where tier = 'solo'")
    blocker.execute("select pg_advisory_lock(1)")

    scan = Background(scanner, lambda c: c.execute(f"call stepquota.resume_scan({batch_size})"))
    assert scan.wait_until_blocked(watcher)
    watcher.execute("select pg_terminate_backend(%s)", [scanner.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        scan.result()

    assert value(watcher, LOGS) == done_before
    assert violations(watcher) == []
    blocker.execute("select pg_advisory_unlock(1)")
    blocker.commit()
    watcher.execute("call stepquota.resume_scan()")
    assert value(watcher, LOGS) == "abc"
    scans = watcher.execute(
        "select finished_at is not null, runs_resumed, errors from stepquota.resume_scans"
        " order by scan_id"
    ).fetchall()
    assert scans == [(False, 0, []), (True, 3 - len(done_before), [])]
    runs = (
        "select count(distinct run_id || tenant), count(*) from stepquota.workflow_run_resumptions"
    )
    assert watcher.execute(runs.encode()).fetchone() == (3, 3)
    assert violations(watcher) == []
