"""examples/psql: the scripts carry runs out, pause, and go on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import stepquota
from harness.databases import Database
from stepquota.server_files import embedded_binaries

EXAMPLE = Path(__file__).parents[2] / "examples" / "psql"


def psql(database: Database, script: str, **variables: str) -> list[str]:
    binaries = embedded_binaries()
    program = shutil.which("psql") or str(binaries.program("psql"))
    done = subprocess.run(
        [
            *(program, "--no-psqlrc", "--quiet", f"--file={EXAMPLE / script}"),
            *(f"--set={name}={value}" for name, value in variables.items()),
            database.url,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_runs_pause_and_go_on(database: Database) -> None:
    with database.connect(autocommit=True) as connection:
        stepquota.set_tier_limit(connection, "small", 4)
        stepquota.set_tenant_plan(connection, "acme", "small")
        printed = []
        for run_id in ("one", "two", "three"):
            stepquota.register_workflow_run(connection, "acme", run_id)
            keys = {"tenant": "acme", "run_id": run_id, "delivery": "", "step": "0", "steps": "3"}
            printed += psql(database, "run.sql", **keys)
        assert printed == [
            "one root.steps[0] started 1",
            "one root.steps[1] started 2",
            "one root.steps[2] started 3",
            "one SUCCEEDED",
            "two root.steps[0] started 4",
            "two root.steps[1] quota_paused 4",
            "three root.steps[0] quota_paused 4",
        ]
        assert psql(database, "worker.sql") == []
        stepquota.set_tier_limit(connection, "small", 100)
        # Whose turn it is first is left to chance, and so are the counts.
        printed = [line.rstrip("0123456789 ") for line in psql(database, "worker.sql")]
        assert sorted(printed) == [
            "three SUCCEEDED",
            "three root.steps[0] started",
            "three root.steps[1] started",
            "three root.steps[2] started",
            "two SUCCEEDED",
            "two root.steps[0] already_finished",
            "two root.steps[1] started",
            "two root.steps[2] started",
        ]
        assert stepquota.resolve_workflow_step_quota(connection, "acme").used_count == 9
        assert stepquota.verify_all(connection) == ()
