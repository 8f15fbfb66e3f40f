"""stepquota migrate: repeatable, safe to break off, and safe to run by several at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from harness.databases import Database
from stepquota import bookkeeping
from stepquota import database_url as database_url_module
from stepquota import migrate as migrate_module
from stepquota._resources import migration_files, sql_files
from stepquota.migrate import migrate
from stepquota.problems import Problem
from stepquota.server import LocalServer

from .conftest import Dump, applied_migrations

ALL_MIGRATIONS = [file.stem for file in migration_files()]

PROGRAM = "import sys; from stepquota.migrate import migrate; migrate(sys.argv[1])"


def start_installer(database: Database) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, database.url],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_it_says_what_it_has_done(other_database: Database) -> None:
    first, second = migrate(other_database.url), migrate(other_database.url)
    assert list(first.applied) == ALL_MIGRATIONS == applied_migrations(other_database)
    assert second.applied == ()
    assert first.database == other_database.name
    assert first.server_version == other_database.server.version
    assert first.loaded == second.loaded == len(sql_files())


def test_migrating_twice_changes_nothing(database: Database, dump: Dump) -> None:
    before = dump(database)
    migrate(database.url)
    assert dump(database) == before


def test_an_installation_broken_off_before_it_was_recorded(database: Database, dump: Dump) -> None:
    before = dump(database)
    # What a kill between a migration and its record leaves behind, with yoyo's lock still held.
    database.run("delete from stepquota_migrations._stepquota_migration")
    database.run("insert into stepquota_migrations.yoyo_lock (pid) values (1)")
    assert list(migrate(database.url).applied) == ALL_MIGRATIONS
    assert dump(database) == before


def test_an_installer_killed_on_its_way(
    other_database: Database, database: Database, dump: Dump
) -> None:
    installer = start_installer(other_database)
    deadline = time.monotonic() + 30
    with other_database.connect(autocommit=True) as connection:
        while time.monotonic() < deadline:
            known = connection.execute(
                "select to_regclass('stepquota_migrations._stepquota_migration')"
            ).fetchone()
            if known and known[0] and applied_migrations(other_database):
                break
    installer.send_signal(signal.SIGKILL)
    installer.communicate()
    migrate(other_database.url)
    assert applied_migrations(other_database) == ALL_MIGRATIONS
    assert dump(other_database) == dump(database)


def test_several_installers_at_once(
    other_database: Database, database: Database, dump: Dump
) -> None:
    installers = [start_installer(other_database) for _ in range(3)]
    errors = [installer.communicate(timeout=60)[1] for installer in installers]
    assert [installer.returncode for installer in installers] == [0, 0, 0], errors
    assert applied_migrations(other_database) == ALL_MIGRATIONS
    assert dump(other_database) == dump(database)


def test_settings_of_the_database_do_not_disturb(
    other_database: Database, database: Database, dump: Dump
) -> None:
    for setting in (
        "search_path = 'information_schema'",
        "statement_timeout = '50ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        "default_transaction_isolation = 'serializable'",
        "\"DateStyle\" = 'German'",
        "standard_conforming_strings = on",
    ):
        other_database.run(f'alter database "{other_database.name}" set {setting}')
    migrate(other_database.url)
    other_database.run(f'alter database "{other_database.name}" reset all')
    assert dump(other_database) == dump(database)


def test_an_installer_that_may_not_create_roles(other_database: Database) -> None:
    with unprivileged_role(other_database) as url:
        other_database.run(
            f'grant create on database "{other_database.name}" to "{other_database.name}"'
        )
        migrate(url)
        assert migrate(url).applied == ()
        assert applied_migrations(other_database) == ALL_MIGRATIONS


def test_a_missing_right_is_named_with_the_statement_that_gives_it(
    other_database: Database,
) -> None:
    name = other_database.name
    other_database.speak_english()
    with unprivileged_role(other_database) as url, pytest.raises(Problem) as caught:
        migrate(url)
    assert caught.value.what == (
        f"the role {name} lacks a right: permission denied for database {name}"
    )
    assert f'grant create on database "{name}" to "{name}"' in caught.value.hint


def test_a_role_that_does_not_own_the_installation(database: Database) -> None:
    with unprivileged_role(database) as url, pytest.raises(Problem) as caught:
        migrate(url)
    owner = conninfo_to_dict(database.url)["user"]
    assert caught.value.what == (
        f"the schema stepquota belongs to the role {owner}, and {database.name} is no member of it"
    )
    assert f"connect as {owner}" in caught.value.hint


def test_a_superuser_upgrades_as_the_owner(other_database: Database) -> None:
    name = other_database.name
    with unprivileged_role(other_database) as url:
        other_database.run(f'grant create on database "{name}" to "{name}"')
        migrate(url)
        other_database.run("drop function stepquota.version()")
        migrate(other_database.url)
        with other_database.connect() as connection:
            owners = connection.execute(
                "select distinct proowner::regrole::text from pg_proc"
                " where pronamespace = 'stepquota'::regnamespace"
            ).fetchall()
        assert owners == [(name,)]
        migrate(url)


@contextmanager
def unprivileged_role(database: Database) -> Iterator[str]:
    """A role of the database's name, for a block; gives the URL for it."""
    name = database.name
    database.run(f"create role \"{name}\" login password 'x'")
    yield psycopg.conninfo.make_conninfo(database.url, user=name, password="x")
    database.run(f'drop owned by "{name}" cascade; drop role "{name}"')


def test_another_installer_is_not_waited_for_without_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate_module, "OTHER_INSTALLER_TIMEOUT", "200ms")
    with database.connect() as connection:
        connection.execute(bookkeeping.LOCK_OUT_OTHERS.encode())
        with pytest.raises(Problem, match="another installer is at work"):
            migrate(database.url)


def test_a_failing_file_is_named_and_nothing_of_the_functions_is_half_done(
    database: Database, dump: Dump, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    database.speak_english()
    before = dump(database)
    good, bad = sql_files()[0], tmp_path / "bad.sql"
    bad.write_text("drop function stepquota.version();\n\n-- on line 4\nselect nonsense;\n")
    monkeypatch.setattr(migrate_module, "sql_files", lambda: (good, bad))
    with pytest.raises(Problem, match=r"sql/bad\.sql, line 4: column \"nonsense\" does not exist"):
        migrate(database.url)
    assert dump(database) == before


def test_a_server_that_is_too_old(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_url_module, "OLDEST_SERVER", 99)
    with pytest.raises(Problem) as caught:
        migrate(database.url)
    version = database.server.version
    assert str(caught.value) == (
        f"the server is PostgreSQL {version}; stepquota needs PostgreSQL 99 or later"
    )


def test_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with pytest.raises(Problem) as caught:
        migrate(f"postgresql:///app?host={quote(str(tmp_path), safe='')}")
    assert caught.value.what.startswith("cannot connect to the database: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["{scheme}:///{db}?host={host}&user={user}", "key=value"])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_forms_of_the_url(database: Database, form: str, scheme: str) -> None:
    parameters = conninfo_to_dict(database.url)
    if form == "key=value":
        url = psycopg.conninfo.make_conninfo("", **parameters)
    else:
        host = quote(str(parameters["host"]), safe="")
        url = form.format(
            scheme=scheme, db=parameters["dbname"], host=host, user=parameters["user"]
        )
        if "port" in parameters:
            url += f"&port={parameters['port']}"
        if "password" in parameters:
            url += f"&password={quote(str(parameters['password']), safe='')}"
    assert migrate(url).database == database.name


PASSWORD = "p@s:s/w?r#d %41 é'\\"


@pytest.fixture(scope="session")
def tcp_server() -> Iterator[str]:
    """A server that asks for a password, as host:port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with LocalServer(settings={"listen_addresses": "127.0.0.1", "port": str(port)}) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            literal = psycopg.sql.Literal(PASSWORD).as_string()
            connection.execute(f"alter role postgres password {literal}".encode())
        yield f"127.0.0.1:{port}"


def test_a_password_with_special_characters(tcp_server: str) -> None:
    url = f"postgres://postgres:{quote(PASSWORD, safe='')}@{tcp_server}/stepquota"
    migrate(url)
    with psycopg.connect(url) as connection:
        assert connection.execute("select stepquota.version()").fetchone() == ("0.2.0",)


@pytest.mark.parametrize(
    "url",
    [
        "postgres://postgres:{wrong}@{server}/stepquota",
        "postgres://postgres:{secret}@{server}/stepquota",
        "postgres://postgres:x@{secret}@{server}/stepquota",
        "postgres://postgres:{secret}/x@{server}/stepquota",
        "postgres://postgres:{secret}?x@{server}/stepquota",
        "postgres://postgres:{secret}%zz@{server}/stepquota",
        "host=127.0.0.1 password='{secret}",
        "host=127.0.0.1 password={secret} x",
        "{secret}",
    ],
)
def test_a_password_is_never_repeated(tcp_server: str, url: str) -> None:
    filled = url.format(server=tcp_server, secret="5ecret", wrong="5ecret")
    with pytest.raises(Problem) as caught:
        migrate(filled)
    assert "5ecret" not in str(caught.value)
    assert "\n" not in str(caught.value)
