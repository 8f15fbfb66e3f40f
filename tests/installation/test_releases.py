"""Every release can be upgraded, with what is in it; tests/releases keeps each one's dumped SQL."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from harness.databases import Database
from stepquota.migrate import migrate
from stepquota.server_files import embedded_binaries

from .conftest import Psql, repository

RELEASES = sorted((repository() / "tests" / "releases").glob("*.sql"))

# A tenant that has run dry in the middle of a run, and one that has not; a subscription, waits,
# runs that ended, one that was resumed, one that a worker has in hand, one of a suspended tenant.
USE = """
select stepquota.set_tier_limit('solo', 2);
select stepquota.register_workflow_run('dry', 'r'), stepquota.register_workflow_run('wet', 'r');
select stepquota.start_workflow_step('dry', 'r', 'a');
select stepquota.start_workflow_step('wet', 'r', 'a');
select stepquota.finish_workflow_step('dry', 'r', 'a', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'b');
select stepquota.finish_workflow_step('dry', 'r', 'b', 1, 'SUCCEEDED');
select stepquota.start_workflow_step('dry', 'r', 'c');
select stepquota.apply_stripe_object('{
  "object": "subscription", "id": "sub_1", "status": "active", "billing_cycle_anchor": 1775001600,
  "customer": {"object": "customer", "id": "cus_1", "metadata": {"tenant": "paying"}},
  "items": {"object": "list", "data": [{
    "object": "subscription_item", "id": "si_1",
    "current_period_start": 1775001600, "current_period_end": 4102444800,
    "price": {"object": "price", "id": "price_1", "recurring": {"interval": "month"},
              "metadata": {"workflow_step_limit": "40"},
              "product": {"object": "product", "id": "prod_1"}}}]}}', now());
select stepquota.register_workflow_run('paying', run)
  from unnest('{ended,waiting,dropped}'::text[]) run;
select stepquota.start_workflow_step('paying', 'ended', 'a');
select stepquota.finish_workflow_step('paying', 'ended', 'a', 1, 'FAILED', '{"why": "so"}');
select stepquota.finish_workflow_run('paying', 'ended', 'FAILED');
select stepquota.start_workflow_step('paying', 'waiting', 'a', 1, 'human');
select stepquota.open_workflow_run_wait('paying', 'waiting', 'a', 'human');
select stepquota.cancel_workflow_run('paying', 'dropped');
select stepquota.reserve_workflow_step('paying') from generate_series(1, 30);
select stepquota.register_workflow_run(t, 'r') from unnest('{handed,suspended}'::text[]) t;
select stepquota.start_workflow_step(t, 'r', n::text)
  from unnest('{handed,suspended}'::text[]) t, generate_series(1, 3) n;
select stepquota.finish_workflow_step('handed', 'r', '1', 1, 'RETRY_SCHEDULED', '{"why": "so"}');
select stepquota.set_tenant_plan('handed', 'pro');
select stepquota.claim_workflow_run_resumptions('before', 10, '1 hour');
insert into stepquota.tenants (tenant, suspended_at) values ('suspended', now());
select stepquota.set_tier_limit('all', null), stepquota.set_tenant_plan('free', 'all');
select stepquota.reserve_workflow_step('free') from generate_series(1, 200);
select stepquota.register_workflow_run('resumed', 'r');
select stepquota.start_workflow_step('resumed', 'r', n::text) from generate_series(1, 3) n;
select stepquota.set_tenant_plan('resumed', 'pro');
"""


# What must not change: the ledger, and what is used.
KEPT = """
select tenant, run_id, node_path, attempt, step_id::text, status, period_start::text
  from stepquota.workflow_run_steps
 union all
select tenant, '', '', sum(used_count), '', '', period_start::text
  from stepquota.workflow_step_usage_lanes group by tenant, period_start
 order by 1, 2, 3, 4
"""
DRIFT = """
select p.tenant, r.drift - r.unledgered_count
  from stepquota.workflow_step_usage_periods p
 cross join lateral stepquota.reconcile_workflow_step_usage(p.tenant, p.period_start) r
 where r.drift <> r.unledgered_count
"""


def schema(database: Database) -> str:
    return subprocess.run(
        [
            embedded_binaries().program("pg_dump"),
            *("--schema-only", "--restrict-key=same", database.url),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_there_are_releases() -> None:
    assert RELEASES


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.stem)
def test_an_upgrade_keeps_what_is_there_and_ends_as_a_fresh_installation(
    release: Path, database: Database, other_database: Database, psql: Psql
) -> None:
    psql(other_database, release.read_text()).check_returncode()
    psql(other_database, USE).check_returncode()
    other_database.run("call stepquota.tick()")
    with other_database.connect() as connection:
        kept = connection.execute(KEPT).fetchall()
    assert len(kept) > 15

    assert migrate(other_database.url).violations == ()

    assert schema(other_database) == schema(database)
    with other_database.connect() as connection:
        assert connection.execute(KEPT).fetchall() == kept
        assert connection.execute(DRIFT).fetchall() == []
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []
        status = connection.execute(
            "select tenant, status from stepquota.workflow_runs order by tenant, status"
        ).fetchall()
        assert status == [
            ("dry", "WAITING"),
            ("handed", "RUNNING"),
            *(("paying", ended) for ended in ("CANCELED", "FAILED", "WAITING")),
            ("resumed", "RUNNING"),
            ("suspended", "RUNNING"),
            ("wet", "RUNNING"),
        ]
        used = connection.execute(
            "select used_count, effective_limit, limit_source"
            " from stepquota.resolve_workflow_step_quota('paying')"
        ).fetchone()
        assert used == (32, 40, "stripe_price_metadata")
        claimed = connection.execute(
            "select tenant, node_paths from stepquota.claim_workflow_run_resumptions('w')"
        ).fetchall()
        assert claimed == [("resumed", ["3"])]
        # Who had a run in hand before goes on with it, under the number that it was handed out by.
        (delivery,) = connection.execute(
            "select delivery from stepquota.workflow_run_resumptions where tenant = 'handed'"
        ).fetchall()
        outcomes = connection.execute(
            "select (stepquota.start_workflow_step('handed', 'r', '3', p_delivery => %s)).outcome,"
            " (stepquota.start_workflow_step('handed', 'r', '1')).outcome,"
            " (stepquota.start_workflow_step('suspended', 'r', '3')).outcome",
            delivery,
        ).fetchone()
        assert outcomes == ("started", "already_finished", "held")
        # What was not there before works on what was.
        granted = connection.execute(
            "select granted from stepquota.open_workflow_step_batch("
            "'free', gen_random_uuid(), 50, 'after')"
        ).fetchone()
        assert granted == (50,)
        # The paused run goes on, and the counters go on from where they were.
        connection.execute("select stepquota.set_tier_limit('solo', 3)")
        started = connection.execute(
            "select outcome, used_count from stepquota.start_workflow_step('dry', 'r', 'c')"
        ).fetchone()
        assert started == ("started", 3)
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []


def test_two_releases_at_once(database: Database, other_database: Database, psql: Psql) -> None:
    """An older installer beside ours: they wait for each other, and ours has the last word."""
    older = threading.Thread(target=psql, args=(other_database, RELEASES[-1].read_text()))
    older.start()
    migrate(other_database.url)
    older.join()
    # It was first, or it failed, or it has put its functions over ours.
    migrate(other_database.url)
    assert schema(other_database) == schema(database)
    psql(other_database, USE).check_returncode()
    with other_database.connect() as connection:
        assert connection.execute("select * from stepquota.verify_all()").fetchall() == []


def test_an_older_release_over_ours_leaves_nothing_that_is_not_mended(
    database: Database, psql: Psql
) -> None:
    """Its dump, run by mistake: it fails and does nothing, or ours puts right what it did."""
    before = schema(database)
    completed = psql(database, RELEASES[-1].read_text())
    assert completed.returncode == 0 or schema(database) == before
    migrate(database.url)
    assert schema(database) == before


def test_an_upgrade_says_what_was_wrong_before_it(other_database: Database, psql: Psql) -> None:
    psql(other_database, RELEASES[-1].read_text()).check_returncode()
    psql(other_database, USE).check_returncode()
    psql(other_database, "delete from stepquota.workflow_run_steps where tenant = 'wet'")

    (violation,) = migrate(other_database.url).violations

    assert violation.startswith("I3 conserved, wet, ")
    assert violation.endswith(", counter 1, ledger 0")
    # There was nothing to upgrade: it is not looked at again.
    assert migrate(other_database.url).violations == ()
