"""What the sources in sql/ promise: style, and no statement form that Citus refuses."""

from __future__ import annotations

import re
from collections.abc import Callable

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
    "workflow_step_batches",
    "workflow_runs",
    "workflow_run_steps",
    "workflow_run_waits",
    "workflow_run_logs",
    "workflow_run_resumptions",
    "paused_tenants",
    "quota_events",
    "reconciled_tenants",
    "reconciliation_findings",
    "workflow_step_usage_adjustments",
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


def test_bodies_are_tagged_with_their_names() -> None:
    assert [r.name for r in ROUTINES if r.tag != r.name] == []


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


def volatile_writes(routine: Routine) -> list[str]:
    return [s for s in dml(routine) if names(s) & (CLOCKS | VOLATILE)]


def clocks_in_conditions(routine: Routine) -> list[str]:
    if routine.name == "_now":  # the clock itself, which reads no table
        return []
    return [
        statement
        for statement in routine.statements()
        for match in re.finditer(r"\b(coalesce\s*\(|case\b).*", statement)
        if names(match[0]) & CLOCKS
    ]


def changes_across_tenants(routine: Routine) -> list[str]:
    found = []
    for statement in routine.statements():
        locks = re.search(r"\bfor (no key update|update|share|key share)\b", statement)
        changes = re.search(r"\b(update|delete from) stepquota\.(\w+)", statement)
        tables = {t for t in re.findall(r"stepquota\.(\w+)", statement) if t in TENANT_TABLES}
        concerned = (locks and tables) or (changes and changes[2] in TENANT_TABLES)
        if concerned and not re.search(r"\btenant = (p_|v_)\w+", statement):
            found.append(statement)
    return found


@pytest.mark.parametrize(
    ("rule", "forbidden"),
    [
        (
            volatile_writes,
            "update stepquota.tenants set plan = clock_timestamp() where tenant = p_t",
        ),
        (volatile_writes, "insert into stepquota.x values (stepquota._now())"),
        (volatile_writes, "insert into stepquota.x values (1) returning gen_random_uuid()"),
        (clocks_in_conditions, "select coalesce(x, now()) from stepquota.tenants"),
        (clocks_in_conditions, "v_x := case when a then clock_timestamp() end"),
        (changes_across_tenants, "perform 1 from stepquota.workflow_runs r for update"),
        (changes_across_tenants, "update stepquota.paused_tenants set due_at = p_now"),
        (changes_across_tenants, "delete from stepquota.paused_tenants where due_at < p_now"),
    ],
)
def test_citus_would_refuse_none(rule: Callable[[Routine], list[str]], forbidden: str) -> None:
    assert rule(Routine("made_up.sql", "f", "", "f", f"begin\n  {forbidden};\nend;")) != []
    assert {r.name: found for r in ROUTINES if (found := rule(r))} == {}


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


def test_every_error_has_all_its_parts() -> None:
    incomplete = [
        (r.name, part)
        for r in ROUTINES
        for statement in re.findall(r"raise exception using(.*?);\n", r.body, re.DOTALL)
        if "WQ000" not in statement
        for part in ("errcode", "message", "detail", "hint")
        if not re.search(rf"\b{part} =", statement)
    ]
    assert incomplete == []


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
        if code not in comments[r.name] and not re.search(r"WQ020 to WQ024", comments[r.name])
    ]
    assert missing == []


def test_a_unit_is_taken_the_same_way_everywhere() -> None:
    """The statements that take a unit from the home lane stand twice, for speed: word for word."""
    by_name = {r.name: r for r in ROUTINES}
    counted = "unledgered_count = l.unledgered_count + 1, "

    def hot(name: str) -> list[str]:
        found = [
            statement[statement.index(verb) :]
            for statement in by_name[name].statements()
            for verb in ("select q.effective_limit", "update stepquota.workflow_step_usage_lanes")
            if verb in statement
        ]
        assert len(found) == 2
        return found

    quota, lane = hot("reserve_workflow_step")
    assert counted in lane
    assert hot("start_workflow_step") == [quota, lane.replace(counted, "")]
