"""Pass a query on to a worker, path and query string untouched, and its answer back.

Debug mode: a JSON object in the body is the answer that the client expects. It is compared and counted; the answer is ours.
"""

from __future__ import annotations

import logging
from time import perf_counter

import msgspec

from gateway.answers import Headers, Receive, Scope, Send, answer, answer_error, error_body
from gateway.bodies import BodyTooLargeError, read_body
from gateway.workers import NoWorkerError, WorkerAnswer, Workers
from streams.metrics import GatewayMetrics
from streams.settings import Settings

log = logging.getLogger(__name__)

EXPECTED_BYTES_MAX = 1_048_576
"""Bodies of queries have no meaning but for debug mode, so a larger one is ignored and not refused."""
LOGGED_CHARACTERS_MAX = 2_000
RETRY_STATUS = 503


class Queries:
    """ASGI application of one query route."""

    def __init__(self, route: str, workers: Workers, metrics: GatewayMetrics, settings: Settings) -> None:
        self._route = route
        self._workers = workers
        self._metrics = metrics
        self._log_bodies = settings.log.requests and settings.log.bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        expected = await read_expected(scope, receive)
        status = await self._answer(scope, send, expected)
        self._metrics.requests.labels(self._route, str(status)).inc()
        self._metrics.seconds.labels(self._route).observe(perf_counter() - started_s)

    async def _answer(self, scope: Scope, send: Send, expected: bytes | None) -> int:
        method = "POST" if scope["method"] == "POST" else "GET"
        try:
            found = await self._workers.ask(method, raw_target(scope))
        except NoWorkerError as error:
            await answer_error(send, 503, error_body("no_worker", str(error), "GET /ready tells more"))
            return 503
        headers: Headers = [(b"content-type", found.content_type.encode("latin-1"))]
        if expected is not None:
            headers.append((b"x-tally-match", b"true" if self._matches(scope, expected, found) else b"false"))
        if found.status == RETRY_STATUS:
            await answer_error(send, found.status, found.body, headers)
        else:
            await answer(send, found.status, found.body, headers)
        return found.status

    def _matches(self, scope: Scope, expected: bytes, found: WorkerAnswer) -> bool:
        if canonical(found.body) == expected:
            return True
        self._metrics.mismatches.labels(self._route).inc()
        extra: dict[str, object] = {"route": self._route, "status": found.status}
        if self._log_bodies:
            extra["target"] = raw_target(scope)
            extra["expected"] = expected.decode(errors="replace")[:LOGGED_CHARACTERS_MAX]
            extra["answered"] = found.body.decode(errors="replace")[:LOGGED_CHARACTERS_MAX]
        log.warning("the answer differs from the expected one", extra=extra)
        return False


def raw_target(scope: Scope) -> str:
    """Return path and query string as the client wrote them."""
    path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


async def read_expected(scope: Scope, receive: Receive) -> bytes | None:
    """Return the expected answer in canonical form, or None when the body is anything but a non-empty JSON object."""
    try:
        body = await read_body(scope, receive, await receive(), bytes_max=EXPECTED_BYTES_MAX)
    except (BodyTooLargeError, TimeoutError):
        return None
    if not body or body.lstrip()[:1] != b"{":
        return None
    expected = canonical(body)
    return None if expected == b"{}" else expected


def canonical(document: bytes) -> bytes | None:
    """Return JSON with sorted keys and no blanks, so that equal answers have equal bytes; None when it is not JSON.

    >>> canonical(b'{"b": 1, "a": "1"}') == canonical(b'{"a":"1","b":1}')
    True
    >>> canonical(b'{"price": 1}') == canonical(b'{"price": "1"}')
    False
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(document), order="sorted")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
