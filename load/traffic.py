"""Send the Allezon mix at a steady rate, whatever the answers do, and have every answer judged.

One profile query to 10 tags, a little more than 10 s behind them; one aggregates query to 1,000 tags, of complete minutes as
soon as there are any.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np

from load.client import Client, Request
from load.events import START_MS, EventSource, GeneratedEvent, Mix
from load.measures import Measures
from load.oracle import PROFILE_FRESH_S, Oracle
from load.queries import ProfileQuery, draw_aggregates, draw_profile
from load.sent import SentTags
from streams.event_time import MINUTE_MS

TAGS_PER_PROFILE = 10
TAGS_PER_AGGREGATES = 1_000
TAG_TIMEOUT_S = 0.2
PROFILE_TIMEOUT_S = 0.2
AGGREGATES_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 0.5
PROFILE_DELAY_S = PROFILE_FRESH_S + TAG_TIMEOUT_S + 0.05
"""A user is asked for so long after one of its tags: as soon as one that was acknowledged in time must be in the profile."""
AGGREGATES_DELAY_MS = 60_250
"""A minute is asked for so long after its last tag, for the same reason."""
DRAWN_EVENTS = 256
"""Few enough that drawing them (1 ms) delays no request by much."""
REMEMBERED_TAGS_MAX = 1_000_000
TICK_S = 0.001
"""The event loop's timers are no finer: a shorter sleep would spin. So a request leaves up to this late, and that counts."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send.

    Attributes:
        host, port: of the gateway.
        rate: tags a second.
        seconds: for how long; None: until stopped.
        seed: of everything random.
        start_ms, step_ms: event time of the first tag (milliseconds since 1970), and how much later each next one is.
        mix: what the events are like.
        is_checked: answers are compared with the oracle; else only their shape is looked at.
    """

    host: str
    port: int
    rate: float
    seconds: float | None
    seed: int = 1
    start_ms: int = START_MS
    step_ms: float = 1.0
    mix: Mix = field(default_factory=Mix)
    is_checked: bool = True

    @property
    def url(self) -> str:
        """The gateway's address."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @property
    def tags(self) -> int | None:
        """How many tags are to be sent; None: no end."""
        return None if self.seconds is None else round(self.seconds * self.rate)


class DueProfile(NamedTuple):
    """What is remembered of a tag to ask for it later."""

    due_s: float
    cookie: str
    at_ms: int


class Traffic:
    """One run of a plan."""

    def __init__(self, plan: Plan, measures: Measures) -> None:
        self._plan = plan
        self._measures = measures
        self._client = Client(plan.host, plan.port)
        self._events = self._draw(EventSource(plan.seed, plan.mix))
        self._chance = random.Random(plan.seed)  # noqa: S311 - traffic, not secrets
        self._sent = SentTags(plan.start_ms, plan.step_ms)
        self._oracle = Oracle(self._sent)
        self._due: deque[DueProfile] = deque(maxlen=REMEMBERED_TAGS_MAX)
        self._stopped = False
        self._head_end = f" HTTP/1.1\r\nHost: {plan.url.removeprefix('http://')}\r\n"
        self._tag_head = f"POST /user_tags{self._head_end}Content-Type: application/json\r\nContent-Length: ".encode("ascii")

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    async def run(self) -> None:
        """Send everything at its time, and wait for the last answers."""
        start_s, number, tags = perf_counter(), 0, self._plan.tags
        try:
            while not self._stopped and (tags is None or number < tags):
                due_s = start_s + number / self._plan.rate
                delay_s = due_s - perf_counter()
                if delay_s > 0:
                    await asyncio.sleep(max(delay_s, TICK_S))
                    continue
                self._send_tag(due_s)
                number += 1
                if number % TAGS_PER_PROFILE == 0:
                    self._send_profile(due_s)
                if number % TAGS_PER_AGGREGATES == 0:
                    self._send_aggregates(due_s, number)
                if number % DRAWN_EVENTS == 0:
                    await asyncio.sleep(0)  # Being late is no reason not to read answers.
            await self._answered()
        finally:
            await self._client.close()

    async def _answered(self) -> None:
        """Wait for the last answers; when the run was stopped, for those that are about to come."""
        ended_s = perf_counter()
        while self._client.waiting:
            if perf_counter() > ended_s + (STOP_TIMEOUT_S if self._stopped else AGGREGATES_TIMEOUT_S):
                return
            await asyncio.sleep(0.01)

    @property
    def waiting(self) -> int:
        """Requests without an answer so far."""
        return self._client.waiting

    def _draw(self, source: EventSource) -> Iterator[GeneratedEvent]:
        first = 0
        while True:
            numbers = np.arange(first, first + DRAWN_EVENTS)
            yield from source.draw(self._plan.start_ms + (numbers * self._plan.step_ms).astype(np.int64))
            first += DRAWN_EVENTS

    def _send_tag(self, due_s: float) -> None:
        event = next(self._events)
        self._due.append(DueProfile(due_s, event.cookie.decode("ascii"), event.at_ms))
        data = b"%b%d\r\n\r\n%b" % (self._tag_head, len(event.body), event.body)
        number: int | None = None
        if self._plan.is_checked:
            number = self._sent.add(event.cookie, event.at_ms, event.body, sent_s=perf_counter())

        def done(status: int, body: bytes) -> None:
            now_s = perf_counter()
            if status == 204 and number is not None:
                self._sent.acknowledge(number, now_s)
            right = status == 204 and not body
            self._measures.add("tags", status, latency_s=now_s - due_s, right=right, timeout_s=TAG_TIMEOUT_S)

        self._client.send(Request(data, due_s, TAG_TIMEOUT_S, done))

    def _send_profile(self, due_s: float) -> None:
        tag: DueProfile | None = None
        for _ in range(TAGS_PER_PROFILE):
            if self._due and self._due[0].due_s <= due_s - PROFILE_DELAY_S:
                tag = self._due.popleft()
        if tag is None or tag.at_ms < self._sent.since_ms:
            return
        drawn = draw_profile(tag.cookie, tag.at_ms, self._chance)
        query = ProfileQuery(drawn.cookie, max(drawn.start_ms, self._sent.since_ms), drawn.end_ms, drawn.limit)
        asked_s = perf_counter()

        def is_right(body: bytes) -> bool:
            if self._plan.is_checked:
                return self._oracle.accepts_profile(query, body, asked_s=asked_s)
            return query.read(body) is not None

        self._send_query("profiles", query.target(), due_s, PROFILE_TIMEOUT_S, is_right)

    def _send_aggregates(self, due_s: float, number: int) -> None:
        newest_ms = self._plan.start_ms + int(number * self._plan.step_ms)
        first, end = self._plan.start_ms // MINUTE_MS, (newest_ms - AGGREGATES_DELAY_MS) // MINUTE_MS
        if end <= first:  # no minute is complete yet: of the open ones at least the old part is known
            end = newest_ms // MINUTE_MS + 1
        query = draw_aggregates(first, end, self._chance)
        asked_s = perf_counter()

        def is_right(body: bytes) -> bool:
            if self._plan.is_checked:
                return self._oracle.accepts_aggregates(query, body, asked_s=asked_s)
            return query.read(body) is not None

        self._send_query("aggregates", query.target(), due_s, AGGREGATES_TIMEOUT_S, is_right)

    def _send_query(self, kind: str, target: str, due_s: float, timeout_s: float, is_right: Callable[[bytes], bool]) -> None:
        def done(status: int, body: bytes) -> None:
            latency_s = perf_counter() - due_s  # before the judging, which is not the gateway's time
            right = status == 200 and is_right(body)
            self._measures.add(kind, status, latency_s=latency_s, right=right, timeout_s=timeout_s)
            if status == 200 and not right:
                self._measures.show(target, body)

        data = f"POST {target}{self._head_end}Content-Length: 0\r\n\r\n".encode("ascii")
        self._client.send(Request(data, due_s, timeout_s, done))
