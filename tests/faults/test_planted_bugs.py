"""Every check of the harness can fail: with a bug planted, it finds what it is there to find.

A bug is a function with another text in one place, a server that is not as safe, or a copy that is
older than it is said to be. Each kind of fault has one that shows only, or mostly, with that fault.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from concurrency.races import break_function, break_function_over
from faults import clients, injections
from faults.clients import NICENESS
from faults.injections import Injection
from faults.test_mixed_load import DISK, make_template
from faults.test_random_histories import QUICK, begin
from faults.world import World
from harness.databases import Database, migrated_database
from harness.killable import Installation
from harness.servers import EMBEDDED18, ServerPool
from histories.quotas import Quotas, prepare
from histories.runs import Runs
from histories.test_histories import Everything

# How long to go on with a fault that has shown nothing, in seconds.
PATIENCE = 60
Bug = tuple[str, str, str]

# Function, what it says, and what it says instead.
ONE_TOO_MANY = (
    "reserve_workflow_step",
    "l.used_count < l.allowance",
    "l.used_count <= l.allowance",
)
COUNTED_AGAIN = ("_give_back_unit", "l.used_count - 1", "l.used_count")
NO_MESSAGE = ("_add_resumptions", "order by r.place", "order by r.place offset 1")
OLD_DELIVERY = ("_check_delivery", "v_newest is distinct from p_delivery", "v_newest is null")
FULL_DISK_IGNORED = (
    "_host_insert_step",
    "return found;",
    "return found;\nexception when disk_full then\n  return true;",
)
# Right, as long as nobody sets a clock.
REAL_MONTH = (
    "_host_insert_step",
    "p_period_start, p_now)",
    "date_trunc('month', clock_timestamp(), 'UTC'), p_now)",
)
NOT_RESUMED = ("release_workflow_run", "perform stepquota._resume_tenant(", "perform (")
REMAINDER_LOST = (
    "_deal_lanes",
    " + (l.lane < v_left % v_lane_count)::integer",
    "",
)


def _name(value: Any) -> str:
    function = value[0] if isinstance(value, tuple) else getattr(value, "func", value)
    return getattr(function, "__name__", str(function)).strip("_")


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    installation = Installation(EMBEDDED18, NICENESS)
    yield installation
    installation.remove()


@pytest.fixture(scope="module")
def template(installation: Installation) -> Path:
    return make_template(installation)


def run_sql(world: World, *statements: str) -> None:
    with psycopg.connect(world.server.url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def plant(bug: Bug) -> Callable[[World], None]:
    def plant_(world: World) -> None:
        with psycopg.connect(world.server.url, autocommit=True) as connection:
            break_function_over(connection, *bug)

    return plant_


def commit_before_it_is_safe(world: World) -> None:
    run_sql(
        world,
        "alter system set synchronous_commit = off",
        "alter system set wal_writer_delay = '10s'",
        "alter system set wal_writer_flush_after = '1GB'",
        "select pg_reload_conf()",
    )


class Credulous(clients.Counter):
    """Takes a lost connection for a yes."""

    def ask(self, tenant: str, units: int, operations: int, work: Callable[[Any], int]) -> None:
        self.journal.asks(tenant, units, "of the credulous")
        try:
            got = self.once(work, is_one_call=True)
        except clients.LOST:
            got = units
        self.journal.took(tenant, got, "of the credulous", operations)


def believe(world: World) -> None:
    for number, (kind, place, process) in list(world.clients.items()):
        if kind is clients.Counter:
            world.clients.pop(number)
            process.kill()
            process.join()
            world.start_client(Credulous, place)


def leave_limits(limit: str, bug: Bug) -> Callable[[World], None]:
    """Plant a bug where nobody changes limits any more."""

    def prepare_(world: World) -> None:
        for number, (kind, _, process) in list(world.clients.items()):
            if kind is clients.Operator:
                world.clients.pop(number)
                process.kill()
                process.join()
        if limit != "as they are":
            tiers = ", ".join(f"('{tenant}')" for tenant in clients.TENANTS)
            run_sql(
                world,
                f"select stepquota.set_tier_limit(t, {limit}), stepquota.set_tenant_plan(t, t)"
                f"  from (values {tiers}) as v (t)",
            )
        plant(bug)(world)

    return prepare_


def nothing(world: World) -> None:
    pass


def find(world: World, prepare: Injection, injection: Injection, kind: str) -> int:
    """How much of a kind is found after a fault, which is tried again if it is nothing."""
    world.wait_for_progress()
    prepare(world)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        injection(world)
        # Clients may see that something is wrong before the harness does.
        with suppress(AssertionError):
            world.wait_for_progress(200)
        world.check()
        if count := getattr(world.verdict, kind):
            return int(count)
    return 0


@pytest.mark.parametrize(
    ("bug", "injection", "kind"),
    [
        (commit_before_it_is_safe, injections.kill_server, "lost"),
        (commit_before_it_is_safe, injections.kill_backend, "lost"),
        (leave_limits("null", COUNTED_AGAIN), injections.kill_client, "drift"),
        (leave_limits("null", COUNTED_AGAIN), injections.kill_pool, "drift"),
        (believe, injections.terminate_backends, "lost"),
        (plant(FULL_DISK_IGNORED), injections.fill_disk, "drift"),
        (plant(REAL_MONTH), partial(injections.step_clock, by=40 * 86400), "violations"),
        (nothing, partial(injections.promote_replica, is_synchronous=False), "lost"),
        (nothing, partial(injections.restore_dump, is_too_old=True), "lost"),
        (nothing, partial(injections.restore_to_moment, is_too_early=True), "lost"),
        # Without any fault.
        (leave_limits("as they are", ONE_TOO_MANY), nothing, "over"),
        (plant(ONE_TOO_MANY), nothing, "violations"),
        (plant(NO_MESSAGE), nothing, "stranded"),
        (plant(OLD_DELIVERY), nothing, "double"),
    ],
    ids=_name,
)
def test_what_goes_wrong_after_a_fault_is_found(
    installation: Installation, template: Path, bug: Injection, injection: Injection, kind: str
) -> None:
    with World(installation, template, DISK) as world:
        if injection is injections.fill_disk and not world.can_fill:
            pytest.skip("no disk can be mounted here")
        found = find(world, bug, injection, kind)
        assert found > 0, (found, world.verdict, world.noted.failures)


@pytest.mark.parametrize(
    ("machine", "bug"),
    [
        (Quotas, ONE_TOO_MANY),
        (Quotas, REMAINDER_LOST),
        (Runs, NOT_RESUMED),
        *((Everything, bug) for bug in (COUNTED_AGAIN, NO_MESSAGE, OLD_DELIVERY)),
    ],
    ids=_name,
)
def test_random_histories_find_it(
    history_database: Database, machine: type[Quotas], bug: Bug
) -> None:
    break_function(history_database, *bug)
    with prepare(history_database) as connection:
        factory: Any = partial(begin, machine, connection)
        with pytest.raises(AssertionError):
            run_state_machine_as_test(factory, settings=settings(QUICK, max_examples=2000))


@pytest.fixture
def history_database() -> Iterator[Database]:
    pool = ServerPool()
    yield migrated_database(pool.get(EMBEDDED18))
    pool.close()
