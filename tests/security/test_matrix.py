"""Every role, every function, every table: what functions.txt says, and nothing more."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psycopg
import pytest

from .calls import Function, Row, read_functions, read_table
from .conftest import KINDS, OTHER, OWN, Stage

EXPECTED = read_table()

READERS = {"operator", "observer"}
# What every reader may see, bound or not: it says nothing about tenants.
OF_NO_TENANT = {"stepquota.quota_event_types"}


@pytest.fixture(scope="module")
def functions(stage: Stage) -> dict[str, Function]:
    with stage.database.connect() as connection:
        return read_functions(connection)


# -- What is granted


def granted(connection: psycopg.Connection[Any], role: str) -> set[str]:
    rows = connection.execute(
        """
        select p.proname::text from pg_proc p
         where p.pronamespace = 'stepquota'::regnamespace
           and has_function_privilege(%s, p.oid, 'execute')""",
        [role],
    )
    return {row[0] for row in rows}


def test_functions_are_those_of_the_table(functions: dict[str, Function]) -> None:
    assert set(functions) == set(EXPECTED)


def test_each_role_may_call_what_the_table_says(stage: Stage) -> None:
    with stage.database.connect() as connection:
        for kind in KINDS:
            expected = {row.name for row in EXPECTED.values() if kind in row.roles}
            for role in (f"stepquota_{kind}", stage.free[kind], stage.bound[kind]):
                assert granted(connection, role) == expected, role
        assert granted(connection, stage.stranger) == set()


def test_each_role_may_do_to_tables_what_it_should(stage: Stage) -> None:
    with stage.database.connect() as connection:
        held = connection.execute(
            """
            select r.role, c.oid::regclass::text, c.relkind::text, p.privilege
              from unnest(%s::text[]) as r (role)
             cross join pg_class c
             cross join unnest(case c.relkind
                 when 'S' then array['USAGE', 'SELECT', 'UPDATE']
                 else array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES',
                   'TRIGGER'] end) as p (privilege)
             where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
               and case c.relkind when 'S' then has_sequence_privilege(r.role, c.oid, p.privilege)
                   else has_table_privilege(r.role, c.oid, p.privilege)
                     or p.privilege not in ('DELETE', 'TRUNCATE', 'TRIGGER')
                        and has_any_column_privilege(r.role, c.oid, p.privilege) end""",
            [[*stage.free.values(), *stage.bound.values(), stage.stranger]],
        ).fetchall()
        tables = {
            row[0]
            for row in connection.execute("""
                select c.oid::regclass::text from pg_class c
                 where c.relnamespace = 'stepquota'::regnamespace
                   and c.relkind in ('r', 'p', 'v') and not c.relispartition""")
        }
    readers = {logins[kind] for kind in READERS for logins in (stage.free, stage.bound)}
    assert {(role, table, privilege) for role, table, _, privilege in held} == {
        (role, table, "SELECT") for role in readers for table in tables
    }


def test_nothing_is_for_public(stage: Stage) -> None:
    with stage.database.connect() as connection:
        found = connection.execute("""
            with things (name, acl, kind, owner) as (
              select n.nspname::text, n.nspacl, 'n'::"char", n.nspowner from pg_namespace n
               where n.nspname in ('stepquota', 'stepquota_migrations')
              union all
              select c.oid::regclass::text, c.relacl,
                     case c.relkind when 'S' then 's' else 'r' end::"char", c.relowner
                from pg_class c
               where c.relnamespace::regnamespace::text in ('stepquota', 'stepquota_migrations')
                 and c.relkind in ('r', 'p', 'v', 'm', 'S')
              union all
              select c.oid::regclass::text || '.' || a.attname, a.attacl, 'c', c.relowner
                from pg_attribute a join pg_class c on c.oid = a.attrelid
               where c.relnamespace = 'stepquota'::regnamespace and a.attacl is not null
              union all
              select p.oid::regprocedure::text, p.proacl, 'f', p.proowner from pg_proc p
               where p.pronamespace = 'stepquota'::regnamespace
              union all
              select t.oid::regtype::text, t.typacl, 'T', t.typowner from pg_type t
               where t.typnamespace = 'stepquota'::regnamespace and t.typtype <> 'b'
                 and (t.typtype <> 'c' or exists (
                   select 1 from pg_class c where c.oid = t.typrelid and c.relkind = 'c')))
            select t.name, a.privilege_type
              from things t
             cross join lateral aclexplode(coalesce(t.acl, acldefault(t.kind, t.owner))) a
             where a.grantee = 0""").fetchall()
    assert found == []


def test_what_was_granted_by_hand_is_gone_after_the_next_migration(stage: Stage) -> None:
    """Also what somebody passed on, and default privileges; other roles keep theirs."""
    grants = f"""
        grant usage, create on schema stepquota to public;
        grant create on schema stepquota to stepquota_observer;
        grant select on stepquota.workflow_runs to public;
        grant update (plan) on stepquota.tenants to stepquota_runtime;
        grant insert on stepquota.tiers to stepquota_operator with grant option;
        grant execute on function stepquota._take_unit(text, text, integer, timestamptz) to public;
        grant execute on function stepquota.set_policy(text, text) to stepquota_runtime;
        grant usage on type stepquota.workflow_step_quota to public;
        grant all on all sequences in schema stepquota to stepquota_sync;
        alter default privileges in schema stepquota grant select on tables to public;
        alter default privileges in schema stepquota
          grant execute on routines to stepquota_observer;
        grant usage on schema stepquota to {stage.stranger};
        grant select on stepquota.tiers to {stage.stranger};
        set role stepquota_operator;
        grant insert on stepquota.tiers to {stage.bound["observer"]};
        reset role"""
    with stage.database.connect(autocommit=True) as connection:
        connection.execute(grants.encode())
        assert connection.execute(
            "select has_table_privilege(%s, 'stepquota.tiers', 'insert')", [stage.bound["observer"]]
        ).fetchone() == (True,)
    try:
        subprocess.run(
            [sys.executable, "-m", "stepquota", "migrate", stage.database.url],
            check=True,
            capture_output=True,
        )
        with stage.database.connect(autocommit=True) as connection:
            assert (
                connection.execute("""
                select d.defaclacl from pg_default_acl d
                 cross join lateral aclexplode(d.defaclacl) a
                 where d.defaclnamespace = 'stepquota'::regnamespace""").fetchall()
                == []
            )
            assert connection.execute(
                "select has_table_privilege(%s, 'stepquota.tiers', 'select')", [stage.stranger]
            ).fetchone() == (True,)
        with stage.login(stage.stranger) as connection:
            connection.execute("select count(*) from stepquota.tiers")
    finally:
        with stage.database.connect(autocommit=True) as connection:
            connection.execute(
                f"""
                revoke all on stepquota.tiers from {stage.stranger};
                revoke all on function stepquota.list_visible_tenants(text) from {stage.stranger};
                revoke all on schema stepquota from {stage.stranger}""".encode()
            )
    test_nothing_is_for_public(stage)
    test_each_role_may_call_what_the_table_says(stage)
    test_each_role_may_do_to_tables_what_it_should(stage)


def test_the_owner_need_not_log_in(stage: Stage) -> None:
    """All that callers do is done with the owner's rights, who owns everything."""
    with stage.database.connect() as connection:
        owners = connection.execute("""
            select distinct o.owner from (
              select p.proowner as owner from pg_proc p
               where p.pronamespace = 'stepquota'::regnamespace
              union all
              select c.relowner from pg_class c where c.relnamespace = 'stepquota'::regnamespace
              union all
              select n.nspowner from pg_namespace n where n.nspname = 'stepquota') o""").fetchall()
        assert len(owners) == 1


# -- What a bound role can do with it


def refusal(connection: psycopg.Connection[Any], function: Function, values: list[Any]) -> str:
    """The SQLSTATE of a call, or an empty text; what it did is rolled back."""
    with connection.transaction(force_rollback=True):
        try:
            with connection.transaction():
                connection.execute(function.statement().encode(), values)
        except psycopg.Error as error:
            return error.sqlstate or "?"
    return ""


def doors(stage: Stage, functions: dict[str, Function], rows: dict[str, Row]) -> list[str]:
    """Calls that a bound role should not get through with, and does."""
    found = []
    for kind in KINDS:
        with stage.login(stage.bound[kind]) as connection:
            connection.execute("set statement_timeout = '10s'")
            for row in rows.values():
                if kind not in row.roles or row.bound == "free":
                    continue
                function = functions[row.name]
                code = refusal(connection, function, function.values(OTHER))
                # Nothing of pg_cron is there to be scheduled with.
                if code != "WQ050" and (row.name, code[:4]) != ("enable_cron", "WQ02"):
                    found.append(f"{kind} {row.name} for the other: {code}")
                code = refusal(connection, function, function.values(OWN))
                if (code == "WQ050") != (row.bound == "refused") and row.name != "enable_cron":
                    found.append(f"{kind} {row.name} for its own: {code}")
    return found


def test_bound_roles_get_no_further_than_their_tenant(
    stage: Stage, functions: dict[str, Function]
) -> None:
    before = stage.rows_of(OTHER)
    assert len([table for table, rows in before.items() if rows]) > 12
    assert doors(stage, functions, EXPECTED) == []
    assert stage.rows_of(OTHER) == before


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("_check_tenant(p_tenant text) returns void", "begin end;"),
        ("_check_unbound() returns void", "begin end;"),
        (
            "_may_act_for(p_tenant text, p_bound_roles text[]) returns boolean",
            "begin return true; end;",
        ),
    ],
)
def test_a_check_that_is_left_out_is_seen(
    stage: Stage, functions: dict[str, Function], name: str, body: str
) -> None:
    short = name.partition("(")[0]
    with stage.database.connect(autocommit=True) as connection:
        ((source,),) = connection.execute(
            "select pg_get_functiondef(p.oid) from pg_proc p where p.proname = %s", [short]
        ).fetchall()
        connection.execute(
            f"create or replace function stepquota.{name} language plpgsql as $${body}$$".encode()
        )
        try:
            sample = {
                name: EXPECTED[name]
                for name in (
                    "resolve_workflow_step_quota",
                    "status",
                    "reserve_workflow_step",
                    "cancel_workflow_run",
                )
            }
            assert doors(stage, functions, sample) != []
        finally:
            connection.execute(source.encode())
    assert doors(stage, functions, sample) == []


def test_free_roles_reach_every_tenant(stage: Stage, functions: dict[str, Function]) -> None:
    """The bindings of others are nothing to them."""
    found = []
    for kind in KINDS:
        with stage.login(stage.free[kind]) as connection:
            connection.execute("set statement_timeout = '10s'")
            for row in EXPECTED.values():
                if kind in row.roles:
                    for tenant in (OWN, OTHER):
                        function = functions[row.name]
                        code = refusal(connection, function, function.values(tenant))
                        # Procedures that commit are not for a transaction.
                        if code and not code.startswith("WQ0") and code != "2D000":
                            found.append(f"{kind} {row.name}: {code}")
                        if code == "WQ050":
                            found.append(f"{kind} {row.name}: {code}")
    assert found == []


# -- What a bound role sees


def visible(connection: psycopg.Connection[Any], table: str) -> set[str]:
    """The tenants of the rows that can be seen; '?' for rows of tables without tenants."""
    return {
        row[0]
        for row in connection.execute(
            f"select distinct coalesce(to_jsonb(t) ->> 'tenant', '?') from {table} t".encode()
        )
    }


@pytest.mark.parametrize("kind", sorted(READERS))
def test_bound_roles_see_rows_of_their_tenant(stage: Stage, kind: str) -> None:
    with stage.database.connect() as connection:
        tables = stage.tables(connection)
        of_tenants = set(stage.tables(connection, "tenant"))
        there = {table: visible(connection, table) for table in tables}
    with stage.login(stage.free[kind]) as connection:
        assert {table: visible(connection, table) for table in tables} == there
    with stage.login(stage.bound[kind]) as connection:
        seen = {table: visible(connection, table) for table in tables}
    for table in tables:
        if table in of_tenants:
            assert seen[table] == there[table] & {OWN}, table
        elif table in OF_NO_TENANT:
            assert seen[table] == there[table]
        else:
            assert seen[table] == set(), table
    assert sum(OTHER in tenants for tenants in there.values()) > 12


def test_every_table_has_row_level_security(stage: Stage) -> None:
    """Partitions too, also those that are made later."""
    with stage.database.connect() as connection:
        connection.execute("select stepquota.make_ledger_partitions(7)")
        found = connection.execute("""
            select c.oid::regclass::text from pg_class c
             where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')
               and not (c.relrowsecurity and exists (
                 select 1 from pg_policy p where p.polrelid = c.oid and p.polname = 'own_tenant'))
        """).fetchall()
        connection.rollback()
    assert {row[0] for row in found} == OF_NO_TENANT


def test_views_read_with_the_rights_of_who_asks(stage: Stage) -> None:
    """Else row-level security would be the owner's, who sees all."""
    with stage.database.connect() as connection:
        found = connection.execute(
            """
            select c.oid::regclass::text from pg_class c
             where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('v', 'm')
               and (c.relkind = 'm'
                 or not coalesce(c.reloptions && %s::text[], false))""",
            [["security_invoker=true", "security_invoker=on", "security_invoker=1"]],
        ).fetchall()
    assert found == []
