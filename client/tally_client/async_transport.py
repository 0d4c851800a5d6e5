"""HTTP for asyncio, on its own streams: the one thing that the standard library lacks, and no more of it than a POST needs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import ssl
from collections.abc import Awaitable, Mapping
from email.message import Message
from typing import TypeVar

from tally_client.errors import TransportError
from tally_client.transport import (
    ANSWER_BYTES_MAX,
    IDLE_CONNECTIONS_MAX,
    REDIRECTS_MAX,
    REQUEST_TIMEOUT_S,
    Answer,
    Target,
    absolute,
    redirected,
    target_of,
)

HEAD_BYTES_MAX = 65_536
INTERIM_MAX = 10
"""Answers of 1xx before the real one."""
WITHOUT_BODY = (204, 304)
T = TypeVar("T")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.TimeoutError, http.client.HTTPException)


class AsyncTransport:
    """POST from a loop, over kept connections; redirects are followed as by `transport.HttpTransport`.

    Args:
        url: of the server; paths are appended to it.
        timeout_s: for connecting, and for an answer.
        tls: how https is checked; the system's authorities by default.

    Raises:
        ValueError: the URL cannot be one of a server.
    """

    def __init__(self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        target_of(url)
        self._url = url
        self._timeout_s = timeout_s
        self._tls = tls
        self.forget()

    def forget(self) -> None:
        """Let go of connections that belong to another process or another loop."""
        self._idle: dict[tuple[str, str, int], list[Streams]] = {}
        self._closed = False

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST *body* to a path of the server, or to an absolute URL, and return the answer, whatever its status.

        Raises:
            TransportError: no answer came in time; the request may have arrived all the same.
        """
        url = absolute(self._url, path)
        for _ in range(REDIRECTS_MAX + 1):
            answer = await self._ask(target_of(url), body, headers)
            following = redirected(url, answer, headers)
            if following is None:
                return answer
            url, headers = following
        raise TransportError(f"the server redirected more than {REDIRECTS_MAX} times")

    def close(self) -> None:
        """Close every idle connection, and keep none any more; one in use is closed by who uses it."""
        self._closed = True
        for kept in self._idle.values():
            for _, writer in kept:
                with contextlib.suppress(RuntimeError):  # Its loop has been closed: the collector of garbage closes it.
                    writer.transport.abort()
        self._idle.clear()

    async def _ask(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Answer:
        kept = False
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await self._streams(target)
            writer.write(_head(target, body, headers) + body)
            answer, kept = await _within(self._timeout_s, _read_answer(reader, writer))
            if kept:
                self._keep(target, (reader, writer))
            return answer
        except FAILURES as error:
            raise TransportError(f"no answer from {target.host}:{target.port}: {type(error).__name__}") from error
        finally:
            if writer is not None and not kept:
                writer.transport.abort()  # `close` would wait for TLS to say good-bye, for longer than a loop may last.

    async def _streams(self, target: Target) -> Streams:
        idle = self._idle.get(target.origin, [])
        while idle:
            reader, writer = idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        if target.scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()  # Once: it reads every authority of the system.
        tls = self._tls if target.scheme == "https" else None
        opening = asyncio.ensure_future(asyncio.open_connection(target.host, target.port, ssl=tls, limit=HEAD_BYTES_MAX))
        try:
            return await _within(self._timeout_s, opening)
        except BaseException:
            opening.add_done_callback(_let_go)
            raise

    def _keep(self, target: Target, streams: Streams) -> None:
        idle = self._idle.setdefault(target.origin, [])
        if not self._closed and len(idle) < IDLE_CONNECTIONS_MAX:
            idle.append(streams)
        else:
            streams[1].transport.abort()


def _let_go(opening: asyncio.Future[Streams]) -> None:
    """Close a connection that was made while nobody waited for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].transport.abort()


async def _within(timeout_s: float, work: Awaitable[T]) -> T:
    """Return what comes of it within so long; as `asyncio.wait_for`, which before Python 3.12 may forget a cancellation.

    Raises:
        asyncio.TimeoutError: nothing came.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout_s)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if not done:
        task.cancel()
        raise asyncio.TimeoutError
    return task.result()


def _head(target: Target, body: bytes, headers: Mapping[str, str]) -> bytes:
    default = 443 if target.scheme == "https" else 80
    host = f"[{target.host}]" if ":" in target.host else target.host
    given = {
        "Host": host if target.port == default else f"{host}:{target.port}",
        "Accept-Encoding": "identity",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"POST {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _read_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Answer, bool]:
    """Return the next answer, and whether the connection may be used again."""
    await writer.drain()
    for _ in range(INTERIM_MAX):
        version, status, message = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        if status >= 200:
            break
    else:
        raise ValueError("too many interim answers")
    length = message.get("Content-Length")
    chunked = message.get("Transfer-Encoding", "").lower() == "chunked"
    kept = version == "HTTP/1.1" and message.get("Connection", "").lower() != "close"
    if status in WITHOUT_BODY:
        content = b""
    elif chunked:
        content = await _read_chunks(reader)
    elif length is not None:
        content = await reader.readexactly(_bounded(int(length)))
    else:
        content, kept = await reader.read(ANSWER_BYTES_MAX + 1), False
        _bounded(len(content))
    return Answer(status, {name.lower(): value for name, value in message.items()}, content), kept


def _parse_head(head: bytes) -> tuple[str, int, Message]:
    line, _, rest = head.partition(b"\r\n")
    version, status, *_ = line.decode("latin-1").split(" ", 2)
    if not version.startswith("HTTP/1."):
        raise ValueError("the answer is not HTTP/1")
    return version, int(status), http.client.parse_headers(io.BytesIO(rest))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while True:
        size = _bounded(int((await reader.readline()).split(b";")[0], 16))
        if size == 0:
            while (await reader.readline()).strip():  # Trailers say nothing to us.
                continue
            return content
        content += await reader.readexactly(size)
        _bounded(len(content))
        await reader.readexactly(2)


def _bounded(size: int) -> int:
    if not 0 <= size <= ANSWER_BYTES_MAX:
        raise ValueError(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return size
