"""A worker says where an event is by what its stores hold, and stays cheap however much they hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.event_time import parse_instant
from streams.topics import BUCKET_OFFSETS, EVENTS, USER_TAGS, Stream
from tables.blocks import PROGRESS, BlockKey
from tables.duplicates import duplicate_key
from tables.profiles import NEWEST_MAX, Row, RowCodec
from tables.registry import StreamTables
from tests.support.stores import opened, some_tables
from views import events
from views.queries import BadQueryError, EventAt, EventOf, parse_event

MINUTE = 27_434_880
TIME = "2022-03-01T00:00:07.250Z"
AT_MS = parse_instant(TIME)
KEPT = ("PL", "PC", "o", 1, "b", "c", 5)


class Stored:
    """The product's tables with what a test puts into them, and a consumer that knows the log's end."""

    def __init__(self, home: Path, *, end: int | None = 6000, stream: Stream = USER_TAGS) -> None:
        tables = some_tables(home, stream)
        self.consumer = SimpleNamespace(highwater=lambda tp: end)
        blocks = SimpleNamespace(data=tables.block_store, app=SimpleNamespace(consumer=self.consumer))
        self.tables = StreamTables(stream, cast("Any", blocks), tables.rows)
        self.blocks, self.rows = opened(tables.block_store), opened(cast("Any", tables.row_store))
        self.codec = RowCodec(stream)

    def put_blocks(self, *keys: tuple[int, int, int]) -> None:
        for key in keys:
            self.blocks.put(BlockKey(*key).encode(), b"")

    def put_row(self, offset: int, *, at_ms: int = AT_MS, kind: str = "VIEW", user: str = "ann") -> None:
        self.rows.put(*self.codec.encode(Row(user, kind, at_ms, offset, TIME, KEPT)))

    async def at(self, offset: int) -> dict[str, Any]:
        query = EventAt(0, offset)
        return events.format_at(query, await events.find_at(self.tables, query))

    def of(self, user: str = "ann", at_ms: int = AT_MS) -> dict[str, Any]:
        query = EventOf(user, at_ms)
        return events.format_of(query, events.find_of(self.tables, self.codec, query, [0]))


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path)


async def test_position_is_in_the_blocks_of_its_bucket_that_reach_it(stored: Stored) -> None:
    """Of each minute the greatest `through`; a block that ends before the offset cannot hold it."""
    stored.put_blocks((MINUTE, 0, 4095), (MINUTE, 1, 5000), (MINUTE, 1, 5100), (MINUTE + 1, 1, 4999), (MINUTE + 2, 0, 4095))
    stored.put_blocks((MINUTE + 3, 1, 5099), (MINUTE + 3, 2, 9000), (PROGRESS, 1, 5100))
    stored.blocks.put(b"__faust\0offset__", b"17")
    answer = await stored.at(5000)
    assert (answer["state"], answer["bucket"], answer["counted"], answer["lag"]) == ("counted", 1, 5101, 899)
    assert answer["blocks"] == [
        {"minute": "2022-03-01T00:00:00", "through": 5100},
        {"minute": "2022-03-01T00:03:00", "through": 5099},
    ]
    assert answer["complete"]


async def test_duplicate_is_told_from_its_neighbours_by_its_row(tmp_path: Path) -> None:
    """Blocks reach it and hold nothing of it; of a stream without ids nothing is said."""
    stored = Stored(tmp_path / "events", stream=EVENTS)
    stored.put_blocks((MINUTE, 1, 5100), (PROGRESS, 1, 5100))
    for offset in (4999, 5001):
        stored.rows.put(duplicate_key(offset), b"")
    assert [(await stored.at(offset))["duplicate"] for offset in (4998, 4999, 5000, 5001, 5002)] == [
        False, True, False, True, False,
    ]  # fmt: skip
    assert "duplicate" not in await Stored(tmp_path / "tags").at(5000)


async def test_position_past_the_progress_waits_and_past_the_end_was_never_written(stored: Stored) -> None:
    """What is in memory only is not counted: a next owner would not have it."""
    stored.put_blocks((MINUTE, 1, 5100), (PROGRESS, 1, 5100))
    assert (await stored.at(5101))["state"] == "waiting"
    assert (await stored.at(5101))["blocks"] == []
    assert (await stored.at(6000))["state"] == "beyond_end"


async def test_an_unknown_end_is_not_guessed(tmp_path: Path) -> None:
    """Before the first fetch of a partition nobody has told the worker where it ends."""
    answer = await Stored(tmp_path, end=None).at(10**9)
    assert (answer["state"], answer["log_end"], answer["lag"]) == ("waiting", None, None)


async def test_many_minutes_are_looked_at_in_slices_and_not_without_end(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody may ask, and the agent shares the loop: past the limit the answer says that it is not whole."""
    stored.put_blocks(*((MINUTE + number, number % 3, 3 * BUCKET_OFFSETS) for number in range(300)))
    stored.put_blocks((PROGRESS, 2, 3 * BUCKET_OFFSETS))
    monkeypatch.setattr(events, "STEPS_MAX", 7)
    whole = await stored.at(BUCKET_OFFSETS)
    assert len(whole["blocks"]) == 100 and whole["complete"]
    monkeypatch.setattr(events, "SLICES_MAX", 3)
    assert not (await stored.at(BUCKET_OFFSETS))["complete"]
    monkeypatch.setattr(events, "BLOCKS_SHOWN_MAX", 5)
    assert len((await stored.at(BUCKET_OFFSETS))["blocks"]) <= 5


def test_user_and_time_give_every_position_of_that_millisecond(stored: Stored) -> None:
    """Of every kind; another millisecond and another user are not meant."""
    stored.put_row(10)
    stored.put_row(4100, kind="BUY")
    stored.put_row(11, at_ms=AT_MS + 1)
    stored.put_row(12, at_ms=AT_MS - 1)
    stored.put_row(13, user="anna")
    minute = AT_MS // 60_000
    stored.put_blocks((minute, 0, 4095), (minute, 1, 4099), (PROGRESS, 1, 4150))
    answer = stored.of()
    text = "2022-03-01T00:00:00"
    assert answer["events"] == [
        {"partition": 0, "offset": 4100, "minute": text, "through": None, "bucket": 1},
        {"partition": 0, "offset": 10, "minute": text, "through": 4095, "bucket": 0},
    ]
    assert (answer["state"], answer["complete"]) == ("counted", True)
    assert answer["partitions"] == [{"partition": 0, "counted": 4151, "log_end": 6000, "lag": 1849}]


def test_a_row_without_its_block_waits(stored: Stored) -> None:
    """Rows are stored at once, the open bucket's blocks about once a second."""
    stored.put_row(10)
    stored.put_blocks((PROGRESS, 0, 9))
    assert stored.of()["state"] == "waiting"


def test_nothing_found_is_a_proof_only_without_lag_and_without_newer_rows(tmp_path: Path) -> None:
    """Only the newest rows of a user are kept, and what waits is not there yet."""
    stored = Stored(tmp_path, end=300)
    stored.put_blocks((PROGRESS, 0, 298))
    assert stored.of()["state"] == "waiting"
    stored.put_blocks((PROGRESS, 0, 299))
    answer = stored.of()
    assert (answer["state"], answer["events"], answer["complete"]) == ("not_found", [], True)
    for offset in range(NEWEST_MAX):
        stored.put_row(offset, at_ms=AT_MS + 1 + offset)
    assert not stored.of()["complete"]
    assert stored.of(at_ms=AT_MS + 1)["complete"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("partition=3&offset=17", EventAt(3, 17)),
        (f"offset={2**63 - 1}&partition=00", EventAt(0, 2**63 - 1)),
        (f"cookie=%C5%BC+%26&time={TIME}", EventOf("ż &", AT_MS)),
        ("cookie=&time=2022-03-01T00:00:07.2509999Z", EventOf("", AT_MS)),
    ],
)
def test_question_is_read(query: str, expected: EventAt | EventOf) -> None:
    """By position, or by user and time; digits past the millisecond do not count, as in an event."""
    assert parse_event(USER_TAGS, query, partitions=4) == expected


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "partition and offset are needed, or cookie and time"),
        ("partition=4&offset=0", "partition is '4': a whole number from 0 to 3"),
        ("partition=0&offset=-1", "offset is '-1'"),
        ("partition=0&offset=%C2%B2", "offset is"),
        (f"partition=0&offset={2**63}", "offset is"),
        ("partition=0&offset=1&partition=0", "partition is needed once"),
        ("cookie=a&time=2022-03-01T00:00:00", "time is"),
        ("cookie=a", "are needed"),
    ],
)
def test_what_is_no_question_is_refused_in_one_sentence(query: str, said: str) -> None:
    with pytest.raises(BadQueryError, match=said):
        parse_event(USER_TAGS, query, partitions=4)
