"""A connection that is closed in the middle of a request reads on, and one that is closed between requests does not."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway import lingering
from gateway.lingering import LingeringTransport

CHUNK = b"x" * 65_536
NEVER_S = 3_600.0
PATIENCE_S = 30.0


class Ends(asyncio.Protocol):
    """Answers what comes first, and closes; its loss is told."""

    def __init__(self, *, is_unread: bool) -> None:
        self.is_unread = is_unread
        self.closes: LingeringTransport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.closes = LingeringTransport(cast(asyncio.Transport, transport), self, lambda: self.is_unread)

    def data_received(self, data: bytes) -> None:
        transport = self.closes
        assert transport is not None and not transport.is_closing(), "more came after the end"
        transport.write(b"no")
        transport.close()
        assert transport.is_closing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


async def answered(*, is_unread: bool) -> tuple[Any, Ends, asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a server, its side of a connection, and the client's side, which has read the answer and its end."""
    made: list[Ends] = []

    def make() -> Ends:
        made.append(Ends(is_unread=is_unread))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(CHUNK)
    assert await reader.read() == b"no"
    return server, made[0], reader, writer


@pytest.fixture(autouse=True)
def _linger_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a connection here is not that time is over."""
    monkeypatch.setattr(lingering, "LINGER_S", NEVER_S)


async def test_in_the_middle_of_a_request_all_is_read() -> None:
    server, ends, _, writer = await answered(is_unread=True)
    for _ in range(100):
        writer.write(CHUNK)
        await writer.drain()
    assert not ends.lost.done()
    writer.close()
    await asyncio.wait_for(ends.lost, PATIENCE_S)
    server.close()


async def test_between_requests_it_closes_at_once() -> None:
    server, ends, _, writer = await answered(is_unread=False)
    await asyncio.wait_for(ends.lost, PATIENCE_S)
    writer.close()
    server.close()


async def test_a_second_close_waits_for_nobody() -> None:
    """A process that is being stopped."""
    server, ends, _, writer = await answered(is_unread=True)
    assert ends.closes is not None and not ends.lost.done()
    ends.closes.close()
    await asyncio.wait_for(ends.lost, PATIENCE_S)
    writer.close()
    server.close()


async def test_a_client_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "LINGER_S", 0.01)
    server, ends, _, writer = await answered(is_unread=True)
    await asyncio.wait_for(ends.lost, PATIENCE_S)
    writer.close()
    server.close()
