"""Per-minute aggregates as blocks: the columns of one event minute among the source offsets of one bucket.

The law: **every changelog record is a pure function of its key**. A block of (minute, bucket, through) holds exactly the
events of that minute among the offsets from the bucket's start to `through`, of one partition. So re-sending, re-ordering,
a second writer and log compaction change nothing, and every reader needs one rule: per (minute, bucket) the greatest
`through` wins; keys sort that way.

A block of the minute `PROGRESS` has no cells: its `through` says how far its partition has been counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from struct import Struct
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from streams.state_format import refuse_newer
from streams.topics import BUCKET_OFFSETS

FORMAT = b"\x01"
PROGRESS = 0xFFFF_FFFF
"""A minute of the year 10136, past every event's."""
LANE_BITS = 48
"""A cell is one integer of lanes: 4,096 events of 32 bits need 44 and a sign, so no lane reaches the next."""
LANE = 1 << LANE_BITS
_HALF = LANE >> 1
CHARACTERS_MAX = 6 << 20
"""Of the dimensions of one bucket's cells together, so that its blocks go in one batch of 32 MiB, at up to 4 bytes each."""
CELL_CHARACTERS = 32
"""What a cell takes besides, however short its texts are."""
OTHERS = "(others)"
"""Stands for the last dimension of the cells that had no room."""

Dimensions = tuple[str, ...]
Cells = dict[Dimensions, int]
"""Packed count and sums by dimensions: `count << 48 * sums | …`, in the order of first appearance."""
Record = tuple[bytes, bytes | None]
"""Key and value of a changelog record; None is a tombstone."""
StoredKeys = Callable[[bytes, bytes], Sequence[bytes]]
"""Return the keys of the store in [first, second), ascending."""

_KEY = Struct(">IQQ")
KEY_BYTES = _KEY.size
_encode = msgspec.msgpack.Encoder().encode


class _Wire(msgspec.Struct, array_like=True):
    cells: int
    dimensions: list[tuple[list[str], bytes]]
    counts: bytes
    sums: list[bytes]


_decode = msgspec.msgpack.Decoder(_Wire).decode


class BlockKey(NamedTuple):
    """Identity of one block: 20 bytes, big-endian, so that keys sort by minute, bucket, through."""

    minute: int
    bucket: int
    through: int

    def encode(self) -> bytes:
        return _KEY.pack(*self)

    @classmethod
    def decode(cls, raw: bytes) -> BlockKey:
        return cls(*_KEY.unpack(raw))


class Column(NamedTuple):
    """One dimension: the values in the order of first appearance, and for each cell the index of its value."""

    values: list[str]
    codes: npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Block:
    """Cells as columns. Shapes: each dimension's codes, `counts` and each of `sums` are (cells,)."""

    dimensions: tuple[Column, ...]
    counts: npt.NDArray[np.integer]
    sums: tuple[npt.NDArray[np.integer], ...]

    def __len__(self) -> int:
        return len(self.counts)

    def totals(self, filters: Mapping[int, str]) -> tuple[int, ...]:
        """Return (count, sum, …) of the cells that match every filter; a filter is dimension index to value."""
        mask = np.ones(len(self.counts), dtype=bool)
        for index, value in filters.items():
            column = self.dimensions[index]
            if value not in column.values:
                return (0,) * (1 + len(self.sums))
            mask &= column.codes == column.values.index(value)
        return tuple(int(values[mask].sum(dtype=np.int64)) for values in (self.counts, *self.sums))

    def cells(self) -> Cells:
        """Return the packed cells, in the order they were folded."""
        columns = [[values[code] for code in codes] for values, codes in self.dimensions]
        keys = list(zip(*columns, strict=True)) if columns else [()] * len(self)
        lanes = zip(self.counts.tolist(), *(values.tolist() for values in self.sums), strict=True)
        return {key: pack(count, *sums) for key, (count, *sums) in zip(keys, lanes, strict=True)}


def pack(count: int, *sums: int) -> int:
    """Return one integer that adds like its parts.

    >>> unpack(pack(1, -5) + pack(2, 3), sums=1)
    (3, -2)
    """
    packed = count
    for value in sums:
        packed = (packed << LANE_BITS) + value
    return packed


def unpack(packed: int, *, sums: int) -> tuple[int, ...]:
    """Return (count, sum, …) of a packed cell; each sum within 47 bits and a sign."""
    lanes: list[int] = []
    for _ in range(sums):
        value = ((packed + _HALF) & (LANE - 1)) - _HALF
        packed = (packed - value) >> LANE_BITS
        lanes.append(value)
    return packed, *reversed(lanes)


def encode_block(cells: Cells, *, sums: int) -> bytes:
    """Return the bytes of a block: equal cells in equal order give equal bytes. At least one cell."""
    columns = [_encode_column(values) for values in zip(*cells, strict=True)]
    counts, *totals = _unpack_all(cells.values(), cells=len(cells), sums=sums)
    lanes = [lane.astype(_smallest(lane, ("<i2", "<i4", "<i8"))).tobytes() for lane in totals]
    numbers = counts.astype(_smallest(counts, ("<u1", "<u2", "<u4"))).tobytes()
    return FORMAT + _encode(_Wire(len(cells), columns, numbers, lanes))


def decode_block(raw: bytes) -> Block:
    """Return the block of what `encode_block` made.

    Raises:
        ValueError: damaged bytes.
        NewerStateError: a later version wrote it.
    """
    refuse_newer(raw, known=FORMAT[0], what="a block")
    if raw[:1] != FORMAT:
        raise ValueError(f"block format {raw[:1]!r}, known is {FORMAT!r}")
    try:
        wire = _decode(raw[1:])
    except msgspec.DecodeError as error:
        raise ValueError("damaged block") from error
    return Block(
        dimensions=tuple(Column(values, _integers(codes, wire.cells, "u")) for values, codes in wire.dimensions),
        counts=_integers(wire.counts, wire.cells, "u"),
        sums=tuple(_integers(values, wire.cells, "i") for values in wire.sums),
    )


def _encode_column(values: Sequence[str]) -> tuple[list[str], bytes]:
    codes = dict(zip(dict.fromkeys(values), count()))
    indexes = map(codes.__getitem__, values)
    if len(codes) <= 256:
        return list(codes), bytes(indexes)
    dtype = "<u2" if len(codes) <= 65_536 else "<u4"
    return list(codes), np.fromiter(indexes, dtype=dtype, count=len(values)).tobytes()


def _unpack_all(packed: Iterable[int], *, cells: int, sums: int) -> list[npt.NDArray[np.int64]]:
    if sums == 0:
        return [np.fromiter(packed, dtype=np.int64, count=cells)]
    if sums != 1:
        lanes = zip(*(unpack(cell, sums=sums) for cell in packed), strict=True)
        return [np.array(lane, dtype=np.int64) for lane in lanes]
    both = np.fromiter(packed, dtype=np.int64, count=cells)  # the usual case fits 64 bits: ten times faster
    total = ((both + _HALF) & (LANE - 1)) - _HALF
    return [(both - total) >> LANE_BITS, total]


def _smallest(values: npt.NDArray[np.int64], dtypes: Sequence[str]) -> str:
    low, high = values.min(), values.max()
    return next(dtype for dtype in dtypes if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max)


def _integers(raw: bytes, cells: int, kind: str) -> npt.NDArray[np.integer]:
    width = len(raw) // cells if cells > 0 else 0
    if width not in (1, 2, 4, 8) or width * cells != len(raw):
        raise ValueError(f"damaged block: a column of {len(raw)} bytes for {cells} cells")
    return np.frombuffer(raw, dtype=f"<{kind}{width}")


def newest(keys: Iterable[bytes]) -> dict[tuple[int, int], bytes]:
    """Return the key of the greatest `through` by (minute, bucket). Keys of another length are no blocks and left out."""
    best: dict[tuple[int, int], bytes] = {}
    for raw in keys:
        if len(raw) == KEY_BYTES:
            minute, bucket, _ = _KEY.unpack(raw)
            if raw >= best.get((minute, bucket), b""):
                best[minute, bucket] = raw
    return best


class Minutes(dict[int, Cells]):
    """Cells by minute, and how much text they hold: for streams whose events have members, and so any number of cells.

    Attributes:
        characters: of all cells but those of `OTHERS`; a function of the cells alone.
    """

    __slots__ = ("characters",)

    def __init__(self) -> None:
        super().__init__()
        self.characters = 0

    def place(self, cells: Cells, key: Dimensions) -> Dimensions:
        """Return where a key counts that *cells* do not have yet: under itself, or with the others when there is no room."""
        characters = CELL_CHARACTERS + sum(map(len, key))
        if self.characters + characters > CHARACTERS_MAX:
            return *key[:-1], OTHERS
        self.characters += characters
        return key

    def restore(self, minute: int, cells: Cells) -> None:
        """Take the cells of a minute as they were stored."""
        self[minute] = cells
        self.characters += sum(CELL_CHARACTERS + sum(map(len, key)) for key in cells if key and key[-1] != OTHERS)


@dataclass(slots=True)
class OpenBucket:
    """The bucket that is being folded: cells by minute, and what has been sent of them.

    `counted` is the offset that the next event must have at least to be counted: the bucket's start, or, where the source
    has lost the bucket's beginning, one past what a stored version already holds.
    """

    number: int
    sums: int
    counted: int = 0
    minutes: Minutes = field(default_factory=Minutes)
    sent: dict[int, bytes] = field(default_factory=dict)
    unchanged: dict[int, int] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """First offset of the next bucket."""
        return (self.number + 1) * BUCKET_OFFSETS

    def seed(self, blocks: Iterable[tuple[BlockKey, Block]], *, through: int) -> None:
        """Start from the newest stored versions instead of from nothing; *through* is what they are counted to."""
        for key, block in blocks:
            self.minutes.restore(key.minute, block.cells())
        self.counted = through + 1

    def emit(self, through: int, *, stored: StoredKeys) -> list[Record]:
        """Return the records that say what the bucket holds through an offset, superseded versions' tombstones after them.

        A minute that has not changed since it was last sent is left out, but at the bucket's end. The last key is that of
        the progress. Send all of it in one Kafka batch, so that progress never shows without its blocks.
        """
        records: list[Record] = []
        final = through == self.end - 1
        for minute, cells in self.minutes.items():
            weight = sum(cells.values())
            if not final and self.unchanged.get(minute) == weight:
                continue
            self.unchanged[minute] = weight
            self._supersede(minute, through, encode_block(cells, sums=self.sums), stored, records)
        self._supersede(PROGRESS, through, b"", stored, records)
        return records

    def following(self, number: int) -> OpenBucket:
        """Return the bucket that is folded next, empty; its progress supersedes the last of this one, stored yet or not."""
        return OpenBucket(number, self.sums, sent={minute: key for minute, key in self.sent.items() if minute == PROGRESS})

    def _supersede(self, minute: int, through: int, value: bytes, stored: StoredKeys, records: list[Record]) -> None:
        """Add a version, and the tombstones of those before it.

        What lies before the last one sent has its tombstone since then. It is not looked at again: progress leaves a tombstone
        a second for as long as the store is not compacted, days in a trickle, and a walk over all of them takes 20 ms.
        """
        key = BlockKey(minute, self.number, through).encode()
        sent = self.sent.get(minute)
        first = sent or BlockKey(minute, 0 if minute == PROGRESS else self.number, 0).encode()
        older = dict.fromkeys(stored(first, key))
        if sent is not None and sent < key:
            older[sent] = None
        records.append((key, value))
        records.extend((superseded, None) for superseded in older)
        self.sent[minute] = key
