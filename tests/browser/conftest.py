"""Fixtures: a real Chromium, and pages that note what a page must never do."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.stack_fixtures import REQUIRE_VARIABLE

CHROMIUM = "/usr/bin/chromium"
WAIT_MS = 20_000
WIDE: ViewportSize = {"width": 1280, "height": 900}
PageOf = Callable[..., "Seen"]

expect.set_options(timeout=WAIT_MS)

LISTEN = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


@dataclass
class Seen:
    """A page, and what it did that can be wrong.

    Attributes:
        errors: exceptions that no script caught.
        foreign: requests that left the page's own origin.
        said: what the browser wrote into its console as an error; an answer of 4xx or 5xx does that too.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def open(self, url: str) -> Page:
        """Open an address; from then on every request elsewhere is noted."""
        origin = urlsplit(url).netloc

        def note(request: Any) -> None:
            if urlsplit(request.url).netloc not in (origin, ""):
                self.foreign.append(request.url)

        self.page.on("request", note)
        self.page.goto(url)
        return self.page

    def check(self) -> None:
        """Fail if the page threw, asked elsewhere, or broke its own content security policy."""
        violations = self.page.evaluate("window.violations ?? []")
        assert (self.errors, self.foreign, violations) == ([], [], [])
        assert not [text for text in self.said if "Content Security Policy" in text]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window; without one the tests skip, or fail where services are required."""
    if not shutil.which(CHROMIUM):
        if os.environ.get(REQUIRE_VARIABLE) == "1":
            pytest.fail(f"a browser is required, and there is no {CHROMIUM}: apt-get install chromium")
        pytest.skip(f"NO CHROMIUM: {CHROMIUM} is not installed")
    with sync_playwright() as playwright:
        # As root there is no sandbox, and the tests load nothing but our own page.
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page_of(browser: Browser) -> Iterator[PageOf]:
    """Make pages, each in a browser profile of its own; what a page must never do fails the test at its end."""
    seen: list[Seen] = []

    def make(**options: Any) -> Seen:
        context = browser.new_context(**{"viewport": WIDE, "timezone_id": "UTC", **options})
        context.set_default_timeout(WAIT_MS)
        context.add_init_script(LISTEN)
        mine = Seen(context.new_page())
        mine.page.on("pageerror", lambda error: mine.errors.append(str(error)))
        mine.page.on("console", lambda message: mine.said.append(message.text) if message.type == "error" else None)
        seen.append(mine)
        return mine

    yield make
    for each in seen:
        each.check()
        each.page.context.close()


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address of the page on a real gateway that has no Kafka and no worker: the page itself needs neither."""
    with running_gateway("127.0.0.1:1") as gateway:
        eventually(lambda: get_text(gateway.url("/dashboard")), what="the page")
        yield gateway.url("/dashboard")


def get_text(url: str) -> str:
    """Return what an address answers."""
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
        return text
