"""stepquota.Reserver: threads that ask at once share a call, and get what they would get alone."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

import stepquota
from stepquota import Reserver, WorkflowStepQuota, batching, execution
from stepquota import reserver as module
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
    wait_for_closing,
    wait_until,
)


class Threads:
    """Threads that each ask for one unit of acme."""

    def __init__(self, reserver: Reserver):
        self._reserver = reserver
        self._executor = ThreadPoolExecutor(100)
        self._futures: list[Any] = []

    def ask(self, count: int, **arguments: Any) -> None:
        """Ask one after the other, without waiting for the answers."""
        line = self._reserver._lines.get("acme")
        for _ in range(count):
            asked = len(line.waiting)
            self._futures.append(self._executor.submit(self._reserver.reserve, "acme", **arguments))
            if self._futures[1:]:
                wait_until(partial(lambda asked: len(line.waiting) > asked, asked))
            else:
                wait_until(lambda: line.is_busy)

    def answers(self) -> list[WorkflowStepQuota]:
        """The answers, in the order of the questions."""
        return [future.result(PATIENCE) for future in self._futures]

    def errors(self) -> list[BaseException | None]:
        """The errors instead of the answers."""
        return [future.exception(PATIENCE) for future in self._futures]


@pytest.fixture
def reserver(database_url: str) -> Iterator[Reserver]:
    with Reserver(database_url) as reserver:
        yield reserver


@pytest.fixture
def threads(reserver: Reserver) -> Iterator[Threads]:
    threads = Threads(reserver)
    yield threads
    threads._executor.shutdown()


def ask_while_blocked(threads: Threads, url: str, count: int) -> None:
    """Have one call on its way, and then so many waiting."""
    threads.ask(1)
    wait_until(lambda: calls_on_their_way(url) == 1)
    threads.ask(count - 1)


# -- Answers


def test_an_answer_is_that_of_a_single_call(database_url: str, reserver: Reserver) -> None:
    give_limit(database_url, 3)
    first = reserver.reserve("acme")
    with psycopg.connect(database_url, autocommit=True) as connection:
        single = stepquota.reserve_workflow_step(connection, "acme")
    assert (first.allowed, first.used_count, first.remaining) == (True, 1, 2)
    assert dataclasses.replace(first, used_count=2, remaining=1) == single
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.used_count = 5  # type: ignore[misc]
    assert type(first) is WorkflowStepQuota
    third, fourth = reserver.reserve("acme"), reserver.reserve("acme")
    assert (third.allowed, third.used_count, third.remaining) == (True, 3, 0)
    assert (fourth.allowed, fourth.used_count, fourth.remaining) == (False, 3, 0)


def test_who_asks_during_a_call_shares_the_next(database_url: str, threads: Threads) -> None:
    give_limit(database_url, 7)
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 10)
    answers = threads.answers()
    assert [a.allowed for a in answers] == [True] * 7 + [False] * 3
    assert [a.used_count for a in answers] == [1, 2, 3, 4, 5, 6, 7, 7, 7, 7]
    assert [a.remaining for a in answers] == [6, 5, 4, 3, 2, 1, 0, 0, 0, 0]
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 1, 0), (6, 6, 0)]
    assert used(database_url) == 7


def test_a_denial_leaves_no_row(database_url: str, reserver: Reserver) -> None:
    give_limit(database_url, 1)
    assert [reserver.reserve("acme").allowed for _ in range(3)] == [True, False, False]
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 1, 0)]


def test_without_a_limit(database_url: str, reserver: Reserver) -> None:
    give_limit(database_url, None)
    answer = reserver.reserve("acme")
    assert (answer.allowed, answer.used_count, answer.remaining) == (True, 1, None)


def test_a_call_is_bounded(database_url: str) -> None:
    give_limit(database_url, 100)
    with Reserver(database_url, batch_size=4) as reserver:
        threads = Threads(reserver)
        with blocked(database_url):
            ask_while_blocked(threads, database_url, 11)
        assert [a.used_count for a in threads.answers()] == list(range(1, 12))
    assert batches(database_url) == [(1, 1, 0), (4, 4, 0), (4, 4, 0), (2, 2, 0)]


def test_tenants_do_not_wait_for_each_other(
    database_url: str, reserver: Reserver, threads: Threads
) -> None:
    give_limit(database_url, 5)
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 2)
        assert reserver.reserve("globex", timeout=PATIENCE).allowed
        assert reserver.reserve(42, timeout=PATIENCE).allowed
    assert len(threads.answers()) == 2


def test_prepared_statements(database_url: str) -> None:
    with Reserver(database_url, prepare=True, connections=1) as reserver:
        assert [reserver.reserve("acme").used_count for _ in range(10)] == list(range(1, 11))


def test_serializable_is_repeated(database_url: str) -> None:
    set_everywhere(database_url, "default_transaction_isolation = serializable")
    give_limit(database_url, 300)

    def work(reserver: Reserver) -> int:
        return sum(reserver.reserve("acme").allowed for _ in range(50))

    with (
        Reserver(database_url) as one,
        Reserver(database_url) as other,
        ThreadPoolExecutor(8) as executor,
    ):
        granted = sum(executor.map(work, [one, other] * 4))
    assert granted == used(database_url) == 300


# -- Nobody is waiting any more


def test_a_unit_that_came_too_late_is_given_back(database_url: str, threads: Threads) -> None:
    give_limit(database_url, 5)
    with blocked(database_url):
        threads.ask(1, timeout=0.2)
        wait_until(lambda: calls_on_their_way(database_url) == 1)
        (error,) = threads.errors()
        assert isinstance(error, TimeoutError)
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 0, 1)]
    assert used(database_url) == 0
    assert violations(database_url) == []


def test_it_can_be_had_by_the_next(database_url: str, threads: Threads) -> None:
    give_limit(database_url, 1)
    with blocked(database_url):
        threads.ask(1, timeout=0.2)
        wait_until(lambda: calls_on_their_way(database_url) == 1)
        threads.ask(2)
        assert isinstance(threads._futures.pop(0).exception(PATIENCE), TimeoutError)
    assert [a.allowed for a in threads.answers()] == [True, False]
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 0, 1), (1, 1, 0)]


def test_who_gave_up_before_the_call_is_not_part_of_it(database_url: str, threads: Threads) -> None:
    give_limit(database_url, 5)
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 1)
        threads.ask(2, timeout=0.1)
        gone = [threads._futures.pop() for _ in range(2)]
        assert [type(f.exception(PATIENCE)) for f in gone] == [TimeoutError] * 2
    assert len(threads.answers()) == 1
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 1, 0)]


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_at_all(reserver: Reserver, timeout: float) -> None:
    with pytest.raises(TimeoutError):
        reserver.reserve("acme", timeout=timeout)


def test_an_interrupt_gives_up(database_url: str, reserver: Reserver) -> None:
    give_limit(database_url, 5)

    def interrupt() -> None:
        wait_until(lambda: calls_on_their_way(database_url) == 1)
        os.kill(os.getpid(), signal.SIGINT)

    # A shell that starts the tests in the background has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with blocked(database_url):
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                reserver.reserve("acme")
            thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert reserver.reserve("acme").used_count == 1
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 0, 1), (1, 1, 0)]


def test_an_interrupt_right_after_the_answer_takes_it_back(
    database_url: str, reserver: Reserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = module._Waiter.wait

    def interrupted(waiter: module._Waiter, timeout: float | None) -> bool:
        wait(waiter, timeout)
        raise KeyboardInterrupt

    give_limit(database_url, 5)
    with monkeypatch.context() as patch:
        patch.setattr(module._Waiter, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reserver.reserve("acme")
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 0, 1)]
    # As late as can be: its batch is closed. The next one of the period gives the unit back.
    late = reserver.reserve("acme")
    wait_for_closing(database_url)
    with reserver._lock:
        reserver._lines.get("acme").take_back(late)
    assert reserver.reserve("acme").used_count == 2
    wait_for_closing(database_url)
    assert used(database_url) == 1


def test_threads_that_give_up_at_random_lose_no_unit(database_url: str) -> None:
    give_limit(database_url, 400)

    def work(seed: int) -> int:
        chance = random.Random(seed)
        got = 0
        for _ in range(60):
            timeout = None if seed % 4 == 0 else chance.uniform(0, 0.004)
            with contextlib.suppress(TimeoutError):
                got += shared.reserve("acme", timeout=timeout).allowed
        return got

    with Reserver(database_url) as shared, ThreadPoolExecutor(16) as executor:
        got = sum(executor.map(work, range(16)))
    assert 0 < got == used(database_url) <= 400
    assert [b for b in batches(database_url) if b[1] is None] == []
    assert violations(database_url) == []


# -- Errors


def test_an_error_is_each_ones_own(database_url: str, reserver: Reserver, threads: Threads) -> None:
    give_limit(database_url, 5)
    set_everywhere(database_url, "lock_timeout = '1s'")
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 3)
        errors = threads.errors()
    assert [type(error) for error in errors] == [psycopg.errors.LockNotAvailable] * 3
    assert len({id(error) for error in errors}) == 3
    assert all(error and error.__cause__ for error in errors)
    assert used(database_url) == 0
    assert reserver.reserve("acme").used_count == 1


def test_a_tenant_that_cannot_be_one(reserver: Reserver) -> None:
    for tenant in ("", None, "x" * 256):
        with pytest.raises(stepquota.InvalidArgument, match="p_tenant must be") as caught:
            reserver.reserve(tenant)  # type: ignore[arg-type]
        assert caught.value.sqlstate == "WQ001"
    with pytest.raises(TypeError, match="tenant must be str, int or UUID"):
        reserver.reserve(1.5)  # type: ignore[arg-type]
    assert reserver.reserve("acme").allowed


def test_an_error_that_nobody_thought_of_reaches_who_waits(
    reserver: Reserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("something else")

    with monkeypatch.context() as patch:
        patch.setattr(module, "carry_out", fail)
        for _ in range(6):
            with pytest.raises(RuntimeError, match="something else"):
                reserver.reserve("acme", timeout=PATIENCE)
    assert reserver.reserve("acme", timeout=PATIENCE).used_count == 1


def test_no_worker_ends_by_an_error(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        time.sleep(0.01)
        raise RuntimeError("something else")

    with Reserver(database_url, connections=1) as reserver:
        with monkeypatch.context() as patch:
            patch.setattr(batching.Lines, "take_closing", fail)
            reserver._ready.put(None)
            wait_until(lambda: caplog.records)
        assert reserver.reserve("acme", timeout=PATIENCE).used_count == 1
    assert "goes on after an error" in caplog.text


def test_a_lost_connection_is_replaced(
    database_url: str, reserver: Reserver, threads: Threads
) -> None:
    give_limit(database_url, 100)
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 5)
        assert cut_connections(database_url) == 1
        wait_until(lambda: calls_on_their_way(database_url) == 1)
    assert [a.used_count for a in threads.answers()] == [1, 2, 3, 4, 5]
    assert cut_connections(database_url) >= 1
    assert reserver.reserve("acme").used_count == 6


def lose_answers(monkeypatch: pytest.MonkeyPatch, count: int, and_then_fail: bool = False) -> None:
    """The next calls are committed, but the connection is lost before the answer."""
    carry_out = execution.carry_out
    left = [count]

    def lose(connection: psycopg.Connection[Any], *arguments: Any) -> Any:
        left[0] -= 1
        is_lost = left[0] >= 0
        answer = None if and_then_fail and not is_lost else carry_out(connection, *arguments)
        if is_lost or and_then_fail:
            connection.close()
            raise psycopg.OperationalError("the connection is lost")
        return answer

    monkeypatch.setattr(module, "carry_out", lose)


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_committed_before_the_loss_is_not_taken_twice(
    database_url: str, reserver: Reserver, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    give_limit(database_url, 2)
    lose_answers(monkeypatch, count)
    first = reserver.reserve("acme")
    assert (first.allowed, first.used_count) == (True, 1)
    second = reserver.reserve("acme")
    assert (second.allowed, second.used_count) == (True, 2)
    assert not reserver.reserve("acme").allowed
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 1, 0), (1, 1, 0)]


def test_a_loss_that_lasts_is_told_and_made_good_later(
    database_url: str, reserver: Reserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_limit(database_url, 5)
    with monkeypatch.context() as patch:
        lose_answers(patch, 3)
        with pytest.raises(stepquota.ReservationLost, match="outcome of the reservation") as lost:
            reserver.reserve("acme")
        assert isinstance(lost.value, psycopg.OperationalError)
        assert used(database_url) == 1
    assert reserver.reserve("acme").used_count == 1
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 0, 1), (1, 1, 0)]


def test_a_loss_that_is_not_made_good_is_found(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reserver(database_url, name="the one that dies") as reserver:
        lose_answers(monkeypatch, 1, and_then_fail=True)
        with pytest.raises(stepquota.ReservationLost):
            reserver.reserve("acme")
    with psycopg.connect(database_url) as connection:
        (left,) = stepquota.list_open_workflow_step_batches(connection)
    assert (left.tenant, left.granted_count, left.is_overdue) == ("acme", 1, False)
    assert left.holder.startswith(f"the one that dies in process {os.getpid()} on ")


def test_no_connection_at_all() -> None:
    pool = ConnectionPool("host=/nowhere", min_size=0, max_size=1, timeout=0.2, open=True)
    try:
        with Reserver(pool) as reserver:
            with pytest.raises(PoolTimeout):
                reserver.reserve("acme")
            with pytest.raises(TimeoutError):
                reserver.reserve("acme", timeout=0.05)
    finally:
        pool.close()


# -- Opening and closing


def test_the_last_batch_is_closed_after_a_while(database_url: str, reserver: Reserver) -> None:
    reserver.reserve("acme")
    assert batches(database_url) == [(1, None, None)]
    begin = time.monotonic()
    wait_for_closing(database_url)
    assert time.monotonic() - begin < LINGER + 5
    assert batches(database_url) == [(1, 1, 0)]
    assert reserver._lines._by_tenant == {}


def test_a_batch_that_an_operator_closed(database_url: str, reserver: Reserver) -> None:
    for _ in range(2):
        reserver.reserve("acme")
        rows(
            database_url,
            "select b.batch_id from stepquota.workflow_step_batches b, lateral"
            " stepquota.close_workflow_step_batch(b.tenant, b.batch_id, 0)"
            " where b.closed_at is null",
        )
    time.sleep(LINGER * 1.5)
    wait_until(lambda: reserver._lines._by_tenant == {})
    assert batches(database_url) == [(1, 0, 1), (1, 0, 1)]


def test_closing_serves_who_waits(database_url: str) -> None:
    give_limit(database_url, 100)
    reserver = Reserver(database_url, connections=2, batch_size=3)
    threads = Threads(reserver)
    with blocked(database_url):
        ask_while_blocked(threads, database_url, 8)
        closing = threading.Thread(target=reserver.close)
        closing.start()
        wait_until(lambda: reserver._is_closed)
        with pytest.raises(stepquota.ReserverClosed):
            reserver.reserve("acme")
    assert [a.used_count for a in threads.answers()] == list(range(1, 9))
    closing.join(PATIENCE)
    assert batches(database_url) == [(1, 1, 0), (3, 3, 0), (3, 3, 0), (1, 1, 0)]
    reserver.close()
    with pytest.raises(stepquota.ReserverClosed, match="is closed") as caught:
        reserver.reserve("acme")
    assert isinstance(caught.value, psycopg.InterfaceError)
    assert not [thread for thread in reserver._workers if thread.is_alive()]


def test_who_asks_while_it_closes_is_not_stuck(database_url: str) -> None:
    give_limit(database_url, None)
    for _ in range(10):
        reserver = Reserver(database_url, connections=2)
        got: list[int] = []

        def work(reserver: Reserver = reserver, got: list[int] = got) -> None:
            with contextlib.suppress(stepquota.ReserverClosed):
                while True:
                    reserver.reserve("acme")
                    got.append(1)

        before = used(database_url)
        workers = [threading.Thread(target=work) for _ in range(8)]
        for worker in workers:
            worker.start()
        time.sleep(0.02)
        reserver.close()
        for worker in workers:
            worker.join(PATIENCE)
            assert not worker.is_alive()
        assert used(database_url) - before == len(got)
    assert rows(database_url, "select * from stepquota.list_open_workflow_step_batches()") == []


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pool_stays_the_callers(database_url: str, autocommit: bool) -> None:
    arguments = {"autocommit": autocommit}
    with ConnectionPool(database_url, min_size=1, max_size=1, kwargs=arguments, open=True) as pool:
        with Reserver(pool, connections=3) as reserver:
            assert reserver.reserve("acme").used_count == 1
            assert used(database_url) == 1
            with pool.connection(timeout=PATIENCE) as connection:
                assert connection.autocommit is autocommit
        with pool.connection() as connection:
            assert connection.autocommit is autocommit
            connection.execute("select 1")


def test_what_cannot_be_a_source(database_url: str) -> None:
    with pytest.raises(TypeError, match=r"conninfo str or a psycopg_pool\.ConnectionPool"):
        Reserver(AsyncConnectionPool(database_url, open=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="connections must be"):
        Reserver(database_url, connections=0)
    with pytest.raises(ValueError, match="batch_size must be"):
        Reserver(database_url, batch_size=0)


def test_without_psycopg_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    with pytest.raises(ImportError, match=r"pip install 'stepquota\[reserver\]'"):
        Reserver("")


def test_after_a_fork(database_url: str) -> None:
    with Reserver(database_url) as reserver:
        reserver.reserve("acme")
        child = os.fork()
        if child == 0:
            try:
                reserver.reserve("acme")
            except stepquota.ReserverClosed as error:
                reserver.close()
                os._exit(0 if "after forking" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert reserver.reserve("acme").used_count == 2


def in_new_process(program: str, run: Callable[..., Any], tmp_path: Path) -> Any:
    file = tmp_path / "program.py"
    file.write_text(program)
    return run([sys.executable, str(file)], capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_ends_without_closing(database_url: str, tmp_path: Path) -> None:
    import subprocess

    program = f"""
import stepquota
reserver = stepquota.Reserver({database_url!r})
print(reserver.reserve("acme").used_count)
"""
    done = in_new_process(program, subprocess.run, tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    (left,) = rows(database_url, "select holder from stepquota.list_open_workflow_step_batches()")
    assert "in process" in left


# -- What the lines know


def test_a_unit_that_is_taken_back_while_its_batch_is_being_closed(
    database_url: str, reserver: Reserver
) -> None:
    """The closing is on its way with the count of before: the next batch makes up for it."""
    quota = reserver.reserve("acme")
    line = reserver._lines.get("acme")
    with blocked(database_url):
        thread = threading.Thread(target=reserver.reserve, args=["acme"])
        thread.start()
        wait_until(lambda: calls_on_their_way(database_url) == 1)
        with reserver._lock:
            line.take_back(quota)
    thread.join(PATIENCE)
    wait_for_closing(database_url)
    assert batches(database_url) == [(1, 1, 0), (1, 0, 1)]
    assert used(database_url) == 1
