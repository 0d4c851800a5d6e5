"""Pass the questions of the dashboard page on to a ready worker, with the headers of its answer; nobody waits for one.

The page asks again by itself, and says what is missing; a panel whose Postgres is away must not hold up the others.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import NamedTuple

import aiohttp
from yarl import URL

from gateway.answers import Headers, Receive, Scope, Send, answer, answer_error, error_body
from gateway.queries import raw_target
from gateway.streams_through import passed_headers
from gateway.workers import CONNECT_TIMEOUT_S, Workers
from streams.metrics import GatewayMetrics
from streams.request_id import id_headers
from streams.settings import Settings

log = logging.getLogger(__name__)

ROUTE = "dashboard"
CONNECTIONS_PER_WORKER_MAX = 16
UNAVAILABLE = 503


class Found(NamedTuple):
    """What a worker answered."""

    status: int
    headers: Headers
    body: bytes


class DashboardData:
    """ASGI application of the page's questions, but for the live stream."""

    def __init__(self, workers: Workers, metrics: GatewayMetrics, settings: Settings) -> None:
        self._workers = workers
        self._metrics = metrics
        self._timeout_s = settings.gateway.query_timeout_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_WORKER_MAX, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        )

    async def close(self) -> None:
        """Close the connections to the workers."""
        await self._session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        found = await self._ask(raw_target(scope))
        if found.status == UNAVAILABLE:
            await answer_error(send, found.status, found.body, found.headers)
        else:
            await answer(send, found.status, found.body, found.headers)
        self._metrics.requests.labels(ROUTE, str(found.status)).inc()
        self._metrics.seconds.labels(ROUTE).observe(perf_counter() - started_s)

    async def _ask(self, target: str) -> Found:
        """Return the first answer that is not 503, of each ready worker asked once; else the last 503."""
        refused: Found | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                for url in self._workers.ready_urls():
                    found = await self._fetch(url, target)
                    if found is not None and found.status != UNAVAILABLE:
                        return found
                    refused = found or refused
        except TimeoutError:
            log.debug("no worker answered in time")
        body = error_body("no_worker", "no worker is ready, or none answered in time", "GET /ready tells more")
        return refused or Found(UNAVAILABLE, [], body)

    async def _fetch(self, url: str, target: str) -> Found | None:
        try:
            asked = URL(url + target, encoded=True)
            async with self._session.get(asked, headers=id_headers(), allow_redirects=False) as response:
                return Found(response.status, passed_headers(response), await response.read())
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("worker does not answer: %s", type(error).__name__, extra={"worker": url})
            return None
