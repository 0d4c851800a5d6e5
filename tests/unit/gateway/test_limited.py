"""What becomes of a request that is refused, or cut by the end of the process, while it arrives."""

from __future__ import annotations

import logging

import pytest

from tests.support.builders import a_record
from tests.unit.gateway.test_protocol import Connection, a_request, parsed

HEAD = b"POST /user_tags HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
NO_CHUNK = b"no chunk\r\n"


async def test_request_refused_in_its_middle_is_given_up() -> None:
    """Its client is read on for a while; the request itself must hold nothing meanwhile, nor be answered a second time."""
    connection = Connection()
    await connection.send(HEAD, b"5\r\nhello\r\n")
    assert connection.protocol.tasks
    await connection.send(NO_CHUNK)
    assert parsed(connection.wire.written)[0] == b"HTTP/1.1 400 Bad Request"
    assert (connection.wire.ended, connection.wire.closed) == (True, False)
    assert not connection.protocol.tasks


async def test_answer_of_a_request_before_a_refused_one_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing may be written any more; its event is stored, and its client sends it again."""
    connection = Connection()
    await connection.send(a_request(a_record(), "X-Request-Id: usual-way"), HEAD, NO_CHUNK)
    assert connection.wire.ended
    await connection.tell()
    assert connection.wire.written == b""
    assert not connection.protocol.tasks
    assert [each.message for each in caplog.records if each.levelno >= logging.ERROR] == []


async def test_request_that_has_only_begun_does_not_hold_the_end_of_the_process() -> None:
    """Nothing was said, so nothing can be lost: its client sends it again, to another gateway."""
    connection = Connection()
    await connection.send(HEAD[:-9])
    connection.protocol.shutdown()
    assert connection.wire.closed
