"""The generator of load against servers of the test's own, which answer strangely, and against the real ones."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from load import oracle, traffic
from load.client import NO_CONNECTION, TIMED_OUT, Client, Request
from load.events import START_MS, Mix
from load.measures import EXAMPLES_MAX, KINDS, Measures
from load.score import SCORE_MAX
from load.start import free_start_ms
from load.traffic import Plan, Traffic
from stack.ports import free_port
from streams.event_time import MINUTE_MS
from tests.support.front_door import running_system
from tests.support.job import ROOT

RATE, SECONDS = 200, 15
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


async def test_run_that_is_stopped_waits_for_the_answers_under_way() -> None:
    """Ctrl-C is no fault of the gateway: what was sent just before is not counted as dropped."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            run.stop()
            await asyncio.sleep(0.02)
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with a_client(serve) as client:
        measures = Measures()
        run = Traffic(Plan(host=client._host, port=client._port, rate=100, seconds=60.0), measures)
        await run.run()
    measures.take_recent()
    assert measures.dropped("tags") == 0
    assert 0 < measures.whole["tags"].count < 6_000


async def test_system_that_forgets_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It acknowledges each tag in time, and answers in the right shape that there is nothing: no profile is right."""
    monkeypatch.setattr(traffic, "PROFILE_DELAY_S", 0.3)
    monkeypatch.setattr(oracle, "PROFILE_FRESH_S", 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n")[0]))
            if head.startswith("POST /user_tags"):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                continue
            body = f'{{"cookie":"{head[20:40]}","views":[],"buys":[]}}'
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())

    async with a_client(serve) as client:
        measures = Measures()
        await Traffic(Plan(host=client._host, port=client._port, rate=200, seconds=1.0), measures).run()
    measures.take_recent()
    asked = measures.whole["profiles"].count
    assert asked > 0
    assert measures.errors["profiles"]["wrong"] + measures.errors["profiles"]["late"] == asked
    assert len(measures.examples) == min(measures.errors["profiles"]["wrong"], EXAMPLES_MAX)


def test_every_answer_of_the_job_is_right_and_the_next_run_finds_its_own_minutes(tmp_path: Path) -> None:
    """`make load` against a worker and a gateway: nothing wrong, nothing dropped, a score; then a run that begins later."""
    with running_system(tmp_path) as system:
        measured = [run_load(system.door.port, tmp_path / "load.json") for _ in range(2)]
        url = f"http://127.0.0.1:{system.door.port}"
        start_ms = asyncio.run(free_start_ms(url, START_MS, span_ms=60_000, mix=Mix()))
    for told in measured:
        assert [(told[kind]["wrong"], told[kind]["dropped"]) for kind in KINDS] == [(0, 0)] * 3
        assert told["tags"]["requests"] == RATE * SECONDS
        assert told["profiles"]["requests"] > 0
        assert told["aggregates"]["requests"] == RATE * SECONDS // 1_000
        assert 0 < told["score"]["points"] <= SCORE_MAX
    assert start_ms == START_MS + 2 * MINUTE_MS


def run_load(port: int, file: Path) -> dict[str, Any]:
    """Run the generator as `make load` does, and return what it measured."""
    command = [sys.executable, "-m", "load", "run", "--rate", str(RATE), "--seconds", str(SECONDS), "--json", str(file)]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TALLY_GATEWAY_PORT": str(port)}, capture_output=True, check=False
    )
    assert file.exists(), ended.stderr.decode()
    told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    return told
