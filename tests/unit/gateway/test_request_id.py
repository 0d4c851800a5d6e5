"""The id of a request is kept when it can be, made where requests are logged, and never taken on trust."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answers import Message, Receive, Scope, Send
from gateway.request_id import HEADER, id_of
from gateway.request_log import LoggedRequests
from streams.settings import Log


@given(st.binary(max_size=80))
def test_id_is_plain_text_or_none(value: bytes) -> None:
    """It goes into a header, a log line and a row of Postgres, as it came."""
    taken = id_of([(b"host", b"x"), (HEADER, value)])
    assert taken in (None, value)
    if taken is not None:
        assert 0 < len(taken) <= 64
        assert not set(taken) & set(b" \t\r\n\0\"'<>{}%,;=")


@pytest.mark.parametrize(("sent", "kept"), [([(HEADER, b"shop-1")], True), ([(HEADER, b"a b")], False), ([], False)])
async def test_logged_request_has_an_id(sent: list[tuple[bytes, bytes]], kept: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The line and the application are told the same one."""
    seen: list[bytes | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(id_of(scope["headers"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None: ...

    with caplog.at_level(logging.INFO, "gateway.request_log"):
        await LoggedRequests(app, Log(requests=True))({"method": "POST", "path": "/user_tags", "headers": sent}, receive, send)
    (line,) = caplog.records
    assert seen == [vars(line)["request_id"].encode()]
    assert (seen == [b"shop-1"]) is kept
