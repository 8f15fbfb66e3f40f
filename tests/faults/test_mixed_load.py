"""A mixed load from several processes, and faults of all kinds, again and again.

After each fault: verify_all() finds nothing, all that was acknowledged is there and was counted
once, nobody has more than the limit, and each run is in somebody's hands, can be claimed, or waits.

STEPQUOTA_FAULTS=300 in front of pytest goes on with it for so many seconds a server; ``make
test-faults`` does that, and tries random histories beside it.
"""

from __future__ import annotations

import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from faults import injections
from faults.clients import NICENESS
from faults.injections import DECK, Injection
from faults.world import World
from harness.killable import Cluster, Installation
from harness.servers import SERVERS, Unavailable
from stepquota.migrate import migrate

SECONDS = float(os.environ.get("STEPQUOTA_FAULTS", "0"))
# A world is small enough to be looked at after each fault, so it does not get old.
FAULTS_A_WORLD = 14
DISK = 900 * 2**20
# Worlds that went wrong, after which no more are tried.
MANY = 10
Record = Callable[[str, object], None]


@pytest.mark.parametrize("name", SERVERS)
def test_faults(name: str, record_property: Record) -> None:
    try:
        installation = Installation(name, NICENESS)
    except Unavailable as reason:
        pytest.skip(str(reason))
    until = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    deck: list[Injection] = []
    wrong: list[str] = []
    try:
        template = make_template(installation)
        try:
            while True:
                try:
                    _run_world(World(installation, template, DISK), deck, until, counts)
                except Exception as error:
                    # The next world may show more.
                    wrong.append("".join(traceback.format_exception(error)))
                if len(wrong) > MANY or time.monotonic() >= until:
                    break
        finally:
            record_property("faults", dict(counts))
    finally:
        installation.remove()
    assert not wrong, "\n".join(wrong)
    assert counts["faults"] > 0


def make_template(installation: Installation) -> Path:
    """A data directory with stepquota in it."""
    folder = installation.make_folder("t")
    cluster = Cluster(installation, folder / "data", folder)
    cluster.initialise("--wal-segsize=1")
    cluster.start()
    migrate(cluster.url)
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute("checkpoint")
    cluster.kill()
    return folder / "data"


def _run_world(world: World, deck: list[Injection], until: float, counts: Counter[str]) -> None:
    is_short = SECONDS == 0
    with world:
        try:
            world.wait_for_progress()
            for _ in range(3 if is_short else FAULTS_A_WORLD):
                injection = _deal(deck, world, is_short=is_short)
                injection(world)
                counts["faults"] += 1
                counts[f"fault {injection.__name__}"] += 1
                world.wait_for_progress()
                world.check()
                assert not world.verdict.words, (injection.__name__, world.verdict.words)
                if not is_short:
                    time.sleep(random.uniform(0.2, 1.2))
                    if time.monotonic() >= until:
                        break
            world.drain()
            assert not world.verdict.words, world.verdict.words
        finally:
            counts["acknowledged operations"] += world.noted.operations.total()
            counts["transactions"] += world.noted.transactions
            counts["worlds with no disk to fill"] += not (is_short or world.can_fill)
            for kind in ("lost", "double", "over", "stranded", "drift", "violations"):
                counts[kind] += getattr(world.verdict, kind)


def _deal(deck: list[Injection], world: World, *, is_short: bool) -> Injection:
    if not deck:
        deck += [injection for injection, often in DECK.items() for _ in range(often)]
        random.shuffle(deck)
        if is_short:
            deck[:] = [
                injections.kill_server,
                injections.kill_client,
                injections.terminate_backends,
            ]
    if not world.can_fill:
        deck[:] = [injection for injection in deck if injection is not injections.fill_disk]
    return deck.pop()
