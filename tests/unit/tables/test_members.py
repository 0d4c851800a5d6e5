"""A stream whose events have members counts each of them, and no number of them makes a block that Kafka does not take."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.codecs import Codec
from streams.topics import EVENTS
from tables import blocks
from tables.blocks import OTHERS, BlockKey, Cells, Minutes, OpenBucket, decode_block, encode_block
from tables.fold import Fold
from tables.profiles import RowCodec, SpanKey, decode_span, encode_spans
from tests.support.builders import a_submission, record_bytes

MINUTE = 27_434_880
FOLD = Fold(Codec(EVENTS), RowCodec(EVENTS))


def folded(*values: bytes) -> Minutes:
    minutes = Minutes()
    assert not FOLD.fold(values, 0, minutes, [])
    return minutes


def test_each_datapoint_counts_under_its_own_key() -> None:
    """P18: usage is counted by datapoint; two of one key in one submission are two."""
    minutes = folded(record_bytes(a_submission("a", "b", "a")), record_bytes(a_submission("b", product="WEB", kind="EVENT")))
    block = decode_block(encode_block(minutes[MINUTE], sums=0))
    assert block.cells() == {
        ("TRANSACTION", "MOBILE_IOS", "a"): 2,
        ("TRANSACTION", "MOBILE_IOS", "b"): 1,
        ("EVENT", "WEB", "b"): 1,
    }
    assert block.totals({}) == (4,)
    assert block.totals({2: "b"}) == (2,)
    assert block.totals({0: "EVENT", 1: "MOBILE_IOS"}) == (0,)


def test_run_without_any_datapoint_makes_no_block() -> None:
    """A block of no cell has no bytes; the row tells of the submission."""
    assert folded(record_bytes(a_submission())) == {}


def many_keys(count: int) -> Iterator[bytes]:
    """Yield submissions of 100 keys each that no other has."""
    for first in range(0, count, 100):
        yield record_bytes(a_submission(*(f"key-{number}" for number in range(first, first + 100))))


@pytest.mark.parametrize(("keys", "width"), [(200, 1), (300, 2), (70_000, 4)])
def test_column_of_any_number_of_values_is_given_back(keys: int, width: int) -> None:
    """One submission has up to 10,000 datapoints, so a bucket has more values than two bytes number."""
    minutes = folded(*many_keys(keys))
    block = decode_block(encode_block(minutes[MINUTE], sums=0))
    assert block.cells() == minutes[MINUTE]
    assert block.dimensions[2].codes.itemsize == width


def test_count_of_any_size_is_given_back() -> None:
    """4,096 submissions of 10,000 equal datapoints are one cell."""
    cells: Cells = {("EVENT", "A", "k"): 40_960_000, ("EVENT", "A", "l"): 1}
    assert decode_block(encode_block(cells, sums=0)).cells() == cells


def test_bucket_of_endless_keys_stays_within_one_kafka_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names each datapoint anew loses the names of the last ones, and no count: blocks of a bucket go out together."""
    monkeypatch.setattr(blocks, "CHARACTERS_MAX", 4_000)
    minutes = folded(*many_keys(1_000))
    cells = minutes[MINUTE]
    assert sum(cells.values()) == 1_000
    assert cells["TRANSACTION", "MOBILE_IOS", OTHERS] == 1_000 - (len(cells) - 1) > 0
    assert minutes.characters <= 4_000


@given(st.integers(1, 5), st.integers(0, 6))
def test_bucket_seeded_in_the_middle_has_the_room_of_one_folded_whole(runs: int, before: int) -> None:
    """What has room is a function of the cells, so a new owner leaves out what the former one would have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHARACTERS_MAX", 3_000)
        values = list(many_keys(100 * (before + runs)))
        whole, first = folded(*values), folded(*values[:before]) if before else Minutes()
        seeded = OpenBucket(0, sums=0)
        stored = [
            (BlockKey(minute, 0, before - 1), decode_block(encode_block(cells, sums=0))) for minute, cells in first.items()
        ]
        seeded.seed(stored, through=before - 1)
        FOLD.fold(values[before:], before, seeded.minutes, [])
        assert seeded.minutes == whole
        assert seeded.minutes.characters == whole.characters
        assert [*seeded.minutes[MINUTE]] == [*whole[MINUTE]]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 60)), min_size=1, max_size=40))
def test_rows_of_one_offset_lie_in_one_span(rows_at: list[tuple[int, int]]) -> None:
    """Two spans of one key would be two values of it, and compaction would keep one."""
    inverse = (1 << 63) - 1
    rows: list[bytes] = []
    for offset, (count, size) in enumerate(rows_at):
        for number in range(count):
            rows += [b"u\0T" + bytes([number] * 8) + (inverse - offset).to_bytes(8, "big"), bytes(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tables.profiles.SPAN_BYTES_MAX", 120)
        patch.setattr("tables.profiles.SPAN_ROWS_MAX", 7)
        spans = list(encode_spans(rows))
    keys = [SpanKey.decode(key) for key, _ in spans]
    assert all(first.last < second.first for first, second in pairwise(keys))
    assert [part for _, value in spans for pair in decode_span(value) for part in pair] == rows
