"""squawk on every migration: what would stop the application while it is applied."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from stepquota._resources import migration_files
from stepquota.installing import LOCK_TIMEOUT

# integer where a count stays small. require-statement-timeout: how long a migration may take is
# nobody's harm, what it may wait for is; the lint is given the lock_timeout that migrate sets.
EXCLUDED = "prefer-bigint-over-int,require-statement-timeout"

# What is found in migrations and is meant, by number and rule, with why.
BUILT_AT_ONCE = (
    "an index of an existing table, built in the transaction: psql runs the same files in one; "
    "docs/operations.md says how to build it beforehand, concurrently"
)
ALLOWED = {
    ("0009", "ban-drop-constraint"): "CHECKs of lanes cost a quarter of a reservation",
    ("0009", "require-concurrent-index-creation"): "of the lanes' new primary key: few rows",
    ("0010", "require-concurrent-index-deletion"): "dropping takes a moment",
    ("0011", "require-concurrent-index-creation"): BUILT_AT_ONCE,
    ("0012", "require-concurrent-index-creation"): BUILT_AT_ONCE,
    ("0014", "require-concurrent-index-creation"): BUILT_AT_ONCE,
    ("0014", "require-concurrent-index-deletion"): "dropping takes a moment",
    ("0015", "ban-drop-default"): "the default was there for the rows that were",
    ("0015", "require-concurrent-index-creation"): BUILT_AT_ONCE,
    ("0017", "require-concurrent-index-creation"): "of the Stripe mirror, which nobody waits for",
    ("0017", "require-concurrent-index-deletion"): "dropping takes a moment",
    ("0021", "require-concurrent-index-creation"): BUILT_AT_ONCE,
    ("0025", "require-concurrent-index-creation"): BUILT_AT_ONCE,
}


def squawk(*files: Path) -> list[dict[str, str]]:
    """What it finds in files, as if migrate's settings stood in front of each."""
    completed = subprocess.run(
        [
            Path(sysconfig.get_path("scripts"), "squawk"),
            *("--pg-version=15.0", "--assume-in-transaction", "--reporter=json"),
            f"--exclude={EXCLUDED}",
            *files,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode in (0, 1), completed.stderr
    found: list[dict[str, str]] = json.loads(completed.stdout)
    return found


@pytest.fixture
def as_applied(tmp_path: Path) -> list[Path]:
    """The migrations, each after the settings that it is applied with."""
    for file in migration_files():
        text = f"set lock_timeout = '{LOCK_TIMEOUT}';\n{file.read_text()}"
        (tmp_path / file.name).write_text(text)
    return sorted(tmp_path.glob("*.sql"))


def test_every_migration(as_applied: list[Path]) -> None:
    found = Counter(
        (Path(finding["file"]).name.split("_")[1], finding["rule_name"])
        for finding in squawk(*as_applied)
    )
    assert set(found) - set(ALLOWED) == set(), "change the migration, or allow it with a reason"
    assert set(ALLOWED) - set(found) == set(), "no longer found: take it out of the list"


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("alter table stepquota.workflow_runs alter column tenant type varchar(9);", "changing-"),
        ("alter table stepquota.workflow_runs add column x text not null;", "adding-"),
        ("alter table stepquota.workflow_runs rename column tenant to t;", "renaming-"),
        ("alter table stepquota.workflow_runs drop column tenant;", "ban-drop-column"),
        ("create index i on stepquota.workflow_runs (tenant);", "require-concurrent-"),
        (
            "alter table stepquota.workflow_runs add constraint c check (tenant > '');",
            "constraint-",
        ),
        (
            "alter table stepquota.workflow_runs alter column tenant set not null;",
            "adding-not-null",
        ),
    ],
)
def test_it_would_find(tmp_path: Path, statement: str, rule: str) -> None:
    file = tmp_path / "stepquota_9001_bad.sql"
    file.write_text(f"set lock_timeout = '1s';\n{statement}\n")
    assert [f for f in squawk(file) if f["rule_name"].startswith(rule)]


def test_it_would_find_a_missing_timeout(tmp_path: Path) -> None:
    file = tmp_path / "stepquota_9001_bad.sql"
    file.write_text("alter table stepquota.workflow_runs add column x text;\n")
    assert [f["rule_name"] for f in squawk(file)] == ["require-lock-timeout"]
