"""A query is read by the contract of the Allezon specification, and refused in one sentence where it breaks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.event_time import MINUTE_MS, parse_instant
from streams.topics import USER_TAGS
from tests.support.strategies import LAST_SECOND, randoms, texts
from views.queries import (
    FIELDS_MAX,
    MINUTES_MAX,
    AggregatesQuery,
    BadQueryError,
    ProfileQuery,
    parse_aggregates,
    parse_profile,
)

RANGE = "2022-03-01T00:00:00_2022-03-01T00:05:00"
START = parse_instant("2022-03-01T00:00:00Z") // MINUTE_MS
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
seconds = st.integers(0, LAST_SECOND).map(lambda second: EPOCH + timedelta(seconds=second))
fractions = st.one_of(st.none(), st.text("0123456789", min_size=1, max_size=3))


def aggregates(query: str) -> AggregatesQuery:
    return parse_aggregates(USER_TAGS, query)


def profile(query: str) -> ProfileQuery:
    return parse_profile(USER_TAGS, "ann", query)


def instant_of(at: datetime, fraction: str | None) -> tuple[str, int]:
    """Return the text of an end of a range, and its milliseconds, computed by plain arithmetic."""
    text = f"{at:%Y-%m-%dT%H:%M:%S}" + ("" if fraction is None else f".{fraction}")
    return text, (at - EPOCH) // timedelta(milliseconds=1) + int((fraction or "").ljust(3, "0"))


@given(seconds, fractions, seconds, fractions)
def test_range_is_read_as_integer_milliseconds(
    from_at: datetime, from_fraction: str | None, to_at: datetime, to_fraction: str | None
) -> None:
    """Rule 2: one to three digits of fraction or none, UTC, never compared as text; a reversed range is refused."""
    (start, start_ms), (end, end_ms) = instant_of(from_at, from_fraction), instant_of(to_at, to_fraction)
    query = urlencode({"time_range": f"{start}_{end}"})
    if start_ms > end_ms:
        with pytest.raises(BadQueryError, match="ends before it starts"):
            profile(query)
    else:
        assert profile(query) == ProfileQuery("ann", start_ms, end_ms, 200)


def test_later_instant_that_sorts_first_as_text_is_later() -> None:
    """Rule 2's trap: "…:01Z" sorts behind "…:01.5Z" as text."""
    found = profile("time_range=2022-03-01T00:00:01_2022-03-01T00:00:01.5")
    assert found.end_ms - found.start_ms == 500


@pytest.mark.parametrize(
    "time_range",
    [
        "",
        "2022-03-01T00:00:00",
        "2022-03-01T00:00:00_",
        "_",
        "2022-03-01T00:00:00_2022-03-01T00:01:00_2022-03-01T00:02:00",
        "2022-03-01T00:00:00__2022-03-01T00:01:00",
        "2022-03-01T00:00:00Z_2022-03-01T00:01:00Z",
        "2022-03-01T00:00:00-2022-03-01T00:01:00",
        "2022-02-30T00:00:00_2022-03-01T00:01:00",
        "2022-03-01T24:00:00_2022-03-02T00:01:00",
        "2022-03-01T00:00:60_2022-03-01T00:02:00",
        "2022-03-01T00:00_2022-03-01T00:01",
        "2022-03-01 00:00:00_2022-03-01 00:01:00",
        "2022-03-01T00:00:00._2022-03-01T00:01:00",
        "2022-03-01T00:00:00.0000_2022-03-01T00:01:00",
        "2022-3-1T00:00:00_2022-03-01T00:01:00",
        "٢٠٢٢-03-01T00:00:00_2022-03-01T00:01:00",
        "0000-01-01T00:00:00_2022-03-01T00:01:00",
        "10000-01-01T00:00:00_10000-01-01T00:01:00",
        " 2022-03-01T00:00:00_2022-03-01T00:01:00",
        "now_later",
    ],
)
def test_malformed_range_is_refused_by_both_queries(time_range: str) -> None:
    """A7 point 16: a reason for whoever asked, instead of a guess."""
    for parse in (profile, aggregates):
        with pytest.raises(BadQueryError, match="time_range"):
            parse(urlencode({"time_range": time_range, "action": "VIEW", "aggregates": "COUNT"}))


@pytest.mark.parametrize(
    ("limit", "shown"),
    [("0", 0), ("1", 1), ("199", 199), ("200", 200), ("201", 200), ("007", 7), ("9" * 18, 200), ("1" + "0" * 30, 200)],
)
def test_limit_is_a_whole_number_and_above_200_acts_as_200(limit: str, shown: int) -> None:
    """Rule 4 and A7 point 4, for numbers of any length."""
    assert profile(f"time_range={RANGE}&limit={limit}").limit == shown


@pytest.mark.parametrize(
    "limit", ["", "-1", "-0", "1.0", "1e2", "ten", "0x10", " 5", "5 ", "+5", "²", "٥", "1_0", "None", "5,6"]
)
def test_limit_that_is_no_whole_number_is_refused(limit: str) -> None:
    """Rule 4: negative or not an integer is a 400."""
    with pytest.raises(BadQueryError, match="limit"):
        profile(f"time_range={RANGE}&limit={quote(limit)}")


def test_missing_limit_is_200_and_a_second_question_mark_joins_like_an_ampersand() -> None:
    """A7 point 5: `?time_range=…?limit=` stands in the task's own text."""
    assert profile(f"time_range={RANGE}").limit == 200
    assert profile(f"time_range={RANGE}?limit=3").limit == 3


@pytest.mark.parametrize(
    "query", ["", "limit=5", f"time_range={RANGE}&time_range={RANGE}", f"time_range={RANGE}&limit=1&limit=2"]
)
def test_missing_and_repeated_fields_are_refused(query: str) -> None:
    """A7 point 16: which of two would be meant is anybody's guess."""
    with pytest.raises(BadQueryError, match="is needed once"):
        profile(query)


@pytest.mark.parametrize(
    ("spelled", "names"),
    [
        ("aggregates=COUNT", ["count"]),
        ("aggregates=count&aggregates=Sum_Price", ["count", "sum_price"]),
        ("aggregates=SUM_PRICE&aggregates=COUNT", ["sum_price", "count"]),
        ("aggregates[]=SUM_PRICE&aggregates[]=COUNT", ["sum_price", "count"]),
        ("aggregates%5B%5D=COUNT", ["count"]),
        ("aggregates=SUM_PRICE,COUNT", ["sum_price", "count"]),
        ("aggregates=SUM_PRICE%2CCOUNT", ["sum_price", "count"]),
        ("aggregates=COUNT&aggregates=COUNT", ["count", "count"]),
        ("aggregates=COUNT,SUM_PRICE&aggregates[]=COUNT", ["count", "sum_price", "count"]),
        ("aggregates[]=SUM_PRICE&aggregates=COUNT", ["sum_price", "count"]),
    ],
)
def test_aggregates_are_read_in_all_spellings_in_query_order(spelled: str, names: list[str]) -> None:
    """A7 points 6, 7: any case, `aggregates[]`, a comma list; a repeated one repeats its column."""
    assert aggregates(f"time_range={RANGE}&action=VIEW&{spelled}").aggregates == tuple(names)


@pytest.mark.parametrize(
    "spelled", ["", "aggregates=", "aggregates=,", "aggregates=AVG", "aggregates=COUNT,MAX", "aggregate=COUNT"]
)
def test_missing_or_unknown_aggregates_are_refused(spelled: str) -> None:
    """A7 point 15, rule 7."""
    with pytest.raises(BadQueryError, match="aggregates"):
        aggregates(f"time_range={RANGE}&action=VIEW&{spelled}")


@pytest.mark.parametrize("action", ["view", "Buy", "", "CLICK", "VIEW ", "VIEW,BUY", "None"])
def test_action_is_case_sensitive(action: str) -> None:
    """Rule 7, A7 point 16."""
    with pytest.raises(BadQueryError, match="action"):
        aggregates(f"time_range={RANGE}&action={quote(action)}&aggregates=COUNT")


def test_missing_and_repeated_action_or_filter_is_refused() -> None:
    """A7 point 16: two values of one filter have no meaning in the contract."""
    for query in ("", "action=VIEW&action=BUY", "action=VIEW&origin=a&origin=b"):
        with pytest.raises(BadQueryError, match="is needed once"):
            aggregates(f"time_range={RANGE}&aggregates=COUNT&{query}")


@pytest.mark.parametrize("end", ["00:00:30", "00:01:00.001", "00:00:59.999"])
def test_end_within_a_minute_is_refused(end: str) -> None:
    """A7 point 9: misaligned."""
    for time_range in (f"2022-03-01T00:00:00_2022-03-01T{end}", f"2022-03-01T{end}_2022-03-01T00:05:00"):
        with pytest.raises(BadQueryError, match="full minutes"):
            aggregates(f"time_range={time_range}&action=VIEW&aggregates=COUNT")


@given(st.integers(0, 30), st.integers(0, 30))
def test_aggregates_take_up_to_ten_minutes(start: int, end: int) -> None:
    """A7 point 9: over 10 minutes and reversed are 400; from equal to to is an empty range."""
    query = f"time_range=2022-03-01T00:{start:02d}:00_2022-03-01T00:{end:02d}:00.000&action=BUY&aggregates=COUNT"
    if 0 <= end - start <= MINUTES_MAX:
        found = aggregates(query)
        assert (found.start, found.end) == (START + start, START + end)
    else:
        with pytest.raises(BadQueryError, match="time_range"):
            aggregates(query)


@given(st.dictionaries(st.sampled_from(("origin", "brand_id", "category_id")), texts), randoms)
def test_filters_are_decoded_once_and_put_in_the_contracts_order(filters: dict[str, str], random: Random) -> None:
    """Rules 6, 7 and A7 points 10, 11, 25: any text is a value, the empty one too, whatever the query's order."""
    fields = [("time_range", RANGE), ("action", "BUY"), ("aggregates", "COUNT"), *filters.items()]
    random.shuffle(fields)
    ordered = {name: filters[name] for name in ("origin", "brand_id", "category_id") if name in filters}
    found = aggregates(urlencode(fields))
    assert list(found.filters.items()) == [("action", "BUY"), *ordered.items()]


def test_value_is_percent_decoded_once() -> None:
    """A7 point 25: `%2541` is the text `%41`; a plus is a blank, as forms write it."""
    found = aggregates(f"time_range={RANGE}&action=VIEW&aggregates=COUNT&origin=%2541+b%2Bc%26%3D&brand_id=100%")
    assert found.filters == {"action": "VIEW", "origin": "%41 b+c&=", "brand_id": "100%"}


def test_unknown_fields_are_left_alone() -> None:
    """The task's load generator may send more than we know."""
    assert profile(f"time_range={RANGE}&trace=1&origin=x") == profile(f"time_range={RANGE}")
    assert aggregates(f"time_range={RANGE}&action=VIEW&aggregates=COUNT&limit=x").filters == {"action": "VIEW"}


def test_query_that_is_no_utf8_or_endless_is_refused() -> None:
    """Never 500: neither bytes that are no text nor a flood of parameters reaches a table."""
    for query in (f"time_range={RANGE}&limit=%ff", "&".join(["limit=1"] * (FIELDS_MAX + 1))):
        with pytest.raises(BadQueryError, match="UTF-8"):
            profile(query)


@given(st.text(max_size=200), st.booleans())
def test_any_text_is_a_query_or_refused(text: str, encoded: bool) -> None:
    """Whatever is asked, the only error is the one that becomes a 400."""
    query = quote(text, safe="&=?,_:.+%", errors="surrogatepass") if encoded else text
    for parse in (profile, aggregates):
        try:
            parse(query)
        except BadQueryError as error:
            assert str(error)


def test_range_before_1970_is_empty_and_no_failure() -> None:
    """No event is that old, and an integer below zero has no key in the store."""
    found = aggregates("time_range=1969-12-31T23:58:00_1970-01-01T00:01:00&action=VIEW&aggregates=COUNT")
    assert (found.start, found.end) == (-2, 1)
