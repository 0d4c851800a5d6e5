"""A profile is trimmed to 200 first, filtered by range second, limited third, each kind for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.event_time import format_instant
from streams.topics import USER_TAGS
from tables.profiles import MISROUTED, NEWEST_MAX, Row, RowCodec
from tables.registry import StreamTables
from tests.support.strategies import prices, product_ids, randoms, texts
from views.profiles import format_answer, is_misrouted, partition_rows
from views.queries import ProfileQuery

CODEC = RowCodec(USER_TAGS)
START_MS = 1_646_092_800_000
ALWAYS = (0, 1 << 60)


def a_row(kind: str = "VIEW", *, at_ms: int = START_MS, offset: int = 0, time: str | None = None, user: str = "ann") -> Row:
    return Row(user, kind, at_ms, offset, time or format_instant(at_ms), ("PL", "PC", "o", 12486, "b", "c", offset))


def answer(rows: Sequence[Row], *, time_range: tuple[int, int] = ALWAYS, limit: int = 200) -> dict[str, Any]:
    return format_answer(CODEC, ProfileQuery("ann", *time_range, limit), rows)


def prices_of(events: Sequence[dict[str, Any]]) -> list[int]:
    return [event["product_info"]["price"] for event in events]


@st.composite
def profiles(draw: st.DrawFn) -> list[Row]:
    """Rows of one user in any order; many share a millisecond, none an offset."""
    size = draw(st.sampled_from((0, 1, 5, 199, 200, 201, 260)))
    spread = draw(st.sampled_from((1, 10, 1000)))
    random = draw(randoms)
    kinds = draw(st.sampled_from((["VIEW"], ["VIEW", "BUY"])))
    rows = [
        a_row(random.choice(kinds), at_ms=START_MS + random.randrange(spread), offset=offset)
        for offset in random.sample(range(10_000), size)
    ]
    random.shuffle(rows)
    return rows


@given(profiles(), st.integers(-2, 1002), st.integers(-2, 1002), st.sampled_from((0, 1, 199, 200)))
def test_trim_comes_first_then_the_range_then_the_limit(rows: list[Row], start: int, end: int, limit: int) -> None:
    """Rule 4, A2, A3: for each kind apart; later arrival first among equal times."""
    found = answer(rows, time_range=(START_MS + start, START_MS + end), limit=limit)
    for kind, name in (("VIEW", "views"), ("BUY", "buys")):
        mine = sorted((row for row in rows if row.kind == kind), key=lambda row: (row.at_ms, row.offset), reverse=True)
        within = [row.offset for row in mine[:200] if START_MS + start <= row.at_ms < START_MS + end]
        assert prices_of(found[name]) == within[:limit]


def test_old_event_in_range_stays_out_when_200_are_newer() -> None:
    """Rules 3, 4, A7 point 21: a range does not bring back what 200 newer ones have pushed out."""
    rows = [a_row(at_ms=START_MS + number, offset=number) for number in range(NEWEST_MAX + 1)]
    assert answer(rows, time_range=(START_MS, START_MS + 1))["views"] == []
    assert len(answer(rows[1:], time_range=(START_MS + 1, START_MS + 2))["views"]) == 1


def test_range_includes_its_start_and_excludes_its_end() -> None:
    """A2: from inclusive, to exclusive, by the millisecond."""
    rows = [a_row(at_ms=START_MS + number, offset=number) for number in range(4)]
    assert prices_of(answer(rows, time_range=(START_MS + 1, START_MS + 3))["views"]) == [2, 1]
    assert answer(rows, time_range=(START_MS + 1, START_MS + 1))["views"] == []


def test_nobody_has_empty_lists() -> None:
    """A6, A7 point 12: an unknown cookie is no error."""
    assert answer([]) == {"cookie": "ann", "views": [], "buys": []}


@given(texts, product_ids, prices, st.sampled_from(("2022-03-01T00:00:00Z", "2022-03-01T00:00:00.000999999Z", None)))
def test_event_is_returned_as_received(text: str, product_id: int | str, price: int, time: str | None) -> None:
    """A7 points 1, 2, 25: the type of the product's id, the text of the time, any Unicode."""
    row = a_row(time=time)._replace(kept=("PL", "TV", text, product_id, text, text, price))
    (event,) = answer([row])["views"]
    assert event == {
        "time": time or "2022-03-01T00:00:00.000Z",
        "cookie": "ann",
        "country": "PL",
        "device": "TV",
        "action": "VIEW",
        "origin": text,
        "product_info": {"product_id": product_id, "brand_id": text, "category_id": text, "price": price},
    }
    assert type(event["product_info"]["product_id"]) is type(product_id)


@dataclass
class StoredRows:
    """The part of the row store that is read: sorted keys and values by owned partition."""

    partitions: dict[int, dict[bytes, bytes]]

    def scan(self, partition: int, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, value in sorted(self.partitions[partition].items()):
            if low <= key < high:
                yield key, value

    def database(self, partition: int) -> dict[bytes, bytes] | None:
        return self.partitions.get(partition)

    def owned(self) -> list[int]:
        return sorted(self.partitions)


@dataclass
class Table:
    """Stands for the Faust table of rows."""

    data: StoredRows


def tables_of(partitions: dict[int, dict[bytes, bytes]] | None) -> StreamTables:
    rows = None if partitions is None else Table(StoredRows(partitions))
    return StreamTables(USER_TAGS, cast("Any", None), rows)


def test_partition_gives_the_newest_of_both_kinds_of_one_user_only() -> None:
    """A3, A7 point 11: neither a cookie that starts alike nor one kind's crowd takes another's place."""
    mine = [a_row(kind, at_ms=START_MS + number, offset=number) for kind in ("VIEW", "BUY") for number in range(250)]
    others = [
        a_row(user=user, offset=number) for number, user in enumerate(("", "an", "annV", "ann\x01", "anna", "\U0010ffff"))
    ]
    stored = dict(CODEC.encode(row) for row in (*mine, *others)) | {MISROUTED: b"", b"__faust\0offset__": b"5"}
    found = partition_rows(tables_of({3: stored}), CODEC, 3, "ann")
    assert sorted(row.offset for row in found if row.kind == "VIEW") == list(range(50, 250))
    assert sorted(row.offset for row in found if row.kind == "BUY") == list(range(50, 250))
    for other in others:
        assert partition_rows(tables_of({3: stored}), CODEC, 3, other.user) == [other]


@pytest.mark.parametrize(
    ("partitions", "expected"),
    [(None, False), ({}, False), ({0: {}, 1: {}}, False), ({0: {}, 1: {MISROUTED: b""}}, True)],
)
def test_misrouted_is_what_an_owned_partition_remembers(
    partitions: dict[int, dict[bytes, bytes]] | None, expected: bool
) -> None:
    """Design §10: the mark lies beside the rows, so that it outlives the worker that saw the producer."""
    assert is_misrouted(tables_of(partitions)) is expected


def test_installation_without_profiles_has_no_rows() -> None:
    """`worker.profiles = false`."""
    assert partition_rows(tables_of(None), CODEC, 0, "ann") == []
