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
from tables.blocks import Cells, Minutes, pack
from tables.duplicates import Judged, with_entries
from tables.profiles import RowCodec

Judge = Callable[[Decoded], Judged]
"""Decide which events are sent again; None for a stream where two equal ones are two."""


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
        self._add = self._count_members if stream.members else self._count
        self._members_of = attrgetter(stream.members) if stream.members else None
        inner = [path for path in stream.dimensions.values() if stream.members and path.startswith(f"{stream.members}.")]
        outer = [path for path in stream.dimensions.values() if path not in inner]
        if inner and ([*outer, *inner] != list(stream.dimensions.values()) or stream.sums):
            raise TypeError(f"{stream.topic}: dimensions of members stand last, and there are no sums beside them")
        self._dimensions_of = fields_of(outer)
        self._member_dimensions_of = fields_of(path.removeprefix(f"{stream.members}.") for path in inner)
        sums = [attrgetter(path) for path in stream.sums.values()]
        self._one = pack(1, *(0 for _ in sums))
        self._sums_of: Callable[[Any], int] = sums[0] if len(sums) == 1 else lambda event: pack(0, *(of(event) for of in sums))

    def fold(
        self,
        values: Sequence[bytes | None],
        base: int,
        minutes: dict[int, Cells],
        rows: list[bytes],
        *,
        judge: Judge | None = None,
    ) -> list[Refused]:
        """Add the events of the contiguous offsets from *base* on to *minutes* and, keys and values in turn, to *rows*.

        Of duplicates, which *judge* finds, nothing is added but that they are. Raises nothing for a record: what cannot be
        counted is returned, with its offset.
        """
        refused: list[Refused] = []
        try:
            decoded = self.codec.decode_run(values, base)
        except FAST_ERRORS:
            decoded = self._decode_each(values, base, refused)
        entries: list[bytes] | None = None
        if judge is not None:
            decoded, entries = judge(decoded)
        if decoded.events:
            self._add(decoded, minutes)
        if self.rows is not None and (decoded.events or entries):
            encoded = self.rows.encode_run(decoded)
            rows.extend(encoded if entries is None else with_entries(encoded, entries))
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

    def _count_members(self, decoded: Decoded, minutes: dict[int, Cells]) -> None:
        """Count one for each member of each event."""
        assert isinstance(minutes, Minutes)
        for event, at_ms in zip(decoded.events, decoded.at_ms, strict=True):
            members = self._members_of(event)  # type: ignore[misc] # named: this method is not taken else
            if not members:
                continue  # a block has no room for none
            cells, own = minutes.setdefault(at_ms // MINUTE_MS, {}), self._dimensions_of(event)
            for member in members:
                key = own + self._member_dimensions_of(member)
                if key not in cells:
                    key = minutes.place(cells, key)
                cells[key] = cells.get(key, 0) + self._one
