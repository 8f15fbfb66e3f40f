"""The tests' own tools: a failure must not look like a success."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from .databases import Database, tap_database
from .servers import CRON_DATABASE, Server
from .tap import POOL, TapResult, run_script
from .totals import Totals, count


def tap(*lines: str) -> TapResult:
    result = TapResult()
    for line in lines:
        result.add(line)
    result.check_plan()
    return result


def test_assertions_are_counted() -> None:
    result = tap("1..3", "ok 1 - a", "ok 2 - b", "ok 3 # SKIP no such thing")
    assert (result.passed, result.failures, result.skips) == (2, [], ["no such thing"])


def test_several_lines_in_one_answer() -> None:
    result = tap("1..2", "ok 1 - a\nok 2 - b")
    assert (result.passed, result.failures) == (2, [])


def test_a_plan_at_the_end() -> None:
    assert tap("ok 1", "1..1").failures == []


def test_a_failed_assertion_keeps_its_diagnosis() -> None:
    result = tap("1..1", "not ok 1 - a\n# have: 1\n# want: 2")
    assert result.failures == ["not ok 1 - a\n# have: 1\n# want: 2"]


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        (["ok 1"], "there is no plan; begin with select plan(N)"),
        (["1..2", "ok 1"], "planned 2 assertions and ran 1"),
        (["1..1", "ok 1", "ok 2"], "planned 1 assertions and ran 2"),
        (["1..1"], "planned 1 assertions and ran 0"),
    ],
)
def test_a_plan_that_is_missing_or_not_kept(lines: list[str], failure: str) -> None:
    assert tap(*lines).failures == [failure]


@pytest.mark.parametrize(
    ("script", "failures"),
    [
        ("select plan(1);\nselect ok(true, 'a; b');\n", []),
        ("select plan(2);\nselect ok(true);\n\nselect 1 / 0;", ["line 4: 22012: division by zero"]),
        ("-- transaction: none\nselect plan(1); call nothing();", ["line 2: 42883: procedure"]),
        ("select plan(1);\nselect is(1, 2);\n", ["not ok 1"]),
        ("select plan(1);\nselect is(stepquota._now()::date, '2026-04-15');\n", ["not ok 1"]),
        (
            "select plan(1);\nset local stepquota.now = '2026-04-15T10:00:00Z';\n"
            "select is(stepquota._now(), '2026-04-15T10:00:00Z'::timestamptz);\n",
            [],
        ),
    ],
)
def test_scripts(
    server: Server,
    request: pytest.FixtureRequest,
    tmp_path: Any,
    script: str,
    failures: list[str],
) -> None:
    file = tmp_path / "script.sql"
    file.write_text(script)
    database = tap_database(server, request.config.stash[POOL])
    with database.connect(autocommit=True) as connection:
        result = run_script(connection, file)
    database.drop()
    assert len(result.failures) == len(failures), result.failures
    for got, expected in zip(result.failures, failures, strict=True):
        assert expected in got


def report(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"user_properties": [], "longrepr": None, **attributes})


def skipped(reason: str) -> SimpleNamespace:
    return report(longrepr=("file", 1, f"Skipped: {reason}"))


def counted_tap(passed: int, failed: int, skips: list[str]) -> SimpleNamespace:
    counts = {"passed": passed, "failed": failed, "skips": skips}
    return report(user_properties=[("server", "one"), ("tap", counts)])


def test_totals_count_assertions_as_tests() -> None:
    totals = count(
        {
            "passed": [report(), counted_tap(4, 0, ["reason"])],
            "failed": [counted_tap(2, 3, []), counted_tap(0, 0, []), report()],
            "error": [report()],
            "skipped": [skipped("reason")],
        }
    )
    assert totals.last_line == "7 passed, 6 failed, 2 skipped"


def test_skips_are_allowed_by_the_list_only(monkeypatch: pytest.MonkeyPatch) -> None:
    docker, local, other = "Docker is not running", "pgTAP is not installed; on Debian", "lazy"
    totals = Totals()
    totals.skips.update([docker, local, other])
    monkeypatch.delenv("CI", raising=False)
    assert totals.forbidden_skips == [other]
    monkeypatch.setenv("CI", "true")
    assert totals.forbidden_skips == [local, other]


@pytest.mark.needs("pg_cron")
def test_the_database_of_pg_cron(cron_database: Database) -> None:
    assert cron_database.name == CRON_DATABASE
    with cron_database.connect(autocommit=True) as connection:
        job = connection.execute("select cron.schedule('j', '* * * * *', 'select 1')").fetchone()
    assert job == (1,)


def test_a_database_is_the_tests_own(database: Database) -> None:
    database.run("create table mine ()")


test_and_the_next_one_does_not_see_it = test_a_database_is_the_tests_own
