"""Keep what reports ask for: how often each value of a datapoint was seen, by day, exactly as many times as there is a row.

Counts move in the transaction of the rows, by what came less what went, so late data, a second delivery and an erasure leave
them exact; days of rows that are dropped stay counted. Each partition has counts of its own, which the views add up
(docs/decisions/0024-reports-kept-by-the-sink.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import date
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import psycopg

from sinks.days import day_of
from sinks.queries import event_query

CLICK, VISIT, SEARCH = "post.click", "club.visit", "course.search"
REPORTED = frozenset((CLICK, VISIT, SEARCH))
"""Datapoints whose values are counted: clicks by post, visits by club and day, course searches by text."""
_PERSON = b"tally-value"


class Seen(NamedTuple):
    """What is counted."""

    datapoint: str
    day: date
    partition: int
    value: str

    @property
    def digest(self) -> UUID:
        """What tells the value from others in an index, which takes no long texts."""
        return UUID(bytes=blake2b(self.value.encode(), digest_size=16, person=_PERSON).digest())


Counts = Counter[Seen]


def count_values(counts: Counts, data: Iterable[tuple[str, str]], *, partition: int, at_ms: int) -> None:
    """Add the datapoints (key, value) of one submission; one without a value says nothing."""
    for key, value in data:
        if key in REPORTED and value:
            counts[Seen(key, day_of(at_ms), partition, value)] += 1


def read_gone(cursor: psycopg.Cursor) -> tuple[int, Counts]:
    """Return how many rows a deletion has taken, and what of them was counted."""
    total, counts = 0, Counts()
    for datapoint, day, partition, value, number in cursor.fetchall():
        if datapoint is None:
            total = number
        else:
            counts[Seen(datapoint, day, partition, value)] = number
    return total, counts


def save_counts(cursor: psycopg.Cursor, counts: Counts, *, today: date) -> None:
    """Add *counts*, which may be below 0, to those that are stored."""
    moved = sorted((seen, number) for seen, number in counts.items() if number)
    if not moved:
        return
    values = {
        "datapoints": [seen.datapoint for seen, _ in moved],
        "days": [seen.day for seen, _ in moved],
        "partitions": [seen.partition for seen, _ in moved],
        "values": [seen.value for seen, _ in moved],
        "digests": [seen.digest for seen, _ in moved],
        "counts": [number for _, number in moved],
        "today": today,
    }
    cursor.execute(event_query("add_value_counts"), values)
