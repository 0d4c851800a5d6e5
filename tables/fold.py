"""Fold a run of records into the open bucket's cells and into rows: the hot loop, pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from streams.codecs import FAST_ERRORS, PLAIN_BYTES_MAX, Codec, fields_of
from streams.errors import InvalidEventError, Reason
from streams.event_time import CANONICAL_LENGTH, MINUTE_MS, MINUTES, RESTS
from tables.blocks import Cells, pack
from tables.profiles import INVERSE, ORDER, RowCodec, encode_kept


class Refused(NamedTuple):
    """A record that cannot be counted: its offset and why."""

    offset: int
    reason: Reason
    detail: str


class Fold:
    """What one stream's records become; holds no state but memos."""

    def __init__(self, codec: Codec, rows: RowCodec | None) -> None:
        self.codec = codec
        self.rows = rows
        stream = codec.stream
        self._dimensions_of = fields_of(stream.dimensions.values())
        sums = [attrgetter(path) for path in stream.sums.values()]
        self._one = pack(1, *(0 for _ in sums))
        self._sums_of: Callable[[Any], int] = sums[0] if len(sums) == 1 else lambda event: pack(0, *(of(event) for of in sums))

    def fold(self, values: Sequence[bytes | None], base: int, minutes: dict[int, Cells], rows: list[bytes]) -> list[Refused]:
        """Add the events of the contiguous offsets from *base* on to *minutes* and, keys and values in turn, to *rows*.

        Raises nothing for a record: what cannot be counted is returned, with its offset.
        """
        refused: list[Refused] = []
        fast, careful, time_of, sums_of = self.codec.fast, self.codec.decode, self.codec.time_of, self._sums_of
        dimensions_of, cells_of, one = self._dimensions_of, minutes.get, self._one
        if self.rows is not None:
            key_of, kind_of, kept_of, codes = self.codec.key_of, self.codec.kind_of, self.rows.kept_of, self.rows.kind_codes
        for offset, raw in enumerate(values, base):
            try:
                if len(raw) <= PLAIN_BYTES_MAX and raw.isascii() and b"\\u" not in raw:  # type: ignore[arg-type,union-attr,operator]
                    event = fast(raw)  # type: ignore[arg-type]
                    text = time_of(event)
                    minute = MINUTES[text[:16]]
                    at_ms = minute * MINUTE_MS + RESTS[text[16:]]
                else:
                    event, at_ms = careful(raw)
                    text, minute = time_of(event), at_ms // MINUTE_MS
            except FAST_ERRORS:
                try:
                    event, at_ms = careful(raw)
                    text, minute = time_of(event), at_ms // MINUTE_MS
                except InvalidEventError as error:
                    refused.append(Refused(offset, error.reason, error.detail))
                    continue
            except InvalidEventError as error:
                refused.append(Refused(offset, error.reason, error.detail))
                continue
            cells = cells_of(minute)
            if cells is None:
                cells = minutes[minute] = {}
            dimensions = dimensions_of(event)
            cells[dimensions] = cells.get(dimensions, 0) + one + sums_of(event)
            if self.rows is not None:
                kept = kept_of(event)
                rows.append(key_of(event).encode() + codes[kind_of(event)] + ORDER.pack(INVERSE - at_ms, INVERSE - offset))
                rows.append(encode_kept(kept if len(text) == CANONICAL_LENGTH else (*kept, text)))
        return refused
