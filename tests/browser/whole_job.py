"""A whole job behind the page, what was sent to it, and what the page says, as numbers."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Page

from streams.topics import USER_TAGS
from tests.fault.ports import ports_in_a_row
from tests.support.bad_records import throw
from tests.support.builders import a_user_tag, record_bytes
from tests.support.job import Door, Job
from tests.support.oracle import Oracle

TOTAL = r"([\d,]+) (?:events|price) from"


@dataclass
class Scene:
    """A running job, and the oracle of every event that this test module has sent."""

    job: Job
    door: Door
    oracle: Oracle = field(default_factory=Oracle)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, **fields: str) -> str:
        """Return the address of the page on the gateway."""
        return f"http://127.0.0.1:{self.job.port}/dashboard?{urlencode(fields)}"

    def send(self, **overrides: Any) -> dict[str, Any]:
        """Send one event of now, unless *overrides* say otherwise; it is stored when this returns."""
        tag = a_user_tag(**{"time": moment(), **overrides})
        with self.lock:  # Before it is sent, so that the page is never ahead of the oracle.
            self.oracle.add(record_bytes(tag), self.oracle.records)
        self.door.send(tag)
        return tag

    def throw(self, value: bytes, *, partition: int) -> int:
        """Write a record past the gateway, as a producer of somebody else does; return its offset."""
        servers = self.job.services()["TALLY_KAFKA_SERVERS"]
        with ThreadPoolExecutor(1) as thread:  # The browser's driver holds this thread's event loop.
            (offset,) = thread.submit(throw, servers, USER_TAGS.topic, [(b"k", value)], partition=partition).result()
        return offset

    def totals(self, **filters: str) -> dict[str, dict[str, tuple[int, int]]]:
        """Return (count, sum) by action and minute (`HH:MM`) of the events sent so far that match."""
        names = ("action", "origin", "brand_id", "category_id")
        found: dict[str, dict[str, tuple[int, int]]] = {}
        with self.lock:
            for cell, (count, price) in self.oracle.totals().items():
                if all(cell[1 + names.index(name)] == value for name, value in filters.items()):
                    minutes = found.setdefault(cell[1], {})
                    before = minutes.get(cell[0][11:], (0, 0))
                    minutes[cell[0][11:]] = (before[0] + count, before[1] + price)
        return found

    def count(self, **filters: str) -> int:
        """Return how many events match."""
        return sum(count for minutes in self.totals(**filters).values() for count, _ in minutes.values())


@contextmanager
def running_scene(home: Path, *, workers: int) -> Iterator[Scene]:
    """Run a whole job; whatever happens, nothing of it is left at the end."""
    # A worker that is killed must find its port free when it starts again.
    settings = {"TALLY_WORKER_SESSION_TIMEOUT_S": "6", "TALLY_WEB_PORT": str(ports_in_a_row(workers))}
    job = Job(home, workers=workers, settings=settings)
    try:
        job.start()
        with closing(Door(job.port)) as door:
            yield Scene(job, door)
    finally:
        job.end()


def moment(minutes_ago: float = 0) -> str:
    """Return an event time, milliseconds and all."""
    at = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"


def total_of(page: Page) -> int | None:
    """Return the total that the chart's summary names; None while it names none."""
    text = page.evaluate(f"document.querySelector('#series .summary')?.textContent.match(/{TOTAL}/)?.[1] ?? null")
    return None if text is None else number(text)


def number(text: str) -> int:
    """Return what a formatted figure says; a dash, where there is no bucket, is nothing.

    >>> number("1,234"), number("–")
    (1234, 0)
    """
    return 0 if text == "–" else int(text.replace(",", ""))


def columns_of(page: Page) -> dict[str, dict[str, int]]:
    """Return figure by column and minute of the chart's table, zeros left out."""
    heads, *rows = page.locator("#series table tr").evaluate_all(
        "rows => rows.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    found = {head: {row[0].removesuffix(" (open)"): number(row[at]) for row in rows} for at, head in enumerate(heads) if at}
    return {head: {minute: figure for minute, figure in column.items() if figure} for head, column in found.items()}


def figures(totals: Mapping[str, Mapping[str, tuple[int, int]]], place: int) -> dict[str, dict[str, int]]:
    """Return counts (place 0) or sums (1) of totals, in the shape of `columns_of`."""
    return {key: {minute: each[place] for minute, each in minutes.items()} for key, minutes in totals.items()}


def download(page: Page, panel: str, form: str) -> Any:
    """Follow a panel's link; return rows of its CSV, each a dict, or its decoded JSON."""
    with page.expect_download() as waiting:
        page.locator(f"#{panel} .links").get_by_text(form, exact=True).click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    return json.loads(text) if form == "JSON" else list(csv.DictReader(io.StringIO(text)))
