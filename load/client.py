"""Send HTTP requests at their due time over kept connections: about 25 µs of processor time each.

Open loop: a request that finds no free connection opens one, or waits, and its latency counts from when it was due all the
same. Reads what the gateway answers, no more of HTTP: answers with a `Content-Length`, or without a body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple, cast

CONNECTIONS_MAX = 512
SWEEP_INTERVAL_S = 0.02
HEAD_END = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"

NO_CONNECTION = 0
"""The status of a request that got no answer because the connection broke or could not be made."""
TIMED_OUT = -1
"""The status of a request whose time limit passed."""


class Request(NamedTuple):
    """One request and when its answer is wanted.

    Attributes:
        data: head and body as they go over the wire.
        due_s: when it should be sent, by `perf_counter`.
        timeout_s: counted from *due_s*.
        done: called once with the status, or NO_CONNECTION or TIMED_OUT, and the body.
    """

    data: bytes
    due_s: float
    timeout_s: float
    done: Callable[[int, bytes], None]


class Client:
    """Connections to one address."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._queue: deque[Request] = deque()
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    @property
    def waiting(self) -> int:
        """Requests without an answer so far."""
        return len(self._queue) + len(self._open) - len(self._idle)

    def send(self, request: Request) -> None:
        """Send a request on a free connection, or queue it for the next one."""
        if self._idle:
            self._idle.pop().send(request)
            return
        self._queue.append(request)
        if len(self._open) + len(self._connecting) < CONNECTIONS_MAX:
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def close(self) -> None:
        """Close all connections; requests without an answer get none."""
        self._sweeper.cancel()
        for connection in list(self._open):
            connection.drop()
        await asyncio.gather(self._sweeper, *self._connecting, return_exceptions=True)

    def freed(self, connection: _Connection) -> None:
        """Give a connection its next request."""
        if self._queue:
            connection.send(self._queue.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError:
            if self._queue:
                self._queue.popleft().done(NO_CONNECTION, b"")
            return
        self._open.add(connection)
        self.freed(connection)

    async def _sweep(self) -> None:
        """End requests whose time limit has passed."""
        while True:
            await asyncio.sleep(SWEEP_INTERVAL_S)
            now_s = perf_counter()
            for connection in [connection for connection in self._open if connection.is_overdue(now_s)]:
                connection.give_up(TIMED_OUT)
            overdue = [request for request in self._queue if request.due_s + request.timeout_s < now_s]
            if overdue:
                self._queue = deque(request for request in self._queue if request.due_s + request.timeout_s >= now_s)
            for request in overdue:
                request.done(TIMED_OUT, b"")


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._request: Request | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)
        if self._request is not None:
            self._finish(NO_CONNECTION, b"")

    def send(self, request: Request) -> None:
        self._request = request
        self._transport.write(request.data)

    def data_received(self, data: bytes) -> None:
        if self._request is None:  # The answer to a request that was given up; the connection is closing.
            return
        received = self._received = self._received + data if self._received else data
        head_end = received.find(HEAD_END)
        if head_end < 0:
            return
        head = received[: head_end + 2]
        body = received[head_end + len(HEAD_END) :]
        if len(body) < _content_length(head):
            return
        self._received = b""
        self._finish(int(head[9:12]), body)
        if b"\r\nconnection: close\r\n" in head.lower():
            self.drop()
        else:
            self._client.freed(self)

    def is_overdue(self, now_s: float) -> bool:
        return self._request is not None and self._request.due_s + self._request.timeout_s < now_s

    def give_up(self, status: int) -> None:
        """End the request without an answer; the connection cannot be used again, for its answer may still come."""
        self._finish(status, b"")
        self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self._client.lost(self)
        self._transport.abort()

    def _finish(self, status: int, body: bytes) -> None:
        request, self._request = self._request, None
        if request is not None:
            request.done(status, body)


def _content_length(head: bytes) -> int:
    start = head.find(LENGTH)
    if start < 0:
        head = head.lower()
        start = head.find(LENGTH)
        if start < 0:
            return 0
    start += len(LENGTH)
    return int(head[start : head.find(b"\r\n", start)])
