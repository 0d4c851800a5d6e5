"""A collector on a real socket that writes down every request and answers as it is told; by default, as the contract says."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tally_client.clock import SYSTEM_CLOCK, Clock

RETRYABLE = (408, 429, 500, 502, 503, 504)
Answering = Mapping[str, Any]
"""What is to be answered: `status`, `results` (one an event of the batch), `headers`, `body`; or `close`, without a word."""


@dataclass
class Seen:
    """One request, and what was answered."""

    path: str
    headers: dict[str, str]
    raw: bytes
    at_s: float
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(decompressed(self.raw, self.headers.get("content-encoding")))
        return document

    @property
    def batch(self) -> list[dict[str, Any]]:
        batch: list[dict[str, Any]] = self.document["batch"]
        return batch

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.batch]


def decompressed(raw: bytes, encoding: str | None) -> bytes:
    """Return a body as it was before its `Content-Encoding`."""
    if encoding == "gzip":
        return gzip.decompress(raw)
    if encoding == "deflate":
        return zlib.decompress(raw)
    if encoding == "zstd":
        import zstandard

        return zstandard.decompress(raw)
    assert encoding is None
    return raw


class Recorder:
    """A server of the contract, for as long as its `with` lasts.

    Attributes:
        seen: every request to the collector so far.
        gate: answers wait until it is set; it is, unless a test clears it.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, *, tls: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._tls = tls
        self._script: deque[Answering] = deque()
        self._lock = threading.Lock()
        self.seen: list[Seen] = []
        self.gate = threading.Event()
        self.gate.set()
        self._kept: set[str] = set()
        self.routes: dict[str, Callable[[Seen], Answering]] = {}
        self._server: _Server | None = None
        self._port = 0

    def script(self, answers: Sequence[Answering]) -> None:
        """Answer the next requests like this, and those after them by default."""
        self._script.extend(answers)

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event of every request, in order of arrival."""
        with self._lock:
            return [event for seen in self.seen for event in seen.batch]

    @property
    def kept(self) -> set[str]:
        """The ids of events that were taken, each once; a second one was answered `duplicate`."""
        with self._lock:
            return set(self._kept)

    def answer(self, seen: Seen) -> Answering:
        """Write a request down, and say what to answer."""
        if seen.path in self.routes:
            return self.routes[seen.path](seen)
        with self._lock:
            answer = dict(self._script.popleft()) if self._script else {}
            answer.setdefault("status", 200)
            if (answer["status"] == 200 or "results" in answer) and "body" not in answer:
                answer["results"] = self._results(seen, answer.get("results"))
                answer["body"] = json.dumps({"request_id": seen.headers["x-request-id"], "results": answer["results"]})
            wants_retry = any(told["result"] == "retry" for told in answer.get("results", {}).values())
            headers = {"Retry-After": "1"} if wants_retry or answer["status"] in RETRYABLE else {}
            headers.update({"X-Request-Id": seen.headers.get("x-request-id", ""), **answer.get("headers", {})})
            answer["headers"] = {name: value for name, value in headers.items() if value is not None}
            seen.answer = answer
            self.seen.append(seen)
        self.gate.wait()
        return answer

    def _results(self, seen: Seen, scripted: Sequence[Any] | None) -> dict[str, dict[str, str]]:
        """Return a result for each event: as scripted, else `ok`, or `duplicate` the second time."""
        ids = seen.ids
        told = scripted or ["duplicate" if event_id in self._kept else "ok" for event_id in ids]
        results = {
            event_id: each if isinstance(each, dict) else {"result": each} for event_id, each in zip(ids, told, strict=True)
        }
        self._kept.update(event_id for event_id, each in results.items() if each["result"] == "ok")
        return results

    def start(self) -> None:
        """Listen; on the same port as before where it has been stopped."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.recorder = self
        self._port = self._server.server_port
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        """Break every connection off and listen no more."""
        server, self._server = self._server, None
        if server is not None:
            self.gate.set()
            server.shutdown()
            server.server_close()
            server.break_off()

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections."""
        self.stop()
        try:
            yield
        finally:
            self.start()


class _Server(ThreadingHTTPServer):
    recorder: Recorder
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._sockets: set[Any] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._sockets.discard(request)
        super().shutdown_request(request)

    def break_off(self) -> None:
        for each in list(self._sockets):
            self.shutdown_request(each)

    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients break connections off in many of these tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # Head and body are two writes: the second would wait 40 ms for the first's acknowledgment.
    server: _Server

    def do_POST(self) -> None:
        recorder = self.server.recorder
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = recorder.answer(Seen(self.path, headers, raw, recorder._clock.elapsed_s()))
        if answer.get("close"):
            self.close_connection = True
            return
        body = str(answer.get("body", "")).encode()
        self.send_response(answer.get("status", 200))
        for name, value in answer.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: requests are in `seen`."""
