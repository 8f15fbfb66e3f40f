"""The documentation is true: its examples run, and what it lists is what there is.

Every page is run from top to bottom in a database of its own: the ``sql`` blocks in one session of
psql, the ``python`` blocks in one namespace with DATABASE_URL set. A ``text`` block right after one
of them is what it prints. An error that is not printed there fails the page.

Two comments in a page, which readers do not see, say how its examples run::

    <!-- clock: 2026-04-15T12:00:00Z -->    at the top: the moment of the whole page
    <!-- run: pg_cron -->                   above a block: in the database that has pg_cron
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import textwrap
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from harness.databases import Clock, Database
from stepquota.cli import app
from stepquota.errors import StepquotaError
from stepquota.server_files import embedded_binaries

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
WIDTH = 80
# What PostgreSQL prints in one line.
_MAY_BE_LONG = ("ERROR:", "DETAIL:", "HINT:")

_FENCE = re.compile(r"```(\w*)$")
_COMMENT = re.compile(r"<!-- (clock|run): (\S+) -->$")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_ERROR = re.compile(r"^(ERROR|FATAL|PANIC|invalid command|\\\w+: )", re.MULTILINE)
_ENDS_STATEMENT = re.compile(r"(;|\\g\w*(\s.*)?)$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: The line of its fence.
        language: What the fence says.
        text: What is in it.
        expected: What it prints, if the page says so.
        place: Where it runs: nothing, or ``pg_cron``.
    """

    line: int
    language: str
    text: str
    expected: str | None
    place: str


@dataclass(frozen=True)
class Page:
    """A page with its blocks in order.

    Attributes:
        clock: The moment at which all of it runs; None for the real time.
    """

    name: str
    text: str
    blocks: tuple[Block, ...]
    clock: str | None

    def section(self, heading: str) -> str:
        """What stands between a heading and the next one of any level."""
        match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", self.text, re.M | re.S)
        assert match, f"{self.name} has no heading {heading!r}"
        return match[1]


def read_page(name: str) -> Page:
    """Read a page of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks: list[Block] = []
    clock, place = None, ""
    language, start, lines = None, 0, list[str]()
    output_of: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.match(line)
        comment = _COMMENT.match(line)
        if language is not None:
            if line != "```":
                lines.append(line)
                continue
            body = "\n".join(lines)
            if language == "text" and output_of is not None:
                block = blocks[output_of]
                blocks[output_of] = Block(block.line, block.language, block.text, body, block.place)
                output_of = None
            else:
                blocks.append(Block(start, language, body, None, place))
                output_of = len(blocks) - 1 if language in ("sql", "python") else None
                place = ""
            language = None
        elif fence:
            language, start, lines = fence[1], number, []
        elif comment and comment[1] == "clock":
            clock = comment[2]
        elif comment:
            place = comment[2]
        elif line.strip():
            output_of = None
    assert language is None, f"{name}:{start}: the block has no end"
    return Page(name, text, tuple(blocks), clock)


class Psql:
    """A session of psql that answers block by block, with what it would print on a terminal."""

    def __init__(self, url: str):
        self._process = subprocess.Popen(
            [str(embedded_binaries().program("psql")), "-X", "-v", "SHOW_CONTEXT=never", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PAGER": "", "PGTZ": "UTC", "PGCLIENTENCODING": "UTF8"},
        )

    def run(self, text: str) -> str:
        """Run statements and meta-commands; answers all that was printed."""
        last = text.rstrip().splitlines()[-1]
        assert last.startswith("\\") or _ENDS_STATEMENT.search(last), "it does not end a statement"
        assert self._process.stdin
        assert self._process.stdout
        mark = f"end of block {uuid.uuid4()}"
        self._process.stdin.write(f"{text}\n\\echo {mark}\n")
        self._process.stdin.flush()
        lines: list[str] = []
        for line in self._process.stdout:
            if line.rstrip("\n") == mark:
                return "".join(lines)
            lines.append(line)
        raise AssertionError(f"psql ended: {''.join(lines)}")

    def close(self) -> None:
        """End the session."""
        self._process.communicate("\\q\n", timeout=10)


@contextlib.contextmanager
def psql_session(database: Database) -> Iterator[Psql]:
    psql = Psql(database.url)
    try:
        yield psql
    finally:
        psql.close()


def run_page(page: Page, blocks: Sequence[Block], database: Database) -> list[str]:
    """Run blocks in order. Answers what was not as the page says, a text each."""
    namespace: dict[str, Any] = {"__name__": page.name}
    problems = []
    with psql_session(database) as psql:
        for block in blocks:
            where = f"{page.name}:{block.line}"
            try:
                if block.language == "sql":
                    printed = psql.run(block.text)
                else:
                    printed = run_python(block, where, namespace)
            except Exception as error:
                error.add_note(f"in the block at {where}")
                raise
            if block.expected is None:
                if block.language == "sql" and _ERROR.search(printed):
                    problems.append(f"{where}: an error that the page does not print:\n{printed}")
            elif tidy(printed) != tidy(block.expected):
                said, prints = tidy(block.expected), tidy(printed)
                problems.append(f"{where}: the page says\n{said}\nbut it prints\n{prints}")
    return problems


def run_python(block: Block, where: str, namespace: dict[str, Any]) -> str:
    """Run a block of Python; answers what it prints."""
    # Empty lines first, so that a traceback names the page's line.
    code = compile("\n" * block.line + block.text, where, "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, namespace)
    return output.getvalue()


def tidy(text: str) -> str:
    """Without the spaces at the ends of lines, which psql fills columns with."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines()).rstrip()


def pages_with(*languages: str, place: str = "") -> list[str]:
    """Names of the pages that have such blocks."""
    return [
        name
        for name in PAGES
        if any(b.language in languages and b.place == place for b in read_page(name).blocks)
    ]


# -- The examples


@pytest.mark.parametrize("name", pages_with("sql", "python"))
def test_examples_print_what_the_page_says(
    name: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read_page(name)
    if page.clock:
        Clock(database).set_everywhere(page.clock)
    monkeypatch.setenv("DATABASE_URL", database.url)
    blocks = [b for b in page.blocks if b.language in ("sql", "python") and not b.place]
    problems = run_page(page, blocks, database)
    assert not problems, "\n\n".join(problems)


@pytest.mark.needs("pg_cron")
@pytest.mark.parametrize("name", pages_with("sql", place="pg_cron"))
def test_examples_with_pg_cron_print_what_the_page_says(name: str, cron_database: Database) -> None:
    page = read_page(name)
    blocks = [b for b in page.blocks if b.place == "pg_cron"]
    problems = run_page(page, blocks, cron_database)
    assert not problems, "\n\n".join(problems)


def test_no_block_is_left_unrun() -> None:
    # A misspelt language would be passed over by everything else here.
    # tests/command runs console.
    run = {"sql", "python", "js", "console"}
    shown = {"text", "sh", "java", ""}
    for name in PAGES:
        for block in read_page(name).blocks:
            assert block.language in run | shown, f"{name}:{block.line}: {block.language}"
            assert block.place in ("", "pg_cron"), f"{name}:{block.line}: {block.place}"


def test_there_are_examples_to_run() -> None:
    assert {"README.md", "docs/integration.md", "docs/operations.md"} <= set(pages_with("sql"))
    assert pages_with("python") == ["docs/events.md", "docs/integration.md"]
    assert pages_with("sql", place="pg_cron") == ["docs/operations.md"]


if node := shutil.which("node"):

    @pytest.mark.parametrize("name", pages_with("js"))
    def test_examples_for_node_are_javascript(name: str, tmp_path: Path) -> None:
        for block in read_page(name).blocks:
            if block.language == "js":
                file = tmp_path / f"line_{block.line}.mjs"
                file.write_text(block.text, encoding="utf-8")
                done = subprocess.run(
                    [str(node), "--check", str(file)], capture_output=True, text=True
                )
                assert done.returncode == 0, f"{name}:{block.line}: {done.stderr}"


def test_statements_in_node_and_java_are_sql(database: Database) -> None:
    # Those programs cannot run here, but the server can say whether it knows their statements.
    statements = [
        (f"{name}:{block.line}", re.sub(r"\?(?=::|\))", "$1", statement))
        for name in pages_with("js", "java")
        for block in read_page(name).blocks
        if block.language in ("js", "java")
        for quoted in re.findall(r'[`"]((?:select|call)\s[^`"]*)[`"]', block.text)
        for statement in [" ".join(quoted.split())]
    ]
    assert statements
    with database.connect(autocommit=True) as connection:
        for where, statement in statements:
            try:
                result = connection.pgconn.prepare(b"", statement.encode())
            finally:
                connection.execute("deallocate all")
            assert not result.error_message, f"{where}: {statement}: {result.error_message!r}"


# -- The lists


def test_errors_are_those_of_the_code() -> None:
    page = read_page("docs/errors.md").text
    rows = re.findall(r"^\| (WQ\d{3}) \| `(\w+)` +\|", page, re.M)
    assert dict(rows) == {
        code: class_.__name__ for code, class_ in StepquotaError.by_sqlstate.items()
    }
    assert len(rows) == len(dict(rows))
    advice = re.findall(r"^- \*\*(WQ\d{3})\*\*", page, re.M)
    assert advice == [code for code, _ in rows]
    # WQ000 never leaves the function that raises it.
    raised = {code for text in sql_files().values() for code in re.findall(r"'(WQ\d{3})'", text)}
    assert raised - {"WQ000"} == set(dict(rows))


def test_event_types_are_those_of_the_code(database: Database) -> None:
    with database.connect() as connection:
        declared = connection.execute(
            "select event_type, level from stepquota.quota_event_types"
        ).fetchall()
    files = {name: text for name, text in sql_files().items() if name != "event_types.sql"}
    code = "\n".join(files.values()).replace("'level', ", "")
    recorded = set(re.findall(r"'([a-z_]+)',\s*'(info|warning|error)'", code))
    assert "'resume_skipped_' || skipped_because" in code
    recorded |= {
        (f"resume_skipped_{reason}", "info")
        for reason in ("quota_exhausted", "no_capacity", "tenant_suspended", "operator_hold")
    }
    assert set(declared) == recorded


def test_event_types_are_those_of_the_page(database: Database) -> None:
    """The page's list is made of the table: STEPQUOTA_WRITE_DOCS=1 in front writes it anew."""
    with database.connect() as connection:
        types = connection.execute(
            "select event_type, level, is_once_a_period, description, details"
            " from stepquota.quota_event_types order by event_type"
        ).fetchall()
    made = "\n\n" + "\n".join(map(describe_event_type, types)) + "\n\n"
    page = read_page("docs/events.md")
    listed = page.section("The types").partition("<!-- list -->")[2].partition("<!-- end -->")[0]
    if os.environ.get("STEPQUOTA_WRITE_DOCS"):
        file = ROOT / page.name
        old, new = (f"<!-- list -->{items}<!-- end -->" for items in (listed, made))
        file.write_text(page.text.replace(old, new), encoding="utf-8")
    else:
        assert listed == made


def describe_event_type(row: tuple[str, str, bool, str, dict[str, str]]) -> str:
    """A type of events as an item of a list."""
    event_type, level, is_once_a_period, description, details = row
    fields = ", ".join(
        f"{name.rstrip('?')} ({type_}{', may be missing' if name.endswith('?') else ''})"
        for name, type_ in details.items()
    )
    item = f"- `{event_type}` ({level}){' (period)' if is_once_a_period else ''}: {description}"
    return textwrap.fill(
        f"{item} Details: {fields}." if fields else item,
        79,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def test_policies_are_those_of_the_table(database: Database) -> None:
    section = read_page("docs/operations.md").section("Policies")
    documented = dict(re.findall(r"^- `(\w+)` \(`([^`]+)`\)", section, re.M))
    with database.connect() as connection:
        row = connection.execute("""
            select jsonb_object_agg(key, value)
              from stepquota.policy p, jsonb_each_text(to_jsonb(p))""").fetchone()
        assert row
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("select stepquota.set_policy('none', '')")
    hint = raised.value.diag.message_hint
    assert hint == f"Policies are {', '.join(sorted(documented))}."
    stored = {name: re.sub(r"^\[(.*)\]$", r"{\1}", row[0][name]) for name in documented}
    assert documented == {name: value.replace(", ", ",") for name, value in stored.items()}


def test_status_items_are_those_of_the_function(database: Database) -> None:
    section = read_page("docs/operations.md").section("Status")
    documented = re.findall(r"^- `([a-z ]+)`:", section, re.M)
    with database.connect() as connection:
        rows = connection.execute("select item from stepquota.status()").fetchall()
    assert documented == [row[0] for row in rows]


def test_rights_are_those_granted(database: Database) -> None:
    page = read_page("docs/operations.md")
    with database.connect() as connection:
        granted = {
            role: {row[0] for row in connection.execute(_ROUTINES_OF_ROLE, [role])}
            for role in ("runtime", "operator", "sync", "observer")
        }
    documented = {
        role: set(re.findall(r"`(\w+)`", page.section(f"stepquota_{role}"))) for role in granted
    }
    # The operator may do all that the runtime may; its own section lists the rest.
    documented["operator"] |= documented["runtime"]
    assert documented == granted


_ROUTINES_OF_ROLE = """
    select distinct p.proname::text from pg_proc p, aclexplode(p.proacl) a
     where p.pronamespace = 'stepquota'::regnamespace
       and a.grantee = ('stepquota_' || %s)::regrole
"""


def test_architecture_lists_the_files() -> None:
    section = read_page("docs/architecture.md").section("The files of sql/")
    documented = re.findall(r"^- `(\w+\.sql)`", section, re.M)
    assert documented == list(sql_files())


def test_architecture_lists_the_tables(database: Database) -> None:
    section = read_page("docs/architecture.md").section("The tables")
    documented = re.findall(r"^- `(\w+)`", section, re.M)
    with database.connect() as connection:
        rows = connection.execute("""
            select c.relname::text from pg_class c
             where c.relnamespace = 'stepquota'::regnamespace and c.relkind in ('r', 'p')
               and not c.relispartition""").fetchall()
    assert sorted(documented) == sorted(row[0] for row in rows)


def test_functions_that_are_named_exist(database: Database) -> None:
    with database.connect() as connection:
        rows = connection.execute("""
            select p.proname::text from pg_proc p where p.pronamespace = 'stepquota'::regnamespace
            union select c.relname::text from pg_class c
             where c.relnamespace = 'stepquota'::regnamespace""").fetchall()
    known = {row[0] for row in rows} | {"now", "sql"}  # a setting, and a file
    # What is Python's alone.
    modules = {
        "aio",
        "dbos",
        "errors",
        "extension",
        "procrastinate",
        "results",
        "resumptions",
        "temporal",
        "testing",
    }
    for name in PAGES:
        for named in re.findall(r"\bstepquota\.([a-z_]+)\b(?!\*)", read_page(name).text):
            assert named in known | modules, f"{name}: stepquota.{named}"


def test_commands_that_are_named_exist() -> None:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    commands |= {group.name for group in app.registered_groups if group.name}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for name in PAGES:
        text = read_page(name).text
        assert set(re.findall(r"`make (\w+)", text)) <= targets
        assert set(re.findall(r"`stepquota (\w+)", text)) <= commands
        for block in read_page(name).blocks:
            if block.language == "sh":
                assert set(re.findall(r"^make (\w+)", block.text, re.M)) <= targets
                assert set(re.findall(r"^stepquota (\w+)", block.text, re.M)) <= commands


# -- The pages themselves


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for path, anchor in _LINK.findall(read_page(name).text):
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {path}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{name}: {path}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_lines_fit_a_terminal(name: str) -> None:
    for number, line in enumerate(read_page(name).text.splitlines(), 1):
        fits = len(line) <= WIDTH or line.startswith(_MAY_BE_LONG)
        assert fits, f"{name}:{number}: {len(line)} columns"


def sql_files() -> dict[str, str]:
    """The files of sql/ by name, in load order."""
    lines = (ROOT / "sql" / "load_order").read_text(encoding="utf-8").splitlines()
    names = [line for line in lines if line and not line.startswith("#")]
    return {name: (ROOT / "sql" / name).read_text(encoding="utf-8") for name in names}
