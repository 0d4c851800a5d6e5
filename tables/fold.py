"""Fold a run of records into the open bucket's cells and into rows: the hot path, pure.

It works by column over a run, not by event: each `map` here is a loop in C, and what is left to Python is little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import add, attrgetter
from typing import Any, NamedTuple

from streams.codecs import FAST_ERRORS, Codec, Decoded, fields_of
from streams.errors import InvalidEventError, Reason
from streams.event_time import MINUTE_MS
from tables.blocks import Cells, pack
from tables.profiles import RowCodec


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
        try:
            decoded = self.codec.decode_run(values, base)
        except FAST_ERRORS:
            decoded = self._decode_each(values, base, refused)
        if decoded.events:
            self._count(decoded, minutes)
            if self.rows is not None:
                rows.extend(self.rows.encode_run(decoded))
        return refused

    def _decode_each(self, values: Sequence[bytes | None], base: int, refused: list[Refused]) -> Decoded:
        offsets: list[int] = []
        decoded = Decoded(offsets, [], [], [])
        for offset, raw in enumerate(values, base):
            try:
                event, at_ms = self.codec.decode(raw)
            except InvalidEventError as error:
                refused.append(Refused(offset, error.reason, error.detail))
                continue
            offsets.append(offset)
            decoded.events.append(event)
            decoded.texts.append(self.codec.time_of(event))
            decoded.at_ms.append(at_ms)
        return decoded

    def _count(self, decoded: Decoded, minutes: dict[int, Cells]) -> None:
        keys = map(self._dimensions_of, decoded.events)
        weights = map(add, map(self._sums_of, decoded.events), repeat(self._one))
        first, last = min(decoded.at_ms) // MINUTE_MS, max(decoded.at_ms) // MINUTE_MS
        if first == last:  # as in nearly all runs
            places: Iterable[Cells] = repeat(minutes.setdefault(first, {}), len(decoded.events))
        else:
            places = [minutes.setdefault(at_ms // MINUTE_MS, {}) for at_ms in decoded.at_ms]
        for cells, key, weight in zip(places, keys, weights, strict=True):
            cells[key] = cells.get(key, 0) + weight
