"""The page says what it knows and what it does not: loading, empty, partial, stale, failed, and back again."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.browser import answers
from tests.browser.acting import Acting
from tests.browser.conftest import PageOf
from tests.support.eventually import eventually

NOW = datetime(2026, 3, 29, 0, 30, 20, tzinfo=UTC)
"""Half an hour before clocks in Europe jump from 02:00 to 03:00."""
HOSTILE = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=2</script>&amp; 'q' %00 \u202e\U0001f4a5"
TRICKY = "a&b=c/d%20\"e'?#+ \U0001f4a5ż"
RECOVERED_WITHIN_MS = 15_000


def state_of(page: Page, panel: str) -> Any:
    return expect(page.locator(f"#{panel}"))


def shows(page: Page, panel: str, state: str) -> None:
    """Wait until a panel is in a state."""
    state_of(page, panel).to_have_attribute("data-state", state, timeout=RECOVERED_WITHIN_MS)


def query_of(page: Page) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(page.url).query, keep_blank_values=True))


@pytest.fixture
def acting() -> Acting:
    """The data of a healthy system."""
    return Acting()


def opened(page_of: PageOf, acting: Acting, url: str, **options: Any) -> Page:
    """Open the page in front of *acting*."""
    seen = page_of(**options)
    acting.behind(seen.page)
    return seen.open(url)


def test_every_figure_of_an_answer_is_on_the_page(page_of: PageOf, acting: Acting, site: str) -> None:
    """Chart, hidden table, legend and summary are made of the same columns, so the table stands for what the canvas shows."""
    page = opened(page_of, acting, f"{site}?by=action")
    shows(page, "series", "ready")
    said = answers.series(acting.now, acting.fields_of("series"))
    totals = {each["key"]: sum(point[1] for point in each["points"]) for each in said["series"]}
    assert page.locator(".legend-value").all_text_contents() == [f"{total:,}" for total in totals.values()]
    expect(page.locator("#series .summary")).to_contain_text(f"{sum(totals.values()):,} events from")
    rows = [row.split("\t") for row in page.locator("#series tbody").inner_text().splitlines()]
    wanted: dict[int, list[str]] = {point[0]: [] for point in said["series"][0]["points"]}
    for each in said["series"]:
        for at, count, _ in each["points"]:
            wanted[at].append(f"{count:,}")
    found = {row[0].removesuffix(" (open)"): row[1:] for row in rows}
    assert found == {f"{datetime.fromtimestamp(at, UTC):%H:%M}": counts for at, counts in wanted.items()}
    assert [row[0] for row in rows if "open" in row[0]] == [f"{acting.now:%H:%M} (open)"]


def test_partial_answer_gives_no_total(page_of: PageOf, acting: Acting, site: str) -> None:
    """The sum of some partitions is a wrong number, however well it is labelled: none is shown until all are back."""
    page = opened(page_of, acting, site)
    shows(page, "top", "ready")
    expect(page.locator("#top .sum-row")).to_have_count(2)
    acting.missing = (1, 3)
    shows(page, "series", "partial")
    shows(page, "top", "partial")
    expect(page.locator("#series .notice")).to_contain_text("partitions 1, 3 did not answer")
    expect(page.locator("#series .summary")).not_to_contain_text(re.compile(r"\d,\d{3} events"))
    expect(page.locator(".legend-value")).to_have_text("–")
    expect(page.locator("#top .sum-row")).to_have_count(0)
    expect(page.locator("#tile-whole .figure")).to_have_text("partial")
    expect(page.locator("#tile-rate .figure")).to_contain_text("≥")
    expect(page.locator("#health .missing")).to_have_count(2)
    acting.missing = ()
    shows(page, "series", "ready")
    shows(page, "top", "ready")
    expect(page.locator("#series .notice")).to_be_hidden()


def test_failed_panel_says_why_and_recovers(page_of: PageOf, acting: Acting, site: str) -> None:
    """A panel that never had an answer shows the reason; one that had keeps its figures, called old; both try again."""
    acting.failing = {"series"}
    page = opened(page_of, acting, site)
    shows(page, "series", "failed")
    expect(page.locator("#series .notice")).to_contain_text("Could not be read: partitions 1, 3 have no ready owner")
    shows(page, "top", "ready")
    acting.failing = {"top"}
    shows(page, "series", "ready")
    shows(page, "top", "stale")
    expect(page.locator("#top .notice")).to_contain_text("newer ones could not be read")
    expect(page.locator("#top tbody tr")).to_have_count(12)
    acting.failing = set()
    page.locator("#top .notice button").click()
    shows(page, "top", "ready")


def test_empty_system_offers_a_command_and_ends_by_itself(page_of: PageOf, acting: Acting, site: str) -> None:
    """The first thing that somebody sees: what to do, and then that it worked, without a reload."""
    acting.changed = {"series": {"series": [{"key": None, "points": []}]}, "top": {"rows": []}}
    page = opened(page_of, acting, site)
    shows(page, "series", "empty")
    command = page.locator("#series pre").inner_text()
    assert command.startswith(f"curl -i {site.removesuffix('/dashboard')}/user_tags -d '")
    event = json.loads(command.split("-d ")[1].strip("'"))
    assert {"time", "cookie", "country", "device", "action", "origin", "product_info"} == set(event)
    acting.changed = {}
    acting.now += timedelta(seconds=1)
    shows(page, "series", "ready")
    expect(page.locator("#series pre")).to_have_count(0)


def test_filters_live_in_the_address(page_of: PageOf, acting: Acting, site: str) -> None:
    """A link shares what one sees, a reload keeps it, the back button undoes it, whatever the value holds."""
    acting.changed = {"top": {"rows": [{"key": TRICKY, "count": 3, "sum_price": 3, "share": 0.5}]}}
    page = opened(page_of, acting, site)
    page.get_by_role("button", name=TRICKY).click()
    expect(page.locator(".chip-value")).to_have_text(TRICKY)
    assert query_of(page) == {"origin": TRICKY}
    shows(page, "series", "ready")
    assert acting.fields_of("series")["origin"] == TRICKY
    page.get_by_role("button", name="6 h", exact=True).click()
    page.reload()
    expect(page.locator(".chip-value")).to_have_text(TRICKY)
    expect(page.get_by_role("button", name="6 h", exact=True)).to_have_attribute("aria-pressed", "true")
    page.go_back()
    expect(page.get_by_role("button", name="1 h", exact=True)).to_have_attribute("aria-pressed", "true")
    page.go_back()
    expect(page.locator(".chips")).to_have_count(0)
    shows(page, "series", "ready")
    assert "origin" not in acting.fields_of("series")
    page.go_forward()
    expect(page.locator(".chip-value")).to_have_text(TRICKY)


def test_empty_text_is_a_value_to_filter_by(page_of: PageOf, acting: Acting, site: str) -> None:
    """An origin may be empty, and is then not the same as no filter."""
    page = opened(page_of, acting, f"{site}?origin=")
    shows(page, "series", "ready")
    expect(page.locator(".chip-value")).to_have_text("(empty)")
    assert acting.fields_of("series")["origin"] == ""


def test_hostile_values_are_text(page_of: PageOf, acting: Acting, site: str) -> None:
    """Whoever may send an event must not be able to run a script in the browser of whoever looks at it."""
    acting.changed = {
        "top": {"rows": [{"key": HOSTILE, "count": 3, "sum_price": 3, "share": 0.5}]},
        "series": {"series": [{"key": HOSTILE, "points": [[int(acting.now.timestamp()) // 60 * 60, 3, 3]]}]},
        "dead-letters": {
            "groups": [{"reason": HOSTILE, "stage": HOSTILE, "count": 1, "first_at": HOSTILE, "last_at": None}],
            "samples": [{"topic": HOSTILE, "partition": 0, "offset": 1, "reason": HOSTILE, "detail": HOSTILE, "at": HOSTILE}],
        },
        "where": {"verdict": HOSTILE, "sentence": HOSTILE, "steps": [{"where": HOSTILE, "found": True, "text": HOSTILE}]},
        "user": {"views": [{"time": HOSTILE, "cookie": HOSTILE, "action": HOSTILE, "product_info": {HOSTILE: HOSTILE}}]},
        "live": {"workers": [{"url": HOSTILE, "ready": True, "partitions": [], "events_per_s": 1, "lag_records": 0}]},
    }
    page = opened(page_of, acting, f"{site}?by=origin&event_partition=0&event_offset=1")
    page.locator("#user input").fill(HOSTILE)
    page.locator("#user").get_by_role("button", name="Show").click()
    for panel in ("series", "top", "dead", "where", "user", "health"):
        expect(page.locator(f"#{panel}")).to_contain_text(HOSTILE)
    assert query_of(page)["cookie"] == HOSTILE
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.pwned") is None


def test_dead_letter_is_followed_in_its_own_topic(page_of: PageOf, acting: Acting, site: str) -> None:
    """The same place of another topic is another event; what the gateway dropped lies in no topic and cannot be followed."""
    sample = {"partition": 2, "offset": 7, "reason": "time", "detail": "d", "at": answers.text_of(acting.now)}
    acting.changed["dead-letters"] = {"samples": [sample | {"topic": topic} for topic in ("events.v1", "/v1/events")]}
    page = opened(page_of, acting, site)
    expect(page.locator("#dead .samples li")).to_have_count(2)
    follow = page.locator("#dead .samples").get_by_role("button", name="Follow it")
    expect(follow).to_have_count(1)
    follow.click()
    expect(page.locator("#where .verdict .badge")).to_have_text("counted")
    assert acting.fields_of("where") == {"topic": "events.v1", "partition": "2", "offset": "7"}


def test_poll_takes_over_where_no_stream_is(page_of: PageOf, acting: Acting, site: str) -> None:
    """Some proxies hold streams back; the figures then come every ten seconds, and the page says so."""
    acting.streams = False
    page = opened(page_of, acting, site)
    expect(page.locator("#connection")).to_have_attribute("data-mode", "poll")
    expect(page.locator("#tile-fresh .figure")).to_contain_text("ago")
    page.evaluate(
        "window.modes = []; new MutationObserver(() => modes.push(connection.dataset.mode))"
        ".observe(connection, {attributes: true})"
    )
    acting.streams = True
    # Each stream of samples ends after a word, so it does not stay so.
    eventually(lambda: page.evaluate("modes.includes('stream')"), what="a stream")


def test_old_figures_turn_into_a_warning(page_of: PageOf, acting: Acting, site: str) -> None:
    """Freshness is the first thing to doubt: past ten seconds it is a warning, past a minute worse, and then good again."""
    page = opened(page_of, acting, site)
    tile = expect(page.locator("#tile-fresh"))
    for seconds, state in ((2, "good"), (30, "warn"), (200, "bad"), (2, "good")):
        acting.freshness_s = seconds
        acting.now += timedelta(seconds=1)
        tile.to_have_attribute("data-state", state)


def test_paused_page_stays_as_it_is(page_of: PageOf, acting: Acting, site: str) -> None:
    """WCAG 2.2.2: what moves by itself can be stopped; nothing is asked for meanwhile, and going on is one press."""
    page = opened(page_of, acting, site)
    shows(page, "top", "ready")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_have_text("paused")
    before, asked = page.locator("main").inner_text(), len(acting.asked)
    acting.changed = {"live": {"events_per_s": 77_777}}
    acting.now += timedelta(minutes=1)
    page.wait_for_timeout(2_500)  # Longer than the stream takes to speak again: nothing may come of it.
    assert page.locator("main").inner_text() == before
    assert len(acting.asked) == asked
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#tile-rate .figure")).to_have_text("77,777")


def test_zone_changes_labels_and_no_bucket(page_of: PageOf, site: str) -> None:
    """Across the change of clocks too: the same counts stand beside other names."""
    acting = Acting(now=NOW + timedelta(hours=1))
    page = opened(page_of, acting, site, timezone_id="Europe/Warsaw")
    shows(page, "series", "ready")
    in_utc = [row.split("\t") for row in page.locator("#series tbody").inner_text().splitlines()]
    page.get_by_role("button", name="UTC").click()
    expect(page.locator("#series thead th").first).to_have_text("Time (local time)")
    local = [row.split("\t") for row in page.locator("#series tbody").inner_text().splitlines()]
    assert [row[1] for row in local] == [row[1] for row in in_utc]
    names = [row[0].removesuffix(" (open)") for row in local]
    assert (names[-1], names[0]) == ("01:31", "03:30")
    assert ("01:59", "03:00") in pairwise(reversed(names))
    page.reload()
    expect(page.locator("#zone")).to_have_text("Local time")


def test_screen_reader_is_told_at_most_every_ten_seconds(page_of: PageOf, acting: Acting, site: str) -> None:
    """A live region that speaks each second cannot be worked beside; what changes meanwhile is said together."""
    seen = page_of()
    seen.page.clock.install(time=acting.now)
    acting.behind(seen.page)
    page = seen.open(site)
    shows(page, "top", "ready")
    page.evaluate(
        "window.said = []; new MutationObserver(() => said.push([performance.now(), announcements.textContent]))"
        ".observe(announcements, {childList: true, characterData: true, subtree: true})"
    )

    def has_said_enough() -> bool:
        acting.missing = () if acting.missing else (1,)
        acting.now += timedelta(seconds=3)
        page.clock.run_for(3_000)
        enough: bool = page.evaluate("said.length >= 3 && said.some(([, text]) => text.includes('partial'))")
        return enough

    eventually(has_said_enough, within_s=60, what="three announcements, one of them of what is partial")
    said = page.evaluate("said")
    assert all(later[0] - earlier[0] >= 9_999 for earlier, later in pairwise(said)), said
