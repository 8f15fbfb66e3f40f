"""The page without a browser: who gets in, what is shown, what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlencode

import httpx2
import psycopg
import pytest
from starlette.testclient import TestClient

from page.stage import HOSTILE, SECRET, URL, Stage, settings
from stepquota.errors import BoundToTenant
from stepquota.page.app import Page
from stepquota.page.data import Database as PageDatabase
from stepquota.page.data import Unbound
from stepquota.page.settings import Settings
from stepquota.page.tokens import Signer
from stepquota.problems import Problem
from stepquota.secret import Secret

Client = TestClient
PROXY: dict[str, Any] = {"proxies": (ip_network("10.0.0.0/8"),)}


@pytest.fixture(scope="module")
def databases(stage: Stage) -> Iterator[dict[str, PageDatabase]]:
    opened = {kind: stage.open(kind) for kind in Stage.KINDS}
    yield opened
    for database in opened.values():
        database.close()


@pytest.fixture
def client(databases: dict[str, PageDatabase]) -> Client:
    return make(databases)


def make(
    databases: dict[str, PageDatabase],
    *,
    operators: str | None = "operators",
    tenants: str | None = "tenants",
    address: str = "10.0.0.5",
    **changes: Any,
) -> Client:
    """A page, and somebody who is not signed in."""
    page = Page(
        settings(**changes),
        databases[operators] if operators else None,
        databases[tenants] if tenants else None,
    )
    return TestClient(page.make(), base_url=URL, client=(address, 1234), follow_redirects=False)


def token(kind: str, name: str, seconds: float = 60, secret: Secret = SECRET) -> str:
    return Signer([secret]).sign("link", {"kind": kind, "name": name}, seconds)


def sign_in(client: Client, kind: str = "operator", name: str = "alice") -> Client:
    entered = client.get("/enter", params={"token": token(kind, name)})
    assert entered.status_code == 303
    return client


def text_of(response: httpx2.Response) -> str:
    """What people read, without tags."""
    text = re.sub(r"<[^>]+>", " ", response.text)
    return re.sub(r"\s+", " ", unescape(text))


def form_of(response: httpx2.Response, run_id: str) -> dict[str, str]:
    """The fields of a run's Resume."""
    for form in re.findall(r"<form.*?</form>", response.text, re.DOTALL):
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
        if fields.get("run") == run_id:
            return {name: unescape(value) for name, value in fields.items()}
    raise AssertionError(f"there is no Resume of {run_id}")


def listed(response: httpx2.Response) -> list[str]:
    assert response.status_code == 200, response.text
    rows = re.findall(r'<th scope="row"><a href="[^"]*">(.*?)</a>', response.text)
    return [unescape(row.replace("<wbr>", "")) for row in rows]


def link_in(response: httpx2.Response, relation: str) -> str | None:
    found = re.search(rf'rel="{relation}" href="([^"]*)"', response.text)
    return unescape(found[1]) if found else None


# -- Who gets in


@pytest.mark.parametrize("path", ["/", "/tenant?tenant=acme", "/card", "/card.html", "/card.json"])
def test_nobody_gets_in_without_a_link(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 401
    assert "acme" not in answer.text


def test_a_link_lets_in_and_a_session_stays(client: Client) -> None:
    entered = client.get("/enter", params={"token": token("operator", "alice")})
    assert entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert "alice" in text_of(client.get("/"))
    form = re.search(r'name="form" value="([^"]+)"', client.get("/").text)
    assert form
    assert client.post("/leave", data={"form": form[1]}).status_code == 200
    assert client.get("/").status_code == 401


def test_behind_tls_the_cookie_is_for_tls_and_this_host_alone(
    databases: dict[str, PageDatabase],
) -> None:
    client = make(databases, public_url="https://page.example/quota")
    entered = client.get("/enter", params={"token": token("operator", "alice")})
    assert entered.headers["location"] == "/quota/"
    assert entered.headers["set-cookie"].startswith("__Host-stepquota=")
    assert "Secure" in entered.headers["set-cookie"]
    assert "max-age" in entered.headers["strict-transport-security"]


def changed(text: str) -> str:
    return text[:-2] + ("AA" if text[-2:] != "AA" else "BB")


# Made when they are tried: all workers of a run must collect the same tests.
FORGED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "x",
    "not ASCII": lambda: "é.é",
    "dots": lambda: "." * 9,
    "another signature": lambda: changed(token("operator", "alice")),
    "another name": lambda: ".".join(
        (token("operator", "mallory").split(".")[0], token("operator", "alice").split(".")[1])
    ),
    "too old": lambda: token("operator", "alice", seconds=-1),
    "another secret": lambda: token(
        "operator", "alice", secret=Secret("somebody else's secret, as long as ours is")
    ),
    "of a form": lambda: Signer([SECRET]).sign("form", {"kind": "operator", "name": "a"}, 60),
    "of a session": lambda: Signer([SECRET]).sign("session", {"kind": "operator", "name": "a"}, 60),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_and_old_links_are_refused(client: Client, case: str) -> None:
    given = FORGED[case]()
    assert client.get("/enter", params={"token": given}).status_code == 401
    assert client.get("/card.json", params={"token": given}).status_code == 401
    client.cookies.set("stepquota", token("operator", "alice"))
    assert client.get("/").status_code == 401  # a link is no session


def test_a_session_ends_with_its_link(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/enter", params={"token": token("operator", "alice", seconds=600)})
    now = time.time()
    monkeypatch.setattr("stepquota.page.tokens.time.time", lambda: now + 590)
    assert client.get("/").status_code == 200
    monkeypatch.setattr("stepquota.page.tokens.time.time", lambda: now + 601)
    assert client.get("/").status_code == 401


def test_an_older_secret_is_read_and_a_new_one_signs(databases: dict[str, PageDatabase]) -> None:
    new = Secret("the secret that came after it, long enough")
    client = make(databases, secrets=(new, SECRET))
    assert sign_in(client).get("/").status_code == 200
    session = client.cookies["stepquota"]
    assert Signer([new]).read("session", session)["name"] == "alice"


def test_headers_of_a_proxy_count_from_the_proxy_alone(
    databases: dict[str, PageDatabase],
) -> None:
    headers = {"X-User": "bob"}
    trusting = {**PROXY, "operator_header": "X-User", "tenant_header": "X-Tenant"}
    assert make(databases).get("/", headers=headers).status_code == 401
    assert (
        make(databases, address="192.0.2.1", **trusting).get("/", headers=headers).status_code
        == 401
    )
    client = make(databases, **trusting)
    shown = client.get("/", headers=headers)
    assert "bob" in text_of(shown)
    assert "Sign out" not in shown.text
    assert client.get("/", headers={"X-User": "  "}).status_code == 401
    # An address that somebody writes is not the one that connects.
    outside = make(databases, address="192.0.2.1", **trusting)
    assert outside.get("/", headers={**headers, "X-Forwarded-For": "10.0.0.5"}).status_code == 401
    both = client.get("/", headers={"X-User": "bob", "X-Tenant": "acme"})
    assert both.status_code == 400
    twice = client.get("/", headers=[("X-User", "bob"), ("X-User", "mallory")])
    assert twice.status_code == 400
    assert client.get("/card.json", headers={"X-Tenant": "acme"}).json()["used"] == 5


def test_headers_without_a_proxy_are_a_mistake() -> None:
    with pytest.raises(Problem, match="trusted, but from nobody"):
        settings(operator_header="X-User")
    with pytest.raises(Problem, match="not an origin"):
        settings(embed_in=("https://a.example/path",))
    with pytest.raises(Problem, match="not an origin"):
        settings(embed_in=("*",))
    with pytest.raises(Problem, match="public URL"):
        settings(public_url="page.example")


def test_every_answer_has_the_headers(client: Client) -> None:
    sign_in(client)
    for path in (
        "/",
        "/tenant?tenant=acme",
        "/tenant?tenant=none",
        "/static/page.css",
        "/health",
        "/card?tenant=acme",
        "/nothing",
        "/static/nothing",
    ):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-frame-options"] == "DENY"
    assert client.get("/").headers["cache-control"] == "no-store"
    assert "max-age" in client.get("/static/page.css").headers["cache-control"]


def test_nothing_is_inline(client: Client) -> None:
    sign_in(client)
    for path in ("/", "/tenant?tenant=acme", "/card?tenant=initech"):
        text = client.get(path).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
        assert len(re.findall(r'<script src="/static/page.js[^"]+" defer>', text)) == 1
        assert text.count("<script") == 1


# -- The list


def test_the_list_is_sorted_searched_and_paged(client: Client, stage: Stage) -> None:
    sign_in(client)
    names = stage.one(
        "select array_agg(tenant order by tenant) from stepquota.workflow_step_quotas"
    )
    seen: list[str] = []
    path: str | None = "/"
    pages = []
    while path:
        shown = client.get(path)
        pages.append(path)
        seen += listed(shown)
        path = link_in(shown, "next")
    assert seen == names
    assert len(pages) == 3
    back = link_in(client.get(pages[2]), "prev")
    assert back
    assert listed(client.get(back)) == names[50:100]
    first = link_in(client.get(back), "prev")
    assert first
    assert listed(client.get(first)) == names[:50]
    assert link_in(client.get(first), "prev") is None

    assert listed(client.get("/?sort=used&order=desc"))[:2] == ["initech", "tenant 077"]
    assert listed(client.get("/?sort=percent&order=desc"))[0] == "acme"
    assert listed(client.get("/?sort=paused&order=desc"))[0] == "acme"
    assert listed(client.get("/?search=TENANT+07")) == [f"tenant 07{n}" for n in range(10)]
    assert listed(client.get("/?search=%25")) == []
    assert listed(client.get("/?only=exhausted")) == ["acme"]
    assert listed(client.get("/?only=unlimited&search=tech")) == ["initech"]
    assert 'aria-sort="descending"' in client.get("/?sort=used&order=desc").text
    assert "held" in text_of(client.get("/?search=tenant+005"))
    assert HOSTILE in listed(client.get("/?" + urlencode({"search": HOSTILE})))


@pytest.mark.parametrize(
    "query",
    ["sort=nothing", "only=nothing", "sort=used&value=x&tenant=acme", "value=&tenant=acme%00"],
)
def test_what_is_no_list_is_refused(client: Client, query: str) -> None:
    assert sign_in(client).get(f"/?{query}").status_code == 400


def test_an_order_that_is_old_says_so(client: Client, stage: Stage) -> None:
    sign_in(client)
    assert "and their order, of" in text_of(client.get("/?sort=used"))
    assert "tick() should look" not in client.get("/?sort=used").text
    move = "update stepquota.tenant_summary_state set as_of = as_of + %s::interval returning true"
    stage.one(move, "-20 minutes")
    try:
        old = text_of(client.get("/?sort=used"))
        assert "of 20 minutes ago (tick() should look every few minutes)" in old
        # By name it is of now.
        assert "their order" not in text_of(client.get("/"))
    finally:
        stage.one(move, "20 minutes")


# -- A tenant


def test_a_tenant_that_has_used_its_limit_up(client: Client) -> None:
    shown = sign_in(client).get("/tenant?tenant=acme")
    text = text_of(shown)
    assert "5 of 5 consumed" in text
    assert "Remaining 0" in text
    assert '<progress class="full" max="100" value="100.0"' in shown.text
    assert re.search(r'Resets</dt><dd><time datetime="\d{4}-\d\d-01T00:00:00Z">', shown.text)
    assert "00:00 UTC" in text
    assert "nightly 5 100 % 1 0" in text
    assert "Forecast used up" in text
    assert "run-1" in text
    assert "root.steps[6]" in text
    assert "a higher limit, a grant, or the next period" in text
    assert "quota exhausted" in text
    # Used before the first round of tick, which nobody can put on a day.
    assert "By day (UTC) · 0 workflow actions since counting by day began on" in text
    assert "what was used before that is not in it" in text
    assert "<svg" not in shown.text
    busy = client.get("/tenant?tenant=tenant+077")
    assert "71 workflow actions since" in text_of(busy)
    assert "<svg" in busy.text


def test_tenants_with_something_left_and_without_limit(client: Client) -> None:
    sign_in(client)
    text = text_of(client.get("/tenant?tenant=globex"))
    assert "2 of 7 consumed" in text
    assert "goodwill" in text
    assert "Forecast not known yet" in text
    unlimited = client.get("/tenant?tenant=initech")
    assert "1 234 consumed Unlimited plan" in text_of(unlimited)
    assert "<progress" not in unlimited.text
    assert client.get("/tenant?tenant=nobody").status_code == 404
    assert client.get("/tenant").status_code == 400


def test_names_are_text(client: Client) -> None:
    shown = sign_in(client).get("/tenant?" + urlencode({"tenant": HOSTILE}))
    assert shown.status_code == 200
    assert "<script>alert" not in shown.text
    assert "<script>alert" not in client.get("/?" + urlencode({"search": HOSTILE})).text


# -- Resume


@contextmanager
def paused_run(stage: Stage, run_id: str, limit: int) -> Iterator[None]:
    """A run of hooli that is paused, with a limit that it has by now."""
    with stage.database.connect(autocommit=True) as connection:
        connection.execute("select stepquota.set_tier_limit('hooli', 1)")
        connection.execute("select stepquota.set_tenant_plan('hooli', 'hooli')")
        connection.execute("select stepquota.reserve_workflow_step('hooli')")
        connection.execute("select stepquota.register_workflow_run('hooli', %s)", [run_id])
        connection.execute("select stepquota.start_workflow_step('hooli', %s, 'root')", [run_id])
        # By hand, so that nothing is resumed at once.
        connection.execute(
            "update stepquota.tiers set step_limit = %s where tier = 'hooli'", [limit]
        )
        yield
        connection.execute("select stepquota.cancel_workflow_run('hooli', %s)", [run_id])


def run_status(stage: Stage, run_id: str) -> str:
    return str(stage.one("select status from stepquota.workflow_runs where run_id = %s", run_id))


def test_a_paused_run_is_resumed(client: Client, stage: Stage) -> None:
    with paused_run(stage, "good", 9):
        shown = sign_in(client).get("/tenant?tenant=hooli")
        fields = form_of(shown, "good")
        done = client.post("/resume", data=fields)
        assert done.status_code == 303
        assert run_status(stage, "good") == "RUNNING"
        after = client.get(done.headers["location"])
        assert "good Resumed." in text_of(after)
        assert (
            stage.one(
                "select details ->> 'reason' from stepquota.workflow_run_logs where run_id = 'good'"
                " and details ? 'reason' limit 1"
            )
            == "alice, on the page"
        )
        # Once more: it is not waiting.
        again = client.get(client.post("/resume", data=fields).headers["location"])
        assert "Not resumed: the run is not waiting." in text_of(again)


def test_a_quota_that_is_used_up_is_an_answer(client: Client, stage: Stage) -> None:
    shown = sign_in(client).get("/tenant?tenant=acme")
    done = client.post("/resume", data=form_of(shown, "run-1"))
    assert done.status_code == 303
    after = text_of(client.get(done.headers["location"]))
    assert "run-1 Not resumed: the quota is used up, 5 of 5 workflow actions." in after
    assert (
        stage.one(
            "select status from stepquota.workflow_runs where tenant = 'acme' and run_id = 'run-1'"
        )
        == "WAITING"
    )
    # An answer is of its tenant, and nobody can write one.
    answer = httpx2.URL(done.headers["location"]).params["answer"]
    other = client.get("/tenant", params={"tenant": "globex", "answer": answer})
    assert "Not resumed" not in other.text
    assert "forged" not in client.get("/tenant?tenant=acme&answer=forged").text


def test_a_held_run_is_an_answer(client: Client, stage: Stage) -> None:
    with paused_run(stage, "held", 1):
        stage.one("select stepquota.hold_workflow_run('hooli', 'held', 'looking')")
        fields = form_of(sign_in(client).get("/tenant?tenant=hooli"), "held")
        after = client.get(client.post("/resume", data=fields).headers["location"])
        assert "Not resumed: the run or its tenant is held." in text_of(after)


def test_forms_that_were_not_sent_from_the_page_change_nothing(
    client: Client, databases: dict[str, PageDatabase], stage: Stage
) -> None:
    with paused_run(stage, "csrf", 9):
        good = form_of(sign_in(client).get("/tenant?tenant=hooli"), "csrf")
        of_another = form_of(
            sign_in(make(databases), name="mallory").get("/tenant?tenant=hooli"), "csrf"
        )
        without = {name: value for name, value in good.items() if name != "form"}
        old = Signer([SECRET]).sign("form", {"kind": "operator", "name": "alice"}, -1)
        link = token("operator", "alice")
        for fields in (without, of_another, {**good, "form": old}, {**good, "form": link}):
            assert client.post("/resume", data=fields).status_code == 403
        for site in ("cross-site", "same-site"):
            headers = {"Sec-Fetch-Site": site}
            assert client.post("/resume", data=good, headers=headers).status_code == 403
        assert client.get("/resume", params=good).status_code == 405
        assert client.post("/resume", data={**good, "run": ""}).status_code == 400
        assert client.post("/resume", content=b"x" * 20000).status_code == 413
        assert make(databases).post("/resume", data=good).status_code == 401
        assert run_status(stage, "csrf") == "WAITING"
        headers = {"Sec-Fetch-Site": "same-origin"}
        assert client.post("/resume", data=good, headers=headers).status_code == 303
        assert run_status(stage, "csrf") == "RUNNING"


def test_the_database_decides_who_may_resume(
    databases: dict[str, PageDatabase], stage: Stage
) -> None:
    """A page whose role may only look has no Resume, and gets no further without it."""
    client = sign_in(make(databases, operators="observers"))
    shown = client.get("/tenant?tenant=acme")
    assert shown.status_code == 200
    assert "Resume</button>" not in shown.text
    form = re.search(r'name="form" value="([^"]+)"', shown.text)
    assert form
    refused = client.post("/resume", data={"form": form[1], "tenant": "acme", "run": "run-1"})
    assert refused.status_code == 403
    assert "may not resume" in refused.text


# -- A tenant's admin


def test_the_card_is_of_the_own_tenant_alone(client: Client) -> None:
    sign_in(client, "tenant", "acme")
    assert client.get("/").headers["location"] == "/card"
    shown = client.get("/card")
    assert "5 of 5 consumed" in text_of(shown)
    assert "Resume" not in shown.text
    for path in ("/tenant?tenant=acme", "/tenant?tenant=globex"):
        assert client.get(path).status_code == 403
    for path in ("/card", "/card.html", "/card.json"):
        refused = client.get(path, params={"tenant": "globex"})
        assert refused.status_code == 403
        assert "2 of" not in refused.text
    form = re.search(r'name="form" value="([^"]+)"', shown.text)
    assert form
    fields = {"form": form[1], "tenant": "acme", "run": "run-1"}
    assert client.post("/resume", data=fields).status_code == 403


def test_the_card_as_a_fragment_and_as_json(client: Client) -> None:
    link = {"token": token("tenant", "globex")}
    fragment = client.get("/card.html", params=link)
    assert fragment.text.startswith("<section")
    assert "<html" not in fragment.text
    assert "set-cookie" not in fragment.headers
    answer = client.get("/card.json", params=link).json()
    assert answer["tenant"] == "globex"
    assert (answer["used"], answer["limit"], answer["remaining"]) == (2, 7, 5)
    assert answer["resets_at"].endswith("T00:00:00Z")
    assert answer["days"]
    by_header = {"Authorization": f"Bearer {token('tenant', 'initech')}"}
    unlimited = client.get("/card.json", headers=by_header).json()
    assert unlimited["is_unlimited"]
    assert unlimited["limit"] is unlimited["percent"] is None
    nobody = client.get("/card.json", params={"token": token("tenant", "nobody")}).json()
    assert nobody == {"tenant": "nobody", "used": 0, "is_known": False}
    of_nobody = client.get("/card", params={"token": token("tenant", "nobody")})
    assert "No workflow has asked" in of_nobody.text
    sign_in(client)
    assert client.get("/card.json?tenant=initech").json()["used"] == 1234


def test_cards_are_embedded_where_that_is_allowed(databases: dict[str, PageDatabase]) -> None:
    client = make(databases, embed_in=("https://app.example", "https://b.example"))
    link = {"token": token("tenant", "globex")}
    for path in ("/card", "/card.html", "/card.json"):
        answer = client.get(path, params=link, headers={"Origin": "https://app.example"})
        assert (
            "frame-ancestors https://app.example https://b.example"
            in answer.headers["content-security-policy"]
        )
        assert "x-frame-options" not in answer.headers
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in answer.headers
    other = client.get("/card.json", params=link, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    assert "frame-ancestors 'none'" in sign_in(client).get("/").headers["content-security-policy"]


def test_the_database_keeps_other_tenants_back(databases: dict[str, PageDatabase]) -> None:
    """Whatever the page asks by mistake in a tenant's transaction."""
    database = databases["tenants"]
    assert database.read_usage("acme") is not None
    with database._reading("acme") as connection:
        rows = connection.execute("select distinct tenant from stepquota.tenant_usage").fetchall()
        assert rows == [("acme",)]
        for query in (
            "select 1 from stepquota.recent_events where tenant is distinct from 'acme'",
            "select 1 from stepquota.workflow_run_waits where tenant = 'globex'",
            "select 1 from stepquota.tenant_totals",
        ):
            assert connection.execute(query.encode()).fetchall() == []
        for query in (
            "select stepquota.resolve_workflow_step_quota('globex')",
            "select stepquota.list_tenants()",
        ):
            with pytest.raises(psycopg.DatabaseError) as refused, connection.transaction():
                connection.execute(query.encode())
            assert refused.value.sqlstate == BoundToTenant.sqlstate
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), connection.transaction():
            connection.execute("create temp table t ()")
    # What is named in one transaction is gone in the next.
    with database._pool.connection() as connection:
        assert connection.execute("select 1 from stepquota.tenant_usage").fetchall() == []


def test_a_role_that_is_not_bound_shows_nothing(databases: dict[str, PageDatabase]) -> None:
    loose = databases["loose"]
    with pytest.raises(Problem, match="not bound"):
        loose.check()
    with pytest.raises(Unbound):
        loose.read_usage("acme")
    client = make(databases, tenants="loose")
    answer = client.get("/card.json", params={"token": token("tenant", "acme")})
    assert answer.status_code == 503
    assert answer.json() == {"error": "The page is not set up for tenants.", "hint": ""}


def test_a_page_for_one_kind_is_not_for_the_other(databases: dict[str, PageDatabase]) -> None:
    assert sign_in(make(databases, operators=None)).get("/").status_code == 404
    client = sign_in(make(databases, tenants=None), "tenant", "acme")
    assert client.get("/card").status_code == 404


def test_settings_say_who_is_secure() -> None:
    made: Settings = settings(public_url="https://a.example/b/")
    assert (made.root, made.is_secure) == ("/b", True)
    assert made.trusts("10.0.0.1") is False
    assert settings(**PROXY).trusts("10.1.2.3")
    assert not settings(**PROXY).trusts(None)
