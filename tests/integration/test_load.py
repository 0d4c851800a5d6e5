"""The generator of load against servers of the test's own: what it sends, and what it says about strange answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

import pytest

from load.client import NO_CONNECTION, TIMED_OUT, Client, Request
from load.measures import Measures
from load.traffic import Plan, Traffic
from stack.ports import free_port

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def a_client(serve: Serve) -> AsyncIterator[Client]:
    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve_and_close, "127.0.0.1", 0)
    client = Client("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def ask(client: Client, *, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Send one request; return status and body."""
    answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
    client.send(Request(REQUEST, perf_counter(), timeout_s, lambda status, body: answered.set_result((status, body))))
    return await asyncio.wait_for(answered, 10)


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([b"HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n"], (204, b"")),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"], (200, b"hello")),
        ([b"HTTP/1.1 200 OK\r\nconte", b"nt-length: 5\r\n\r", b"\nhel", b"lo"], (200, b"hello")),
        ([b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"], (503, b"{}")),
        ([], (NO_CONNECTION, b"")),
    ],
    ids=["no body", "body", "pieces", "last answer", "closed"],
)
async def test_answer_is_read_however_it_arrives(pieces: list[bytes], answer: tuple[int, bytes]) -> None:
    """A request counts as answered only when all of its answer is there, and the next one goes on."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while pieces:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    async with a_client(serve) as client:
        assert [await ask(client), await ask(client)] == [answer, answer]


async def test_silent_server_times_out_and_costs_only_its_request() -> None:
    """200 ms are an error, whatever comes later; the late answer is not taken for the next request's."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            if asked == 1:
                await reader.read()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2")

    async with a_client(serve) as client:
        assert await ask(client, timeout_s=0.1) == (TIMED_OUT, b"")
        assert await ask(client) == (200, b"2")
        assert client.waiting == 0


async def test_absent_server_is_an_error_a_request_and_no_end() -> None:
    """The run goes on and counts, as its users would."""
    measures = Measures()
    await Traffic(Plan(host="127.0.0.1", port=free_port(), rate=500, seconds=0.2), measures).run()
    measures.take_recent()
    assert measures.errors["tags"] == {"no connection": 100}


async def test_tags_are_sent_at_their_rate_and_slow_answers_count_from_the_due_time() -> None:
    """Open loop: a server that stalls delays no request, and each one that waits shows in the latencies."""
    bodies = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(length))
            await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with a_client(serve) as client:
        measures = Measures()
        await Traffic(Plan(host=client._host, port=client._port, rate=200, seconds=0.5, seed=5), measures).run()
    measures.take_recent()
    assert len(bodies) == len(set(bodies)) == 100
    assert measures.whole["tags"].count == 100
    assert measures.whole["tags"].quantile_s(0.01) >= 0.05
