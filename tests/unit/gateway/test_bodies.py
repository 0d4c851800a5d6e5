"""Reading a request's body within limits."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.bodies import DISCARDED_BYTES_MAX, BodyTooLargeError, content_length, read_body


class Pieces:
    """A body that arrives in pieces; counts those that were asked for."""

    def __init__(self, *pieces: bytes) -> None:
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": piece, "more_body": number < len(pieces)} for number, piece in enumerate(pieces, 1)
        ]
        self.asked = 0

    async def __call__(self) -> dict[str, Any]:
        self.asked += 1
        return self._messages.pop(0) if self._messages else {"type": "http.disconnect"}


def a_scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": list(headers)}


async def test_pieces_are_joined() -> None:
    """Large or slow bodies arrive in several messages."""
    pieces = Pieces(b"a", b"", b"bc")
    assert await read_body(a_scope(), pieces, await pieces(), bytes_max=3) == b"abc"


async def test_body_over_the_limit_is_read_to_its_end_and_refused() -> None:
    """The connection can go on then."""
    pieces = Pieces(b"ab", b"cd", b"e")
    with pytest.raises(BodyTooLargeError) as caught:
        await read_body(a_scope(), pieces, await pieces(), bytes_max=3)
    assert caught.value.read_to_end
    assert pieces.asked == 3


async def test_endless_body_is_cut() -> None:
    """A streamed body has no length, so memory and patience are bounded by what is discarded."""
    pieces = Pieces(*[b"x" * 65_536] * 100)
    with pytest.raises(BodyTooLargeError) as caught:
        await read_body(a_scope(), pieces, await pieces(), bytes_max=10)
    assert not caught.value.read_to_end
    assert pieces.asked * 65_536 <= DISCARDED_BYTES_MAX + 65_536


async def test_announced_length_far_over_the_limit_is_not_read() -> None:
    """Nobody needs to send a gigabyte to learn that it is too large."""
    pieces = Pieces(b"x", b"y")
    with pytest.raises(BodyTooLargeError):
        await read_body(a_scope((b"content-length", b"1000000000")), pieces, await pieces(), bytes_max=10)
    assert pieces.asked == 1


async def test_body_of_a_client_that_left_is_none() -> None:
    """There is nobody to answer, and half an event is no event."""
    assert await read_body(a_scope(), Pieces(), {"type": "http.request", "body": b"a", "more_body": True}, bytes_max=9) is None


def test_content_length_is_unknown_without_its_header() -> None:
    """Chunked bodies do not say how long they are."""
    assert content_length(a_scope((b"host", b"x"), (b"content-length", b"12"))) == 12
    assert content_length(a_scope((b"host", b"x"))) == -1
