"""Every attempt can get through: with a function that has lost its guard, its test fails."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from concurrency.races import break_function_over

from . import test_attempts, test_bindings, test_inputs, test_matrix
from .calls import read_functions
from .conftest import Stage

Connection = psycopg.Connection[Any]
# Longer than any key, and nothing that PostgreSQL can compress.
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=100_000))
# A function with another text in one place; or statements that open a door, and close it.
Breakage = tuple[str, str, str] | tuple[str, str]

BROKEN: dict[str, tuple[Callable[..., None], Breakage]] = {
    "a search path that is not pinned hides the binding": (
        test_attempts.test_a_bound_caller_cannot_hide_the_binding,
        (
            "alter function stepquota.reserve_workflow_step(text) reset search_path",
            "alter function stepquota.reserve_workflow_step(text)"
            " set search_path = pg_catalog, pg_temp",
        ),
    ),
    "a reader whose rights are lent": (
        test_attempts.test_a_definer_function_of_somebody_else_does_not_free,
        (
            "list_visible_tenants",
            "v_of_caller := stepquota._list_callers_tenants(v_bound_roles);",
            "v_of_caller := null;",
        ),
    ),
    "a test clock that is anybody's": (
        lambda stage: test_attempts.test_the_test_clock_is_not_the_callers(stage, "runtime"),
        ("_read_test_clock", " where p.allow_test_clock", ""),
    ),
    "a test clock that is an operator's": (
        test_attempts.test_an_operator_cannot_allow_the_test_clock,
        ("set_policy", ", 'allow_test_clock'", ""),
    ),
    "a run that is found without its tenant": (
        test_attempts.test_keys_of_others_open_nothing,
        ("_host_lock_run", "r.tenant = p_tenant and ", ""),
    ),
    "a wait that is found without its tenant": (
        test_attempts.test_keys_of_others_open_nothing,
        ("_host_find_wait", "w.tenant = p_tenant and ", ""),
    ),
    "a resumption that is found without its tenant": (
        test_attempts.test_keys_of_others_open_nothing,
        ("_lock_resumption", "r.tenant = p_tenant and ", ""),
    ),
    "a table that operators may write": (
        test_attempts.test_nobody_makes_more_of_his_own_quota,
        (
            "grant update on stepquota.tiers to stepquota_operator;"
            " alter table stepquota.tiers disable row level security",
            "revoke update on stepquota.tiers from stepquota_operator;"
            " alter table stepquota.tiers enable row level security",
        ),
    ),
    "a partition that readers may read": (
        test_attempts.test_readers_get_around_nothing,
        (
            "do $$begin execute format('grant select on stepquota.workflow_run_steps_%s"
            " to stepquota_observer', to_char(now() at time zone 'UTC', 'YYYY_MM')); end$$",
            "do $$begin execute format('revoke select on stepquota.workflow_run_steps_%s"
            " from stepquota_observer', to_char(now() at time zone 'UTC', 'YYYY_MM')); end$$",
        ),
    ),
    "a login that is not asked about": (
        test_bindings.test_a_login_stays_bound_whatever_role_it_sets,
        (
            "_list_callers_tenants",
            "v_of_login := stepquota._list_tenants_of_role(session_user);",
            "v_of_login := null;",
        ),
    ),
    "a role that is not asked about": (
        test_bindings.test_a_pool_is_what_role_it_sets,
        (
            "_list_callers_tenants",
            "v_of_role := stepquota._list_tenants_of_role(v_role);",
            "v_of_role := null;",
        ),
    ),
    "members that are not bound": (
        test_bindings.test_members_are_bound,
        ("_list_tenants_of_role", "m.member = any (v_more) and", "false and"),
    ),
    "a role that is known by its name alone": (
        test_bindings.test_a_renamed_role_stays_bound_and_a_new_one_of_its_name_is,
        (
            "_list_tenants_of_role",
            "coalesce(to_regrole(quote_ident(b.role_name))::oid, b.role_oid)",
            "to_regrole(quote_ident(b.role_name))::oid",
        ),
    ),
    "a name without its quotes": (
        lambda scratch: test_bindings.test_any_name_can_be_bound(scratch, "UPPER"),
        ("_list_tenants_of_role", "to_regrole(quote_ident(p_role))", "to_regrole(p_role)"),
    ),
    "a superuser that can be bound": (
        test_bindings.test_what_cannot_be_held_cannot_be_bound,
        ("_find_binding_problem", "when v_role.rolsuper then", "when false then"),
    ),
    "a claim for everybody": (
        test_bindings.test_without_a_tenant_a_claim_is_for_the_own_one,
        (
            "claim_workflow_run_resumptions",
            "coalesce(p_tenant, stepquota._get_callers_tenant())",
            "p_tenant",
        ),
    ),
    "a policy's name in a statement": (
        lambda session: check_inputs(session, "set_policy", test_inputs.EVERYWHERE),
        ("set_policy", "p_name is null or p_name <> all (v_names)", "p_name is null"),
    ),
    "a tenant of any length": (
        lambda session: check_inputs(session, "register_workflow_run", [LONG]),
        ("_check_tenant", "octet_length(p_tenant) > 255", "false"),
    ),
    "a run id of any length": (
        lambda session: check_inputs(session, "register_workflow_run", [LONG]),
        ("_check_run_id", "octet_length(p_run_id) > 255", "false"),
    ),
    "an error that repeats what was sent": (
        lambda session: check_inputs(session, "register_workflow_run", [LONG]),
        ("_refuse_argument", "stepquota._quote_shortly(p_value)", "p_value"),
    ),
    "a function for everybody": (
        test_matrix.test_nothing_is_for_public,
        (
            "grant execute on function stepquota.version() to public",
            "revoke execute on function stepquota.version() from public",
        ),
    ),
    "a function for another role": (
        test_matrix.test_each_role_may_call_what_the_table_says,
        (
            "grant execute on function stepquota.set_policy(text, text) to stepquota_observer",
            "revoke execute on function stepquota.set_policy(text, text) from stepquota_observer",
        ),
    ),
    "a column for another role": (
        test_matrix.test_each_role_may_do_to_tables_what_it_should,
        (
            "grant update (plan) on stepquota.tenants to stepquota_observer",
            "revoke update (plan) on stepquota.tenants from stepquota_observer",
        ),
    ),
    "a table without row-level security": (
        test_matrix.test_every_table_has_row_level_security,
        (
            "alter table stepquota.workflow_run_logs disable row level security",
            "alter table stepquota.workflow_run_logs enable row level security",
        ),
    ),
    "rows of others": (
        lambda stage: test_matrix.test_bound_roles_see_rows_of_their_tenant(stage, "observer"),
        (
            "alter table stepquota.quota_events disable row level security",
            "alter table stepquota.quota_events enable row level security",
        ),
    ),
    "a view that reads with its owner's rights": (
        test_matrix.test_views_read_with_the_rights_of_who_asks,
        (
            "alter view stepquota.tenant_usage set (security_invoker = false)",
            "alter view stepquota.tenant_usage set (security_invoker = true)",
        ),
    ),
}


def check_inputs(session: Connection, name: str, texts: list[str]) -> None:
    function = read_functions(session)[name]
    assert test_inputs.complaints(session, {name: function}, ("text",), {"text": texts}) == []


@contextmanager
def broken(stage: Stage, breakage: Breakage) -> Iterator[None]:
    """Without the guard, and with it again."""
    with stage.database.connect(autocommit=True) as connection:
        if len(breakage) == 2:
            before, after = breakage
            connection.execute(before.encode())
        else:
            ((after,),) = connection.execute(
                "select pg_get_functiondef(p.oid) from pg_proc p"
                " where p.pronamespace = 'stepquota'::regnamespace and p.proname = %s",
                [breakage[0]],
            ).fetchall()
            break_function_over(connection, *breakage)
        try:
            yield
        finally:
            connection.execute(after.encode())
            connection.execute("update stepquota.policy set allow_test_clock = false")


@contextmanager
def arguments(stage: Stage, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The fixtures that a test asks for."""
    scratch = test_bindings.Scratch(stage)
    stage.database.run(f"create schema evil; grant all on schema evil to {stage.all_rights}")
    try:
        with stage.login(stage.all_rights) as session:
            found = {"stage": stage, "scratch": scratch, "session": session, "evil": "evil"}
            yield {name: found[name] for name in wanted}
    finally:
        stage.database.run("drop schema evil cascade")
        scratch.clear()


@pytest.mark.parametrize("what", BROKEN)
def test_without_the_guard_its_test_fails(stage: Stage, what: str) -> None:
    test, breakage = BROKEN[what]
    wanted = test.__code__.co_varnames[: test.__code__.co_argcount]
    with (
        arguments(stage, wanted) as given,
        broken(stage, breakage),
        pytest.raises((AssertionError, psycopg.Error, pytest.fail.Exception)),
    ):
        test(**given)
    # And with the guard it is the test's to pass.
    with arguments(stage, wanted) as given:
        test(**given)
