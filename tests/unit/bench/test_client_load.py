"""The load of the client's case times every call, and its figures say what the topic says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from tally_client import AnalyticsClient, Options

from bench.cases.client import ALL, figures
from bench.client_load import captured, percentiles_us
from bench.progress import BenchError

SAID = {
    "p50_us": 8.0, "p95_us": 15.0, "p99_us": 44.0, "p99.9_us": 900.0, "slow": 853, "preempted": 7, "captured_s": 2.0,
    "done_s": 20.0, "cpu_s": 2.1, "stats": {"accepted": ALL, "delivered": ALL, "failed": {}, "waiting": 0},
}  # fmt: skip


def test_percentiles_are_calls_that_were_made() -> None:
    """Nothing between two calls: a bound of 50 µs is about calls."""
    assert percentiles_us([1_000, 2_000, 3_000, 90_000]) == {"p50_us": 2.0, "p95_us": 3.0, "p99_us": 3.0, "p99.9_us": 3.0}
    assert percentiles_us(list(range(0, 1_001_000, 1_000)))["p99_us"] == 990.0


@pytest.fixture
def client() -> Iterator[AnalyticsClient]:
    """A client that nobody listens to."""
    client = AnalyticsClient("http://127.0.0.1:9", options=Options(queue_events_max=30))
    yield client
    client.close(0.01)


def test_each_call_of_each_thread_is_timed(client: AnalyticsClient) -> None:
    """Slow ones too: those are the point."""
    took_ns = captured(client, 3, 10)
    assert len(took_ns) == client.stats().accepted == 30
    assert took_ns == sorted(took_ns) and took_ns[0] > 0


def test_what_is_not_in_the_topic_is_lost_and_what_is_there_twice_is_not() -> None:
    """The worker counts an id once; one that is missing nobody counts."""
    ids = Counter(str(number) for number in range(ALL - 2))
    ids["0"] += 1
    found = {figure.name: (figure.value, figure.goal) for figure in figures(SAID, ids)}
    assert found["lost"] == (2, 0)
    assert found["twice in the topic"] == (1, None)
    assert found["capture, p99"] == (44.0, 50.0)


def test_a_client_that_gave_something_up_has_measured_nothing() -> None:
    """It would be quicker for it."""
    with pytest.raises(BenchError, match="queue_full"):
        list(figures({**SAID, "stats": {"accepted": ALL, "delivered": ALL - 1, "failed": {"queue_full": 1}}}, Counter()))
