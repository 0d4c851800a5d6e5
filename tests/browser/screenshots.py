"""Take the pictures of docs/images from a job with traffic: `python -m tests.browser.screenshots [address of the page]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.browser.conftest import CHROMIUM

FOLDER = Path(__file__).parents[2] / "docs" / "images"
ADDRESS = "http://127.0.0.1:8080/dashboard"
QUERY = "by=action&range=15m"
WIDE: ViewportSize = {"width": 1280, "height": 840}
PICTURES: dict[str, dict[str, Any]] = {
    "dashboard.png": {"viewport": WIDE, "color_scheme": "light"},
    "dashboard-dark.png": {"viewport": WIDE, "color_scheme": "dark"},
    "dashboard-phone.png": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "is_mobile": True},
}
BYTES_MAX = 200_000
STREAMED_MS = 20_000
"""Until the line of events a second has a shape."""
READY_MS = 60_000
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
WEIGHT = "performance.getEntriesByType('resource').reduce((sum, each) => sum + each.encodedBodySize, 0)"


def main(address: str) -> int:
    """Take every picture; return how many are too large for a README."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        large = [name for name, options in PICTURES.items() if take(browser, f"{address}?{QUERY}", name, options) > BYTES_MAX]
        browser.close()
    return len(large)


def take(browser: Browser, address: str, name: str, options: dict[str, Any]) -> int:
    """Take one picture of the page as it is once everything is there; return its bytes."""
    page = browser.new_page(timezone_id="UTC", reduced_motion="reduce", **options)
    page.goto(address)
    wait(page)
    target = FOLDER / name
    page.screenshot(path=target)
    size = target.stat().st_size
    paint_ms, weight = page.evaluate(PAINT), page.evaluate(WEIGHT)
    sys.stdout.write(f"{name}: {size} bytes; first paint {paint_ms:.0f} ms, {weight} bytes sent\n")
    page.close()
    return size


def wait(page: Page) -> None:
    """Wait until the panels are whole and the stream has run for a while."""
    for panel in ("series", "top", "health"):
        expect(page.locator(f"#{panel}")).to_have_attribute("data-state", "ready", timeout=READY_MS)
    page.wait_for_timeout(STREAMED_MS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ADDRESS))
