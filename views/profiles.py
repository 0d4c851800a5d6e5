"""Answer the newest events of one user: from this worker's own partitions, and formatted from everybody's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tables.erasures import erased_before, offset_of
from tables.profiles import MISROUTED, Row, RowCodec, newest_rows, select
from tables.registry import StreamTables
from views.queries import ProfileQuery

PLURALS = {"VIEW": "views", "BUY": "buys"}
AFTER_ALL = b"\xff" * 8


def partition_rows(tables: StreamTables, codec: RowCodec, partition: int, user: str) -> list[Row]:
    """Return the newest rows of every kind that one owned partition has of a user."""
    store = tables.row_store
    if store is None:
        return []
    erased = erased_before(store.database(partition), user)
    rows: list[Row] = []
    for kind in tables.stream.kinds:
        prefix = codec.prefix(user, kind)
        ascending = store.scan(partition, prefix, prefix + AFTER_ALL + AFTER_ALL)
        if erased:
            ascending = (row for row in ascending if offset_of(row[0]) >= erased)
        found = newest_rows(ascending, prefix)
        rows.extend(codec.decode(key, value) for key, value in found)
    return rows


def is_misrouted(tables: StreamTables) -> bool:
    """Say whether a producer has put a user of an owned partition where murmur2 would not."""
    store = tables.row_store
    if store is None:
        return False
    databases = (store.database(partition) for partition in store.owned())
    return any(database is not None and database.get(MISROUTED) is not None for database in databases)


def format_answer(codec: RowCodec, query: ProfileQuery, rows: Iterable[Row]) -> dict[str, Any]:
    """Return the answer: trimmed to the newest 200 of a kind first, then the range, then the limit."""
    by_kind: dict[str, list[Row]] = {kind: [] for kind in codec.stream.kinds}
    for row in rows:
        by_kind[row.kind].append(row)
    shown = {
        kind: select(of_kind, start_ms=query.start_ms, end_ms=query.end_ms, limit=query.limit)
        for kind, of_kind in by_kind.items()
    }
    return {
        codec.stream.key: query.user,
        **{PLURALS[kind]: [codec.event_of(row) for row in of_kind] for kind, of_kind in shown.items()},
    }
