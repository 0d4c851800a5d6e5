"""What the browser loads: all of it from us, safely, small, and asked for once."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from dashboard.files import SECURITY_HEADERS, read_files
from tests.browser.acting import Acting
from tests.browser.conftest import PageOf, get_text
from tests.browser.test_states import shows
from tests.support.eventually import eventually
from tests.tidy.test_hygiene import SCRIPT_BYTES_MAX

log = logging.getLogger(__name__)

PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
LOADED = "performance.getEntriesByType('resource').map((each) => each.toJSON())"


def test_everything_comes_from_the_own_origin_in_time(
    page_of: PageOf, site: str, record_property: Callable[[str, object], None]
) -> None:
    """No build, no network of others: it works where there is none. First paint is told, for it depends on the machine."""
    seen = page_of()
    Acting().behind(seen.page)
    page = seen.open(site)
    shows(page, "series", "ready")
    expect(page.locator("#series canvas")).to_be_visible()
    loaded = {each["name"].rsplit("/", 1)[1]: each for each in page.evaluate(LOADED) if "/assets/" in each["name"]}
    scripts = sum(each["decodedBodySize"] for name, each in loaded.items() if name.endswith(".js"))
    assert {name for name in read_files() if name.endswith((".js", ".css"))} <= set(loaded)
    assert scripts < SCRIPT_BYTES_MAX
    paint_ms = page.evaluate(PAINT)
    sent = sum(each["encodedBodySize"] for each in loaded.values())
    record_property("script_bytes", scripts)
    record_property("first_paint_ms", paint_ms)
    log.info("scripts %d bytes, sent %d bytes in all, first paint %.0f ms", scripts, sent, paint_ms)
    assert seen.foreign == []


def test_inline_script_and_style_do_not_run(page_of: PageOf, site: str) -> None:
    """The policy is the second wall behind text-only rendering, so it is tried, not only sent."""
    seen = page_of()
    Acting().behind(seen.page)
    page = seen.open(site)
    shows(page, "series", "ready")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))")
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = true\">')")
    eventually(lambda: page.evaluate("window.violations.length >= 2"), what="two reports of the policy")
    assert page.evaluate("window.ran") is None
    page.evaluate("window.violations = []")
    seen.said.clear()


@pytest.mark.parametrize("path", ["", "/assets/app.js", "/assets/style.css", "/assets/icon.svg"])
def test_each_file_carries_the_headers_and_is_sent_once(site: str, path: str) -> None:
    """The second request says what it has, and gets 304 without a body."""
    with urllib.request.urlopen(site + path) as response:
        headers = response.headers
        assert {name: headers[name] for name in SECURITY_HEADERS} == dict(SECURITY_HEADERS)
    request = urllib.request.Request(site + path, headers={"If-None-Match": headers["ETag"]})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    with error.value as answer:
        assert (answer.code, answer.read()) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.js", "..%2Ffiles.py", "%2e%2e/files.py", "files.py"])
def test_nothing_else_is_served(site: str, name: str) -> None:
    """Names are looked up in a list, never joined to a path."""
    with pytest.raises(urllib.error.HTTPError) as error:
        get_text(f"{site}/assets/{name}")
    with error.value as answer:
        assert answer.code == 404
        assert b'"not_found"' in answer.read()
