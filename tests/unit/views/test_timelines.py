"""A timeline is what was submitted for one user, the newest first, within a bound that no submission can break."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import pytest

from streams.codecs import Codec
from streams.topics import EVENTS
from tables.blocks import Minutes
from tables.duplicates import duplicate_key
from tables.fold import Fold
from tables.profiles import INDEX, ORDER, RowCodec
from tables.registry import StreamTables
from tests.support.builders import a_submission, record_bytes
from tests.unit.views.test_profiles import StoredRows
from views import timelines
from views.queries import ALL_TIMES, BadQueryError, ProfileQuery, parse_aggregates, parse_timeline
from views.timelines import format_timeline, partition_timeline

CODEC = RowCodec(EVENTS)
FOLD = Fold(Codec(EVENTS), CODEC)


@dataclass
class Table:
    data: StoredRows


def tables_of(*submissions: dict[str, Any]) -> StreamTables:
    """Return tables whose partition 3 has the rows of submissions."""
    rows: list[bytes] = []
    assert not FOLD.fold([record_bytes(submission) for submission in submissions], 0, Minutes(), rows)
    stored = dict(zip(rows[::2], rows[1::2], strict=True))
    stored |= {INDEX + b"ann\0id" + bytes(ORDER.size): b"", duplicate_key(7): b""}
    return StreamTables(EVENTS, cast("Any", None), Table(StoredRows({3: stored})))


def timeline(tables: StreamTables, user: str, query: str = "") -> dict[str, Any]:
    return format_timeline(CODEC, parse_timeline(user, query), [partition_timeline(tables, CODEC, 3, user)])


def test_timeline_has_both_kinds_newest_first_with_open_properties() -> None:
    """Issue 7.1: as submitted; the index beside the rows is not shown."""
    event = a_submission("signed_up", kind="EVENT", user="ann", id="1", properties='{"properties":{"plan":"pro"}}')
    older = a_submission("a", "b", user="ann", id="2", time="2022-03-01T00:00:00.000Z")
    newer = a_submission(user="ann", id="3", time="2022-03-01T00:00:01.000Z", properties="no JSON")
    answer = timeline(tables_of(event, older, newer, a_submission(user="anna")), "ann")
    assert answer == {
        "user": "ann",
        "events": [event | {"properties": {"properties": {"plan": "pro"}}}],
        "transactions": [newer, older | {"properties": {}}],
        "complete": True,
    }
    json.dumps(answer)


def test_timeline_is_cut_where_there_is_no_room_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 submissions of 4 MB each would be the memory of a worker."""
    monkeypatch.setattr(timelines, "ROWS_BYTES_MAX", 1_000)
    big = [a_submission("k" * 200, user="ann", id=str(number), time=f"2022-03-01T00:00:0{number}Z") for number in range(5)]
    answer = timeline(tables_of(*big), "ann")
    assert [shown["id"] for shown in answer["transactions"]] == ["4", "3"]
    assert not answer["complete"]


def test_time_range_and_limit_choose() -> None:
    """As of a profile."""
    times = [f"2022-03-01T00:00:0{second}Z" for second in range(5)]
    tables = tables_of(*(a_submission(user="ann", id=str(number), time=time) for number, time in enumerate(times)))
    query = "time_range=2022-03-01T00:00:01_2022-03-01T00:00:04&limit=2"
    assert [shown["id"] for shown in timeline(tables, "ann", query)["transactions"]] == ["3", "2"]
    assert parse_timeline("ann", "") == ProfileQuery("ann", *ALL_TIMES, 200)


def test_aggregates_of_submissions_need_no_kind() -> None:
    """Products ask for a datapoint, whatever the kind; tags ask for an action, as their specification says."""
    query = parse_aggregates(
        EVENTS, "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&datapoint=a&aggregates=COUNT", all_kinds=True
    )
    assert dict(query.filters) == {"datapoint": "a"}
    with pytest.raises(BadQueryError, match="kind is 'PAGE'"):
        parse_aggregates(
            EVENTS, "time_range=2022-03-01T00:00:00_2022-03-01T00:01:00&kind=PAGE&aggregates=COUNT", all_kinds=True
        )
