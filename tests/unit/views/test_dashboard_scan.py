"""Totals by minute and value are those of the events, whatever is remembered, replaced or asked at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.errors import IncompleteAnswerError
from streams.topics import BUCKET_OFFSETS
from tables.blocks import BlockKey, OpenBucket, encode_block, pack
from tests.unit.views.test_aggregates import VALUES, StoredBlocks, tables_of
from views import dashboard_scan
from views.dashboard_scan import MinuteTotals, Scan, merge_series, merge_sums
from views.queries import BadQueryError

MINUTE = 27_434_880
MINUTES = 4
NAMES = tuple(VALUES)
Event = tuple[int, tuple[str, ...], int]


class OwnBlocks(StoredBlocks):
    """A store with one partition, and one that was taken away."""

    def database(self, partition: int) -> Any:
        return None if partition == 1 else self.records


def some_events(chance: Random, count: int) -> list[Event]:
    """Return minute, dimensions and price of events."""
    return [
        (MINUTE + chance.randrange(MINUTES), tuple(map(chance.choice, VALUES.values())), chance.randrange(-(2**31), 2**31))
        for _ in range(count)
    ]


def store(stored: StoredBlocks, bucket: OpenBucket, events: list[Event], *, through: int) -> None:
    """Fold events into a bucket and store its versions as a worker does."""
    for minute, cell, price in events:
        cells = bucket.minutes.setdefault(minute, {})
        cells[cell] = cells.get(cell, 0) + pack(1, price)
    between = lambda low, high: stored.keys_between(0, low, high)  # noqa: E731
    stored.apply(bucket.emit(bucket.number * BUCKET_OFFSETS + through, stored=between))


def expected(events: list[Event], filters: Mapping[int, str], by: int | None) -> Counter[Any]:
    """Return count and sum by minute and value."""
    totals: Counter[Any] = Counter()
    for minute, cell, price in events:
        if all(cell[index] == value for index, value in filters.items()):
            value = None if by is None else cell[by]
            totals[minute, value, "count"] += 1
            totals[minute, value, "sum"] += price
    return totals


async def found(totals: MinuteTotals, scan: Scan) -> Counter[Any]:
    """Return the same out of the scan: its points, and its sums must add up to them."""
    sums = merge_sums([await totals.sums(scan, [0])])
    keys = [value for value in sums if value is not None]
    series = await totals.series(scan, [0], keys)
    points: Counter[Any] = Counter()
    for minute, rows in series.items():
        for key, (count, total) in zip([*keys, None], rows, strict=True):
            if count:
                points[minute, key, "count"] += count
                points[minute, key, "sum"] += total
    for value, (count, total) in sums.items():
        assert count == sum(number for (_, key, what), number in points.items() if (key, what) == (value, "count"))
        assert total == sum(number for (_, key, what), number in points.items() if (key, what) == (value, "sum"))
    return points


@settings(max_examples=40, deadline=None)
@given(
    chance=st.randoms(use_true_random=False), by=st.none() | st.integers(0, 3), filtered=st.sets(st.integers(0, 3), max_size=3)
)
async def test_totals_are_those_of_the_events_before_and_after_more_have_come(
    chance: Random, by: int | None, filtered: set[int]
) -> None:
    """What is remembered of a minute is used only as long as its blocks are the same; late events change old minutes."""
    stored, seen = OwnBlocks(), list[Event]()
    totals = MinuteTotals(tables_of(stored))
    filters = {index: chance.choice(VALUES[NAMES[index]]) for index in filtered}
    scan = Scan(MINUTE, MINUTE + MINUTES, tuple(sorted(filters.items())), by)
    buckets = [OpenBucket(number, sums=1) for number in (3, 4)]
    for through in (10, 20, BUCKET_OFFSETS - 1):
        for bucket in buckets:
            events = some_events(chance, 12)
            store(stored, bucket, events, through=through)
            seen += events
        wanted = {key: value for key, value in expected(seen, filters, by).items() if seen_count(seen, filters, by, key)}
        assert await found(totals, scan) == wanted


def seen_count(events: list[Event], filters: Mapping[int, str], by: int | None, key: Any) -> int:
    return expected(events, filters, by)[key[0], key[1], "count"]


async def test_minute_that_has_not_changed_is_not_decoded_again() -> None:
    """Hours are asked for each few seconds by every tab; only what changed is added up."""
    stored, bucket = OwnBlocks(), OpenBucket(0, sums=1)
    store(stored, bucket, some_events(Random(1), 50), through=50)
    totals, scan = MinuteTotals(tables_of(stored)), Scan(MINUTE, MINUTE + MINUTES, (), 1)
    first = await totals.sums(scan, [0])
    decoded = totals.decoded_blocks
    assert decoded == MINUTES and sorted(await totals.sums(scan, [0])) == sorted(first)
    assert totals.decoded_blocks == decoded
    store(stored, bucket, [(MINUTE + 2, ("VIEW", "new", "b", "c"), 5)], through=60)
    again = dict(await totals.sums(scan, [0]))
    assert totals.decoded_blocks == decoded + 1 and again["new"] == [1, 5]


async def test_what_may_be_remembered_has_a_limit() -> None:
    """Past it what was asked longest ago is forgotten, and added up anew when it is asked again."""
    stored = OwnBlocks()
    store(stored, OpenBucket(0, sums=1), some_events(Random(2), 200), through=200)
    totals = MinuteTotals(tables_of(stored), remembered_bytes_max=200)
    scans = [Scan(MINUTE, MINUTE + MINUTES, (), by) for by in (None, 1)]
    answers = [await totals.sums(scan, [0]) for scan in scans]
    assert [await totals.sums(scan, [0]) for scan in scans] == answers
    assert totals.decoded_blocks > 2 * MINUTES


async def test_partition_that_is_taken_away_is_no_answer() -> None:
    """A store that is closed would answer zero."""
    with pytest.raises(IncompleteAnswerError):
        await MinuteTotals(tables_of(OwnBlocks())).sums(Scan(MINUTE, MINUTE + 1, (), None), [0, 1])


async def test_block_that_is_superseded_while_it_is_read_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent goes on in between: what was listed a moment ago is gone, and its successor has all of it."""
    monkeypatch.setattr(dashboard_scan, "SLICE_S", -1.0)  # others run after every block
    stored, bucket = OwnBlocks(), OpenBucket(0, sums=1)
    first, second = some_events(Random(3), 40), some_events(Random(4), 40)
    store(stored, bucket, first, through=40)
    totals = MinuteTotals(tables_of(stored))
    asked = asyncio.ensure_future(totals.sums(Scan(MINUTE, MINUTE + MINUTES, (), None), [0]))
    for _ in range(3):
        await asyncio.sleep(0)
    store(stored, bucket, second, through=80)
    ((_, (count, _)),) = await asked
    assert len(first) <= count <= len(first) + len(second)


async def test_dimension_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by what a page may ask."""
    monkeypatch.setattr(dashboard_scan, "VALUES_MAX", 3)
    stored = OwnBlocks()
    cells: dict[tuple[str, ...], int] = {("VIEW", f"origin {number}", "b", "c"): pack(1, 1) for number in range(5)}
    stored.records[BlockKey(MINUTE, 0, 5).encode()] = encode_block(cells, sums=1)
    with pytest.raises(BadQueryError, match="more than 3 values"):
        await MinuteTotals(tables_of(stored)).sums(Scan(MINUTE, MINUTE + 1, (), 1), [0])


def test_merged_parts_are_their_sum() -> None:
    """Owners hold different partitions: nothing is in two of them."""
    assert merge_sums([[("a", [1, 2])], [("a", [3, -4]), ("b", [1, 0])]]) == {"a": [4, -2], "b": [1, 0]}
    assert merge_series([{7: [[1, 2], [0, 0]]}, {7: [[1, 1], [5, 5]], 8: [[9, 9], [0, 0]]}]) == {
        7: [[2, 3], [5, 5]],
        8: [[9, 9], [0, 0]],
    }
