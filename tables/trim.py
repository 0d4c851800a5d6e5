"""Keep a profile's rows near the newest 200 in passing: local garbage collection, never in the changelog."""

from __future__ import annotations

from collections.abc import Sequence

from tables.profiles import INDEX, NEWEST_MAX, ORDER
from tables.store import Store

SAMPLE_ROWS = 1024
"""Every so many rows written one looks at its own user, so a user has at most about as many rows more than the newest.
0.15 µs an event with millions of rows, and a hot user is looked at often."""


def trim(store: Store, partition: int, rows: Sequence[bytes]) -> int:
    """Delete what is older than the newest rows of a sample of the users just written; return how many users were cut.

    Args:
        rows: keys and values in turn, as they were written; shape (2 * rows,). Those of the index go by their age only.
    """
    trimmed = 0
    for start in range(0, len(rows), 2 * SAMPLE_ROWS):
        database = store.database(partition)
        if database is None:
            return trimmed
        sampled = range(start, min(start + 2 * SAMPLE_ROWS, len(rows)), 2)
        key = next((rows[index] for index in sampled if not rows[index].startswith(INDEX)), None)
        if key is None:
            continue
        prefix = key[: -ORDER.size]
        cursor = database.iter()
        cursor.seek(prefix)
        seen = 0
        while seen < NEWEST_MAX and cursor.valid() and cursor.key().startswith(prefix):
            seen += 1
            cursor.next()
        if seen == NEWEST_MAX and cursor.valid() and cursor.key().startswith(prefix):
            database.delete_range(cursor.key(), prefix[:-1] + bytes([prefix[-1] + 1]))
            trimmed += 1
    return trimmed
