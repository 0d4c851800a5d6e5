"""A sender that is too large, too slow or ambiguous is refused and cut off, and others are served meanwhile."""

from __future__ import annotations

import gzip
import re
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from gateway.limited import HEAD_BYTES_MAX, HEAD_TIMEOUT_S, HEADERS_MAX, MESSAGE_TIMEOUT_S, URL_BYTES_MAX
from gateway.lingering import LINGER_S
from stack.ports import free_port
from streams.clock import SYSTEM_CLOCK
from streams.schemas import TEXT_LENGTH_MAX
from tests.security.conftest import BODY_BYTES_MAX, Job
from tests.support.builders import a_record
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import Door

PATIENCE_S = 30.0
BETWEEN_SENDS_MS = 10
SLOW_CONNECTIONS = 40
LATE_S = 5.0
"""What a busy machine may add to a limit; the limits are rows of the specification."""
EVENT = a_record(cookie="of-http")
HEAD = b"POST /user_tags HTTP/1.1\r\nHost: tally\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
HIDDEN = b"GET /live HTTP/1.1\r\nHost: tally\r\n\r\n"


def connected(job: Job) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", job.gateway.port))
    connection.settimeout(PATIENCE_S)
    return connection


def answers(job: Job, data: bytes) -> bytes:
    """Send bytes and return everything that comes back until the gateway closes."""
    with closing(connected(job)) as connection:
        return rest_of(connection, data)


def rest_of(connection: socket.socket, data: bytes = b"") -> bytes:
    """Send bytes, all of which are taken, and return what comes back; a reset on the way is a failure."""
    received = b""
    connection.sendall(data)
    while part := connection.recv(65_536):
        received += part
    return received


def one_answer(connection: socket.socket, data: bytes) -> bytes:
    """Send bytes and return the head of one answer."""
    connection.sendall(data)
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65_536)
        assert part, received
        received += part
    return received


def event(*headers: bytes, body: bytes = EVENT) -> bytes:
    return HEAD + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


FRAMINGS = {
    "a length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
    "equal lengths": HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": HEAD + b"Content-Length: 0, 0\r\n\r\n",
    "a length with a sign": HEAD + b"Content-Length: +0\r\n\r\n",
    "a hexadecimal length": HEAD + b"Content-Length: 0x0\r\n\r\n",
    "a blank before the colon": HEAD + b"Content-Length : 0\r\n\r\n",
    "a folded line": HEAD + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "a folded coding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n",
    "a bare line feed in the head": HEAD + b"X: a\nContent-Length: 0\r\n\r\n",
    "a bare carriage return": HEAD + b"X: a\rContent-Length: 0\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\0\r\nContent-Length: 0\r\n\r\n",
    "a line that begins with a blank": b"POST /user_tags HTTP/1.1\r\n Host: tally\r\n\r\n",
    "no name": HEAD + b": 1\r\n\r\n",
    "two codings": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding that nobody knows": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding before chunks": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a coding after chunks": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"\r\n0\r\n\r\n",
    "a chunk ended by a line feed": CHUNKED + b"\r\n0\n\n",
    "a line feed in a chunk's extension": CHUNKED + b"\r\n0;a\nb\r\n\r\n",
    "a chunk without end": CHUNKED + b"\r\nfffffffffffffffff\r\n",
    "no host": b"POST /user_tags HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    "two hosts": HEAD + b"Host: other\r\nContent-Length: 0\r\n\r\n",
    "HTTP/0.9": b"GET /live\r\n\r\n",
    "HTTP/1.9": HEAD.replace(b"1.1", b"1.9") + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT tally:80 HTTP/1.1\r\nHost: tally\r\n\r\n",
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_what_two_might_frame_differently_is_refused_and_the_connection_closed(job: Job, name: str) -> None:
    """Request smuggling: a request hidden behind must not be answered, wherever a proxy saw its beginning."""
    answer = answers(job, FRAMINGS[name] + HIDDEN)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), answer
    assert len(re.findall(rb"HTTP/1\.1 \d", answer)) == 1
    assert b"connection: close" in answer
    assert b'{"error":{"code":"' in answer


def padded(name: bytes, size_bytes: int, *, used: bytes) -> bytes:
    """Return a header that makes names, values and target of a head with *used* beside it *size_bytes*."""
    names_and_values = sum(len(part) for line in used.split(b"\r\n") for part in line.split(b": "))
    return name + b": " + b"x" * (size_bytes - names_and_values - len(name))


def test_a_head_has_its_limit_to_the_byte(job: Job) -> None:
    """Names and values together; a query with the longest filters fits five times over."""
    used = b"Host: tally\r\nContent-Length: %d" % len(EVENT)
    fitting = padded(b"X", HEAD_BYTES_MAX, used=used)
    with closing(connected(job)) as connection:
        assert one_answer(connection, event(fitting)).startswith(b"HTTP/1.1 204 ")
    assert answers(job, event(fitting + b"x")).startswith(b"HTTP/1.1 431 ")


def test_headers_have_their_limit(job: Job) -> None:
    """Many small ones cost more than their bytes."""
    with closing(connected(job)) as connection:
        assert one_answer(connection, event(*[b"X: 1"] * (HEADERS_MAX - 2))).startswith(b"HTTP/1.1 204 ")
    assert answers(job, event(*[b"X: 1"] * (HEADERS_MAX - 1))).startswith(b"HTTP/1.1 431 ")


def test_a_target_has_its_limit_to_the_byte(job: Job) -> None:
    """At the limit it is a path like another; past it 414, as the specification of HTTP names it."""
    for size_bytes, status in ((URL_BYTES_MAX, b"404"), (URL_BYTES_MAX + 1, b"414")):
        with closing(connected(job)) as connection:
            target = b"/" + b"x" * (size_bytes - 1)
            answer = one_answer(connection, b"GET %b HTTP/1.1\r\nHost: tally\r\n\r\n" % target)
            assert answer.startswith(b"HTTP/1.1 %b " % status)


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"X: " + b"x" * 3_000_000,
        b"GET /" + b"x" * 3_000_000,
        CHUNKED + b"\r\n3;" + b"x" * 3_000_000,
        CHUNKED + b"\r\n0\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        CHUNKED + b"\r\n0\r\nX: " + b"x" * 3_000_000,
    ],
    ids=["header", "target", "extension", "trailers", "trailer"],
)
def test_what_never_ends_is_cut_before_it_costs_memory(job: Job, data: bytes) -> None:
    """The parser keeps an unfinished line for as long as it grows. The sender reads why, with all of it sent."""
    answer = answers(job, data)
    assert answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer
    assert job.door.ask("GET", "/live").status == 200


def test_who_sends_on_and_on_after_a_refusal_is_cut(job: Job) -> None:
    """Nobody parses it, and it ends."""
    received = b""
    started_s = SYSTEM_CLOCK.monotonic_s()
    with closing(connected(job)) as connection:
        connection.sendall(b"no HTTP\r\n\r\n")
        while part := connection.recv(65_536):
            received += part
        cut = select.poll()
        cut.register(connection, 0)  # tells of a reset only
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while SYSTEM_CLOCK.monotonic_s() < started_s + LINGER_S + PATIENCE_S:
                cut.poll(BETWEEN_SENDS_MS)
                connection.sendall(b"x" * 1_000)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert SYSTEM_CLOCK.monotonic_s() - started_s >= LINGER_S


def test_a_body_has_its_limit_to_the_byte_in_pieces_too(job: Job) -> None:
    """Announced or chunked; it is stored as it came."""
    fitting = EVENT[:-1] + b" " * (BODY_BYTES_MAX - len(EVENT)) + b"}"
    for body, status in ((fitting, b"204"), (fitting + b" ", b"413")):
        middle = len(body) // 2
        parts = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]))
        for request in (event(body=body), CHUNKED + b"\r\n" + parts + b"0\r\n\r\n"):
            with closing(connected(job)) as connection:
                assert one_answer(connection, request).startswith(b"HTTP/1.1 %b " % status)


def test_a_text_has_its_limit_to_the_character(job: Job) -> None:
    """Whatever a character weighs; what is longer is named, and not repeated."""
    for letter in ("x", "\U0001f36a"):
        fitting, longer = (a_record(cookie="of-http", origin=letter * (TEXT_LENGTH_MAX + more)) for more in (0, 1))
        assert job.door.ask("POST", "/user_tags", fitting).status == 204
        refused = job.door.ask("POST", "/user_tags", longer)
        assert (refused.status, refused.error) == (400, "schema") and letter * 2 not in refused.body.decode()


def test_a_packed_body_is_not_unpacked(job: Job) -> None:
    """A bomb of 1 kB is 1 kB here: the route takes JSON, whatever a header says of it."""
    for packed in (gzip.compress(EVENT), gzip.compress(b" " * 50_000_000)):
        answer = job.door.ask("POST", "/user_tags", packed, headers={"Content-Encoding": "gzip"})
        assert (answer.status, answer.error) == (400, "not_json")


def test_nesting_has_a_limit(job: Job) -> None:
    """In a field that nobody reads as well: it is skipped, by recursion."""
    deep = b'{"x":' + b"[" * 10_000 + b"]" * 10_000 + b"," + EVENT[1:]
    shallow = b'{"x":' + b"[" * 100 + b"]" * 100 + b"," + EVENT[1:]
    assert job.door.ask("POST", "/user_tags", deep).error == "not_json"
    assert job.door.ask("POST", "/user_tags", shallow).status == 204


def test_slow_senders_are_cut_after_ten_seconds_and_others_are_served(job: Job) -> None:
    """Slowloris: a head that never ends, a body that never ends, a body that nobody waits for, blank lines for ever."""
    slow = [HEAD, HEAD + b"X: ", event()[:-1], b"POST /none HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n"]
    started_s = SYSTEM_CLOCK.monotonic_s()
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(connected(job))) for _ in range(SLOW_CONNECTIONS)]
        for number, connection in enumerate(connections):
            connection.sendall(slow[number % len(slow)])
        job.door.send(*[EVENT] * 50)
        ended = [rest_of(connection) for connection in connections]
    took_s = SYSTEM_CLOCK.monotonic_s() - started_s
    statuses = {answer.split(b" ")[1] for answer in ended}
    assert statuses == {b"408", b"404"}
    assert HEAD_TIMEOUT_S <= took_s <= MESSAGE_TIMEOUT_S + LATE_S


def test_a_request_for_another_protocol_is_taken_as_it_is(job: Job) -> None:
    """Java's client asks for HTTP/2 with its first request, whose body the parser would drop; this is no other's server."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA")
    with closing(connected(job)) as connection:
        request = event(*upgrade)
        for cut in (len(request), len(request) - 5, request.index(b"\r\n\r\n") + 4, 20):
            connection.sendall(request[:cut])
            assert one_answer(connection, request[cut:]).startswith(b"HTTP/1.1 204 ")
        assert one_answer(connection, event()).startswith(b"HTTP/1.1 204 ")
    socket_key = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    with closing(connected(job)) as connection:
        assert one_answer(connection, event(*socket_key)).startswith(b"HTTP/1.1 204 ")


def test_garbage_behind_an_event_does_not_cost_the_event_its_answer(job: Job) -> None:
    """It is stored: without its 204 the sender would send it again, and it would count twice."""
    answer = answers(job, event() + b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204 "), answer


@pytest.fixture(scope="module")
def limited(job: Job) -> Iterator[Door]:
    """A gateway that limits clients."""
    settings = {"gateway_requests_per_client_s": "4", "gateway_workers": job.workers[0].url}
    with (
        running_gateway(job.servers, gateway_port=str(free_port()), **settings) as gateway,
        closing(Door(gateway.port)) as door,
    ):
        eventually(lambda: door.ask("GET", "/ready").status == 200, what="the limited gateway ready")
        yield door


def test_a_client_that_asks_too_often_is_told_when_to_come_again(limited: Door) -> None:
    """Off unless set: behind a balancer every client has its address."""
    eventually(lambda: limited.ask("POST", "/user_tags", EVENT).status == 204, what="an event taken")
    found = [limited.ask("POST", "/user_tags", EVENT) for _ in range(40)]
    refused = [answer for answer in found if answer.status == 429]
    assert refused and {answer.status for answer in found} <= {204, 429}
    assert all(answer.error == "too_many_requests" and int(answer.headers["retry-after"]) >= 1 for answer in refused)
    eventually(lambda: limited.ask("POST", "/user_tags", EVENT).status == 204, what="an event taken again")
