"""The container files without a container engine.

What they run is run here, in the order that they give, against a server of the tests: the roles,
each service's command with its environment, the health checks. ``make test-engines`` also builds
the image's files by its instructions. Nothing here has run in a container.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from harness.databases import Database, empty_database
from harness.servers import CRON_DATABASE, Server
from stepquota.demo.stripe_fake import StripeFake, serve
from stepquota.server_files import embedded_binaries

from .conftest import repository

PASSWORDS = {
    "POSTGRES_PASSWORD": "p",
    "OPERATOR_PASSWORD": "o's",
    "SYNC_PASSWORD": "s",
    "WORKER_PASSWORD": "w",
}
LOGINS = ("quota_operator", "quota_sync", "quota_worker")
CONTAINER_FILES = ("Containerfile", "containers/database.Containerfile")


def read_compose(**variables: str) -> dict[str, Any]:
    """compose.yaml with its variables in their places."""

    def value(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        if default == ":?":
            return variables[name]
        assert default.startswith(":-")
        return variables.get(name, default[2:])

    text = (repository() / "compose.yaml").read_text(encoding="utf-8")
    read = yaml.safe_load(re.sub(r"\$\{(\w+)(:[-?][^}]*)\}", value, text))
    assert isinstance(read, dict)
    return read


def in_order(services: dict[str, Any]) -> list[str]:
    """The services, each after those that it depends on."""
    done: list[str] = []
    while len(done) < len(services):
        ready = [
            name
            for name, service in services.items()
            if name not in done and set(service.get("depends_on", {})) <= set(done)
        ]
        assert ready, "services wait for each other"
        done += ready
    return done


# -- As they are written


if hadolint := shutil.which("hadolint", path=str(Path(sys.executable).parent)):

    @pytest.mark.parametrize("name", CONTAINER_FILES)
    def test_container_files_pass_the_linter(name: str) -> None:
        completed = subprocess.run(
            [str(hadolint), repository() / name], capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stdout


def test_base_images_have_tags() -> None:
    for name in CONTAINER_FILES:
        bases = re.findall(r"^FROM (\S+)", (repository() / name).read_text(), re.M)
        assert bases
        assert len(set(bases)) == 1, name
        assert re.fullmatch(r"[a-z]+:[0-9.]+-[a-z-]+", bases[0]), bases[0]


def test_what_is_copied_is_there_and_let_in() -> None:
    let_in = set(re.findall(r"^!(\S+)", (repository() / ".dockerignore").read_text(), re.M))
    copied = {source for sources, _ in copies() for source in sources}
    assert copied == let_in
    for source in copied:
        assert (repository() / source).exists(), source


def test_services_fit_together() -> None:
    compose = read_compose(**PASSWORDS)
    services = compose["services"]
    assert in_order(services)[0] == "database"
    assert services["migrate"]["image"] == f"stepquota:{version('stepquota')}"
    for name, service in services.items():
        build = service["build"]
        assert (repository() / build["context"] / build["dockerfile"]).is_file(), name
        for needed, how in service.get("depends_on", {}).items():
            # One that others wait for must say when it is ready, or end.
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert "restart" not in services[needed]
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (repository() / source).is_file()
            else:
                assert source in compose["volumes"]
        # To this machine only: who wants more says so.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


docker = shutil.which("docker")
if docker and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode:

    def test_compose_reads_the_file() -> None:
        completed = subprocess.run(
            [str(docker), "compose", "--profile", "stripe", "config", "--quiet"],
            cwd=repository(),
            env={**os.environ, **PASSWORDS},
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr


# -- As they run


@pytest.fixture
def app(server: Server) -> Iterator[Database]:
    """The database of compose.yaml as its container makes it."""
    database = empty_database(server, CRON_DATABASE)
    try:
        completed = subprocess.run(
            [
                embedded_binaries().program("psql"),
                *("-v", "ON_ERROR_STOP=1", "--no-psqlrc", "--no-password"),
                f"--file={repository() / 'containers' / 'roles.sql'}",
                database.url,
            ],
            env={**os.environ, **PASSWORDS},
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        yield database
    finally:
        database.drop()
        for role in (*LOGINS, "stepquota_owner"):
            server.run(f"drop role if exists {role}")


def as_role(url: str, role: str, **more: str) -> str:
    """The URL for another login."""
    parameters = {k: str(v) for k, v in conninfo_to_dict(url).items() if k != "password"}
    return make_conninfo(**{**parameters, "user": role, **more})


def environment(
    service: dict[str, Any], database: Database, secrets: dict[str, Path], **more: str
) -> dict[str, str]:
    """A service's environment, but for where the database and the secrets are."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "STRIPE_")) and name != "DATABASE_URL"
    }
    given = dict(service["environment"])
    wanted = conninfo_to_dict(given["DATABASE_URL"])
    assert (wanted["host"], wanted["dbname"]) == ("database", "app")
    if wanted["user"] == "postgres":
        given["DATABASE_URL"] = database.url
        del given["PGPASSWORD"]
    else:
        given["DATABASE_URL"] = as_role(database.url, str(wanted["user"]))
    for name, value in given.items():
        if value.startswith("/run/secrets/"):
            given[name] = str(secrets[value.removeprefix("/run/secrets/")])
    return {**kept, **given, "PYTHONPATH": os.pathsep.join(sys.path), **more}


@pytest.mark.needs("pg_cron")
@pytest.mark.xdist_group("pg_cron")
def test_the_services_run(app: Database, tmp_path: Path) -> None:
    port = free_port()
    compose = read_compose(**PASSWORDS, STRIPE_PORT=str(port))
    services = compose["services"]
    secrets = {}
    for name, text in (("stripe_api_key", "sk_test_1"), ("stripe_webhook_secrets", "whsec_1")):
        secrets[name] = tmp_path / name
        secrets[name].write_text(text + "\n")

    def run(name: str, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stepquota", *(command or services[name]["command"])],
            cwd=tmp_path,
            env=environment(services[name], app, secrets),
            capture_output=True,
            text=True,
            check=False,
        )

    once = [name for name in in_order(services) if name not in ("database", "sync")]
    assert once == ["migrate", "schedule"]
    for _ in range(2):  # As each time that compose brings them up.
        for name in once:
            completed = run(name)
            assert completed.returncode == 0, completed.stderr
    with app.connect() as connection:
        owner = connection.execute(
            "select nspowner::regrole::text from pg_namespace where nspname = 'stepquota'"
        ).fetchone()
        jobs = connection.execute("select username, jobname from cron.job order by 2").fetchall()
    assert owner == ("stepquota_owner",)
    assert jobs == [("quota_operator", "stepquota:tick"), ("quota_operator", "stepquota:watch")]

    with psycopg.connect(as_role(app.url, "quota_worker", password="w")) as connection:
        reserved = connection.execute("select allowed from stepquota.reserve_workflow_step('a')")
        assert reserved.fetchone() == (True,)

    sync = services["sync"]
    command = [str(port) if word == "8300" else word for word in sync["command"]]
    with serve(StripeFake("sk_test_1")) as stripe:
        process = subprocess.Popen(
            [sys.executable, "-m", "stepquota", *command],
            cwd=tmp_path,
            env=environment(sync, app, secrets, STRIPE_API_BASE=stripe),
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert sync["healthcheck"]["test"][:2] == ["CMD", "python"]
            probe = [word.replace("8300", str(port)) for word in sync["healthcheck"]["test"][2:]]
            deadline = time.monotonic() + 30
            while subprocess.run([sys.executable, *probe], capture_output=True).returncode != 0:
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            process.terminate()
            _, printed = process.communicate(timeout=30)
    assert "Traceback" not in printed
    completed = run("schedule", "status")
    assert completed.returncode == 0, completed.stdout


@pytest.mark.needs("pg_cron")
def test_the_databases_health_is_asked_as_it_says(server: Server) -> None:
    database = read_compose(**PASSWORDS)["services"]["database"]
    preloaded = [word for word in database["command"] if word.startswith("cron.database_name=")]
    assert preloaded == [f"cron.database_name={database['environment']['POSTGRES_DB']}"]
    program, *options = database["healthcheck"]["test"][1:]
    host = conninfo_to_dict(server.superuser_url)
    here = [o for o in options if not o.startswith("--host")]
    here += [f"--host={host['host']}"] if "host" in host else []
    here += [f"--port={host['port']}"] if "port" in host else []
    assert program == "pg_isready"
    for arguments, status in ((here, 0), ([*here, "--port=1"], 2)):
        done = subprocess.run([embedded_binaries().program(program), *arguments], check=False)
        assert done.returncode == status


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# -- As the image is built


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Containerfile."""
    text = (repository() / "Containerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M)).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def copies() -> list[tuple[list[str], str]]:
    """What it copies from the clone, and where to."""
    found = []
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            *sources, target = shlex.split(rest)
            found.append((sources, target))
    return found


if os.environ.get("STEPQUOTA_RUNTIMES"):

    @pytest.mark.needs("pg_cron")  # One server is enough.
    def test_the_image_is_built_by_its_instructions(
        other_database: Database, tmp_path: Path
    ) -> None:
        source, installed = tmp_path / "source", tmp_path / "opt" / "stepquota"
        source.mkdir()
        for sources, target in copies():
            for name in sources:
                if (repository() / name).is_dir():
                    shutil.copytree(
                        repository() / name,
                        source / target,
                        ignore=shutil.ignore_patterns("__pycache__"),
                    )
                else:
                    shutil.copy(repository() / name, source / target)
        (run,) = (rest for name, rest in instructions() if name == "RUN")
        command = run.replace("/opt/stepquota", shlex.quote(str(installed)))
        subprocess.run(["sh", "-ec", command], cwd=source, check=True)
        (entrypoint,) = (rest for name, rest in instructions() if name == "ENTRYPOINT")
        assert entrypoint == '["stepquota"]'
        empty = tmp_path / "empty"
        empty.mkdir()
        for arguments in (["--help"], ["migrate"], ["stripe", "run", "--help"]):
            completed = subprocess.run(
                [installed / "bin" / "stepquota", *arguments],
                cwd=empty,
                env={"PATH": "/usr/bin:/bin", "DATABASE_URL": other_database.url},
                capture_output=True,
                text=True,
                check=False,
            )
            assert completed.returncode == 0, completed.stderr
