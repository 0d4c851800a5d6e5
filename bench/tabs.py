"""Hold dashboard tabs open as browsers do: a live stream each, and the questions that its panels ask again and again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from time import perf_counter

import aiohttp

from bench.progress import BenchError
from load.histogram import Histogram

API = "/dashboard/api"
QUESTIONS = ("series", "series?by=origin", "top?dimension=origin", "dead-letters")
ASK_INTERVAL_S = 10.0
OPEN_WITHIN_S = 30.0
EVENT = b"event: live"


class Tabs:
    """So many tabs of one gateway; read by a thread of their own.

    Attributes:
        told: events that each live stream has brought so far, by tab.
        asked: answers to questions, by status.
        latencies: of these.
    """

    def __init__(self, url: str, count: int, *, asks: bool) -> None:
        self._url = url + API
        self._count = count
        self._asks = asks
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._run, daemon=True)
        self._task: asyncio.Task[None] | None = None
        self.told: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        self.latencies = Histogram()
        self.error: Exception | None = None

    def start(self) -> None:
        """Open them, and return when each stream has told something.

        Raises:
            BenchError: one does not.
        """
        self._thread.start()
        until_s = perf_counter() + OPEN_WITHIN_S
        while len(self.told) < self._count:
            if self.error is not None or perf_counter() > until_s:
                raise BenchError(f"{len(self.told)} of {self._count} live streams tell something: {self.error!r}")
            self._thread.join(0.05)

    def end(self) -> None:
        """Close them."""
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def check(self, *, events_min: int) -> None:
        """Return when each stream has brought so many events, and every question was answered.

        Raises:
            BenchError: one has not, or was cut.
        """
        fewest = min(self.told.values(), default=0)
        if self.error is not None or fewest < events_min or set(self.asked) - {200}:
            raise BenchError(f"{fewest} events on a stream, answers {dict(self.asked)}, {self.error!r}")

    def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            self._task = self._loop.create_task(self._open())
            self._loop.run_until_complete(self._task)
        self._loop.close()

    async def _open(self) -> None:
        try:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                works = [self._listen(session, tab) for tab in range(self._count)]
                works += [self._ask(session, tab) for tab in range(self._count) if self._asks]
                await asyncio.gather(*works)
        except (aiohttp.ClientError, OSError) as error:
            self.error = error

    async def _listen(self, session: aiohttp.ClientSession, tab: int) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=OPEN_WITHIN_S)
        async with session.get(f"{self._url}/live", timeout=timeout, raise_for_status=True) as response:
            async for line in response.content:
                self.told[tab] += line.startswith(EVENT)
        raise aiohttp.ClientPayloadError("a live stream has ended")

    async def _ask(self, session: aiohttp.ClientSession, tab: int) -> None:
        """Ask what the panels ask; tabs were not opened all at the same moment."""
        await asyncio.sleep(ASK_INTERVAL_S * tab / self._count)
        while True:
            for question in QUESTIONS:
                started_s = perf_counter()
                async with session.get(f"{self._url}/{question}") as response:
                    await response.read()
                    self.asked[response.status] += 1
                self.latencies.add(perf_counter() - started_s)
            await asyncio.sleep(ASK_INTERVAL_S)


@contextmanager
def open_tabs(url: str, count: int, *, asks: bool) -> Iterator[Tabs]:
    """Have tabs open inside the block."""
    tabs = Tabs(url, count, asks=asks)
    try:
        tabs.start()
        yield tabs
    finally:
        tabs.end()
