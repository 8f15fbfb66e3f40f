"""The demo from its start to its end: the server, the story, and the check of every figure."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from .. import verify_all, workflow_run_quota_pause
from ..migrate import migrate
from ..server import LocalServer
from . import story
from .catalogue import TENANTS
from .crew import Crew
from .display import Display
from .figures import PeriodTotals, TenantFigures, read_tenants, read_totals
from .shop import Shop
from .stage import Stage
from .workflow import STEPS_A_RUN

# What to type into psql on a fresh installation.
STATEMENTS = (
    "select * from stepquota.register_workflow_run('acme', 'run-1');",
    "select outcome, used_count, effective_limit",
    "  from stepquota.start_workflow_step('acme', 'run-1', 'root.steps[0]');",
    "select reason from stepquota.explain_workflow_step_quota('acme');",
)

_NAMES = [tenant.name for tenant in TENANTS]


def run_on_own_server(console: Console | None = None) -> int:
    """See ``stepquota.demo.run``."""
    # Without a terminal there are no colours either, whatever the environment asks for.
    with Display(console or Console(force_terminal=sys.stdout.isatty())) as display:
        display.say(
            "stepquota counts the steps of workflows inside PostgreSQL. When a tenant has used up "
            "its limit, its runs pause; when there is quota again, they go on."
        )
        with _told_when_interrupted(display), LocalServer() as server:
            folder = server.folder
            done = migrate(server.url())
            display.say(
                f"A PostgreSQL {done.server_version} was started in {folder}, for this demo "
                "alone, and stepquota was installed in it."
            )
            status = perform(server.url(), display)
        display.say(f"All processes have ended, and {folder} is gone.")
        if status == 0:
            _say_what_next(display)
    return status


def perform(database_url: str, display: Display) -> int:
    """Show the demo in a database in which stepquota has just been installed.

    Args:
        database_url: The database; its user owns the installation and can take stepquota's roles.
        display: Where it is shown.

    Returns:
        The exit status.

    Raises:
        Problem: The demo could not go on.
    """
    with (
        Shop() as shop,
        Crew(database_url) as crew,
        Stage(database_url, crew, shop, display) as stage,
    ):
        try:
            story.set_up(stage)
            story.begin(stage)
            story.approve(stage)
            story.lose_a_worker(stage)
            story.run_dry(stage)
            story.upgrade(stage)
            story.resume_by_hand(stage)
            story.change_plan(stage)
        finally:
            display.end_live()
        crew.end()
        return _check_books(stage)


def find_mistakes(totals: Iterable[PeriodTotals], tenants: Iterable[TenantFigures]) -> list[str]:
    """What the figures at the end should not be, in words; empty when all is well."""
    mistakes = [
        f"{period.tenant}: the counter says {period.used} and the ledger {period.ledger}"
        for period in totals
        if period.drift != 0
    ]
    for figures in tenants:
        if figures.tenant == story.INITECH.name:
            if not figures.is_stuck:
                mistakes.append(
                    f"{figures.tenant}: used {figures.used} of {figures.step_limit}, "
                    f"{figures.done} of {figures.runs} runs done, {figures.paused} paused"
                )
        elif not figures.is_done:
            mistakes.append(f"{figures.tenant}: {figures.done} of {figures.runs} runs are done")
        elif figures.used != figures.done * STEPS_A_RUN:
            mistakes.append(
                f"{figures.tenant}: {figures.done} runs of {STEPS_A_RUN} steps "
                f"were counted as {figures.used}"
            )
    return mistakes


@contextmanager
def _told_when_interrupted(display: Display) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        display.end_live()
        display.say("Interrupted. All processes have ended, and their folder is gone.")
        raise


def _check_books(stage: Stage) -> int:
    display = stage.display
    display.chapter("The books: what the counter says, and what the ledger has")
    tenants = read_tenants(stage.observer, _NAMES)
    totals = read_totals(stage.observer, _NAMES)
    display.totals(totals, tenants)
    mistakes = [
        f"{violation.invariant}, {violation.tenant}, {violation.object}: {violation.detail}"
        for violation in verify_all(stage.observer)
    ]
    mistakes += find_mistakes(totals, tenants)
    if stage.lost and (steps := stage.count_steps(stage.lost)) != STEPS_A_RUN:
        mistakes.append(f"{stage.lost.run_id}, whose worker was killed, was counted as {steps}")
    for mistake in mistakes:
        display.say(f"WRONG: {mistake}", "bold red")
    if mistakes:
        return 1
    display.say(
        f"The drift is 0 everywhere, and every run that is done was counted as {STEPS_A_RUN} "
        "steps, the one whose worker was killed too. verify_all() found nothing wrong.",
        "green",
    )
    display.say(
        f"In the ledger: {stage.count_steps_by('status', 'RETRY_SCHEDULED')} payments that failed "
        f"and were tried again, {stage.count_steps_by('step_type', 'human')} approvals, "
        f"{stage.count_steps_by('step_type', 'event')} events waited for."
    )
    _say_what_waits(stage)
    return 0


def _say_what_waits(stage: Stage) -> None:
    name = story.INITECH.name
    pause = workflow_run_quota_pause(stage.observer, name, stage.find_paused_run(name))
    assert pause is not None
    count = stage.count_open_waits("quota")
    latest = f", at the latest on {pause.unblocks_at:%Y-%m-%d}" if pause.unblocks_at else ""
    stage.display.say(
        f"{count} runs of {name} stay paused. They go on by themselves with {pause.unblocked_by}"
        f"{latest}."
    )


def _say_what_next(display: Display) -> None:
    display.chapter("Try it yourself")
    display.show([f"{_command()} up"])
    display.say(
        "starts a PostgreSQL like this one, which stays, and prints the psql line for it. There:"
    )
    display.show(STATEMENTS)


def _command() -> str:
    """How the command is typed here."""
    if shutil.which("stepquota"):
        return "stepquota"
    path = Path(sys.executable).with_name("stepquota")
    shown = os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    return shlex.quote(shown)
