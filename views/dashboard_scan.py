"""Add up the blocks of hours, minute by minute and by the values of a dimension, in slices and with a memory of minutes.

A minute is remembered with the keys of its blocks. By the law (tables/blocks.py) a block is a function of its key, so a minute
whose newest keys are the same has the same totals, and one that changed, by a late event, by retention or by another owner,
is added up again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streams.errors import IncompleteAnswerError
from tables.blocks import Block, BlockKey, decode_block, newest
from tables.registry import StreamTables
from views.queries import BadQueryError

SLICE_S = 0.003
"""Between two awaits: the agent shares the loop."""
SCANS_MAX = 2
"""At once; others wait for their turn."""
REMEMBERED_BYTES_MAX = 64 << 20
LANES_MAX = 64
VALUES_MAX = 20_000
"""Values of one dimension in the minutes of a question."""
ATTEMPTS_MAX = 5
"""A block may be superseded between its listing and its reading; a minute changes about once a second."""

Values = npt.NDArray[np.int64]
"""Count and sums by value: shape (1 + sums, values)."""
Totals = list[int]
"""Count, then sums."""


class Scan(NamedTuple):
    """Minutes in [start, end), since 1970; dimensions by their index.

    Attributes:
        filters: (dimension, value), each of which a cell must have.
        by: the dimension that is told apart; None: all together.
    """

    start: int
    end: int
    filters: tuple[tuple[int, str], ...]
    by: int | None


class Remembered(NamedTuple):
    """Totals of one minute of one partition, and the keys of the blocks they were made of."""

    keys: bytes
    values: Values


@dataclass(slots=True)
class Lane:
    """What is remembered for one set of filters and one dimension.

    Attributes:
        ids: columns of the arrays by value; grows only.
        minutes: by (partition, minute).
    """

    ids: dict[str, int] = field(default_factory=dict)
    minutes: dict[tuple[int, int], Remembered] = field(default_factory=dict)
    size: int = 0


Take = Callable[[int, Values], None]
"""Told the totals of one minute of one partition."""


class MinuteTotals:
    """The totals of the partitions that this worker owns."""

    def __init__(self, tables: StreamTables, *, remembered_bytes_max: int = REMEMBERED_BYTES_MAX) -> None:
        self._tables = tables
        self._bytes_max = remembered_bytes_max
        self._lanes: OrderedDict[tuple[object, ...], Lane] = OrderedDict()
        self._turns = asyncio.Semaphore(SCANS_MAX)
        self.decoded_blocks = 0

    async def sums(self, scan: Scan, partitions: Iterable[int]) -> list[tuple[str | None, Totals]]:
        """Return count and sums by value over the whole range; of the value None where none is told apart.

        Raises:
            IncompleteAnswerError: a partition was taken away meanwhile.
            BadQueryError: the dimension has more than `VALUES_MAX` values.
        """
        lane = self._lane(scan)
        total = np.zeros((self._measures, 0), dtype=np.int64)

        def take(minute: int, values: Values) -> None:
            nonlocal total
            total = _grown(total, values.shape[1])
            total[:, : values.shape[1]] += values

        await self._scan(scan, lane, partitions, take)
        if scan.by is None:
            return [(None, _column(_grown(total, 1), 0))]
        return [
            (value, _column(total, index)) for value, index in lane.ids.items() if index < total.shape[1] and total[0, index]
        ]

    async def series(self, scan: Scan, partitions: Iterable[int], keys: Sequence[str]) -> dict[int, list[Totals]]:
        """Return by minute the totals of each of *keys* and, last, of all other values; silent minutes are left out.

        Raises:
            IncompleteAnswerError, BadQueryError: as `sums`.
        """
        lane = self._lane(scan)
        minutes: dict[int, Values] = {}

        def take(minute: int, values: Values) -> None:
            picked = minutes.setdefault(minute, np.zeros((self._measures, len(keys) + 1), dtype=np.int64))
            rest = values.sum(axis=1)
            for place, key in enumerate(keys):
                index = lane.ids.get(key, values.shape[1])
                if index < values.shape[1]:
                    picked[:, place] += values[:, index]
                    rest = rest - values[:, index]
            picked[:, -1] += rest

        await self._scan(scan, lane, partitions, take)
        return {minute: values.T.tolist() for minute, values in minutes.items()}

    @property
    def _measures(self) -> int:
        return 1 + len(self._tables.stream.sums)

    def _lane(self, scan: Scan) -> Lane:
        lane = self._lanes.setdefault((scan.filters, scan.by), Lane())
        self._lanes.move_to_end((scan.filters, scan.by))
        return lane

    async def _scan(self, scan: Scan, lane: Lane, partitions: Iterable[int], take: Take) -> None:
        async with self._turns:
            pace = Pace()
            for partition in partitions:
                for minute in range(max(0, scan.start), max(0, scan.end)):
                    values = await self._minute(scan, lane, (partition, minute), pace)
                    if values is not None:
                        take(minute, values)
            self._forget()

    async def _minute(self, scan: Scan, lane: Lane, place: tuple[int, int], pace: Pace) -> Values | None:
        for _ in range(ATTEMPTS_MAX):
            await pace.rest()
            keys = self._keys(*place)
            if not keys:
                _drop(lane, place)
                return None
            together = b"".join(keys)
            known = lane.minutes.get(place)
            if known is not None and known.keys == together:
                return known.values
            values = await self._add_up(scan, lane, place[0], keys, pace)
            if values is not None:
                _drop(lane, place)
                lane.minutes[place] = Remembered(together, values)
                lane.size += values.nbytes + len(together)
                return values
        raise IncompleteAnswerError(f"minute {place[1]} of partition {place[0]} changes faster than it is read")

    def _keys(self, partition: int, minute: int) -> list[bytes]:
        """Return the keys of the newest versions of a minute, ascending."""
        store = self._tables.block_store
        if store.database(partition) is None:
            raise IncompleteAnswerError(f"partition {partition} was taken away")
        low, high = (BlockKey(number, 0, 0).encode() for number in (minute, minute + 1))
        return sorted(newest(store.keys_between(partition, low, high)).values())

    async def _add_up(self, scan: Scan, lane: Lane, partition: int, keys: Sequence[bytes], pace: Pace) -> Values | None:
        """Return the totals of blocks; None where one of them is gone: a newer one has come."""
        total = np.zeros((self._measures, 0), dtype=np.int64)
        for key in keys:
            database = self._tables.block_store.database(partition)
            raw = None if database is None else database.get(key)
            if raw is None:
                return None
            self.decoded_blocks += 1
            values = values_of(decode_block(raw), scan, lane.ids)
            total = _grown(total, values.shape[1])
            total[:, : values.shape[1]] += values
            if len(lane.ids) > VALUES_MAX:
                self._lanes.pop((scan.filters, scan.by), None)
                raise BadQueryError(f"the dimension has more than {VALUES_MAX} values in this range: ask source=postgres")
            await pace.rest()
        return total

    def _forget(self) -> None:
        """Let go of what was asked longest ago, past what may be remembered."""
        while len(self._lanes) > LANES_MAX or sum(lane.size for lane in self._lanes.values()) > self._bytes_max:
            self._lanes.popitem(last=False)


class Pace:
    """Lets others run when a slice is over."""

    def __init__(self) -> None:
        self._until_s = perf_counter() + SLICE_S

    async def rest(self) -> None:
        """Await when the slice is over."""
        if perf_counter() > self._until_s:
            await asyncio.sleep(0)
            self._until_s = perf_counter() + SLICE_S


def values_of(block: Block, scan: Scan, ids: dict[str, int]) -> Values:
    """Return count and sums of a block's matching cells by value; new values get the next columns of *ids*."""
    measures = (block.counts, *block.sums)
    mask = _matching(block, scan.filters)
    if mask is None:
        return np.zeros((len(measures), 0), dtype=np.int64)
    if scan.by is None:
        return np.array([[int(measure[mask].sum(dtype=np.int64))] for measure in measures], dtype=np.int64)
    values, codes = block.dimensions[scan.by]
    columns = np.fromiter((ids.setdefault(value, len(ids)) for value in values), dtype=np.int64, count=len(values))[codes[mask]]
    # Weights are floats: exact, since the sum of one block has at most 44 bits.
    return np.array([np.bincount(columns, weights=each[mask], minlength=len(ids)) for each in measures]).astype(np.int64)


def _matching(block: Block, filters: Iterable[tuple[int, str]]) -> npt.NDArray[np.bool_] | slice | None:
    mask: npt.NDArray[np.bool_] | slice = slice(None)
    for index, value in filters:
        values, codes = block.dimensions[index]
        if value not in values:
            return None
        found = codes == values.index(value)
        mask = found if isinstance(mask, slice) else mask & found
    return mask


def _grown(values: Values, width: int) -> Values:
    if values.shape[1] >= width:
        return values
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _column(values: Values, index: int) -> Totals:
    return [int(value) for value in values[:, index]]


def _drop(lane: Lane, place: tuple[int, int]) -> None:
    gone = lane.minutes.pop(place, None)
    if gone is not None:
        lane.size -= gone.values.nbytes + len(gone.keys)


def merge_sums(parts: Iterable[Iterable[tuple[str | None, Totals]]]) -> dict[str | None, Totals]:
    """Return the sum of what several owners say of the whole range."""
    merged: dict[str | None, Totals] = {}
    for part in parts:
        for value, totals in part:
            merged[value] = _added(merged.get(value), totals)
    return merged


def merge_series(parts: Iterable[Mapping[int, Sequence[Totals]]]) -> dict[int, list[Totals]]:
    """Return the sum of what several owners say of each minute."""
    merged: dict[int, list[Totals]] = {}
    for part in parts:
        for minute, rows in part.items():
            mine = merged.get(minute)
            merged[minute] = [_added(None if mine is None else mine[place], row) for place, row in enumerate(rows)]
    return merged


def _added(mine: Totals | None, other: Totals) -> Totals:
    return list(other) if mine is None else [a + b for a, b in zip(mine, other, strict=True)]
