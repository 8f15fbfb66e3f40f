"""The commands as people and schedulers meet them; and that no key or secret is ever shown."""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import stripe
from typer.testing import CliRunner

from harness.databases import Database
from stepquota.cli import app
from stepquota.demo.stripe_fake import StripeFake
from stepquota.problems import Problem
from stepquota.secret import Secret
from stepquota.stripe_sync.api import API_VERSION, EVENT_TYPES, StripeApi, StripeRefused
from stepquota.stripe_sync.mirror import Mirror
from stepquota.stripe_sync.settings import (
    ApiSettings,
    read_api_settings,
    read_webhook_secrets,
    redact,
)

from .conftest import KEY, SECRET, SyncProcess, limit_of, subscribe, wait_until

Start = Callable[..., SyncProcess]


def test_the_version_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stripe.api_version == API_VERSION
    assert len(EVENT_TYPES) <= 20
    monkeypatch.setattr(stripe, "api_version", "2099-01-01.next")
    with pytest.raises(Problem, match=r"for API version 2099-01-01\.next"):
        StripeApi(ApiSettings(Secret(KEY), False))


def test_sync_then_check(start: Start, fake: StripeFake, owner: psycopg.Connection) -> None:
    subscribe(fake, "acme", "1,000")
    subscribe(fake, "globex", "500")
    sync = start("sync")
    assert sync.process.wait(30) == 0
    sync.wait_for("^subscriptions: 2 inserted$")
    assert limit_of(owner, "globex") == 500

    check = start("check")
    assert check.process.wait(30) == 1
    check.wait_for("1 error, 1 other remark")
    assert "price price_acme: workflow_step_limit is '1,000'" in check.output
    assert "test mode, account acct_fake" in check.output
    assert max(map(len, check.lines)) <= 80
    as_json = start("check", "--json")
    assert as_json.process.wait(30) == 1
    answer = json.loads(as_json.output)
    assert answer["health"]["account"] == "acct_fake"
    assert [p["problem"] for p in answer["problems"]] == ["no webhook", "invalid limit"]

    fake.update_price("price_acme", metadata={"workflow_step_limit": "1000"})
    caught_up = start("catch-up")
    assert caught_up.process.wait(30) == 0
    assert limit_of(owner, "acme") == 1000
    assert start("check").process.wait(30) == 0


def test_serve_and_work_apart(
    start: Start, fake: StripeFake, mirror: Mirror, owner: psycopg.Connection
) -> None:
    subscribe(fake, "acme")
    work = start("work", "--workers", "2")
    owner.execute(
        "select stepquota.record_stripe_events("
        '\'[{"id": "evt_1", "type": "customer.subscription.updated",'
        ' "object_id": "sub_acme"}]\', \'webhook\')'
    )
    wait_until(lambda: limit_of(owner, "acme") == 500)
    assert work.end(signal.SIGINT) == 128 + signal.SIGINT
    assert "Traceback" not in work.output


@pytest.mark.parametrize(
    ("command", "role"),
    [("serve", "stepquota_sync"), ("sync", "stepquota_sync"), ("check", "stepquota_observer")],
)
def test_a_role_without_the_right_is_told_before_anything_starts(
    start: Start, database: Database, command: str, role: str
) -> None:
    url = psycopg.conninfo.make_conninfo(database.url, options="-c role=stepquota_runtime")
    process = start(command, DATABASE_URL=url)
    assert process.process.wait(30) == 1
    process.wait_for("may not do this")
    process.wait_for(f"hint: use one that is a member of {role}")


def test_serve_does_not_start_where_it_is_not_installed(start: Start, database: Database) -> None:
    process = start("serve", DATABASE_URL=database.server.url("postgres"))
    assert process.process.wait(30) == 1
    process.wait_for("stepquota is not installed in the database")


def test_what_the_network_says_is_said(start: Start) -> None:
    process = start("sync", STRIPE_API_BASE="http://127.0.0.1:9")
    assert process.process.wait(60) == 1
    process.wait_for("refused")


def test_a_key_that_is_refused_is_said_everywhere(start: Start, fake: StripeFake) -> None:
    fake.faults.fail("/v1/products", 403, times=None)
    sync = start("sync")
    assert sync.process.wait(30) == 1
    sync.wait_for("Stripe refuses the key: PermissionError 403")
    sync.wait_for("hint: a restricted key must be able to read")
    run = start("run", "--port", "0")
    run.wait_for("sync: PermissionError 403")
    import requests

    health = requests.get(run.url.replace("/stripe/webhook", "/health"), timeout=20)
    assert health.status_code == 503
    assert "PermissionError" in health.json()["trouble"]


@pytest.mark.parametrize("command", ["sync", "catch-up", "work", "serve", "run", "check"])
def test_help_is_there(command: str) -> None:
    answer = CliRunner().invoke(app, ["stripe", command, "--help"])
    assert answer.exit_code == 0
    assert len(answer.output.splitlines()) > 10
    assert "api-key" not in answer.output


# -- Keys and secrets


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({}, "there is no Stripe API key"),
        ({"STRIPE_API_KEY": "pk_test_1234"}, "the Stripe API key is not one"),
        ({"STRIPE_API_KEY": "sk_test_a b"}, "the Stripe API key is not one"),
        ({"STRIPE_API_KEY_FILE": "/nowhere/key"}, "STRIPE_API_KEY_FILE cannot be read"),
    ],
)
def test_a_key_that_is_none(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(Problem, match=problem) as raised:
        read_api_settings(environment)
    assert "1234" not in str(raised.value)


def test_keys_and_secrets_from_files(tmp_path: Path) -> None:
    key, secrets = tmp_path / "key", tmp_path / "secrets"
    live_key = "_".join(("rk", "live", "abc"))
    key.write_text(f"{live_key}\n")
    secrets.write_text("whsec_one\nwhsec_two\n")
    settings = read_api_settings({"STRIPE_API_KEY_FILE": str(key)})
    assert (settings.key.reveal(), settings.livemode) == (live_key, True)
    found = read_webhook_secrets({"STRIPE_WEBHOOK_SECRETS_FILE": str(secrets)})
    assert [secret.reveal() for secret in found] == ["whsec_one", "whsec_two"]
    assert "abc" not in f"{settings} {settings!r} {found}"
    with pytest.raises(Problem, match="a signing secret is not one"):
        read_webhook_secrets({"STRIPE_WEBHOOK_SECRETS": "secret"})


def test_no_secret_is_shown(
    start: Start, fake: StripeFake, database: Database, settings: ApiSettings
) -> None:
    assert redact(f"{KEY} and {SECRET}, rk_{'live'}_x") == "*** and ***, ***"
    # Refused by Stripe, whose message repeats the key.
    wrong = "sk_test_wrongwrongwrong"
    api = StripeApi(ApiSettings(Secret(wrong), False, settings.base))
    with pytest.raises(StripeRefused) as raised:
        api.list_objects("price", None)
    assert wrong not in "".join(traceback.format_exception(raised.value.with_traceback(None)))
    api.close()
    outputs = []
    for command in (["sync"], ["--debug", "sync"], ["work"], ["run", "--port", "0"]):
        before = ["--debug"] if command[0] == "--debug" else []
        process = start(*command[len(before) :], STRIPE_API_KEY=wrong, STRIPE_LOG="debug")
        if command[-1] == "sync":
            process.process.wait(30)
        else:
            process.wait_for("AuthenticationError")
            process.end()
        outputs.append(process.output)
    for output in outputs:
        assert wrong not in output
        assert SECRET not in output
        assert "AuthenticationError" in output or "refuses the key" in output
