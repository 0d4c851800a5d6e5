"""The queries of the generator of load, and which answers have the right shape."""

from __future__ import annotations

import random

import pytest

from load.queries import draw_aggregates, draw_profile, is_profile
from streams.event_time import parse_instant
from tests.support.builders import a_user_tag, record_bytes

MINUTE = 27_434_880


def a_profile(**parts: object) -> bytes:
    """Return the bytes of a right profile, or of one with other *parts*."""
    views = [a_user_tag(time="2022-03-01T00:00:02Z"), a_user_tag(time="2022-03-01T00:00:01.5Z")]
    return record_bytes({"cookie": "c", "views": views, "buys": [a_user_tag(action="BUY")]} | parts)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        a_profile(cookie="d"),
        a_profile(views=None),
        a_profile(more=1),
        a_profile(buys=[a_user_tag()]),
        a_profile(views=[a_user_tag()] * 201),
        a_profile(views=[a_user_tag(time="2022-03-01T00:00:01Z"), a_user_tag(time="2022-03-01T00:00:02Z")]),
        a_profile(views=[a_user_tag(price="1")]),
    ],
)
def test_wrong_profile_is_told_from_a_right_one(body: bytes) -> None:
    """Rules 1, 3 and 4 of the specification, as far as one answer alone can break them."""
    assert is_profile(a_profile(), "c")
    assert not is_profile(body, "c")


def test_profile_query_asks_for_the_tag_it_remembers() -> None:
    """Its range holds the tag, and the cookie is escaped once (A7 point 25)."""
    at_ms = parse_instant("2022-03-01T00:00:59.999Z")
    target = draw_profile("a/b%", at_ms, random.Random(1)).target()
    path, _, query = target.partition("?")
    start, _, end = query.split("&")[0].removeprefix("time_range=").partition("_")
    assert path == "/user_profiles/a%2Fb%25"
    assert len(start) == len(end) == len("2022-03-01T00:00:59.999")
    assert parse_instant(start + "Z") <= at_ms < parse_instant(end + "Z")


def test_aggregates_answer_is_right_only_with_its_columns_rows_and_texts() -> None:
    """Rules 5 and 6: a row a minute, columns in order, whole numbers as texts."""
    for seed in range(50):
        query = draw_aggregates(MINUTE - 20, MINUTE, random.Random(seed))
        fixed = [
            [f"2022-02-28T23:{60 - MINUTE + minute:02d}:00", *query.filters.values()] for minute in range(query.first, MINUTE)
        ]
        numbers = ["7"] * len(query.aggregates)
        rows = [row + numbers for row in fixed]
        right = {"columns": query.columns(), "rows": rows}
        assert query.read(record_bytes(right)) == [[7] * len(numbers)] * len(rows)
        assert query.read(record_bytes(right | {"rows": rows[1:]})) is None
        assert query.read(record_bytes(right | {"rows": rows[::-1]})) is None or len(rows) == 1
        assert query.read(record_bytes(right | {"columns": query.columns()[:-1]})) is None
        assert query.read(record_bytes(right | {"rows": [[*row, *[7] * len(numbers)] for row in fixed]})) is None
        assert query.read(record_bytes(right | {"rows": [[*row, *["0.5"] * len(numbers)] for row in fixed]})) is None
        assert "_2022-03-01T00:00:00&action=" in query.target()
        assert len(rows) <= 10
