"""Put events that were dropped from a partly valid body among the dead letters: their producer was answered 200.

They never were in a topic, so the position that identifies them is made up: the route for the topic, which no topic can be
called, and a digest of the bytes for the offset. The same event dropped again is the same dead letter.
"""

from __future__ import annotations

from hashlib import blake2b

from gateway.events_decoding import Refused, user_of
from gateway.request_id import RecordHeaders
from streams.dead_letters import ADDED_HEADERS, GATEWAY_STAGE
from streams.topics import EVENT_BYTES_MAX

PLACE = "/v1/events"
PARTITION = b"0"
OFFSET_BYTES = 8


def letter_of(refused: Refused, headers: RecordHeaders) -> tuple[bytes, bytes, RecordHeaders]:
    """Return key, value and headers of the dead letter of an event; *headers* are those of the request.

    Of an event that is larger than one may be, the value is the beginning.
    """
    raw, detail = refused.raw, refused.detail
    if len(raw) > EVENT_BYTES_MAX:
        raw = raw[:EVENT_BYTES_MAX]
        detail = f"{detail}; cut off here"
    texts = (refused.code.value.encode(), detail.encode(), PLACE.encode(), PARTITION, offset_of(refused.raw))
    added = zip(ADDED_HEADERS, (*texts, GATEWAY_STAGE.encode()), strict=True)
    return user_of(refused.raw).encode(), raw, [*headers, *added]


def offset_of(raw: bytes) -> bytes:
    """Return the made-up offset of an event, 63 bits, as a header has it.

    >>> len(offset_of(b"{}")) <= 19
    True
    """
    digest = int.from_bytes(blake2b(raw, digest_size=OFFSET_BYTES).digest(), "big")
    return b"%d" % (digest >> 1)
