"""I5: no raise of capacity is lost on a run that is being paused at that moment.

Each race is run on the installed functions, where it must end well, and once more on functions that
were broken on purpose, where it must not: or the check would see nothing.
"""

from __future__ import annotations

import pytest

from concurrency.races import (
    Background,
    Connection,
    break_function,
    call,
    give_limit,
    pause,
    use_units,
    value,
    violations,
)
from harness.databases import Database

# The decision again, under the lock of the quota row.
_DECIDE_AGAIN = (
    "v_quota := stepquota._take_unit_elsewhere(p_tenant,\n"
    "      (stepquota._share_quota(p_tenant, v_now), true)::stepquota._found_quota, 0, v_now);"
)


# Who finds a tenant's only lane busy waits for it, and then meets no race: others do not.
_WAITS_AT_THE_ONLY_LANE = "if v_used_count is null and v_lane_count = 1 then"


def by_the_long_way(database: Database) -> None:
    """Starts decide as they do where a tenant has several lanes."""
    break_function(database, "start_workflow_step", _WAITS_AT_THE_ONLY_LANE, "if false then")


def start(connection: Connection) -> str:
    return str(call(connection, "start_workflow_step", "acme", "r", "root")["outcome"])


def is_forgotten(connection: Connection) -> bool:
    """Whether a run waits although there is a unit, and nobody is to look at it now."""
    return bool(
        value(
            connection,
            """
            select exists (
              select 1 from stepquota.workflow_run_waits w
               where w.status = 'WAITING' and w.wait_type = 'quota'
                 and (stepquota.resolve_workflow_step_quota(w.tenant)).allowed
                 and not exists (
                   select 1 from stepquota.paused_tenants t
                    where t.tenant = w.tenant and t.due_at <= clock_timestamp()))
            """,
        )
    )


def race_a_raise(database: Database) -> bool:
    """A denial is read, the raise commits, the pause commits; answer whether it is forgotten."""
    watcher, raiser, pauser = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, raiser, pauser:
        give_limit(watcher, "acme", 1)
        use_units(watcher, "acme", 1)
        call(watcher, "register_workflow_run", "acme", "r")
        # The raise has looked for paused runs, found none, and is not committed.
        give_limit(raiser, "acme", 2)
        paused = Background(pauser, start)
        paused.wait_until_blocked(watcher)
        raiser.commit()
        paused.result()
        assert violations(watcher) == []
        return is_forgotten(watcher)


def test_a_raise_between_the_denial_and_the_pause(database: Database) -> None:
    assert not race_a_raise(database)


def test_the_second_decision_is_enough(database: Database) -> None:
    blind_to_changes_for_all(database)
    by_the_long_way(database)
    assert not race_a_raise(database)


def blind_to_changes_for_all(database: Database) -> None:
    """The policy row, shared, is a second line of defence: without it the first must hold."""
    break_function(
        database, "_share_policy", "perform 1 from stepquota.policy p for share skip locked;", ""
    )
    break_function(database, "_share_policy", "return found;", "return true;")


def test_a_raise_would_be_lost_without_the_second_decision(database: Database) -> None:
    blind_to_changes_for_all(database)
    by_the_long_way(database)
    break_function(database, "start_workflow_step", _DECIDE_AGAIN, "null;")
    assert race_a_raise(database)


def test_a_raise_would_be_lost_if_the_quota_row_were_not_locked(database: Database) -> None:
    blind_to_changes_for_all(database)
    by_the_long_way(database)
    break_function(database, "_share_quota", "q.tenant = p_tenant for share", "q.tenant = p_tenant")
    assert race_a_raise(database)


def race_a_removal(database: Database) -> bool:
    """A pauser sees a paused_tenants row that a scan removes; answer whether the tenant is lost."""
    watcher, scanner, pauser = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, scanner, pauser:
        give_limit(watcher, "acme", 1)
        use_units(watcher, "acme", 1)
        # The row is there, and nobody waits any more.
        pause(watcher, "acme", "gone")
        call(watcher, "finish_workflow_run", "acme", "gone", "FAILED")
        call(watcher, "register_workflow_run", "acme", "r")
        call(scanner, "resume_due_tenant", "acme", 10)
        paused = Background(pauser, start)
        paused.wait_until_blocked(watcher)
        scanner.commit()
        assert paused.result() == "quota_paused"
        return bool(violations(watcher))


def test_a_scan_that_removes_the_row_a_pauser_sees(database: Database) -> None:
    assert not race_a_removal(database)


def test_a_removed_row_would_be_lost_without_both_locks(database: Database) -> None:
    break_function(database, "_share_quota", "q.tenant = p_tenant for share", "q.tenant = p_tenant")
    break_function(
        database, "_pause_run", "t.tenant = p_run.tenant for key share", "t.tenant = p_run.tenant"
    )
    assert race_a_removal(database)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        ("_share_quota", "q.tenant = p_tenant for share", "q.tenant = p_tenant"),
        ("_pause_run", "t.tenant = p_run.tenant for key share", "t.tenant = p_run.tenant"),
    ],
)
def test_each_of_the_two_locks_is_enough(
    database: Database, function: str, old: str, new: str
) -> None:
    break_function(database, function, old, new)
    assert not race_a_removal(database)


def race_a_tier(database: Database, raise_commits_first: bool) -> bool:
    """A tier is raised while a step is refused; answer whether the run is forgotten by the scan."""
    watcher, raiser, pauser = (database.connect(autocommit=a) for a in (True, False, False))
    with watcher, raiser, pauser:
        give_limit(watcher, "acme", 1)
        use_units(watcher, "acme", 1)
        call(watcher, "register_workflow_run", "acme", "r")
        # The scan has just looked for edited inputs, and will not look again for an hour.
        call(watcher, "set_policy", "staleness", "1 hour")
        watcher.execute("call stepquota.tick()")
        if raise_commits_first:
            call(raiser, "set_tier_limit", "tier of acme", 2)
            assert start(pauser) == "quota_paused"
            raiser.commit()
            pauser.commit()
        else:
            assert start(pauser) == "quota_paused"
            raised = Background(
                raiser, lambda c: call(c, "set_tier_limit", "tier of acme", 2)["changed"]
            )
            raised.wait_until_blocked(watcher)
            pauser.commit()
            assert raised.result()
            raiser.commit()
        watcher.execute("call stepquota.tick()")
        assert violations(watcher) == []
        status = value(watcher, "select status from stepquota.workflow_runs where run_id = 'r'")
        return str(status) == "WAITING"


@pytest.mark.parametrize("raise_commits_first", [True, False])
def test_a_tier_raised_while_a_step_is_refused(
    database: Database, raise_commits_first: bool
) -> None:
    assert not race_a_tier(database, raise_commits_first)


@pytest.mark.parametrize("raise_commits_first", [True, False])
def test_a_tier_raised_unnoticed_would_be_seen(
    database: Database, raise_commits_first: bool
) -> None:
    blind_to_changes_for_all(database)
    assert race_a_tier(database, raise_commits_first)


def race_a_release(database: Database, function: str) -> bool:
    """A hold is read, the release commits, the pause commits; answer whether it is forgotten."""
    watcher, releaser, pauser = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, releaser, pauser:
        give_limit(watcher, "acme", 2)
        use_units(watcher, "acme", 1)
        call(watcher, "register_workflow_run", "acme", "r")
        call(watcher, "hold_tenant", "acme", "x")
        if function == "reinstate_tenant":
            call(watcher, "release_tenant", "acme", "x")
            call(watcher, "suspend_tenant", "acme", "x")
        # The release has looked for paused runs, found none, and is not committed.
        call(releaser, function, "acme", "done")
        paused = Background(pauser, start)
        paused.wait_until_blocked(watcher)
        releaser.commit()
        paused.result()
        assert violations(watcher) == []
        return is_forgotten(watcher)


@pytest.mark.parametrize("function", ["release_tenant", "reinstate_tenant"])
def test_a_release_between_the_hold_and_the_pause(database: Database, function: str) -> None:
    assert not race_a_release(database, function)


@pytest.mark.parametrize("function", ["release_tenant", "reinstate_tenant"])
def test_a_release_would_be_lost_without_the_second_look(database: Database, function: str) -> None:
    blind_to_changes_for_all(database)
    break_function(database, "_hold_start", "if v_holds = '{}' then", "if false then")
    break_function(
        database,
        "_hold_start",
        "p_run, p_node_path, v_holds[1],",
        "p_run, p_node_path, 'operator_hold',",
    )
    assert race_a_release(database, function)


def race_a_grant(database: Database) -> bool:
    """A denial is read, the grant commits, the pause commits; answer whether it is forgotten."""
    watcher, giver, pauser = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, giver, pauser:
        give_limit(watcher, "acme", 1)
        use_units(watcher, "acme", 1)
        call(watcher, "register_workflow_run", "acme", "r")
        call(giver, "grant_workflow_steps", "acme", 1, "because", None, "payment")
        paused = Background(pauser, start)
        paused.wait_until_blocked(watcher)
        giver.commit()
        paused.result()
        assert violations(watcher) == []
        return is_forgotten(watcher)


def test_a_grant_between_the_denial_and_the_pause(database: Database) -> None:
    assert not race_a_grant(database)


def test_a_grant_would_be_lost_without_the_second_decision(database: Database) -> None:
    blind_to_changes_for_all(database)
    by_the_long_way(database)
    break_function(database, "start_workflow_step", _DECIDE_AGAIN, "null;")
    assert race_a_grant(database)


def grant_twice_at_once(database: Database) -> int:
    """Two calls with the same key at the same moment; answer how many units were given."""
    watcher, first, second = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, first, second:
        give_limit(watcher, "acme", 1)
        arguments = ("acme", 5, "pack", None, "payment")
        given = call(first, "grant_workflow_steps", *arguments)
        again = Background(
            second, lambda c: call(c, "grant_workflow_steps", *arguments)["grant_id"]
        )
        assert again.wait_until_blocked(watcher)
        first.commit()
        assert again.result() == given["grant_id"]
        assert violations(watcher) == []
        granted = value(
            watcher, "select (stepquota.resolve_workflow_step_quota('acme')).granted_units"
        )
        return int(granted)


def test_a_payment_that_is_told_of_twice_at_once_gives_once(database: Database) -> None:
    assert grant_twice_at_once(database) == 5


def race_a_mode(database: Database, mode: str) -> tuple[bool, int]:
    """A step is refused, or counted past the limit, while the mode changes."""
    watcher, operator, starter = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, operator, starter:
        give_limit(watcher, "acme", 1)
        use_units(watcher, "acme", 1)
        call(watcher, "register_workflow_run", "acme", "r")
        if mode == "enforce":
            call(watcher, "set_tenant_enforcement", "acme", "shadow")
        call(operator, "set_tenant_enforcement", "acme", mode)
        started = Background(starter, start)
        started.wait_until_blocked(watcher)
        operator.commit()
        started.result()
        assert violations(watcher) == []
        used = value(watcher, "select sum(used_count) from stepquota.workflow_step_usage_lanes")
        return is_forgotten(watcher), int(used)


def test_shadow_mode_between_the_denial_and_the_pause(database: Database) -> None:
    assert race_a_mode(database, "shadow") == (False, 2)


def test_shadow_mode_would_be_lost_without_the_second_decision(database: Database) -> None:
    blind_to_changes_for_all(database)
    by_the_long_way(database)
    break_function(database, "start_workflow_step", _DECIDE_AGAIN, "null;")
    assert race_a_mode(database, "shadow")[0]


def test_the_first_step_after_enforcement_began_is_decided_by_the_count(database: Database) -> None:
    assert race_a_mode(database, "enforce") == (False, 1)


def race_a_release_of_the_run(database: Database) -> str:
    """A run is released while it is started; answer where it ends."""
    watcher, releaser, pauser = (database.connect(autocommit=a) for a in (True, False, True))
    with watcher, releaser, pauser:
        give_limit(watcher, "acme", 2)
        call(watcher, "register_workflow_run", "acme", "r")
        call(watcher, "hold_workflow_run", "acme", "r", "x")
        assert start(watcher) == "held"
        call(releaser, "release_workflow_run", "acme", "r", "done")
        started = Background(pauser, start)
        assert started.wait_until_blocked(watcher)
        releaser.commit()
        assert violations(watcher) == []
        return str(started.result())


def test_a_release_of_the_run_while_it_starts(database: Database) -> None:
    assert race_a_release_of_the_run(database) == "started"
