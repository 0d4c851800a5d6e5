"""Answer `/live`, `/ready` and `/metrics` from a thread of its own."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from streams.clock import Clock
from streams.errors import SettingsError
from streams.metrics import CONTENT_TYPE, ProcessMetrics

log = logging.getLogger(__name__)

READY_WITHIN_S = 20.0
"""An answer of Kafka or Postgres older than this counts as none; both are asked every few seconds."""
SOCKET_TIMEOUT_S = 5.0
JSON_TYPE = "application/json"

Answer = tuple[HTTPStatus, str, bytes]


@dataclass(slots=True)
class Health:
    """When Kafka and Postgres last answered; written by the loop, read by the server's threads."""

    clock: Clock
    kafka_at_s: float = float("-inf")
    postgres_at_s: float = float("-inf")

    def kafka_answered(self) -> None:
        """Note that Kafka answers."""
        self.kafka_at_s = self.clock.monotonic_s()

    def postgres_answered(self) -> None:
        """Note that Postgres answers."""
        self.postgres_at_s = self.clock.monotonic_s()

    def postgres_failed(self) -> None:
        """Note that Postgres does not answer."""
        self.postgres_at_s = float("-inf")

    def missing(self) -> list[str]:
        """Return which of the two did not answer lately."""
        now_s = self.clock.monotonic_s()
        answers = {"kafka": self.kafka_at_s, "postgres": self.postgres_at_s}
        return [name for name, at_s in answers.items() if now_s - at_s > READY_WITHIN_S]


class Routes:
    """What each path answers."""

    def __init__(self, health: Health, metrics: ProcessMetrics) -> None:
        self._health = health
        self._metrics = metrics
        self._paths: dict[str, Callable[[], Answer]] = {"/live": _live, "/ready": self._ready, "/metrics": self._text}

    def answer(self, method: str, path: str) -> Answer:
        """Return status, content type and body."""
        route = self._paths.get(path.partition("?")[0])
        if route is None:
            return _error(HTTPStatus.NOT_FOUND, "not_found", "no such path")
        if method not in ("GET", "HEAD"):
            return _error(HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "use GET")
        return route()

    def _ready(self) -> Answer:
        if missing := self._health.missing():
            return _error(HTTPStatus.SERVICE_UNAVAILABLE, "not_ready", f"no answer from {' and '.join(missing)}")
        return HTTPStatus.OK, JSON_TYPE, b'{"status": "ready"}'

    def _text(self) -> Answer:
        return HTTPStatus.OK, CONTENT_TYPE, self._metrics.text()


def _live() -> Answer:
    return HTTPStatus.OK, JSON_TYPE, b'{"status": "live"}'


def _error(status: HTTPStatus, code: str, message: str) -> Answer:
    return status, JSON_TYPE, json.dumps({"error": {"code": code, "message": message}}).encode()


def serve(routes: Routes, host: str, port: int) -> ThreadingHTTPServer:
    """Start the server and return it.

    Raises:
        SettingsError: the port is taken, or the address is not ours.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = SOCKET_TIMEOUT_S

        def handle_any(self) -> None:
            status, content_type, body = routes.answer(self.command, self.path)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            log.debug("http request", extra={"request": format % args})

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise SettingsError(
            f"sinks.port is {port} (sinks.host {host}): {error.strerror}; stop who listens there, or choose another"
        ) from error
    server.daemon_threads = True
    Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server
