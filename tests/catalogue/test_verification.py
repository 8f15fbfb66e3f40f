"""Each violation that verify_all() knows is explained, and is planted by a test."""

from __future__ import annotations

import re

import psycopg

from catalogue.sources import ROOT
from harness.databases import Database

_SOURCES = """
select string_agg(p.prosrc, '') from pg_proc p
 where p.oid in ('stepquota.verify_all()'::regprocedure,
                 'stepquota._host_list_violations()'::regprocedure)
"""


def list_violations(connection: psycopg.Connection) -> list[str]:
    row = connection.execute(_SOURCES.encode()).fetchone()
    assert row is not None
    checks = [c for c in row[0].split("return query")[1:] if "_host_list_violations" not in c]
    # The last text before the first FROM that stands at the margin of its query.
    return [re.findall(r"'(\w+)'\s+from ", check)[0] for check in checks]


def test_each_violation_is_explained(database: Database) -> None:
    with database.connect() as connection:
        names = list_violations(connection)
    assert len(names) == len(set(names)) > 30
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page[page.index("### All invariants") : page.index("\n## Status")]
    bullets = [line for line in section.splitlines() if line.startswith("- `")]
    explained = re.findall(r"`(\w+)`", "\n".join(line.split(": ")[0] for line in bullets))
    assert sorted(explained) == sorted(names)


def test_each_violation_is_planted(database: Database) -> None:
    with database.connect() as connection:
        names = list_violations(connection)
    tests = (ROOT / "tests" / "sql" / "verify_all" / "violations.sql").read_text(encoding="utf-8")
    assert [name for name in names if name not in tests] == []
