"""Totals of a partition are exact whichever versions are stored, and written as the contract says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.topics import BUCKET_OFFSETS, USER_TAGS
from tables.blocks import OpenBucket, pack
from tables.registry import StreamTables
from tests.support.strategies import randoms
from views.aggregates import Totals, format_answer, merge, partition_totals
from views.queries import AggregatesQuery, parse_aggregates

MINUTE = 27_434_880
"""2022-03-01T00:00."""
PARTITION = 2
EVENTS = 60
VALUES = {"action": ("VIEW", "BUY"), "origin": ("", "o"), "brand_id": ("null", "b"), "category_id": ("c", "ć")}


@dataclass
class StoredBlocks:
    """The part of the block store that is read: sorted keys and values of one partition."""

    records: dict[bytes, bytes] = field(default_factory=dict)

    def keys_between(self, partition: int, low: bytes, high: bytes) -> list[bytes]:
        return sorted(key for key in self.records if low <= key < high)

    def database(self, partition: int) -> dict[bytes, bytes]:
        return self.records

    def apply(self, records: Sequence[tuple[bytes, bytes | None]]) -> None:
        for key, value in records:
            if value is None:
                self.records.pop(key, None)
            else:
                self.records[key] = value


@dataclass
class Blocks:
    """Stands for the Faust table of blocks."""

    data: StoredBlocks


def tables_of(stored: StoredBlocks) -> StreamTables:
    return StreamTables(USER_TAGS, cast("Any", Blocks(stored)), None)


@dataclass(frozen=True)
class Event:
    """One event, as far as aggregates know it."""

    minute: int
    dimensions: tuple[str, ...]
    price: int


def some_events(random: Random, count: int) -> list[Event]:
    def one() -> Event:
        dimensions = tuple(random.choice(values) for values in VALUES.values())
        return Event(MINUTE + random.randrange(3), dimensions, random.choice((0, -1, 5, 2**31 - 1, -(2**31))))

    return [one() for _ in range(count)]


def add(bucket: OpenBucket, event: Event) -> None:
    cells = bucket.minutes.setdefault(event.minute, {})
    cells[event.dimensions] = cells.get(event.dimensions, 0) + pack(1, event.price)


def expected(events: Sequence[Event], query: AggregatesQuery) -> Totals:
    """Return what *query* should find, by plain recomputation."""
    counts: Counter[int] = Counter()
    sums: Counter[int] = Counter()
    places = {name: place for place, name in enumerate(USER_TAGS.dimensions)}
    for event in events:
        wanted = all(event.dimensions[places[name]] == value for name, value in query.filters.items())
        if wanted and query.start <= event.minute < query.end:
            counts[event.minute] += 1
            sums[event.minute] += event.price
    return {minute: [counts[minute], sums[minute]] for minute in counts}


def without_zeros(totals: Totals) -> Totals:
    return {minute: values for minute, values in totals.items() if values[0]}


def queries(random: Random) -> Iterator[AggregatesQuery]:
    for chosen in range(2 ** len(VALUES)):
        filters = {
            name: random.choice((*values, "absent"))
            for place, (name, values) in enumerate(VALUES.items())
            if chosen >> place & 1
        }
        start = MINUTE + random.randrange(-1, 3)
        yield AggregatesQuery(start, start + random.randrange(4), filters, ("count",))


@settings(max_examples=40)
@given(randoms, st.integers(0, 6))
def test_totals_count_every_acknowledged_event_once_whatever_is_stored(random: Random, steps: int) -> None:
    """A4, A10: superseded versions may still be there; no event shows twice, and none vanishes while its bucket is read again.

    What the newest versions hold is shown, and nothing that is in memory only.
    """
    stored, bucket = StoredBlocks(), OpenBucket(1, 1)
    events = some_events(random, EVENTS)
    cuts = {random.randrange(EVENTS) for _ in range(steps)}
    shown = 0
    for number, event in enumerate(events):
        if number in (EVENTS // 3, EVENTS // 2):
            shown = emit(bucket, stored, random, bucket.end - 1, number)
            bucket = OpenBucket(bucket.number + 1, 1)
        add(bucket, event)
        if number in cuts:
            shown = emit(bucket, stored, random, bucket.number * BUCKET_OFFSETS + number, number + 1)
        for query in queries(random) if number % 20 == 0 else ():
            assert without_zeros(partition_totals(tables_of(stored), PARTITION, query)) == expected(events[:shown], query)


def emit(bucket: OpenBucket, stored: StoredBlocks, random: Random, through: int, count: int) -> int:
    """Store a version with or without the tombstones of what it supersedes, and return *count*, the events stored now."""
    records = bucket.emit(through, stored=lambda low, high: stored.keys_between(PARTITION, low, high))
    is_complete = random.random() < 0.5
    stored.apply([(key, value) for key, value in records if is_complete or value is not None])
    return count


def test_older_version_of_a_bucket_that_is_read_again_takes_nothing_back() -> None:
    """After a seek the open bucket starts from nothing; what was stored of it before must not vanish meanwhile."""
    stored = StoredBlocks()
    events = [Event(MINUTE, ("VIEW", "o", "b", "c"), price) for price in range(10)]
    query = AggregatesQuery(MINUTE, MINUTE + 1, {"action": "VIEW"}, ("count",))
    for is_second_reading in (False, True):
        bucket = OpenBucket(0, 1)
        for number, event in enumerate(events):
            add(bucket, event)
            stored.apply(bucket.emit(number, stored=lambda low, high: stored.keys_between(PARTITION, low, high)))
            shown = events if is_second_reading else events[: number + 1]
            assert partition_totals(tables_of(stored), PARTITION, query) == expected(shown, query)


def test_range_before_1970_finds_nothing_instead_of_failing() -> None:
    """Keys of the store hold no minute below zero."""
    query = AggregatesQuery(-5, 1, {"action": "BUY"}, ("count",))
    assert partition_totals(tables_of(StoredBlocks()), PARTITION, query) == {}


def test_merged_totals_are_sums_and_leave_their_parts_alone() -> None:
    """Answers of several owners; int64 and beyond, since Python's integers do not end."""
    parts: list[Totals] = [{1: [1, 2**62]}, {}, {1: [2, 2**62], 2: [1, -5]}]
    assert merge(parts) == {1: [3, 2**63], 2: [1, -5]}
    assert parts == [{1: [1, 2**62]}, {}, {1: [2, 2**62], 2: [1, -5]}]


def answer(query: str, totals: Mapping[int, Sequence[int]]) -> dict[str, Any]:
    return format_answer(
        USER_TAGS, parse_aggregates(USER_TAGS, query), {minute: list(values) for minute, values in totals.items()}
    )


def test_answer_is_that_of_the_specifications_example() -> None:
    """A5: the columns and rows of spec v3, character for character."""
    query = "time_range=2022-03-01T00:05:00_2022-03-01T00:08:00&action=BUY&brand_id=Nike&aggregates=SUM_PRICE&aggregates=COUNT"
    assert answer(query, {MINUTE + 5: (2, 1000), MINUTE + 7: (1, 5)}) == {
        "columns": ["1m_bucket", "action", "brand_id", "sum_price", "count"],
        "rows": [
            ["2022-03-01T00:05:00", "BUY", "Nike", "1000", "2"],
            ["2022-03-01T00:06:00", "BUY", "Nike", "0", "0"],
            ["2022-03-01T00:07:00", "BUY", "Nike", "5", "1"],
        ],
    }


@pytest.mark.parametrize(("end", "minutes"), [("01T23:55:00", 0), ("01T23:56:00", 1), ("02T00:05:00", 10)])
def test_answer_has_a_row_a_minute_of_text_cells(end: str, minutes: int) -> None:
    """Rules 5, 6: ascending and zero-filled, past midnight too; an empty range has columns and no rows."""
    query = f"time_range=2022-03-01T23:55:00_2022-03-{end}&category_id=c&brand_id=&origin=o&action=VIEW"
    found = answer(f"{query}&aggregates=count&aggregates=count", {})
    assert found["columns"] == ["1m_bucket", "action", "origin", "brand_id", "category_id", "count", "count"]
    starts = [row[0] for row in found["rows"]]
    assert len(starts) == minutes
    assert starts == sorted(starts)
    assert all(row[1:] == ["VIEW", "o", "", "c", "0", "0"] for row in found["rows"])
