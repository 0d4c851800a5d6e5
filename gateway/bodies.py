"""Read the body of a request, up to a limit of bytes and of time."""

from __future__ import annotations

import asyncio

from gateway.answers import Message, Receive, Scope

BODY_TIMEOUT_S = 10.0
DISCARDED_BYTES_MAX = 1_048_576
"""Read this much of a body that is too large before the answer, so that the connection can go on."""


class BodyTooLargeError(Exception):
    """The body has more bytes than the limit; the connection can go on when it was read to its end."""

    def __init__(self, *, read_to_end: bool) -> None:
        super().__init__("body too large")
        self.read_to_end = read_to_end


async def read_body(scope: Scope, receive: Receive, first: Message, *, bytes_max: int) -> bytes | None:
    """Return the body that begins with the message *first*, or None when the client has gone.

    Raises:
        BodyTooLargeError: it has, or says that it has, more than *bytes_max* bytes.
        TimeoutError: it is not complete within `BODY_TIMEOUT_S`.
    """
    if content_length(scope) > max(bytes_max, DISCARDED_BYTES_MAX):
        raise BodyTooLargeError(read_to_end=False)
    async with asyncio.timeout(BODY_TIMEOUT_S):
        return await _read(receive, first, bytes_max)


async def _read(receive: Receive, message: Message, bytes_max: int) -> bytes | None:
    chunks: list[bytes] = []
    size_bytes = 0
    while message["type"] == "http.request":
        body = message.get("body", b"")
        size_bytes += len(body)
        if size_bytes <= bytes_max:
            chunks.append(body)
        elif size_bytes > max(bytes_max, DISCARDED_BYTES_MAX):
            raise BodyTooLargeError(read_to_end=False)
        if not message.get("more_body", False):
            if size_bytes > bytes_max:
                raise BodyTooLargeError(read_to_end=True)
            return b"".join(chunks)
        message = await receive()
    return None


def content_length(scope: Scope) -> int:
    """Return what the request says its body's length is, bytes; -1 when it does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return -1
