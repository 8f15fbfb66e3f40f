"""Who counts as bound: logins, roles that are set, members, and what roles become."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg_errors
from psycopg import sql

import stepquota
from stepquota.errors import BoundToTenant, InvalidArgument, RoleNotBindable

from .conftest import OTHER, OWN, Stage


class Scratch:
    """Roles of one test, which are gone after it with their bindings."""

    def __init__(self, stage: Stage):
        self.stage = stage
        self.made: list[str] = []

    def role(self, suffix: str, *options: str, member_of: tuple[str, ...] = ()) -> str:
        name = f"{self.stage.stranger}_{suffix}"
        self.run(f"create role {quoted(name)} login {' '.join(options)}")
        self.made.append(name)
        for group in member_of:
            self.run(f"grant {quoted(group)} to {quoted(name)}")
        return name

    def run(self, statement: str) -> None:
        self.stage.database.run(statement)

    def bind(self, role: str, tenant: str = OWN) -> bool:
        with self.stage.database.connect(autocommit=True) as connection:
            return stepquota.bind_tenant_role(connection, role, tenant).changed

    def clear(self) -> None:
        with self.stage.database.connect(autocommit=True) as connection:
            for binding in stepquota.list_tenant_role_bindings(connection):
                if binding.role not in self.stage.bound.values():
                    assert stepquota.unbind_tenant_role(connection, binding.role)
            for name in self.made:
                connection.execute(f"drop role if exists {quoted(name)}".encode())


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string()


@pytest.fixture
def scratch(stage: Stage) -> Iterator[Scratch]:
    scratch = Scratch(stage)
    yield scratch
    scratch.clear()


def reach(connection: psycopg.Connection[Any]) -> set[str]:
    """The tenants that a session may act for, of three; both ways into the functions agree."""
    found = set()
    for tenant in (OWN, OTHER, "initech"):
        ways = set()
        for call in (stepquota.reserve_workflow_step, stepquota.resolve_workflow_step_quota):
            try:
                with connection.transaction(force_rollback=True):
                    call(connection, tenant)
                ways.add(True)
            except BoundToTenant:
                ways.add(False)
        assert len(ways) == 1, tenant
        if ways == {True}:
            found.add(tenant)
    return found


ALL = {OWN, OTHER, "initech"}


@contextmanager
def set_role(connection: psycopg.Connection[Any], role: str) -> Iterator[None]:
    connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    yield
    connection.execute("reset role")


def test_a_login_stays_bound_whatever_role_it_sets(scratch: Scratch) -> None:
    login = scratch.role("login", member_of=("stepquota_runtime", "stepquota_operator"))
    with scratch.stage.login(login) as connection:
        assert reach(connection) == ALL
        assert scratch.bind(login)
        assert reach(connection) == {OWN}
        for role in ("stepquota_runtime", "stepquota_operator", login):
            with set_role(connection, role):
                assert reach(connection) == {OWN}
        with pytest.raises(BoundToTenant):
            stepquota.unbind_tenant_role(connection, login)
        with pytest.raises(BoundToTenant):
            stepquota.bind_tenant_role(connection, "stepquota_runtime", OWN)
        with pytest.raises(BoundToTenant):
            stepquota.list_tenant_role_bindings(connection)
        with pytest.raises(pg_errors.InsufficientPrivilege):
            connection.execute("delete from stepquota.tenant_role_bindings")
        # What the role has been given it can throw away, and is bound no less.
        connection.execute("drop owned by current_user")
        assert reach(connection) == {OWN}


def test_a_pool_is_what_role_it_sets(scratch: Scratch) -> None:
    one = scratch.role("one", member_of=("stepquota_runtime",))
    two = scratch.role("two", member_of=("stepquota_runtime",))
    scratch.bind(one, OWN)
    scratch.bind(two, OTHER)
    pool = scratch.role("pool", "noinherit", member_of=(one, two))
    with scratch.stage.login(pool) as connection:
        for role, tenant in ((one, OWN), (two, OTHER)):
            with set_role(connection, role):
                assert reach(connection) == {tenant}
        # A right of those roles, and none of them: what they may do together.
        with set_role(connection, "stepquota_runtime"):
            assert reach(connection) == {OWN, OTHER}
        with connection.transaction():
            connection.execute(f"set local role {one}".encode())
            assert reach(connection) == {OWN}


def test_members_are_bound(scratch: Scratch) -> None:
    bound = scratch.role("bound", member_of=("stepquota_runtime",))
    scratch.bind(bound)
    group = scratch.role("group", member_of=(bound,))
    for options in ("inherit", "noinherit"):
        member = scratch.role(options, options, member_of=(group, "stepquota_runtime"))
        with scratch.stage.login(member) as connection, set_role(connection, "stepquota_runtime"):
            assert reach(connection) == {OWN}
    both = scratch.role("both", member_of=(bound,))
    scratch.bind(both, OTHER)
    with scratch.stage.login(both) as connection:
        assert reach(connection) == {OWN, OTHER}
        with set_role(connection, bound):
            assert reach(connection) == {OWN}


def test_a_bound_login_cannot_lend_itself(scratch: Scratch) -> None:
    """Before PostgreSQL 16 a login may make others members of itself."""
    bound = scratch.role("bound", member_of=("stepquota_runtime",))
    scratch.bind(bound)
    friend = scratch.role("friend", "noinherit")
    with scratch.stage.login(bound) as connection:
        if connection.info.server_version >= 160000:
            with pytest.raises(pg_errors.InsufficientPrivilege):
                connection.execute(f"grant {bound} to {friend}".encode())
            return
        # It must have logged in: who only looks like it may not.
        connection.execute("reset session authorization")
        connection.execute(f"grant {bound} to {friend}".encode())
    with scratch.stage.login(friend) as connection, set_role(connection, "stepquota_runtime"):
        assert reach(connection) == {OWN}


def test_who_may_only_give_a_role_to_others_is_free(scratch: Scratch) -> None:
    bound = scratch.role("bound", member_of=("stepquota_runtime",))
    scratch.bind(bound)
    keeper = scratch.role("keeper", member_of=("stepquota_runtime",))
    with scratch.stage.database.connect(autocommit=True) as connection:
        if connection.info.server_version < 160000:
            return
        connection.execute(
            f"grant {bound} to {keeper} with admin true, inherit false, set false".encode()
        )
    with scratch.stage.login(keeper) as connection:
        assert reach(connection) == ALL
    scratch.run(f"grant {bound} to {keeper} with admin true, inherit false, set true")
    with scratch.stage.login(keeper) as connection:
        assert reach(connection) == {OWN}


def test_a_renamed_role_stays_bound_and_a_new_one_of_its_name_is(scratch: Scratch) -> None:
    role = scratch.role("old", member_of=("stepquota_runtime",))
    scratch.bind(role)
    renamed = f"{role}_renamed"
    scratch.run(f"alter role {role} rename to {renamed}")
    scratch.made.append(renamed)
    with scratch.stage.login(renamed) as connection:
        assert reach(connection) == {OWN}
    with scratch.stage.database.connect() as connection:
        (problem,) = [
            b.problem for b in stepquota.list_tenant_role_bindings(connection) if b.role == role
        ]
        assert problem == f"it is called {renamed} now, and is bound still"
        items = {item.item: item for item in stepquota.status(connection)}
        assert items["bound roles"].state == "warn"
        assert renamed in str(items["bound roles"].detail)
    scratch.run(f"drop role {renamed}")
    with scratch.stage.database.connect() as connection:
        (problem,) = [
            b.problem for b in stepquota.list_tenant_role_bindings(connection) if b.role == role
        ]
        assert problem == "there is no such role"
    with scratch.stage.login(scratch.role("old", member_of=("stepquota_runtime",))) as connection:
        assert reach(connection) == {OWN}


@pytest.mark.parametrize("suffix", ["UPPER", 'quo"te', "com,ma {brace}", "back\\slash", "ünïcode"])
def test_any_name_can_be_bound(scratch: Scratch, suffix: str) -> None:
    role = scratch.role(suffix, member_of=("stepquota_runtime",))
    assert scratch.bind(role)
    assert not scratch.bind(role)
    with scratch.stage.login(role) as connection:
        assert reach(connection) == {OWN}


def test_with_very_many_bindings_the_answers_are_the_same(scratch: Scratch) -> None:
    """More than are asked for one by one."""
    bound = scratch.role("bound", member_of=("stepquota_runtime",))
    free = scratch.role("free", member_of=("stepquota_runtime",))
    scratch.bind(bound)
    for number in range(65):
        scratch.bind(scratch.role(str(number)), OTHER)
    with scratch.stage.login(bound) as connection:
        assert reach(connection) == {OWN}
    with scratch.stage.login(free) as connection:
        assert reach(connection) == ALL


def test_what_cannot_be_held_cannot_be_bound(scratch: Scratch) -> None:
    with scratch.stage.database.connect(autocommit=True) as connection:
        ((owner,),) = connection.execute("select current_user").fetchall()
        unbindable = {
            owner: "superuser",
            scratch.role("root", "superuser"): "superuser",
            scratch.role("passes", "bypassrls"): "bypasses row-level security",
            "stepquota_runtime": "one of the four roles",
            "nobody of that name": "no such role",
            scratch.stage.bound["runtime"]: f"bound to '{OWN}'",
        }
        for role, why in unbindable.items():
            with pytest.raises(RoleNotBindable) as refused:
                stepquota.bind_tenant_role(connection, role, OTHER)
            assert why in (refused.value.detail or "")
        with pytest.raises(InvalidArgument):
            stepquota.bind_tenant_role(connection, "", OWN)
        assert stepquota.unbind_tenant_role(connection, "nobody of that name") is False


def test_superusers_are_bound_by_what_they_set(stage: Stage) -> None:
    with stage.database.connect(autocommit=True) as connection:
        assert reach(connection) == ALL
        with set_role(connection, stage.bound["runtime"]):
            assert reach(connection) == {OWN}


def test_bindings_are_recorded_and_end(scratch: Scratch) -> None:
    role = scratch.role("login", member_of=("stepquota_runtime",))
    with scratch.stage.database.connect(autocommit=True) as connection:
        stepquota.bind_tenant_role(connection, role, "initech")
        assert stepquota.unbind_tenant_role(connection, role)
        assert connection.execute(
            "select event_type, details ->> 'role' from stepquota.quota_events"
            " where tenant = 'initech' and event_type like 'role%' order by event_id"
        ).fetchall() == [("role_bound", role), ("role_unbound", role)]
    with scratch.stage.login(role) as connection:
        assert reach(connection) == ALL


def test_forgetting_a_tenant_frees_nobody(scratch: Scratch) -> None:
    role = scratch.role("login", member_of=("stepquota_runtime",))
    scratch.bind(role, "initech")
    with scratch.stage.database.connect(autocommit=True) as connection:
        stepquota.forget_tenant(connection, "initech")
    with scratch.stage.login(role) as connection:
        assert reach(connection) == {"initech"}


def test_without_a_tenant_a_claim_is_for_the_own_one(scratch: Scratch) -> None:
    with scratch.stage.database.connect() as connection:
        connection.execute(
            "select stepquota.resolve_workflow_run_wait(w.tenant, w.wait_id)"
            " from stepquota.workflow_run_waits w"
            " where w.wait_type = 'event' and w.status = 'WAITING'"
        )
        bound = scratch.stage.bound["runtime"]
        connection.execute(f"set local session authorization {bound}".encode())
        claimed = stepquota.claim_workflow_run_resumptions(connection, "me")
        assert {resumption.tenant for resumption in claimed} == {OWN}
        connection.rollback()
    one = scratch.role("one", member_of=("stepquota_runtime",))
    both = scratch.role("both", member_of=(one,))
    scratch.bind(one)
    scratch.bind(both, OTHER)
    with scratch.stage.login(both) as connection, pytest.raises(BoundToTenant):
        stepquota.claim_workflow_run_resumptions(connection, "me")
