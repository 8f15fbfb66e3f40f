"""A little workflow runtime on top of stepquota: it carries out a run by replaying its program.

A program is a function that calls the methods of :class:`Run` from its first step to its last. To
go on with a run, whatever interrupted it, the program is called again from its start: a step that
is finished answers with its stored result, counts nothing and does nothing. When a step has to
wait, for quota or for anything else, the program is left by :class:`Parked` and the run is dropped;
a resumption brings it back.

What a step does may be done twice, when its worker dies between doing it and recording it. That it
is counted once is stepquota's part: the path and the attempt are the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import psycopg

from .. import (
    finish_workflow_run,
    finish_workflow_step,
    open_workflow_run_wait,
    start_workflow_step,
)
from ..results import WorkflowStepStart
from .jobs import Job, find_result, set_job_state, store_result

_RETRY_AFTER = "200 milliseconds"


class Parked(Exception):
    """The run has nothing to do now and was parked; a resumption will bring it back."""


class TryAgain(Exception):
    """Raised by a step's work: it failed, and trying again may help."""


class StepFailed(Exception):
    """A step failed on its last try."""


class Run:
    """One run, as its program sees it.

    Args:
        connection: In autocommit mode; its session has taken the job.
        job: The run.
        delivery: The number that came with the claimed resumption; None for a run that was not
            resumed but is new, or was left by a worker that is gone.
        before_step: Called before every step; may raise to leave the run as it is.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        job: Job,
        delivery: int | None = None,
        before_step: Callable[[], None] = lambda: None,
    ):
        self._connection = connection
        self._delivery = delivery
        self._before_step = before_step
        self.job = job

    def carry_out(self, program: Callable[[Run], object]) -> None:
        """Call the program, until it ends or the run is parked."""
        try:
            program(self)
        except Parked:
            return
        except StepFailed as error:
            self._end("FAILED", {"message": str(error)})
        else:
            self._end("SUCCEEDED")

    def step(self, path: str, work: Callable[[int], Any], tries: int = 1) -> Any:
        """A step that does something.

        Args:
            path: The visit: with the iteration of every loop around it.
            work: Does it; is given the number of the try, from 1. Answers what JSON can hold.
            tries: How often it is tried when the work raises TryAgain.

        Returns:
            What the work answered, now or before.
        """
        for attempt in range(1, tries + 1):
            start = self._start(path, attempt, "action")
            if start.step_status == "RETRY_SCHEDULED":
                # Its wait is over, or this run would be parked.
                continue
            if start.outcome == "already_finished":
                return self._answer_again(path, start)
            try:
                output = work(attempt)
            except TryAgain as error:
                self._record_failure(path, attempt, error, is_last=attempt == tries)
            else:
                return self._succeed(path, attempt, output)
        raise StepFailed(f"{path} was tried {tries} times")

    def for_each(self, path: str, items: Sequence[Any], body: Callable[[str, Any], Any]) -> Any:
        """A loop: a step of its own, and the steps of its body for each item.

        Args:
            path: The visit of the loop.
            items: What it goes over; the same in every replay.
            body: The steps for one item; is given the path of its iteration and the item.

        Returns:
            What the bodies answered, as a list.
        """
        start = self._start(path, 1, "forEach")
        if start.outcome == "already_finished":
            return self._answer_again(path, start)
        outputs = [body(f"{path}.body[{index}]", item) for index, item in enumerate(items)]
        return self._succeed(path, 1, outputs)

    def wait_for(self, path: str, wait_type: Literal["event", "human"], question: object) -> Any:
        """A step that waits for an event or a person.

        Args:
            path: The visit.
            wait_type: What it waits for.
            question: What whoever resolves the wait should know.

        Returns:
            What the wait was resolved with.
        """
        start = self._start(path, 1, wait_type)
        if start.outcome == "already_finished":
            return self._answer_again(path, start)
        with self._connection.transaction():
            # Opened again in a replay, it is the same wait, perhaps resolved by now.
            wait = open_workflow_run_wait(
                self._connection, self.job.tenant, self.job.run_id, path, wait_type, None, question
            )
            if wait.status == "WAITING":
                set_job_state(self._connection, self.job, "parked")
        if wait.status == "WAITING":
            raise Parked
        return self._succeed(path, 1, wait.payload)

    def _start(self, path: str, attempt: int, step_type: str) -> WorkflowStepStart:
        self._before_step()
        with self._connection.transaction():
            start = start_workflow_step(
                self._connection,
                self.job.tenant,
                self.job.run_id,
                path,
                attempt,
                step_type,
                self._delivery,
            )
            is_paused = start.outcome in ("quota_paused", "held")
            if is_paused:
                set_job_state(self._connection, self.job, "parked")
        if is_paused:
            raise Parked
        return start

    def _answer_again(self, path: str, start: WorkflowStepStart) -> Any:
        if start.step_status != "SUCCEEDED":
            raise StepFailed(f"{path} ended as {start.step_status}")
        return find_result(self._connection, self.job, path)

    def _succeed(self, path: str, attempt: int, output: Any) -> Any:
        with self._connection.transaction():
            self._finish(path, attempt, "SUCCEEDED")
            store_result(self._connection, self.job, path, output)
        return output

    def _record_failure(self, path: str, attempt: int, error: Exception, *, is_last: bool) -> None:
        details = {"message": str(error)}
        if is_last:
            self._finish(path, attempt, "FAILED", details)
            return
        # Together, so that an attempt that is to be repeated always has its wait.
        with self._connection.transaction():
            self._finish(path, attempt, "RETRY_SCHEDULED", details)
            open_workflow_run_wait(
                self._connection,
                self.job.tenant,
                self.job.run_id,
                path,
                "retry",
                self._read_retry_moment(),
            )
            set_job_state(self._connection, self.job, "parked")
        raise Parked

    def _read_retry_moment(self) -> datetime:
        row = self._connection.execute(
            "select clock_timestamp() + %s::interval", [_RETRY_AFTER]
        ).fetchone()
        assert row is not None
        moment: datetime = row[0]
        return moment

    def _finish(
        self,
        path: str,
        attempt: int,
        status: Literal["SUCCEEDED", "FAILED", "RETRY_SCHEDULED"],
        error: object = None,
    ) -> None:
        finish_workflow_step(
            self._connection,
            self.job.tenant,
            self.job.run_id,
            path,
            attempt,
            status,
            error,
            self._delivery,
        )

    def _end(self, status: Literal["SUCCEEDED", "FAILED"], error: object = None) -> None:
        with self._connection.transaction():
            finish_workflow_run(
                self._connection, self.job.tenant, self.job.run_id, status, error, self._delivery
            )
            set_job_state(self._connection, self.job, "done")
