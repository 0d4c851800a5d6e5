"""HTTP as it really comes: redirects, broken and odd answers, kept connections; the same for threads and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tally_client import Answer, HttpTransport, TransportError
from tally_client.async_transport import AsyncTransport
from tally_client.transport import redirected

from tests.client.recording import Recorder
from tests.support.certificates import make_certificates

HEADERS = {"X-Request-Id": "one", "Authorization": "Bearer s3cret", "Content-Type": "application/json"}
BATCH = b'{"batch": []}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Odd: a b\r\n\r\n{}"
Asking = Callable[..., list[Answer]]


def by_thread(url: str, *paths: str, timeout_s: float = 5.0) -> list[Answer]:
    transport = HttpTransport(url, timeout_s=timeout_s)
    try:
        return [transport.post(path, b"{}", HEADERS) for path in paths]
    finally:
        transport.close()


def by_loop(url: str, *paths: str, timeout_s: float = 5.0) -> list[Answer]:
    async def ask() -> list[Answer]:
        transport = AsyncTransport(url, timeout_s=timeout_s)
        try:
            return [await transport.post(path, b"{}", HEADERS) for path in paths]
        finally:
            transport.close()

    return asyncio.run(ask())


@pytest.fixture(params=[by_thread, by_loop], ids=["threads", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Asking:
    asking: Asking = request.param
    return asking


@contextlib.contextmanager
def a_server(*answers: bytes, closes: bool = True) -> Iterator[tuple[str, list[bytes]]]:
    """Answer with raw bytes, one answer a connection (or a request, where it does not close), and note the heads that came."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            waiting = list(answers)
            while waiting:
                with contextlib.suppress(OSError), listening.accept()[0] as connection:
                    while waiting:
                        heads.append(received(connection))
                        connection.sendall(waiting.pop(0))
                        if closes:
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", heads
        thread.join(5)


def received(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n{}"):
        read = connection.recv(4096)
        if not read:
            raise OSError
        data += read
    return data


@pytest.mark.parametrize(
    "raw",
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Odd: a b\r\n\r\n1;x=y\r\n{\r\n1\r\n}\r\n0\r\nTrailer: 1\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nX-Odd: a b\r\n\r\n{}",
        b"HTTP/1.1 200\r\nConnection: close\r\nX-Odd: a b\r\n\r\n{}",
    ],
    ids=["length", "interim", "chunks", "old", "until-the-end"],
)
def test_every_form_of_an_answer_is_read(raw: bytes, ask: Asking) -> None:
    """Proxies in between choose the form."""
    with a_server(raw) as (url, _):
        (answer,) = ask(url, "/v1/events")
    assert (answer.status, answer.body, answer.headers["x-odd"]) == (200, b"{}", "a b")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\nConnection: close\r\n\r\n" + b"x" * 4_000_001,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=["nothing", "not-http", "cut", "too-long", "endless", "no-chunk", "endless-head"],
)
def test_what_is_no_answer_is_one_kind_of_error(raw: bytes, ask: Asking) -> None:
    """Whatever the peer is, the caller sees a TransportError and no more memory than an answer may have."""
    with a_server(raw) as (url, _), pytest.raises(TransportError) as raised:
        ask(url, "/v1/events")
    assert "s3cret" not in str(raised.value)


def test_silence_ends_after_the_timeout(ask: Asking) -> None:
    """A peer that takes connections and says nothing holds nobody for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listening, pytest.raises(TransportError):
        ask(f"http://127.0.0.1:{listening.getsockname()[1]}", "/v1/events", timeout_s=0.2)


def test_connections_are_kept_until_the_server_closes_them(ask: Asking) -> None:
    """A kept connection saves a round trip; one that has ended is noticed before a request is written into it."""
    with a_server(OK, OK, OK, closes=False) as (url, heads):
        assert len(ask(url, "/a", "/b", "/c")) == 3
    assert [head.split(b" ")[1] for head in heads] == [b"/a", b"/b", b"/c"]
    closing = OK.replace(b"X-Odd", b"Connection: close\r\nX-Odd")
    with a_server(closing, OK) as (url, heads):
        assert len(ask(url, "/a", "/b")) == 2


@pytest.mark.parametrize(("trusted", "is_taken"), [("authority", True), ("stranger", False)])
def test_only_a_known_authority_is_trusted(trusted: str, is_taken: bool, tmp_path: Path) -> None:
    """P10: who is in between would see every event and the key."""
    certificates = make_certificates(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificates.certificate("server"), certificates.key("server"))
    checking = ssl.create_default_context(cafile=certificates.certificate(trusted))

    async def by_asyncio(url: str) -> Answer:
        transport = AsyncTransport(url, tls=checking)
        try:
            return await transport.post("/v1/events", BATCH, HEADERS)
        finally:
            transport.close()

    def by_http_client(url: str) -> Answer:
        transport = HttpTransport(url, tls=checking)
        try:
            return transport.post("/v1/events", BATCH, HEADERS)
        finally:
            transport.close()

    with Recorder(tls=serving) as recorder:
        for ask in (by_http_client, lambda url: asyncio.run(by_asyncio(url))):
            if is_taken:
                assert ask(recorder.url).status == 200
            else:
                with pytest.raises(TransportError, match="SSLCertVerificationError"):
                    ask(recorder.url)
    assert len(recorder.seen) == 2 * is_taken


def redirects_to(location: str) -> Callable[[Any], Mapping[str, Any]]:
    return lambda _: {"status": 307, "headers": {"Location": location}, "body": ""}


@pytest.mark.parametrize("status", [307, 308])
def test_authorization_stays_on_its_own_host(status: int, recorder: Recorder, ask: Asking) -> None:
    """P16: it is kept on the way from `/analytics` to `/analytics/`, and given to nobody else; the body goes along."""
    with Recorder() as other:
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        recorder.script([{"status": status, "headers": {"Location": "/there/"}, "body": ""}, {"body": "{}"}])
        ask(recorder.url, "/here")
        recorder.script([{"status": status, "headers": {"Location": f"{elsewhere}/there/"}, "body": ""}])
        other.script([{"body": "{}"}])
        ask(recorder.url, "/here")
        another_port = [{"status": status, "headers": {"Location": f"{other.url}/port/"}, "body": ""}]
        recorder.script(another_port)
        other.script([{"body": "{}"}])
        ask(recorder.url, "/here")
    assert [(seen.path, seen.headers.get("authorization"), seen.raw) for seen in recorder.seen[:2]] == [
        ("/here", "Bearer s3cret", b"{}"),
        ("/there/", "Bearer s3cret", b"{}"),
    ]
    assert [(seen.path, seen.headers.get("authorization"), seen.raw) for seen in other.seen] == [
        ("/there/", None, b"{}"),
        ("/port/", None, b"{}"),
    ]


def test_a_redirect_out_of_tls_is_not_followed() -> None:
    """P10: events and key were given to TLS. Both clients ask this function; what it raises is tried again, nothing is lost."""
    for location, is_followed in (("http://tally.example/v1/events/", False), ("https://tally.example/v1/events/", True)):
        answer = Answer(307, {"location": location}, b"")
        if is_followed:
            assert redirected("https://tally.example/v1/events", answer, HEADERS) == (location, HEADERS)
        else:
            with pytest.raises(TransportError, match="from https to http"):
                redirected("https://tally.example/v1/events", answer, HEADERS)


@pytest.mark.parametrize("location", ["/round", "ftp://elsewhere/", "http://name:s3cret@host/"])
def test_redirects_that_lead_nowhere_end(location: str, recorder: Recorder, ask: Asking) -> None:
    """A circle is left after three steps; what is no URL of HTTP is not followed."""
    recorder.routes["/round"] = redirects_to(location)
    with pytest.raises(TransportError):
        ask(recorder.url, "/round")
