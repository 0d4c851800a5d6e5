"""Ask a worker at fixed rates until standard input ends, from a process of its own; then tell the latencies, a line of JSON.

`python -m bench.asking URL FIRST_MINUTE PROFILES_PER_S AGGREGATES_PER_S`; a rate of 0 asks nothing of that kind. Open loop: a
latency counts from when the question was due, so a worker that stands still is not asked less, and its waiting is seen.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import aiohttp

from load.events import Mix, cookie_of
from load.histogram import Histogram
from load.queries import is_profile
from streams.event_time import format_minute
from views.queries import MINUTES_MAX

TIMEOUT_S = 60.0
SEED = 1
HOT_SHARE = 0.5
"""Half of the questions are for users that have long profiles."""
ALWAYS = "1970-01-01T00:00:00_9999-12-31T23:59:59.999"
Ask = Callable[[aiohttp.ClientSession, random.Random], Awaitable[bool]]


class Asked:
    """Latencies of one kind of question, and how many answers were wrong."""

    def __init__(self) -> None:
        self.latencies = Histogram()
        self.wrong = 0

    def told(self) -> dict[str, float]:
        """Return what a case wants to know; latencies in ms."""
        quantiles = {"p50_ms": 0.5, "p99_ms": 0.99}
        told = {name: self.latencies.quantile_s(fraction) * 1000 for name, fraction in quantiles.items()}
        return told | {"max_ms": self.latencies.max_s * 1000, "count": self.latencies.count, "wrong": self.wrong}


async def main(url: str, first_minute: int, profiles_per_s: float, aggregates_per_s: float) -> dict[str, dict[str, float]]:
    """Ask until standard input ends; return what each kind of question showed."""
    rates = {"profiles": (profiles_per_s, ask_profile), "aggregates": (aggregates_per_s, _aggregates_of(first_minute))}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session:
        ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        asking = {kind: asyncio.create_task(_ask_at(rate, ask, session, ended)) for kind, (rate, ask) in rates.items() if rate}
        return {kind: (await task).told() for kind, task in asking.items()}


async def _ask_at(rate: float, ask: Ask, session: aiohttp.ClientSession, ended: asyncio.Task[str]) -> Asked:
    """Ask at a fixed rate until *ended*, however long answers take."""
    asked, chance, loop = Asked(), random.Random(SEED), asyncio.get_running_loop()
    started_s, number = loop.time(), 0
    waiting: set[asyncio.Task[None]] = set()

    async def ask_one(due_s: float) -> None:
        try:
            is_right = await ask(session, chance)
        except (aiohttp.ClientError, TimeoutError):
            is_right = False
        asked.latencies.add(loop.time() - due_s)
        asked.wrong += not is_right

    while not ended.done():
        due_s = started_s + number / rate
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        task = asyncio.create_task(ask_one(due_s))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        number += 1
    await asyncio.gather(*waiting)
    return asked


async def ask_profile(session: aiohttp.ClientSession, chance: random.Random) -> bool:
    """Ask for everything of a user; return whether the answer is a profile of that user."""
    mix = Mix()
    users = mix.hot_cookies if chance.random() < HOT_SHARE else mix.cookies
    cookie = cookie_of(chance.randrange(users)).decode()
    async with session.post(f"/user_profiles/{cookie}?time_range={ALWAYS}") as response:
        return response.status == 200 and is_profile(await response.read(), cookie)


def _aggregates_of(first_minute: int) -> Ask:
    asked = [("time_range", f"{format_minute(first_minute)}_{format_minute(first_minute + MINUTES_MAX)}"), ("action", "VIEW")]
    target = "/aggregates?" + urlencode([*asked, ("aggregates", "COUNT"), ("aggregates", "SUM_PRICE")], safe=":")

    async def ask(session: aiohttp.ClientSession, chance: random.Random) -> bool:
        async with session.post(target) as response:
            return response.status == 200 and len((await response.json())["rows"]) == MINUTES_MAX

    return ask


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])))) + "\n")
