"""Pass a worker's live stream on, chunk by chunk, for as long as the client and the worker are there.

When the worker goes, the stream ends in order: the page's EventSource comes again and gets one of another ready worker. When
the client goes, the worker's connection is closed. A client that reads slowly holds up nothing but its own stream: we take from
the worker only what the client has taken from us, and the worker leaves out what it would have sent meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import aiohttp
from yarl import URL

from gateway.answers import Headers, Receive, Scope, Send, answer_error, error_body
from gateway.workers import CONNECT_TIMEOUT_S, Workers
from streams.metrics import GatewayMetrics
from streams.request_id import id_headers
from streams.settings import Settings

log = logging.getLogger(__name__)

SILENT_S = 30.0
"""A worker says something every 15 s; one that does not is gone, or hangs."""
CHUNK_BYTES_MAX = 65_536
PASSED_HEADERS = frozenset(
    {
        "content-type",
        "content-disposition",
        "cache-control",
        "content-security-policy",
        "x-content-type-options",
        "x-frame-options",
        "referrer-policy",
        "x-accel-buffering",
    }
)


class StreamsThrough:
    """ASGI application of the live stream."""

    def __init__(self, workers: Workers, metrics: GatewayMetrics, settings: Settings) -> None:
        self._workers = workers
        self._metrics = metrics
        self._streams_max = settings.dashboard.streams_max
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENT_S),
        )
        self._ends = asyncio.Event()
        self.open = 0

    def end_all(self) -> None:
        """End the streams that are open, so that clients go to another gateway; a second call ends those that came back."""
        self._ends.set()
        self._ends = asyncio.Event()

    async def close(self) -> None:
        """Close the connections to the workers."""
        await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = await self._answer(scope, receive, send)
        self._metrics.requests.labels("live", str(status)).inc()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> int:
        if self.open >= self._streams_max:
            message = f"{self._streams_max} live streams are open already"
            await answer_error(send, 503, error_body("too_many_streams", message, "ask /dashboard/api/now every few seconds"))
            return 503
        self.open += 1
        try:
            return await self._pass_first(scope, receive, send)
        finally:
            self.open -= 1

    async def _pass_first(self, scope: Scope, receive: Receive, send: Send) -> int:
        """Pass the stream of the first worker on that opens one; a stream has no query, and a HEAD no stream."""
        method, path = scope["method"], scope["path"]
        for url in self._workers.ready_urls():
            try:
                asked = URL(url + path, encoded=True)
                response = await self._session.request(method, asked, headers=id_headers(), allow_redirects=False)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("worker does not answer: %s", type(error).__name__, extra={"worker": url})
                continue
            async with response:
                if response.status == 200 and method == "HEAD":
                    await send({"type": "http.response.start", "status": 200, "headers": passed_headers(response)})
                    await send({"type": "http.response.body", "body": b""})
                    return 200
                if response.status == 200:
                    await self._pass(response, receive, send)
                    return 200
        await answer_error(send, 503, error_body("no_worker", "no worker opens a live stream now", "GET /ready tells more"))
        return 503

    async def _pass(self, response: aiohttp.ClientResponse, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": passed_headers(response)})
        ways_out = [asyncio.ensure_future(each) for each in (_copy(response, send), _gone(receive), self._ends.wait())]
        try:
            await asyncio.wait(ways_out, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in ways_out:
                each.cancel()
            await asyncio.gather(*ways_out, return_exceptions=True)
        with suppress(OSError):  # the client is gone
            await send({"type": "http.response.body", "body": b""})


async def _copy(response: aiohttp.ClientResponse, send: Send) -> None:
    """Send what comes until the worker ends it."""
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async for chunk in response.content.iter_chunked(CHUNK_BYTES_MAX):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _gone(receive: Receive) -> None:
    """Return when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def passed_headers(response: aiohttp.ClientResponse) -> Headers:
    """Return the headers of a worker's answer that are for the client."""
    pairs: Sequence[tuple[str, str]] = list(response.headers.items())
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs if name.lower() in PASSED_HEADERS]
