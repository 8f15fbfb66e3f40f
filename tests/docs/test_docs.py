"""The documentation is true: its examples run, and what it lists is what there is.

Every page is run from top to bottom in a database of its own: the ``sql`` blocks in one session of
psql, the ``python`` blocks in one namespace with DATABASE_URL set. A ``text`` block right after one
of them is what it prints. An error that is not printed there fails the page. The ``sh`` blocks run
in one shell in an empty folder, and must end with status 0.

Comments in a page, which readers do not see, say how its examples run::

    <!-- clock: 2026-04-15T12:00:00Z -->    at the top: the moment of the whole page
    <!-- run: pg_cron -->                   above a block: in the database that has pg_cron
    <!-- run: file -->                      it is what the file has that the text before names last
    <!-- run: syntax -->                    Python that is compiled, and whose names are looked up

What no page runs is in NOT_RUN, each with the reason.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from harness.databases import Clock, Database, migrated_database
from harness.pages import (
    FILE,
    INDENTED,
    PAGES,
    ROOT,
    Block,
    Page,
    Terminal,
    psql_session,
    read_page,
    reader_environment,
    run_python,
    stand_in_pip,
    tidy,
)
from harness.servers import EMBEDDED18
from harness.tap import POOL
from stepquota.cli import app
from stepquota.errors import StepquotaError
from stepquota.stripe_sync.api import EVENT_TYPES

WIDTH = 80
# What PostgreSQL prints in one line, and what stepquota up does.
_MAY_BE_LONG = ("ERROR:", "DETAIL:", "HINT:", "  DATABASE_URL='", "$ export DATABASE_URL='")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_ERROR = re.compile(r"^(ERROR|FATAL|PANIC|invalid command|\\\w+: )", re.MULTILINE)
_ROLE = re.compile(r"^create role (\w+)", re.MULTILINE)

# Blocks that nothing here runs, by page and first line.
NOT_RUN = {
    "README.md": {
        "make demo": "tests/installation/test_make.py runs it",
        "make test": "it is what runs this",
        "make bench": "tests/bench runs parts of it",
    },
    "docs/architecture.md": {
        "update ... set used_count = used_count + 1": "a sketch",
    },
    "docs/how-to/back-up-and-restore.md": {
        "create role stepquota_runtime nologin;": "the server has them already",
        'pg_dump --format=custom --file=dump "$DATABASE_URL"': (
            "of an extension; tests/installation/test_extension.py runs it"
        ),
    },
    "docs/how-to/run-in-containers.md": {
        "for name in POSTGRES OPERATOR SYNC WORKER; do": (
            "it takes Docker; tests/installation/test_containers.py runs what it would"
        ),
        "docker compose --profile stripe up --build --detach": "the same",
        "docker build --file Containerfile --tag stepquota .": "the same",
    },
    "docs/how-to/run-without-pg-cron.md": {
        "*/5 * * * * psql -X -q \"$DATABASE_URL\" -c 'call stepquota.tick()'": (
            "it takes cron; the page makes the same calls"
        ),
        "[Service]": "it takes systemd; the same",
        "apiVersion: batch/v1": "it takes Kubernetes; read as YAML below",
    },
    "docs/integration.md": {
        'var sql = "select allowed from stepquota.reserve_workflow_step(?::text)";': (
            "there is no Java; its statement is tried below"
        ),
    },
    "docs/monitoring.md": {
        "export DATA_SOURCE_NAME=postgresql://exporter@host/database": (
            "tests/monitoring runs the exporter"
        ),
        "cd /var/lib/prometheus/node-exporter": (
            "a folder of the exporter's; tests/command runs the command"
        ),
    },
    "docs/operations.md": {
        "update stepquota.policy set allow_test_clock = true;": "the page has that clock already",
        "select stepquota.redeliver_workflow_run_resumption('acme', '<its id>');": (
            "it takes a stuck resumption; tests/sql has one"
        ),
        "psql \"$DATABASE_URL\" -c 'call stepquota.watch()'": (
            "it goes on for a minute; tests/sql/watch calls it"
        ),
    },
    "docs/page.md": {
        "pip install '.[page,binary]'": "tests/installation/test_wheel.py installs such",
        "create role page_operators login;": "roles of the reader's; tests/page makes such",
        "export STEPQUOTA_PAGE_SECRET=$(openssl rand -hex 32)": "tests/page starts the page",
        "stepquota page link --operator alice": "tests/page makes such links",
        "stepquota page serve --operator-header X-Forwarded-User \\": "tests/page asks so",
    },
    "docs/reference/README.md": {
        "STEPQUOTA_WRITE_DOCS=1 .venv/bin/python -m pytest tests/docs -k reference": (
            "tests/docs/test_reference.py is what it runs"
        ),
    },
    "docs/performance.md": {
        "   measured                   against              ratio     must   aim  reached": (
            "what bench wrote"
        ),
    },
    "docs/procrastinate.md": {
        'await send_invoice.defer_async(tenant="acme", invoice=17)': (
            "a line of a program; tests/engines/test_procrastinate.py has such programs"
        ),
    },
    "docs/security.md": {
        "select * from stepquota.bind_session_role('page_tenants');": (
            "a role of the reader's; tests/sql/bind_session_role has one"
        ),
        "select set_config('stepquota.tenant', 'acme', true);": "the same",
        "create role stepquota_owner nologin;": (
            "roles of the reader's; tests/installation/test_containers.py makes such"
        ),
    },
    "docs/stripe.md": {
        "export STRIPE_API_KEY_FILE=/etc/stepquota/stripe_key": (
            "files of the reader's; tests/stripe/test_commands.py reads such"
        ),
        "export STRIPE_WEBHOOK_SECRETS_FILE=/etc/stepquota/stripe_secrets": "the same",
        "stepquota stripe sync": "tests/stripe/test_commands.py has a Stripe for it",
        "stepquota stripe run --host 127.0.0.1 --port 8300": "the same",
        "customer.created, customer.updated, customer.deleted,": "compared with the code below",
    },
}
# Pages that another test runs as a whole.
RUN_ELSEWHERE = {
    "docs/command-line.md": "tests/command/test_people.py, as a program in 80 columns",
    "docs/tutorial.md": "tests/docs/test_tutorial.py, in three terminals; make test-engines",
}
_RUN_HERE = ("sql", "python", "sh")


def blocks_to_run(page: Page) -> list[Block]:
    """The blocks that run in the page's own database."""
    if page.name in RUN_ELSEWHERE:
        return []
    left_out = NOT_RUN.get(page.name, {})
    return [
        block
        for block in page.blocks
        if (block.language in _RUN_HERE and not block.place and block.first_line not in left_out)
        or block.place == FILE
    ]


def run_page(page: Page, blocks: Sequence[Block], database: Database, folder: Path) -> list[str]:
    """Run blocks in order. Answers what was not as the page says, a text each."""
    namespace: dict[str, Any] = {"__name__": page.name}
    problems = []
    programs, work = folder / "programs", folder / "work"
    programs.mkdir()
    work.mkdir()
    stand_in_pip(programs)
    other = database.server.url(f"{database.name}_other")
    environment = reader_environment(programs, DATABASE_URL=database.url, OTHER_URL=other)
    with psql_session(database.url) as psql, Terminal(work, environment) as terminal:
        for block in blocks:
            where = f"{page.name}:{block.line}"
            printed = ""
            try:
                if block.place == FILE:
                    (work / block.file).write_text(block.text + "\n", encoding="utf-8")
                elif block.language == "sql":
                    printed = psql.run(block.text)
                elif block.language == "python":
                    printed = run_python(block.text, block.line, where, namespace)
                else:
                    problems += run_shell(block, where, terminal)
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


def run_shell(block: Block, where: str, terminal: Terminal) -> list[str]:
    """Run the commands of a block; answers those that failed."""
    # What readers put in for themselves.
    text = block.text.replace("postgresql://owner@host/database", '"$DATABASE_URL"')
    # A group, so that what it exports stays; its first failure shows in the status of &&.
    commands = text.replace("\\\n", " ").splitlines()
    printed, status = terminal.run(" &&\n".join(commands))
    return [f"{where}: status {status}\n{printed}"] if status else []


def pages_with(*languages: str, place: str = "") -> list[str]:
    """Names of the pages that have such blocks to run."""
    return [
        name
        for name in PAGES
        if any(b.language in languages and b.place == place for b in read_page(name).blocks)
    ]


# -- The examples


# The examples of these run programs, which takes longer and need not be done twice.
_ON_THE_NEWEST = ("README.md", "docs/adoption.md", "docs/how-to/")
_WITH_EXAMPLES = [name for name in PAGES if blocks_to_run(read_page(name))]


@pytest.fixture
def newest(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database of the test's own on PostgreSQL 18 alone, with stepquota just installed."""
    database = migrated_database(request.config.stash[POOL].get(EMBEDDED18))
    yield database
    database.drop()


@pytest.mark.parametrize("name", [n for n in _WITH_EXAMPLES if not n.startswith(_ON_THE_NEWEST)])
def test_examples_print_what_the_page_says(
    name: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_examples(read_page(name), database, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [n for n in _WITH_EXAMPLES if n.startswith(_ON_THE_NEWEST)])
def test_examples_of_programs_print_what_the_page_says(
    name: str, newest: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_examples(read_page(name), newest, tmp_path, monkeypatch)


def check_examples(
    page: Page, database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run all of a page."""
    if page.clock:
        Clock(database).set_everywhere(page.clock)
    monkeypatch.setenv("DATABASE_URL", database.url)
    blocks = blocks_to_run(page)
    other = f"{database.name}_other"
    database.server.run(f'create database "{other}" template template0')
    try:
        problems = run_page(page, blocks, database, folder)
    finally:
        database.server.run(f'drop database "{other}" with (force)')
        # Roles are the whole server's, and go when nothing depends on them.
        database.drop()
        for role in {role for block in blocks for role in _ROLE.findall(block.text)}:
            database.server.run(f"drop role if exists {role}")
    assert not problems, "\n\n".join(problems)


@pytest.mark.needs("pg_cron")
@pytest.mark.parametrize("name", pages_with("sql", place="pg_cron"))
def test_examples_with_pg_cron_print_what_the_page_says(
    name: str, cron_database: Database, tmp_path: Path
) -> None:
    page = read_page(name)
    blocks = [b for b in page.blocks if b.place == "pg_cron"]
    problems = run_page(page, blocks, cron_database, tmp_path)
    assert not problems, "\n\n".join(problems)


def test_every_block_is_run_or_has_a_reason() -> None:
    unused = {(name, line) for name in PAGES for line in NOT_RUN.get(name, {})}
    for name in PAGES:
        page = read_page(name)
        here = blocks_to_run(page)
        for block in page.blocks:
            where = f"{name}:{block.line}: {block.language}"
            assert block.place in ("", "pg_cron", "syntax", FILE) or name in RUN_ELSEWHERE, where
            if block.first_line in NOT_RUN.get(name, {}):
                unused.discard((name, block.first_line))
            elif block.place == FILE:
                assert block.file, f"{where}: the text before it names no file"
            elif name in RUN_ELSEWHERE:
                assert block.language in ("sql", "console") or block.place, where
            else:
                is_run = (
                    block in here
                    or block.place == "pg_cron"
                    or block.language == "js"
                    or (block.language == "python" and block.place == "syntax")
                )
                assert is_run, f"{where}: not run: {block.first_line}"
    assert not unused


def test_there_are_examples_to_run() -> None:
    assert {"README.md", "docs/integration.md", "docs/operations.md"} <= set(pages_with("sql"))
    assert {"docs/events.md", "docs/integration.md"} <= set(pages_with("python"))
    assert pages_with("sql", place="pg_cron") == ["docs/operations.md"]
    assert INDENTED in {b.language for b in read_page("README.md").blocks}


@pytest.mark.parametrize("name", pages_with("python", place="syntax"))
def test_python_that_is_not_run_is_python_and_its_names_exist(name: str) -> None:
    for block in read_page(name).blocks:
        if block.place == "syntax":
            where = f"{name}:{block.line}"
            flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            tree = compile("\n" * block.line + block.text, where, "exec", flags)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stepquota"):
                    assert node.module
                    module = importlib.import_module(node.module)
                    for imported in node.names:
                        assert hasattr(module, imported.name), f"{where}: {imported.name}"
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "stepquota":
                    module = importlib.import_module("stepquota")
                    assert hasattr(module, node.attr), f"{where}: {node.attr}"


def test_the_job_for_kubernetes_calls_what_there_is(database: Database) -> None:
    (job,) = (
        yaml.safe_load(block.text)
        for block in read_page("docs/how-to/run-without-pg-cron.md").blocks
        if block.language == "yaml"
    )
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    *_, option, call = container["command"]
    assert option == "-c"
    database.run(call)


def test_events_for_stripe_are_those_of_the_code() -> None:
    (listed,) = (
        block.text
        for block in read_page("docs/stripe.md").blocks
        if block.first_line.startswith("customer.created")
    )
    assert set(re.split(r",\s*", listed)) == set(EVENT_TYPES)


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
    known = {row[0] for row in rows} | {"now", "tenant", "sql"}  # settings, and a file
    # What is Python's alone.
    modules = {
        "absurd",
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


def test_the_index_has_every_page() -> None:
    linked = {path for path, _ in _LINK.findall(read_page("docs/README.md").text)}
    pages = {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")}
    assert pages - linked == {"README.md"}


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
