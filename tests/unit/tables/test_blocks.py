"""The bytes of a block hold its cells exactly, whatever they are, and its totals are those of a plain recount."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import NewerStateError
from streams.schemas import INT32
from streams.topics import BUCKET_OFFSETS
from tables.blocks import PROGRESS, BlockKey, Cells, Dimensions, decode_block, encode_block, newest, pack, unpack
from tests.support.strategies import randoms, texts

TOTAL = (INT32[0] * BUCKET_OFFSETS, INT32[1] * BUCKET_OFFSETS)
totals_of_a_bucket = st.one_of(st.integers(*TOTAL), st.sampled_from((0, -1, *TOTAL, *INT32)))
counts = st.integers(1, BUCKET_OFFSETS)


@st.composite
def some_cells(draw: st.DrawFn) -> tuple[Cells, int]:
    """Draw the cells of one block, with 1 to 4 dimensions, and the number of its sums, 0 to 3."""
    dimensions, sums = draw(st.integers(1, 4)), draw(st.integers(0, 3))
    keys = draw(st.lists(st.tuples(*[texts] * dimensions), min_size=1, max_size=12, unique=True))
    return {key: pack(draw(counts), *(draw(totals_of_a_bucket) for _ in range(sums))) for key in keys}, sums


@given(some_cells())
def test_decode_inverts_encode(drawn: tuple[Cells, int]) -> None:
    """A7 points 17, 18, 25: negative prices, sums of 64 bits and any Unicode come back, in the order of arrival."""
    cells, sums = drawn
    block = decode_block(encode_block(cells, sums=sums))
    assert list(block.cells().items()) == list(cells.items())
    assert len(block) == len(cells)


@given(st.lists(st.tuples(st.integers(*INT32), st.integers(*INT32), st.integers(*INT32)), max_size=50))
def test_packed_cells_add_like_their_parts(events: list[tuple[int, int, int]]) -> None:
    """One addition an event instead of four."""
    packed = sum(pack(1, *event) for event in events)
    assert unpack(packed, sums=3) == (len(events), *(sum(lane) for lane in zip(*events, strict=True))) if events else not packed


@pytest.mark.parametrize("price", INT32)
@pytest.mark.parametrize("sums", [1, 2, 3])
def test_whole_bucket_of_extreme_values_overflows_no_lane(price: int, sums: int) -> None:
    """A7 points 17, 18: 4,096 times the largest int32 is 44 bits; a lane that ran over would change its neighbour."""
    signs = [1, -1, 1][:sums]
    packed = pack(1, *(sign * price for sign in signs)) * BUCKET_OFFSETS
    assert unpack(packed, sums=sums) == (BUCKET_OFFSETS, *(sign * price * BUCKET_OFFSETS for sign in signs))
    block = decode_block(encode_block({("a",): packed}, sums=sums))
    assert block.totals({}) == (BUCKET_OFFSETS, *(sign * price * BUCKET_OFFSETS for sign in signs))


@pytest.mark.parametrize("values", [1, 255, 256, 257, BUCKET_OFFSETS])
def test_number_of_distinct_values_is_free(values: int) -> None:
    """A dictionary of more than 256 values needs two bytes a code; one byte would fold values into each other."""
    cells: Cells = {(f"origin {number}", "b"): pack(1, number) for number in range(values)}
    block = decode_block(encode_block(cells, sums=1))
    assert block.cells() == cells
    assert block.dimensions[0].codes.dtype == np.dtype("u1" if values <= 256 else "<u2")
    assert block.totals({0: f"origin {values - 1}"}) == (1, values - 1)


@given(randoms)
def test_totals_equal_a_plain_recount_for_every_combination_of_filters(random: Random) -> None:
    """A4, A7 points 10, 11: values that hold separators, "null" and "" are values like others."""
    values = ("", "null", "a_b", "a", "b|c", "None")
    cells: Cells = {}
    for _ in range(random.randint(1, 60)):
        key = tuple(random.choice(values[:5]) for _ in range(3))
        cells[key] = cells.get(key, 0) + pack(1, random.randint(*INT32))
    block = decode_block(encode_block(cells, sums=1))
    for size in range(4):
        for dimensions in combinations(range(3), size):
            filters = {dimension: random.choice(values) for dimension in dimensions}
            assert block.totals(filters) == recount(cells, filters), filters


def recount(cells: Cells, filters: dict[int, str]) -> tuple[int, int]:
    """Return count and sum of the cells that match, by a plain loop."""
    matching = [unpack(cell, sums=1) for key, cell in cells.items() if all(key[at] == value for at, value in filters.items())]
    return sum(count for count, _ in matching), sum(total for _, total in matching)


def test_totals_add_up_in_64_bits() -> None:
    """A7 point 18: numpy would add int32 columns in int32 on some machines."""
    cells: Cells = {(str(number),): pack(1, INT32[1]) for number in range(1000)}
    assert decode_block(encode_block(cells, sums=1)).totals({}) == (1000, 1000 * INT32[1])


@given(randoms)
def test_damaged_bytes_raise_value_error_and_nothing_else(random: Random) -> None:
    """A reader catches one exception; anything else would end the process over one record."""
    raw = bytearray(encode_block({("a", "é"): pack(2, -7), ("b", ""): pack(1, 2**40)}, sums=1))
    for _ in range(20):
        damaged = bytearray(raw)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        del damaged[random.choice((len(damaged), len(damaged), random.randrange(len(damaged)))) :]
        with suppress(ValueError, NewerStateError):  # a changed digit looks like a true one
            decode_block(bytes(damaged))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x01", b"\x20" + encode_block({("a",): 1}, sums=0)[1:]])
def test_unknown_format_is_refused(raw: bytes) -> None:
    """A worker of an older version must not read a newer block as something else."""
    with pytest.raises(ValueError, match="block"):
        decode_block(raw)


@given(st.integers(0, PROGRESS), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), randoms)
def test_keys_sort_like_their_parts(minute: int, bucket: int, through: int, random: Random) -> None:
    """A minute is a prefix scan, and the last version of a run is the newest."""
    key = BlockKey(minute, bucket, through)
    other = BlockKey(*(random.choice((part, random.randrange(2**32))) for part in key))
    assert BlockKey.decode(key.encode()) == key
    assert (key < other) == (key.encode() < other.encode())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))), randoms)
def test_newest_takes_the_greatest_through_in_any_order(parts: list[tuple[int, int, int]], random: Random) -> None:
    """The one rule of every reader; keys of another kind in the same store are no blocks."""
    keys = [BlockKey(*part).encode() for part in parts] + [b"__faust\0offset__", b""]
    random.shuffle(keys)
    expected: dict[tuple[int, int], int] = {}
    for minute, bucket, through in parts:
        expected[minute, bucket] = max(through, expected.get((minute, bucket), 0))
    assert newest(keys) == {pair: BlockKey(*pair, through).encode() for pair, through in expected.items()}


def test_dimensions_are_never_joined() -> None:
    """A7 point 11: ("a_b", "c") and ("a", "b_c") are two cells."""
    keys: list[Dimensions] = [("a_b", "c"), ("a", "b_c"), ("a|b", "c"), ("", "a_b_c")]
    block = decode_block(encode_block({key: pack(1, 1) for key in keys}, sums=1))
    assert list(block.cells()) == keys
