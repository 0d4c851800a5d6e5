"""However a run of records is cut into batches, the fold counts each valid one once and names each other one."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streams.codecs import Codec
from streams.errors import InvalidEventError, Reason
from streams.event_time import parse_instant
from streams.topics import USER_TAGS
from tables.blocks import Cells, Dimensions, encode_block, pack, unpack
from tables.fold import Fold, Refused
from tables.profiles import RowCodec
from tests.support.builders import a_record, a_user_tag, record_bytes
from tests.support.strategies import hostile, randoms, spelled, user_tags

CODEC = Codec(USER_TAGS)
ROWS = RowCodec(USER_TAGS)
FOLD = Fold(CODEC, ROWS)
BASE = 8_192


def folded(values: list[bytes | None], cuts: list[int]) -> tuple[dict[int, Cells], list[bytes], list[Refused]]:
    """Fold *values* in batches that end at the cuts."""
    minutes: dict[int, Cells] = {}
    rows: list[bytes] = []
    refused: list[Refused] = []
    for start, end in zip([0, *cuts], [*cuts, len(values)], strict=True):
        refused += FOLD.fold(values[start:end], BASE + start, minutes, rows)
    return minutes, rows, refused


def some_values(tags: list[dict[str, Any]], random: Random) -> list[bytes | None]:
    makers = (spelled, spelled, hostile)
    values: list[bytes | None] = [random.choice(makers)(random.choice(tags), random) for _ in range(random.randint(1, 40))]
    values.insert(random.randrange(len(values)), None)
    return values


@given(st.lists(user_tags, min_size=1, max_size=3), randoms)
def test_any_split_into_batches_gives_the_same_blocks_rows_and_refusals(tags: list[dict[str, Any]], random: Random) -> None:
    """A10, A7 point 20: batches are cut by Kafka's fetches, never twice in the same places."""
    values = some_values(tags, random)
    cuts = sorted(random.choices(range(len(values) + 1), k=random.randint(0, 5)))
    whole, split = folded(values, []), folded(values, cuts)
    assert split == whole
    blocks = [[(minute, encode_block(cells, sums=1)) for minute, cells in way[0].items()] for way in (whole, split)]
    assert blocks[0] == blocks[1]


@given(st.lists(user_tags, min_size=1, max_size=3), randoms)
def test_fold_equals_a_plain_recount_of_the_decoded_events(tags: list[dict[str, Any]], random: Random) -> None:
    """A4, A7 points 8, 14, 18, 20: no event is lost, counted twice or moved to another minute; equal events are two."""
    values = some_values(tags, random)
    minutes, rows, refused = folded(values, [])
    cells: dict[int, dict[Dimensions, tuple[int, int]]] = {}
    expected_refused, expected_rows = [], []
    for offset, raw in enumerate(values, BASE):
        try:
            event, at_ms = CODEC.decode(raw)
        except InvalidEventError as error:
            expected_refused.append(Refused(offset, error.reason, error.detail))
            continue
        key = (event.action, event.origin, event.product_info.brand_id, event.product_info.category_id)
        count, total = cells.setdefault(at_ms // 60_000, {}).get(key, (0, 0))
        cells[at_ms // 60_000][key] = (count + 1, total + event.product_info.price)
        expected_rows.append((event.cookie, event.action, at_ms, offset, event.time))
    unpacked = {minute: {key: unpack(cell, sums=1) for key, cell in packed.items()} for minute, packed in minutes.items()}
    assert unpacked == cells
    assert refused == expected_refused
    assert [ROWS.decode(*pair)[:5] for pair in zip(rows[::2], rows[1::2], strict=True)] == expected_rows


@given(user_tags, randoms)
def test_row_gives_back_the_event_as_received(tag: dict[str, Any], random: Random) -> None:
    """A2, A7 points 1, 2, 22: same time text, same JSON type of the product id, declared fields only."""
    _, rows, _ = folded([spelled(tag, random)], [])
    event = ROWS.event_of(ROWS.decode(*rows))
    assert event == tag
    assert type(event["product_info"]["product_id"]) is type(tag["product_info"]["product_id"])
    assert json.loads(record_bytes(event)) == tag


@given(user_tags)
def test_row_of_the_fold_is_the_row_of_the_codec(tag: dict[str, Any]) -> None:
    """The hot loop writes keys and values inline; a replay by the other way must meet the same key."""
    _, rows, _ = folded([record_bytes(tag)], [])
    assert ROWS.encode(ROWS.decode(*rows)) == tuple(rows)


def test_late_event_lands_in_its_own_minute() -> None:
    """A7 point 14: by event time, however late; there is no watermark and nothing closes."""
    minutes, _, _ = folded([a_record(time=f"2022-03-01T00:0{minute}:00Z") for minute in (5, 6, 0, 5)], [])
    first = parse_instant("2022-03-01T00:00:00Z") // 60_000
    assert {minute: [unpack(cell, sums=1)[0] for cell in cells.values()] for minute, cells in minutes.items()} == {
        first + 5: [2],
        first + 6: [1],
        first: [1],
    }


def test_boundaries_of_a_minute() -> None:
    """A4: :59.999 belongs to the minute, and so does :59.9999, which is cut and not rounded."""
    texts = ("2022-03-01T00:00:00.000Z", "2022-03-01T00:00:59.999Z", "2022-03-01T00:00:59.999999999Z", "2022-03-01T00:01:00Z")
    minutes, _, _ = folded([a_record(time=text) for text in texts], [])
    assert [unpack(cell, sums=1)[0] for cells in minutes.values() for cell in cells.values()] == [3, 1]


def test_same_tag_sent_twice_is_two_events() -> None:
    """A7 points 3, 20: no content is compared; only the offset tells events apart."""
    minutes, rows, _ = folded([a_record(price=7), a_record(price=7)], [])
    assert [list(cells.values()) for cells in minutes.values()] == [[pack(2, 14)]]
    assert len({*rows[::2]}) == 2


def test_refused_record_does_not_move_its_neighbours() -> None:
    """A1: offsets are identities; one slip and every row behind has another's key."""
    values = [a_record(), None, b"{", a_record(price="5"), a_record()]
    _, rows, refused = folded(values, [])
    assert [(item.offset - BASE, item.reason) for item in refused] == [
        (1, Reason.EMPTY),
        (2, Reason.NOT_JSON),
        (3, Reason.SCHEMA),
    ]
    assert [ROWS.decode(*pair).offset - BASE for pair in zip(rows[::2], rows[1::2], strict=True)] == [0, 4]


def test_profiles_can_be_left_out() -> None:
    """The setting `worker.profiles` saves half the work where nobody asks for profiles."""
    minutes: dict[int, Cells] = {}
    rows: list[bytes] = []
    assert not Fold(CODEC, rows=None).fold([a_record()], 0, minutes, rows)
    assert not rows
    assert [list(cells) for cells in minutes.values()] == [[("VIEW", "CAMPAIGN_321", "Ebros_Gift", "Trousers")]]


def test_unknown_fields_are_neither_stored_nor_counted() -> None:
    """A7 point 22."""
    _, rows, _ = folded([record_bytes({**a_user_tag(), "brand_id": "other", "debug": {"cookie": "x"}})], [])
    assert ROWS.event_of(ROWS.decode(*rows)) == a_user_tag()
