"""Runs: started, paused, resumed, handed to workers, ended."""

from __future__ import annotations

from typing import Any

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from histories.model import Attempt, Run
from histories.quotas import TENANT, Quotas
from histories.steps import step

RUNS = ["r0", "r1", "r2"]
PATHS = ["a", "b", "c"]
WAITING = "select count(*) from stepquota.workflow_run_waits where status = 'WAITING'"

runs = st.sampled_from(RUNS)
attempts = st.tuples(st.sampled_from(PATHS), st.integers(1, 2))


class Runs(Quotas):
    """Also what runtimes, operators and the scan do with runs."""

    def __init__(self, connection: psycopg.Connection[Any]):
        super().__init__(connection)
        # Run and delivery number of each claim.
        self.claims: list[tuple[str, int]] = []

    @initialize(paused=st.lists(runs, unique=True))
    def begin_with_runs(self, paused: list[str]) -> None:
        """Some have used all there is, and are paused."""
        for run_id in RUNS:
            self.register(run_id)
        for run_id in paused:
            self.reserve_about_all_that_is_left(-2, True)
            for path in ("c", "b", "a"):
                self.start_step(run_id, (path, 1), "action")

    @step(run_id=runs)
    def register(self, run_id: str) -> None:
        run = self.model.runs.setdefault(run_id, Run())
        (answer,) = self.call("register_workflow_run", TENANT, run_id)
        assert answer["status"] == run.status

    def refusal_to_start(
        self, run_id: str, wanted: list[Attempt], delivery: int | None
    ) -> str | None:
        """The SQLSTATE with which a start must end, if any."""
        run = self.model.runs.get(run_id)
        if run is None:
            return "WQ002"
        if delivery is not None and run.newest_delivery(delivery) != delivery:
            return "WQ007"
        if run.has_ended and any(run.attempts.get(a, "STARTED") == "STARTED" for a in wanted):
            return "WQ006"
        return None

    def find_delivery(self, run_id: str, age: int | None) -> int | None:
        """A number that a claim of the run has answered, or none."""
        numbers = [number for claimed, number in reversed(self.claims) if claimed == run_id]
        return numbers[age] if age is not None and age < len(numbers) else None

    @step(
        often=6,
        run_id=runs,
        attempt=attempts,
        step_type=st.sampled_from(["action", "action", "forEach"]),
        age=st.none() | st.integers(0, 1),
    )
    def start_step(
        self, run_id: str, attempt: Attempt, step_type: str, age: int | None = None
    ) -> None:
        delivery = self.find_delivery(run_id, age)
        call = ("start_workflow_step", TENANT, run_id, *attempt, step_type, delivery)
        if self.refused(self.refusal_to_start(run_id, [attempt], delivery), *call):
            return
        run = self.model.runs[run_id]
        (outcome,) = self.model.start(run, [attempt], is_container=step_type == "forEach")
        (answer,) = self.call(*call)
        assert answer["outcome"] == outcome
        if outcome in ("started", "quota_paused", "held"):
            assert answer["allowed"] == (outcome == "started")
            self.check_quota(answer)

    @step(often=2, run_id=runs, wanted=st.lists(attempts, min_size=1, max_size=6))
    def start_steps(self, run_id: str, wanted: list[Attempt]) -> None:
        paths, numbers = [path for path, _ in wanted], [number for _, number in wanted]
        call = ("start_workflow_steps", TENANT, run_id, paths, numbers)
        if self.refused(self.refusal_to_start(run_id, wanted, None), *call):
            return
        outcomes = self.model.start(self.model.runs[run_id], wanted)
        answers = self.call(*call)
        assert [answer["outcome"] for answer in answers] == outcomes
        assert [(answer["node_path"], answer["attempt"]) for answer in answers] == wanted

    @step(
        often=3,
        run_id=runs,
        which=st.integers(0, 5),
        status=st.sampled_from(["SUCCEEDED", "SUCCEEDED", "FAILED", "RETRY_SCHEDULED"]),
    )
    def finish_step(self, run_id: str, which: int, status: str) -> None:
        """Mostly one that was started."""
        run = self.model.runs.get(run_id)
        known = sorted(run.attempts) if run else []
        self.finish(run_id, known[which] if which < len(known) else ("a", 2), status)

    def finish(self, run_id: str, attempt: Attempt, status: str) -> None:
        run = self.model.runs.get(run_id)
        before = run.attempts.get(attempt) if run else None
        error = None
        if run is None:
            error = "WQ002"
        elif before is None:
            error = "WQ008"
        elif before not in ("STARTED", status):
            error = "WQ009"
        elif before == "STARTED" and run.has_ended:
            error = "WQ006"
        call = ("finish_workflow_step", TENANT, run_id, *attempt, status)
        if self.refused(error, *call):
            return
        if run and before == "STARTED":
            run.finish(attempt, status)
        (answer,) = self.call(*call)
        assert answer["status"] == status

    @step(run_id=runs, path=st.sampled_from(PATHS))
    def retry_step(self, run_id: str, path: str) -> None:
        """A step fails and is tried again, as its runtime does."""
        run = self.model.runs.get(run_id)
        if run and not run.has_ended and run.attempts.get((path, 1)) == "STARTED":
            self.finish(run_id, (path, 1), "RETRY_SCHEDULED")
            self.start_step(run_id, (path, 2), "action")

    @step(run_id=runs, status=st.sampled_from(["CANCELED", "SUCCEEDED", "FAILED"]))
    def end_run(self, run_id: str, status: str) -> None:
        call: tuple[str, ...] = ("finish_workflow_run", TENANT, run_id, status)
        if status == "CANCELED":
            call = ("cancel_workflow_run", TENANT, run_id)
        run = self.model.runs.get(run_id)
        error = None
        if run is None:
            error = "WQ002"
        elif run.has_ended and run.status != status:
            error = "WQ006"
        if self.refused(error, *call):
            return
        assert run is not None
        if not run.has_ended:
            run.end(status)
            if status == "CANCELED":
                for attempt, is_at in run.attempts.items():
                    run.attempts[attempt] = status if is_at == "STARTED" else is_at
        (answer,) = self.call(*call)
        assert answer["status"] == status

    # Going on -----------------------------------------------------------------------------------

    @step(often=2, run_id=runs)
    def resume_by_hand(self, run_id: str) -> None:
        run = self.model.runs.get(run_id)
        error = None
        if run is None:
            error = "WQ002"
        elif run.has_ended:
            error = "WQ006"
        elif run.status != "WAITING":
            error = "WQ003"
        elif run.wait is None:
            error = "WQ004"
        elif run.node_path not in run.wait.paths:
            error = "WQ005"
        call = ("resume_workflow_run", TENANT, run_id, "because")
        if self.refused(error, *call):
            return
        assert run is not None
        reason = self.model.resume(run)
        (answer,) = self.call(*call)
        assert (answer["reason"], answer["resumed"]) == (reason, reason == "resumed")
        assert answer["used_count"] == self.model.usage.used

    @step(run_id=runs)
    def hold_run(self, run_id: str) -> None:
        self.set_hold("hold_workflow_run", run_id, True)

    @step(often=2, run_id=runs)
    def release_run(self, run_id: str) -> None:
        self.set_hold("release_workflow_run", run_id, False)

    @step(run_id=runs)
    def be_held_while_quota_comes(self, run_id: str) -> None:
        """A run that may be paused is passed over while it is held, and goes on at its release."""
        self.hold_run(run_id)
        self.change_limit_to_about_what_is_used(2)
        self.release_run(run_id)

    def set_hold(self, function: str, run_id: str, is_held: bool) -> None:
        run = self.model.runs.get(run_id)
        error = None if run else "WQ002"
        if run and run.has_ended:
            error = "WQ006"
        if self.refused(error, function, TENANT, run_id, "because"):
            return
        assert run is not None
        was_held, run.is_held = run.is_held, is_held
        if was_held and not is_held and run.wait:
            self.model.look()
            self.model.resume_all()
        (answer,) = self.call(function, TENANT, run_id, "because")
        assert (answer["held_at"] is not None) == is_held
        assert answer["status"] == run.status

    @step(run_id=runs)
    def ask_why(self, run_id: str) -> None:
        """The reasons that are left of a pause."""
        run = self.model.runs.get(run_id)
        if run:
            if run.wait:
                self.model.look()
            rows = self.call("workflow_run_quota_pause", TENANT, run_id)
            assert [row["reasons"] for row in rows] == [self.model.reasons(run)] * bool(run.wait)

    @step(often=2, when=lambda self: not self.is_in_transaction)
    def scan(self) -> None:
        """After the policy's staleness, a scan resumes whatever can go on."""
        self.pass_time("past staleness")
        if self.is_paused or self.model.queue():
            self.model.look()
            self.model.resume_all()
        self._is_paused = None
        self.value("select histories.at(%s, '')", self.next_moment())
        self.connection.execute("call stepquota.resume_scan()")

    @step(when=lambda self: not self.is_in_transaction)
    def let_all_go_on(self) -> None:
        """Whatever has happened: while there is enough quota, a scan leaves nobody waiting."""
        limit = self.model.tiers[self.model.plan]
        self.lift_limits()
        for which in ("is_held", "is_suspended"):
            self.let_tenant_go(which)
        for run_id, run in self.model.runs.items():
            if run.is_held and not run.has_ended:
                self.release_run(run_id)
        self.scan()
        assert self.value(WAITING) == 0
        self.set_tier_limit(self.model.plan, limit)

    @step(often=4, then=st.sampled_from(["go on", "go on", "acknowledge", "die"]))
    def claim(self, then: str) -> None:
        """A worker takes all there is; enters each path, or says that it will, or dies."""
        paths = self.claim_all()
        if then == "go on":
            for run_id, path in paths:
                tried = [number for at, number in self.model.runs[run_id].attempts if at == path]
                self.start_step(run_id, (path, max(tried, default=0) + 1), "action", age=0)
        elif then == "acknowledge":
            self.connection.execute(
                "select stepquota.acknowledge_workflow_run_resumption(tenant, resumption_id)"
                "  from stepquota.workflow_run_resumptions"
            )
            for run in self.model.runs.values():
                for resumption in run.resumptions:
                    if resumption.status == "OPEN":
                        resumption.status = "ACKNOWLEDGED"

    @step(often=2)
    def come_too_late(self) -> None:
        """A run is resumed for one unit, which others take before it is there."""
        self.change_limit_to_about_what_is_used(1)
        self.reserve_one()
        self.claim("go on")

    @step()
    def come_back_after_the_lease(self) -> None:
        """A worker is so slow that another one has its runs by then; its number opens nothing."""
        paths = self.claim_all()
        self.pass_time("past a lease")
        self.claim_all()
        for run_id, path in paths:
            self.start_step(run_id, (path, 1), "action", age=1)

    def claim_all(self) -> list[tuple[str, str]]:
        """A worker takes all there is; answers which paths it is to enter."""
        model, now, wanted = self.model, self.model.now, {}
        for run_id, run in model.runs.items():
            for resumption in run.resumptions:
                if resumption.is_to_be_claimed(now):
                    wanted[run_id, *resumption.unentered] = resumption
        rows = self.call("claim_workflow_run_resumptions", "worker", 100)
        assert {(row["run_id"], *row["node_paths"]) for row in rows} == wanted.keys()
        assert len(rows) == len(wanted)
        for row in rows:
            wanted[row["run_id"], *row["node_paths"]].deliver(row["delivery"], now)
        self.claims += sorted((row["run_id"], row["delivery"]) for row in rows)
        return [(run_id, path) for run_id, *paths in sorted(wanted) for path in paths]
