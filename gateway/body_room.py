"""Bound the memory of large bodies that arrive or are being read: past the limit a request is told to come again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from gateway.answers import Message, Scope
from gateway.bodies import content_length

BODIES_BYTES_MAX = 67_108_864
"""Of all bodies of a room at a time. One that came whole is not counted before it is read: uvicorn holds 64 KiB of it."""


class NoRoomError(Exception):
    """Too much is arriving, or being read; it will pass."""


class BodyRoom:
    """What is reserved for bodies: while they arrive in pieces, and again while they are read."""

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self._free_bytes = bytes_max

    def reserved(self, scope: Scope, first: Message, *, bytes_max: int) -> AbstractContextManager[None]:
        """Hold what a body that begins with *first* may come to: what it says itself, at most *bytes_max*."""
        said = content_length(scope)
        return self.held(0 if not first.get("more_body", False) else bytes_max if said < 0 else min(said, bytes_max))

    @contextmanager
    def held(self, wanted_bytes: int) -> Iterator[None]:
        """Reserve so many bytes.

        Raises:
            NoRoomError: there are not so many left.
        """
        if wanted_bytes > self._free_bytes:
            raise NoRoomError
        self._free_bytes -= wanted_bytes
        try:
            yield
        finally:
            self._free_bytes += wanted_bytes
