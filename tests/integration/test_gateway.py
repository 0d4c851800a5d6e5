"""Events in: the gateway as its own process, real Kafka behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiokafka.partitioner import murmur2

from tests.support.builders import a_record, a_user_tag, record_bytes
from tests.support.gateway_process import BODY_BYTES_MAX, PARTITIONS, PATIENCE_S, Gateway, LogOf, post


@pytest.mark.parametrize(
    "body",
    [
        a_record(),
        a_record(cookie="zażółć/100%?x=1&y 🍪", origin="", brand_id="null", category_id="a_b|c:d"),
        a_record(product_id="12486", price=-(2**31), time="2022-03-01T00:00:01Z"),
        b'  {"more": {"x": [1]},' + a_record()[1:] + b"\n ",
    ],
    ids=["as captured", "unicode", "other types", "blanks and extra fields"],
)
async def test_stored_event_is_the_body_as_received(
    gateway: Gateway, client: aiohttp.ClientSession, log_of: LogOf, body: bytes
) -> None:
    """A1, A7 points 1, 2, 19, 22, 25: 204 and empty; in the topic byte for byte, keyed and placed by the cookie."""
    async with client.post(gateway.url("/user_tags"), data=body) as response:
        assert (response.status, await response.read()) == (204, b"")
    key = json.loads(body)["cookie"].encode()
    assert log_of() == [((murmur2(key) & 0x7FFFFFFF) % PARTITIONS, key, body)]


def without(name: str) -> bytes:
    tag = a_user_tag()
    (tag if name in tag else tag["product_info"]).pop(name)
    return record_bytes(tag)


FIELDS = ["time", "cookie", "country", "device", "action", "origin", "product_info"]
FIELDS += ["product_id", "brand_id", "category_id", "price"]
BAD_BODIES: list[tuple[bytes, str]] = [
    *((without(name), "schema") for name in FIELDS),
    *((a_record(**{name: None}), "schema") for name in FIELDS),
    *((a_record(**{name: []}), "schema") for name in FIELDS),
    (a_record(action="view"), "schema"),
    (a_record(action="CLICK"), "schema"),
    (a_record(device="WATCH"), "schema"),
    (a_record(price=1.5), "schema"),
    (a_record(price="5"), "schema"),
    (a_record(price=2**31), "schema"),
    (a_record(price=-(2**31) - 1), "schema"),
    (a_record(price=True), "schema"),
    (a_record().replace(b"28969", b"1e2"), "schema"),
    (a_record().replace(b"28969", b"1.0"), "schema"),
    (a_record(product_id=1.5), "schema"),
    (a_record(time="2022-03-01T00:00:00.649"), "time"),
    (a_record(time="2022-02-30T00:00:00.000Z"), "time"),
    (a_record(time="2022-03-01T00:00:60Z"), "time"),
    (a_record(time="2022-03-01T00:00:00+00:00"), "time"),
    (a_record(time="yesterday"), "time"),
    (a_record(cookie="a\0b"), "text"),
    (a_record(origin="x").replace(b'"x"', b'"\\ud800"'), "text"),
    (a_record(origin="x").replace(b'"x"', b'"\xff"'), "not_json"),
    (b"", "empty"),
    (b"{", "not_json"),
    (b"cookie=1", "not_json"),
    (b"null", "schema"),
    (b"[]", "schema"),
    (b"[" + a_record() + b"]", "schema"),
    (b"[" * 1_000, "not_json"),
]


async def test_bad_event_is_refused_with_its_reason_and_not_stored(
    gateway: Gateway, client: aiohttp.ClientSession, log_of: LogOf
) -> None:
    """A1, A7 points 16, 17, 23, 24: each bad field is a 400 that says why, and nothing reaches the topic."""
    answers = [await post(client, gateway, body) for body, _ in BAD_BODIES]
    found = [(status, answer["error"]["code"]) for status, answer in answers]
    assert found == [(400, reason) for _, reason in BAD_BODIES]
    assert all(answer["error"]["message"] for _, answer in answers)
    assert log_of() == []


async def test_too_large_body_is_413_and_the_connection_goes_on(
    gateway: Gateway, client: aiohttp.ClientSession, log_of: LogOf
) -> None:
    """The limit holds for announced and for streamed bodies; one byte less is taken."""
    fitting = a_record()[:-1] + b" " * (BODY_BYTES_MAX - len(a_record())) + b"}"

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b"x" * BODY_BYTES_MAX

    for body in (fitting + b" ", b"x" * 500_000, stream()):
        status, answer = await post(client, gateway, body)
        assert (status, answer["error"]["code"]) == (413, "body_too_large")
    assert await post(client, gateway, fitting) == (204, None)
    assert [value for _, _, value in log_of()] == [fitting]


async def test_endless_body_is_cut(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A sender that never ends costs neither memory nor a connection for long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"POST /user_tags HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nxxxx")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_every_acknowledged_event_of_many_at_once_is_stored_once(
    gateway: Gateway, client: aiohttp.ClientSession, log_of: LogOf
) -> None:
    """A10: 204 is a promise, and the group commit neither loses nor doubles within a batch."""
    bodies = [a_record(cookie=f"cookie-{number % 37}", price=number) for number in range(200)]
    answers = await asyncio.gather(*(post(client, gateway, body) for body in bodies))
    assert answers == [(204, None)] * len(bodies)
    assert sorted(value or b"" for _, _, value in log_of()) == sorted(bodies)


async def test_events_of_one_sender_keep_their_order(gateway: Gateway, client: aiohttp.ClientSession, log_of: LogOf) -> None:
    """A7 point 3: of two events in one millisecond the later arrival is newer, so arrival must be the order of answers."""
    bodies = [a_record(cookie="one", price=number) for number in range(20)]
    for body in bodies:
        assert (await post(client, gateway, body))[0] == 204
    assert [value for _, _, value in log_of()] == bodies


@pytest.mark.parametrize(
    ("request_line", "status", "allow"),
    [
        ("GET /", 404, None),
        ("POST /user_tags/", 404, None),
        ("GET /dashboards", 404, None),
        ("GET /user_tags", 405, "OPTIONS, POST"),
        ("PUT /user_tags", 405, "OPTIONS, POST"),
        ("DELETE /user_profiles/x", 405, "GET, HEAD, OPTIONS, POST"),
        ("PUT /aggregates", 405, "GET, HEAD, OPTIONS, POST"),
        ("POST /health", 405, "GET, HEAD, OPTIONS"),
        ("OPTIONS /user_tags", 204, "OPTIONS, POST"),
    ],
)
async def test_wrong_path_or_method_is_said_in_json(
    gateway: Gateway, client: aiohttp.ClientSession, request_line: str, status: int, allow: str | None
) -> None:
    """interface.md: unknown path 404, wrong method 405; the answer to OPTIONS is the list of methods."""
    method, path = request_line.split()
    async with client.request(method, gateway.url(path)) as response:
        assert (response.status, response.headers.get("Allow")) == (status, allow)
        if status != 204:
            error = (await response.json())["error"]
            assert error["code"] == {404: "not_found", 405: "method_not_allowed"}[status]


async def test_what_is_not_http_is_refused_in_json(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """No stack trace and no foreign format, whatever arrives."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /user_profiles/\xc5\xbc HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "not_http"
