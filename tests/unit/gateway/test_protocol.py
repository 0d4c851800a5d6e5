"""The short way of an event through a connection, and that it answers as the usual way does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from gateway.intake import STALLED, Intake
from gateway.lanes import Fate, Tell
from gateway.protocol import Protocol
from gateway.request_id import RecordHeaders
from gateway.user_tags import UserTags
from streams.metrics import GatewayMetrics
from streams.settings import Settings
from streams.topics import USER_TAGS
from tests.support.builders import a_record

DATE = (b"date", b"Tue, 01 Mar 2022 00:00:00 GMT")
STORED = b"HTTP/1.1 204 No Content\r\ndate: Tue, 01 Mar 2022 00:00:00 GMT\r\n\r\n"
TURNS = 20


class HeldIntake:
    """Takes events, and tells their fate when the test says so."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.waiting: list[Tell] = []
        self.headers: RecordHeaders = []
        self.bug: Exception | None = None

    def append(self, key: bytes, value: bytes, tell: Tell) -> None:
        if self.bug is not None:
            raise self.bug
        self.taken.append(value)
        self.waiting.append(tell)

    def fate_of(self, key: bytes, value: bytes, headers: RecordHeaders) -> asyncio.Future[Fate]:
        self.headers.extend(headers)
        future: asyncio.Future[Fate] = asyncio.get_running_loop().create_future()
        self.append(key, value, future.set_result)
        return future

    def tell(self, fate: Fate = None) -> None:
        self.waiting.pop(0)(fate)


class Wire:
    """The transport of a connection without a socket."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = self.closed = False

    def write(self, data: bytes) -> None:
        assert not (self.ended or self.closed), "written to a closed connection"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Connection:
    """A connection to a gateway that holds every event until it is told to let go."""

    def __init__(self) -> None:
        self.intake = HeldIntake()
        self.wire = Wire()
        user_tags = UserTags(USER_TAGS, cast(Intake, self.intake), GatewayMetrics(), Settings())
        config = uvicorn.Config(cast(Any, user_tags), lifespan="off", interface="asgi3", ws="none", log_config=None)
        state = ServerState()
        state.default_headers = [DATE]
        self.protocol = Protocol(config, state, {}, asyncio.get_running_loop(), user_tags=user_tags)
        self.protocol.connection_made(cast(asyncio.Transport, self.wire))

    async def send(self, *pieces: bytes) -> None:
        """Let pieces of a request arrive, and everybody do what is to be done."""
        for piece in pieces:
            self.protocol.data_received(piece)
        await turns()

    async def tell(self, fate: Fate = None) -> None:
        self.intake.tell(fate)
        await turns()

    @property
    def took_short_way(self) -> bool:
        return not self.protocol.tasks


async def turns() -> None:
    """Let the tasks of the loop run until they wait."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def a_request(body: bytes, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"POST /user_tags HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def parsed(answer: bytes) -> tuple[bytes, set[bytes], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *headers = head.split(b"\r\n")
    return status, set(headers), body


async def test_whole_event_is_answered_by_its_fate_alone() -> None:
    """204 is a promise: nothing is said before Kafka has acknowledged."""
    connection = Connection()
    await connection.send(a_request(a_record()))
    assert connection.took_short_way
    assert (connection.intake.taken, connection.wire.written) == ([a_record()], b"")
    await connection.tell()
    assert (connection.wire.written, connection.wire.closed) == (STORED, False)


USUAL: dict[str, Callable[[bytes], tuple[bytes, ...]]] = {
    "in two pieces": lambda body: (a_request(body)[:-9], a_request(body)[-9:]),
    "head first": lambda body: (a_request(body)[: -len(body)], body),
    "close": lambda body: (a_request(body, "Connection: close"),),
    "http/1.0": lambda body: (a_request(body, version="1.0"),),
    "http/1.0 kept": lambda body: (a_request(body, "Connection: keep-alive", version="1.0"),),
    "expect": lambda body: (a_request(body, "Expect: 100-continue"),),
}


@pytest.mark.parametrize("fate", [None, STALLED])
@pytest.mark.parametrize("pieces_of", USUAL.values(), ids=USUAL)
async def test_both_ways_answer_the_same(pieces_of: Callable[[bytes], tuple[bytes, ...]], fate: Fate) -> None:
    """A client must not see which way its request took."""
    short, usual = Connection(), Connection()
    await short.send(a_request(a_record()))
    await usual.send(*pieces_of(a_record()))
    assert (short.took_short_way, usual.took_short_way) == (True, False)
    await short.tell(fate)
    await usual.tell(fate)
    expected, found = parsed(short.wire.written), parsed(usual.wire.written.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert (found[0], found[1] - {b"connection: close"}, found[2]) == expected
    assert usual.intake.taken == [a_record()]


async def test_wrong_event_takes_the_usual_way_and_the_next_one_the_short() -> None:
    """One place says what is wrong with an event."""
    connection = Connection()
    await connection.send(a_request(b"{"))
    assert parsed(connection.wire.written)[0] == b"HTTP/1.1 400 Bad Request"
    connection.wire.written = b""
    await connection.send(a_request(a_record()))
    assert connection.took_short_way
    await connection.tell()
    assert connection.wire.written == STORED


async def test_requests_behind_one_another_are_taken_and_answered_in_order() -> None:
    """A client may send the next request before the answer: nothing is taken twice, and no answer overtakes another."""
    bodies = [a_record(price=number) for number in range(3)]
    connection = Connection()
    await connection.send(b"".join(map(a_request, bodies)))
    for number in range(len(bodies)):
        assert connection.intake.taken == bodies[: number + 1]
        await connection.tell()
        assert connection.wire.written == STORED * (number + 1)


async def test_client_that_has_gone_is_not_answered() -> None:
    """Its event is stored all the same."""
    connection = Connection()
    await connection.send(a_request(a_record()))
    connection.wire.closed = True
    connection.protocol.connection_lost(None)
    await connection.tell()
    assert connection.wire.written == b""


async def test_end_of_the_process_waits_for_the_answer() -> None:
    """A8: what is in flight is answered, and the client told to connect anew."""
    connection = Connection()
    await connection.send(a_request(a_record()))
    connection.protocol.shutdown()
    assert not connection.wire.closed
    await connection.tell()
    assert parsed(connection.wire.written)[1] == {b": ".join(DATE), b"connection: close"}
    assert connection.wire.closed


async def test_client_that_reads_no_answers_is_given_no_more() -> None:
    """Answers that nobody reads must not pile up in memory."""
    connection = Connection()
    connection.protocol.pause_writing()
    await connection.send(a_request(a_record()))
    assert not connection.took_short_way
    await connection.tell()
    assert connection.wire.written == b""
    connection.protocol.resume_writing()
    await turns()
    assert connection.wire.written == STORED


async def test_bug_is_the_gateways_and_not_the_clients(caplog: pytest.LogCaptureFixture) -> None:
    """A 400 would make a client throw its event away."""
    connection = Connection()
    connection.intake.bug = RuntimeError("a bug")
    with caplog.at_level(logging.CRITICAL, logger="gateway.protocol"):
        await connection.send(a_request(a_record()))
    assert parsed(connection.wire.written)[0] == b"HTTP/1.1 500 Internal Server Error"
    assert connection.wire.closed


async def test_id_of_a_request_goes_into_its_record_and_its_answer() -> None:
    """It is how a producer's engineer finds the one event in a dead letter; one that could forge a log line is left out."""
    connection = Connection()
    await connection.send(a_request(a_record(), "X-Request-Id: shop-17.a:b"))
    await connection.tell()
    assert connection.intake.headers == [("request-id", b"shop-17.a:b")]
    assert b"\r\nx-request-id: shop-17.a:b\r\n" in connection.wire.written
    await connection.send(a_request(a_record(), "X-Request-Id: shop 17"))
    await connection.tell()
    assert len(connection.intake.headers) == 1
    assert connection.wire.written.count(b"x-request-id") == 1


async def test_request_without_an_id_takes_the_short_way() -> None:
    """An id costs a header in every record: only those who ask for one pay for it."""
    connection = Connection()
    await connection.send(a_request(a_record()))
    assert connection.took_short_way
    assert connection.intake.headers == []
