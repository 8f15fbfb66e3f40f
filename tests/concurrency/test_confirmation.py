"""Confirming stored quotas while somebody stores what he resolved from inputs of before an edit."""

from __future__ import annotations

from concurrency.races import Background, Connect, Connection, call, give_limit, value


def limit_of_a_reservation(connection: Connection) -> int:
    return int(call(connection, "reserve_workflow_step", "acme")["effective_limit"])


def compare(connection: Connection) -> int:
    """Compare now, as if the last time was long ago; answers how many were marked."""
    connection.execute("update stepquota.scan_state set quotas_compared_at = null")
    return int(value(connection, "select stepquota.confirm_workflow_step_quotas()"))


def test_what_is_stored_late_is_found(connect: Connect) -> None:
    """The comparison finds the row locked, and has to remember that it differed."""
    watcher, late, caller = connect(autocommit=True), connect(), connect(autocommit=True)
    give_limit(watcher, "acme", 10)
    limit_of_a_reservation(caller)
    assert compare(watcher) == 1
    limit_of_a_reservation(caller)
    assert compare(watcher) == 0

    # Resolves, and does not commit before the edit has been compared.
    value(late, "select used_count from stepquota.refresh_workflow_step_quota('acme')")
    watcher.execute("update stepquota.tiers set step_limit = 20 where tier = 'tier of acme'")
    assert compare(watcher) == 0, "the row was marked although somebody has it"
    late.commit()
    assert limit_of_a_reservation(caller) == 10
    assert compare(watcher) == 1
    assert limit_of_a_reservation(caller) == 20


def test_nobody_waits_for_who_changes_all_tenants(connect: Connect) -> None:
    """Who changes a policy holds its row and waits for quotas, which a comparison has marked."""
    watcher, changer, marker = connect(autocommit=True), connect(), connect()
    give_limit(watcher, "acme", 10)
    limit_of_a_reservation(watcher)
    changer.execute("select 1 from stepquota.policy for no key update")
    watcher.execute("update stepquota.scan_state set quotas_compared_at = null")
    assert value(marker, "select stepquota.confirm_workflow_step_quotas()") == 1
    waits = Background(changer, lambda c: call(c, "refresh_workflow_step_quota", "acme"))
    assert waits.wait_until_blocked(watcher)
    marker.commit()
    waits.result()
    changer.commit()
    confirmed_until = "select confirmed_until = '-infinity' from stepquota.policy"
    assert value(watcher, confirmed_until), "what could not be written is not confirmed"


def test_an_earlier_snapshot_confirms_nothing(connect: Connect) -> None:
    """Under REPEATABLE READ the inputs are those of when the transaction began."""
    watcher, other = connect(), connect(autocommit=True)
    limit_of_a_reservation(other)
    watcher.execute("set transaction isolation level repeatable read")
    assert value(watcher, "select stepquota.confirm_workflow_step_quotas()") is None
    watcher.rollback()
    assert compare(other) == 1
