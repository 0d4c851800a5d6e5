"""Answer what was submitted for one user of `events.v1`: the newest of each kind, from all partitions that may have some."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tables.erasures import erased_before, offset_of
from tables.profiles import Row, RowCodec, newest_rows, select
from tables.registry import StreamTables
from views.profiles import AFTER_ALL
from views.queries import ProfileQuery

PLURALS = {"EVENT": "events", "TRANSACTION": "transactions"}
ROWS_BYTES_MAX = 8 << 20
"""Of one kind, user and partition: one submission may have 4 MB."""
Timeline = tuple[list[Row], bool]
"""Rows, and whether none was left out for want of room."""


def partition_timeline(tables: StreamTables, codec: RowCodec, partition: int, user: str) -> Timeline:
    """Return the newest rows of every kind that one owned partition has of a user, as far as there is room for them."""
    store = tables.row_store
    assert store is not None
    erased = erased_before(store.database(partition), user)
    rows: list[Row] = []
    complete = True
    for kind in tables.stream.kinds:
        prefix = codec.prefix(user, kind)
        ascending = store.scan(partition, prefix, prefix + AFTER_ALL + AFTER_ALL)
        if erased:
            ascending = (row for row in ascending if offset_of(row[0]) >= erased)
        room = ROWS_BYTES_MAX
        for key, value in newest_rows(ascending, prefix):
            room -= len(value)
            if room < 0:
                complete = False
                break
            rows.append(codec.decode(key, value))
    return rows, complete


def format_timeline(codec: RowCodec, query: ProfileQuery, parts: Iterable[Timeline]) -> dict[str, Any]:
    """Return the answer: trimmed to the newest 200 of a kind first, then the range, then the limit."""
    by_kind: dict[str, list[Row]] = {kind: [] for kind in codec.stream.kinds}
    complete = True
    for rows, is_whole in parts:
        complete = complete and is_whole
        for row in rows:
            by_kind[row.kind].append(row)
    shown = {
        PLURALS[kind]: [
            _shown(codec.event_of(row))
            for row in select(of_kind, start_ms=query.start_ms, end_ms=query.end_ms, limit=query.limit)
        ]
        for kind, of_kind in by_kind.items()
    }
    return {codec.stream.key: query.user, **shown, "complete": complete}


def _shown(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event with its properties as JSON; a producer that wrote Kafka itself may have put any text there."""
    try:
        return event | {"properties": msgspec.json.decode(event["properties"])}
    except (msgspec.DecodeError, RecursionError):
        return event
