"""Decide whether a query that nobody can answer just now may wait, and for how long it pauses before it asks again.

While a worker restarts, its partitions have no owner for seconds; what a query then gets passes by itself. So it waits, up to
the query time limit; past the number of queries that may wait, and once nothing has come back for longer than the limit, it is
told at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf

from streams.clock import SYSTEM_CLOCK, Clock

PAUSE_FIRST_S = 0.05
PAUSE_MAX_S = 0.5
"""Bounds what those that wait ask of workers which are just coming back: two questions a second each."""


class Patience:
    """What all queries of a gateway know of the present outage.

    Attributes:
        waiting: queries that have been told to wait and are still without an answer.
    """

    def __init__(self, *, limit_s: float, waiting_max: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limit_s = limit_s
        self._waiting_max = waiting_max
        self._clock = clock
        self._since_s = inf
        self._refused_s = -inf
        self._ended = asyncio.Event()
        self.waiting = 0

    def note_answer(self) -> None:
        """An answer came: what follows is another outage."""
        self._since_s = inf

    def note_refusal(self) -> None:
        """A query got no answer from any worker."""
        now_s = self._clock.monotonic_s()
        if self._since_s == inf or now_s - self._refused_s > self._limit_s:  # nobody has asked since: what was then is past
            self._since_s = now_s
        self._refused_s = now_s

    def may_wait(self) -> bool:
        """Say whether one more query may wait: there is room, no stop has begun, and the outage is younger than the limit."""
        lasts_s = self._clock.monotonic_s() - self._since_s
        return self.waiting < self._waiting_max and lasts_s <= self._limit_s and not self._ended.is_set()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Count one query as waiting."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def pause(self, number: int) -> bool:
        """Pause before try *number*, from 1; False, at once, when waiting has no sense any more because the gateway stops."""
        pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2 ** min(number - 1, 10))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        return not self._ended.is_set()

    def end(self) -> None:
        """Let nobody wait any longer: the gateway stops, and another one may have an answer."""
        self._ended.set()
