"""What happens in the demo, part by part, each a function of the stage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import count, zip_longest

from .. import (
    register_workflow_run,
    resolve_workflow_step_quota,
    resume_workflow_run,
    set_policy,
)
from ..problems import Problem
from . import catalogue
from .catalogue import TENANTS
from .jobs import RUNTIME, Job, add_jobs, make_tables
from .stage import Stage
from .ticker import EVERY_SECONDS
from .workflow import STEPS_A_RUN

WORKERS = 3
WORKFLOW = "fulfil_order"
LARGER_PLAN = "pro"

# How long the scan may take to notice what was edited by hand; 30 seconds by default.
STALENESS = "1 second"

ACME, GLOBEX, INITECH = (
    next(tenant for tenant in TENANTS if tenant.name == name)
    for name in ("acme", "globex", "initech")
)
RUNNING_DRY = (ACME, GLOBEX, INITECH)


def set_up(stage: Stage) -> None:
    """The tenants and the catalogue, and what each tenant's quota comes to."""
    stage.display.chapter("Five tenants, and where each one's limit comes from")
    with stage.owner.transaction():
        make_tables(stage.owner)
        catalogue.add_tenants(stage.owner)
    objects = catalogue.fill(stage.shop.stripe)
    stage.display.say(
        f"A Stripe account of {objects} objects is served at {stage.shop.address}. It lives in "
        "memory, but answers as Stripe's API does."
    )
    sync = stage.crew.start("sync", "sync", port=str(stage.shop.port), **stage.shop.environment)
    stage.until_so("the sync to read everything from Stripe", stage.is_mirror_filled)
    stage.until_so("the endpoint for webhooks", stage.shop.is_endpoint_ready)
    stage.shop.begin_webhooks()
    stage.display.say(
        f'Process {sync} runs "stepquota stripe run". It has read all of them, and waits for '
        "webhooks."
    )
    for tenant in TENANTS:
        step_limit = resolve_workflow_step_quota(stage.observer, tenant.name).effective_limit
        limit = "no limit" if step_limit is None else f"{step_limit} steps a period"
        stage.display.say(f"{tenant.name}: {limit} ({tenant.about}).")
    for event in stage.new_events():
        if event.event_type == "limit_metadata_invalid":
            stage.display.say(
                f'{event.tenant}: the value "{event.details["value"]}" of '
                f"{event.details['object_type']} {event.details['object_id']} was reported once, "
                "as an event, and the plan's limit is used instead.",
                "yellow",
            )
    stage.let_read()


def begin(stage: Stage) -> None:
    """The runs, and the processes that work on them."""
    stage.display.chapter("Orders come in")
    set_policy(stage.operator, "staleness", STALENESS)
    jobs = list(_in_turns())
    with stage.owner.transaction():
        for job in jobs:
            register_workflow_run(stage.owner, job.tenant, job.run_id, WORKFLOW, RUNTIME)
        add_jobs(stage.owner, jobs)
    stage.display.say(
        f"{len(jobs)} runs of a small workflow are registered, each of {STEPS_A_RUN} steps: a loop "
        "over 3 items, a payment that fails once and is tried again, a person's approval, an "
        "event. Every try of a step counts as 1 when it starts."
    )
    pids = [stage.crew.start(_worker(number), "worker") for number in range(1, WORKERS + 1)]
    ticker = stage.crew.start("ticker", "ticker")
    stage.display.say(
        f"{WORKERS} worker processes ({', '.join(map(str, pids))}) begin. Process {ticker} calls "
        f"stepquota.tick() every {EVERY_SECONDS} s, as pg_cron does on a server that has it."
    )


def approve(stage: Stage) -> None:
    """Runs wait for a person; from then on people and events answer at once."""
    figures = stage.until(
        "runs that wait for a person", lambda figures: stage.count_open_waits("human") >= WORKERS
    )
    waiting = sum(tenant.waiting for tenant in figures.values())
    stage.display.say(
        f"{waiting} runs wait, for a person or for the second try of the payment. Nothing is "
        "counted while they wait. From now on Ada approves every order at once, and every parcel "
        "is shipped."
    )
    stage.waits_are_answered = True


def lose_a_worker(stage: Stage) -> None:
    """One worker is killed in the middle of a run, and another goes on with the run."""
    name, job = _kill_at_work(stage)
    stage.lost = job
    stage.display.say(
        f"{name} is killed (kill -9) in the middle of run {job.run_id} of {job.tenant}.", "yellow"
    )
    stage.until(
        "another worker that takes the run over", lambda _figures: stage.find_worker(job) != name
    )
    stage.display.say(
        f"{stage.find_worker(job)} has taken the run over and replays it. Steps that were counted "
        "are not counted again."
    )


def run_dry(stage: Stage) -> None:
    """Three tenants use up their quotas, and their runs pause."""
    stage.display.chapter("Quotas are used up")
    running = {tenant.name for tenant in RUNNING_DRY}
    while running:
        figures = stage.until(
            f"the quota of {' and '.join(sorted(running))} to be used up",
            lambda figures: any(figures[name].is_stuck for name in running),
        )
        for name in sorted(running):
            tenant = figures[name]
            if tenant.is_stuck:
                running.discard(name)
                stage.display.say(
                    f"{name} has used {tenant.used} of {tenant.step_limit} steps: {tenant.paused} "
                    f"runs are paused where they stand, {tenant.done} are done, none has failed.",
                    "red",
                )
    stage.display.snapshot(list(stage.figures().values()))
    stage.let_read()


def upgrade(stage: Stage) -> None:
    """A tenant changes to a larger price in Stripe and goes on at once."""
    stage.display.chapter(f"{GLOBEX.name} buys a larger plan in Stripe")
    before = stage.figures()[GLOBEX.name]
    changed_at = stage.read_clock()
    catalogue.sell_larger_price(stage.shop.stripe, GLOBEX)
    webhooks = stage.shop.deliver()
    stage.until_so(
        f"the sync to resume runs of {GLOBEX.name}",
        lambda: stage.count_resumed(GLOBEX.name, "stripe") > 0,
    )
    resumed = stage.count_resumed(GLOBEX.name, "stripe")
    resumed_at = stage.find_first_resumption(GLOBEX.name, changed_at)
    stage.display.say(
        f"{webhooks} signed webhooks told the sync that something had changed. It asked for it, "
        f"and wrote a price with workflow_step_limit {catalogue.LARGER_PRICE_LIMIT}. The same "
        f"transaction resumed {resumed} of the {before.paused} paused runs, "
        f"{_milliseconds(changed_at, resumed_at)} ms after the change.",
        "green",
    )
    stage.until(
        f"the first step of {GLOBEX.name} after the upgrade",
        lambda _figures: stage.find_first_start(GLOBEX.name, changed_at) is not None,
    )
    first_start = stage.find_first_start(GLOBEX.name, changed_at)
    assert first_start is not None
    stage.display.say(
        f"The first of them started its next step {_milliseconds(changed_at, first_start)} ms "
        "after the change in Stripe.",
        "green",
    )
    figures = stage.until(
        f"all runs of {GLOBEX.name} to be done", lambda figures: figures[GLOBEX.name].is_done
    )
    stage.display.say(
        f"All {figures[GLOBEX.name].done} runs of {GLOBEX.name} are done, with "
        f"{figures[GLOBEX.name].used} steps used."
    )
    stage.let_read()


def resume_by_hand(stage: Stage) -> None:
    """An operator tries to resume a run of a tenant that has nothing left."""
    stage.display.chapter(f"An operator tries to push a run of {INITECH.name}")
    run_id = stage.find_paused_run(INITECH.name)
    stage.display.show(
        [
            "select resumed, reason, used_count, effective_limit, limit_source",
            f"  from stepquota.resume_workflow_run('{INITECH.name}', '{run_id}', 'urgent')",
        ]
    )
    answer = resume_workflow_run(stage.operator, INITECH.name, run_id, "urgent")
    stage.display.show(
        [
            f"-> {str(answer.resumed).lower()}, {answer.reason}, {answer.used_count}, "
            f"{answer.effective_limit}, {answer.limit_source}"
        ]
    )
    if answer.resumed:
        raise Problem(f"a run of {INITECH.name} was resumed although its quota is used up")
    stage.display.say(
        f"Refused, and told why: {answer.used_count} of {answer.effective_limit} steps are used "
        f"until {answer.period_end:%Y-%m-%d}, and resuming never goes past the quota.",
        "red",
    )
    stage.let_read()


def change_plan(stage: Stage) -> None:
    """Somebody changes a plan in plain SQL; the ticker notices."""
    stage.display.chapter(f"{ACME.name} gets another plan, in plain SQL")
    statement = f"update stepquota.tenants set plan = '{LARGER_PLAN}' where tenant = '{ACME.name}'"
    before = stage.figures()[ACME.name]
    stage.display.show([statement])
    changed_at = stage.read_clock()
    stage.owner.execute(statement.encode())
    stage.display.say(
        "Nothing of stepquota was called. The scan in tick() looks for edits like this one, here "
        f"every {STALENESS.removeprefix('1 ')}."
    )
    stage.until(
        f"the scan to resume a run of {ACME.name}",
        lambda _figures: stage.count_resumed(ACME.name, "scan") > 0,
    )
    first_resumed = stage.find_first_resumption(ACME.name, changed_at)
    stage.display.say(
        f"The scan found it {_milliseconds(changed_at, first_resumed)} ms later and resumed "
        f"{stage.count_resumed(ACME.name, 'scan')} of the {before.paused} paused runs.",
        "green",
    )
    stage.until(
        "the other tenants' runs to be done",
        lambda figures: all(
            figures[tenant.name].is_done for tenant in TENANTS if tenant is not INITECH
        ),
    )
    stage.until(f"{INITECH.name} to stand still", lambda figures: figures[INITECH.name].is_stuck)
    done = stage.figures()[ACME.name]
    stage.display.say(
        f"All {done.done} runs of {ACME.name} are done, with {done.used} of {done.step_limit} "
        "steps used."
    )


def _in_turns() -> Iterator[Job]:
    # One run of each tenant after the other, so that all are under way from the start.
    names = [
        [Job(tenant.name, f"order-{number}") for number in range(1, tenant.runs + 1)]
        for tenant in TENANTS
    ]
    for turn in zip_longest(*names):
        yield from (job for job in turn if job)


def _worker(number: int) -> str:
    return f"worker-{number}"


def _kill_at_work(stage: Stage) -> tuple[str, Job]:
    for number in count(WORKERS):
        name = _worker(number)
        job = _kill_when_at_work(stage, name)
        stage.crew.start(_worker(number + 1), "worker")
        if job:
            return name, job
        stage.display.say(f"{name} is killed (kill -9); {_worker(number + 1)} takes its place.")
    raise AssertionError("unreachable")


def _kill_when_at_work(stage: Stage, name: str) -> Job | None:
    """Kill a worker that has work; answers what it left, if it had not just ended it."""
    stage.until(f"{name} to have work", lambda _figures: _work_of(stage, name) is not None)
    stage.crew.kill(name)
    # What it has sent is still carried out.
    stage.until(f"the session of {name} to end", lambda _figures: not stage.is_connected(name))
    return _work_of(stage, name)


def _work_of(stage: Stage, name: str) -> Job | None:
    # Not one of a tenant whose runs will not all end.
    job = stage.find_job(name)
    return job if job and job.tenant != INITECH.name else None


def _milliseconds(start: datetime, end: datetime) -> str:
    return f"{(end - start).total_seconds() * 1000:.0f}"
