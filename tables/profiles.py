"""Per-user profiles as rows: append only, idempotent by key, newest first.

A row's key is `user NUL kind, time inverted, offset inverted`, so the newest of one user and kind are a prefix scan and
two events of one millisecond keep their order of arrival. One changelog record carries the rows of one span of source
offsets and its key is that exact span: a pure function of its key, like a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from operator import attrgetter
from struct import Struct
from typing import Any, NamedTuple

import msgspec
import numpy as np

from streams.codecs import Decoded, fields_of
from streams.event_time import CANONICAL_LENGTH, format_instant
from streams.state_format import refuse_newer
from streams.topics import Stream

NEWEST_MAX = 200
SPAN_ROWS_MAX = 4096
SPAN_BYTES_MAX = 786_432
"""A span stays well under the megabyte of a usual Kafka record, whatever its rows hold."""
SPAN_FORMAT = 0
"""Spans of this version start with their msgpack array, and no format byte."""
MISROUTED = b"\xffmisrouted"
"""Present in a partition where a producer put a user that murmur2 puts elsewhere; no user's key starts with 0xFF."""
INDEX = b"\xfe"
"""What rows begin with that are of no profile: no user's UTF-8 does. See tables/duplicates.py."""
DUPLICATE = INDEX + b"\xff"
INVERSE = (1 << 63) - 1
ORDER = Struct(">QQ")
encode_kept = msgspec.msgpack.Encoder().encode
_decode_value = msgspec.msgpack.Decoder(list[Any]).decode
_decode_span = msgspec.msgpack.Decoder(list[bytes]).decode
_SPAN = Struct(">QQ")


class SpanKey(NamedTuple):
    """Source offsets that a changelog record of rows covers, both inclusive; 16 bytes."""

    first: int
    last: int

    def encode(self) -> bytes:
        return _SPAN.pack(*self)

    @classmethod
    def decode(cls, raw: bytes) -> SpanKey:
        return cls(*_SPAN.unpack(raw))


class Row(NamedTuple):
    """One event of a profile, as it was received but for the fields nobody declared."""

    user: str
    kind: str
    at_ms: int
    offset: int
    time: str
    kept: tuple[Any, ...]


class RowCodec:
    """Keys and values of the rows of one stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.kind_codes = {kind: b"\0" + code for kind, code in stream.kinds.items()}
        self._kinds = {code[1:]: kind for kind, code in self.kind_codes.items()}
        self.kept_of: Callable[[Any], tuple[Any, ...]] = fields_of(stream.kept)
        self._user_of: Callable[[Any], str] = attrgetter(stream.key)
        self._kind_of: Callable[[Any], str] = attrgetter(stream.kind)

    def prefix(self, user: str, kind: str) -> bytes:
        """Return what the keys of one user and kind start with."""
        return user.encode() + self.kind_codes[kind]

    def encode(self, row: Row) -> tuple[bytes, bytes]:
        """Return key and value of a row; the text of the time is kept only where it is not the canonical one."""
        key = self.prefix(row.user, row.kind) + ORDER.pack(INVERSE - row.at_ms, INVERSE - row.offset)
        canonical = len(row.time) == CANONICAL_LENGTH
        return key, encode_kept(row.kept if canonical else (*row.kept, row.time))

    def encode_run(self, decoded: Decoded) -> Iterator[bytes]:
        """Yield the keys and values of many rows in turn, as `encode` makes each."""
        order = np.empty((len(decoded.events), 2), dtype=np.int64)
        order[:, 0], order[:, 1] = decoded.at_ms, np.fromiter(decoded.offsets, dtype=np.int64)
        tails = (INVERSE - order).astype(">u8").view(f"V{ORDER.size}").ravel().tolist()
        users = map(str.encode, map(self._user_of, decoded.events))
        kinds = map(self.kind_codes.__getitem__, map(self._kind_of, decoded.events))
        keys = map(b"".join, zip(users, kinds, tails, strict=True))
        kept = list(map(self.kept_of, decoded.events))
        if set(map(len, decoded.texts)) != {CANONICAL_LENGTH}:
            kept = [
                fields if len(text) == CANONICAL_LENGTH else (*fields, text)
                for fields, text in zip(kept, decoded.texts, strict=True)
            ]
        return chain.from_iterable(zip(keys, map(encode_kept, kept), strict=True))

    def decode(self, key: bytes, value: bytes) -> Row:
        """Return the row of a key and value.

        Raises:
            ValueError: the bytes are not those of a row.
        """
        head, order = key[: -ORDER.size], key[-ORDER.size :]
        if head[-2:-1] != b"\0" or head[-1:] not in self._kinds:
            raise ValueError(f"a key of {len(key)} bytes is not that of a row")
        at_ms, offset = (INVERSE - part for part in ORDER.unpack(order))
        try:
            fields = _decode_value(value)
        except msgspec.DecodeError as error:
            raise ValueError("the value is not that of a row") from error
        if len(fields) - len(self.stream.kept) not in (0, 1):
            raise ValueError(f"a row of {len(fields)} fields, declared are {len(self.stream.kept)}")
        time = fields.pop() if len(fields) > len(self.stream.kept) else format_instant(at_ms)
        return Row(head[:-2].decode(), self._kinds[head[-1:]], at_ms, offset, time, tuple(fields))

    def event_of(self, row: Row) -> dict[str, Any]:
        """Return the event as the producer nested it, with the declared fields only."""
        event: dict[str, Any] = {}
        paths = (self.stream.time, self.stream.key, self.stream.kind, *self.stream.kept)
        for path, value in zip(paths, (row.time, row.user, row.kind, *row.kept), strict=True):
            *parents, name = path.split(".")
            target = event
            for parent in parents:
                target = target.setdefault(parent, {})
            target[name] = value
        return event


def encode_spans(rows: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield changelog records of about `SPAN_ROWS_MAX` rows and `SPAN_BYTES_MAX` bytes; all rows of an offset lie in one.

    Args:
        rows: keys and values in turn, by rising source offset; shape (2 * rows,).
    """
    start, size = 0, 0
    for end in range(2, len(rows) + 1, 2):
        size += len(rows[end - 2]) + len(rows[end - 1])
        if end == len(rows) or end - start >= 2 * SPAN_ROWS_MAX or size >= SPAN_BYTES_MAX:
            if end < len(rows) and rows[end][-8:] == rows[end - 2][-8:]:
                continue  # the next one is of the same offset
            key = SpanKey(_offset_of(rows[start]), _offset_of(rows[end - 2])).encode()
            yield key, encode_kept(rows[start:end])
            start, size = end, 0


def _offset_of(key: bytes) -> int:
    return INVERSE - int.from_bytes(key[-8:], "big")


def user_of(key: bytes) -> bytes:
    """Return the user of a row's key, UTF-8; of a duplicate, which has none, what is nobody's."""
    if key.startswith(INDEX):
        return key[1:].partition(b"\0")[0]
    return key[: -ORDER.size - 2]


def decode_span(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and value of each row of a changelog record.

    Raises:
        ValueError: the bytes are not those of `encode_spans`.
        NewerStateError: a later version wrote them.
    """
    refuse_newer(value, known=SPAN_FORMAT, what="a span of rows")
    try:
        parts = iter(_decode_span(value))
    except msgspec.DecodeError as error:
        raise ValueError("the value is not that of a span") from error
    return zip(parts, parts, strict=True)


def newest_rows(ascending: Iterator[tuple[bytes, bytes]], prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the first `NEWEST_MAX` rows of a scan that starts at *prefix*, as long as they have it."""
    for key, value in islice(ascending, NEWEST_MAX):
        if not key.startswith(prefix):
            break
        if len(key) == len(prefix) + ORDER.size:  # a store's own keys, of another length, are no rows
            yield key, value


def select(rows: Sequence[Row], *, start_ms: int, end_ms: int, limit: int) -> list[Row]:
    """Return what a query shows: trim to the newest 200 first, then the range [start, end), then the limit."""
    ordered = sorted(rows, key=lambda row: (-row.at_ms, -row.offset))
    return [row for row in ordered[:NEWEST_MAX] if start_ms <= row.at_ms < end_ms][:limit]
