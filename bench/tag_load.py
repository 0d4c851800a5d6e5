"""Send events to a gateway as cheaply as it goes, from a process of its own: `python -m bench.tag_load`; one JSON line.

About 12 µs of processor time a request: the requests are made before, and an answer is compared, not parsed. A closed loop
sends the next request of a connection when the last one is answered; an open loop sends at a fixed rate, and a latency counts
from when its request was due. Any answer but 204 ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter, process_time
from typing import cast

import uvloop

from load.events import events
from load.histogram import Histogram

REQUESTS_PREPARED = 20_000
TICK_S = 0.0005
ANSWER_TIMEOUT_S = 20.0
ACKNOWLEDGED = b"HTTP/1.1 204 "
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to send.

    Attributes:
        rate: requests a second, open loop; None: closed loop.
        seed: of the events.
    """

    port: int
    connections: int
    seconds: float
    rate: float | None
    seed: int


class WrongAnswerError(Exception):
    """The gateway did not acknowledge an event."""


class TagLoad:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._requests = self.requests()
        self._idle: list[Connection] = []
        self._due: deque[float] = deque()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until_s = 0.0
        self._sending = True
        self._latencies = Histogram()

    def requests(self) -> Iterator[bytes]:
        """Return what is sent, without end."""
        return cycle(list(prepared(self._plan)))

    def connection(self) -> Connection:
        """Return a connection that is about to be."""
        return Connection(self)

    async def run(self) -> dict[str, float]:
        """Return what was measured: requests answered, seconds, own CPU seconds, latencies in milliseconds.

        Raises:
            WrongAnswerError: an answer was not 204, or a connection ended.
        """
        loop = asyncio.get_running_loop()
        for _ in range(self._plan.connections):
            await loop.create_connection(self.connection, "127.0.0.1", self._plan.port)
        started_s, cpu_s = perf_counter(), process_time()
        self._until_s = started_s + self._plan.seconds
        await (self._send_all_the_time() if self._plan.rate is None else self._send_at(self._plan.rate, started_s))
        wall_s, cpu_s = perf_counter() - started_s, process_time() - cpu_s
        quantiles = {f"p{share * 100:g}_ms": self._latencies.quantile_s(share) * 1000 for share in (0.5, 0.99, 0.999)}
        longest_ms = self._latencies.max_s * 1000
        return {"answered": self._latencies.count, "wall_s": wall_s, "cpu_s": cpu_s, **quantiles, "max_ms": longest_ms}

    async def _send_all_the_time(self) -> None:
        for connection in self._take_idle():
            connection.send(next(self._requests), perf_counter())
        await self._all_answered(self._plan.seconds)

    async def _send_at(self, rate: float, started_s: float) -> None:
        for number in range(round(self._plan.seconds * rate)):
            due_s = started_s + number / rate
            while (delay_s := due_s - perf_counter()) > 0 and not self._ended.done():
                await asyncio.sleep(max(delay_s, TICK_S))
            if self._idle:
                self._idle.pop().send(next(self._requests), due_s)
            else:
                self._due.append(due_s)
        self._sending = False
        if len(self._idle) < self._plan.connections:
            await self._all_answered(0)

    async def _all_answered(self, seconds: float) -> None:
        await asyncio.wait_for(self._ended, seconds + ANSWER_TIMEOUT_S)

    def _take_idle(self) -> list[Connection]:
        taken, self._idle = self._idle, []
        return taken

    def answered(self, connection: Connection, due_s: float) -> None:
        """Count an answer, and give the connection its next request."""
        now_s = perf_counter()
        self._latencies.add(now_s - due_s)
        if self._plan.rate is None and now_s < self._until_s:
            connection.send(next(self._requests), now_s)
        elif self._due:
            connection.send(next(self._requests), self._due.popleft())
        else:
            self.is_free(connection)
            if len(self._idle) == self._plan.connections and (self._plan.rate is None or not self._sending):
                self._end(None)

    def is_free(self, connection: Connection) -> None:
        """Remember a connection that nothing waits on."""
        self._idle.append(connection)

    def fail(self, what: str) -> None:
        """End the run."""
        self._end(WrongAnswerError(what))

    def _end(self, error: WrongAnswerError | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


class Connection(asyncio.Protocol):
    """One kept connection, one request at a time."""

    def __init__(self, load: TagLoad) -> None:
        self._load = load
        self._due_s = 0.0
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write
        self._load.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.fail(f"the gateway closed a connection: {exc!r}")

    def send(self, request: bytes, due_s: float) -> None:
        self._due_s = due_s
        self._write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self.is_whole(self._received):
            return
        received, self._received = self._received, b""
        if self.is_right(received):
            self._load.answered(self, self._due_s)
        else:
            self._load.fail(repr(received[:300]))

    def is_whole(self, received: bytes) -> bool:
        """Say whether all of an answer has come."""
        return received.endswith(HEAD_END)

    def is_right(self, received: bytes) -> bool:
        """Say whether everything that was sent is acknowledged."""
        return received.startswith(ACKNOWLEDGED)


def prepared(plan: Plan) -> Iterator[bytes]:
    """Yield requests of the spec's cardinality, head and body as they go over the wire."""
    head = b"POST /user_tags HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\n" % plan.port
    for event in events(plan.seed, count=REQUESTS_PREPARED):
        yield b"%bContent-Length: %d\r\n\r\n%b" % (head, len(event.body), event.body)


def options(prog: str, description: str | None, *, connections: int) -> argparse.ArgumentParser:
    """Return a parser of what every plan has."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=connections)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=None, help="requests a second; without it: a closed loop")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def told(load: Callable[[], TagLoad]) -> int:
    """Run a load, write what it measured, a line of JSON, and return the exit code: 1 when an event was not acknowledged."""

    async def run() -> dict[str, float]:
        return await load().run()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            measured = runner.run(run())
    except (WrongAnswerError, TimeoutError, OSError) as error:
        sys.stderr.write(f"load: {error!r}\n")
        return 1
    sys.stdout.write(json.dumps(measured) + "\n")
    return 0


def main() -> int:
    """Return the exit code."""
    plan = Plan(**vars(options("python -m bench.tag_load", __doc__, connections=64).parse_args()))
    return told(lambda: TagLoad(plan))


if __name__ == "__main__":
    sys.exit(main())
