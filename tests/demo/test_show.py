"""The demo's story in a database of the test's own, and how it notices what is wrong."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from rich.console import Console

import stepquota
from stepquota.demo import show, story
from stepquota.demo.catalogue import TENANTS
from stepquota.demo.crew import Crew
from stepquota.demo.display import Display
from stepquota.demo.figures import PeriodTotals, TenantFigures
from stepquota.demo.shop import Shop
from stepquota.demo.stage import Stage
from stepquota.problems import Problem


def _perform(database_url: str) -> tuple[int, str]:
    output = io.StringIO()
    with Display(Console(file=output)) as display:
        status = show.perform(database_url, display)
    return status, output.getvalue()


def _rows(database_url: str, query: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query).fetchall()


def test_each_tenants_quota_comes_from_where_the_demo_says(database_url: str) -> None:
    with (
        Display(Console(file=io.StringIO())) as display,
        Shop() as shop,
        Crew(database_url) as crew,
        Stage(database_url, crew, shop, display) as stage,
    ):
        story.set_up(stage)
    rows = _rows(
        database_url,
        "select tenant, effective_limit, limit_source, period_source"
        " from stepquota.workflow_step_quotas order by tenant",
    )
    assert rows == [
        ("acme", 150, "tier_default", "fallback_calendar"),
        ("globex", 120, "stripe_price_metadata", "stripe_subscription"),
        ("hooli", None, "unlimited_metadata", "stripe_subscription"),
        ("initech", 90, "stripe_product_metadata", "stripe_subscription"),
        ("umbrella", 150, "tier_default", "stripe_subscription"),
    ]
    events = _rows(
        database_url, "select tenant, event_type from stepquota.quota_events order by event_id"
    )
    assert sorted(events) == [("acme", "fallback_period"), ("umbrella", "limit_metadata_invalid")]


def test_the_story_ends_well_and_is_told_from_what_the_database_has(database_url: str) -> None:
    status, output = _perform(database_url)
    assert status == 0, output
    paused = _rows(
        database_url,
        "select tenant, count(*) from stepquota.workflow_run_waits"
        " where status = 'WAITING' and wait_type = 'quota' group by tenant",
    )
    ((name, count),) = paused
    assert name == "initech"
    assert f"{count} runs of initech stay paused" in output
    ledger = _rows(database_url, "select count(*) from stepquota.workflow_run_steps")
    assert ledger == [(200 + 160 + 90 + 150 + 120,)]
    refused = _rows(
        database_url,
        "select details ->> 'reason' from stepquota.quota_events"
        " where tenant = 'initech' and event_type = 'resume_refused'",
    )
    assert refused == [("quota_exhausted",)]
    # The processes have ended, and with them their sessions.
    sessions = "select count(*) from pg_stat_activity where application_name like 'stepquota demo%'"
    deadline = time.monotonic() + 5
    while _rows(database_url, sessions) != [(0,)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_drift_is_shown_and_the_status_is_1(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One unit too many in a counter, as if a step had been counted twice."""

    def set_up_and_miscount(stage: Stage) -> None:
        story_set_up(stage)
        stepquota.reserve_workflow_step(stage.operator, "hooli")

    story_set_up = story.set_up
    monkeypatch.setattr(story, "set_up", set_up_and_miscount)
    status, output = _perform(database_url)
    assert status == 1
    assert "WRONG: hooli: the counter says 151 and the ledger 150" in output


def test_a_process_that_dies_ends_the_demo_with_its_last_words(database_url: str) -> None:
    with Crew(make_conninfo(database_url, dbname="nowhere")) as crew:
        crew.start("worker-1", "worker")
        (process,) = crew._processes.values()
        process.wait(20)
        with pytest.raises(
            Problem, match=r'worker-1 ended with status 1: .*"nowhere" does not exist'
        ):
            crew.check()


def test_a_wait_that_takes_too_long_says_for_what(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepquota.demo.stage.LONGEST_WAIT_SECONDS", 0.1)
    with (
        Display(Console(file=io.StringIO())) as display,
        Shop() as shop,
        Crew(database_url) as crew,
        Stage(database_url, crew, shop, display) as stage,
        pytest.raises(Problem, match="in vain for better times"),
    ):
        stage.until("better times", lambda _figures: False)


def test_processes_end_when_nobody_holds_their_line(database_url: str) -> None:
    crew = Crew(database_url)
    crew.start("ticker", "ticker")
    (process,) = crew._processes.values()
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    crew.end()


_GOOD = TenantFigures("acme", "pro", "tier_default", 750, 200, 20, 20, 0, 0, 0)
_STUCK = TenantFigures("initech", "pro", "stripe_product_metadata", 90, 90, 12, 8, 0, 4, 0)


@pytest.mark.parametrize(
    ("figures", "mistakes"),
    [
        (_GOOD, []),
        (_STUCK, []),
        (replace(_GOOD, done=19), ["acme: 19 of 20 runs are done"]),
        (replace(_GOOD, used=201), ["acme: 20 runs of 10 steps were counted as 201"]),
        (replace(_STUCK, used=89), ["initech: used 89 of 90, 8 of 12 runs done, 4 paused"]),
        (replace(_STUCK, paused=3), ["initech: used 90 of 90, 8 of 12 runs done, 3 paused"]),
    ],
)
def test_figures_that_should_not_be_are_named(figures: TenantFigures, mistakes: list[str]) -> None:
    assert show.find_mistakes([], [figures]) == mistakes


def test_drift_is_named() -> None:
    periods = [PeriodTotals("acme", 5, 150, 3, 2), PeriodTotals("globex", 5, 150, 5, 0)]
    assert show.find_mistakes(periods, []) == ["acme: the counter says 5 and the ledger 3"]


def test_what_to_type_next_works_as_printed(database_url: str) -> None:
    statements = " ".join(show.STATEMENTS).split(";")[:-1]
    assert len(statements) == 3
    with psycopg.connect(database_url) as connection:
        answers = [connection.execute(text.encode()).fetchall() for text in statements]
    assert answers[1] == [("started", 1, 150)]
    assert answers[2]


def test_there_are_the_tenants_that_newcomers_should_see() -> None:
    assert len(TENANTS) == 5
