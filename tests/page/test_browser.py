"""The page as people use it: the server's own process and a real Chromium."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from harness.servers import EMBEDDED18
from harness.tap import POOL
from page.stage import HOSTILE, SECRET, Stage, staged

_AXE = "axe-core@4.10.3"
_SERIOUS = ("serious", "critical")
# Screens are kept here to be looked at.
_SHOTS = os.environ.get("STEPQUOTA_SCREENSHOTS")


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with staged(request.config.stash[POOL].get(EMBEDDED18)) as made:
        yield made


def environment(stage: Stage) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "DATABASE_URL": stage.url("operators"),
        "STEPQUOTA_PAGE_TENANT_DATABASE_URL": stage.url("tenants"),
        "STEPQUOTA_PAGE_SECRET": SECRET.reveal().replace(" ", "-").replace(",", "-"),
    }


class Site:
    """The page's process."""

    def __init__(self, stage: Stage, port: int):
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {**environment(stage), "STEPQUOTA_PAGE_URL": self.url}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stepquota", "page", "serve", "--port", str(port)],
            env=self._environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        until = time.monotonic() + 30
        while not self._answers():
            assert self.process.poll() is None, self.process.communicate()[1]
            assert time.monotonic() < until, "the page does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def link(self, *arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "stepquota", "page", "link", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def site(stage: Stage) -> Iterator[Site]:
    site = Site(stage, free_port())
    yield site
    site.process.send_signal(signal.SIGTERM)
    _, printed = site.process.communicate(timeout=20)
    assert "Traceback" not in printed
    assert "token=" not in printed


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), _AXE],
        check=True,
    )
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


class Browser:
    """A Chromium at the page, in Berlin."""

    def __init__(self, site: Site, profile: Path):
        options = Options()
        options.binary_location = shutil.which("chromium") or ""
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=Service(shutil.which("chromedriver"))
        )
        # axe-core looks for as long as the machine is busy.
        self.driver.set_script_timeout(120)
        self.site = site
        self._command("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
        self.show(1280, 800)

    def _command(self, name: str, **values: Any) -> None:
        self.driver.execute_cdp_cmd(name, values)

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """A screen of this size, in a light or a dark scheme."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._command(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def go(self, path: str) -> None:
        self.driver.get(path if path.startswith("http") else self.site.url + path)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def press(self, *keys: str) -> WebElement:
        """Press keys one after the other; the element that has the focus then."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
        return self.driver.switch_to.active_element

    def tab_to(self, text: str, most: int = 60) -> WebElement:
        """Press the tabulator until something of this name has the focus."""
        for _ in range(most):
            focused = self.press(Keys.TAB)
            if text in (focused.text, focused.get_attribute("aria-label")):
                return focused
        raise AssertionError(f"the keyboard does not reach {text}")

    def wait_for(self, text: str) -> None:
        # The page may be left while it is looked at.
        wait = WebDriverWait(self.driver, 10, ignored_exceptions=[StaleElementReferenceException])
        wait.until(lambda _: text in self.one("body").text)

    def complaints(self) -> list[str]:
        """What the console has: errors, and violations of the content security policy."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")  # type: ignore[no-untyped-call]
            if entry["level"] in ("SEVERE", "WARNING")
        ]

    def shoot(self, name: str) -> None:
        if _SHOTS:
            Path(_SHOTS).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(_SHOTS) / f"{name}.png"))


@pytest.fixture
def browser(site: Site, tmp_path: Path) -> Iterator[Browser]:
    if not shutil.which("chromium") or not shutil.which("chromedriver"):
        pytest.skip("Chromium is not installed")
    made = Browser(site, tmp_path / "profile")
    yield made
    try:
        assert made.complaints() == []
    finally:
        made.driver.quit()


@pytest.fixture
def operator(browser: Browser) -> Browser:
    browser.go(browser.site.link("--operator", "alice"))
    assert "token" not in browser.driver.current_url
    return browser


def test_searching_sorting_and_paging(operator: Browser) -> None:
    assert operator.one("h1").text == "Tenants"
    first = operator.texts("tbody th a")
    assert len(first) == 50
    operator.one("a[rel=next]").click()
    second = operator.texts("tbody th a")
    assert not set(first) & set(second)
    operator.one("a[rel=prev]").click()
    assert operator.texts("tbody th a") == first

    operator.driver.find_element(By.LINK_TEXT, "Used").click()
    assert operator.texts("tbody th a")[0] == "acme"
    assert operator.one("th[aria-sort]").get_attribute("aria-sort") == "descending"

    operator.go("/")
    operator.one("#search").send_keys("TENANT 07" + Keys.ENTER)
    operator.wait_for("Show all")
    assert operator.texts("tbody th a") == [f"tenant 07{n}" for n in range(10)]
    assert operator.one("#search").get_attribute("value") == "TENANT 07"
    operator.driver.find_element(By.PARTIAL_LINK_TEXT, "Unlimited").click()
    assert "No tenant's name contains “TENANT 07” among these." in operator.one("main").text
    operator.driver.find_element(By.LINK_TEXT, "Show all").click()
    assert operator.texts("tbody th a") == ["initech"]
    operator.go("/")
    operator.one("#search").send_keys("alert" + Keys.ENTER)
    operator.wait_for("Show all")
    operator.one("tbody th a").click()
    assert operator.one("h1").text == HOSTILE


def test_a_tenant_is_opened_and_a_run_resumed(operator: Browser, stage: Stage) -> None:
    operator.go("/?search=acme")
    operator.driver.find_element(By.LINK_TEXT, "acme").click()
    card = operator.one(".stepquota-card")
    assert "5 of 5 consumed" in card.text
    # In the viewer's zone, with UTC beside.
    resets = operator.one(".stepquota-card time").text
    assert "01:00 CET" in resets or "02:00 CEST" in resets
    assert "00:00 UTC)" in resets
    operator.one("[aria-label='Resume run-1']").click()
    operator.wait_for("Not resumed: the quota is used up, 5 of 5 workflow actions.")
    assert operator.driver.switch_to.active_element.get_attribute("id") == "answer"
    operator.shoot("exhausted")

    # Raised by hand: nothing is resumed at once by that.
    stage.one("update stepquota.tiers set step_limit = 50 where tier = 'five' returning 1")
    try:
        operator.one("[aria-label='Resume run-1']").click()
        operator.wait_for("run-1 Resumed.")
        status = stage.one(
            "select status from stepquota.workflow_runs where tenant = 'acme' and run_id = 'run-1'"
        )
        assert status == "RUNNING"
    finally:
        stage.one("update stepquota.tiers set step_limit = 5 where tier = 'five' returning 1")


def test_everything_by_keyboard_alone(operator: Browser) -> None:
    skip = operator.press(Keys.TAB)
    assert skip.text == "Skip to the content"
    assert skip.value_of_css_property("outline-style") == "solid"
    operator.press(Keys.ENTER)
    search = operator.press(Keys.TAB)
    assert search.get_attribute("id") == "search"
    operator.press("acme", Keys.ENTER)
    operator.tab_to("acme")
    operator.press(Keys.ENTER)
    operator.wait_for("Workflow actions")
    focused = operator.tab_to("Resume run-2")
    assert focused.value_of_css_property("outline-style") == "solid"
    operator.press(Keys.ENTER)
    operator.wait_for("run-2 ")
    operator.go("/tenant?tenant=tenant+077")
    assert operator.one(".chart svg").get_attribute("role") == "img"
    summary = operator.tab_to("As a table")
    assert summary.tag_name == "summary"
    operator.press(Keys.ENTER)
    assert operator.one("details").get_attribute("open")
    # And out.
    operator.go("/")
    operator.tab_to("Sign out")
    operator.press(Keys.ENTER)
    operator.wait_for("You are signed out.")
    operator.go("/")
    operator.wait_for("You are not signed in")
    assert len(operator.complaints()) <= 1  # that this page was answered with 401


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(operator: Browser, axe: str, scheme: str, width: int) -> None:
    operator.show(width, 900, scheme)
    card = operator.site.link("--tenant", "globex", "--view", "embed")
    pages = {
        "list": "/",
        "sorted": "/?sort=percent&order=desc",
        "nothing": "/?search=nosuch",
        "tenant": "/tenant?tenant=acme",
        "granted": "/tenant?tenant=globex",
        "busy": "/tenant?tenant=tenant+077",
        "unlimited": "/tenant?tenant=initech",
        "card": card,
    }
    for name, path in pages.items():
        operator.go(path)
        operator.shoot(f"{name}_{width}_{scheme}")
        found = operator.driver.execute_script(axe + ";return axe.run()")
        serious = [
            (v["id"], node["html"], node["failureSummary"])
            for v in found["violations"]
            if v["impact"] in _SERIOUS
            for node in v["nodes"]
        ]
        assert serious == [], name
        assert len(found["passes"]) > 15
        # Nothing makes the page itself wider than the screen.
        overflow = "return document.documentElement.scrollWidth - window.innerWidth"
        assert operator.driver.execute_script(overflow) <= 0, name


def test_everything_of_a_tenant_fits_a_narrow_screen(operator: Browser) -> None:
    operator.show(400, 2400)
    operator.go("/tenant?tenant=acme")
    operator.shoot("narrow")
    paused = operator.one("section[aria-labelledby=paused]")
    assert "root.steps[6]" in paused.text
    assert "a higher limit, a grant, or the next period" in paused.text
    cut = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    assert operator.driver.execute_script(f"return {cut}") is False
    resume = operator.one("[aria-label='Resume run-2']").rect
    assert resume["x"] >= 0
    assert resume["x"] + resume["width"] <= 400
    assert operator.one("td.details").size["width"] > 300
    operator.show(1280, 800)
    assert operator.one(".cards thead").is_displayed()


def test_the_dark_scheme_is_dark(operator: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = operator.driver.execute_script(ground)
    operator.show(1280, 800, "dark")
    dark = operator.driver.execute_script(ground)
    brightness = [sum(json.loads(c.replace("rgb(", "[").replace(")", "]"))) for c in (light, dark)]
    assert brightness[0] > 600 > 200 > brightness[1]


def test_scripts_of_others_do_not_run(operator: Browser) -> None:
    """What the policy is for: an inline script is refused, and the console says so."""
    operator.driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.ran = true';"
        "document.body.append(s);"
    )
    assert operator.driver.execute_script("return window.ran") is None
    complaints = operator.complaints()
    assert len(complaints) == 1
    assert "Content Security Policy" in complaints[0]


def test_the_card_of_a_tenant(browser: Browser) -> None:
    browser.go(browser.site.link("--tenant", "globex"))
    assert browser.driver.current_url.endswith("/card")
    assert "of 7 consumed" in browser.one(".stepquota-card").text
    assert browser.texts("button") == ["Sign out"]
    browser.go("/tenant?tenant=acme")
    browser.wait_for("This is for operators.")
    browser.go("/card?tenant=acme")
    browser.wait_for("This is not your tenant.")
    assert all("403" in complaint for complaint in browser.complaints())


def test_it_works_without_scripts(site: Site, browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.go(site.link("--operator", "alice"))
    browser.one("#search").send_keys("globex" + Keys.ENTER)
    browser.driver.find_element(By.LINK_TEXT, "globex").click()
    assert "00:00 UTC" in browser.one(".stepquota-card time").text
