"""Know which workers are ready, and put a query to one of them: round robin, the next one when one cannot answer.

When none can, a query waits and asks again (gateway/patience.py).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from math import inf
from typing import NamedTuple

import aiohttp
from yarl import URL

from gateway.patience import Patience
from streams.clock import SYSTEM_CLOCK
from streams.request_id import id_headers
from streams.settings import Settings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
CHECK_AGAIN_S = 0.25
"""While queries wait for one that is not ready."""
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
        self._patience = Patience(limit_s=self._timeout_s, waiting_max=settings.gateway.queries_waiting_max)
        self._last_ready_s = -inf
        self._turn = 0
        self._session = _session(force_close=False)
        # A kept connection may have been closed by a worker that ended: the second try is made on one of its own.
        self._second_session = _session(force_close=True)

    @property
    def ready_count(self) -> int:
        """How many workers are believed ready."""
        return sum(worker.ready for worker in self._workers)

    @property
    def waiting(self) -> int:
        """How many queries wait for workers to come back."""
        return self._patience.waiting

    def end_waiting(self) -> None:
        """Answer the queries that wait, now: the gateway stops."""
        self._patience.end()

    def why_not_ready(self) -> str | None:
        """Return why queries are of no use, or None; not while one that was ready may come back within their time limit."""
        missing_s = SYSTEM_CLOCK.monotonic_s() - self._last_ready_s
        return None if self.ready_count or missing_s <= self._timeout_s else self._none_ready()

    def _none_ready(self) -> str:
        return f"none of {len(self._workers)} workers is ready"

    async def run(self) -> None:
        """Ask each worker's `/ready` again and again, until cancelled."""
        while True:
            await asyncio.gather(*(self._check(worker) for worker in self._workers))
            await asyncio.sleep(CHECK_AGAIN_S if self.waiting else CHECK_INTERVAL_S)

    async def close(self) -> None:
        """Close the connections to the workers."""
        await self._session.close()
        await self._second_session.close()

    async def ask(self, method: str, raw_target: str) -> WorkerAnswer:
        """Return the first answer that is not 503; waits for one where that may help. Else the last 503.

        Args:
            method: GET or POST; queries change nothing, so either may be put to a worker again.
            raw_target: path and query string as they came, percent-encoding untouched.

        Raises:
            NoWorkerError: no worker answered within the query time limit.
        """
        refused: list[WorkerAnswer] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._ask_round(method, raw_target, refused)
                if answer is None and self.why_not_ready() is None and self._patience.may_wait():
                    answer = await self._ask_on(method, raw_target, refused)
                if answer is not None:
                    return answer
        except TimeoutError:
            self._patience.note_refusal()
            if not refused:
                raise NoWorkerError(f"no worker answered within {self._timeout_s:g} s") from None
        if refused:
            return refused[-1]
        raise NoWorkerError("the workers that are ready do not answer" if self.ready_count else self._none_ready())

    async def _ask_on(self, method: str, raw_target: str, refused: list[WorkerAnswer]) -> WorkerAnswer | None:
        """Ask until there is an answer; None when waiting has no sense any more."""
        with self._patience.wait():
            number = 1
            while await self._patience.pause(number):
                answer = await self._ask_round(method, raw_target, refused)
                if answer is not None:
                    return answer
                number += 1
        return None

    async def _ask_round(self, method: str, raw_target: str, refused: list[WorkerAnswer]) -> WorkerAnswer | None:
        """Ask each ready worker once; None when all say 503, the last of which is kept in *refused*, or none answers."""
        for worker in self._in_turn():
            answer = await self._ask_one(worker, method, raw_target)
            if answer is not None and answer.status != 503:
                self._patience.note_answer()
                return answer
            if answer is not None:
                refused[:] = [answer]
        self._patience.note_refusal()
        return None

    def _in_turn(self) -> list[Worker]:
        ready = [worker for worker in self._workers if worker.ready]
        if not ready:
            return []
        self._turn = (self._turn + 1) % len(ready)
        return ready[self._turn :] + ready[: self._turn]

    def ready_urls(self) -> list[str]:
        """Return the workers that are ready, the next in turn first."""
        return [worker.url for worker in self._in_turn()]

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
        if ready:
            self._last_ready_s = SYSTEM_CLOCK.monotonic_s()


def _session(*, force_close: bool) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_WORKER_MAX, force_close=force_close),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
    )


async def _fetch(session: aiohttp.ClientSession, method: str, url: URL) -> WorkerAnswer:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
    async with session.request(method, url, timeout=timeout, headers=id_headers(), allow_redirects=False) as response:
        body = await response.read()
        return WorkerAnswer(response.status, response.headers.get("Content-Type", "application/json"), body)


def worker_urls(settings: Settings) -> list[str]:
    """Return the URLs of the setting; without it, that of the first worker on this machine."""
    urls = [url.strip() for url in settings.gateway.workers.split(",") if url.strip()]
    return urls or [f"http://{settings.web.host}:{settings.web.port}"]
