"""Everybody can use the page: by keyboard, by screen reader, on a phone, in the dark, without motion."""

from __future__ import annotations

from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.acting import Acting
from tests.browser.conftest import PageOf
from tests.browser.test_states import TRICKY, opened, shows

QUERY = "by=origin&origin=CAMPAIGN_1&cookie=anna&event_partition=1&event_offset=7"
TABS_MAX = 150
STATES: dict[str, dict[str, Any]] = {
    "ready": {},
    "partial": {"missing": (1, 3)},
    "failed": {"failing": {"series", "top", "user", "where", "dead-letters"}},
    "empty": {
        "changed": {
            "series": {"series": []},
            "top": {"rows": []},
            "user": {"views": [], "buys": []},
            "dead-letters": {"groups": [], "samples": []},
        }
    },
}


def violations(page: Page) -> list[tuple[str, str, list[Any]]]:
    """Return what axe-core finds: rule, impact, and where."""
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page_of: PageOf, site: str, *, scheme: str, state: str) -> None:
    """Contrast, names, roles and structure, in both themes and in every state that a panel has."""
    page = opened(page_of, Acting(**STATES[state]), f"{site}?{QUERY}", color_scheme=scheme, reduced_motion="reduce")
    shows(page, "series", state)
    shows(page, "top", state)
    shows(page, "user", state)
    assert violations(page) == []
    if state == "ready":
        page.get_by_role("button", name="Table").click()
        page.get_by_text("Own range").click()
        assert violations(page) == []


@pytest.mark.parametrize("state", STATES)
def test_no_horizontal_scroll_at_320_px(page_of: PageOf, site: str, state: str) -> None:
    """WCAG 1.4.10: the narrowest phone, or 400 % zoom; a long value breaks or scrolls in a box of its own."""
    long = [{"key": "x" * 512, "count": 3, "sum_price": 3, "share": 0.5}]
    acting = Acting(**STATES[state])
    if state == "ready":
        acting.changed = {"top": {"rows": long}}
    page = opened(page_of, acting, f"{site}?{QUERY}&brand_id={'y' * 512}", viewport={"width": 320, "height": 640})
    shows(page, "top", state)
    shows(page, "series", state)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    page.get_by_text("Own range").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_keyboard_reaches_and_uses_every_control(page_of: PageOf, site: str) -> None:
    """From the top to the end by Tab, focus always visible; then a filter is set and removed without a mouse."""
    acting = Acting()
    page = opened(page_of, acting, f"{site}?{QUERY}")
    for panel in ("series", "top", "user", "where", "dead"):
        shows(page, panel, "ready")
    page.get_by_role("button", name="Pause").click()  # What is filled anew meanwhile would be counted twice.
    page.evaluate("document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0)")
    controls = page.locator("a:visible, button:visible, input:visible, select:visible, summary:visible, [tabindex='0']:visible")
    wanted = controls.evaluate_all("all => all.forEach((each, at) => each.dataset.walk = at) || all.length")
    reached = set[str]()
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        at, outline = page.evaluate(
            "[document.activeElement.dataset.walk ?? null, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if at is not None:
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
            reached.add(at)
    assert reached >= {str(number) for number in range(wanted)}


def test_filter_is_set_and_removed_by_keyboard(page_of: PageOf, site: str) -> None:
    """The focus is where it was after the panel was filled anew, or one would start at the top each time."""
    page = opened(page_of, Acting(), site)
    shows(page, "top", "ready")
    page.locator("input[name=filter-value]").focus()
    page.keyboard.type(TRICKY)
    page.keyboard.press("Enter")
    expect(page.locator(".chip-value")).to_have_text(TRICKY)
    expect(page.locator("input[name=filter-value]")).to_be_focused()
    page.get_by_role("button", name="Remove the filter").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".chips")).to_have_count(0)
    button = page.get_by_role("button", name="6 h", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(button).to_be_focused()


def test_chart_is_read_by_arrow_keys(page_of: PageOf, site: str) -> None:
    """The cursor is a slider whose text is what the legend shows: a reader hears each bucket."""
    page = opened(page_of, Acting(), f"{site}?by=action")
    shows(page, "series", "ready")
    cursor = page.get_by_role("slider")
    cursor.focus()
    page.keyboard.press("Home")
    first = page.locator("#series tbody tr").last.locator("th, td").all_text_contents()
    expect(cursor).to_have_attribute("aria-valuetext", f"{first[0]}: VIEW: {first[1]}, BUY: {first[2]}")
    page.keyboard.press("ArrowRight")
    second = page.locator("#series tbody tr").nth(-2).locator("th, td").all_text_contents()
    expect(cursor).to_have_attribute("aria-valuetext", f"{second[0]}: VIEW: {second[1]}, BUY: {second[2]}")
    assert page.locator(".legend-value").all_text_contents() == second[1:]
    assert page.locator(".plot").get_attribute("aria-hidden") == "true"


def test_theme_follows_the_system_until_one_is_chosen(page_of: PageOf, site: str) -> None:
    """A choice outlives a reload, and is there before the first paint."""
    page = opened(page_of, Acting(), site, color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.reload()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_nothing_moves_for_those_who_asked_for_it(page_of: PageOf, site: str) -> None:
    """WCAG 2.3.3, by the system's own setting."""
    page = opened(page_of, Acting(), site, reduced_motion="reduce")
    shows(page, "series", "ready")
    assert page.evaluate("document.getAnimations().length") == 0
