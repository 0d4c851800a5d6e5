"""What the generator of load says about its requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.client import NO_CONNECTION, TIMED_OUT
from load.histogram import Histogram
from load.measures import Measures
from load.report import as_json, live_line, table
from load.score import score_of

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
        (204, 0.3, True, "late"),
        (TIMED_OUT, 0.2, False, "late"),
        (NO_CONNECTION, 0.1, False, "no connection"),
        (503, 0.1, False, "status 503"),
        (200, 0.1, False, "wrong"),
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
    assert measures.dropped("tags") == (cause in ("no connection", "status 503"))


def measured(*answers: tuple[str, int, bool, float], times: int = 1) -> Measures:
    """Return measures of requests (kind, status, right, latency in seconds), each so many times."""
    measures = Measures()
    for _ in range(times):
        for kind, status, right, latency_s in answers:
            measures.add(kind, status, latency_s=latency_s, right=right, timeout_s=60.0 if kind == "aggregates" else 0.2)
    measures.take_recent()
    return measures


RIGHT_TAG, RIGHT_PROFILE, RIGHT_AGGREGATES = (
    ("tags", 204, True, 0.1),
    ("profiles", 200, True, 0.1),
    ("aggregates", 200, True, 9),
)


def test_score_of_a_run_without_an_error_is_20000() -> None:
    """The task's maximum: everything sent, everything answered right and in time."""
    score = score_of(measured(RIGHT_TAG, RIGHT_PROFILE, RIGHT_AGGREGATES, times=10), tags_planned=10)
    assert score is not None
    assert (score.points, score.line()[:25]) == (20_000, "score 20,000.00 of 20,000")


@pytest.mark.parametrize(
    ("planted", "points"),
    [
        (("tags", 503, False, 0.1), 18_000),
        (("tags", NO_CONNECTION, False, 0.1), 18_000),
        (("tags", 204, True, 0.21), 18_000),
        (("profiles", 200, False, 0.1), 19_000),
        (("profiles", TIMED_OUT, False, 0.2), 19_000),
        (("profiles", 503, False, 0.1), 19_000),
        (("aggregates", 200, False, 0.1), 19_000),
        (("aggregates", 200, True, 60.1), 19_000),
    ],
)
def test_each_wrong_late_or_dropped_answer_lowers_the_score(planted: tuple[str, int, bool, float], points: float) -> None:
    """One of ten: a tag costs a tenth of everything, a query a tenth of its half."""
    ways = {"tags": RIGHT_TAG, "profiles": RIGHT_PROFILE, "aggregates": RIGHT_AGGREGATES}
    measures = measured(*ways.values(), times=9)
    for kind, way in ways.items():
        _, status, right, latency_s = planted if kind == planted[0] else way
        measures.add(kind, status, latency_s=latency_s, right=right, timeout_s=60.0 if kind == "aggregates" else 0.2)
    measures.take_recent()
    score = score_of(measures, tags_planned=10)
    assert score is not None
    assert score.points == pytest.approx(points)


def test_run_that_was_ended_early_has_not_made_its_progress() -> None:
    """Half of the day, all right, is half of the score."""
    score = score_of(measured(RIGHT_TAG, RIGHT_PROFILE, RIGHT_AGGREGATES, times=5), tags_planned=10)
    assert score is not None
    assert score.points == 10_000


def test_run_that_never_asked_has_no_score() -> None:
    """The first profile is due after ten seconds; nothing asked is not everything right."""
    assert score_of(measured(RIGHT_TAG), tags_planned=1) is None


def test_report_names_rates_percentiles_and_causes() -> None:
    """What `make load` promises: rates, latency percentiles, and what was wrong, late and dropped."""
    measures = Measures()
    for status in (204, 204, 503):
        measures.add("tags", status, latency_s=0.004, right=status == 204, timeout_s=0.2)
    line = live_line(1.0, measures.take_recent(), interval_s=1.0, errors=measures.error_count, waiting=2)
    assert "tags 3/s 4.0/4.0/4.0 ms" in line
    assert "profiles 0/s - ms" in line
    assert line.endswith("errors 1  waiting 2")
    measures.show("/aggregates?x", b"{}")
    header, tags, *_, example = table(measures, 1.0).splitlines()
    assert header.split()[-3:] == ["wrong", "late", "dropped"]
    assert tags.split()[-6:] == ["0", "0", "1", "1", "status", "503"]
    assert example == "wrong: /aggregates?x: {}"
    told = as_json(measures, 1.0)["tags"]
    assert (told["wrong"], told["late"], told["dropped"], told["errors"]) == (0, 0, 1, {"status 503": 1})
