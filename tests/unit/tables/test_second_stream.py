"""A second stream is a declaration and not a copy: other names, other dimensions and sums go through the same code."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from streams.codecs import Codec
from streams.errors import Reason
from streams.event_time import parse_instant
from streams.schemas import EventSchema, Instant, Text
from streams.topics import Stream
from tables.blocks import Minutes, OpenBucket, decode_block, encode_block, pack
from tables.fold import Fold
from tables.profiles import RowCodec
from tests.support.builders import record_bytes

Int32 = Annotated[int, Field(strict=True, ge=-(2**31), le=2**31 - 1)]


class Page(EventSchema):
    section: Text


class Request(EventSchema):
    page: Page
    bytes_sent: Int32


class VisitV1(EventSchema):
    seen: Instant
    visitor: Text
    outcome: Literal["ok", "failed"]
    request: Request
    wait_ms: Int32


def a_stream(**overrides: Any) -> Stream:
    declared: dict[str, Any] = {
        "topic": "visits.v1",
        "schema": VisitV1,
        "key": "visitor",
        "time": "seen",
        "kind": "outcome",
        "kinds": {"ok": b"K", "failed": b"F"},
        "dimensions": {"section": "request.page.section", "outcome": "outcome"},
        "sums": {"bytes": "request.bytes_sent", "wait": "wait_ms"},
        "kept": ("request.page.section", "request.bytes_sent", "wait_ms"),
        "blocks_table": "visit-blocks",
        "rows_table": "visitors",
        "cells_sql": "visit_cells",
        "events_sql": "visits",
        "user_sql": "visitor",
    }
    return Stream(**{**declared, **overrides})


def a_visit(section: str, *, sent: int = 0, wait: int = 0, outcome: str = "ok", second: str = "00.5") -> dict[str, Any]:
    request = {"page": {"section": section}, "bytes_sent": sent}
    return {"seen": f"2030-01-01T10:00:{second}Z", "visitor": "ann", "outcome": outcome, "request": request, "wait_ms": wait}


VISITS = [
    a_visit("news", sent=100, wait=-3),
    a_visit("news", sent=-(2**31), wait=2**31 - 1),
    a_visit("a_b", outcome="failed"),
    a_visit("news", outcome="failed", second="59.999999999"),
]


def fold(stream: Stream) -> tuple[Minutes, list[bytes]]:
    minutes = Minutes()
    rows: list[bytes] = []
    assert not Fold(Codec(stream), RowCodec(stream)).fold([record_bytes(visit) for visit in VISITS], 0, minutes, rows)
    return minutes, rows


def test_two_dimensions_and_two_sums_make_blocks() -> None:
    """Issue 3, point 2: nothing below the declaration knows a field's name."""
    minutes, _ = fold(a_stream())
    (minute, cells), *others = minutes.items()
    assert (minute, others) == (parse_instant("2030-01-01T10:00:00Z") // 60_000, [])
    block = decode_block(encode_block(cells, sums=2))
    assert block.totals({}) == (4, 100 - 2**31, 2**31 - 4)
    assert block.totals({0: "news"}) == (3, 100 - 2**31, 2**31 - 4)
    assert block.totals({0: "news", 1: "failed"}) == (1, 0, 0)
    assert block.cells() == cells


def test_open_bucket_sends_blocks_of_two_sums() -> None:
    """The same law holds for them: the bytes sent are those of the cells."""
    bucket = OpenBucket(0, sums=2)
    bucket.minutes = fold(a_stream())[0]
    (_, value), *_ = bucket.emit(3, stored=lambda first, second: [])
    assert value == encode_block(next(iter(bucket.minutes.values())), sums=2)


def test_rows_give_back_the_events_as_nested() -> None:
    """A profile's answer shows what the producer sent, in its own shape."""
    stream = a_stream()
    codec = RowCodec(stream)
    _, rows = fold(stream)
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    assert [codec.event_of(codec.decode(*pair)) for pair in pairs] == VISITS
    assert all(codec.encode(codec.decode(*pair)) == pair for pair in pairs)


@pytest.mark.parametrize(
    "sums", [{}, {"wait": "wait_ms"}, {"bytes": "request.bytes_sent", "wait": "wait_ms", "again": "wait_ms"}]
)
@pytest.mark.parametrize(
    "dimensions", [{"section": "request.page.section"}, {"section": "request.page.section", "outcome": "outcome"}]
)
@pytest.mark.parametrize("kept", [(), ("wait_ms",)])
def test_number_of_dimensions_sums_and_kept_fields_is_free(
    sums: dict[str, str], dimensions: dict[str, str], kept: tuple[str, ...]
) -> None:
    """One of each is where a getter gives a bare value instead of a tuple, and a text would be taken for its letters."""
    stream = a_stream(sums=sums, dimensions=dimensions, kept=kept)
    minutes, rows = fold(stream)
    block = decode_block(encode_block(next(iter(minutes.values())), sums=len(sums)))
    by_name = {"bytes": 100 - 2**31, "wait": 2**31 - 4, "again": 2**31 - 4}
    assert block.totals({}) == (4, *(by_name[name] for name in sums))
    assert block.totals({0: "news"})[0] == 3
    codec = RowCodec(stream)
    assert [codec.decode(*pair).kept for pair in zip(rows[::2], rows[1::2], strict=True)] == [
        tuple(visit[path] for path in kept) for visit in VISITS
    ]


def test_stream_without_dimensions_counts_into_one_cell() -> None:
    """A plain counter a minute is a declaration like others."""
    minutes, _ = fold(a_stream(dimensions={}, sums={"wait": "wait_ms"}))
    assert list(minutes.values()) == [{(): pack(4, 2**31 - 4)}]
    block = decode_block(encode_block(minutes.popitem()[1], sums=1))
    assert block.totals({}) == (4, 2**31 - 4)
    assert block.cells() == {(): pack(4, 2**31 - 4)}


def test_refusals_name_the_streams_own_fields() -> None:
    """The detail is for the producer of that stream."""
    bad = json.loads(json.dumps(VISITS[0]))
    bad["request"]["page"]["section"] = 5
    (refused,) = Fold(Codec(a_stream()), rows=None).fold([record_bytes(bad)], 9, {}, [])
    assert (refused.offset, refused.reason) == (9, Reason.SCHEMA)
    assert refused.detail.startswith("request.page.section: ")
