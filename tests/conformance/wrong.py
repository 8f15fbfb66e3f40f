"""Workers that do one thing wrong, so that the conformance kit can be seen to fail."""

from __future__ import annotations

from typing import Any

import psycopg

import stepquota
from stepquota.testing.reference import LetGo, ReferenceWorker


class CountsNoRetries(ReferenceWorker):
    """Asks for the first attempt each time: the answer is that it has started."""

    def start(self, tenant: str, run_id: str, path: str, step_type: str) -> int | None:
        attempt = self.next_attempt(tenant, run_id, path)
        if attempt is not None and attempt > 1:
            with self.connection.transaction():
                stepquota.start_workflow_step(self.connection, tenant, run_id, path, 1, step_type)
            return attempt
        return super().start(tenant, run_id, path, step_type)

    def finish(self, tenant: str, run_id: str, path: str, attempt: int, status: Any) -> None:
        if status == "RETRY_SCHEDULED":
            return self.note(tenant, run_id, path, attempt, status)
        if attempt > 1:
            stepquota.finish_workflow_step(self.connection, tenant, run_id, path, 1, status)
            return self.note(tenant, run_id, path, attempt, status)
        return super().finish(tenant, run_id, path, attempt, status)

    def note(self, tenant: str, run_id: str, path: str, attempt: int, status: str) -> None:
        self.connection.execute(
            "insert into reference.attempts values (%s, %s, %s, %s, %s)"
            " on conflict (tenant, run_id, node_path, attempt)"
            " do update set status = excluded.status",
            [tenant, run_id, path, attempt, status],
        )


class Polls(ReferenceWorker):
    """Asks again and again for the step of a paused run, in place of waiting to be told."""

    def let_go(self, tenant: str, run_id: str, state: str) -> None:
        super().let_go(tenant, run_id, "ready" if state == "paused" else state)


class LosesResumptions(ReferenceWorker):
    """Says that it has stored a hand-over, and has not."""

    def hand_over(
        self, connection: psycopg.Connection[Any], resumption: stepquota.WorkflowRunResumption
    ) -> None:
        with connection.transaction():
            stepquota.acknowledge_workflow_run_resumption(
                connection, resumption.tenant, resumption.resumption_id
            )


class FailsPausedRuns(ReferenceWorker):
    """Takes a refusal for a failure."""

    def start(self, tenant: str, run_id: str, path: str, step_type: str) -> int | None:
        try:
            return super().start(tenant, run_id, path, step_type)
        except LetGo:
            with self.connection.transaction():
                stepquota.finish_workflow_run(self.connection, tenant, run_id, "FAILED")
                self.connection.execute(
                    "update reference.runs set state = 'failed' where tenant = %s and run_id = %s",
                    [tenant, run_id],
                )
            raise


class CountsAfterwards(ReferenceWorker):
    """Executes the step first and asks then."""

    def start(self, tenant: str, run_id: str, path: str, step_type: str) -> int | None:
        if step_type == "action" and self.next_attempt(tenant, run_id, path) is not None:
            self.connection.execute(
                "insert into conformance.executions (run_id, node_path, attempt, has_failed)"
                " values (%s, %s, 1, false)",
                [run_id, path],
            )
        return super().start(tenant, run_id, path, step_type)
