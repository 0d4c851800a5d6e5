"""The bytes that stand in changelogs and on disks of running jobs: they are read for as long as such a job lives.

Never delete or regenerate a file of `tests/golden/`. A change that breaks one of these tests needs a new format byte, a file
of its own beside the old one, and a reader of both.
"""

from __future__ import annotations

from pathlib import Path

from streams.codecs import Codec
from streams.topics import USER_TAGS
from tables.blocks import BlockKey, Minutes, OpenBucket, Record, decode_block, pack
from tables.fold import Fold
from tables.profiles import RowCodec, decode_span, encode_spans
from tests.support.builders import a_record

GOLDEN = Path(__file__).parents[2] / "golden"
VALUES = [
    a_record(),
    a_record(time="2022-03-01T00:00:00.649123Z", product_id="12486", price=-(2**31)),
    a_record(time="2022-03-01T00:01:59Z", action="BUY", origin="", brand_id="Zażółć", price=2**31 - 1),
    b"not an event",
    a_record(cookie="😀"),
]


def fold() -> tuple[Minutes, list[bytes]]:
    minutes = Minutes()
    rows: list[bytes] = []
    Fold(Codec(USER_TAGS), RowCodec(USER_TAGS)).fold(VALUES, 8192, minutes, rows)
    return minutes, rows


def lines_of(name: str) -> list[tuple[bytes, bytes]]:
    """Return the records of a golden file: a line each, key and value in hexadecimal."""
    lines = (GOLDEN / name).read_text().splitlines()
    return [(bytes.fromhex(key), bytes.fromhex(value)) for key, _, value in (line.partition(" ") for line in lines)]


def test_blocks_of_version_1_are_written_byte_for_byte() -> None:
    """Equal key means equal bytes across releases too: a worker of each may write during an upgrade."""
    bucket = OpenBucket(2, sums=1, minutes=fold()[0])
    records: list[Record] = bucket.emit(8196, stored=lambda first, second: [])
    assert records == lines_of("block.v1.hex")


def test_blocks_of_version_1_are_read() -> None:
    """A job restarted with this release finds the counts of the last."""
    blocks = [(BlockKey.decode(key), value) for key, value in lines_of("block.v1.hex")]
    assert [key for key, _ in blocks] == [(27434880, 2, 8196), (27434881, 2, 8196), (0xFFFF_FFFF, 2, 8196)]
    first, second = (decode_block(value) for _, value in blocks[:2])
    assert first.cells() == {("VIEW", "CAMPAIGN_321", "Ebros_Gift", "Trousers"): pack(3, 2 * 28969 - 2**31)}
    assert second.cells() == {("BUY", "", "Zażółć", "Trousers"): pack(1, 2**31 - 1)}
    assert blocks[2][1] == b""


def test_rows_of_version_1_are_written_byte_for_byte() -> None:
    """A row under another key would show an event twice after a replay."""
    (key, value), *others = encode_spans(fold()[1])
    assert not others
    assert [(key, value), *decode_span(value)] == lines_of("rows.v1.hex")


def test_rows_of_version_1_are_read() -> None:
    """A job restarted with this release finds the profiles of the last."""
    codec = RowCodec(USER_TAGS)
    rows = [codec.decode(*pair) for pair in lines_of("rows.v1.hex")[1:]]
    assert [(row.user, row.kind, row.offset, row.time) for row in rows] == [
        ("9WkYGxkiXBfpMIjBGURC", "VIEW", 8192, "2022-03-01T00:00:00.649Z"),
        ("9WkYGxkiXBfpMIjBGURC", "VIEW", 8193, "2022-03-01T00:00:00.649123Z"),
        ("9WkYGxkiXBfpMIjBGURC", "BUY", 8194, "2022-03-01T00:01:59Z"),
        ("😀", "VIEW", 8196, "2022-03-01T00:00:00.649Z"),
    ]
    assert rows[1].kept == ("CL", "MOBILE", "CAMPAIGN_321", "12486", "Ebros_Gift", "Trousers", -(2**31))
