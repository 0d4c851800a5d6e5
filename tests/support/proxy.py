"""A TCP proxy for fault tests: cuts, resets, delays, slows or swallows what passes, switched while it runs."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

Direction = Literal["up", "down"]
Predicate = Callable[[bytes], bool]
Decide = Callable[[bytes], "int | None"]
"""How many bytes of a chunk pass before the connection is reset; None: all of it, and the connection lives."""

LOOPBACK = "127.0.0.1"
CHUNK_BYTES_MAX = 16 * 1024
CHUNKS_AHEAD_MAX = 64
AHEAD_BYTES_MAX = CHUNKS_AHEAD_MAX * CHUNK_BYTES_MAX  # each way of a connection, beside the kernel's buffers
KERNEL_BUFFER_BYTES = 256 * 1024
TAIL_BYTES_MAX = 4096  # of what passed before, shown to a predicate again: a word may be split between two chunks
ANSWER_WAIT_S = 10.0
PIECE_S = 0.05  # at a limited bandwidth a piece is what passes in this time
CALL_TIMEOUT_S = 10.0
BACKLOG = 128
RESET_ON_CLOSE = struct.pack("ii", 1, 0)

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Cut:
    """Resets a connection when *begin()*'s function, one for each connection, says so of a chunk of *direction*."""

    direction: Direction
    begin: Callable[[], Decide]
    times_left: float
    after_answer: bool = False


@dataclass(frozen=True)
class _Toxics:
    """What is wrong with the line now; *replaced* wakes whoever waits because of it."""

    is_down: bool = False
    is_dark: bool = False
    drops: bool = False
    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = math.inf
    piece_bytes_max: int = CHUNK_BYTES_MAX
    cuts: tuple[_Cut, ...] = ()
    replaced: asyncio.Event = field(default_factory=asyncio.Event, init=False, compare=False)

    async def last(self, seconds: float | None) -> None:
        """Return after *seconds* or when other toxics hold, whichever comes first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.replaced.wait()


class Proxy:
    """Passes TCP connections on to *upstream_port*, on a thread of its own; toxics add up until `heal`.

    Every call returns when it has taken effect on all connections, open and new. None may come from a predicate.
    Jitter is drawn from *seed*, the number of the connection and the direction, once for each chunk.
    """

    def __init__(self, upstream_port: int, *, upstream_host: str = LOOPBACK, port: int = 0, seed: int = 0) -> None:
        """Describe the proxy; *port* 0 takes a free one. `upstream_port` may be set later: new connections read it."""
        self.upstream_port = upstream_port
        self.upstream_host = upstream_host
        self.port = port
        self.seed = seed
        self.accepted = 0
        self.cuts = 0
        self.toxics = _Toxics()
        self._links: set[asyncio.Task[None]] = set()
        self._reserved: socket.socket | None = None
        self._listener: socket.socket | None = None

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def start(self) -> Proxy:
        """Listen; `port` is valid from here on, and kept over `down` and `stop`."""
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        # A bound socket that does not listen keeps the port while nobody does, and the kernel refuses its callers.
        self._reserved = self._bind()
        self.port = self._reserved.getsockname()[1]
        self._thread.start()
        self.heal()
        return self

    def stop(self) -> None:
        """Reset what is open and end the thread; a second call does nothing."""
        if self._reserved is None:
            return
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()
        self._reserved.close()
        self._reserved = None

    def __enter__(self) -> Proxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def down(self) -> None:
        """Reset all connections and refuse new ones, as a host does whose server has died."""
        self._set(replace(self.toxics, is_down=True), resets=True)

    def reset(self) -> None:
        """Reset (RST) all connections; new ones are as before."""
        self._set(replace(self.toxics), resets=True)

    def blackhole(self, *, drop: bool = False) -> None:
        """Keep and accept connections, pass nothing on, no end either; `heal` passes it on, or with *drop* resets all."""
        self._set(replace(self.toxics, is_dark=True, drops=drop))

    def latency(self, delay_s: float, jitter_s: float = 0.0) -> None:
        """Hold back each chunk, each way, for *delay_s* and a random part of *jitter_s*; order is kept."""
        self._set(replace(self.toxics, delay_s=delay_s, jitter_s=jitter_s))

    def bandwidth(self, bytes_per_s: float) -> None:
        """Pass at most so much each way of each connection."""
        self._set(replace(self.toxics, bytes_per_s=bytes_per_s))

    def slice(self, bytes_max: int) -> None:
        """Pass pieces of at most *bytes_max*, a segment each."""
        self._set(replace(self.toxics, piece_bytes_max=bytes_max))

    def cut_after(self, bytes_: int, direction: Direction = "up", *, times: float = math.inf) -> None:
        """Reset each connection once *bytes_* passed in *direction* from now; "down" and 0 lose the first answer."""
        self._add(_Cut(direction, lambda: _after(bytes_), times))

    def lose_answers(self, every: int, *, times: float = math.inf) -> None:
        """Reset the connection instead of passing every *every*-th chunk from upstream, of all connections together."""
        numbers = itertools.count(1)
        self._add(_Cut("down", lambda: lambda _: None if next(numbers) % every else 0, times))

    def cut_when(
        self,
        predicate: Predicate,
        direction: Direction = "up",
        *,
        when: Literal["before", "after"] = "after",
        times: float = math.inf,
    ) -> None:
        """Reset a connection whose bytes satisfy *predicate*, at most *times* times.

        Args:
            predicate: sees each chunk behind at most `TAIL_BYTES_MAX` bytes of those before it; runs on the proxy's thread.
            when: "before" the chunk passes on, or "after". "up" and "after" also wait for upstream to answer, at most
                `ANSWER_WAIT_S`, and lose the answer: the client sees the reset when the work is done.
        """
        passed_on = when == "after"
        self._add(_Cut(direction, lambda: _when(predicate, passed_on), times, passed_on and direction == "up"))

    def heal(self) -> None:
        """End all toxics and listen again; open connections go on unless `blackhole` was to drop them."""
        self._set(_Toxics(), resets=self.toxics.is_dark and self.toxics.drops)

    def _add(self, cut: _Cut) -> None:
        self._set(replace(self.toxics, cuts=(*self.toxics.cuts, cut)))

    def _set(self, toxics: _Toxics, *, resets: bool = False) -> None:
        asyncio.run_coroutine_threadsafe(self._take_effect(toxics, resets), self._loop).result(CALL_TIMEOUT_S)

    async def _take_effect(self, toxics: _Toxics, resets: bool) -> None:
        if toxics.is_down and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if resets:
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)
        before, self.toxics = self.toxics, toxics
        before.replaced.set()
        if not toxics.is_down and self._listener is None:
            self._listener = self._bind()
            self._listener.listen(BACKLOG)
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _bind(self) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((LOOPBACK, self.port))
        _prepare(bound)
        return bound

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            self.accepted += 1
            link = self._loop.create_task(_Link(self, client, self.accepted).run())
            self._links.add(link)
            link.add_done_callback(self._links.discard)


class _Link:
    """One connection of a client and the one that is opened upstream for it."""

    def __init__(self, proxy: Proxy, client: socket.socket, number: int) -> None:
        self.proxy = proxy
        self.client = client
        self.number = number
        self.upstream = socket.socket()
        self.waits_for_answer = False

    async def run(self) -> None:
        """Pass on until both sides have ended; whatever else ends it resets both."""
        is_whole = False
        try:
            for end in (self.client, self.upstream):
                _prepare(end)
            await self.hold()
            await asyncio.get_running_loop().sock_connect(self.upstream, (self.proxy.upstream_host, self.proxy.upstream_port))
            async with asyncio.TaskGroup() as both:
                for flow in (_Flow(self, "up", self.client, self.upstream), _Flow(self, "down", self.upstream, self.client)):
                    both.create_task(flow.read())
                    both.create_task(flow.write())
            is_whole = True
        except* OSError as errors:
            log.debug("connection %d ended: %s", self.number, errors.exceptions)
        finally:
            for end in (self.client, self.upstream):
                if not is_whole:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                end.close()

    async def hold(self, arrived_s: float = -math.inf, draw: float = 0.0) -> None:
        """Return when what arrived then (s, the loop's clock) may pass; *draw* in [0, 1) is its part of the jitter."""
        while True:
            toxics = self.proxy.toxics
            wait_s = arrived_s + toxics.delay_s + draw * toxics.jitter_s - asyncio.get_running_loop().time()
            if wait_s <= 0 and not toxics.is_dark:
                return
            await toxics.last(None if toxics.is_dark else wait_s)


class _Flow:
    """One direction of a link: reads at most `CHUNKS_AHEAD_MAX` chunks ahead of what it writes."""

    def __init__(self, link: _Link, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        self.link = link
        self.direction = direction
        self.source = source
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.ahead: asyncio.Queue[tuple[float, float, bytes | None]] = asyncio.Queue(CHUNKS_AHEAD_MAX)
        self.draws = random.Random(f"{link.proxy.seed}/{link.number}/{direction}")
        self.decides: dict[_Cut, Decide] = {}

    async def read(self) -> None:
        """Take what comes, the end (empty) and a reset (None) in their turn."""
        chunk: bytes | None = b"-"
        while chunk:
            try:
                chunk = await self.loop.sock_recv(self.source, CHUNK_BYTES_MAX)
            except OSError:
                chunk = None
            if self.direction == "down" and self.link.waits_for_answer:
                raise ConnectionResetError("the answer is lost")
            await self.ahead.put((self.loop.time(), self.draws.random(), chunk))

    async def write(self) -> None:
        """Pass on what was read, in order, as the toxics let it."""
        while True:
            arrived_s, draw, chunk = await self.ahead.get()
            await self.link.hold(arrived_s, draw)
            if chunk is None:
                raise ConnectionResetError("reset by a peer")
            if not chunk:
                self.target.shutdown(socket.SHUT_WR)
                return
            cut, passed_bytes = self._cut_of(chunk)
            await self._send(chunk[:passed_bytes])
            if cut:
                await self._reset(cut)

    def _cut_of(self, chunk: bytes) -> tuple[_Cut | None, int]:
        for cut in self.link.proxy.toxics.cuts:
            if cut.direction == self.direction and cut.times_left > 0:
                passed_bytes = self.decides.setdefault(cut, cut.begin())(chunk)
                if passed_bytes is not None:
                    cut.times_left -= 1
                    return cut, passed_bytes
        return None, len(chunk)

    async def _send(self, chunk: bytes) -> None:
        sent_bytes = 0
        while sent_bytes < len(chunk):
            await self.link.hold()
            toxics = self.link.proxy.toxics
            piece_bytes = int(max(1, min(toxics.piece_bytes_max, toxics.bytes_per_s * PIECE_S)))
            piece = chunk[sent_bytes : sent_bytes + piece_bytes]
            if toxics.bytes_per_s < math.inf:
                await toxics.last(len(piece) / toxics.bytes_per_s)
            await self.loop.sock_sendall(self.target, piece)
            sent_bytes += len(piece)

    async def _reset(self, cut: _Cut) -> None:
        self.link.proxy.cuts += 1
        if cut.after_answer:
            self.link.waits_for_answer = True
            await asyncio.sleep(ANSWER_WAIT_S)
        raise ConnectionResetError("cut by a toxic")


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        end.setsockopt(socket.SOL_SOCKET, option, KERNEL_BUFFER_BYTES)


def _after(bytes_: int) -> Decide:
    left_bytes = bytes_

    def decide(chunk: bytes) -> int | None:
        nonlocal left_bytes
        if len(chunk) >= left_bytes:
            return left_bytes
        left_bytes -= len(chunk)
        return None

    return decide


def _when(predicate: Predicate, passed_on: bool) -> Decide:
    tail = b""

    def decide(chunk: bytes) -> int | None:
        nonlocal tail
        seen = tail + chunk
        if predicate(seen):
            return len(chunk) if passed_on else 0
        tail = seen[-TAIL_BYTES_MAX:]
        return None

    return decide
