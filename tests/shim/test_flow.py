"""A run's whole life through the shim, each step in a transaction of the runtime's own."""

from __future__ import annotations

import asyncio

import psycopg

import stepquota
import stepquota.aio


def test_a_run_is_paused_resumed_and_finished(database_url: str) -> None:
    with (
        psycopg.connect(database_url) as runtime,
        psycopg.connect(database_url) as operator,
    ):
        with operator.transaction():
            stepquota.set_tier_limit(operator, "trial", 2)
            stepquota.set_tenant_plan(operator, 17, "trial")
        with runtime.transaction():
            run = stepquota.register_workflow_run(runtime, 17, "order-1", "order")
        assert (run.tenant, run.status, run.workflow) == ("17", "RUNNING", "order")

        executed = []
        for number in range(10):
            with runtime.transaction():
                start = stepquota.start_workflow_step(runtime, 17, "order-1", f"root[{number}]")
            if not start.execute:
                break
            executed.append(number)
            with runtime.transaction():
                step = stepquota.finish_workflow_step(
                    runtime, 17, "order-1", f"root[{number}]", 1, "SUCCEEDED"
                )
            assert (step.step_id, step.status) == (start.step_id, "SUCCEEDED")
        assert (executed, start.outcome) == ([0, 1], "quota_paused")
        assert stepquota.claim_workflow_run_resumptions(runtime, "worker") == ()
        runtime.commit()

        pause = stepquota.workflow_run_quota_pause(operator, 17, "order-1")
        assert pause is not None
        assert (pause.used_count, pause.effective_limit, pause.wait_id) == (2, 2, start.wait_id)
        assert pause.node_paths == ("root[2]",)
        operator.commit()
        with operator.transaction():
            quota = stepquota.set_tenant_plan(operator, 17, "pro")
        assert (quota.used_count, quota.effective_limit, quota.tier) == (2, 750, "pro")

        with runtime.transaction():
            (resumption,) = stepquota.claim_workflow_run_resumptions(runtime, "worker")
            assert (resumption.tenant, resumption.run_id) == ("17", "order-1")
            assert resumption.node_paths == ("root[2]",)
            assert stepquota.acknowledge_workflow_run_resumption(
                runtime, 17, resumption.resumption_id
            )
        with runtime.transaction():
            assert not stepquota.acknowledge_workflow_run_resumption(
                runtime, 17, str(resumption.resumption_id)
            )
        with runtime.transaction():
            start = stepquota.start_workflow_step(
                runtime, 17, "order-1", "root[2]", delivery=resumption.delivery
            )
        assert (start.outcome, start.used_count) == ("started", 3)
        with runtime.transaction():
            stepquota.finish_workflow_step(
                runtime,
                17,
                "order-1",
                "root[2]",
                1,
                "FAILED",
                {"code": 5},
                delivery=resumption.delivery,
            )
            run = stepquota.finish_workflow_run(
                runtime, 17, "order-1", "FAILED", {"step": "root[2]"}, resumption.delivery
            )
        assert (run.status, run.error) == ("FAILED", {"step": "root[2]"})
        assert run.ended_at is not None

        report = stepquota.reconcile_workflow_step_usage(operator, 17, quota.period_start)
        assert (report.counter_used_count, report.ledger_step_count, report.drift) == (3, 3, 0)
        assert stepquota.verify_all(operator) == ()


def test_a_run_is_paused_resumed_and_finished_by_asyncio(database_url: str) -> None:
    async def live() -> None:
        async with (
            await psycopg.AsyncConnection.connect(database_url) as runtime,
            await psycopg.AsyncConnection.connect(database_url, autocommit=True) as operator,
        ):
            await stepquota.aio.set_tier_limit(operator, "trial", 1)
            await stepquota.aio.set_tenant_plan(operator, "acme", "trial")
            async with runtime.transaction():
                await stepquota.aio.register_workflow_run(runtime, "acme", "r")
                start = await stepquota.aio.start_workflow_step(runtime, "acme", "r", "root[0]")
                assert start.execute
                await stepquota.aio.finish_workflow_step(
                    runtime, "acme", "r", "root[0]", 1, "SUCCEEDED"
                )
            async with runtime.transaction():
                start = await stepquota.aio.start_workflow_step(runtime, "acme", "r", "root[1]")
            assert start.outcome == "quota_paused"
            await stepquota.aio.set_tier_limit(operator, "trial", 5)
            await stepquota.aio.tick(operator)
            async with runtime.transaction():
                (resumption,) = await stepquota.aio.claim_workflow_run_resumptions(runtime, "w")
            async with runtime.transaction():
                start = await stepquota.aio.start_workflow_step(
                    runtime, "acme", "r", "root[1]", delivery=resumption.delivery
                )
                assert start.outcome == "started"
            async with runtime.transaction():
                await stepquota.aio.finish_workflow_step(
                    runtime, "acme", "r", "root[1]", 1, "SUCCEEDED"
                )
                run = await stepquota.aio.finish_workflow_run(runtime, "acme", "r", "SUCCEEDED")
            assert run.status == "SUCCEEDED"
            assert await stepquota.aio.verify_all(operator) == ()

    asyncio.run(live())
