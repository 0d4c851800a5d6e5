"""Answer totals by minute: from this worker's own partitions, and formatted from everybody's."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from streams.event_time import format_minute
from streams.topics import Stream
from tables.blocks import Block, BlockKey, decode_block, newest
from tables.registry import StreamTables
from views.queries import AggregatesQuery, aggregate_names

BLOCKS_REMEMBERED_MAX = 1024
"""Decoded blocks, most far smaller than the largest that is remembered. A block is a function of its bytes: nothing has to be
forgotten."""
REMEMBERED_BYTES_MAX = 262_144
Totals = dict[int, list[int]]
"""Minute to [count, sum, …]."""

_decoded = lru_cache(BLOCKS_REMEMBERED_MAX)(decode_block)


def partition_totals(tables: StreamTables, partition: int, query: AggregatesQuery) -> Totals:
    """Return the totals of one partition that this worker owns.

    Of each (minute, bucket) the stored version with the greatest `through` counts. What is in memory only is not shown: the
    changelog has not acknowledged it, so a next owner would show less for a moment.
    """
    totals: Totals = {}
    store = tables.block_store
    low, high = (BlockKey(max(0, minute), 0, 0).encode() for minute in (query.start, query.end))  # no event before 1970
    filters = {index: query.filters[name] for index, name in enumerate(tables.stream.dimensions) if name in query.filters}
    database = store.database(partition)
    for (minute, _), key in newest(store.keys_between(partition, low, high)).items():
        raw: bytes = database.get(key)  # type: ignore[union-attr]
        block: Block = _decoded(raw) if len(raw) <= REMEMBERED_BYTES_MAX else decode_block(raw)
        _add(totals, minute, block.totals(filters))
    return totals


def _add(totals: Totals, minute: int, values: Iterable[int]) -> None:
    mine = totals.get(minute)
    totals[minute] = list(values) if mine is None else [a + b for a, b in zip(mine, values, strict=True)]


def merge(parts: Iterable[Totals]) -> Totals:
    """Return the sum of totals of different partitions."""
    totals: Totals = {}
    for part in parts:
        for minute, values in part.items():
            _add(totals, minute, values)
    return totals


def format_answer(stream: Stream, query: AggregatesQuery, totals: Totals) -> dict[str, Any]:
    """Return the answer: one row a minute, ascending, zero-filled, every cell text."""
    names = aggregate_names(stream)
    zeros = [0] * len(names)
    positions = [names.index(aggregate) for aggregate in query.aggregates]
    rows = [
        [format_minute(minute), *query.filters.values(), *(str(totals.get(minute, zeros)[place]) for place in positions)]
        for minute in range(query.start, query.end)
    ]
    return {"columns": ["1m_bucket", *query.filters, *query.aggregates], "rows": rows}
