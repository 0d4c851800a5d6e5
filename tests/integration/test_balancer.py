"""The real balancer in front of two gateways that refuse everything: what it sends a second time, and to whom."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stack.ports import LOOPBACK
from tests.support.containers import STORING
from tests.support.eventually import eventually
from tests.support.haproxy import Balancer, a_balancer

QUERIES = ("/aggregates", "/user_profiles/anna", "/v1/aggregates", "/v1/timelines/anna")
TIMEOUT_S = 20.0


class Gateways:
    """Two that answer 503 to whatever is posted.

    Attributes:
        posted: paths, in the order they came, of both.
        has_workers: without any, only those who ask for events are told to come.
    """

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.has_workers = True
        gateways = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200 if gateways.has_workers or self.path == "/ready?for=events" else 503)

            def do_POST(self) -> None:
                gateways.posted.append(self.path)
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer(503)

            def _answer(self, status: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
                """Say nothing."""

        self.servers = [ThreadingHTTPServer((LOOPBACK, 0), Handler) for _ in range(2)]
        self.balancer: Balancer

    @contextmanager
    def running(self) -> Iterator[Gateways]:
        threads = [threading.Thread(target=server.serve_forever) for server in self.servers]
        for thread in threads:
            thread.start()
        try:
            with a_balancer([server.server_port for server in self.servers]) as self.balancer:
                self.balancer.wait_up("gateway-1", "gateway-2")
                yield self
        finally:
            for server, thread in zip(self.servers, threads, strict=True):
                server.shutdown()
                thread.join()
                server.server_close()

    def post(self, path: str) -> int:
        """Return how often a request arrived; without a body, since HAProxy keeps none that comes after the head."""
        self.posted.clear()
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{LOOPBACK}:{self.balancer.port}{path}", b"", TIMEOUT_S)
        refused.value.close()
        assert refused.value.code == 503
        return len(self.posted)


def test_what_stores_something_is_sent_once_and_without_workers_too() -> None:
    """A18, P2: a 503 does not say that nothing was stored; a query changes nothing, and the next gateway may know better."""
    with Gateways().running() as gateways:
        assert {path: gateways.post(path) for path in STORING} == dict.fromkeys(STORING, 1)
        assert gateways.post("/v1/events?wait=false") == 1
        assert {path: gateways.post(path) for path in QUERIES} == dict.fromkeys(QUERIES, 2)
        gateways.has_workers = False
        eventually(lambda: set(gateways.balancer.states("queries").values()) == {"DOWN"}, what="nobody is asked for queries")
        assert {path: gateways.post(path) for path in STORING} == dict.fromkeys(STORING, 1)
        assert gateways.post("/aggregates") == 0
