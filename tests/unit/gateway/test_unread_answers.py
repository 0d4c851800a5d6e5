"""A client that asks and does not read: what waits for it is held for a time, not for ever. Over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gateway.limited import UNREAD_TIMEOUT_S, LimitedProtocol

PART = b"x" * 1_048_576
PARTS = 16
REQUEST = b"GET /large HTTP/1.1\r\nHost: x\r\n"
READ_BYTES = 262_144
PATIENCE_S = 30.0
POLL_S = 0.01


async def large_answer(scope: Any, receive: Any, send: Any) -> None:
    """Answer with more than the buffers of two sockets hold."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(PARTS):
        await send({"type": "http.response.body", "body": PART, "more_body": True})
    await send({"type": "http.response.body"})


async def until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def asked(*headers: bytes) -> AsyncIterator[tuple[LimitedProtocol, socket.socket]]:
    """Yield the server's side of a connection whose answer waits, and the client's side, which has read nothing."""
    loop = asyncio.get_running_loop()
    config = uvicorn.Config(large_answer, lifespan="off", interface="asgi3", ws="none", log_config=None)
    state, made = ServerState(), list[LimitedProtocol]()

    def make() -> LimitedProtocol:
        made.append(LimitedProtocol(config, state, {}, loop))
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        await loop.sock_sendall(client, b"".join([REQUEST, *headers, b"\r\n"]))
        await until(lambda: bool(made) and made[0].flow is not None and made[0].flow.write_paused)
        yield made[0], client
    server.close()
    await until(lambda: not state.connections)


async def test_client_that_takes_nothing_is_cut_off() -> None:
    async with asked() as (protocol, _client):
        for _ in range(UNREAD_TIMEOUT_S):
            protocol.check()
        assert not protocol.transport.is_closing()
        protocol.check()
        assert protocol.transport.is_closing()
        await until(lambda: protocol.transport.get_write_buffer_size() == 0)


async def test_client_that_takes_something_now_and_then_is_served_to_the_end() -> None:
    async with asked() as (protocol, client):
        loop, received = asyncio.get_running_loop(), 0
        while waiting_bytes := protocol.transport.get_write_buffer_size():
            for _ in range(UNREAD_TIMEOUT_S):
                protocol.check()
            assert not protocol.transport.is_closing()
            while protocol.transport.get_write_buffer_size() == waiting_bytes:
                received += len(await loop.sock_recv(client, READ_BYTES))
        while received < len(PART) * PARTS:
            received += len(await loop.sock_recv(client, READ_BYTES))


async def test_answer_of_a_connection_that_ends_is_not_kept_for_ever_either() -> None:
    """It is closing, and nothing else would look at it again."""
    async with asked(b"Connection: close\r\n") as (protocol, _client):
        protocol.shutdown()
        for _ in range(UNREAD_TIMEOUT_S + 1):
            protocol.check()
        await until(lambda: protocol.transport.get_write_buffer_size() == 0)
