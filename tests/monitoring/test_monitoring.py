"""The files in monitoring/ name metrics that there are, and the tools of Prometheus take them.

promtool and prometheus-postgres-exporter are Debian's packages; ``make test-monitoring`` installs
them. Where they are not, only what needs none of them is tested.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from harness.databases import Database

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "monitoring"
QUERIES: dict[str, Any] = yaml.safe_load((FOLDER / "postgres_exporter.yml").read_text())
RULES: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus_rules.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana_dashboard.json").read_text())
METRIC = re.compile(r"\bstepquota_[a-z_]+\b")


def metrics_of_the_function() -> set[str]:
    source = (ROOT / "sql" / "metrics.sql").read_text(encoding="utf-8")
    return set(re.findall(r"'(stepquota_[a-z_]+)'", source))


def prepare(database: Database) -> None:
    """Something of everything, so that every metric but those of Stripe's feeders has a value."""
    database.run(
        """
        select stepquota.set_tier_limit('one', 1);
        select stepquota.set_tenant_plan('acme', 'one');
        select stepquota.register_workflow_run('acme', 'r');
        select stepquota.start_workflow_step('acme', 'r', 'a');
        select stepquota.finish_workflow_step('acme', 'r', 'a', 1, 'SUCCEEDED');
        select stepquota.start_workflow_step('acme', 'r', 'b');
        select stepquota.bind_stripe_mirror('acct_1', false, '2026-01-01');
        select event_id from stepquota.claim_quota_events('mailer', 1);
        """
    )
    database.run("call stepquota.tick()")
    database.run(
        """
        update stepquota.workflow_step_usage_lanes set used_count = 5 where tenant = 'acme';
        select stepquota.reconcile_tenant('acme', true);
        """
    )


def test_the_page_lists_the_metrics_of_the_function() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- list -->")[2].partition("<!-- end -->")[0]
    assert set(re.findall(r"^- `(\w+)`", listed, re.MULTILINE)) == metrics_of_the_function()


def test_alerts_and_dashboard_name_metrics_that_there_are() -> None:
    rules = [rule for group in RULES["groups"] for rule in group["rules"]]
    expressions = [rule["expr"] for rule in rules]
    expressions += [t["expr"] for panel in DASHBOARD["panels"] for t in panel["targets"]]
    used = {name for expression in expressions for name in METRIC.findall(expression)}
    assert len(used) > 20
    assert used <= metrics_of_the_function()
    assert all(rule["annotations"]["description"] for rule in rules)


def test_queries_answer_every_metric_with_its_labels(database: Database) -> None:
    prepare(database)
    with database.connect(role="stepquota_observer") as connection:
        told: dict[str, set[str]] = {}
        for name, labels in connection.execute("select name, labels from stepquota.metrics()"):
            told[name] = set(labels)
        queried: dict[str, set[str]] = {}
        for part, query in QUERIES.items():
            cursor = connection.execute(query["query"].encode())
            assert cursor.fetchall(), part
            columns = {column.name for column in cursor.description or ()}
            usages = {k: v["usage"] for entry in query["metrics"] for k, v in entry.items()}
            assert columns == set(usages), part
            labels = {column for column, usage in usages.items() if usage == "LABEL"}
            queried |= {f"{part}_{column}": labels for column in columns - labels}
    assert set(queried) == metrics_of_the_function()
    assert told.items() <= queried.items()
    # The sync has not run.
    assert set(queried) - set(told) == {
        "stepquota_stripe_catch_up_age_seconds",
        "stepquota_stripe_full_sync_age_seconds",
    }


if promtool := shutil.which("promtool"):

    @pytest.mark.parametrize(
        "arguments",
        [
            ["check", "rules", "prometheus_rules.yml"],
            ["test", "rules", "prometheus_rules_test.yml"],
        ],
    )
    def test_promtool_accepts_the_alerts(arguments: list[str]) -> None:
        completed = subprocess.run(
            [str(promtool), *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr

    def test_every_alert_is_tested() -> None:
        tests = (FOLDER / "prometheus_rules_test.yml").read_text()
        fired = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
        assert fired == {rule["alert"] for group in RULES["groups"] for rule in group["rules"]}


if exporter := shutil.which("prometheus-postgres-exporter"):

    def test_an_exporter_serves_the_metrics(database: Database) -> None:
        prepare(database)
        login = f"{database.name}_exporter"
        database.run(f"create role \"{login}\" login password 'x' in role stepquota_observer")
        try:
            text = scrape(make_conninfo(database.url, user=login, password="x", sslmode="disable"))
        finally:
            database.run(f'drop role "{login}"')
        served = dict(re.findall(r"^(stepquota_[^ ]+) (\S+)$", text, re.MULTILINE))
        name = re.compile(r"^\w+")
        assert {m[0] for s in served if (m := name.match(s))} == metrics_of_the_function()
        labels = f'{{server="{server_label(served)}",tenant="acme"}}'
        assert served[f"stepquota_tenant_used_steps{labels}"] == "5"
        if promtool:
            completed = subprocess.run(
                [str(promtool), "check", "metrics"],
                input="".join(
                    line + "\n"
                    for line in text.splitlines()
                    if re.match(r"(# (HELP|TYPE) )?stepquota_", line)
                ),
                capture_output=True,
                text=True,
                check=False,
            )
            assert completed.returncode == 0, completed.stdout + completed.stderr

    def server_label(served: dict[str, str]) -> str:
        found = re.search(r'server="([^"]*)"', next(iter(served)))
        assert found
        return found[1]

    def scrape(conninfo: str) -> str:
        """What the exporter answers, connected as a login role of its own."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [
                str(exporter),
                f"--extend.query-path={FOLDER / 'postgres_exporter.yml'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--disable-default-metrics",
                "--disable-settings-metrics",
            ],
            env={**os.environ, "DATA_SOURCE_NAME": conninfo},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    address = f"http://127.0.0.1:{port}/metrics"
                    with urllib.request.urlopen(address, timeout=15) as answer:
                        return str(answer.read().decode())
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_a_login_role_of_the_observer_may_ask(database: Database) -> None:
    with database.connect(role="stepquota_observer") as connection:
        connection.execute("select * from stepquota.metrics()")
    with (
        database.connect(role="stepquota_runtime") as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("select * from stepquota.metrics()")
