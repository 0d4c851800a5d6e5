"""With `gateway.https_only` nothing is taken or answered in clear, by whichever way a request comes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from gateway.https_only import OPEN_PATHS
from stack.ports import free_port
from tests.security.conftest import Job
from tests.security.test_http import CHUNKED, EVENT, event, one_answer
from tests.support.eventually import eventually
from tests.support.gateway_process import running_gateway
from tests.support.job import Door

TLS = b"X-Forwarded-Proto: https"
HSTS = b"strict-transport-security: max-age=31536000"
IN_CLEAR = {
    "nothing said": (),
    "http": (b"X-Forwarded-Proto: http",),
    "upper case": (b"X-FORWARDED-PROTO: HTTP",),
    "empty": (b"X-Forwarded-Proto:",),
    "through another": (b"X-Forwarded-Proto: https, http",),
    "to another": (b"X-Forwarded-Proto: http, https",),
    "twice": (TLS, b"X-Forwarded-Proto: http"),
    "a word like it": (b"X-Forwarded-Proto: httpsx",),
    "another header": (b"X-Forwarded-Protocol: https", b"Forwarded: proto=https"),
}
PATHS = ("/user_profiles/x", "/aggregates", "/event", "/dashboard", "/dashboard/assets/app.js", "/dashboard/api/now", "/none")


@pytest.fixture(scope="module", params=["false", "true"], ids=["plain", "logged"])
def port(job: Job, request: pytest.FixtureRequest) -> Iterator[int]:
    """That of a gateway which wants https; requests that are logged go another way through it."""
    settings = {"gateway_workers": job.workers[0].url, "web_token": job.token, "log_requests": request.param}
    with running_gateway(job.servers, gateway_port=str(free_port()), gateway_https_only="true", **settings) as gateway:
        with closing(Door(gateway.port)) as door:
            eventually(lambda: door.ask("GET", "/ready").status == 200, what="the gateway ready")
        yield gateway.port


def asked(port: int, data: bytes) -> bytes:
    """Return the head of one answer."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        return one_answer(connection, data)


def get(path: str, *headers: bytes, method: bytes = b"GET") -> bytes:
    lines = [b"%b %b HTTP/1.1" % (method, path.encode()), b"Host: tally", *headers, b"", b""]
    return b"\r\n".join(lines)


@pytest.mark.parametrize("said", IN_CLEAR)
def test_an_event_in_clear_is_refused(port: int, said: str) -> None:
    """Whole, in pieces and between two that came by TLS on one connection; nothing of it is stored before it is looked at."""
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENT), EVENT)
    for refused in (
        event(*IN_CLEAR[said]),
        CHUNKED + b"".join(line + b"\r\n" for line in IN_CLEAR[said]) + b"\r\n" + chunks,
    ):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
            for data, status in ((event(TLS), b"204"), (refused, b"403"), (event(TLS), b"204")):
                answer = one_answer(connection, data)
                assert answer.startswith(b"HTTP/1.1 %b " % status) and HSTS in answer, answer
                if status == b"403" and b"https_only" not in answer:
                    assert b"https_only" in connection.recv(65_536)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"OPTIONS"])
def test_whatever_is_asked_in_clear_is_refused(port: int, path: str, method: bytes) -> None:
    """No redirect: a client would follow it each time, and have said everything in clear each time."""
    answer = asked(port, get(path, b"X-Forwarded-Proto: http", b"Content-Length: 0", method=method))
    assert answer.startswith(b"HTTP/1.1 403 ") and HSTS in answer and b"location" not in answer.lower()


def test_whatever_is_asked_by_tls_is_answered_with_hsts(port: int) -> None:
    """The page and its assets above all: a browser that has seen it once does not ask in clear again."""
    for path in (*PATHS, *OPEN_PATHS):
        answer = asked(port, get(path, TLS))
        assert not answer.startswith(b"HTTP/1.1 403 ") and HSTS in answer, answer


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_balancers_and_prometheus_ask_as_they_did(port: int, path: str) -> None:
    """From inside, where no TLS is; a path that only looks like theirs is not open."""
    assert asked(port, get(path)).startswith(b"HTTP/1.1 200 ")
    for like in (f"{path}/", f"/{path}", f"{path}/../aggregates", path.upper()):
        assert asked(port, get(like)).startswith(b"HTTP/1.1 403 ")


def test_off_nobody_is_asked_how_it_came(job: Job) -> None:
    """The default, for one machine and for networks that are trusted; no answer promises TLS then."""
    for headers in ((), (b"X-Forwarded-Proto: http",)):
        answer = asked(job.gateway.port, event(*headers))
        assert answer.startswith(b"HTTP/1.1 204 ") and HSTS not in answer
