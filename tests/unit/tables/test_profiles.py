"""Rows sort newest first, belong to one user only, and travel in spans that lose none of them."""

from __future__ import annotations

from bisect import bisect_left
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import NewerStateError
from streams.event_time import format_instant, parse_instant
from streams.topics import USER_TAGS
from tables import profiles
from tables.profiles import (
    MISROUTED,
    NEWEST_MAX,
    SPAN_BYTES_MAX,
    SPAN_ROWS_MAX,
    Row,
    RowCodec,
    SpanKey,
    decode_span,
    encode_spans,
    newest_rows,
    select,
)
from tests.support.strategies import LAST_SECOND, instants, prices, product_ids, randoms, texts

ROWS = RowCodec(USER_TAGS)
WEIRD_USERS = (
    "",
    "__faust",
    "__faust\x01",
    "a",
    "aV",
    "aVB",
    "a\x01",
    "ab",
    "é",
    "e\u0301",
    "😀",
    "\x7f",
    "\U0010ffff",
    "misrouted",
)
kept = st.tuples(texts, texts, texts, product_ids, texts, texts, prices)


def a_row(user: str = "ann", kind: str = "VIEW", *, at_ms: int = 1_646_092_800_000, offset: int = 0) -> Row:
    return Row(user, kind, at_ms, offset, format_instant(at_ms), ("PL", "PC", "o", 1, "b", "c", 5))


@st.composite
def some_rows(draw: st.DrawFn) -> Row:
    time = draw(instants)
    return Row(
        draw(texts), draw(st.sampled_from(("VIEW", "BUY"))), parse_instant(time), draw(st.integers(0, 2**62)), time, draw(kept)
    )


@given(some_rows())
def test_decode_inverts_encode(row: Row) -> None:
    """A7 points 1, 2, 17, 25: any user, any fraction of a second, both types of product id."""
    again = ROWS.decode(*ROWS.encode(row))
    assert again == row
    assert [type(value) for value in again.kept] == [type(value) for value in row.kept]


@given(st.lists(st.tuples(st.integers(0, LAST_SECOND * 1000), st.integers(0, 2**62)), min_size=2, max_size=8))
def test_keys_of_one_user_and_kind_sort_newest_first(parts: list[tuple[int, int]]) -> None:
    """A2, A7 point 3: of one millisecond the later arrival comes first."""
    keys = sorted(ROWS.encode(a_row(at_ms=at_ms, offset=offset))[0] for at_ms, offset in parts)
    decoded = [ROWS.decode(key, ROWS.encode(a_row())[1]) for key in keys]
    assert [(row.at_ms, row.offset) for row in decoded] == sorted(parts, reverse=True)


def scan(store: dict[bytes, bytes], prefix: bytes) -> list[tuple[bytes, bytes]]:
    """Return what the table's scan gives: the newest rows from a prefix on."""
    keys = sorted(store)
    return list(newest_rows(iter([(key, store[key]) for key in keys[bisect_left(keys, prefix) :]]), prefix))


@given(st.lists(st.one_of(texts, st.sampled_from(WEIRD_USERS)), min_size=1, max_size=8), randoms)
def test_no_row_leaks_into_the_scan_of_another_user_or_kind(users: list[str], random: Random) -> None:
    """A7 points 11, 25: users that are prefixes of each other, empty, or look like Faust's and our own keys."""
    store = {b"__faust\0offset__": b"77", MISROUTED: b""}
    expected: dict[tuple[str, str], list[Row]] = {}
    for offset in range(40):
        row = a_row(random.choice(users), random.choice(("VIEW", "BUY")), at_ms=random.randrange(5), offset=offset)
        expected.setdefault((row.user, row.kind), []).append(row)
        store.update([ROWS.encode(row)])
    for user in (*users, *WEIRD_USERS):
        for kind in ("VIEW", "BUY"):
            found = [ROWS.decode(*pair) for pair in scan(store, ROWS.prefix(user, kind))]
            rows = expected.get((user, kind), [])
            assert found == sorted(rows, key=lambda row: (-row.at_ms, -row.offset))


def test_foreign_key_among_the_rows_is_no_row_and_hides_none() -> None:
    """A store keeps its offset beside the rows, under a key that could begin like a user's."""
    prefix = ROWS.prefix("ann", "VIEW")
    row = dict([ROWS.encode(a_row())])
    assert scan({prefix: b"1", prefix + b"\0": b"2", **row}, prefix) == list(row.items())


def test_scan_stops_at_the_newest_200() -> None:
    """A3: a user with a million rows costs a query no more than one with 200."""
    store = dict(ROWS.encode(a_row(offset=offset)) for offset in range(NEWEST_MAX + 50))
    found = [ROWS.decode(*pair).offset for pair in scan(store, ROWS.prefix("ann", "VIEW"))]
    assert found == list(range(NEWEST_MAX + 49, 49, -1))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 999)), max_size=260, unique=True), randoms)
def test_select_trims_then_ranges_then_limits(parts: list[tuple[int, int]], random: Random) -> None:
    """A2, A3, A7 points 3, 4, 14, 21: rule 4 of the spec, in its order; rows come in any order, from several workers."""
    rows = [a_row(at_ms=at_ms, offset=offset) for at_ms, offset in parts]
    start, end, limit = random.randrange(13), random.randrange(14), random.choice((0, 1, 199, 200, 201))
    expected = sorted(parts, reverse=True)[:NEWEST_MAX]
    expected = [part for part in expected if start <= part[0] < end][:limit]
    assert [(row.at_ms, row.offset) for row in select(rows, start_ms=start, end_ms=end, limit=limit)] == expected


def test_range_does_not_reach_behind_the_newest_200() -> None:
    """A2, A7 point 21: trimmed first; a range over older rows is empty though the store may still hold them."""
    rows = [a_row(at_ms=at_ms, offset=at_ms) for at_ms in range(250)]
    assert select(rows, start_ms=0, end_ms=50, limit=200) == []
    assert [row.at_ms for row in select(rows, start_ms=49, end_ms=52, limit=200)] == [51, 50]


@given(randoms)
def test_spans_hold_every_row_exactly_once_under_their_exact_offsets(random: Random) -> None:
    """A10: a span's key says which rows it holds, so a replay that cuts elsewhere writes other keys with the same rows."""
    pairs: list[tuple[bytes, bytes]] = []
    offset = random.randrange(2**40)
    for _ in range(random.choice((1, 2, 50))):
        offset += random.choice((1, 1, 1, 5))
        pairs.append((ROWS.encode(a_row(offset=offset))[0], b"v"))
    spans = list(encode_spans([part for pair in pairs for part in pair]))
    assert [pair for _, value in spans for pair in decode_span(value)] == pairs
    for key, value in spans:
        offsets = [ROWS.decode(row, ROWS.encode(a_row())[1]).offset for row, _ in decode_span(value)]
        assert SpanKey.decode(key) == (offsets[0], offsets[-1])
        assert len(offsets) <= SPAN_ROWS_MAX


@pytest.mark.parametrize("rows", [SPAN_ROWS_MAX, SPAN_ROWS_MAX + 1, 2 * SPAN_ROWS_MAX + 7])
def test_spans_are_bounded_in_rows(rows: int) -> None:
    """One changelog record is one step of a recovery, and of the loop that the views share."""
    parts = [part for offset in range(rows) for part in (ROWS.encode(a_row(offset=offset))[0], b"v")]
    spans = [SpanKey.decode(key) for key, _ in encode_spans(parts)]
    assert [span.first for span in spans] == list(range(0, rows, SPAN_ROWS_MAX))
    assert [span.last for span in spans] == [*range(SPAN_ROWS_MAX - 1, rows - 1, SPAN_ROWS_MAX), rows - 1]


def test_spans_are_bounded_in_bytes_too() -> None:
    """Rows of the longest texts would fill 50 MB at 4,096 rows; Kafka's usual limit is one."""
    fat = b"x" * 12_000
    rows = [part for offset in range(500) for part in (ROWS.encode(a_row(offset=offset))[0], fat)]
    sizes = [len(value) for _, value in encode_spans(rows)]
    assert len(sizes) > 1
    assert max(sizes) < SPAN_BYTES_MAX + 2 * len(fat) < 2**20


def test_no_rows_make_no_span() -> None:
    """A batch of dead letters only sends nothing."""
    assert list(encode_spans([])) == []


@given(randoms)
def test_damaged_row_or_span_raises_value_error_and_nothing_else(random: Random) -> None:
    """A reader catches one exception; anything else would end the process over one record."""
    key, value = ROWS.encode(a_row())
    (_, span), *_ = encode_spans([key, value])
    for _ in range(20):
        cut = random.randrange(len(key))
        damaged, packed = bytearray(value), bytearray(span)
        damaged[random.randrange(len(damaged))] = random.randrange(256)
        packed[random.randrange(len(packed))] = random.randrange(256)
        with pytest.raises(ValueError, match=r"row|span"):
            ROWS.decode(key[:cut], value)
        with suppress(ValueError):  # a changed letter cannot be told from a true one
            ROWS.decode(key, bytes(damaged))
        with suppress(ValueError, NewerStateError):  # the first byte may become that of a later format
            list(decode_span(bytes(packed)))


@pytest.mark.parametrize("fields", [[], ["PL"], [1] * 9, {}, "text"])
def test_row_of_another_shape_is_refused(fields: Any) -> None:
    """A row of another version of the declaration would put values under wrong names."""
    with pytest.raises(ValueError, match="row"):
        ROWS.decode(ROWS.encode(a_row())[0], profiles.encode_kept(fields))
