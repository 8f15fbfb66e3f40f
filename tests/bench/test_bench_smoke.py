"""The bench measures: two measures for real, small and short, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHARED_MEMORY = Path("/dev/shm")


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def outcomes_of(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    run = json.loads(file.read_text())["runs"][0]
    return run, {outcome["letter"]: outcome for outcome in run["findings"]["outcomes"]}


def test_two_measures_run_and_are_told_with_their_goals(tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    done = run_bench(
        *("--quick", "--only", "b,f", "--clients", "4", "--postgres", "18"),
        *("--json", str(results)),
    )

    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    run, outcomes = outcomes_of(results)
    assert run["postgres"].startswith("18.")
    assert run["settings"]["fsync"] == run["settings"]["synchronous_commit"] == "on"
    assert run["machine"]["flush_ms"] > 0
    assert set(outcomes) == {"b", "f"}
    for outcome in outcomes.values():
        assert outcome["our_figure"] > 0
        assert outcome["ratio"] == pytest.approx(
            outcome["our_figure"] / outcome["peer_figure"], rel=0.01
        )
        goal = outcome["goal"]
        reached = outcome["ratio"] >= goal["must"]
        assert (outcome["reached"] != "no") is reached
        assert ("goals are reached" in done.stdout) is all(
            each["reached"] != "no" for each in outcomes.values()
        )


@pytest.mark.slow
def test_a_ledger_of_many_rows(tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    done = run_bench(
        *("--quick", "--only", "t", "--ledger-rows", "10000", "--clients", "2"),
        *("--postgres", "18", "--json", str(results)),
    )

    assert done.returncode == 0, done.stderr
    run = json.loads(results.read_text())["runs"][0]
    assert [outcome["ours"] for outcome in run["findings"]["outcomes"]] == [
        "reserve, 10,000 rows",
        "start, 10,000 rows",
    ]
    assert all(outcome["peer"].endswith(", 5,000 rows") for outcome in run["findings"]["outcomes"])


@pytest.mark.slow
def test_pauses(tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    done = run_bench("--quick", "--only", "m", "--postgres", "18", "--json", str(results))

    # What is resumed, and delivered once, is checked by the measure itself.
    assert done.returncode == 0, done.stderr
    run, outcomes = outcomes_of(results)
    assert set(outcomes) == set("mnopqrs")
    assert outcomes["p"]["our_figure"] == 1
    resumed = [b["figure"] for b in run["findings"]["besides"] if "could go on" in b["what"]]
    assert resumed == [0], "the common design starves who could go on"


@pytest.mark.slow
def test_tasks_that_share_a_reserver(tmp_path: Path) -> None:
    results = tmp_path / "results.json"

    # Without Redis, which it would install.
    program = tmp_path / "program.py"
    program.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench import measures, others\n"
        "def no_redis(folder):\n"
        "    raise others.NotHere('Redis is not installed')\n"
        "measures.redis = no_redis\n"
        "sys.argv = ['bench', '--quick', '--only', 'j', '--postgres', '18',"
        f" '--json', {str(results)!r}]\n"
        "runpy.run_module('bench', run_name='__main__')\n"
    )

    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stderr
    run, outcomes = outcomes_of(results)
    assert set(outcomes) == {"j"}
    assert outcomes["j"]["ratio"] > 1
    assert "Redis is not installed" in run["findings"]["not_run"]["P5 beside the Reserver, Redis"]


def test_a_partial_run_leaves_the_published_results_alone(tmp_path: Path) -> None:
    published = [ROOT / "bench" / "results.json", ROOT / "docs" / "performance.md"]
    before = [path.read_bytes() if path.exists() else None for path in published]

    done = run_bench("--quick", "--only", "f", "--clients", "2", "--postgres", "18")

    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() if path.exists() else None for path in published] == before


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="there is no folder in memory here")
def test_a_folder_in_memory_is_refused() -> None:
    done = run_bench("--quick", "--only", "b", "--data", str(SHARED_MEMORY))

    assert done.returncode == 1
    assert "in memory, where durable commits cost nothing" in done.stderr
    assert "--data" in done.stderr


def test_an_unknown_measure_is_refused() -> None:
    done = run_bench("--only", "z")

    assert done.returncode == 1
    assert "--only z names a measure that is not there" in done.stderr


def test_a_miscount_ends_the_bench(tmp_path: Path) -> None:
    # The counter is made to lie: every update of a lane counts two.
    trap = """
        create function peers.double() returns trigger language plpgsql as $$
        begin new.used_count := old.used_count + 2; return new; end $$;
        create trigger double before update of used_count
          on stepquota.workflow_step_usage_lanes for each row execute function peers.double();
    """
    program = tmp_path / "program.py"
    program.write_text(
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from bench import servers\n"
        "make = servers._make_template\n"
        "def make_and_break(server):\n"
        "    make(server)\n"
        f"    servers.Database(servers._TEMPLATE, server).run({trap!r})\n"
        "servers._make_template = make_and_break\n"
        "sys.argv = ['bench', '--quick', '--only', 'b', '--clients', '2', '--postgres', '18']\n"
        "runpy.run_module('bench', run_name='__main__')\n"
    )

    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 1
    assert "units where" in done.stderr
