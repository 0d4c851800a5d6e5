"""Know which workers are ready, and put a query to one of them: round robin, the next one when one cannot answer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import NamedTuple

import aiohttp
from yarl import URL

from streams.settings import Settings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
CHECK_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 2.0
CONNECTIONS_PER_WORKER_MAX = 64


class Worker:
    """One worker of the list, and whether it was ready when last asked."""

    __slots__ = ("ready", "url")

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.ready = False


class WorkerAnswer(NamedTuple):
    """What a worker answered: status, content type and body, unchanged."""

    status: int
    content_type: str
    body: bytes


class NoWorkerError(Exception):
    """No worker is ready, or those that were do not answer."""


class Workers:
    """The workers that answer queries. `run` keeps their readiness up to date."""

    def __init__(self, settings: Settings) -> None:
        self._workers = [Worker(url) for url in worker_urls(settings)]
        self._timeout_s = settings.gateway.query_timeout_s
        self._turn = 0
        self._session = _session(force_close=False)
        # A kept connection may have been closed by a worker that ended: the second try is made on one of its own.
        self._second_session = _session(force_close=True)

    @property
    def ready_count(self) -> int:
        """How many workers are believed ready."""
        return sum(worker.ready for worker in self._workers)

    def why_not_ready(self) -> str | None:
        """Return why no query can be answered now, or None."""
        return None if self.ready_count else f"none of {len(self._workers)} workers is ready"

    async def run(self) -> None:
        """Ask each worker's `/ready` every second, until cancelled."""
        while True:
            await asyncio.gather(*(self._check(worker) for worker in self._workers))
            await asyncio.sleep(CHECK_INTERVAL_S)

    async def close(self) -> None:
        """Close the connections to the workers."""
        await self._session.close()
        await self._second_session.close()

    async def ask(self, method: str, raw_target: str) -> WorkerAnswer:
        """Return the first answer that is not 503; else the last 503.

        Args:
            method: GET or POST; queries change nothing, so either may be put to another worker again.
            raw_target: path and query string as they came, percent-encoding untouched.

        Raises:
            NoWorkerError: no worker answered within the query time limit.
        """
        refused: WorkerAnswer | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                for worker in self._in_turn():
                    answer = await self._ask_one(worker, method, raw_target)
                    if answer is not None and answer.status != 503:
                        return answer
                    refused = answer or refused
        except TimeoutError:
            raise NoWorkerError(f"no worker answered within {self._timeout_s:g} s") from None
        if refused is not None:
            return refused
        raise NoWorkerError(self.why_not_ready() or "the workers that are ready do not answer")

    def _in_turn(self) -> list[Worker]:
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            return []
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn :] + ready[: self._turn]

    async def _ask_one(self, worker: Worker, method: str, raw_target: str) -> WorkerAnswer | None:
        url = URL(worker.url + raw_target, encoded=True)
        try:
            try:
                return await _fetch(self._session, method, url)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                return await _fetch(self._second_session, method, url)
        except (aiohttp.ClientError, OSError) as error:
            if worker.ready:
                log.warning("worker does not answer: %s", type(error).__name__, extra={"worker": worker.url})
            worker.ready = False
            return None

    async def _check(self, worker: Worker) -> None:
        ready = False
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
            async with self._session.get(f"{worker.url}/ready", timeout=timeout) as response:
                ready = response.status == 200
        if ready != worker.ready:
            log.info("worker is %s", "ready" if ready else "not ready", extra={"worker": worker.url})
        worker.ready = ready


def _session(*, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_WORKER_MAX, force_close=force_close),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
    )


async def _fetch(session: aiohttp.ClientSession, method: str, url: URL) -> WorkerAnswer:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    async with session.request(method, url, timeout=timeout, allow_redirects=False) as response:
        body = await response.read()
        return WorkerAnswer(response.status, response.headers.get("Content-Type", "application/json"), body)


def worker_urls(settings: Settings) -> list[str]:
    """Return the URLs of the setting; without it, that of the first worker on this machine."""
    urls = [url.strip() for url in settings.gateway.workers.split(",") if url.strip()]
    return urls or [f"http://{settings.web.host}:{settings.web.port}"]
