"""Tell how everything is, each second: one look around for all tabs, as a stream of events or as one answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from streams.clock import Clock
from views.dashboard_pulse import LOOK_INTERVAL_S
from views.dashboard_queries import format_second
from views.owners import Part

log = logging.getLogger(__name__)

PEER_TIMEOUT_S = 2.0
"""A worker that hangs is shown as missing; the others are not to wait for it."""
HEARTBEAT_S = 15.0
STALLED_S = 60.0
"""A reader that takes nothing for so long is gone."""
RETRY_MS = 2_000
SEND_BYTES_MAX = 16_384
"""What may wait in memory for a slow reader before the next event is left out."""
_json = msgspec.json.Encoder().encode


class Around(NamedTuple):
    """What one look around has found; *number* rises by one each."""

    number: int
    at_s: float
    answer: dict[str, Any]


class LookAround:
    """Looks around for whoever wants to know: once a second, however many there are, and not at all while there is nobody."""

    def __init__(self, gather: Callable[[], Awaitable[dict[str, Any]]], clock: Clock) -> None:
        self._gather = gather
        self._clock = clock
        self._newest: Around | None = None
        self._looking: asyncio.Task[Around] | None = None

    async def newest(self, after: int = 0) -> Around:
        """Return what was found at most a second ago, and is newer than number *after*; all who wait share one look."""
        while True:
            newest = self._newest
            if newest is not None:
                age_s = self._clock.monotonic_s() - newest.at_s
                if age_s < LOOK_INTERVAL_S and newest.number > after:
                    return newest
                if age_s < LOOK_INTERVAL_S:
                    await asyncio.sleep(LOOK_INTERVAL_S - age_s)
                    continue
            if self._looking is None or self._looking.done():
                self._looking = asyncio.ensure_future(self._look())
            return await asyncio.shield(self._looking)

    async def _look(self) -> Around:
        answer = await self._gather()
        number = 1 if self._newest is None else self._newest.number + 1
        self._newest = Around(number, self._clock.monotonic_s(), answer)
        return self._newest


class LiveStreams:
    """The streams that are open."""

    def __init__(self, around: LookAround, *, streams_max: int, stops: Callable[[], bool]) -> None:
        self._around = around
        self._streams_max = streams_max
        self._stops = stops
        self.open = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many as there may be."""
        return self.open >= self._streams_max

    async def answer(self, request: web.Request, headers: dict[str, str]) -> web.StreamResponse:
        """Send what is found until the reader goes, the worker stops, or nothing is taken for long; the newest only.

        A HEAD has its headers, and no stream.
        """
        response = web.StreamResponse(headers={**headers, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        if request.method == "HEAD":
            return response
        self.open += 1
        try:
            await response.prepare(request)
            if request.transport is not None:
                request.transport.set_write_buffer_limits(SEND_BYTES_MAX)
            async with asyncio.timeout(STALLED_S) as patience:
                await response.write(b"retry: %d\n\n" % RETRY_MS)
                await self._send(response, patience)
        except (ConnectionError, TimeoutError):
            log.debug("a live stream has ended: its reader is gone")
        finally:
            self.open -= 1
        return response

    async def _send(self, response: web.StreamResponse, patience: asyncio.Timeout) -> None:
        number = 0
        loop = asyncio.get_running_loop()
        while not self._stops():
            looking = asyncio.ensure_future(self._around.newest(number))
            done, _ = await asyncio.wait([looking], timeout=HEARTBEAT_S)
            if not done:
                looking.cancel()
                await response.write(b": still here\n\n")
            else:
                number, _, answer = looking.result()
                await response.write(b"id: %d\nevent: live\ndata: %b\n\n" % (number, _json(answer)))
            patience.reschedule(loop.time() + STALLED_S)


def tell(parts: Sequence[Part], sinks: dict[str, Any], *, now_ms: int) -> dict[str, Any]:
    """Return the answer of one look around: what all owners say, and what is missing.

    The rates are those of the owners that answered. *Counted up to* is that of the partition that is furthest behind; null
    where one is missing, or has a longer lag than is remembered.
    """
    answered = [part for part in parts if part.answer is not None]
    missing = sorted(partition for part in parts if part.answer is None for partition in part.partitions)
    places = [(part.url, place) for part in answered for place in part.answer["partitions"]]
    instants = [place["counted_up_to_ms"] for _, place in places]
    up_to_ms = None if missing or None in instants else min(instants, default=None)
    lags = [place["lag_records"] for _, place in places]
    lag = None if None in lags else sum(lags)
    freshness_s = None if up_to_ms is None else max(0.0, (now_ms - up_to_ms) / 1000)
    return {
        "at": format_second(now_ms / 1000),
        "events_per_s": round(sum(part.answer["events_per_s"] for part in answered), 2),
        "lag_records": lag,
        "lag_s": 0.0 if lag == 0 else freshness_s,
        "counted_up_to": _instant(up_to_ms),
        "freshness_s": freshness_s,
        "complete": not missing,
        "missing_partitions": missing,
        "workers": [_worker(part) for part in parts if part.url is not None],
        "partitions": sorted((_place(url, place) for url, place in places), key=lambda place: place["partition"]),
        "sinks": sinks,
        "dead_letters": {
            "total": int(sum(part.answer["dead_letters"] for part in answered)),
            "per_minute": round(sum(part.answer["dead_letters_per_minute"] for part in answered), 2),
        },
    }


def _worker(part: Part) -> dict[str, Any]:
    if part.answer is None:
        silent = {"ready": False, "events_per_s": None, "lag_records": None}
        return {"url": part.url, "partitions": part.partitions, **silent}
    lags = [place["lag_records"] for place in part.answer["partitions"]]
    lag = None if None in lags else sum(lags)
    figures = {"events_per_s": part.answer["events_per_s"], "lag_records": lag}
    return {"url": part.url, "partitions": part.partitions, "ready": True, **figures}


def _place(url: str | None, place: dict[str, Any]) -> dict[str, Any]:
    shown = {name: place[name] for name in ("partition", "lag_records", "position")}
    return {**shown, "worker": url, "counted_up_to": _instant(place["counted_up_to_ms"])}


def _instant(at_ms: int | None) -> str | None:
    return None if at_ms is None else format_second(at_ms / 1000)
