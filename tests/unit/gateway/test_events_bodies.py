"""How bodies of `/v1/events` may come: forms, encodings, pieces, limits; a body that is refused leaves nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
import zstandard

from gateway.body_room import BodyRoom
from gateway.events_route import BODY_BYTES_MAX, EXPANDED_BYTES_MAX
from gateway.events_schema import EVENTS_MAX
from tests.support.events_door import LINES_BODY, EventsDoor, a_batch, an_event


@pytest.fixture
def door() -> EventsDoor:
    """A door that takes everybody."""
    return EventsDoor()


async def test_all_forms_and_encodings_of_a_body_mean_the_same(door: EventsDoor) -> None:
    """One event, a batch, and lines; plain or compressed."""
    event = an_event()
    one = json.dumps(event).encode()
    pretty = json.dumps({"sent_at": 1, "batch": [event]}, indent=2).encode()
    forms = [(one, ()), (pretty, ()), (b"\r\n" + one + b"\r\n\n", (LINES_BODY,))]
    ways: list[tuple[bytes, Any]] = [(b"identity", bytes), (b"gzip", gzip.compress), (b"deflate", zlib.compress)]
    ways.append((b"zstd", zstandard.ZstdCompressor().compress))
    for body, headers in forms:
        for encoding, compress in ways:
            fresh = EventsDoor()
            answered = await fresh.post(compress(body), (b"content-encoding", encoding), *headers)
            assert (answered.status, answered.words) == (200, {event["id"]: "ok"})
            assert fresh.count("tally_gateway_decoded_bytes_total", route="events") == len(body)


BATCH = a_batch(an_event())
WHOLE: dict[str, tuple[bytes, tuple[tuple[bytes, bytes], ...], int, str]] = {
    "empty": (b"", (), 400, "empty"),
    "blank": (b" \n", (), 400, "empty"),
    "no JSON": (b"id=1", (), 400, "not_json"),
    "half of one": (BATCH[:-3], (), 400, "not_json"),
    "two documents": (BATCH + BATCH, (), 400, "not_json"),
    "no UTF-8": (BATCH.replace(b"page", b"\xff\xfe"), (), 400, "not_json"),
    "a list": (b"[]", (), 400, "not_events"),
    "null": (b"null", (), 400, "not_events"),
    "batch is an object": (b'{"batch": {}}', (), 400, "not_events"),
    "nested deeply": (b'{"batch": [' + b"[" * 100_000, (), 400, "not_json"),
    "nested deeply in an event": (b'{"properties": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", (), 400, "not_json"),
    "truncated compression": (gzip.compress(BATCH)[:-5], ((b"content-encoding", b"gzip"),), 400, "damaged_body"),
    "garbage behind": (gzip.compress(BATCH) + b"x", ((b"content-encoding", b"gzip"),), 400, "damaged_body"),
    "unknown encoding": (BATCH, ((b"content-encoding", b"br"),), 415, "unknown_encoding"),
    "two encodings": (BATCH, ((b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")), 415, "unknown_encoding"),
    "text": (BATCH, ((b"content-type", b"text/plain"),), 415, "unknown_type"),
    "another charset": (BATCH, ((b"content-type", b"application/json; charset=utf-16"),), 415, "unknown_type"),
    "no type": (BATCH, ((b"content-type", b""),), 415, "unknown_type"),
    "no event": (b'{"batch": []}', (), 422, "no_events"),
    "no valid event": (a_batch(an_event(type=...), 5, None, [], "x"), (), 422, "no_valid_event"),
    "no line is JSON": (b"x\ny\n", (LINES_BODY,), 422, "no_valid_event"),
    "too many events": (a_batch(*[1] * (EVENTS_MAX + 1)), (), 413, "too_many_events"),
    "too large": (b" " * (BODY_BYTES_MAX + 1), (), 413, "body_too_large"),
    "too large when expanded": (gzip.compress(b" " * 5_242_881), ((b"content-encoding", b"gzip"),), 413, "body_too_large"),
}


@pytest.mark.parametrize(("body", "headers", "status", "code"), WHOLE.values(), ids=WHOLE)
async def test_a_body_that_is_refused_stores_nothing(
    door: EventsDoor, body: bytes, headers: tuple[tuple[bytes, bytes], ...], status: int, code: str
) -> None:
    """collector.md §1.1: 400, 413, 415 and 422, in our own form, without Retry-After."""
    answered = await door.post(body, *headers)
    assert (answered.status, answered.code) == (status, code)
    assert b"retry-after" not in answered.headers
    assert (door.intake.taken, door.letters.taken) == ([], [])


async def test_limits_hold_to_the_event_and_the_byte(door: EventsDoor) -> None:
    """security.md row 6: each limit at n; n+1 is among those above."""
    many = [an_event(properties=...) for _ in range(EVENTS_MAX)]
    lines = b"\n".join(json.dumps(event, separators=(",", ":")).encode() for event in many)
    assert (await door.post(lines, LINES_BODY)).status == 200
    assert len(door.intake.taken) == EVENTS_MAX
    fitting = BATCH + b" " * (BODY_BYTES_MAX - len(BATCH))
    assert (await door.post(fitting)).status == 200
    expanded = BATCH + b" " * (EXPANDED_BYTES_MAX - len(BATCH))
    assert (await door.post(gzip.compress(expanded), (b"content-encoding", b"gzip"))).status == 200


async def test_bodies_in_pieces_are_read_to_their_limit(door: EventsDoor) -> None:
    """And a client that goes away in between gets no answer and leaves nothing."""
    body = a_batch(an_event())
    pieces = [{"type": "http.request", "body": body[n : n + 20], "more_body": True} for n in range(0, len(body), 20)]
    last = {"type": "http.request", "body": b"", "more_body": False}
    answered = await door.ask([*pieces, last])
    assert answered is not None and answered.status == 200
    assert await door.ask(pieces) is None
    endless = [{"type": "http.request", "body": b"x" * 70_000, "more_body": True}] * 20
    refused = await door.ask(endless)
    assert refused is not None
    assert (refused.status, refused.headers[b"connection"]) == (413, b"close")


async def test_a_body_that_does_not_come_is_408(door: EventsDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """collector.md §1.1, §6.1: with Retry-After, as everything that is worth another try; and the connection ends."""
    monkeypatch.setattr("gateway.bodies.BODY_TIMEOUT_S", 0.01)
    sent: list[Any] = []

    async def receive() -> Any:
        if len(received) < 1:
            received.append(1)
            return {"type": "http.request", "body": b"{", "more_body": True}
        return await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        sent.append(message)

    received: list[int] = []
    await door.events(
        {"method": "POST", "headers": [(b"content-type", b"application/json")], "query_string": b""}, receive, send
    )
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], headers[b"retry-after"], headers[b"connection"]) == (408, b"1", b"close")


async def test_bodies_that_arrive_share_a_bounded_room(door: EventsDoor) -> None:
    """collector.md §2: a cap on bytes in flight; past it 503 + Retry-After, and the room is free again afterwards."""
    door.events.room = BodyRoom(BODY_BYTES_MAX)
    halted = asyncio.Event()

    async def receive_slowly() -> Any:
        if halted.is_set():
            return {"type": "http.disconnect"}
        if not waiting:
            waiting.append(1)
            return {"type": "http.request", "body": b"{", "more_body": True}
        await halted.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    waiting: list[int] = []
    scope = {"method": "POST", "headers": [(b"content-type", b"application/json")], "query_string": b""}
    slow = asyncio.ensure_future(door.events(scope, receive_slowly, send))
    while not waiting:
        await asyncio.sleep(0)
    pieces = [{"type": "http.request", "body": b" ", "more_body": True}] * 2
    refused = await door.ask(pieces)
    assert refused is not None
    assert (refused.status, refused.headers[b"retry-after"], refused.headers[b"connection"]) == (503, b"1", b"close")
    halted.set()
    await slow
    assert await door.ask(pieces) is None, "there is room, and the client has gone"


async def test_bodies_that_are_read_in_slices_share_the_room(door: EventsDoor) -> None:
    """A few kilobytes are expanded to megabytes before others get their turn: 40 at a time took all that a gateway may have."""
    large = a_batch(*[an_event(properties={"text": "x" * 8_000}) for _ in range(80)])
    door.events.room = BodyRoom(2 * len(large))
    posts = [door.post(gzip.compress(large), (b"content-encoding", b"gzip")) for _ in range(3)]
    *taken, refused = await asyncio.gather(*posts)
    assert [each.status for each in taken] == [200, 200]
    assert (refused.status, refused.code, refused.headers[b"retry-after"]) == (503, "too_many_waiting", b"1")
    assert b"connection" not in refused.headers
    assert (await door.post(large)).status == 200


@pytest.mark.parametrize("is_beacon", [False, True])
async def test_another_method_is_405_in_json(door: EventsDoor, is_beacon: bool) -> None:
    """interface.md: wrong method 405; the answer to OPTIONS is the list of methods."""
    for method, status in (("GET", 405), ("PUT", 405), ("OPTIONS", 204)):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await (door.beacon if is_beacon else door.events)({"method": method, "headers": [], "query_string": b""}, receive, send)
        assert (sent[0]["status"], dict(sent[0]["headers"])[b"allow"]) == (status, b"OPTIONS, POST")
        assert sent[1]["body"] == b"" if status == 204 else b"method_not_allowed" in sent[1]["body"]
