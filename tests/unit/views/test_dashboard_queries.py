"""What the page asks for is read strictly, and a range decides where the answer comes from and in what steps."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from streams.topics import EVENTS, USER_TAGS
from views.dashboard_queries import (
    HOURS_RANGE_S_MAX,
    MINUTES_RANGE_S_MAX,
    CellsQuery,
    Choice,
    Form,
    Source,
    choose,
    format_second,
    parse_letters,
    parse_series,
    parse_top,
    parse_user,
    parse_where,
)
from views.queries import BadQueryError, EventAt, EventOf

NOW_S = 1_772_366_437
"""2026-03-01T12:00:37Z."""
HORIZON_S = 86_400


def series(**fields: object) -> CellsQuery:
    return parse_series(USER_TAGS, urlencode({name.rstrip("_"): value for name, value in fields.items()}), now_s=NOW_S)


def choice(start_s: int, end_s: int, **fields: object) -> Choice:
    query = series(from_=format_second(start_s), to=format_second(end_s), **fields)
    return choose(query, now_s=NOW_S, horizon_s=HORIZON_S)


def test_question_without_parameters_is_for_all_of_the_last_hour() -> None:
    """The page's first look."""
    query = series()
    assert (query.start_s, query.end_s) == (NOW_S - 3_600, NOW_S)
    assert (query.filters, query.by, query.forced, query.form) == ({}, None, None, Form.JSON)


def test_filters_stand_in_the_order_of_the_declaration() -> None:
    """An empty text is a value; a value may hold anything but NUL."""
    query = series(category_id="", action="BUY", origin="a&b=c ' \" % ü")
    assert list(query.filters.items()) == [("action", "BUY"), ("origin", "a&b=c ' \" % ü"), ("category_id", "")]
    assert query.needed == {"action", "origin", "category_id"}


@pytest.mark.parametrize(
    "text",
    [
        "origin=a&origin=b", "origin=%00", "origin=%ff", f"origin={'x' * 513}", "by=price", "by=cookie", "action=",
        "action=LOOK", "from=2026-03-01", "from=2026-03-01T00:00:00", "from=2026-02-30T00:00:00Z",
        "to=2026-03-01T00:00:00Z&from=2026-03-01T00:00:00Z",
        "from=1999-01-01T00:00:00Z", "source=kafka", "format=xml", "cookie=a", "from=&to=",
    ],
)  # fmt: skip
def test_what_is_no_question_is_refused(text: str) -> None:
    """Never a guess: a page with a typing error in its link must not show other numbers."""
    with pytest.raises(BadQueryError):
        parse_series(USER_TAGS, text, now_s=NOW_S)


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (NOW_S - 600, NOW_S, (Source.TABLES, 60)),
        (NOW_S - MINUTES_RANGE_S_MAX, NOW_S, (Source.TABLES, 60)),
        (NOW_S - MINUTES_RANGE_S_MAX - 1, NOW_S, (Source.POSTGRES, 3_600)),
        (NOW_S - HORIZON_S, NOW_S - HORIZON_S + 60, (Source.TABLES, 60)),
        (NOW_S - HORIZON_S - 1, NOW_S - HORIZON_S + 60, (Source.POSTGRES, 60)),
        (NOW_S - HOURS_RANGE_S_MAX, NOW_S, (Source.POSTGRES, 3_600)),
        (NOW_S - HOURS_RANGE_S_MAX - 1, NOW_S, (Source.POSTGRES, 86_400)),
    ],
)
def test_range_decides_source_and_step(start_s: int, end_s: int, expected: tuple[Source, int]) -> None:
    """Tables hold a horizon of arrivals, so they answer for event times within it."""
    found = choice(start_s, end_s)
    assert (found.source, found.step_s) == expected
    assert found.start_s % found.step_s == found.end_s % found.step_s == 0
    assert found.start_s <= start_s < found.start_s + found.step_s
    assert found.end_s - found.step_s < end_s <= found.end_s


def test_source_that_was_asked_for_answers_or_refuses() -> None:
    """Never another one in its place."""
    found = choice(NOW_S - 600, NOW_S, source="postgres")
    assert (found.source, found.step_s) == (Source.POSTGRES, 60)
    with pytest.raises(BadQueryError, match="ask postgres"):
        choice(NOW_S - HORIZON_S - 60, NOW_S - HORIZON_S + 60, source="tables")


def test_top_needs_a_dimension_and_shows_at_least_one_value() -> None:
    """Of at most a thousand."""
    assert parse_top(USER_TAGS, "dimension=origin", now_s=NOW_S).rows == 20
    assert parse_top(USER_TAGS, "dimension=origin&n=0", now_s=NOW_S).rows == 1
    for text in (
        "",
        "dimension=",
        "dimension=price",
        "dimension=origin&n=1001",
        "dimension=origin&n=x",
        "dimension=origin&by=action",
    ):
        with pytest.raises(BadQueryError):
            parse_top(USER_TAGS, text, now_s=NOW_S)


def test_event_is_sought_in_the_stream_that_is_named() -> None:
    """A dead letter's row names it; each stream has its own name for a user."""
    at = "2022-03-01T00:00:07.25Z"
    assert parse_where("partition=1&offset=2", partitions=4) == (USER_TAGS, EventAt(1, 2), "")
    assert parse_where("topic=events.v1&partition=1&offset=2", partitions=4) == (EVENTS, EventAt(1, 2), "")
    stream, event, time = parse_where(f"topic=events.v1&user=ann&time={at}", partitions=4)
    assert (stream, event, time) == (EVENTS, EventOf("ann", 1_646_092_807_250), at)
    for text in ("topic=events.v1&cookie=a&time=" + at, "topic=x&partition=0&offset=0", "topic=events.v1", "topic=a&topic=b"):
        with pytest.raises(BadQueryError):
            parse_where(text, partitions=4)


def test_users_and_letters_have_limits_too() -> None:
    """A user is any text but NUL; a reason is a short code."""
    assert parse_user(USER_TAGS, urlencode({"cookie": "a/ü%", "limit": 3, "format": "csv"})).user == "a/ü%"
    query = parse_letters("reason=schema&of=samples", now_s=NOW_S)
    assert (query.reason, query.samples, query.end_s - query.start_s) == ("schema", True, 86_400)
    bad: list[Any] = [
        (parse_user, USER_TAGS, "cookie=%00"),
        (parse_user, USER_TAGS, "limit=1"),
        (parse_user, USER_TAGS, "cookie=a&limit=201"),
    ]
    for parse, stream, text in bad:
        with pytest.raises(BadQueryError):
            parse(stream, text)
    for text in (f"reason={'x' * 101}", "reason=%00", "of=everything", "origin=a"):
        with pytest.raises(BadQueryError):
            parse_letters(text, now_s=NOW_S)
