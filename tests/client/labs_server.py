"""A server of Labs that remembers what it was asked: the intake of transactions and the token service."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any, NamedTuple

CUT = 0
"""A status that is none: the request arrives, and the connection ends without an answer."""


class Asked(NamedTuple):
    """One request as it came."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at_s: float

    @property
    def key(self) -> str:
        return self.headers["Idempotency-Key"]

    @property
    def txn(self) -> dict[str, Any]:
        txn: dict[str, Any] = json.loads(self.body)
        return txn


class Reply(NamedTuple):
    """What to answer."""

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = {}
    after: threading.Event | None = None


STORED = Reply(200, {"message": "Data stored successfully!"})


def a_token(*, lifetime_s: float, issued_at_s: float = 1_000_000, mark: str = "t") -> str:
    """Return what looks like a JWT; nobody checks its signature."""
    claims = {"iat": issued_at_s, "exp": issued_at_s + lifetime_s, "mark": mark}
    return "e30." + base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=") + ".sig"


class LabsServer:
    """What a test sees of the server.

    Attributes:
        asked: every request so far, in the order of arrival.
        replies: to the next requests of the intake; then each is stored.
        tokens: answers of the token service by path; by default each gives a new token of an hour.
        hold: while it is not set, requests of the intake are not answered; a reply may wait for an event of its own.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.replies: deque[Reply] = deque()
        self.tokens: dict[str, Callable[[], Reply]] = {}
        self.hold = threading.Event()
        self.hold.set()
        self._changed = threading.Condition()

    url: str = ""

    def reply_to(self, asked: Asked) -> Reply:
        with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
            reply = self.replies.popleft() if "analytics" in asked.path and self.replies else STORED
        if asked.path.startswith("/identity/"):
            return self.tokens.get(asked.path, self._a_token)()
        assert (reply.after or self.hold).wait(30)
        return reply

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that requests change."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=20), f"{len(self.asked)} requests came"

    def posted(self) -> list[Asked]:
        """Return the requests of the intake."""
        with self._changed:
            return [asked for asked in self.asked if "analytics" in asked.path]

    def _a_token(self) -> Reply:
        token = a_token(lifetime_s=3600, mark=str(len(self.asked)))
        return Reply(200, {"access": token, "refresh": f"refresh-{len(self.asked)}"})


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the `LabsServer`."""

    protocol_version = "HTTP/1.1"
    labs: LabsServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.labs.reply_to(Asked(self.path, dict(self.headers.items()), body, monotonic()))
        if reply.status == CUT:
            self.close_connection = True
            return
        content = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


class Listener(ThreadingHTTPServer):
    """Lets a test end while clients have connections open or have broken them off."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients under test hang up."""


@contextmanager
def labs_server() -> Iterator[LabsServer]:
    """Run a server on a free port of this machine."""
    labs = LabsServer()
    listener = Listener(("127.0.0.1", 0), type("Bound", (Handler,), {"labs": labs}))
    labs.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield labs
    finally:
        labs.hold.set()
        listener.shutdown()
        thread.join()
        listener.server_close()
