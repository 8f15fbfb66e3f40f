"""What the sources in sql/ promise: style, and no statement form that Citus refuses."""

from __future__ import annotations

import re

import pytest

from catalogue.sources import ROOT, SQL_FILES, Routine, routines, strip

ROUTINES = routines()
VOLATILE = {f"stepquota.{r.name}" for r in ROUTINES if r.is_volatile}
CLOCKS = {
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "now",
    "timeofday",
    "random",
    "nextval",
    "gen_random_uuid",
    "current_timestamp",
    "localtimestamp",
}
TENANT_TABLES = {
    "workflow_step_quotas",
    "workflow_step_usage_periods",
    "workflow_step_usage_lanes",
    "workflow_runs",
    "workflow_run_steps",
    "workflow_run_waits",
    "workflow_run_logs",
    "workflow_run_resumptions",
    "paused_tenants",
    "quota_events",
    "tenants",
}


def names(statement: str) -> set[str]:
    """Functions that a statement calls, and the words that need no parentheses."""
    return set(re.findall(r"[\w.]+(?=\s*\()", statement)) | (
        {"current_timestamp", "localtimestamp"} & set(statement.split())
    )


def writes(statement: str) -> bool:
    """Whether a statement is, or contains, one that changes rows."""
    return bool(re.search(r"\b(insert into|update stepquota|delete from|merge into)\b", statement))


def dml(routine: Routine) -> list[str]:
    return [s[s.find(m) :] for s in routine.statements() if writes(s) for m in [first_verb(s)]]


def first_verb(statement: str) -> str:
    match = re.search(r"\b(insert into|update stepquota|delete from|merge into)\b", statement)
    assert match
    return match[0]


def test_the_sources_are_read_in_full() -> None:
    declared = sum(
        len(re.findall(r"^create or replace (?:function|procedure)", p.read_text(), re.MULTILINE))
        for p in SQL_FILES
    )
    assert len(ROUTINES) == declared > 100
    listed = [
        line
        for line in (ROOT / "sql" / "load_order").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert sorted(listed) == [p.name for p in SQL_FILES]


@pytest.mark.parametrize("routine", ROUTINES, ids=lambda r: r.name)
def test_the_body_is_tagged_with_the_name(routine: Routine) -> None:
    assert routine.tag == routine.name


def test_keywords_are_lower_case() -> None:
    keywords = re.compile(
        r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|CREATE|FUNCTION|RETURNS|BEGIN|END|IF|THEN|"
        r"ELSE|LOOP|FOR|AND|OR|NOT|NULL|RETURN|RAISE|PERFORM|AS|ON|IN|IS|CASE|WHEN)\b"
    )
    files = [*SQL_FILES, *sorted((ROOT / "migrations").glob("*.sql"))]
    found = [
        (path.name, m[0]) for path in files for m in keywords.finditer(strip(path.read_text()))
    ]
    assert found == []


def test_definers_say_why() -> None:
    silent = [
        r.name
        for r in ROUTINES
        if "security definer" in r.header
        and not re.search(r"-- Definer: .+\nsecurity definer\n", r.header)
    ]
    assert silent == []


def test_variables_and_parameters_have_prefixes() -> None:
    found = []
    for routine in ROUTINES:
        declared = re.search(r"\bdeclare\n(.*?)\nbegin\b", routine.body, re.DOTALL)
        for line in strip(declared[1]).splitlines() if declared else []:
            name = re.match(r"  (\w+) \w", line)
            if name and not name[1].startswith("v_"):
                found.append((routine.name, name[1]))
    assert found == []


def test_our_names_are_qualified() -> None:
    ours = {r.name for r in ROUTINES}
    bare = [
        (r.name, called)
        for r in ROUTINES
        for statement in r.statements()
        for called in names(statement)
        if called in ours
    ]
    assert bare == []


# -- Citus


@pytest.mark.parametrize("routine", ROUTINES, ids=lambda r: r.name)
def test_no_volatile_function_in_a_statement_that_writes(routine: Routine) -> None:
    for statement in dml(routine):
        assert not names(statement) & (CLOCKS | VOLATILE), statement


@pytest.mark.parametrize("routine", ROUTINES, ids=lambda r: r.name)
def test_no_clock_in_case_or_coalesce(routine: Routine) -> None:
    for statement in routine.statements():
        for match in re.finditer(r"\b(coalesce\s*\(|case\b).*", statement):
            assert not names(match[0]) & CLOCKS, statement


@pytest.mark.parametrize("routine", ROUTINES, ids=lambda r: r.name)
def test_rows_of_tenants_are_locked_and_written_a_tenant_at_a_time(routine: Routine) -> None:
    for statement in routine.statements():
        locks = re.search(r"\bfor (no key update|update|share|key share)\b", statement)
        changes = re.search(r"\b(update|delete from) stepquota\.(\w+)", statement)
        tables = {t for t in re.findall(r"stepquota\.(\w+)", statement) if t in TENANT_TABLES}
        if (locks and tables) or (changes and changes[2] in TENANT_TABLES):
            assert re.search(r"\btenant = (p_|v_)\w+", statement), statement


@pytest.mark.parametrize(
    "form",
    [
        r"values \(\s*\(select\b",
        r"\bcreate (or replace )?(constraint )?trigger\b",
        r"\bcreate (or replace )?rule\b",
        r"\bpg_(try_)?advisory_",
        r"\bset_config\(",
        r"\breferences stepquota\.",
        r"\blisten\b",
    ],
)
def test_no_form_that_citus_refuses_or_ignores(form: str) -> None:
    files = [*SQL_FILES, *sorted((ROOT / "migrations").glob("*.sql"))]
    found = [p.name for p in files if re.search(form, " ".join(strip(p.read_text()).split()))]
    assert found == []


# -- Errors


def test_every_sqlstate_is_raised_by_a_test() -> None:
    raised = {
        code
        for r in ROUTINES
        for code in re.findall(r"errcode = '(WQ\d{3})'", r.body)
        # Caught where it is raised: it gives a lock back.
        if code != "WQ000"
    }
    assert len(raised) > 20
    tested = set()
    for path in (ROOT / "tests" / "sql").rglob("*.sql"):
        for line in path.read_text().splitlines():
            if "refuses(" in line or line.startswith(("  (", "insert into objects")):
                tested |= set(re.findall(r"'(WQ\d{3})'", line))
    for path in (ROOT / "tests" / "cron").glob("test_*.py"):
        tested |= set(re.findall(r'"(WQ\d{3})"', path.read_text()))
    assert raised - tested == set()


@pytest.mark.parametrize("routine", ROUTINES, ids=lambda r: r.name)
def test_every_error_has_all_its_parts(routine: Routine) -> None:
    for statement in re.findall(r"raise exception using(.*?);\n", routine.body, re.DOTALL):
        if "WQ000" in statement:
            continue
        for part in ("errcode", "message", "detail", "hint"):
            assert re.search(rf"\b{part} =", statement), statement


def test_comments_of_functions_name_their_sqlstates() -> None:
    """A function's comment names each SQLSTATE that its own body raises."""
    comments = dict(
        re.findall(
            r"comment on (?:function|procedure) stepquota\.(\w+)\([^)]*\) is\s+'((?:[^']|'')*)'",
            "\n".join(p.read_text() for p in SQL_FILES),
        )
    )
    missing = [
        (r.name, code)
        for r in ROUTINES
        if not r.name.startswith("_")
        for code in re.findall(r"errcode = '(WQ\d{3})'", r.body)
        if code not in comments[r.name]
        and not re.search(r"WQ020 to WQ024", comments[r.name])
    ]
    assert missing == []
