"""Wait for the gateway, and find minutes that hold no events yet: answers can only be compared where nobody else has sent any.

A run's events begin at the time the specification says, or, where a run before this one has left events, after the newest of
them; later events of other runs would push ours out of the newest 200 of the users that all runs share.
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter
from typing import Any

import aiohttp

from load.events import Mix, cookie_of
from load.queries import ACTIONS, RANGE_MINUTES_MAX, AggregatesQuery, ProfileQuery
from streams.event_time import MINUTE_MS, parse_instant

READY_POLL_S = 0.5
ANSWER_TIMEOUT_S = 5.0
ALWAYS_MS = (0, 253_402_300_799_000)
"""From 1970 to the end of 9999."""
MOVES_MAX = 100


class NotReadyError(Exception):
    """The gateway cannot take the load."""


async def wait_ready(url: str, *, timeout_s: float) -> None:
    """Return when the gateway says that it is ready.

    Raises:
        NotReadyError: it does not within *timeout_s*.
    """
    deadline_s = perf_counter() + timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
        while True:
            try:
                async with session.get(f"{url}/ready") as response:
                    if response.status == 200:
                        return
                    why = f"is not ready: {(await response.text())[:500]}"
            except (aiohttp.ClientError, TimeoutError):
                why = "does not answer; `make run` starts it"
            if perf_counter() > deadline_s:
                raise NotReadyError(f"the gateway at {url} {why}")
            await asyncio.sleep(READY_POLL_S)


async def free_start_ms(url: str, wished_ms: int, *, span_ms: float, mix: Mix) -> int:
    """Return the start of a minute, *wished_ms* or later, from which on *span_ms* milliseconds hold no events.

    Args:
        span_ms: from the run's first event to its last, both by event time.
        mix: its hot users tell the newest event that an earlier run has sent.

    Raises:
        NotReadyError: a query is not answered, or there are no such minutes.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)) as session:
        newest = [await _newest_ms(session, url, cookie_of(number).decode()) for number in range(mix.hot_cookies)]
        minute = wished_ms // MINUTE_MS
        if newest and max(newest) >= 0:
            minute = max(minute, max(newest) // MINUTE_MS + 1)
        length = math.ceil(span_ms / MINUTE_MS) + 1
        for _ in range(MOVES_MAX):
            taken = await _last_taken(session, url, minute, minute + length)
            if taken is None:
                return minute * MINUTE_MS
            minute = taken + 1
    raise NotReadyError("others are sending events too, so answers cannot be compared: stop them, or say --unchecked")


async def _newest_ms(session: aiohttp.ClientSession, url: str, cookie: str) -> int:
    """Return the time of a user's newest event; -1 where there is none, or profiles are off."""
    answer = await _ask(session, url + ProfileQuery(cookie, *ALWAYS_MS, limit=1).target())
    return max((parse_instant(tag["time"]) for kind in ("views", "buys") for tag in answer.get(kind, ())), default=-1)


async def _last_taken(session: aiohttp.ClientSession, url: str, first: int, end: int) -> int | None:
    """Return the last of the minutes from *first* to *end* that holds an event; None where all are empty."""
    taken = None
    for start in range(first, end, RANGE_MINUTES_MAX):
        for action in ACTIONS:
            query = AggregatesQuery(start, min(start + RANGE_MINUTES_MAX, end), {"action": action}, ("COUNT",))
            rows = (await _ask(session, url + query.target())).get("rows", ())
            held = [start + number for number, row in enumerate(rows) if row[-1] != "0"]
            taken = max([*held, *(() if taken is None else (taken,))], default=None)
    return taken


async def _ask(session: aiohttp.ClientSession, target: str) -> dict[str, Any]:
    """Return an answer; an empty one where there is no such query, since profiles may be off."""
    try:
        async with session.post(target) as response:
            if response.status == 404:
                return {}
            if response.status == 200:
                answer: dict[str, Any] = await response.json()
                return answer
            raise NotReadyError(f"{target} is answered with {response.status}: {(await response.text())[:500]}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise NotReadyError(f"{target} is not answered: {error!r}") from error
