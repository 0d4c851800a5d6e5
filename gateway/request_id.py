"""Take the id that a client gives its request along: into the answer, the log, to the workers that are asked, or into the
record's header, and so into a dead letter.

A request without one gets none, unless requests are logged: an id that nobody knows would only cost bytes in every record.
"""

from __future__ import annotations

import re
import secrets

from gateway.answers import Headers, Message, Send
from streams import request_id as ids

HEADER = ids.HEADER.lower().encode()
RECORD_HEADER = "request-id"
_SANE = re.compile(ids.SANE.encode())
RecordHeaders = list[tuple[str, bytes]]
NO_HEADERS: RecordHeaders = []


def has_id(headers: Headers) -> bool:
    """Say whether a request brings an id; on the way of every event, so it is a plain loop."""
    for name, _ in headers:  # noqa: SIM110 - a generator costs three times as much
        if name == HEADER:
            return True
    return False


def id_of(headers: Headers) -> bytes | None:
    """Return the id of a request; None where there is none, or none that a log and a header can hold as it is.

    >>> id_of([(b"host", b"x"), (b"x-request-id", b"a-1")])
    b'a-1'
    >>> id_of([(b"x-request-id", b"a b")])
    """
    found = next((value for name, value in headers if name == HEADER), b"")
    return found if _SANE.fullmatch(found) else None


def new_id() -> bytes:
    """Return an id of our own."""
    return secrets.token_hex(8).encode()


def answer_headers(request_id: bytes | None) -> Headers:
    """Return the headers of an answer that name the request."""
    return [] if request_id is None else [(HEADER, request_id)]


def naming(send: Send, request_id: bytes) -> Send:
    """Return *send* so that the answer names the request."""

    async def send_named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (HEADER, request_id)]
        await send(message)

    return send_named


def record_headers(request_id: bytes | None) -> RecordHeaders:
    """Return the headers of a record that name the request it came in."""
    return NO_HEADERS if request_id is None else [(RECORD_HEADER, request_id)]
