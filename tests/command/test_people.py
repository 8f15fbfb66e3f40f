"""The commands for people, each run as a program; docs/command-line.md shows what they print."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.databases import Clock, Database, migrated_database
from harness.servers import Server
from stepquota.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"
_BLOCK = re.compile(r"^```(sql|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def environment(**variables: str) -> dict[str, str]:
    dropped = ("DATABASE_URL", "COLUMNS", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    paths = os.pathsep.join(sys.path)
    return {**kept, "PYTHONPATH": paths, "PYTHONUTF8": "1", "TZ": "UTC", **variables}


def stepquota(
    database: Database, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stepquota", *arguments],
        env=environment(**{"DATABASE_URL": database.url, **variables}),
        capture_output=True,
        text=True,
        check=False,
    )


def json_of(database: Database, *arguments: str) -> Any:
    completed = stepquota(database, *arguments, "--json")
    assert completed.stdout, completed.stderr
    return json.loads(completed.stdout)


@pytest.fixture(scope="module")
def prepared(server: Server) -> Iterator[Database]:
    """A database on 15 April 2026 at noon, with a tenant that has used its quota up."""
    database = migrated_database(server)
    Clock(database).set_everywhere("2026-04-15T12:00:00Z")
    for language, text in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "sql":
            database.run(text)
    yield database
    database.drop()


# -- The page


def tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines())


@pytest.mark.needs("pg_cron")  # One server is enough for what is printed.
def test_commands_print_what_the_page_says(server: Server) -> None:
    """STEPQUOTA_WRITE_DOCS=1 in front writes what they print into the page."""
    text = PAGE.read_text(encoding="utf-8")
    database = migrated_database(server)
    try:
        Clock(database).set_everywhere("2026-04-15T12:00:00Z")

        def printed(block: re.Match[str]) -> str:
            if block[1] == "sql":
                database.run(block[2])
                return block[0]
            command = block[2].splitlines()[0]
            program, *arguments = shlex.split(command.removeprefix("$ "))
            assert program == "stepquota"
            completed = stepquota(database, *arguments, COLUMNS="80")
            output = _UUID.sub("0198c0de-0000-7000-8000-000000000001", completed.stdout)
            output = re.sub(r"\bpostgres\b", "support", output).replace(database.name, "app")
            return f"```console\n{command}\n{tidy(output + completed.stderr)}\n```"

        made = _BLOCK.sub(printed, text)
    finally:
        database.drop()
    if os.environ.get("STEPQUOTA_WRITE_DOCS"):
        PAGE.write_text(made, encoding="utf-8")
    else:
        assert made == text


_ELSEWHERE = {
    *("stripe", "page", "migrate", "adopt", "up", "demo", "uninstall", "grant", "revoke"),
}


def commands() -> dict[str, Any]:
    """All commands of the program that this page is about, by name."""
    root: Any = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():
        if name in _ELSEWHERE:
            continue
        for sub, inner in getattr(command, "commands", {"": command}).items():
            found[f"{name} {sub}".strip()] = inner
    return found


def section(name: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    match = re.search(rf"^## stepquota {name}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"there is no section about {name}"
    return match[1]


def test_the_page_has_every_command_with_its_options() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^## stepquota (.+)$", text, re.MULTILINE)) == set(commands())
    for name, command in commands().items():
        options = {o for p in command.params for o in p.opts if o.startswith("-")}
        assert "--json" in options, name
        for option in options - {"--json", "--help", "--database-url", "-d"}:
            assert f"`{option}`" in section(name), f"{name} {option}"


@pytest.mark.needs("pg_cron")
def test_fields_of_json_are_documented(prepared: Database) -> None:
    checked = 0
    for arguments in (
        ["status"],
        ["status", "acme"],
        ["top"],
        ["tenant", "explain", "acme"],
        ["run", "show", "acme", "run-1"],
        ["repair", "acme"],
        ["metrics"],
        ["doctor"],
    ):
        answer = json_of(prepared, *arguments)
        words = [word for word in arguments if word not in ("acme", "run-1")]
        documented = set(re.findall(r"`(\w+)`", section(" ".join(words))))
        names = set(answer) if isinstance(answer, dict) else {k for row in answer for k in row}
        assert names
        assert names <= documented, arguments
        checked += len(names)
    assert checked > 25


# -- What they do


@pytest.mark.needs("pg_cron")
def test_changes_to_a_tenant(database: Database) -> None:
    database.run("select stepquota.set_tenant_plan('acme', 'solo')")
    assert "tier pro, 0 of 750" in stepquota(database, "tenant", "plan", "acme", "pro").stdout
    grant = json_of(database, "tenant", "grant", "acme", "5", "-r", "x", "--key", "k")
    assert (grant["units"], grant["reason"], grant["grant_key"]) == (5, "x", "k")
    assert grant["granted_at"].endswith("Z")
    again = json_of(database, "tenant", "grant", "acme", "5", "-r", "x", "--key", "k")
    assert again["grant_id"] == grant["grant_id"]
    revoked = json_of(database, "tenant", "revoke", "acme", grant["grant_id"], "-r", "y")
    assert revoked["closed_because"] == "y"
    assert json_of(database, "tenant", "hold", "acme", "-r", "why")["held_because"] == "why"
    assert json_of(database, "tenant", "release", "acme", "-r", "why")["held_at"] is None
    assert json_of(database, "tenant", "suspend", "acme", "-r", "why")["suspended_at"]
    assert json_of(database, "tenant", "reinstate", "acme", "-r", "why")["suspended_at"] is None
    json_of(database, "tenant", "shadow", "acme")
    assert json_of(database, "status", "acme")["usage"]["enforcement"] == "shadow"
    json_of(database, "tenant", "enforce", "acme")
    shown = json_of(database, "tenant", "show", "acme")
    assert shown["usage"]["enforcement"] == "enforce"
    assert shown["usage"]["effective_limit"] == 750
    without = json_of(database, "tenant", "plan", "acme", "--none")
    assert without["quota"]["tier"] == "solo"


@pytest.mark.needs("pg_cron")
def test_what_is_done_to_a_run(database: Database) -> None:
    database.run(
        """
        select stepquota.set_tier_limit('one', 1);
        select stepquota.set_tenant_plan('acme', 'one');
        select stepquota.register_workflow_run('acme', 'r');
        select stepquota.start_workflow_step('acme', 'r', 'a');
        select stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED');
        select stepquota.start_workflow_step('acme', 'r', 'b');
        """
    )
    assert stepquota(database, "run", "resume", "acme", "r", "-r", "x").returncode == 3
    assert json_of(database, "run", "hold", "acme", "r", "-r", "x")["held_because"] == "x"
    assert json_of(database, "run", "show", "acme", "r")["pause"]["reasons"] == [
        "operator_hold",
        "quota",
    ]
    assert json_of(database, "run", "release", "acme", "r", "-r", "x")["held_at"] is None
    database.run("update stepquota.tiers set step_limit = 2 where tier = 'one'")
    database.run("update stepquota.policy set epoch = epoch + 1")
    completed = stepquota(database, "run", "resume", "acme", "r", "-r", "x")
    assert (completed.returncode, completed.stdout) == (0, "r is resumed; a worker takes it on\n")
    refused = stepquota(database, "run", "cancel", "acme", "r")
    assert (refused.returncode, refused.stderr.splitlines()[1]) == (1, "hint: add --yes")
    assert json_of(database, "run", "cancel", "acme", "r", "--yes")["status"] == "CANCELED"


@pytest.mark.needs("pg_cron")
def test_a_counter_that_is_wrong(database: Database) -> None:
    database.run(
        """
        select stepquota.set_tenant_plan('acme', 'solo');
        select stepquota.register_workflow_run('acme', 'r');
        select stepquota.start_workflow_step('acme', 'r', 'a');
        update stepquota.workflow_step_usage_lanes set used_count = 4 where tenant = 'acme';
        """
    )
    completed = stepquota(database, "reconcile", "acme", "--json")
    found = json.loads(completed.stdout)
    assert (completed.returncode, found["period"]["drift"]) == (1, 3)
    assert [finding["class"] for finding in found["findings"]] == ["counter_ahead"]
    assert stepquota(database, "reconcile").returncode == 1
    assert "would go from 4 to 1" in stepquota(database, "repair", "acme").stdout
    assert json_of(database, "status", "acme")["usage"]["used_count"] == 4
    assert "went from 4 to 1" in stepquota(database, "repair", "acme", "--apply", "-r", "x").stdout
    assert stepquota(database, "reconcile", "acme").stdout.endswith("0 open findings\n")


@pytest.mark.needs("pg_cron")
def test_cron(cron_database: Database) -> None:
    assert stepquota(cron_database, "cron", "disable").stdout == "nothing was scheduled\n"
    jobs = json_of(cron_database, "cron", "enable", "--schedule", "*/7 * * * *")
    assert jobs[0]["schedule"] == "*/7 * * * *"
    assert "cron.schedule" in stepquota(cron_database, "cron", "print").stdout
    checks = json_of(cron_database, "doctor")
    assert {c["state"] for c in checks if c["check"] == "pg_cron"} == {"ok"}
    with cron_database.connect(autocommit=True) as connection:
        connection.execute("update cron.job set active = false")
    completed = stepquota(cron_database, "doctor")
    assert completed.returncode == 1
    assert "is switched off" in completed.stdout
    removed = json_of(cron_database, "cron", "disable")
    assert [job["job_name"] for job in removed] == [job["job_name"] for job in jobs]


def test_doctor_sees_what_slows_the_server_down(database: Database) -> None:
    healthy = {c["check"]: c["state"] for c in json_of(database, "doctor")}
    assert (
        healthy.items()
        >= {
            "connection": "ok",
            "clock": "ok",
            "version": "ok",
            "roles": "ok",
            "autovacuum": "ok",
        }.items()
    )
    database.run("alter table stepquota.workflow_step_usage_lanes set (autovacuum_enabled = false)")
    completed = stepquota(database, "doctor")
    assert completed.returncode == 1
    assert "alter table stepquota.workflow_step_usage_lanes reset" in completed.stdout


@pytest.mark.needs("pg_cron")
def test_metrics_are_in_prometheus_text_format(prepared: Database) -> None:
    lines = stepquota(prepared, "metrics").stdout.splitlines()
    series = [line for line in lines if not line.startswith("#")]
    assert 'stepquota_tenant_used_steps{tenant="acme"} 4' in series
    form = re.compile(r'stepquota_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? -?\d+(\.\d+)?(e[+-]\d+)?')
    assert [line for line in series if not form.fullmatch(line)] == []
    types = [line for line in lines if line.startswith("#")]
    assert len(types) == len(set(types)) == len({re.split(r"[{ ]", line)[0] for line in series})


# -- How they print


@pytest.mark.needs("pg_cron")
def test_moments_are_in_the_users_zone_and_in_utc(prepared: Database) -> None:
    shown = stepquota(prepared, "status", "acme", TZ="Europe/Berlin").stdout
    assert re.search(r"resets +in 15 days, 2026-05-01 02:00 CEST \(00:00 UTC\)", shown)
    shown = stepquota(prepared, "status", "acme", TZ="America/New_York").stdout
    assert re.search(r"resets +.*, 2026-04-30 20:00 EDT \(2026-05-01 00:00 UTC\)", shown)


@pytest.mark.needs("pg_cron")
def test_nothing_is_coloured_in_a_pipe_and_no_line_is_wrapped_in_a_terminal(
    prepared: Database,
) -> None:
    for arguments in (["status", "acme"], ["tenant", "explain", "acme"], ["top", "--once"]):
        assert "\x1b" not in stepquota(prepared, *arguments).stdout
        seen = in_terminal(prepared, *arguments)
        assert "\x1b[" in seen
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
        assert max(map(len, plain.splitlines())) <= 80
    ascii_only = stepquota(prepared, "status", "acme", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert "####" in ascii_only.stdout


def in_terminal(
    database: Database, *arguments: str, until: str = "", number: signal.Signals = signal.SIGINT
) -> str:
    """What it prints in a terminal of 24 lines and 80 columns, to its end or until a text."""
    pid, terminal = pty.fork()
    if pid == 0:
        # Ignored where the tests run in the background of a shell.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        variables = environment(DATABASE_URL=database.url, TERM="xterm", LINES="24", COLUMNS="80")
        os.execve(sys.executable, [sys.executable, "-m", "stepquota", *arguments], variables)
    seen = b""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # It has ended.
            break
        if until and until in seen.decode(errors="replace"):
            os.kill(pid, number)
            until = ""
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, seen
    return seen.decode()


@pytest.mark.needs("pg_cron")
def test_top_lives_until_it_is_interrupted(prepared: Database) -> None:
    seen = in_terminal(prepared, "top", "--interval", "1", until="new")
    assert seen.count("acme") >= 2
    assert seen.rstrip().endswith("\x1b[?25h\x1b[?1049l") or "\x1b[?1049l" in seen


@pytest.mark.needs("pg_cron")
def test_events_are_followed(database: Database) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "stepquota", "events", "--follow", "--json"],
        env=environment(DATABASE_URL=database.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    # The first is there before it begins to follow, or comes after: both are printed once.
    with database.connect(autocommit=True) as connection:
        connection.execute("select stepquota.hold_tenant('acme', 'one')")
        first = json.loads(process.stdout.readline())
        with connection.transaction():
            connection.execute("select stepquota.hold_tenant('globex', 'drawn first')")
            with database.connect(autocommit=True) as other:
                other.execute("select stepquota.hold_tenant('initech', 'seen first')")
            second = json.loads(process.stdout.readline())
        third = json.loads(process.stdout.readline())
    assert [e["tenant"] for e in (first, second, third)] == ["acme", "initech", "globex"]
    assert third["event_id"] < second["event_id"]
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[0] == ""
    assert process.returncode == 0


# -- Errors


@pytest.mark.needs("pg_cron")
@pytest.mark.parametrize(
    ("arguments", "status", "problem", "hint"),
    [
        (["tenant", "show", "nobody"], 1, "the tenant nobody has not asked", "check its name"),
        (["run", "show", "acme", "nope"], 1, "the tenant has no such run", "Register it"),
        (["tenant", "plan", "acme", "nix"], 1, "p_plan must be the name of a tier", "Tiers are"),
        (["tenant", "revoke", "acme", "x", "-r", "y"], 1, "x is no grant's id", "it is a UUID"),
    ],
)
def test_errors_are_one_line_with_a_hint(
    prepared: Database, arguments: list[str], status: int, problem: str, hint: str
) -> None:
    completed = stepquota(prepared, *arguments)
    assert (completed.returncode, completed.stdout) == (status, "")
    first, second = completed.stderr.splitlines()
    assert first.startswith(f"stepquota: {problem}")
    assert second.startswith(f"hint: {hint}")
    if problem.startswith("the tenant nobody"):
        assert "Traceback" in stepquota(prepared, *arguments, "--debug").stderr


def test_a_missing_right_and_a_missing_installation(
    database: Database, other_database: Database
) -> None:
    url = f"{database.url}&options=-c%20role%3Dstepquota_runtime"
    completed = stepquota(database, "status", "acme", DATABASE_URL=url)
    assert completed.returncode == 1
    assert completed.stderr.endswith("hint: use one that is a member of stepquota_observer\n")
    completed = stepquota(other_database, "top", "--once")
    assert completed.stderr.endswith("hint: run stepquota migrate\n")


def test_completion_knows_the_commands() -> None:
    program = "import sys; sys.argv[0] = 'stepquota'; import stepquota_command as c; c.main()"
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(
            _STEPQUOTA_COMPLETE="complete_bash", COMP_WORDS="stepquota te", COMP_CWORD="1"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.stdout.split() == ["tenant"], completed.stderr
