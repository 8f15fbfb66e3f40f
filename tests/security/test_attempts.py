"""What somebody with a role of ours may try, and must not get through with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg_errors

import stepquota
from stepquota.errors import (
    BoundToTenant,
    StepquotaError,
    UnknownBatch,
    UnknownGrant,
    UnknownResumption,
    UnknownRun,
    UnknownWait,
)

from .conftest import KINDS, OTHER, OWN, Stage

Connection = psycopg.Connection[Any]


@pytest.fixture
def evil(stage: Stage) -> Iterator[str]:
    """A schema in which the stranger, and who has all rights, may make what they like."""
    stage.database.run(f"create schema evil; grant all on schema evil to {stage.all_rights}")
    yield "evil"
    stage.database.run("drop schema evil cascade")


def limited_tenant(stage: Stage, tenant: str) -> None:
    """A tenant with two units."""
    with stage.database.connect() as connection:
        stepquota.set_tier_limit(connection, "two", 2)
        stepquota.set_tenant_plan(connection, tenant, "two")


def decisions(connection: Connection, tenant: str) -> list[tuple[bool, int]]:
    answers = [stepquota.reserve_workflow_step(connection, tenant) for _ in range(3)]
    return [(answer.allowed, answer.used_count) for answer in answers]


EXACT = [(True, 1), (True, 2), (False, 2)]


# -- Things of the caller's in the way

SHADOWS = """
create function evil.always(bigint, bigint) returns boolean language sql as 'select true';
create function evil.always(text, text) returns boolean language sql as 'select true';
create function evil.always(timestamptz, timestamptz) returns boolean language sql as 'select true';
create operator evil.< (leftarg = bigint, rightarg = bigint, function = evil.always);
create operator evil.= (leftarg = text, rightarg = text, function = evil.always);
create operator evil.>= (leftarg = timestamptz, rightarg = timestamptz, function = evil.always);
create function evil.pg_backend_pid() returns integer language sql as 'select 999';
create function evil.current_setting(text) returns text language sql as $$select 'none'$$;
create function evil.current_setting(text, boolean) returns text language sql as $$select 'none'$$;
create function evil.pg_has_role(name, oid, text) returns boolean language sql as 'select false';
create function evil.octet_length(text) returns integer language sql as 'select 0';
create function evil.clock_timestamp() returns timestamptz language sql
  as $$select timestamptz '2000-01-01Z'$$;
create table evil.policy as select null::text[] as bound_roles, 0::bigint as epoch;
create temp table policy as select null::text[] as bound_roles, 0::bigint as epoch;
create temp table tenant_role_bindings (tenant text, role_name text, role_oid oid);
create temp table workflow_step_quotas (tenant text, effective_limit bigint);
create temp table workflow_step_usage_lanes (tenant text, used_count bigint, allowance bigint);
create temp table pg_roles (oid oid, rolname name, rolsuper boolean);
create temp table pg_auth_members (roleid oid, member oid);
create type pg_temp.workflow_step_quota as (allowed boolean);
create domain pg_temp.text as pg_catalog.text;
create domain pg_temp.bigint as pg_catalog.int8;
"""


@pytest.mark.parametrize(
    "path", ["evil, pg_catalog, pg_temp", "pg_temp, evil, pg_catalog", "evil", "stepquota, evil"]
)
def test_nothing_of_the_callers_is_found_instead(stage: Stage, evil: str, path: str) -> None:
    tenant = f"shadowed by {path}"
    limited_tenant(stage, tenant)
    with stage.login(stage.all_rights) as connection:
        connection.execute(SHADOWS.encode())
        connection.execute(f"set search_path = {path}".encode())
        assert decisions(connection, tenant) == EXACT
        run = stepquota.register_workflow_run(connection, tenant, "run")
        assert run.status == "RUNNING"
        start = stepquota.start_workflow_step(connection, tenant, "run", "root")
        assert start.outcome == "quota_paused"
        assert stepquota.verify_all(connection) == ()


def test_a_search_path_that_is_not_pinned_is_seen(stage: Stage, evil: str) -> None:
    """The same with the pin taken off."""
    limited_tenant(stage, "unpinned")
    stage.database.run("alter function stepquota.reserve_workflow_step(text) reset search_path")
    try:
        with stage.login(stage.all_rights) as connection:
            connection.execute(SHADOWS.encode())
            connection.execute("set search_path = evil, pg_catalog, pg_temp")
            try:
                found = decisions(connection, "unpinned")
            except psycopg.Error:
                found = []
        assert found != EXACT
    finally:
        stage.database.run(
            "alter function stepquota.reserve_workflow_step(text)"
            " set search_path = pg_catalog, pg_temp"
        )


def test_a_bound_caller_cannot_hide_the_binding(stage: Stage, evil: str) -> None:
    stage.database.run(f"grant all on schema evil to {stage.bound['runtime']}")
    with stage.login(stage.bound["runtime"]) as connection:
        connection.execute(SHADOWS.encode())
        connection.execute("set search_path = evil, pg_catalog, pg_temp")
        with pytest.raises(BoundToTenant):
            stepquota.reserve_workflow_step(connection, OTHER)
        connection.execute(
            f"create function evil.instead() returns boolean language sql security definer"
            f" as $$select allowed from stepquota.reserve_workflow_step('{OTHER}')$$".encode()
        )
        with pytest.raises(pg_errors.DatabaseError) as refused:
            connection.execute("select evil.instead()")
        assert refused.value.sqlstate == "WQ050"


def test_a_definer_function_of_somebody_else_does_not_free(stage: Stage, evil: str) -> None:
    """Not one of a free role that a bound login calls, nor the other way round."""
    stage.database.run(
        "grant usage on schema evil to public; grant all on schema evil to "
        f"{stage.free['observer']}, {stage.bound['observer']}"
    )
    with stage.login(stage.free["observer"]) as connection:
        connection.execute(
            "create function evil.of_free() returns setof text language sql security definer"
            " as $$select distinct tenant from stepquota.workflow_runs$$"
        )
    with stage.login(stage.bound["observer"]) as connection:
        connection.execute(
            "create function evil.of_bound() returns setof text language sql security definer"
            " as $$select distinct tenant from stepquota.workflow_runs$$"
        )
        assert connection.execute("select evil.of_free()").fetchall() == [(OWN,)]
    with stage.login(stage.free["observer"]) as connection:
        assert connection.execute("select evil.of_bound()").fetchall() == [(OWN,)]
        assert len(connection.execute("select evil.of_free()").fetchall()) > 1


# -- The clock


@pytest.mark.parametrize("kind", ["runtime", "operator"])
def test_the_test_clock_is_not_the_callers(stage: Stage, kind: str) -> None:
    with stage.login(stage.bound[kind]) as connection:
        before = stepquota.resolve_workflow_step_quota(connection, OWN)
        for moment in ("2099-01-01", "1999-01-01", "infinity", "nonsense"):
            connection.execute("select set_config('stepquota.now', %s, false)", [moment])
            after = stepquota.resolve_workflow_step_quota(connection, OWN)
            assert (after.period_start, after.period_end) == (
                before.period_start,
                before.period_end,
            )
        connection.execute("set stepquota.allow_test_clock = true")
        for attempt in (
            "update stepquota.policy set allow_test_clock = true",
            "select stepquota.set_policy('allow_test_clock', 'true')",
        ):
            with pytest.raises(pg_errors.DatabaseError) as refused:
                connection.execute(attempt.encode())
            assert refused.value.sqlstate in ("42501", "WQ050")


def test_an_operator_cannot_allow_the_test_clock(stage: Stage) -> None:
    with stage.login(stage.free["operator"]) as connection:
        for name in ("allow_test_clock", "epoch", "bound_roles", "only_row"):
            with pytest.raises(StepquotaError):
                stepquota.set_policy(connection, name, "true")


# -- What is somebody else's


def ids(stage: Stage, tenant: str) -> dict[str, Any]:
    with stage.database.connect() as connection:
        return dict(
            connection.execute(
                """
                select 'wait', wait_id from stepquota.workflow_run_waits
                 where tenant = %(tenant)s and wait_type = 'event'
                union all
                select 'batch', batch_id from stepquota.workflow_step_batches
                 where tenant = %(tenant)s
                union all
                select 'grant', grant_id from stepquota.workflow_step_grants
                 where tenant = %(tenant)s
                union all
                select 'resumption', resumption_id from stepquota.workflow_run_resumptions
                 where tenant = %(tenant)s""",
                {"tenant": tenant},
            ).fetchall()
        )


def test_keys_of_others_open_nothing(stage: Stage) -> None:
    """Who knows the ids of another tenant is told that there are none."""
    stage.database.run(f"select stepquota.register_workflow_run('{OTHER}', 'theirs')")
    # As if the event had come.
    stage.database.run(f"""
        insert into stepquota.workflow_run_resumptions
          (tenant, resumption_id, run_id, runtime, wait_id, wait_type, node_paths, unentered_paths,
           created_at, claimable_at)
        select tenant, gen_random_uuid(), run_id, 'default', wait_id, 'event', node_paths,
               node_paths, now(), now()
          from stepquota.workflow_run_waits where tenant = '{OTHER}' and wait_type = 'event'""")
    try:
        try_keys_of(OTHER, stage)
    finally:
        stage.database.run("delete from stepquota.workflow_run_resumptions")


def try_keys_of(other: str, stage: Stage) -> None:
    before = stage.rows_of(other)
    theirs = ids(stage, other)
    with stage.login(stage.bound["operator"]) as connection:
        for attempt in (
            lambda: stepquota.resume_workflow_run(connection, OWN, "theirs", "mine"),
            lambda: stepquota.hold_workflow_run(connection, OWN, "theirs", "mine"),
            lambda: stepquota.release_workflow_run(connection, OWN, "theirs", "mine"),
            lambda: stepquota.cancel_workflow_run(connection, OWN, "theirs"),
            lambda: stepquota.finish_workflow_run(connection, OWN, "theirs", "FAILED"),
            lambda: stepquota.start_workflow_step(connection, OWN, "theirs", "root"),
            lambda: stepquota.finish_workflow_step(connection, OWN, "theirs", "root", 1, "FAILED"),
            lambda: stepquota.open_workflow_run_wait(connection, OWN, "theirs", "root", "event"),
        ):
            with pytest.raises(UnknownRun):
                attempt()
        with pytest.raises(UnknownWait):
            stepquota.resolve_workflow_run_wait(connection, OWN, theirs["wait"])
        with pytest.raises(UnknownBatch):
            stepquota.close_workflow_step_batch(connection, OWN, theirs["batch"], 0)
        with pytest.raises(UnknownResumption):
            stepquota.acknowledge_workflow_run_resumption(connection, OWN, theirs["resumption"])
        with pytest.raises(UnknownResumption):
            stepquota.redeliver_workflow_run_resumption(connection, OWN, theirs["resumption"])
    with stage.login(stage.free["operator"]) as connection, pytest.raises(UnknownGrant):
        stepquota.revoke_workflow_step_grant(connection, OWN, theirs["grant"], "mine")
    assert stage.rows_of(other) == before


def test_nobody_makes_more_of_his_own_quota(stage: Stage) -> None:
    """Neither counter, plan, limit, grant nor enforcement; not with an operator's rights."""
    attempts = (
        f"select stepquota.set_tenant_plan('{OWN}', 'premium')",
        f"select stepquota.set_tier_limit('tier-{OWN}', 1000000)",
        f"select stepquota.grant_workflow_steps('{OWN}', 1000, 'please')",
        f"select stepquota.set_tenant_enforcement('{OWN}', 'shadow')",
        f"select stepquota.map_stripe_customer('cus_{OTHER}', '{OWN}')",
        f"select stepquota.unmap_stripe_customer('cus_{OTHER}')",
        f"select stepquota.reinstate_tenant('{OWN}', 'please')",
        f"select stepquota.release_tenant('{OWN}', 'please')",
        f"select stepquota.forget_tenant('{OWN}')",
        f"select stepquota.import_workflow_step_usage('{OWN}', now(), 0, 'please')",
        f"select stepquota.repair_workflow_step_usage('{OWN}', now(), false)",
        "select stepquota.set_policy('enforcement', 'shadow')",
        "select stepquota.set_policy('default_tier', 'premium')",
        "update stepquota.workflow_step_usage_lanes set used_count = 0",
        "update stepquota.workflow_step_quotas set effective_limit = null",
        "update stepquota.tiers set step_limit = null",
        "update stepquota.tenants set plan = 'premium'",
        "delete from stepquota.workflow_run_steps",
        "insert into stepquota.tenants (tenant, created_at) values ('x', now())",
        "truncate stepquota.workflow_run_steps",
        "drop table stepquota.workflow_run_steps",
        "alter table stepquota.workflow_runs disable row level security",
        "drop policy own_tenant on stepquota.workflow_runs",
        "create trigger t before insert on stepquota.tenants"
        " execute function tsvector_update_trigger()",
        "create table stepquota.mine ()",
        "alter function stepquota.version() owner to current_user",
        "create or replace function stepquota.version() returns text language sql return '9'",
        "grant stepquota_operator to current_user",
        "alter schema stepquota rename to other",
        f"select stepquota._take_unit('{OWN}', null, 1, now())",
        f"select stepquota._host_set_tenant_plan('{OWN}', 'premium', now())",
        "select stepquota._note_bound_roles()",
        f"select stepquota.unbind_tenant_role('{stage.bound['runtime']}')",
        f"select stepquota.bind_tenant_role('{stage.bound['runtime']}', '{OTHER}')",
    )
    with stage.database.connect() as connection:
        quota = stepquota.resolve_workflow_step_quota(connection, OWN)
    for kind in KINDS:
        with stage.login(stage.bound[kind]) as connection:
            for attempt in attempts:
                with pytest.raises(pg_errors.DatabaseError) as refused:
                    connection.execute(attempt.encode())
                assert refused.value.sqlstate in ("42501", "WQ050"), (kind, attempt, refused.value)
    with stage.database.connect() as connection:
        assert stepquota.resolve_workflow_step_quota(connection, OWN) == quota


# -- Reading past row-level security


def test_readers_get_around_nothing(stage: Stage, evil: str) -> None:
    stage.database.run(f"grant all on schema evil to {stage.bound['observer']}")
    notices: list[str] = []
    with stage.login(stage.bound["observer"]) as connection:
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        # Cheaper than the policy, so that it would be asked first.
        connection.execute("""
            create function evil.leak(text) returns boolean language plpgsql cost 0.0000001
            as $$begin raise notice 'seen %', $1; return true; end$$""")
        connection.execute("select count(*) from stepquota.workflow_runs where evil.leak(tenant)")
        assert set(notices) == {f"seen {OWN}"}
        with connection.cursor().copy("copy stepquota.quota_events (tenant) to stdout") as copied:
            assert {bytes(line).strip().decode() for line in copied} == {OWN}
        for attempt in (
            "select * from stepquota.workflow_run_steps_" + _month(connection),
            "set row_security = off; select * from stepquota.workflow_runs",
            "select * from stepquota_migrations._yoyo_migration",
        ):
            with pytest.raises(pg_errors.InsufficientPrivilege):
                connection.execute(attempt.encode())
        connection.execute("set row_security = on")
        assert connection.execute(
            "select count(*) from pg_stats"
            " where schemaname = 'stepquota' and tablename = 'workflow_runs'"
        ).fetchone() == (0,)
        # Asking for another reader's eyes does not give more.
        assert connection.execute(
            "select stepquota.list_visible_tenants('postgres')"
        ).fetchone() == ([OWN],)
        assert connection.execute(
            "select distinct tenant from stepquota.workflow_runs where tenant = %s or true", [OTHER]
        ).fetchall() == [(OWN,)]


def _month(connection: Connection) -> str:
    ((month,),) = connection.execute(
        "select to_char(now() at time zone 'UTC', 'YYYY_MM')"
    ).fetchall()
    return str(month)


def test_row_level_security_that_is_off_is_seen(stage: Stage) -> None:
    stage.database.run("alter table stepquota.workflow_runs disable row level security")
    try:
        with stage.login(stage.bound["observer"]) as connection:
            seen = connection.execute(
                "select distinct tenant from stepquota.workflow_runs"
            ).fetchall()
        assert {OWN, OTHER} <= {tenant for (tenant,) in seen}
    finally:
        stage.database.run("alter table stepquota.workflow_runs enable row level security")
