"""The kinds of faults. Each is done to a world under load, and returns when the load can go on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from faults.world import World
from harness.killable import Cluster

chance = random.Random()

_BACKENDS = """
select a.pid from pg_stat_activity a
 where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
"""


def _list_backends(world: World) -> list[int]:
    with psycopg.connect(world.server.url) as connection:
        return [pid for (pid,) in connection.execute(_BACKENDS)]


def kill_server(world: World) -> None:
    """The whole server, with -9."""
    world.server.kill()
    time.sleep(chance.uniform(0, 0.3))
    world.server.start()


def kill_backend(world: World) -> None:
    """One of its processes, with -9: the server ends all others and recovers."""
    for pid in chance.sample(_list_backends(world), 1):
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    world.server.start()


def kill_client(world: World) -> None:
    """A client, with -9, wherever it is; another one takes over."""
    world.kill_client(chance.choice(sorted(world.clients)))


def kill_pool(world: World) -> None:
    """PgBouncer, with -9."""
    world.pool.kill()
    world.pool.start()


def terminate_backends(world: World) -> None:
    """pg_terminate_backend of some connections, whatever they are at."""
    backends = _list_backends(world)
    for pid in chance.sample(backends, min(3, len(backends))):
        with suppress(psycopg.OperationalError), psycopg.connect(world.server.url) as connection:
            connection.execute("select pg_terminate_backend(%s)", [pid])


def step_clock(world: World, by: float | None = None) -> None:
    """Everybody's clock, forward or back; later back to the real time."""
    by = by or chance.choice([-86400, -3600, -40, 40, 3600, 86400, 40 * 86400])
    world.signals.clock = by
    time.sleep(0.7)
    world.signals.clock = 0


def fill_disk(world: World) -> None:
    """The disk of the data is full for a while."""
    ballast = world.disk / "ballast"
    until = time.monotonic() + 1.5
    with ballast.open("wb") as file:
        while time.monotonic() < until:
            try:
                free = os.statvfs(world.disk).f_bavail * 4096
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), max(free, 4096))
            except OSError:
                time.sleep(0.02)
    ballast.unlink()
    world.server.start()


def _copy_server(world: World, folder: Path, *arguments: str) -> None:
    host = quote(str(world.server.sockets), safe="")
    world.installation.run(
        *("pg_basebackup", f"--dbname=postgresql://postgres@/?host={host}"),
        *(f"--pgdata={folder}", "--checkpoint=fast", "--no-sync", *arguments),
    )


def promote_replica(world: World, *, is_synchronous: bool = True) -> None:
    """A synchronous replica takes the place of the server, which is killed with -9.

    One that is not synchronous, and has stopped receiving, is for the test that this is noticed.
    """
    name = f"data{time.monotonic_ns()}"
    sockets = world.installation.make_folder(f"r{time.monotonic_ns()}")
    old = world.server
    try:
        _copy_server(world, world.disk / name, "--wal-method=stream", "--write-recovery-conf")
        replica = world.make_cluster(world.disk / name, sockets)
        replica.start()
        with psycopg.connect(old.url, autocommit=True) as connection:
            connection.execute("alter system set synchronous_standby_names = '*'")
            connection.execute("select pg_reload_conf()")
            until = time.monotonic() + 30
            while True:
                found = connection.execute("select sync_state from pg_stat_replication").fetchall()
                if found == [("sync",)]:
                    break
                assert time.monotonic() < until, "the replica never became synchronous"
                time.sleep(0.05)
            if not is_synchronous:
                connection.execute("alter system reset synchronous_standby_names")
                connection.execute("select pg_reload_conf()")
                _stop_receiving(replica)
                world.wait_for_progress()
        time.sleep(chance.uniform(0.2, 0.8))
        old.kill()
        with psycopg.connect(replica.url, autocommit=True) as connection:
            connection.execute("alter system reset synchronous_standby_names")
            connection.execute("select pg_reload_conf()")
            connection.execute("select pg_promote()")
        replica.take_over(old)
        world.server = replica
        shutil.rmtree(old.data, ignore_errors=True)
    finally:
        # The socket of one that took over is there until its next start.
        if world.server is old:
            shutil.rmtree(sockets, ignore_errors=True)


def _stop_receiving(replica: Cluster) -> None:
    with psycopg.connect(replica.url, autocommit=True) as connection:
        connection.execute("alter system set primary_conninfo = ''")
        connection.execute("select pg_reload_conf()")
        until = time.monotonic() + 30
        while connection.execute("select from pg_stat_wal_receiver").fetchall():
            assert time.monotonic() < until, "the replica did not stop receiving"
            time.sleep(0.05)


def restore_dump(world: World, *, is_too_old: bool = False) -> None:
    """A dump made under load, restored: it has what was acknowledged before it was begun.

    One that is too old to have it is for the test that this is noticed.
    """
    folder = world.installation.make_folder(f"p{time.monotonic_ns()}")
    since = world.take_bounds()
    file = str(folder / "dump")
    world.installation.run("pg_dump", f"--dbname={world.server.url}", "-Fc", f"--file={file}")
    if is_too_old:
        world.wait_for_progress()
        since = world.take_bounds()
    with psycopg.connect(world.server.url, autocommit=True) as connection:
        connection.execute("drop database if exists restored")
        connection.execute("create database restored template template0")
        url = world.server.url_of("restored")
        world.installation.run("pg_restore", f"--dbname={url}", "--exit-on-error", file)
        world.check(url, since)
        connection.execute("drop database restored with (force)")
    shutil.rmtree(folder)


def restore_to_moment(world: World, *, is_too_early: bool = False) -> None:
    """A base backup and the WAL up to a moment, restored: it has what was acknowledged before.

    A moment that is too early for it is for the test that this is noticed.
    """
    folder = world.installation.make_folder(f"b{time.monotonic_ns()}")
    try:
        for segment in world.archive.iterdir():
            segment.unlink()
        _copy_server(world, folder / "data", "--wal-method=fetch")
        time.sleep(chance.uniform(0.3, 1))
        since = world.take_bounds()
        moment = f"moment{time.monotonic_ns()}"
        with psycopg.connect(world.server.url, autocommit=True) as connection:
            row = connection.execute(
                "select pg_walfile_name(pg_create_restore_point(%s))", [moment]
            ).fetchone()
            assert row is not None
            connection.execute("select pg_switch_wal()")
            until = time.monotonic() + 60
            while not (world.archive / row[0]).exists():
                assert time.monotonic() < until, "the WAL was not archived"
                time.sleep(0.1)
        if is_too_early:
            world.wait_for_progress()
            since = world.take_bounds()
        (folder / "data" / "recovery.signal").touch()
        copy = world.make_cluster(
            folder / "data",
            folder,
            archive_mode="off",
            # It answers when it is there, not on the way.
            hot_standby="off",
            restore_command=f"cp {world.archive}/%f %p",
            recovery_target_name=moment,
            recovery_target_action="promote",
        )
        try:
            copy.start()
            world.check(copy.url, since)
        finally:
            copy.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Injection = Callable[[World], None]

# How often each comes in a deck that is dealt again and again.
DECK: dict[Injection, int] = {
    terminate_backends: 8,
    kill_client: 6,
    kill_pool: 4,
    step_clock: 4,
    kill_server: 4,
    kill_backend: 3,
    fill_disk: 2,
    promote_replica: 2,
    restore_dump: 1,
    restore_to_moment: 1,
}
