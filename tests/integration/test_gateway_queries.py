"""Queries passed on: the gateway as its own process, in front of workers that are tiny servers of the test's own."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.support.builders import a_record
from tests.support.gateway_process import Gateway, a_client, eventually, gets, post, posts, running_gateway

ANSWER = {"columns": ["1m_bucket", "action", "count"], "rows": [["2022-03-01T00:00:00", "BUY", "1"]]}


class StandInWorker:
    """Answers every query with `ANSWER` and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.request_ids: list[str | None] = []
        self.status = 200
        self.is_ready = True

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/ready":
            return web.Response(status=200 if self.is_ready else 503)
        self.asked.append((request.method, request.raw_path))
        self.request_ids.append(request.headers.get("X-Request-Id"))
        return web.json_response(ANSWER, status=self.status, dumps=lambda answer: json.dumps(answer, indent=1))


@asynccontextmanager
async def running_worker(port: int) -> AsyncIterator[StandInWorker]:
    worker = StandInWorker()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", worker.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield worker
    finally:
        await runner.cleanup()


@pytest.fixture
async def worker(gateway: Gateway, client: aiohttp.ClientSession) -> AsyncIterator[StandInWorker]:
    """The only worker that runs, and the gateway knows it."""
    await eventually(lambda: gets(client, gateway, "/ready", 503))  # It has forgotten those of the test before.
    async with running_worker(gateway.worker_ports[0]) as stand_in:
        await eventually(lambda: gets(client, gateway, "/ready", 200))
        yield stand_in


TARGETS = [
    "/user_profiles/yJKX3u9HOTlcaDipwAmb?time_range=2022-03-01T00:00:01.610_2022-03-01T00:00:02.419&limit=200",
    "/user_profiles/a%2Fb%25c%20%C5%BC%F0%9F%8D%AA?time_range=x",
    "/user_profiles/a/b/../c?x=%2541",
    "/user_profiles/?x",
    "/aggregates?time_range=2022-03-01T00:01:00_2022-03-01T00:02:00&action=VIEW&aggregates[]=COUNT&aggregates=SUM_PRICE",
    "/aggregates?origin=&brand_id=a+b%2Bc&x=%zz&?limit=1",
]


async def test_query_reaches_the_worker_as_written_and_its_answer_the_client(gateway: Gateway, worker: StandInWorker) -> None:
    """A7 points 5, 6, 10, 25, 26: nothing is decoded, joined or encoded again on the way; GET is as good as POST."""
    asked = [(method, target) for method in ("POST", "GET") for target in TARGETS]
    answers = [await raw_request(gateway, method, target) for method, target in asked]
    assert worker.asked == asked
    for head, body in answers:
        assert head.startswith("HTTP/1.1 200 ")
        assert "content-type: application/json" in head
        assert body == json.dumps(ANSWER, indent=1).encode()


async def test_id_of_a_query_goes_to_the_worker_and_comes_back(
    gateway: Gateway, client: aiohttp.ClientSession, worker: StandInWorker
) -> None:
    """One search finds what gateway and workers wrote about it; an id that no log could hold as it is goes nowhere."""
    for path in ("/aggregates?x", "/event?x", "/dashboard/api/now", "/dashboard/api/live"):
        for sent, taken in (("shop-1", "shop-1"), ("a b", None), (None, None)):
            async with client.get(gateway.url(path), headers={} if sent is None else {"X-Request-Id": sent}) as response:
                assert (response.status, response.headers.get("X-Request-Id")) == (200, taken)
            assert worker.request_ids[-1] == taken


async def test_workers_error_is_passed_on(gateway: Gateway, client: aiohttp.ClientSession, worker: StandInWorker) -> None:
    """Only the worker can say what is wrong with a query; no other worker would say anything else."""
    for number, status in enumerate((400, 404, 500), 1):
        worker.status = status
        async with client.post(gateway.url("/aggregates?x")) as response:
            assert (response.status, await response.json()) == (status, ANSWER)
        assert len(worker.asked) == number


async def test_query_without_a_ready_worker_is_503(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A missing answer is said, with the time to try again, and events are taken all the same (A8)."""
    await eventually(lambda: gets(client, gateway, "/ready", 503))
    async with client.post(gateway.url("/aggregates")) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json())["error"]["code"] == "no_worker"
    assert await post(client, gateway, a_record()) == (204, None)


async def test_queries_go_to_workers_in_turn_and_past_those_that_fail(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A8: a worker that is gone, or says 503, costs no answer; one that comes back is used again."""
    await eventually(lambda: gets(client, gateway, "/ready", 503))
    async with running_worker(gateway.worker_ports[0]) as first:
        async with running_worker(gateway.worker_ports[1]) as second:
            await eventually(lambda: workers_ready(client, gateway, 2))
            assert await statuses(client, gateway, 10) == [200] * 10
            assert (len(first.asked), len(second.asked)) == (5, 5)
            second.status = 503
            assert await statuses(client, gateway, 4) == [200] * 4
            first.status = 503
            async with client.post(gateway.url("/aggregates")) as response:
                assert (response.status, response.headers["Retry-After"]) == (503, "1")
            first.status = 200
        assert await statuses(client, gateway, 4) == [200] * 4
        async with running_worker(gateway.worker_ports[1]) as again:
            await eventually(lambda: workers_ready(client, gateway, 2))
            assert await statuses(client, gateway, 4) == [200] * 4
            assert len(again.asked) == 2
            first.is_ready = False
            await eventually(lambda: workers_ready(client, gateway, 1))
            asked = len(first.asked)
            assert await statuses(client, gateway, 4) == [200] * 4
            assert len(first.asked) == asked, "a worker that recovers its tables is not asked"


async def test_body_of_a_query_is_ignored(gateway: Gateway, client: aiohttp.ClientSession, worker: StandInWorker) -> None:
    """Rule 9, A7 point 13: absent, empty, of any type and size."""
    for body in (None, b"", b"hello", b"{", b"[1]", b"\xff" * 100, io.BytesIO(b"x" * 3_000_000)):
        headers = {"Content-Type": "application/pdf"}
        async with client.post(gateway.url("/aggregates"), data=body, headers=headers) as response:
            assert (response.status, await response.json()) == (200, ANSWER)
            assert "X-Tally-Match" not in response.headers


async def test_debug_mode_compares_and_answers_its_own(
    gateway: Gateway, client: aiohttp.ClientSession, worker: StandInWorker
) -> None:
    """A17: the expected answer in the body changes a header, a counter and the log; never the answer."""
    reordered = dict(reversed(ANSWER.items()))
    large = ANSWER | {"rows": [["x" * 1_000]] * 800}
    mismatches = 'tally_gateway_debug_mismatches_total{query="aggregates"}'
    before = await metric(client, gateway, mismatches)
    for expected, match in [(ANSWER, "true"), (reordered, "true"), (large, "false"), ({"rows": []}, "false")]:
        async with client.post(gateway.url("/aggregates"), json=expected) as response:
            assert (response.status, await response.json()) == (200, ANSWER)
            assert response.headers["X-Tally-Match"] == match
    assert await metric(client, gateway, mismatches) == before + 2


async def test_health_needs_kafka_and_a_worker(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A16: a balancer takes a gateway out that could not do its whole job."""
    await eventually(lambda: gets(client, gateway, "/health", 503))
    async with client.get(gateway.url("/health")) as response:
        assert (await response.json())["reasons"] == ["none of 2 workers is ready"]
    async with running_worker(gateway.worker_ports[1]):
        await eventually(lambda: gets(client, gateway, "/health", 200))
        async with client.get(gateway.url("/ready")) as response:
            assert await response.json() == {"ready": True, "workers_ready": 1}
    assert await gets(client, gateway, "/live", 200)


async def test_metrics_tell_events_by_result_and_requests_by_status(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """interface.md: what was taken and what was refused can be seen, and no label names a user."""
    names = [
        'tally_gateway_events_total{result="acknowledged"}',
        'tally_gateway_requests_total{code="204",route="user_tags"}',
        'tally_gateway_request_duration_seconds_count{route="user_tags"}',
        'tally_gateway_refused_total{reason="time"}',
        'tally_gateway_events_total{result="refused"}',
    ]
    before = [await metric(client, gateway, name) for name in names]
    await post(client, gateway, a_record())
    await post(client, gateway, a_record(time="now"))
    assert [await metric(client, gateway, name) for name in names] == [count + 1 for count in before]
    assert await metric(client, gateway, "tally_gateway_events_waiting") == 0


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"log_headers": "true", "log_bodies": "true"}, []),
        ({"log_requests": "true"}, ["request"]),
        ({"log_requests": "true", "log_headers": "true"}, ["request", "x-mine"]),
        ({"log_requests": "true", "log_bodies": "true"}, ["request", "9WkYGxkiXBfpMIjBGURC"]),
    ],
)
async def test_requests_are_logged_as_the_switches_say(
    kafka_servers: str, topic: str, settings: dict[str, str], shown: list[str]
) -> None:
    """A15: off is silent; headers and bodies only when asked; a secret never."""
    headers = {"Authorization": "s3cret", "Cookie": "s3cret", "X-Mine": "1"}
    with running_gateway(kafka_servers, **settings) as gateway:
        async with a_client() as client:
            await eventually(lambda: posts(client, gateway, 204))
            async with client.post(gateway.url("/user_tags"), data=a_record(), headers=headers) as response:
                assert response.status == 204
        _, log = gateway.end()
    found = [word for word in ("request", "x-mine", "9WkYGxkiXBfpMIjBGURC") if word in log]
    assert found == shown
    assert "s3cret" not in log


async def raw_request(gateway: Gateway, method: str, target: str) -> tuple[str, bytes]:
    """Send a target that no client library may tidy up; return head (lower case but for the first line) and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode("ascii"))
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.decode("ascii"), body


async def statuses(client: aiohttp.ClientSession, gateway: Gateway, count: int) -> list[int]:
    """Put *count* queries one after the other; return their statuses."""
    found = []
    for _ in range(count):
        async with client.post(gateway.url("/aggregates")) as response:
            found.append(response.status)
    return found


async def workers_ready(client: aiohttp.ClientSession, gateway: Gateway, count: int) -> bool:
    """Say whether the gateway believes that *count* workers are ready."""
    async with client.get(gateway.url("/ready")) as response:
        answer: Any = await response.json()
    return bool(answer.get("workers_ready") == count)


async def metric(client: aiohttp.ClientSession, gateway: Gateway, name: str) -> float:
    """Return a metric by its full name; 0 when it has no value yet."""
    async with client.get(gateway.url("/metrics")) as response:
        lines = (await response.text()).splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)
