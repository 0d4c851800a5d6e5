"""Send the Allezon mix at a steady rate, whatever the answers do.

One profile query to 10 tags, about 10 s behind them; one aggregates query to 1,000 tags, of complete minutes.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import NamedTuple

import numpy as np

from load.client import Client, Request
from load.events import START_MS, EventSource, GeneratedEvent, Mix
from load.measures import Measures
from load.queries import AggregatesQuery, is_profile, profile_target

TAGS_PER_PROFILE = 10
TAGS_PER_AGGREGATES = 1_000
PROFILE_DELAY_S = 10.0
"""A user's profile is asked for so long after one of its tags, which is how fresh it must be."""
AGGREGATES_DELAY_MS = 60_000
"""A minute is asked for so long after its last tag."""
TAG_TIMEOUT_S = 0.2
PROFILE_TIMEOUT_S = 0.2
AGGREGATES_TIMEOUT_S = 60.0
DRAWN_EVENTS = 256
"""Few enough that drawing them (1 ms) delays no request by much."""
REMEMBERED_TAGS_MAX = 1_000_000
MINUTE_MS = 60_000
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
    """

    host: str
    port: int
    rate: float
    seconds: float | None
    seed: int = 1
    start_ms: int = START_MS
    step_ms: float = 1.0
    mix: Mix = field(default_factory=Mix)


class SentTag(NamedTuple):
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
        self._sent: deque[SentTag] = deque(maxlen=REMEMBERED_TAGS_MAX)
        self._stopped = False
        host = f"[{plan.host}]" if ":" in plan.host else plan.host
        self._head_end = f" HTTP/1.1\r\nHost: {host}:{plan.port}\r\n"
        self._tag_head = f"POST /user_tags{self._head_end}Content-Type: application/json\r\nContent-Length: "

    def stop(self) -> None:
        """Send nothing more."""
        self._stopped = True

    async def run(self) -> None:
        """Send everything at its time, and wait for the last answers."""
        start_s = perf_counter()
        number = 0
        total = None if self._plan.seconds is None else round(self._plan.seconds * self._plan.rate)
        try:
            while not self._stopped and (total is None or number < total):
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
            with suppress(TimeoutError):
                await asyncio.wait_for(self._answered(), AGGREGATES_TIMEOUT_S + 1)
        finally:
            await self._client.close()

    async def _answered(self) -> None:
        while self._client.waiting and not self._stopped:
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
        self._sent.append(SentTag(due_s, event.cookie.decode("ascii"), event.at_ms))
        data = b"%b%d\r\n\r\n%b" % (self._tag_head.encode("ascii"), len(event.body), event.body)
        self._send("tags", data, due_s, TAG_TIMEOUT_S, is_right=lambda body: not body, right_status=204)

    def _send_profile(self, due_s: float) -> None:
        tag: SentTag | None = None
        for _ in range(TAGS_PER_PROFILE):
            if self._sent and self._sent[0].due_s <= due_s - PROFILE_DELAY_S:
                tag = self._sent.popleft()
        if tag is not None:
            target = profile_target(tag.cookie, tag.at_ms, self._chance)
            is_right = partial(is_profile, cookie=tag.cookie)
            self._send("profiles", self._query(target), due_s, PROFILE_TIMEOUT_S, is_right=is_right)

    def _send_aggregates(self, due_s: float, number: int) -> None:
        newest_ms = self._plan.start_ms + int(number * self._plan.step_ms)
        query = AggregatesQuery((newest_ms - AGGREGATES_DELAY_MS) // MINUTE_MS, self._chance)
        self._send("aggregates", self._query(query.target()), due_s, AGGREGATES_TIMEOUT_S, is_right=query.is_answer)

    def _query(self, target: str) -> bytes:
        return f"POST {target}{self._head_end}Content-Length: 0\r\n\r\n".encode("ascii")

    def _send(  # noqa: PLR0913 - what a request is
        self,
        kind: str,
        data: bytes,
        due_s: float,
        timeout_s: float,
        *,
        is_right: Callable[[bytes], bool],
        right_status: int = 200,
    ) -> None:
        def done(status: int, body: bytes) -> None:
            right = status == right_status and is_right(body)
            self._measures.add(kind, status, latency_s=perf_counter() - due_s, right=right, timeout_s=timeout_s)

        self._client.send(Request(data, due_s, timeout_s, done))
