"""Rows of submissions before they meet Postgres: which there are, what COPY gets, what is cut where; pure."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.copy_text import lines_of
from sinks.events import COLUMNS, EventWriter, content_of, cut, render_submission
from sinks.profiles import Span
from sinks.reports import Seen, count_values
from streams.topics import EVENTS
from tables.profiles import SpanKey, encode_kept, encode_spans
from tests.support.submissions import ROWS_TOPIC, a_submission, row_of, rows_of
from tests.unit.sinks.test_writers import DAYS, ARecord

WRITER = EventWriter(EVENTS, DAYS)
DAY = DAYS.arrival_day(-1)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20) | st.sampled_from(
    ["O'Brien", "a\tb\\", "\r\n"]
)


def lines(raw: bytes, offset: int = 3) -> list[list[str]]:
    """Return the columns of each line that COPY gets of a record."""
    span = Span(2, SpanKey(0, 9), DAY, [])
    return [line[:-1].split("\t") for line in lines_of(render_submission(span, row_of(raw, offset)))]


def test_each_datapoint_is_a_row_in_order_and_the_same_one_twice_is_two() -> None:
    """P14: what tells two rows apart is their place in the submission, not what they hold."""
    raw = a_submission(data=[("a", "1"), ("b", "2"), ("a", "1")], properties='{"x":1}')
    found = lines(raw)
    assert dict(zip(("day", "partition", "offset", *COLUMNS), found[0], strict=True)) == {
        "day": DAY.isoformat(), "partition": "2", "offset": "3", "user_id": "judtin", "occurred_at": "2024-01-01T00:00:00.000Z",
        "kind": "TRANSACTION", "product": "MOBILE_BACKEND", "event_id": "s1", "source": "", "position": "0", "datapoint": "a",
        "value": "1", "properties": '{"x":1}',
    }  # fmt: skip
    assert [line[-4:] for line in found[1:]] == [["1", "b", "2", "\\N"], ["2", "a", "1", "\\N"]]


def test_nobody_is_null() -> None:
    """P11: a submission without a user is stored, with none."""
    assert lines(a_submission(user=""))[0][3] == "\\N"


@pytest.mark.parametrize(
    ("time", "written"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-01T00:00:00Z"),
        ("2024-01-01T00:00:00.123456Z", "2024-01-01T00:00:00.123456Z"),
        ("2024-01-01T23:59:59.999999999Z", "2024-01-01T23:59:59.999999Z"),
    ],
)
def test_time_is_written_to_the_microsecond_and_never_rounded_up(time: str, written: str) -> None:
    """P1: Postgres rounds a ninth digit, here into the next day; the minute of the aggregates is that before."""
    assert lines(a_submission(time=time))[0][4] == written


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=5), TEXTS, TEXTS)
def test_any_texts_give_one_line_a_datapoint(data: list[tuple[str, str]], user: str, id_: str) -> None:
    """P15: tabs, line ends and backslashes in a text are the text's; test_events_postgres.py reads them back."""
    found = lines(a_submission(id_, data=data, user=user))
    assert [len(line) for line in found] == [3 + len(COLUMNS)] * len(data)


def test_rows_of_a_span_are_counted_by_datapoints_and_marks_are_no_rows() -> None:
    """The size of a transaction is that in Postgres; the index and the verdicts of duplicates belong to the worker."""
    raws = [a_submission(data=[("a", "1")] * 5), a_submission(), a_submission("empty", data=())]
    ((key, value),) = encode_spans(rows_of(raws, duplicates=[1]))
    pending = WRITER.accept(ARecord(key, value, topic=ROWS_TOPIC))
    assert pending is not None
    assert [(row.offset, len(content_of(row).data)) for row in pending.content.rows] == [(0, 5), (2, 0)]
    assert (pending.rows, pending.refused) == (5, ())


@pytest.mark.parametrize("kept", [b"\xc1", encode_kept(["s1", "p", "", "{}", None]), encode_kept(["s1", "p", "", "{}", [{}]])])
def test_damaged_row_becomes_a_dead_letter_of_its_submission(kept: bytes) -> None:
    """The position is that of the record in the source topic; whatever bytes lie in the changelog, the sinks go on."""
    first, second = rows_of([a_submission()])[:2], rows_of([a_submission()], base=1)[:1]
    pending = WRITER.accept(ARecord(SpanKey(0, 1).encode(), encode_kept([*first, *second, kept]), topic=ROWS_TOPIC))
    assert pending is not None
    assert [(each.topic, each.offset) for each in pending.refused] == [(EVENTS.topic, 1)]


@given(st.lists(st.integers(0, 30), max_size=40), st.none() | st.integers(1, 20))
def test_pieces_are_whole_in_order_and_no_larger_than_they_must_be(sizes: list[int], rows_max: int | None) -> None:
    """P8: batches of so many rows; a submission that has more is one by itself, never two."""
    pieces = list(cut(sizes, rows_max))
    assert [index for piece in pieces for index in range(piece.start, piece.stop)] == list(range(len(sizes)))
    for piece in pieces:
        assert rows_max is None or sum(sizes[piece]) <= rows_max or piece.stop - piece.start == 1
    if rows_max is not None:
        for left, right in pairwise(pieces):
            assert sum(sizes[left]) + sizes[right.start] > rows_max


def test_2500_rows_are_batches_of_1000_1000_and_500() -> None:
    """P8: the numbers of the specification."""
    assert [piece.stop - piece.start for piece in cut([1] * 2_500, 1_000)] == [1_000, 1_000, 500]


def test_reports_count_values_by_the_day_on_which_it_happened() -> None:
    """P18: UTC, by event time; a datapoint without a value, or of another key, says nothing to them."""
    counts: Counter[Seen] = Counter()
    data = [("post.click", "p1"), ("post.click", "p1"), ("post.click", ""), ("other", "p1"), ("club.visit", "chess")]
    count_values(counts, data, partition=1, at_ms=86_399_999)
    assert {(seen.datapoint, seen.day.isoformat(), seen.partition, seen.value): count for seen, count in counts.items()} == {
        ("post.click", "1970-01-01", 1, "p1"): 2,
        ("club.visit", "1970-01-01", 1, "chess"): 1,
    }
