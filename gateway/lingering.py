"""Close a connection in the middle of a request as HTTP/1.1 asks for (RFC 9112 §9.6): answer, end our half, read on, close.

Closing with bytes unread resets the connection, and a reset takes an answer along that the client has not read yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

LINGER_S = 10.0
"""A client that is still sending after this is cut off."""


class LingeringTransport:
    """What uvicorn asks of a transport; `close` lets a client send to the end what it has begun, a second `close` closes.

    Attributes:
        write: the transport's own, as it is on every request's way; after `close` it does nothing, as the transport's would.
    """

    __slots__ = ("_is_lingering", "_is_unread", "_protocol", "_transport", "write")

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, is_unread: Callable[[], bool]) -> None:
        """Stand before *transport*; *is_unread* says whether more of a request is to come."""
        self._transport = transport
        self._protocol = protocol
        self._is_unread = is_unread
        self._is_lingering = False
        self.write = transport.write

    def is_closing(self) -> bool:
        """Say whether nothing may be written any more."""
        return self._is_lingering or self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait for the client to take them."""
        return self._transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once, and forget what waits."""
        self._transport.abort()

    def close(self) -> None:
        """End the connection, and before that what the client is sending."""
        transport = self._transport
        if self.is_closing() or not self._is_unread():
            transport.close()
            return
        self._is_lingering = True
        self.write = _discard
        if transport.can_write_eof():
            transport.write_eof()
        transport.set_protocol(Discarding(transport, self._protocol))
        transport.resume_reading()


def _discard(data: object) -> None:
    """Take what a request in flight still answers: after the end of our half the transport would raise."""


class Discarding(asyncio.Protocol):
    """Takes the place of a connection's protocol, and what it has no use for."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol."""
        self._timer.cancel()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Tell the protocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol."""
        self._protocol.resume_writing()
