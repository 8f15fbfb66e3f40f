"""An old snapshot keeps dead versions of lanes; a reservation must not meet them."""

from __future__ import annotations

import threading
import time

import pytest

from concurrency.races import Connect, Connection, give_limit, value

# A call of the short way looks at about ten.
FEW_BLOCKS = 40
# As many uses of each lane as raise its generation, in transactions of their own.
AGE = """do $$ begin
  for number in 1..{rounds} loop
    update stepquota.workflow_step_usage_lanes
       set used_count = used_count + 64, generation = (used_count + 64) >> 6;
    commit;
  end loop;
end $$"""


def reserve_often(connection: Connection, times: int) -> None:
    """Reservations, a transaction each, on one connection."""
    connection.execute("set synchronous_commit = off")
    for _ in range(times):
        connection.execute("select 1 from stepquota.reserve_workflow_step('acme')", prepare=True)


def blocks_of(connection: Connection, call: str) -> int:
    """How many blocks a call looks at, in all its statements."""
    plan = value(connection, f"explain (analyze, buffers, format json) select * from {call}")
    top = plan[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])


@pytest.mark.parametrize(("lanes", "rounds"), [(1, 8_000), (64, 500)])
def test_dead_versions_of_a_lane_are_left_behind(connect: Connect, lanes: int, rounds: int) -> None:
    connection, holder = connect(autocommit=True), connect(autocommit=True)
    give_limit(connection, "acme", 100_000_000)
    if lanes > 1:
        value(
            connection,
            "select stepquota._fan_out_lane(q.tenant, q.period_start, 0)::text"
            " from stepquota.workflow_step_quotas q where q.tenant = 'acme'",
        )
    known = connect(autocommit=True)
    reserve_often(known, 10)
    holder.execute("begin isolation level repeatable read")
    holder.execute("select count(*) from stepquota.policy")
    connection.execute("set synchronous_commit = off")
    connection.execute(AGE.format(rounds=rounds).encode())
    # As autovacuum does in a while: now there are very many pages for few rows.
    connection.execute("vacuum (analyze) stepquota.workflow_step_usage_lanes")

    session = connect(autocommit=True)
    for each in (session, known):
        few = [blocks_of(each, "stepquota.reserve_workflow_step('acme')") for _ in range(40)]
        # The first one reads the catalogue, and one in 32 counts all lanes.
        few = sorted(few[1:])
        assert few[-3] < FEW_BLOCKS, few
        assert few[-1] < FEW_BLOCKS * (1 + lanes / 4), few
    # The long way, as where the home lane is taken.
    long_way = (
        "stepquota._take_unit_elsewhere('acme', stepquota._find_quota('acme', now()), 1, now())"
    )
    long = [blocks_of(session, long_way) for _ in range(10)]
    assert min(long) < 2 * FEW_BLOCKS + 6 * lanes, long
    holder.execute("rollback")


def test_the_table_of_lanes_is_never_tiny(connect: Connect) -> None:
    connection = connect(autocommit=True)
    connection.execute("vacuum full stepquota.workflow_step_usage_lanes")
    small = value(connection, "select pg_relation_size('stepquota.workflow_step_usage_lanes')")
    connection.execute("select stepquota._pad_lanes()")
    connection.execute("vacuum stepquota.workflow_step_usage_lanes")
    padded = value(
        connection, "select pg_relation_size('stepquota.workflow_step_usage_lanes') / 8192"
    )
    assert small < 16 * 8192 <= padded * 8192
    assert value(connection, "select count(*) from stepquota.workflow_step_usage_lanes") == 0


def test_who_watches_has_no_old_snapshot(connect: Connect) -> None:
    watcher, others = connect(autocommit=True), connect(autocommit=True)
    watching = threading.Thread(target=watcher.execute, args=["call stepquota.watch(3)"])
    watching.start()
    begun: dict[int, float] = {}
    oldest = 0.0
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        begun[int(value(others, "select txid_current() % (1::bigint << 32)"))] = time.monotonic()
        horizon = value(
            others,
            "select backend_xmin::text::bigint from pg_stat_activity where pid = %s",
            watcher.info.backend_pid,
        )
        if horizon in begun:
            oldest = max(oldest, time.monotonic() - begun[horizon])
    watching.join()
    assert 0 < oldest < 0.5
