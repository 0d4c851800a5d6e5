"""Read a dead letter as the record it came from, and write and read the mark that it was replayed. Pure.

A dead letter is the record as it came, with six headers behind its own (docs/data.md). Its identity is the position of that
record; a mark says at which position the record lies once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

ADDED_HEADERS = ("reason", "detail", "topic", "partition", "offset", "stage")
"""What stands behind the record's own headers, in this order; a producer may use the same names before."""
BOUNDARY_KEY = b"\xffboundary"
"""Key of an empty record that is no dead letter: agents/erase_letters.py puts what is kept behind it."""
COUNT_STAGE = "count"
"""The worker's: its dead letters are records of a source topic that nobody counted."""
SINKS_STAGE = "sinks"
"""The sinks': theirs were counted, and could not be written."""
GATEWAY_STAGE = "gateway"
"""The gateway's: theirs were never in a source topic; their position is made up (docs/decisions/0025)."""
NUMBER_DIGITS_MAX = 19

Headers = Sequence[tuple[str, bytes | None]]


class Position(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """When Kafka took it, milliseconds since 1970."""
        ...

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be counted or written.

    Attributes:
        source: where the record came from; the identity.
        key, value, headers: as they came.
        at_ms: when it was put among the dead letters.
    """

    source: Position
    reason: str
    detail: str
    stage: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    at_ms: int


def read_dead_letter(record: Record) -> DeadLetter | None:
    """Return the dead letter of a record of the dead-letter topic; None where somebody else wrote it, without our headers."""
    headers = list(record.headers)
    own, added = headers[: -len(ADDED_HEADERS)], headers[-len(ADDED_HEADERS) :]
    if tuple(name for name, _ in added) != ADDED_HEADERS:
        return None
    texts = {name: (value or b"").decode("utf-8", "replace") for name, value in added}
    partition, offset = texts["partition"], texts["offset"]
    if not (_is_number(partition) and _is_number(offset)):
        return None
    return DeadLetter(
        source=Position(texts["topic"], int(partition), int(offset)),
        reason=texts["reason"],
        detail=texts["detail"],
        stage=texts["stage"],
        key=record.key,
        value=record.value,
        headers=own,
        at_ms=record.timestamp,
    )


class _Mark(msgspec.Struct):
    partition: int
    offset: int


def encode_mark(source: Position, replayed: Position) -> tuple[bytes, bytes]:
    """Return key and value of the mark that the record of *source* lies at *replayed* once more."""
    return str(source).encode(), msgspec.json.encode(_Mark(replayed.partition, replayed.offset))


def decode_mark(key: bytes | None, value: bytes | None) -> tuple[Position, Position]:
    """Return the position of the dead record, and that of its replay, in the same topic.

    Raises:
        ValueError: the bytes are not those of a mark.
    """
    topic, partition, offset = (key or b"").decode().rsplit("/", 2)
    try:
        mark = msgspec.json.decode(value or b"", type=_Mark)
    except msgspec.DecodeError as error:
        raise ValueError("the value is not that of a mark") from error
    return Position(topic, int(partition), int(offset)), Position(topic, mark.partition, mark.offset)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX
