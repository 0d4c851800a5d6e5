"""Say everything the gateway itself answers: JSON errors without a trace or a payload, and the empty answer of success."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
RETRY_AFTER_S = 1
"""A broker's leader election or a worker's recovery rarely ends sooner; less would only add load to what is down."""
RETRY_AFTER = (b"retry-after", str(RETRY_AFTER_S).encode("ascii"))
CLOSE = (b"connection", b"close")

NO_CONTENT: Message = {"type": "http.response.start", "status": 204, "headers": []}
END: Message = {"type": "http.response.body", "body": b""}


class Answer(NamedTuple):
    """What a request is answered; the body is JSON."""

    status: int
    body: bytes
    headers: Headers


def error_body(code: str, message: str, hint: str | None = None) -> bytes:
    """Return the JSON of an error.

    >>> error_body("not_found", "no such path")
    b'{"error":{"code":"not_found","message":"no such path"}}'
    """
    error = {"code": code, "message": message}
    if hint is not None:
        error["hint"] = hint
    return msgspec.json.encode({"error": error})


def whole_answer(status: int, headers: Headers, body: bytes = b"") -> bytes:
    """Return an answer as it goes over the wire, head and body.

    >>> whole_answer(204, [(b"date", b"today")])
    b'HTTP/1.1 204 No Content\\r\\ndate: today\\r\\n\\r\\n'
    """
    head = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode("ascii"))]
    head += [b"%b: %b" % header for header in headers]
    if body:
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def answer(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Send a whole answer; JSON, unless *headers* hold another content type."""
    sent = headers or []
    if not any(name == b"content-type" for name, _ in sent):
        sent = [JSON_TYPE, *sent]
    length = (b"content-length", str(len(body)).encode("ascii"))
    await send({"type": "http.response.start", "status": status, "headers": [*sent, length]})
    await send({"type": "http.response.body", "body": body})


async def answer_error(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """Send an error; one that passes (503) says when to try again."""
    sent = list(headers or [])
    if status == 503:
        sent.append(RETRY_AFTER)
    await answer(send, status, body, sent)


async def answer_other_method(send: Send, method: str, allowed: str) -> None:
    """Answer a request by another method than those of a route; OPTIONS asks for them and is no error.

    Args:
        allowed: methods as `Allow` has them, OPTIONS among them.
    """
    allow = (b"allow", allowed.encode("ascii"))
    if method == "OPTIONS":
        await send({**NO_CONTENT, "headers": [allow]})
        await send(END)
    else:
        await answer(send, 405, error_body("method_not_allowed", "method not allowed"), [allow])
