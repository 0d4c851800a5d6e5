"""The page before a whole job, as `make run` starts it: what it says is what was sent, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import WIDE, PageOf
from tests.browser.test_states import HOSTILE, TRICKY, query_of, shows
from tests.browser.whole_job import Scene, columns_of, download, figures, moment, running_scene, total_of
from tests.support.eventually import eventually
from tests.support.job import Door
from tests.support.proxy import Proxy

WORKERS = 2
SHOWN_WITHIN_MS = 30_000
WHOLE_WITHIN_MS = 120_000
LIVE_EVENTS_MAX = 20_000
LIVE_PAUSE_S = 0.005
TOTALS_SEEN_MIN = 4
FORMULA = "=1+1"
pytestmark = pytest.mark.timeout(400)


@dataclass
class FirstEvent:
    """What an empty page offered, and the events that it showed after its command was run."""

    command: str
    shown: int | None


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """A whole job with two workers; tests tell their events apart by brands of their own."""
    folder = Path(tempfile.mkdtemp(prefix="tally-page-"))
    with running_scene(folder / "home", workers=WORKERS) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def first_event(scene: Scene, browser: Browser) -> FirstEvent:
    """The page before anything was sent, while its own command sends the first event; before all other tests."""
    page = browser.new_page(viewport=WIDE)
    page.goto(scene.url())
    shows(page, "series", "empty")
    command = page.locator("#series pre").inner_text()
    scene.door.send(json.loads(command.split(" -d ")[1].strip("'")))
    shows(page, "series", "ready")
    shown = total_of(page)
    page.context.close()
    return FirstEvent(command, shown)


@pytest.fixture(autouse=True)
def after_the_first(first_event: FirstEvent) -> None:
    """An empty system is empty once."""


def test_command_of_the_empty_page_makes_the_first_event_appear(scene: Scene, first_event: FirstEvent) -> None:
    """Without a reload; and the command goes where the page came from."""
    assert first_event.command.startswith(f"curl -i http://127.0.0.1:{scene.job.port}/user_tags ")
    assert first_event.shown == 1


def test_figures_equal_the_oracle_under_live_traffic(scene: Scene, page_of: PageOf) -> None:
    """While events come in the total only grows and never runs ahead; then each minute, each sum and both sources agree."""
    brand = "live"
    page = page_of().open(scene.url(brand_id=brand, by="action", range="15m"))
    enough, seen = threading.Event(), [0]
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send_many, scene, brand, enough)
        try:
            while len(set(seen)) < TOTALS_SEEN_MIN and not sending.done():
                shown = total_of(page) or 0
                assert seen[-1] <= shown <= scene.count(brand_id=brand)
                seen.append(shown)
                page.wait_for_timeout(200)
        finally:
            enough.set()
        sent = sending.result()
    assert len(set(seen)) >= TOTALS_SEEN_MIN, "the page stood still"
    totals = scene.totals(brand_id=brand)
    shows_total(page, sent)
    assert columns_of(page) == figures(totals, 0)
    page.get_by_label("What is counted").select_option("sum")
    assert columns_of(page) == figures(totals, 1)
    page.get_by_label("What is counted").select_option("count")
    page.get_by_label("Source").select_option("postgres")
    expect(page.locator("#series .source")).to_contain_text("From Postgres")
    shows_total(page, sent)
    assert columns_of(page) == figures(totals, 0)
    origins = Counter({cell[2]: count for cell, (count, _) in scene.oracle.totals().items() if cell[3] == brand})
    rows = page.locator("#top tbody tr:not(.sum-row)")
    expect(rows).to_have_count(min(10, len(origins)))
    expect(page.locator("#top .sum-row").last).to_contain_text(f"{sent:,}")


def send_many(scene: Scene, brand: str, enough: threading.Event) -> int:
    """Send events of the last minutes, by several users, over a connection of one's own, until told; return how many."""
    with closing(Door(scene.job.port)) as door:
        mine = Scene(scene.job, door, scene.oracle, scene.lock)
        for at in range(LIVE_EVENTS_MAX):
            if enough.wait(LIVE_PAUSE_S):
                return at
            action = "BUY" if at % 5 == 0 else "VIEW"
            time = moment(minutes_ago=at % 9)
            mine.send(brand_id=brand, action=action, time=time, cookie=f"user-{at % 40}", price=at, origin=brand)
    return LIVE_EVENTS_MAX


def shows_total(page: Page, total: int) -> None:
    """Wait until the chart's summary names a total."""
    expect(page.locator("#series .summary")).to_contain_text(f"{total:,} events from", timeout=SHOWN_WITHIN_MS)


def test_hostile_values_of_real_events_are_text_and_filter(scene: Scene, page_of: PageOf) -> None:
    """From the producer through Kafka, tables and JSON to the page: text all the way, and exact as a filter."""
    hostile = HOSTILE.replace("%00", "")
    brand = "hostile"
    for origin in (hostile, TRICKY, TRICKY):
        scene.send(cookie=hostile, origin=origin, brand_id=brand, category_id=hostile)
    page = page_of().open(scene.url(brand_id=brand))
    page.locator("#top").get_by_role("button", name=TRICKY).click(timeout=SHOWN_WITHIN_MS)
    shows_total(page, 2)
    assert query_of(page)["origin"] == TRICKY
    page.reload()
    shows_total(page, 2)
    page.go_back()
    shows_total(page, 3)
    page.locator("#user input").fill(hostile)
    page.locator("#user").get_by_role("button", name="Show").click()
    expect(page.locator("#user li")).to_have_count(3)
    expect(page.locator("#user .summary")).to_have_text("3 views, 0 buys, newest first, UTC")
    expect(page.locator("#user li").first).to_contain_text(hostile)
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("window.pwned") is None


def test_dead_letters_are_grouped_and_followed(scene: Scene, page_of: PageOf) -> None:
    """Two reasons, three records: groups, samples, and the way of one of them from its row."""
    offsets = [scene.throw(b"no JSON", partition=0), scene.throw(b"{}", partition=1), scene.throw(b"[]", partition=1)]
    page = page_of().open(scene.url(range="15m"))
    rows = page.locator("#dead tbody tr")
    expect(rows).to_have_count(2, timeout=SHOWN_WITHIN_MS)
    found = {row[0]: row[2] for row in (line.split("\t") for line in page.locator("#dead tbody").inner_text().splitlines())}
    assert found == {"schema": "2", "not_json": "1"}
    page.locator("#dead tbody").get_by_role("button", name="not_json").click()
    expect(page.locator("#dead .samples li")).to_have_count(1)
    assert query_of(page)["reason"] == "not_json"
    page.locator("#dead .samples").get_by_role("button", name="Follow it").click()
    assert query_of(page) | {"event_partition": "0", "event_offset": str(offsets[0])} == query_of(page)
    expect(page.locator("#where .verdict .badge")).to_have_text("dead letter")


def test_where_tells_counted_from_never_seen(scene: Scene, page_of: PageOf) -> None:
    """By user and time as well as by a place that does not exist: an answer, never an error."""
    tag = scene.send(cookie="looked-for", brand_id="where")
    page = page_of().open(scene.url())
    form = page.locator("#where form").first
    form.get_by_label("Cookie").fill("looked-for")
    form.get_by_label("Event time").fill(tag["time"])
    form.get_by_role("button", name="Look").click()
    verdict = page.locator("#where .verdict .badge")
    expect(verdict).to_have_text("counted", timeout=SHOWN_WITHIN_MS)
    expect(page.locator("#where .steps li.found").first).to_contain_text("Kafka")
    form.get_by_label("Cookie").fill("never-seen")
    form.get_by_role("button", name="Look").click()
    expect(verdict).to_have_text("not received")
    expect(page.locator("#where")).to_have_attribute("data-state", "ready")


def test_downloads_hold_what_is_shown(scene: Scene, page_of: PageOf) -> None:
    """Filters included, in both forms; and a spreadsheet runs no formula of a producer."""
    brand = "export"
    for at in range(7):
        scene.send(brand_id=brand, origin=FORMULA if at < 4 else "plain", action="BUY" if at == 2 else "VIEW", cookie="=cmd")
    page = page_of().open(scene.url(brand_id=brand, by="action", range="15m", cookie="=cmd"))
    shows_total(page, 7)
    page.get_by_role("button", name="Pause").click()  # Or the link is of the next range, a minute later.
    shown = columns_of(page)
    points = download(page, "series", "JSON")["series"]
    assert {each["key"]: sum(point[1] for point in each["points"]) for each in points} == {
        key: sum(minutes.values()) for key, minutes in shown.items()
    }
    rows = download(page, "series", "CSV")
    assert sum(int(row["count"]) for row in rows) == 7
    top = download(page, "top", "JSON")["rows"]
    assert {row["key"]: row["count"] for row in top} == {FORMULA: 4, "plain": 3}
    keys = {next(iter(row.values())) for row in download(page, "top", "CSV")}
    assert {f"'{FORMULA}", "plain"} <= keys
    assert len(download(page, "user", "JSON")["views"]) == 6


def test_cut_stream_is_opened_again(scene: Scene, page_of: PageOf) -> None:
    """A proxy's reset, and an outage longer than a retry: the page says so, and comes back by itself."""
    with Proxy(scene.job.port) as proxy:
        page = page_of().open(f"http://127.0.0.1:{proxy.port}/dashboard")
        mode = expect(page.locator("#connection"))
        mode.to_have_attribute("data-mode", "stream")
        proxy.reset()
        mode.to_have_attribute("data-mode", "lost")
        mode.to_have_attribute("data-mode", "stream")
        proxy.down()
        expect(page.locator("#tile-whole .figure")).to_have_text("unknown")
        proxy.heal()
        mode.to_have_attribute("data-mode", "stream", timeout=SHOWN_WITHIN_MS)
        expect(page.locator("#tile-whole .figure")).to_have_text("whole")


WATCH = """
window.totals = []; window.states = [];
const note = () => {
  const total = series.querySelector(".summary")?.textContent.match(/([\\d,]+) events from/);
  if (total) totals.push(total[1]);
  states.push(series.dataset.state);
};
new MutationObserver(note).observe(series, {subtree: true, childList: true, characterData: true, attributes: true});
"""


def test_killed_worker_never_makes_a_wrong_total(scene: Scene, page_of: PageOf) -> None:
    """Half the partitions are gone for a while: that is said, and no sum of the other half is ever called the total."""
    brand = "kept"
    for at in range(60):
        scene.send(brand_id=brand, cookie=f"kept-{at}")
    page = page_of().open(scene.url(brand_id=brand, range="15m"))
    shows_total(page, 60)
    expect(page.locator("#tile-whole .figure")).to_have_text("whole")
    page.evaluate(WATCH)
    pid, *_ = scene.job.pids("-m faust", "worker")
    os.kill(pid, signal.SIGKILL)
    expect(page.locator("#tile-whole .figure")).not_to_have_text("whole")
    expect(page.locator("#series")).to_have_attribute("data-state", "ready", timeout=WHOLE_WITHIN_MS)
    expect(page.locator("#tile-whole .figure")).to_have_text("whole", timeout=WHOLE_WITHIN_MS)
    eventually(lambda: len(scene.job.pids("-m faust", "worker")) == WORKERS, what="the worker started again")
    shows(page, "series", "ready")
    shows_total(page, 60)
    assert set(page.evaluate("totals")) <= {"60"}
    assert {"partial", "stale", "failed"} & set(page.evaluate("states"))


def test_many_tabs_all_stay_fresh(scene: Scene, browser: Browser) -> None:
    """A browser allows six connections a host; one that streams for ever in each tab would stop the seventh."""
    context = browser.new_context(viewport=WIDE)
    pages = [context.new_page() for _ in range(8)]
    for page in pages:
        page.goto(scene.url())
    for page in pages:
        shows(page, "series", "ready")
        expect(page.locator("#tile-fresh .figure")).to_contain_text("ago", timeout=SHOWN_WITHIN_MS)
    modes = Counter(page.locator("#connection").get_attribute("data-mode") for page in pages)
    assert set(modes) <= {"stream", "poll"}
    assert 1 <= modes["stream"] <= 4
    context.close()


def test_every_worker_serves_the_same_page(scene: Scene, page_of: PageOf) -> None:
    """Whoever has no gateway at hand opens a worker's port."""
    port = int(scene.job.environ["TALLY_WEB_PORT"]) + 1
    page = page_of().open(f"http://127.0.0.1:{port}/dashboard")
    shows(page, "series", "ready")
    expect(page.locator("#tile-whole .figure")).to_have_text("whole")
    expect(page.locator("#health tbody tr")).to_have_count(WORKERS)
