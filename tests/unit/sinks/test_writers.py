"""What the writers make of a record, and which of several they write: pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.batch import Batch, PositionLostError
from sinks.blocks import BlockWriter, greatest
from sinks.days import DayPartitions
from sinks.dead_letters import read_letter
from sinks.profiles import Range, RowWriter, Span, covered, distinct, newest_versions
from sinks.writers import Place
from streams.errors import NewerStateError
from streams.event_time import format_instant
from streams.topics import DEAD_LETTERS, USER_TAGS, changelog_of
from tables.blocks import PROGRESS, BlockKey, encode_block, pack
from tables.profiles import Row, RowCodec, SpanKey, encode_kept

DAY_MS = 86_400_000
TODAY_MS = 20_000 * DAY_MS + 5


class FixedClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return TODAY_MS

    def monotonic_s(self) -> float:
        return 0.0


@dataclass
class ARecord:
    """A Kafka record; what a test does not care about is filled in."""

    key: bytes | None = b""
    value: bytes | None = b""
    topic: str = changelog_of(USER_TAGS.blocks_table)
    partition: int = 0
    offset: int = 0
    timestamp: int = TODAY_MS
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)


DAYS = DayPartitions("minute_cells", days=7, clock=FixedClock())
BLOCKS = BlockWriter(USER_TAGS, DAYS)
ROWS = RowWriter(USER_TAGS, DAYS)
BLOCK = encode_block({("VIEW", "o", "b", "c"): pack(1, 5)}, sums=1)
OTHER_SHAPE = encode_block({("VIEW", "o"): pack(1, 5)}, sums=1)
HUGE = BlockKey(1, 2**64 - 1, 9).encode()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (BlockKey(1, 2, 3).encode(), None),
        (BlockKey(PROGRESS, 2, 3).encode(), b""),
        (b"keep-alive", b"x"),
        (None, BLOCK),
    ],
)
def test_tombstones_progress_and_keep_alives_say_nothing(key: bytes | None, value: bytes | None) -> None:
    """Postgres keeps what it has: the superseding version comes before the tombstone."""
    assert BLOCKS.accept(ARecord(key, value)) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [(BlockKey(1, 2, 3).encode(), value) for value in (b"", b"\x20", BLOCK[:-3], OTHER_SHAPE, b"\x01\x94\x00\x90\xc4\x00\x90")]
    + [(HUGE, BLOCK)],
)
def test_block_that_cannot_be_read_becomes_a_dead_letter_of_its_own_position(key: bytes, value: bytes) -> None:
    """Whatever bytes lie in the changelog, the sinks go on and say where."""
    pending = BLOCKS.accept(ARecord(key, value, partition=3, offset=9))
    assert pending is not None
    assert pending.content is None
    assert [(letter.partition, letter.offset, letter.reason) for letter in pending.refused] == [(3, 9, "bug")]


def test_block_of_a_later_format_stops_the_sinks() -> None:
    """It is whole, and only we cannot read it: put aside it would be missing in Postgres for good."""
    with pytest.raises(NewerStateError, match="a block has format 2"):
        BLOCKS.accept(ARecord(BlockKey(1, 2, 3).encode(), b"\x02" + BLOCK[1:]))


VERSIONS = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9))


@given(st.lists(VERSIONS, max_size=30), st.randoms())
def test_greatest_through_wins_in_any_order(keys: list[tuple[int, int, int, int]], random: st.DataObject) -> None:
    """By (partition, bucket, minute), whatever order the versions came in."""
    versions = []
    for partition, *key in keys:
        pending = BLOCKS.accept(ARecord(BlockKey(*key).encode(), BLOCK, partition=partition))
        assert pending is not None
        versions.append(pending.content)
    random.shuffle(versions)  # type: ignore[attr-defined]
    found = {
        (identity.partition, identity.minute, identity.bucket): one.key.through for identity, one in greatest(versions).items()
    }
    expected: dict[tuple[int, int, int], int] = {}
    for partition, minute, bucket, through in keys:
        expected[partition, minute, bucket] = max(through, expected.get((partition, minute, bucket), -1))
    assert found == expected


def a_row(offset: int) -> Row:
    """Return a row of an offset."""
    return Row("u", "VIEW", offset, offset, format_instant(offset), ("CL", "PC", "o", 1, "b", "c", 5))


def a_span(partition: int, first: int, last: int) -> Span:
    """Return the span of all events of a range; events of offsets that three divides were dead letters."""
    rows = [a_row(offset) for offset in range(first, last + 1) if offset % 3]
    return Span(partition, SpanKey(first, last), DAYS.arrival_day(TODAY_MS), rows)


SPANS = st.lists(
    st.builds(lambda p, first, more: a_span(p, first, first + more), st.integers(0, 1), st.integers(0, 30), st.integers(0, 9))
)


@given(SPANS)
def test_overlapping_spans_give_each_row_once(spans: list[Span]) -> None:
    """A worker that starts again cuts its spans otherwise; each holds all rows of its offsets."""
    found = [(span.partition, row.offset) for span, row in distinct(spans)]
    assert found == sorted({(span.partition, row.offset) for span in spans for row in span.rows})


@given(SPANS)
def test_ranges_cover_what_the_spans_cover_and_nothing_else(spans: list[Span]) -> None:
    """What is deleted is what is written again: a gap may hold rows of a span that was written before."""
    ranges = list(covered(spans))
    offsets = [(range_.partition, offset) for range_ in ranges for offset in range(range_.first, range_.last + 1)]
    assert offsets == sorted({(span.partition, n) for span in spans for n in range(span.key.first, span.key.last + 1)})


def test_touching_spans_are_one_range() -> None:
    """At low traffic a transaction holds dozens of small spans: one DELETE for all of them."""
    assert list(covered([a_span(0, 5, 9), a_span(0, 0, 4), a_span(0, 11, 12)])) == [Range(0, 0, 9), Range(0, 11, 12)]


def test_damaged_row_of_a_span_leaves_the_others() -> None:
    """The dead letter has the position of the event in the source topic."""
    codec = RowCodec(USER_TAGS)
    good, bad = codec.encode(a_row(1)), codec.encode(a_row(2))
    value = encode_kept([*good, bad[0], b"\xc1"])
    record = ARecord(SpanKey(1, 2).encode(), value, topic=changelog_of(USER_TAGS.rows_table), partition=1)
    pending = ROWS.accept(record)
    assert pending is not None
    assert [row.offset for row in pending.content.rows] == [1]
    assert [(one.topic, one.partition, one.offset) for one in pending.refused] == [(USER_TAGS.topic, 1, 2)]


@pytest.mark.parametrize("value", [None, b""])
def test_a_record_without_a_value_says_nothing(value: bytes | None) -> None:
    """A tombstone of a changelog is no row."""
    assert ROWS.accept(ARecord(SpanKey(0, 1).encode(), value)) is None


def test_a_span_whose_rows_were_all_erased_covers_its_offsets() -> None:
    """Written under its old key, it takes the rows out of Postgres that the older version has put there."""
    pending = ROWS.accept(ARecord(SpanKey(3, 9).encode(), b"\x90"))
    assert pending is not None
    assert list(covered([pending.content])) == [Range(0, 3, 9)]
    assert pending.rows == 0


def test_of_two_versions_of_a_span_the_later_is_written() -> None:
    """Both may be polled at once: rows that an erasure has left out must not come from the older one."""
    row = Row("ann", "VIEW", 0, 5, format_instant(0), ("PL", "PC", "o", 1, "b", "c", 2))
    older, newer = (
        Span(0, SpanKey(3, 9), DAYS.arrival_day(TODAY_MS), [row]),
        Span(0, SpanKey(3, 9), DAYS.arrival_day(TODAY_MS), []),
    )
    assert newest_versions([older, newer]) == [newer]


@given(
    st.lists(st.tuples(st.sampled_from(["topic", "partition", "offset", "reason", "x\0"]), st.none() | st.binary(max_size=25)))
)
def test_any_headers_give_a_row_that_postgres_takes(headers: list[tuple[str, bytes | None]]) -> None:
    """Dead letters are what went wrong already: nothing about them may go wrong again."""
    letter = read_letter(ARecord(topic=DEAD_LETTERS, partition=1, offset=2, headers=headers), at_ms=0)
    texts = (letter.topics, letter.reasons, letter.details, letter.stages, letter.headers)
    assert not any("\0" in text or "\\u0000" in text for text in texts)
    assert 0 <= letter.partitions < 2**31
    assert 0 <= letter.offsets < 2**63


@pytest.mark.parametrize(("length", "topic"), [(1, "ü"), (249, "ü" * 249), (250, DEAD_LETTERS), (0, DEAD_LETTERS)])
def test_dead_letter_whose_topic_is_none_has_its_own_place(length: int, topic: str) -> None:
    """The topic is in the primary key, which takes 2,704 bytes: a longer one would stop the sinks for good."""
    headers = [("topic", ("ü" * length).encode()), ("partition", b"1"), ("offset", b"7")]
    letter = read_letter(ARecord(topic=DEAD_LETTERS, partition=1, offset=7, headers=list(headers)), at_ms=0)
    assert (letter.topics, letter.partitions, letter.offsets) == (topic, 1, 7)


def test_batch_leaves_out_what_postgres_has_and_refuses_a_gap() -> None:
    """Below the floor another has written it; above it, records between would be lost."""
    place = Place(BLOCKS.topic, 0)
    batch = Batch(start={place: 10})
    for offset in (10, 12, 15):
        batch.take(ARecord(BlockKey(1, 2, offset).encode(), BLOCK, offset=offset), BLOCKS)
    assert [item.offset for item in batch.due(BLOCKS.topic, {place: 12})] == [12, 15]
    batch.check({place: 10})
    batch.check({place: 99})
    with pytest.raises(PositionLostError):
        batch.check({place: 9})
    assert batch.next().start == {place: 16}
    assert batch.rows == 3


@given(st.integers(-1, 2**63 - 1))
def test_arrival_day_is_one_that_is_kept(timestamp_ms: int) -> None:
    """A wild timestamp must not make a partition that is never dropped, or one that is dropped at once."""
    day = DAYS.arrival_day(timestamp_ms)
    assert DAYS.kept_from <= day
    assert (day - DAYS.arrival_day(-1)).days <= 2


def test_arrival_day_is_that_of_the_record() -> None:
    """UTC, whatever time the event itself has."""
    today = DAYS.arrival_day(-1)
    assert [(today - DAYS.arrival_day(TODAY_MS + shift)).days for shift in (0, -6, -DAY_MS, DAY_MS)] == [0, 1, 1, -1]
