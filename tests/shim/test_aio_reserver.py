"""stepquota.aio.Reserver: as the one for threads, for tasks; and what only tasks do."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

import stepquota
from stepquota import WorkflowStepQuota, aio_reserver, batching, execution
from stepquota.aio import Reserver
from stepquota.batching import LINGER

from .reservers import (
    PATIENCE,
    batches,
    blocked,
    calls_on_their_way,
    cut_connections,
    give_limit,
    rows,
    set_everywhere,
    used,
    violations,
)

NUMBERS = itertools.count()

Use = Callable[[Reserver], Awaitable[Any]]


def run(url: str, use: Use, **arguments: Any) -> Any:
    """Use a Reserver in an event loop of its own."""

    async def main() -> Any:
        async with Reserver(url, **arguments) as reserver:
            return await use(reserver)

    async def bounded() -> Any:
        async with asyncio.timeout(60):
            return await main()

    return asyncio.run(bounded())


async def wait_until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 - the server says so, not an event
            await asyncio.sleep(0.01)


async def ask_while_blocked(
    reserver: Reserver, url: str, count: int
) -> list[asyncio.Task[WorkflowStepQuota]]:
    """Have one call on its way, and then so many waiting."""
    tasks = [asyncio.create_task(reserver.reserve("acme"))]
    await wait_until(lambda: calls_on_their_way(url) == 1)
    tasks += [asyncio.create_task(reserver.reserve("acme")) for _ in range(count - 1)]
    await asyncio.sleep(0)
    return tasks


# -- Answers


def test_who_asks_during_a_call_shares_the_next(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        with blocked(database_url):
            tasks = await ask_while_blocked(reserver, database_url, 10)
        answers = await asyncio.gather(*tasks)
        assert [a.allowed for a in answers] == [True] * 7 + [False] * 3
        assert [a.used_count for a in answers] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
        assert [a.remaining for a in answers] == [6, 5, 4, 3, 2, 1, 0, 0, 0, 0]
        assert (await reserver.reserve("globex")).used_count == 1
        assert (await reserver.reserve(42)).used_count == 1

    give_limit(database_url, 7)
    run(database_url, use)
    assert batches(database_url) == [(1, 1, 0), (6, 6, 0), (1, 1, 0), (1, 1, 0)]


def test_tasks_that_ask_at_once_share_the_first_call_too(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        await asyncio.gather(*(reserver.reserve("acme") for _ in range(20)))
        # And again, for those who were answered ask at once.
        await asyncio.gather(*(ask_twice(reserver) for _ in range(20)))
        # For whom the connection was kept.
        assert reserver._pool.get_stats()["requests_num"] == 2

    async def ask_twice(reserver: Reserver) -> None:
        await reserver.reserve("acme")
        await reserver.reserve("acme")

    give_limit(database_url, None)
    run(database_url, use)
    assert batches(database_url) == [(20, 20, 0)] * 3


def test_a_call_is_bounded(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        await asyncio.gather(*(reserver.reserve("acme") for _ in range(10)))

    run(database_url, use, batch_size=4, prepare=True)
    assert batches(database_url) == [(4, 4, 0), (4, 4, 0), (2, 2, 0)]


def test_tenants_do_not_wait_for_each_other(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        with blocked(database_url):
            tasks = await ask_while_blocked(reserver, database_url, 2)
            assert (await reserver.reserve("globex", timeout=PATIENCE)).allowed
        await asyncio.gather(*tasks)

    give_limit(database_url, 5)
    run(database_url, use)


def test_more_tenants_than_connections(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        tenants = [f"t{n % 30}" for n in range(300)]
        await asyncio.gather(*(reserver.reserve(tenant) for tenant in tenants))
        assert rows(
            database_url, "select distinct used_count from stepquota.workflow_step_usage_lanes"
        ) == [10]

    run(database_url, use, connections=2)
    assert batches(database_url) == [(10, 10, 0)] * 30


def test_serializable_is_repeated(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        async with Reserver(database_url) as other:
            for _ in range(20):
                await asyncio.gather(reserver.reserve("acme"), other.reserve("acme"))

    give_limit(database_url, None)
    set_everywhere(database_url, "default_transaction_isolation = serializable")
    run(database_url, use)
    assert used(database_url) == 40


# -- Nobody is waiting any more


def test_a_unit_that_came_too_late_is_given_back(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        with blocked(database_url):
            tasks = await ask_while_blocked(reserver, database_url, 1)
            with pytest.raises(TimeoutError):
                await reserver.reserve("acme", timeout=0.05)
            tasks[0].cancel()
            tasks += [asyncio.create_task(reserver.reserve("acme")) for _ in range(2)]
            await asyncio.sleep(0)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert [a.allowed for a in answers[1:] if isinstance(a, WorkflowStepQuota)] == [True, False]

    give_limit(database_url, 1)
    run(database_url, use)
    assert batches(database_url) == [(1, 0, 1), (1, 1, 0)]
    assert violations(database_url) == []


def test_cancelled_after_the_answer_was_given(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is there, and the task is cancelled before it runs again."""
    hand_out = batching.Batch.hand_out
    to_cancel: list[asyncio.Task[Any]] = []

    def hand_out_and_cancel(batch: Any, answer: Any) -> None:
        hand_out(batch, answer)
        while to_cancel:
            to_cancel.pop().cancel()

    async def use(reserver: Reserver) -> None:
        tasks = [asyncio.create_task(reserver.reserve("acme")) for _ in range(5)]
        to_cancel.extend(tasks[1:3])
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(a, asyncio.CancelledError) for a in answers] == [
            False, True, True, False, False,
        ]  # fmt: skip

    monkeypatch.setattr(batching.Batch, "hand_out", hand_out_and_cancel)
    run(database_url, use)
    assert batches(database_url) == [(5, 3, 2)]
    assert used(database_url) == 3


@pytest.mark.parametrize("limit", [50, 2000])
def test_a_storm_of_cancellations_loses_no_unit(database_url: str, limit: int) -> None:
    chance = random.Random(limit)

    async def use(reserver: Reserver) -> int:
        got = 0

        async def ask() -> None:
            nonlocal got
            for _ in range(40):
                quota = await reserver.reserve("acme")
                got += quota.allowed

        async def ask_impatiently() -> None:
            nonlocal got
            for _ in range(40):
                try:
                    quota = await reserver.reserve("acme", timeout=chance.uniform(0, 0.01))
                    got += quota.allowed
                except TimeoutError:
                    pass

        tasks = [asyncio.create_task(ask()) for _ in range(20)]
        tasks += [asyncio.create_task(ask_impatiently()) for _ in range(20)]
        for task in tasks[:10]:
            await asyncio.sleep(chance.uniform(0, 0.01))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return got

    give_limit(database_url, limit)
    got = run(database_url, use)
    assert 0 < got == used(database_url) <= limit
    assert [b for b in batches(database_url) if b[1] is None] == []
    assert violations(database_url) == []


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    limit=st.integers(0, 12),
    actions=st.lists(st.sampled_from(["ask", "cancel", "wait", "turn"]), max_size=40),
    seed=st.integers(0, 1000),
)
def test_any_history_counts_what_was_received(
    database_url: str, limit: int, actions: list[str], seed: int
) -> None:
    chance = random.Random(seed)
    # A tenant of its own for each history; 0 is one that is used up.
    tenant = f"t{next(NUMBERS)}"
    give_limit(database_url, max(limit, 1), tenant)

    async def use(reserver: Reserver) -> int:
        if limit == 0:
            await reserver.reserve(tenant)
        tasks: list[asyncio.Task[WorkflowStepQuota]] = []
        for action in actions:
            if action == "ask":
                tasks.append(asyncio.create_task(reserver.reserve(tenant)))
            elif action == "cancel" and tasks:
                chance.choice(tasks).cancel()
            elif action == "wait" and tasks:
                await asyncio.wait([chance.choice(tasks)])
            else:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        got = [a.allowed for a in answers if isinstance(a, WorkflowStepQuota)]
        assert sum(got) <= limit
        return sum(got) + (limit == 0)

    got = run(database_url, use)
    assert rows(
        database_url,
        "select sum(used_count)::int from stepquota.workflow_step_usage_lanes"
        f" where tenant = '{tenant}'",
    ) == [got]


# -- Errors


def test_an_error_is_each_ones_own(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        answers = await asyncio.gather(
            *(reserver.reserve("") for _ in range(3)), return_exceptions=True
        )
        assert [type(answer) for answer in answers] == [stepquota.InvalidArgument] * 3
        assert len({id(answer) for answer in answers}) == 3
        with pytest.raises(TypeError, match="tenant must be str, int or UUID"):
            await reserver.reserve(1.5)  # type: ignore[arg-type]
        assert (await reserver.reserve("acme")).allowed

    run(database_url, use)


def test_a_lost_connection_is_replaced(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        with blocked(database_url):
            tasks = await ask_while_blocked(reserver, database_url, 5)
            assert cut_connections(database_url) == 1
            await wait_until(lambda: calls_on_their_way(database_url) == 1)
        assert [a.used_count for a in await asyncio.gather(*tasks)] == [1, 2, 3, 4, 5]
        assert cut_connections(database_url) >= 1
        assert (await reserver.reserve("acme")).used_count == 6

    give_limit(database_url, 100)
    run(database_url, use)


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_what_was_committed_before_the_loss_is_not_taken_twice(
    database_url: str, monkeypatch: pytest.MonkeyPatch, losses: int
) -> None:
    left = losses

    async def lose(connection: psycopg.AsyncConnection[Any], *arguments: Any) -> Any:
        nonlocal left
        answer = await execution.carry_out_async(connection, *arguments)
        left -= 1
        if left >= 0:
            await connection.close()
            raise psycopg.OperationalError("the connection is lost")
        return answer

    async def use(reserver: Reserver) -> None:
        try:
            assert (await reserver.reserve("acme")).used_count == 1
        except stepquota.ReservationLost:
            assert losses == 3
        else:
            assert losses < 3
        assert (await reserver.reserve("acme")).used_count == (2 if losses < 3 else 1)

    monkeypatch.setattr(aio_reserver, "carry_out_async", lose)
    run(database_url, use)
    first = (1, 1, 0) if losses < 3 else (1, 0, 1)
    assert batches(database_url) == [first, (1, 1, 0)]


def test_an_error_that_nobody_thought_of_reaches_who_waits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise RuntimeError("something else")

    async def use(reserver: Reserver) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(aio_reserver, "carry_out_async", fail)
            for _ in range(6):
                with pytest.raises(RuntimeError, match="something else"):
                    await reserver.reserve("acme", timeout=PATIENCE)
        assert (await reserver.reserve("acme", timeout=PATIENCE)).used_count == 1

    run(database_url, use)


def test_no_connection_at_all() -> None:
    async def check() -> None:
        async with (
            AsyncConnectionPool(
                "host=/nowhere", min_size=0, max_size=1, timeout=0.2, open=False
            ) as pool,
            Reserver(pool) as reserver,
        ):
            with pytest.raises(PoolTimeout):
                await reserver.reserve("acme")
            with pytest.raises(TimeoutError):
                await reserver.reserve("acme", timeout=0.05)

    asyncio.run(check())


# -- Opening and closing


def test_the_last_batch_is_closed_after_a_while(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        await reserver.reserve("acme")
        assert batches(database_url) == [(1, None, None)]
        await asyncio.sleep(LINGER)
        await wait_until(lambda: batches(database_url) == [(1, 1, 0)])
        await wait_until(lambda: not reserver._lines._by_tenant and not reserver._workers)

    run(database_url, use)


def test_closing_serves_who_waits(database_url: str) -> None:
    async def use(reserver: Reserver) -> None:
        with blocked(database_url):
            tasks = await ask_while_blocked(reserver, database_url, 8)
            closing = asyncio.create_task(reserver.close())
            await asyncio.sleep(0)
            with pytest.raises(stepquota.ReserverClosed):
                await reserver.reserve("acme")
        assert [a.used_count for a in await asyncio.gather(*tasks)] == list(range(1, 9))
        await closing
        assert batches(database_url) == [(1, 1, 0), (3, 3, 0), (3, 3, 0), (1, 1, 0)]
        await reserver.close()
        with pytest.raises(stepquota.ReserverClosed, match="is closed"):
            await reserver.reserve("acme")

    give_limit(database_url, 100)
    run(database_url, use, connections=2, batch_size=3)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pool_stays_the_callers(database_url: str, autocommit: bool) -> None:
    async def check() -> None:
        async with AsyncConnectionPool(
            database_url, min_size=1, max_size=1, kwargs={"autocommit": autocommit}, open=False
        ) as pool:
            async with Reserver(pool, connections=3) as reserver:
                assert (await reserver.reserve("acme")).used_count == 1
                assert used(database_url) == 1
            async with pool.connection(timeout=PATIENCE) as connection:
                assert connection.autocommit is autocommit
                await connection.execute("select 1")

    asyncio.run(check())


def test_a_loop_that_ends_without_closing_does_not_hang(database_url: str) -> None:
    async def check() -> Reserver:
        reserver = Reserver(database_url)
        await reserver.reserve("acme")
        with blocked(database_url):
            waiting = asyncio.create_task(reserver.reserve("acme"))
            await wait_until(lambda: calls_on_their_way(database_url) == 1)
            assert not waiting.done()
        # The loop ends while the answer is on its way.
        return reserver

    reserver = asyncio.run(check())
    # At most the batch on its way is unknown, and it is open.
    assert used(database_url) - 1 <= sum(granted for granted, *_ in batches(database_url)[1:])

    async def elsewhere() -> None:
        with pytest.raises(stepquota.ReserverClosed, match="another event loop"):
            await reserver.reserve("acme")

    asyncio.run(elsewhere())


def test_what_cannot_be_a_source(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"conninfo str or a psycopg_pool\.AsyncConnectionPool"):
        Reserver(ConnectionPool(database_url, open=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="connections must be"):
        Reserver(database_url, connections=0)
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(ImportError, match=r"pip install 'stepquota\[reserver\]'"):
        Reserver("")
