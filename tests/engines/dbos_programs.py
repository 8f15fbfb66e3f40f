"""Programs that use DBOS, each for a process of its own, as DBOS is one for a process."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from dbos import DBOS, DBOSContextSetAuth, SetWorkflowID, SQLAlchemyDatasource
from dbos import error as errors

import stepquota
from engines.dbos_engine import config
from stepquota.dbos import NoTenant, Quota

CUT_OWN = "select pg_terminate_backend(pg_backend_pid())"


def run_cut_transactions(database_url: str, own_url: str, results: str) -> None:
    """Transactions whose connection is lost before them, and at three moments of them."""
    datasource = SQLAlchemyDatasource.create(f"{database_url}&application_name=payments")
    start, finish = stepquota.start_workflow_step, stepquota.finish_workflow_step
    tries: list[int] = []
    starts = iter(range(100))

    def start_or_fail(connection: psycopg.Connection[Any], *given: Any) -> Any:
        if next(starts) == 0:
            connection.execute(CUT_OWN)
        return start(connection, *given)

    def finish_or_fail(connection: psycopg.Connection[Any], *given: Any) -> Any:
        if tries.count(3) == 1:
            tries.append(3)
            connection.execute(CUT_OWN)
        return finish(connection, *given)

    stepquota.start_workflow_step = start_or_fail  # type: ignore[assignment]
    stepquota.finish_workflow_step = finish_or_fail  # type: ignore[assignment]
    with Quota(own_url) as quota:
        DBOS(config=config(database_url, "payments"))

        @quota.transaction(datasource)
        def pay(amount: int) -> int:
            session = datasource.sql_session()
            session.execute(sqlalchemy.text(f"insert into payments values ({amount})"))
            tries.append(amount)
            if tries.count(2) == 1:
                session.execute(sqlalchemy.text(CUT_OWN))
            return amount

        @DBOS.step()
        def cut() -> int:
            with psycopg.connect(own_url) as connection:
                return connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'payments'"
                ).rowcount

        @DBOS.workflow(name="payments")
        @quota.workflow
        def payments() -> list[int]:
            return [pay(1), cut(), pay(2), pay(3), pay(4)]

        DBOS.launch()
        with DBOSContextSetAuth("conformance", []):
            paid = DBOS.start_workflow(payments).get_result()
        Path(results).write_text(json.dumps([paid, tries, next(starts)]))
        os._exit(0)


def run_without_tenant(database_url: str, own_url: str, results: str) -> None:
    """What a workflow without a tenant ends with, and what it has done before; as JSON."""
    with Quota(own_url) as quota:
        DBOS(config=config(database_url, "nobody's"))
        done = []

        @DBOS.workflow(name="nobody's")
        @quota.workflow
        def nobodys() -> None:
            done.append("work")

        DBOS.launch()
        try:
            said = str(DBOS.start_workflow(nobodys).get_result())
        except NoTenant as error:
            said = str(error)
        Path(results).write_text(json.dumps([said, done]))
        os._exit(0)


def run_page(database_url: str, own_url: str, program: str, results: str) -> None:
    """The program of docs/dbos.md; a second order is paused until there is a bigger plan."""
    page: dict[str, Any] = {
        "database_url": own_url,
        "system_database_url": database_url,
        "config": config(database_url, "page"),
    }

    def order(name: str) -> Any:
        with DBOSContextSetAuth("acme", []), SetWorkflowID(name):
            return DBOS.start_workflow(page["order"], 100)

    def use() -> None:
        with psycopg.connect(own_url, autocommit=True) as connection:
            stepquota.set_tier_limit(connection, "solo", 1)
            first = None
            while not first:
                with suppress(errors.DBOSException):  # it is not launched yet
                    first = order("first")
                time.sleep(0.05)
            said = [first.get_result()]
            second = order("second")
            paused = "select from stepquota.workflow_runs where status = 'WAITING'"
            while not connection.execute(paused).rowcount:
                time.sleep(0.05)
            stepquota.set_tier_limit(connection, "solo", 10)
            said.append(second.get_result())
        Path(results).write_text(json.dumps(said))
        os._exit(0)

    exec(program, page)
    threading.Thread(target=use, daemon=True).start()
    page["main"]()
