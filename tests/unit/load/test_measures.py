"""What the generator of load says about its requests."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.client import NO_CONNECTION, TIMED_OUT
from load.histogram import Histogram
from load.measures import Measures
from load.queries import AggregatesQuery, is_profile, profile_target
from load.report import as_json, live_line, table
from streams.event_time import parse_instant
from tests.support.builders import a_user_tag, record_bytes

LATENCIES = st.lists(st.integers(0, 3_600_000_000), min_size=1, max_size=200)


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_quantile_is_right_within_a_bucket(latencies_us: list[int], fraction: float) -> None:
    """Percentiles are the product of the generator: wrong ones would pass a slow gateway."""
    histogram = Histogram()
    for latency_us in latencies_us:
        histogram.add(latency_us / 1_000_000)
    rank = next(number for number in range(1, len(latencies_us) + 1) if number >= fraction * len(latencies_us))
    exact_s = sorted(latencies_us)[rank - 1] / 1_000_000
    assert histogram.quantile_s(fraction) == pytest.approx(exact_s, rel=0.003, abs=2e-6)


@given(LATENCIES, LATENCIES)
def test_merged_histograms_equal_one_of_all(left_us: list[int], right_us: list[int]) -> None:
    """A run is the sum of its seconds."""
    left, right, whole = Histogram(), Histogram(), Histogram()
    for part, latencies_us in ((left, left_us), (right, right_us)):
        for latency_us in latencies_us:
            part.add(latency_us / 1_000_000)
            whole.add(latency_us / 1_000_000)
    left.merge(right)
    assert (left.count, left.max_s) == (whole.count, whole.max_s)
    assert [left.quantile_s(share / 10) for share in range(11)] == [whole.quantile_s(share / 10) for share in range(11)]


@pytest.mark.parametrize(
    ("status", "latency_s", "right", "cause"),
    [
        (204, 0.1, True, None),
        (204, 0.3, True, "timeout"),
        (TIMED_OUT, 0.2, False, "timeout"),
        (NO_CONNECTION, 0.1, False, "no connection"),
        (503, 0.1, False, "status 503"),
        (200, 0.1, False, "wrong shape"),
    ],
)
def test_what_is_not_right_and_in_time_is_an_error(status: int, latency_s: float, right: bool, cause: str | None) -> None:
    """A11: timeouts count, and a right answer that comes too late is none."""
    measures = Measures()
    measures.add("tags", status, latency_s=latency_s, right=right, timeout_s=0.2)
    measures.take_recent()
    assert measures.error_count == (cause is not None)
    assert dict(measures.errors["tags"]) == ({} if cause is None else {cause: 1})
    assert measures.whole["tags"].count == 1


def test_report_names_rates_percentiles_and_causes() -> None:
    """What `make load` promises: rates, latency percentiles and errors."""
    measures = Measures()
    for status in (204, 204, 503):
        measures.add("tags", status, latency_s=0.004, right=status == 204, timeout_s=0.2)
    line = live_line(1.0, measures.take_recent(), interval_s=1.0, errors=measures.error_count, waiting=2)
    assert "tags 3/s 4.0/4.0/4.0 ms" in line
    assert "profiles 0/s - ms" in line
    assert line.endswith("errors 1  waiting 2")
    assert "1 status 503" in table(measures, 1.0)
    assert as_json(measures, 1.0)["tags"]["errors"] == {"status 503": 1}


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
    target = profile_target("a/b%", at_ms, random.Random(1))
    path, _, query = target.partition("?")
    start, _, end = query.split("&")[0].removeprefix("time_range=").partition("_")
    assert path == "/user_profiles/a%2Fb%25"
    assert len(start) == len(end) == len("2022-03-01T00:00:59.999")
    assert parse_instant(start + "Z") <= at_ms < parse_instant(end + "Z")


def test_aggregates_answer_is_right_only_with_its_columns_rows_and_texts() -> None:
    """Rules 5 and 6: a row a minute, columns in order, whole numbers as texts."""
    for seed in range(50):
        query = AggregatesQuery(27_434_880, random.Random(seed))
        rows = [[bucket, query._action, *query._filters] for bucket in query._buckets]
        numbers = ["0"] * (len(query._columns) - len(rows[0]))
        right_rows = [row + numbers for row in rows]
        right = {"columns": query._columns, "rows": right_rows}
        assert query.is_answer(record_bytes(right))
        assert not query.is_answer(record_bytes(right | {"rows": right_rows[1:]}))
        assert not query.is_answer(record_bytes(right | {"columns": query._columns[:-1]}))
        assert not query.is_answer(record_bytes(right | {"rows": [[*row, *[0] * len(numbers)] for row in rows]}))
        assert not query.is_answer(record_bytes(right | {"rows": [[*row, *["0.5"] * len(numbers)] for row in rows]}))
        assert f"_{'2022-03-01T00:00:00'}" in query.target()
